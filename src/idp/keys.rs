//! The provider's published keys (RFC 7517), fetched when they are needed.
//!
//! They are kept for 10 minutes. A token signed with an unknown key has them
//! fetched anew, but not more often than every 10 seconds, whoever asks; all
//! who wait share one fetch. When a fetch fails the old ones serve on, for a
//! day at most.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

use super::send::{Fault, Http};
use crate::clock::{Clock, Instant, SharedClock};
use crate::domain::reason::Reason;

const FRESH_FOR: Duration = Duration::from_secs(600);
const USABLE_FOR: Duration = Duration::from_secs(86_400);
/// Least time between two fetches.
const FETCH_EVERY: Duration = Duration::from_secs(10);
/// The same while there are no keys at all.
const FIRST_FETCH_EVERY: Duration = Duration::from_secs(1);
const FETCH_LIMIT: Duration = Duration::from_secs(5);
/// Most keys of a set that are looked at.
const MOST_KEYS: usize = 100;
/// Most addresses whose keys are kept; a placeholder can make many.
const MOST_SETS: usize = 1000;

/// The keys of one provider, by the address they are published at.
pub(super) struct PublishedKeys {
    clock: SharedClock,
    sets: Mutex<HashMap<String, Arc<KeySet>>>,
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
}

impl KeysFault {
    /// The reason to give a caller.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unreachable(_) => Reason::ProviderUnavailable,
            Self::Unusable(_) => Reason::ProviderKeysUnusable,
            Self::Overloaded(_) => Reason::VaultOverloaded,
        }
    }
}

impl fmt::Display for KeysFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unreachable(detail) | Self::Unusable(detail) | Self::Overloaded(detail)) = self;
        f.write_str(detail)
    }
}

/// A key that may have signed a token.
#[derive(Clone)]
pub(super) struct PublishedKey {
    key_id: Option<String>,
    algorithm: Option<String>,
    key: DecodingKey,
    /// The issuer it is for, where the provider publishes keys of several.
    pub(super) issuer: Option<String>,
}

impl PublishedKey {
    /// Whether it made `signature` (base64url) over `message`.
    pub(super) fn made(&self, signature: &str, message: &[u8], algorithm: Algorithm) -> bool {
        jsonwebtoken::crypto::verify(signature, message, &self.key, algorithm).unwrap_or(false)
    }

    fn fits(&self, key_id: Option<&str>, algorithm: Algorithm) -> bool {
        (key_id.is_none() || self.key_id.as_deref() == key_id)
            && self.key.family() == algorithm.family()
            && self.algorithm.as_ref().is_none_or(|own| *own == format!("{algorithm:?}"))
    }
}

impl PublishedKeys {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { clock, sets: Mutex::new(HashMap::new()) }
    }

    /// The keys at `uri` that fit a token's header; none when the provider
    /// publishes none that does. `anew`: those that were fetched before do not
    /// do, even if they are fresh.
    ///
    /// # Errors
    ///
    /// When there are no keys that may still be used and none can be fetched, or
    /// those that were published are of no use.
    pub(super) async fn find(
        &self,
        http: &Http,
        uri: &str,
        key_id: Option<&str>,
        algorithm: Algorithm,
        anew: bool,
    ) -> Result<Vec<PublishedKey>, KeysFault> {
        let set = self.set(uri);
        let fitting = |fetched: &Fetched| {
            let fits = fetched.keys.iter().filter(|key| key.fits(key_id, algorithm));
            fits.cloned().collect::<Vec<PublishedKey>>()
        };
        let served = |keys: &Vec<PublishedKey>| !keys.is_empty();
        let fresh_for = if anew { Duration::ZERO } else { FRESH_FOR };
        let now = self.clock.instant();
        if let Some(found) = set.within(fresh_for, now).map(|f| fitting(&f)).filter(served) {
            return Ok(found);
        }
        let mut last = set.flight.lock().await;
        let now = self.clock.instant();
        if let Some(found) = set.within(fresh_for, now).map(|f| fitting(&f)).filter(served) {
            return Ok(found);
        }
        let pause = if set.within(USABLE_FOR, now).is_some() { FETCH_EVERY } else { FIRST_FETCH_EVERY };
        if last.at.is_none_or(|at| now.since(at) >= pause) {
            // Noted first, so that callers who give up while waiting do not
            // make the next one fetch at once.
            let fault = KeysFault::Unreachable("the last fetch did not end".into());
            *last = LastFetch { at: Some(now), fault: Some(fault) };
            match fetch(http, uri, self.clock.as_ref()).await {
                Ok(keys) => {
                    last.fault = None;
                    set.put(Fetched { keys, at: now });
                }
                Err(fault) => last.fault = Some(fault),
            }
        }
        let found = set.within(USABLE_FOR, now).map(|f| fitting(&f)).filter(served);
        match (found, &last.fault, set.within(USABLE_FOR, now)) {
            // Nor that their signatures do not.
            (Some(_), Some(fault), _) if anew => Err(fault.clone()),
            (Some(found), ..) => Ok(found),
            // That the keys from before do not fit proves nothing while the
            // newest cannot be fetched.
            (None, Some(fault), _) => Err(fault.clone()),
            (None, None, Some(fetched)) if !fetched.keys.is_empty() => Ok(Vec::new()),
            (None, None, _) => {
                Err(KeysFault::Unusable("the key set holds no key that the vault can use".into()))
            }
        }
    }

    fn set(&self, uri: &str) -> Arc<KeySet> {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if sets.len() >= MOST_SETS && !sets.contains_key(uri) {
            sets.clear();
        }
        Arc::clone(sets.entry(uri.to_owned()).or_default())
    }
}

#[derive(Default)]
struct KeySet {
    current: RwLock<Option<Arc<Fetched>>>,
    /// Held by the one who fetches.
    flight: tokio::sync::Mutex<LastFetch>,
}

#[derive(Default)]
struct LastFetch {
    at: Option<Instant>,
    /// Why it brought no keys.
    fault: Option<KeysFault>,
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

async fn fetch(http: &Http, uri: &str, clock: &dyn Clock) -> Result<Vec<PublishedKey>, KeysFault> {
    match http.get(uri, FETCH_LIMIT, clock).await {
        Err(Fault { detail, overloaded: true }) => Err(KeysFault::Overloaded(detail)),
        Err(Fault { detail, overloaded: false }) => Err(KeysFault::Unreachable(detail)),
        // A server that fails, or asks for a pause, has not said what its keys are.
        Ok((status @ (408 | 429 | 500..=599), _)) => {
            Err(KeysFault::Unreachable(format!("HTTP status {status}")))
        }
        Ok((200, body)) => read(&body).ok_or_else(|| KeysFault::Unusable("the answer is no key set".into())),
        Ok((status, _)) => Err(KeysFault::Unusable(format!("HTTP status {status} in place of a key set"))),
    }
}

/// Reads a key set; keys of a kind the vault does not know, and those for
/// encryption or with a shared secret, are left out.
fn read(body: &[u8]) -> Option<Vec<PublishedKey>> {
    let set: Value = serde_json::from_slice(body).ok()?;
    let keys = set.get("keys")?.as_array()?;
    Some(keys.iter().take(MOST_KEYS).filter_map(read_key).collect())
}

fn read_key(value: &Value) -> Option<PublishedKey> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
    let for_signing = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
    let public = !matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_));
    let key = DecodingKey::from_jwk(&jwk).ok().filter(|_| for_signing && public)?;
    Some(PublishedKey { key_id: text("kid"), algorithm: text("alg"), key, issuer: text("issuer") })
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
            let keys = PublishedKeys::new(clock.clone());
            Self { server: Server::start(reply).await, clock, keys, http: Http::new(None, false).unwrap() }
        }

        async fn find(&self, key_id: Option<&str>) -> Result<usize, KeysFault> {
            let uri = format!("{}/keys", self.server.base);
            let found = self.keys.find(&self.http, &uri, key_id, Algorithm::RS256, false).await;
            found.map(|keys| keys.len())
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
        assert_eq!(fixture.find(Some("k1")).await, Err(KeysFault::Unreachable("HTTP status 500".into())));
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
        assert_eq!(fixture.find(Some("k2")).await, Err(KeysFault::Unreachable("HTTP status 500".into())));
    }

    #[tokio::test]
    async fn without_any_keys_a_provider_is_not_hammered() {
        let fixture = Fixture::new(Reply::full("500 No", "", "")).await;
        for _ in 0..5 {
            assert_eq!(fixture.find(Some("k1")).await, Err(KeysFault::Unreachable("HTTP status 500".into())));
        }
        assert_eq!(fixture.fetches(), 1);
    }

    #[test]
    fn keys_that_sign_no_tokens_are_left_out() {
        let rsa = RsaKey::generate().published("k1");
        let mut encrypting = rsa.clone();
        encrypting["use"] = "enc".into();
        let shared = json!({ "kty": "oct", "k": "aGVsbG8", "kid": "k1" });
        let unknown = json!({ "kty": "moon", "kid": "k1" });
        let set = json!({ "keys": [encrypting, shared, unknown, 7, rsa] }).to_string();
        assert_eq!(read(set.as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn a_key_is_used_with_its_own_algorithm_only() {
        let mut jwk = RsaKey::generate().published("k1");
        jwk["alg"] = "RS256".into();
        let key = read_key(&jwk).unwrap();
        assert!(key.fits(Some("k1"), Algorithm::RS256));
        assert!(!key.fits(Some("k1"), Algorithm::PS256));
        assert!(!key.fits(Some("k1"), Algorithm::ES256));
        assert!(!key.fits(Some("k2"), Algorithm::RS256));
    }
}
