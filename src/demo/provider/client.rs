//! Who the client of a token request is: `client_secret_post`,
//! `client_secret_basic` (RFC 6749 section 2.3.1) or `private_key_jwt`
//! (RFC 7523 section 2.2).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::refusal::Refusal;
use super::registry::Proof;
use super::shared::Inner;
use super::signer;

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

impl Inner {
    /// The client's identifier, once it has proven to be that client.
    pub(super) fn authenticate(
        &self,
        form: &BTreeMap<String, String>,
        authorization: Option<&str>,
    ) -> Result<String, Refusal> {
        let refused = |why| Refusal::new(401, "invalid_client", why);
        if let Some(assertion) = form.get("client_assertion") {
            if form.get("client_assertion_type").map(String::as_str) != Some(ASSERTION_TYPE) {
                return Err(refused("client_assertion_type is not the one of RFC 7523"));
            }
            return self.check_assertion(assertion, form.get("client_id")).map_err(refused);
        }
        let (id, secret) = match authorization {
            Some(header) => basic(header).ok_or_else(|| refused("the Authorization header is malformed"))?,
            None => (
                form.get("client_id").cloned().ok_or_else(|| refused("there is no client_id"))?,
                form.get("client_secret")
                    .cloned()
                    .ok_or_else(|| refused("there is no proof of the client"))?,
            ),
        };
        match self.clients.proof(&id) {
            Some(Proof::Secret(expected)) if *expected == secret => Ok(id),
            _ => Err(refused("the client is unknown or its secret is wrong")),
        }
    }

    fn check_assertion(&self, assertion: &str, named: Option<&String>) -> Result<String, &'static str> {
        // The issuer is read unverified to find the key, and believed only once
        // that key explains the signature.
        let unverified: Value = jsonwebtoken::dangerous::insecure_decode_claims(assertion)
            .map_err(|_| "client_assertion is not a JWT")?;
        let id = unverified["iss"].as_str().ok_or("client_assertion has no iss")?;
        let Some(Proof::Key(key, algorithm)) = self.clients.proof(id) else {
            return Err("the client is unknown or has no key");
        };
        let claims = signer::verify(assertion, key, *algorithm)
            .ok_or("client_assertion is not signed by the client")?;
        if claims["sub"].as_str() != Some(id) || named.is_some_and(|named| named != id) {
            return Err("client_assertion is about another client");
        }
        if !audience_is(&claims, &[&self.issuer, &self.token_endpoint()]) {
            return Err("client_assertion is for another audience");
        }
        let expires = claims["exp"].as_i64().ok_or("client_assertion has no exp")?;
        let tolerance = i64::try_from(self.options.assertion_tolerance.as_secs()).unwrap_or(i64::MAX);
        if self.clock.now().unix_seconds() > expires.saturating_add(tolerance) {
            return Err("client_assertion has expired");
        }
        let jti = claims["jti"].as_str().ok_or("client_assertion has no jti")?;
        let fresh = self.state().seen_assertions.insert((id.to_owned(), jti.to_owned()));
        if self.options.client_jti_check && !fresh {
            return Err("client_assertion was used before");
        }
        Ok(id.to_owned())
    }
}

/// Whether `aud`, a string or a list, names one of `accepted`.
pub(super) fn audience_is(claims: &Value, accepted: &[&str]) -> bool {
    let is_accepted = |value: &Value| value.as_str().is_some_and(|aud| accepted.contains(&aud));
    match &claims["aud"] {
        Value::Array(list) => list.iter().any(is_accepted),
        one => is_accepted(one),
    }
}

/// Identifier and secret, each form-encoded inside the pair.
fn basic(header: &str) -> Option<(String, String)> {
    let pair = STANDARD.decode(header.strip_prefix("Basic ")?.trim()).ok()?;
    let pair = String::from_utf8(pair).ok()?;
    let (id, secret) = pair.split_once(':')?;
    let decode = |text: &str| {
        let (decoded, _) = url::form_urlencoded::parse(text.as_bytes()).next()?;
        Some(decoded.into_owned())
    };
    Some((decode(id)?, decode(secret)?))
}
