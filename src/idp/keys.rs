//! The provider's published keys, fetched when they are needed.
//!
//! They are kept for 10 minutes. A token that none of them has signed has them
//! fetched anew once, for the provider may have exchanged its keys, under new names
//! or the old ones; all who wait share one fetch. When a fetch fails the old ones
//! serve on, for a day at most.
//!
//! Who asks is not known yet to hold a token of the provider, so what may be
//! fetched for it is bounded three times: each key set by itself; each caller, and
//! all callers of a provider together, for fetches after which no token was
//! verified. A set that has verified a token has a place that no set can take
//! that never did ([`Places`]); there the failure of a made-up tenant is remembered
//! for a while.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::Algorithm;

use super::bounds::{Allowance, Rate};
use super::jwks::{self, PublishedKey};
use super::places::Places;
use super::send::Http;
use crate::clock::{Instant, SharedClock};
use crate::domain::id::CallerId;
use crate::domain::reason::Reason;

const FRESH_FOR: Duration = Duration::from_secs(600);
const USABLE_FOR: Duration = Duration::from_secs(86_400);
/// How often one set is fetched for tokens that its keys have not signed.
const ANEW: Rate = Rate { burst: 3, every: Duration::from_secs(10) };
/// Least time between two fetches of a set of which there is no key: short after
/// a fault of the network, longer where the provider has answered with none.
const AFTER_UNREACHABLE: Duration = Duration::from_secs(1);
const AFTER_UNUSABLE: Duration = Duration::from_secs(10);
/// Fetches after which no token was verified, for each caller.
const IN_VAIN_PER_CALLER: Rate = Rate { burst: 40, every: Duration::from_secs(5) };
/// The same for all callers together.
const IN_VAIN: Rate = Rate { burst: 200, every: Duration::from_millis(500) };
/// Most callers whose share is remembered; one that is full needs no memory.
const MOST_CALLERS: usize = 10_000;

/// The keys of one provider, by the address they are published at.
pub(super) struct PublishedKeys {
    clock: SharedClock,
    /// The provider's name in the configuration.
    provider: String,
    places: Mutex<Places<Arc<KeySet>>>,
    in_vain: Mutex<InVain>,
}

#[derive(Default)]
struct InVain {
    all: Allowance,
    per_caller: HashMap<CallerId, Allowance>,
}

/// Why there are no published keys to check a token with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeysFault {
    /// They cannot be fetched.
    Unreachable(String),
    /// What is published is of no use.
    Unusable(String),
    /// The vault itself lacks a resource to fetch them with.
    Overloaded(String),
    /// The caller has had too many key sets fetched after which none of its tokens
    /// was verified.
    CallerLimit(String),
    /// All callers together have.
    BackOff(String),
}

impl KeysFault {
    /// The reason to give a caller.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unreachable(_) => Reason::ProviderUnavailable,
            Self::Unusable(_) => Reason::ProviderKeysUnusable,
            Self::Overloaded(_) => Reason::VaultOverloaded,
            Self::CallerLimit(_) => Reason::TooManyInFlight,
            Self::BackOff(_) => Reason::ProviderBackOff,
        }
    }
}

impl fmt::Display for KeysFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unreachable(detail)
        | Self::Unusable(detail)
        | Self::Overloaded(detail)
        | Self::CallerLimit(detail)
        | Self::BackOff(detail)) = self;
        f.write_str(detail)
    }
}

/// The keys that one token is checked with.
pub(super) struct Lookup<'a> {
    keys: &'a PublishedKeys,
    http: &'a Http,
    uri: &'a str,
    /// Who handed the token in; `None` where the provider itself did.
    caller: Option<&'a CallerId>,
    set: Arc<KeySet>,
    began: Instant,
    /// Fetches that were taken from the shares of what may be in vain.
    charged: u32,
}

impl PublishedKeys {
    pub(super) fn new(provider: &str, clock: SharedClock) -> Self {
        Self { clock, provider: provider.to_owned(), places: Mutex::default(), in_vain: Mutex::default() }
    }

    /// The keys at `uri`, for one token that `caller` handed in.
    pub(super) fn lookup<'a>(
        &'a self,
        http: &'a Http,
        uri: &'a str,
        caller: Option<&'a CallerId>,
    ) -> Lookup<'a> {
        let set = self.places().get_or_insert(uri, Arc::default);
        Lookup { keys: self, http, uri, caller, set, began: self.clock.instant(), charged: 0 }
    }

    fn places(&self) -> MutexGuard<'_, Places<Arc<KeySet>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a fetch from the shares of what may be in vain.
    fn charge(&self, caller: &CallerId, now: Instant) -> Result<(), KeysFault> {
        let mut in_vain = self.in_vain.lock().unwrap_or_else(PoisonError::into_inner);
        let InVain { all, per_caller } = &mut *in_vain;
        if per_caller.len() >= MOST_CALLERS {
            per_caller.retain(|_, share| !share.is_full(now));
        }
        let share = per_caller.entry(caller.clone()).or_default();
        let refused = |wait: Duration, who: &str| {
            format!(
                "{who} had too many key sets fetched after which no token was verified; \
                 the next may be in {} s",
                wait.as_secs() + 1
            )
        };
        if !share.take(IN_VAIN_PER_CALLER, now) {
            let wait = share.wait(IN_VAIN_PER_CALLER, now);
            return Err(KeysFault::CallerLimit(refused(wait, "this caller has")));
        }
        if !all.take(IN_VAIN, now) {
            share.give_back(IN_VAIN_PER_CALLER);
            return Err(KeysFault::BackOff(refused(all.wait(IN_VAIN, now), "the provider's callers have")));
        }
        Ok(())
    }

    /// Gives the caller its own share back.
    fn forgive(&self, caller: &CallerId) {
        let mut in_vain = self.in_vain.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = in_vain.per_caller.get_mut(caller) {
            share.give_back(IN_VAIN_PER_CALLER);
        }
    }

    fn give_back(&self, caller: &CallerId, charged: u32) {
        let mut in_vain = self.in_vain.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..charged {
            in_vain.all.give_back(IN_VAIN);
            if let Some(share) = in_vain.per_caller.get_mut(caller) {
                share.give_back(IN_VAIN_PER_CALLER);
            }
        }
    }
}

impl Lookup<'_> {
    /// The keys that fit a token's header; none when the provider publishes none
    /// that does. `anew`: those that there were have not signed it.
    ///
    /// # Errors
    ///
    /// When there are no keys that may still be used and none can be fetched, or
    /// those that were published are of no use.
    pub(super) async fn find(
        &mut self,
        key_id: Option<&str>,
        algorithm: Algorithm,
        anew: bool,
    ) -> Result<Vec<PublishedKey>, KeysFault> {
        let set = Arc::clone(&self.set);
        let fitting = |fetched: Arc<Fetched>| {
            let fits = fetched.keys.iter().filter(|key| key.fits(key_id, algorithm));
            Some(fits.cloned().collect::<Vec<PublishedKey>>()).filter(|fits| !fits.is_empty())
        };
        let began = self.began;
        let good_enough = |now: Instant| {
            set.within(FRESH_FOR, now).filter(|fetched| !anew || fetched.at >= began).and_then(fitting)
        };
        if let Some(found) = good_enough(self.keys.clock.instant()) {
            return Ok(found);
        }
        let mut last = Arc::clone(&set.flight).lock_owned().await;
        let now = self.keys.clock.instant();
        if let Some(found) = good_enough(now) {
            return Ok(found);
        }
        let usable = set.within(USABLE_FOR, now);
        // Keys that were fetched for this very token are as new as can be.
        let is_newest = last.at.is_some_and(|at| at >= began);
        let mut refused = None;
        let allowance = last.anew;
        if !is_newest && last.allows(usable.is_some(), set.within(FRESH_FOR, now).is_some(), now) {
            let fetched;
            (last, fetched) = self.fetch_charged(last, now).await;
            match fetched {
                Ok(()) => {}
                // It is checked with what there is, and the next may fetch.
                Err(fault) if usable.is_some() => {
                    last.anew = allowance;
                    refused = Some(fault);
                }
                Err(fault) => return Err(fault),
            }
        }
        let usable = set.within(USABLE_FOR, now);
        match (usable.clone().and_then(fitting), &last.fault, usable) {
            // Nor that their signatures do not.
            (Some(_), Some(fault), _) if anew => Err(fault.clone()),
            (Some(found), ..) => Ok(found),
            // That the keys from before do not fit proves nothing while the
            // newest cannot be fetched.
            (None, Some(fault), _) => Err(fault.clone()),
            // Nor while nobody may look for newer ones.
            (None, None, Some(fetched)) if !fetched.keys.is_empty() => refused.map_or(Ok(Vec::new()), Err),
            (None, None, _) => {
                Err(KeysFault::Unusable("the key set holds no key that the vault can use".into()))
            }
        }
    }

    /// One of the keys has signed the token: the set is the provider's, and what was
    /// fetched was not in vain.
    pub(super) fn verified(&self) {
        let now = self.keys.clock.instant();
        self.keys.places().verified(self.uri, Arc::clone(&self.set), now);
        if let Some(caller) = self.caller.filter(|_| self.charged > 0) {
            self.keys.give_back(caller, self.charged);
        }
    }

    /// Fetches, where the caller may still have that done in vain. Keys that were
    /// good and have only grown old are the provider's own affair, and one that is
    /// out of reach is no fault of the caller; that it was asked counts for all
    /// callers together all the same.
    async fn fetch_charged(&mut self, last: Flight, now: Instant) -> (Flight, Result<(), KeysFault>) {
        let grown_old = self.set.within(FRESH_FOR, now).is_none();
        let is_routine = grown_old && self.keys.places().has_verified(self.uri);
        let charged = self.caller.filter(|_| !is_routine);
        if let Some(Err(fault)) = charged.map(|caller| self.keys.charge(caller, now)) {
            return (last, Err(fault));
        }
        let last = self.fetch(last, now).await;
        match (charged, &last.fault) {
            (Some(caller), Some(KeysFault::Unreachable(_) | KeysFault::Overloaded(_))) => {
                self.keys.forgive(caller);
            }
            (Some(_), _) => self.charged += 1,
            (None, _) => {}
        }
        (last, Ok(()))
    }

    /// Fetches in a task of its own: a caller that gives up leaves the fetch to the
    /// others who wait for it.
    async fn fetch(&self, mut last: Flight, now: Instant) -> Flight {
        let fault = KeysFault::Unreachable("the last fetch did not end".into());
        (last.at, last.fault) = (Some(now), Some(fault));
        let (http, uri, set) = (self.http.clone(), self.uri.to_owned(), Arc::clone(&self.set));
        let (clock, provider) = (Arc::clone(&self.keys.clock), self.keys.provider.clone());
        let fetching = tokio::spawn(async move {
            match jwks::fetch(&http, &uri, clock.as_ref()).await {
                Ok(keys) => {
                    last.fault = None;
                    set.put(Fetched { keys, at: now });
                }
                Err(fault) => {
                    tracing::warn!(
                        provider, jwks_uri = uri, detail = %fault,
                        keys_from_before = set.within(USABLE_FOR, now).is_some(),
                        "the provider's keys cannot be fetched"
                    );
                    last.fault = Some(fault);
                }
            }
            last
        });
        match fetching.await {
            Ok(last) => last,
            Err(_) => Arc::clone(&self.set.flight).lock_owned().await,
        }
    }
}

#[derive(Default)]
struct KeySet {
    current: RwLock<Option<Arc<Fetched>>>,
    flight: Arc<tokio::sync::Mutex<LastFetch>>,
}

/// Held by the one who fetches.
type Flight = tokio::sync::OwnedMutexGuard<LastFetch>;

#[derive(Default)]
struct LastFetch {
    at: Option<Instant>,
    /// Why it brought no keys.
    fault: Option<KeysFault>,
    anew: Allowance,
}

impl LastFetch {
    /// Whether the set may be fetched now.
    fn allows(&mut self, has_keys: bool, are_fresh: bool, now: Instant) -> bool {
        let Some(at) = self.at else { return true };
        match &self.fault {
            Some(KeysFault::Unusable(_)) if !has_keys => now.since(at) >= AFTER_UNUSABLE,
            Some(_) if !has_keys => now.since(at) >= AFTER_UNREACHABLE,
            Some(_) if !are_fresh => now.since(at) >= ANEW.every,
            None if !are_fresh => true,
            Some(_) | None => self.anew.take(ANEW, now),
        }
    }
}

struct Fetched {
    keys: Vec<PublishedKey>,
    at: Instant,
}

impl KeySet {
    fn within(&self, age: Duration, now: Instant) -> Option<Arc<Fetched>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone().filter(|fetched| now.since(fetched.at) < age)
    }

    fn put(&self, fetched: Fetched) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(fetched));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Reply, RsaKey, Server, StillClock};
    use super::*;

    struct Fixture {
        server: Server,
        clock: Arc<StillClock>,
        keys: PublishedKeys,
        http: Http,
    }

    impl Fixture {
        async fn new(reply: Reply) -> Self {
            let clock = Arc::new(StillClock::new());
            let keys = PublishedKeys::new("p", clock.clone());
            Self { server: Server::start(reply).await, clock, keys, http: Http::new(None, false).unwrap() }
        }

        async fn find(&self, key_id: Option<&str>) -> Result<usize, KeysFault> {
            let uri = format!("{}/keys", self.server.base);
            let mut lookup = self.keys.lookup(&self.http, &uri, None);
            lookup.find(key_id, Algorithm::RS256, false).await.map(|keys| keys.len())
        }

        /// A token of the tenant that the caller hands in and no key has signed.
        async fn forged(&self, caller: &str, tenant: &str) -> Result<usize, KeysFault> {
            let uri = format!("{}/{tenant}/keys", self.server.base);
            let caller = CallerId::new(caller).unwrap();
            let mut lookup = self.keys.lookup(&self.http, &uri, Some(&caller));
            lookup.find(Some("k1"), Algorithm::RS256, false).await?;
            lookup.find(Some("k1"), Algorithm::RS256, true).await.map(|keys| keys.len())
        }

        /// One that a key has signed.
        async fn good(&self, caller: &str, tenant: &str) -> Result<usize, KeysFault> {
            let uri = format!("{}/{tenant}/keys", self.server.base);
            let caller = CallerId::new(caller).unwrap();
            let mut lookup = self.keys.lookup(&self.http, &uri, Some(&caller));
            let found = lookup.find(Some("k1"), Algorithm::RS256, false).await?;
            lookup.verified();
            Ok(found.len())
        }

        fn fetches(&self) -> usize {
            self.server.requests().len()
        }
    }

    #[tokio::test]
    async fn keys_are_fetched_once_in_ten_minutes() {
        let rsa = RsaKey::generate();
        let fixture = Fixture::new(Reply::keys(&[rsa.published("k1"), rsa.published("k2")])).await;
        let asked = (0..20).map(|_| fixture.find(Some("k1")));
        for found in futures_util::future::join_all(asked).await {
            assert_eq!(found, Ok(1));
        }
        assert_eq!(fixture.find(None).await, Ok(2), "without a key id all that fit");
        assert_eq!(fixture.fetches(), 1);
        fixture.clock.advance(Duration::from_secs(601));
        assert_eq!(fixture.find(Some("k1")).await, Ok(1));
        assert_eq!(fixture.fetches(), 2);
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_leaves_the_fetch_to_the_others() {
        let rsa = RsaKey::generate();
        let fixture = Fixture::new(Reply::keys(&[rsa.published("k1")])).await;
        // Long enough to begin, and no longer.
        tokio::time::timeout(Duration::ZERO, fixture.find(Some("k1"))).await.unwrap_err();
        assert_eq!(fixture.find(Some("k1")).await, Ok(1));
        assert_eq!(fixture.fetches(), 1);
    }

    #[tokio::test]
    async fn a_token_is_not_refused_for_good_while_nobody_may_look_for_its_key() {
        let rsa = RsaKey::generate();
        let fixture = Fixture::new(Reply::keys(&[rsa.published("k1")])).await;
        assert_eq!(fixture.good("mallory", "acme").await, Ok(1));
        for n in 0..IN_VAIN_PER_CALLER.burst {
            let _ = fixture.forged("mallory", &format!("made-up-{n}")).await;
        }
        let uri = format!("{}/acme/keys", fixture.server.base);
        let caller = CallerId::new("mallory").unwrap();
        fixture.clock.advance(Duration::from_millis(1));
        let mut lookup = fixture.keys.lookup(&fixture.http, &uri, Some(&caller));
        let fault =
            lookup.find(Some("k2"), Algorithm::RS256, false).await.map(|keys| keys.len()).unwrap_err();
        assert_eq!(fault.reason(), Reason::TooManyInFlight);
        // Nor has it taken the place of another's look.
        fixture.server.reply(Reply::keys(&[rsa.published("k2")]));
        let other = CallerId::new("bob").unwrap();
        let mut lookup = fixture.keys.lookup(&fixture.http, &uri, Some(&other));
        assert_eq!(lookup.find(Some("k2"), Algorithm::RS256, false).await.map(|keys| keys.len()), Ok(1));
    }

    #[tokio::test]
    async fn an_unknown_key_is_looked_for_but_not_at_every_call() {
        let rsa = RsaKey::generate();
        let fixture = Fixture::new(Reply::keys(&[rsa.published("k1")])).await;
        assert_eq!(fixture.find(Some("k1")).await, Ok(1));
        for _ in 0..5 {
            assert_eq!(fixture.find(Some("k2")).await, Ok(0));
        }
        assert_eq!(fixture.fetches(), 1, "the keys are younger than 10 seconds");
        fixture.server.reply(Reply::keys(&[rsa.published("k2")]));
        fixture.clock.advance(Duration::from_secs(11));
        assert_eq!(fixture.find(Some("k2")).await, Ok(1), "the provider has rotated its keys");
        assert_eq!(fixture.find(Some("k1")).await, Ok(0));
        assert_eq!(fixture.fetches(), 2);
    }

    #[tokio::test]
    async fn old_keys_serve_on_for_a_day_while_new_ones_cannot_be_had() {
        let rsa = RsaKey::generate();
        let fixture = Fixture::new(Reply::keys(&[rsa.published("k1")])).await;
        assert_eq!(fixture.find(Some("k1")).await, Ok(1));
        for broken in [
            Reply::full("500 No", "", ""),
            Reply::full("200 OK", "", "<html>"),
            Reply::Close(String::new()),
            Reply::full("302 There", "location: /other\r\n", ""),
        ] {
            fixture.server.reply(broken);
            fixture.clock.advance(Duration::from_secs(3600));
            assert_eq!(fixture.find(Some("k1")).await, Ok(1));
        }
        assert_eq!(fixture.fetches(), 5);
        fixture.server.reply(Reply::full("500 No", "", ""));
        fixture.clock.advance(Duration::from_secs(21 * 3600));
        assert_eq!(fixture.find(Some("k1")).await, Err(KeysFault::Unreachable("HTTP status=500".into())));
    }

    #[tokio::test]
    async fn what_is_published_and_of_no_use_is_told_apart_from_what_cannot_be_fetched() {
        let unreachable = |fault: &KeysFault| fault.reason() == Reason::ProviderUnavailable;
        let unusable = |fault: &KeysFault| fault.reason() == Reason::ProviderKeysUnusable;
        for (reply, is_so) in [
            (Reply::full("200 OK", "", "<html>"), unusable as fn(&KeysFault) -> bool),
            (Reply::full("200 OK", "", "{}"), unusable),
            (Reply::keys(&[]), unusable),
            (Reply::keys(&[json!({ "kty": "moon" })]), unusable),
            (Reply::full("404 No", "", ""), unusable),
            (Reply::full("302 There", "location: /other\r\n", ""), unusable),
            (Reply::full("503 No", "", ""), unreachable),
            (Reply::full("429 Slow", "", ""), unreachable),
            (Reply::Close(String::new()), unreachable),
            (Reply::Close("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"keys\":[".into()), unreachable),
        ] {
            let fixture = Fixture::new(reply.clone()).await;
            let fault = fixture.find(Some("k1")).await.unwrap_err();
            assert!(is_so(&fault), "{reply:?}: {fault:?}");
        }
    }

    #[tokio::test]
    async fn that_old_keys_do_not_fit_proves_nothing_while_new_ones_cannot_be_fetched() {
        let rsa = RsaKey::generate();
        let fixture = Fixture::new(Reply::keys(&[rsa.published("k1")])).await;
        assert_eq!(fixture.find(Some("k1")).await, Ok(1));
        fixture.server.reply(Reply::full("500 No", "", ""));
        fixture.clock.advance(Duration::from_secs(11));
        assert_eq!(fixture.find(Some("k2")).await, Err(KeysFault::Unreachable("HTTP status=500".into())));
    }

    #[tokio::test]
    async fn without_any_keys_a_provider_is_not_hammered() {
        let fixture = Fixture::new(Reply::full("500 No", "", "")).await;
        for _ in 0..5 {
            assert_eq!(fixture.find(Some("k1")).await, Err(KeysFault::Unreachable("HTTP status=500".into())));
        }
        assert_eq!(fixture.fetches(), 1);
    }

    #[tokio::test]
    async fn keys_exchanged_right_after_a_fetch_are_found_and_forgeries_cost_little() {
        let rsa = RsaKey::generate();
        let fixture = Fixture::new(Reply::keys(&[rsa.published("k1")])).await;
        assert_eq!(fixture.find(Some("k1")).await, Ok(1));
        fixture.server.reply(Reply::keys(&[rsa.published("k2")]));
        fixture.clock.advance(Duration::from_secs(1));
        assert_eq!(fixture.find(Some("k2")).await, Ok(1), "a second after the fetch");
        for _ in 0..50 {
            fixture.clock.advance(Duration::from_millis(100));
            assert_eq!(fixture.find(Some("k9")).await, Ok(0));
        }
        assert_eq!(fixture.fetches(), 4, "three in a row, and not at every call");
        fixture.clock.advance(Duration::from_secs(10));
        assert_eq!(fixture.find(Some("k9")).await, Ok(0));
        assert_eq!(fixture.fetches(), 5, "one more after ten seconds");
    }

    #[tokio::test]
    async fn strangers_cannot_drive_fetches_nor_push_out_good_keys() {
        let rsa = RsaKey::generate();
        let fixture = Fixture::new(Reply::keys(&[rsa.published("k1")])).await;
        for tenant in 0..20 {
            assert_eq!(fixture.good("web", &format!("good{tenant}")).await, Ok(1));
        }
        assert_eq!(fixture.fetches(), 20);
        let mut refused = 0;
        for tenant in 0..1001 {
            fixture.clock.advance(Duration::from_millis(6));
            let outcome = fixture.forged("mallory", &format!("made-up{tenant}")).await;
            refused += usize::from(matches!(outcome, Err(KeysFault::CallerLimit(_))));
        }
        // Forty, and one in five seconds for the six that it took.
        assert_eq!((fixture.fetches(), refused), (20 + 41, 1001 - 41));
        for tenant in 0..20 {
            assert_eq!(fixture.good("web", &format!("good{tenant}")).await, Ok(1));
        }
        assert_eq!(fixture.fetches(), 20 + 41, "the keys of good tenants were forgotten");
        // Another caller, and one more tenant of the first that is real.
        assert_eq!(fixture.good("web", "new").await, Ok(1));
    }

    #[tokio::test]
    async fn a_caller_whose_tokens_are_good_has_as_many_tenants_as_there_are() {
        let rsa = RsaKey::generate();
        let fixture = Fixture::new(Reply::keys(&[rsa.published("k1")])).await;
        for tenant in 0..300 {
            assert_eq!(fixture.good("web", &format!("t{tenant}")).await, Ok(1), "{tenant}");
        }
        // Also after their keys have grown old, all at once.
        fixture.clock.advance(Duration::from_secs(601));
        for tenant in 0..300 {
            assert_eq!(fixture.good("web", &format!("t{tenant}")).await, Ok(1), "{tenant}");
        }
        assert_eq!(fixture.fetches(), 600);
    }

    #[tokio::test]
    async fn many_strangers_together_are_bounded_and_leave_good_tenants_alone() {
        let rsa = RsaKey::generate();
        let fixture = Fixture::new(Reply::keys(&[rsa.published("k1")])).await;
        assert_eq!(fixture.good("web", "good").await, Ok(1));
        for n in 0..1000 {
            let (caller, tenant) = (format!("mallory{}", n % 50), format!("made-up{n}"));
            let outcome = fixture.forged(&caller, &tenant).await;
            assert_eq!(matches!(outcome, Err(KeysFault::BackOff(_))), n >= 200, "{n}: {outcome:?}");
        }
        assert_eq!(fixture.fetches(), 1 + 200);
        fixture.clock.advance(Duration::from_secs(601));
        for n in 200..1000 {
            let _ = fixture.forged(&format!("mallory{n}"), &format!("made-up{n}")).await;
        }
        assert_eq!(fixture.good("web", "good").await, Ok(1), "its keys have grown old meanwhile");
    }

    #[tokio::test]
    async fn an_outage_of_the_provider_is_no_fault_of_its_callers() {
        let rsa = RsaKey::generate();
        let fixture = Fixture::new(Reply::full("503 No", "", "")).await;
        for tenant in 0..150 {
            let outcome = fixture.good("web", &format!("t{tenant}")).await;
            assert!(matches!(outcome, Err(KeysFault::Unreachable(_))), "{tenant}: {outcome:?}");
        }
        fixture.server.reply(Reply::keys(&[rsa.published("k1")]));
        fixture.clock.advance(Duration::from_secs(2));
        for tenant in 0..300 {
            assert_eq!(fixture.good("web", &format!("t{tenant}")).await, Ok(1), "{tenant}");
        }
    }

    #[tokio::test]
    async fn a_made_up_tenants_failure_is_remembered_for_a_while() {
        let fixture = Fixture::new(Reply::full("400 No", "", r#"{"error":"invalid_request"}"#)).await;
        for _ in 0..20 {
            let fault = fixture.forged("web", "made-up").await.unwrap_err();
            assert_eq!(
                fault,
                KeysFault::Unusable("HTTP status=400 error=invalid_request in place of a key set".into())
            );
            fixture.clock.advance(Duration::from_millis(400));
        }
        assert_eq!(fixture.fetches(), 1);
        fixture.clock.advance(Duration::from_secs(3));
        assert!(fixture.forged("web", "made-up").await.is_err());
        assert_eq!(fixture.fetches(), 2);
    }
}
