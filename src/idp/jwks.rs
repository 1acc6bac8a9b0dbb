//! A key set (RFC 7517) as a provider publishes it, and which of its keys may have
//! signed a token.

use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

use super::classify::error_detail;
use super::keys::KeysFault;
use super::send::{Fault, Http};
use crate::clock::Clock;

const FETCH_LIMIT: Duration = Duration::from_secs(5);
/// Most keys of a set that are looked at.
const MOST_KEYS: usize = 100;

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

    /// Whether it is worth a try. Several may be: a token without a key id, a key
    /// without one, and two keys of the same name are all in use, and the signature
    /// decides.
    pub(super) fn fits(&self, key_id: Option<&str>, algorithm: Algorithm) -> bool {
        let named = match (key_id, self.key_id.as_deref()) {
            (Some(token), Some(key)) => token == key,
            (None, _) | (_, None) => true,
        };
        named
            && self.key.family() == algorithm.family()
            && self.algorithm.as_ref().is_none_or(|own| *own == format!("{algorithm:?}"))
    }
}

/// Fetches a key set.
pub(super) async fn fetch(http: &Http, uri: &str, clock: &dyn Clock) -> Result<Vec<PublishedKey>, KeysFault> {
    match http.get(uri, FETCH_LIMIT, clock).await {
        Err(Fault { detail, overloaded: true }) => Err(KeysFault::Overloaded(detail)),
        Err(Fault { detail, overloaded: false }) => Err(KeysFault::Unreachable(detail)),
        // A server that fails, or asks for a pause, has not said what its keys are.
        Ok((status @ (408 | 429 | 500..=599), body)) => {
            Err(KeysFault::Unreachable(format!("HTTP {}", error_detail(status, &body))))
        }
        Ok((200, body)) => read(&body).ok_or_else(|| KeysFault::Unusable("the answer is no key set".into())),
        Ok((status, body)) => {
            let detail = format!("HTTP {} in place of a key set", error_detail(status, &body));
            Err(KeysFault::Unusable(detail))
        }
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

    use super::super::testing::RsaKey;
    use super::*;

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
        assert!(key.fits(None, Algorithm::RS256));
        assert!(!key.fits(Some("k1"), Algorithm::PS256));
        assert!(!key.fits(Some("k1"), Algorithm::ES256));
        assert!(!key.fits(Some("k2"), Algorithm::RS256));
        jwk.as_object_mut().unwrap().remove("kid");
        let nameless = read_key(&jwk).unwrap();
        assert!(nameless.fits(Some("k2"), Algorithm::RS256), "its signature decides");
        assert!(!nameless.fits(Some("k2"), Algorithm::PS256));
    }
}
