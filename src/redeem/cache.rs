//! Access tokens, in memory only (invariant 1), bounded in number and bytes.
//!
//! A token is shared only between requests for the same tenant, client,
//! subject, resource, scopes and claims. It is handed out only while its
//! tenant's [guard](super::guard) is as it was when the token was issued, so that
//! a purge takes effect on all of them at once.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use crate::clock::{Deadline, Instant, Reading, Timestamp};
use crate::domain::failure::Failure;
use crate::domain::grant::{Generation, GrantKey};
use crate::domain::id::{CallerId, TenantId};
use crate::domain::scope::{ScopeSet, Target};
use crate::secret::AccessToken;

/// Most targets remembered per grant. The oldest goes of the caller that has most,
/// so that nobody's choices push out another's.
pub const TARGETS_PER_GRANT: usize = 32;

/// Most refused targets of one caller remembered per grant. Who has as many waits
/// before asking for yet another one.
pub const REFUSED_PER_CALLER: usize = 16;

/// How long a refused target is remembered where asking for it costs the grant a
/// request of its own.
pub const REFUSED_FOR: Duration = Duration::from_secs(60);

/// An access token whose grant's generation is durable (invariant I5).
#[derive(Debug)]
pub struct IssuedToken {
    /// The token.
    pub token: AccessToken,
    /// Its type, normally "Bearer".
    pub token_type: String,
    /// When it expires: by whichever clock comes first, so that one that is set
    /// back brings no expired token back.
    pub expires: Deadline,
    /// How long it lived when it was issued.
    pub lifetime: Duration,
    /// From when on somebody who asks for it causes a refresh ahead.
    pub refresh: Deadline,
    /// Scopes the provider granted.
    pub scopes: ScopeSet,
    /// The generation it came with.
    pub generation: Generation,
    /// The tenant's epoch it was issued in.
    pub tenant_epoch: u64,
}

/// How much is remembered.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most grants with tokens.
    pub max_tokens: u64,
    /// Most bytes of tokens.
    pub max_bytes: u64,
    /// Longest lifetime of a negative answer.
    pub negative: Duration,
    /// Most negative answers.
    pub max_negative: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_tokens: 100_000,
            max_bytes: 256 * 1024 * 1024,
            negative: Duration::from_secs(5),
            max_negative: 10_000,
        }
    }
}

/// Tokens of one grant, the oldest first.
type Tokens = Arc<[Held]>;

/// A token, what it is for, and who asked first.
#[derive(Debug, Clone)]
struct Held {
    target: Target,
    caller: CallerId,
    token: Arc<IssuedToken>,
}

/// A failure that would be the same again, and how long it holds: for a span, so
/// that a clock that is set neither ends nor lengthens it.
#[derive(Debug, Clone)]
struct Negative {
    failure: Failure,
    until: Instant,
    /// When a retry makes sense; the answer may be forgotten before.
    retry_at: Option<Instant>,
}

/// A target that was refused, and who asked for it.
#[derive(Debug, Clone)]
struct Refused {
    target: Target,
    caller: CallerId,
    negative: Negative,
}

/// The memory of access tokens, of failures, and of refused targets.
#[derive(Debug)]
pub struct TokenCache {
    tokens: Cache<GrantKey, Tokens>,
    negatives: Cache<GrantKey, Arc<Negative>>,
    refused: Cache<GrantKey, Arc<[Refused]>>,
    limits: Limits,
}

impl TokenCache {
    /// An empty cache.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        // One bound serves both: an entry weighs its bytes, and at least the
        // share of one entry.
        let least = (limits.max_bytes / limits.max_tokens.max(1)).max(1);
        let tokens = Cache::builder()
            .max_capacity(limits.max_bytes)
            .weigher(move |key, tokens| weight(key, tokens, least))
            .time_to_live(Duration::from_secs(24 * 3600))
            .build();
        let negatives =
            Cache::builder().max_capacity(limits.max_negative).time_to_live(limits.negative).build();
        let refused = Cache::builder()
            .max_capacity(limits.max_negative)
            .weigher(|_, refused: &Arc<[Refused]>| u32::try_from(refused.len()).unwrap_or(u32::MAX))
            .time_to_live(REFUSED_FOR.max(limits.negative))
            .build();
        Self { tokens, negatives, refused, limits }
    }

    /// The token for a target, whatever lifetime it has left.
    #[must_use]
    pub fn find(&self, key: &GrantKey, target: &Target) -> Option<Arc<IssuedToken>> {
        let tokens = self.tokens.get(key)?;
        tokens.iter().find(|held| held.target == *target).map(|held| Arc::clone(&held.token))
    }

    /// Remembers a token. The caller holds the grant's lock.
    pub fn insert(
        &self,
        key: &GrantKey,
        target: Target,
        caller: &CallerId,
        token: Arc<IssuedToken>,
        now: Reading,
    ) {
        let known = self.tokens.get(key);
        let others = known
            .iter()
            .flat_map(|tokens| tokens.iter())
            .filter(|held| held.target != target && !held.token.expires.has_passed(now));
        let mut tokens: Vec<_> = others.cloned().collect();
        if tokens.len() >= TARGETS_PER_GRANT {
            tokens.remove(oldest_of_the_greediest(&tokens, caller));
        }
        self.accept(key, &target);
        tokens.push(Held { target, caller: caller.clone(), token });
        self.tokens.insert(key.clone(), tokens.into());
        self.negatives.invalidate(key);
    }

    /// When the last token of the grant expires, by the wall clock as it goes now.
    #[must_use]
    pub fn last_expiry(&self, key: &GrantKey, now: Reading) -> Option<Timestamp> {
        self.tokens.get(key)?.iter().map(|held| held.token.expires.by_wall_clock(now)).max()
    }

    /// The failure that holds for a target.
    #[must_use]
    pub fn negative(&self, key: &GrantKey, target: &Target, now: Instant) -> Option<Failure> {
        if let Some(failure) = self.negatives.get(key).and_then(|negative| negative.holds(now)) {
            return Some(failure);
        }
        let refused = self.refused.get(key)?;
        refused.iter().find(|refused| refused.target == *target)?.negative.holds(now)
    }

    /// When the caller may ask for yet another target, when it has had as many
    /// refused as it may.
    #[must_use]
    pub fn refused_too_many(&self, key: &GrantKey, caller: &CallerId, now: Instant) -> Option<Instant> {
        let refused = self.refused.get(key)?;
        let mine = refused.iter().filter(|r| r.caller == *caller && r.negative.until > now);
        let ends: Vec<Instant> = mine.map(|refused| refused.negative.until).collect();
        if ends.len() < REFUSED_PER_CALLER { None } else { ends.into_iter().min() }
    }

    /// Remembers a failure of the grant, at most as long as the limits say.
    pub fn remember_negative(&self, key: &GrantKey, failure: &Failure, now: Instant) {
        let span = failure.retry_delay().map_or(self.limits.negative, |d| d.min(self.limits.negative));
        if !span.is_zero() {
            self.negatives.insert(key.clone(), Arc::new(Negative::new(failure, span, now)));
        }
    }

    /// Remembers that a target was refused: nothing else of the grant is. The
    /// caller holds the grant's lock.
    pub fn remember_refused(
        &self,
        key: &GrantKey,
        target: &Target,
        caller: &CallerId,
        failure: &Failure,
        costs_a_request: bool,
        now: Instant,
    ) {
        let span = if costs_a_request { REFUSED_FOR } else { self.limits.negative };
        let known = self.refused.get(key);
        let others = known
            .iter()
            .flat_map(|refused| refused.iter())
            .filter(|refused| refused.target != *target && refused.negative.until > now);
        let mut refused: Vec<_> = others.cloned().collect();
        let negative = Negative::new(failure, span, now);
        refused.push(Refused { target: target.clone(), caller: caller.clone(), negative });
        self.refused.insert(key.clone(), refused.into());
    }

    /// Forgets that a target was refused.
    fn accept(&self, key: &GrantKey, target: &Target) {
        let Some(known) = self.refused.get(key) else { return };
        if known.iter().any(|refused| refused.target == *target) {
            let others = known.iter().filter(|refused| refused.target != *target);
            self.refused.insert(key.clone(), others.cloned().collect());
        }
    }

    /// Forgets the negative answers of a grant.
    pub fn forget_negative(&self, key: &GrantKey) {
        self.negatives.invalidate(key);
    }

    /// Forgets everything of a grant.
    pub fn forget(&self, key: &GrantKey) {
        self.tokens.invalidate(key);
        self.negatives.invalidate(key);
        self.refused.invalidate(key);
    }

    /// Forgets everything of a tenant. The guard already keeps its tokens in;
    /// this frees their memory.
    pub fn forget_tenant(&self, tenant: &TenantId) {
        let keys: Vec<_> =
            self.tokens.iter().map(|(key, _)| key).filter(|key| key.tenant == *tenant).collect();
        for key in keys {
            self.forget(&key);
        }
    }

    /// Bytes held, about.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tokens.run_pending_tasks();
        self.tokens.weighted_size()
    }
}

impl Negative {
    fn new(failure: &Failure, span: Duration, now: Instant) -> Self {
        let retry_at = failure.retry_delay().map(|delay| now.plus(delay));
        Self { failure: failure.clone(), until: now.plus(span), retry_at }
    }

    fn holds(&self, now: Instant) -> Option<Failure> {
        (now < self.until).then(|| {
            let failure = self.failure.clone();
            match self.retry_at {
                Some(at) => failure.retry_after(at.since(now)),
                None => failure,
            }
        })
    }
}

/// Which token goes when there are too many: the oldest one of the caller that
/// has most, the one who asks counted with what it is about to get.
fn oldest_of_the_greediest(tokens: &[Held], asking: &CallerId) -> usize {
    let count = |caller: &CallerId| {
        tokens.iter().filter(|held| held.caller == *caller).count() + usize::from(caller == asking)
    };
    let most = tokens.iter().map(|held| count(&held.caller)).max().unwrap_or_default();
    tokens.iter().position(|held| count(&held.caller) == most).unwrap_or_default()
}

fn weight(key: &GrantKey, tokens: &Tokens, least: u64) -> u32 {
    const OVERHEAD: usize = 200;
    let bytes: usize = tokens
        .iter()
        .map(|Held { target, caller, token }| {
            let claims = target.claims.as_ref().map_or(0, |c| c.as_str().len());
            let scopes: usize = target.scopes.iter().chain(token.scopes.iter()).map(|s| s.len() + 32).sum();
            token.token.expose().len() + claims + scopes + caller.as_str().len() + OVERHEAD
        })
        .sum();
    let names = key.tenant.as_str().len() + key.client.as_str().len() + key.subject.as_str().len();
    let entries = least.saturating_mul(u64::try_from(tokens.len()).unwrap_or(u64::MAX));
    let weight = u64::try_from(bytes + names).unwrap_or(u64::MAX).max(entries);
    u32::try_from(weight).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{ClientId, SubjectId};
    use crate::domain::reason::Reason;
    use crate::domain::scope::Claims;

    const NOW: Reading = Reading { now: Timestamp(1_000_000), instant: Instant::ZERO };

    fn key(subject: &str) -> GrantKey {
        GrantKey {
            tenant: TenantId::new("acme").unwrap(),
            client: ClientId::new("mail").unwrap(),
            subject: SubjectId::new(subject).unwrap(),
        }
    }

    fn caller(name: &str) -> CallerId {
        CallerId::new(name).unwrap()
    }

    fn token(text: &str) -> Arc<IssuedToken> {
        Arc::new(IssuedToken {
            token: AccessToken::new(text.to_owned()),
            token_type: "Bearer".into(),
            expires: NOW.deadline(Duration::from_secs(3600)),
            lifetime: Duration::from_secs(3600),
            refresh: NOW.deadline(Duration::from_secs(1800)),
            scopes: ScopeSet::default(),
            generation: Generation(1),
            tenant_epoch: 1,
        })
    }

    fn target(scope: &str) -> Target {
        Target { scopes: ScopeSet::new([scope]).unwrap(), ..Target::default() }
    }

    #[test]
    fn a_token_is_shared_only_for_the_same_scopes_resource_and_claims() {
        let cache = TokenCache::new(Limits::default());
        cache.insert(&key("u"), target("a"), &caller("c"), token("A"), NOW);
        cache.insert(&key("u"), target("b"), &caller("c"), token("B"), NOW);
        let find = |t: &Target| cache.find(&key("u"), t).map(|t| t.token.expose().to_owned());
        assert_eq!(find(&target("a")).as_deref(), Some("A"));
        assert_eq!(find(&target("b")).as_deref(), Some("B"));
        assert_eq!(find(&Target::default()), None);
        let challenged = Target { claims: Some(Claims::new("{}").unwrap()), ..target("a") };
        assert_eq!(find(&challenged), None);
        assert!(cache.find(&key("v"), &target("a")).is_none());
    }

    #[test]
    fn memory_is_bounded_in_bytes() {
        let limits = Limits { max_tokens: 1000, max_bytes: 100_000, ..Limits::default() };
        let cache = TokenCache::new(limits);
        for n in 0..500 {
            cache.insert(&key(&format!("u{n}")), target("a"), &caller("c"), token(&"x".repeat(2000)), NOW);
        }
        let (held, found) = (
            cache.bytes(),
            (0..500).filter(|n| cache.find(&key(&format!("u{n}")), &target("a")).is_some()).count(),
        );
        // Full, not empty: each token has 2,000 bytes and some more.
        assert!((50_000..=100_000).contains(&held), "{held} bytes are held");
        assert!((25..=50).contains(&found), "{found} tokens are held");
    }

    #[test]
    fn targets_of_one_grant_are_bounded() {
        let cache = TokenCache::new(Limits::default());
        for n in 0..100 {
            cache.insert(&key("u"), target(&format!("s{n}")), &caller("c"), token("x"), NOW);
        }
        assert_eq!(cache.tokens.get(&key("u")).unwrap().len(), TARGETS_PER_GRANT);
        assert!(cache.find(&key("u"), &target("s99")).is_some());
    }

    #[test]
    fn one_callers_targets_do_not_push_out_anothers() {
        let cache = TokenCache::new(Limits::default());
        for n in 0..4 {
            cache.insert(&key("u"), target(&format!("good{n}")), &caller("good"), token("x"), NOW);
        }
        for n in 0..100 {
            cache.insert(&key("u"), target(&format!("s{n}")), &caller("greedy"), token("x"), NOW);
        }
        for n in 0..4 {
            assert!(cache.find(&key("u"), &target(&format!("good{n}"))).is_some(), "good{n} is gone");
        }
        assert!(cache.find(&key("u"), &target("s99")).is_some());
        assert!(cache.find(&key("u"), &target("s1")).is_none());
    }

    #[test]
    fn refused_targets_are_bounded_per_caller() {
        let cache = TokenCache::new(Limits::default());
        let failure = Failure::new(Reason::ProviderRefused, "scope");
        for n in 0..REFUSED_PER_CALLER {
            assert_eq!(cache.refused_too_many(&key("u"), &caller("greedy"), NOW.instant), None);
            let target = target(&format!("s{n}"));
            cache.remember_refused(&key("u"), &target, &caller("greedy"), &failure, true, NOW.instant);
        }
        let end = NOW.instant.plus(REFUSED_FOR);
        assert_eq!(cache.refused_too_many(&key("u"), &caller("greedy"), NOW.instant), Some(end));
        assert_eq!(cache.refused_too_many(&key("u"), &caller("modest"), NOW.instant), None);
        assert_eq!(cache.refused_too_many(&key("u"), &caller("greedy"), end), None);
        assert!(cache.negative(&key("u"), &target("s3"), NOW.instant).is_some());
        cache.insert(&key("u"), target("s3"), &caller("modest"), token("x"), NOW);
        assert!(cache.negative(&key("u"), &target("s3"), NOW.instant).is_none());
    }

    #[test]
    fn a_negative_answer_ends_with_its_time_and_with_a_new_token() {
        let cache = TokenCache::new(Limits::default());
        let failure = Failure::new(Reason::GrantRevoked, "revoked");
        cache.remember_negative(&key("u"), &failure, NOW.instant);
        assert!(cache.negative(&key("u"), &target("a"), NOW.instant).is_some());
        assert!(cache.negative(&key("u"), &target("a"), NOW.instant.plus(Duration::from_secs(5))).is_none());
        cache.insert(&key("u"), target("a"), &caller("c"), token("A"), NOW);
        assert!(cache.negative(&key("u"), &target("a"), NOW.instant).is_none());
    }

    /// The clock is set back an hour, and no time passes: nothing lives longer.
    #[test]
    fn a_clock_that_is_set_back_lengthens_nothing() {
        let cache = TokenCache::new(Limits::default());
        let failure = Failure::new(Reason::GrantRevoked, "revoked");
        cache.insert(&key("u"), target("a"), &caller("c"), token("A"), NOW);
        cache.remember_negative(&key("u"), &failure, NOW.instant);
        let found = cache.find(&key("u"), &target("a")).unwrap();
        let back = |span: Duration| Reading {
            now: NOW.now.minus(Duration::from_secs(3600)).plus(span),
            instant: NOW.instant.plus(span),
        };
        assert!(!found.expires.has_passed(back(Duration::from_secs(3599))));
        assert!(found.expires.has_passed(back(Duration::from_secs(3600))));
        let last = cache.last_expiry(&key("u"), back(Duration::ZERO)).unwrap();
        assert_eq!(last, NOW.now, "an hour from now, as the clock goes now");
        assert!(cache.negative(&key("u"), &target("a"), back(Duration::from_secs(5)).instant).is_none());
    }

    #[test]
    fn a_negative_answer_for_one_target_does_not_hold_for_another() {
        let cache = TokenCache::new(Limits::default());
        let failure = Failure::new(Reason::ScopeNotGranted, "scope");
        cache.remember_refused(&key("u"), &target("a"), &caller("c"), &failure, true, NOW.instant);
        assert!(cache.negative(&key("u"), &target("a"), NOW.instant).is_some());
        assert!(cache.negative(&key("u"), &target("b"), NOW.instant).is_none());
    }

    #[test]
    fn a_tenant_is_forgotten_whole_and_alone() {
        let cache = TokenCache::new(Limits::default());
        let other = GrantKey { tenant: TenantId::new("other").unwrap(), ..key("u") };
        cache.insert(&key("u"), target("a"), &caller("c"), token("A"), NOW);
        cache.insert(&other, target("a"), &caller("c"), token("A"), NOW);
        cache.forget_tenant(&TenantId::new("acme").unwrap());
        assert!(cache.find(&key("u"), &target("a")).is_none());
        assert!(cache.find(&other, &target("a")).is_some());
    }
}
