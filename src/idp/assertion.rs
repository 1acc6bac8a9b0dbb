//! Whose token is this: the checks on a token from outside, and the rules that
//! make a tenant and a subject of its claims.
//!
//! The order: shape, algorithm, issuer and audience; then the signature, with
//! the keys the provider publishes; then the time, by the vault's own clock.
//! Only a token that passed all else is called expired. Details are fixed
//! words: a claim of a token that proved nothing belongs in no log.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::Provider;
use super::answer::TokenAnswer;
use super::spec::TenantRule;
use crate::clock::Timestamp;
use crate::domain::id::{SubjectId, TenantId};
use crate::secret::UnverifiedAssertion;

/// How far the provider's clock may be from the vault's.
const LEEWAY: Duration = Duration::from_secs(60);

/// Most bytes of a token.
const MOST_BYTES: usize = 64 * 1024;

/// A user whose token was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedUser {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its name there.
    pub subject: SubjectId,
    /// When the token that proved it expires.
    pub expires_at: Option<Timestamp>,
}

/// Why a user's token was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssertionError {
    /// It is not a signed JWT.
    Malformed,
    /// It is one, but not a token of this provider for the vault.
    Rejected(String),
    /// It was accepted until a while ago.
    Expired,
    /// The provider's keys cannot be had.
    KeysUnavailable(String),
}

impl std::fmt::Display for AssertionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed => f.write_str("the token is not a signed JWT"),
            Self::Rejected(detail) => write!(f, "the token was rejected: {detail}"),
            Self::Expired => f.write_str("the token has expired"),
            Self::KeysUnavailable(detail) => write!(f, "the provider's keys cannot be had: {detail}"),
        }
    }
}

impl std::error::Error for AssertionError {}

/// Why an answer does not say whose tokens it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityError {
    /// It holds no proof, or one that does not hold.
    Unproven(String),
    /// The provider's keys cannot be had.
    KeysUnavailable(String),
}

impl std::fmt::Display for IdentityError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unproven(detail) => write!(f, "the answer does not prove whose it is: {detail}"),
            Self::KeysUnavailable(detail) => write!(f, "the provider's keys cannot be had: {detail}"),
        }
    }
}

impl std::error::Error for IdentityError {}

/// Checks a user's access token that was handed in.
pub(super) async fn verify(
    provider: &Provider,
    assertion: &UnverifiedAssertion,
    now: Timestamp,
) -> Result<VerifiedUser, AssertionError> {
    check(provider, assertion.expose(), Audience::OneOf(&provider.spec.audience), now).await
}

/// Says whose tokens an answer of the token endpoint holds. An ID token
/// decides alone. An access token is meant for somebody else, so its audience
/// is not asked; that the provider answered this client with it is enough.
pub(super) async fn identify(
    provider: &Provider,
    client_id: &str,
    answer: &TokenAnswer,
    expected_tenant: &TenantId,
    now: Timestamp,
) -> Result<VerifiedUser, IdentityError> {
    let checked = match (&answer.id_token, &answer.access_token) {
        (Some(token), _) => check(provider, token.expose(), Audience::Client(client_id), now).await,
        (None, Some(token)) => check(provider, token.expose(), Audience::Anyone, now).await,
        (None, None) => Err(AssertionError::Rejected("there is no ID token and no access token".into())),
    };
    match checked {
        Ok(user) if user.tenant == *expected_tenant => Ok(user),
        Ok(_) => Err(IdentityError::Unproven("the token is of another tenant".into())),
        Err(AssertionError::KeysUnavailable(detail)) => Err(IdentityError::KeysUnavailable(detail)),
        Err(error) => Err(IdentityError::Unproven(error.to_string())),
    }
}

#[derive(Clone, Copy)]
enum Audience<'a> {
    OneOf(&'a [String]),
    /// An ID token's, which is the client alone.
    Client(&'a str),
    Anyone,
}

async fn check(
    provider: &Provider,
    token: &str,
    audience: Audience<'_>,
    now: Timestamp,
) -> Result<VerifiedUser, AssertionError> {
    let rejected = |why: &str| Err(AssertionError::Rejected(why.into()));
    let token = Unchecked::read(token).ok_or(AssertionError::Malformed)?;
    let Some(algorithm) = token.algorithm() else { return rejected("its algorithm is not allowed") };
    if token.header.contains_key("crit") {
        return rejected("its header demands an extension");
    }
    let tenant = match &provider.spec.tenant {
        TenantRule::Fixed(tenant) => tenant.clone(),
        TenantRule::Claim(claim) => match token.claim(claim).map(TenantId::new) {
            Some(Ok(tenant)) => tenant,
            Some(Err(_)) | None => return rejected("it names no tenant"),
        },
    };
    let issuer = provider.issuer(&tenant);
    if token.claim("iss") != Some(issuer.as_str()) {
        return rejected("its issuer is not the provider's");
    }
    if !token.is_for(audience) {
        return rejected("it is not meant for the vault");
    }

    let uri = provider.spec.jwks_uri(&tenant);
    let key_id = token.header.get("kid").and_then(Value::as_str);
    let keys = provider.keys.find(&provider.http, &uri, key_id, algorithm).await;
    let keys = keys.map_err(AssertionError::KeysUnavailable)?;
    if keys.is_empty() {
        return rejected("no published key has its key id and algorithm");
    }
    let key = keys.iter().find(|key| key.made(token.signature, token.message, algorithm));
    let Some(key) = key else { return rejected("its signature is not the provider's") };
    // A provider of many tenants says at the key for which of them it is.
    let key_issuer = key.issuer.as_deref().map(|own| own.replace("{tenantid}", tenant.as_str()));
    if key_issuer.is_some_and(|own| own != issuer.as_str()) {
        return rejected("its key is for another issuer");
    }

    let Some(expires_at) = token.moment("exp") else { return rejected("it has no expiry") };
    if token.claims.contains_key("nbf") && token.moment("nbf").is_none_or(|nbf| now.plus(LEEWAY) < nbf) {
        return rejected("it is not valid yet");
    }
    if now >= expires_at.plus(LEEWAY) {
        return Err(AssertionError::Expired);
    }
    let subject = provider.spec.subject_claims.iter().filter_map(|claim| token.claim(claim));
    match { subject }.find_map(|name| SubjectId::new(name).ok()) {
        Some(subject) => Ok(VerifiedUser { tenant, subject, expires_at: Some(expires_at) }),
        None => rejected("it names no subject"),
    }
}

/// A token taken apart, with nothing checked.
struct Unchecked<'a> {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    message: &'a [u8],
    signature: &'a str,
}

impl<'a> Unchecked<'a> {
    fn read(token: &'a str) -> Option<Self> {
        if token.len() > MOST_BYTES {
            return None;
        }
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let part = |text: &str| {
            let json = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
            serde_json::from_slice::<Map<String, Value>>(&json).ok()
        };
        Some(Self { header: part(header)?, claims: part(claims)?, message: message.as_bytes(), signature })
    }

    /// Its algorithm, if it is one with a public key.
    fn algorithm(&self) -> Option<Algorithm> {
        let name = self.header.get("alg")?.as_str()?;
        match name.parse().ok()? {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => None,
            public => Some(public),
        }
    }

    /// A claim that is a text and not empty.
    fn claim(&self, name: &str) -> Option<&str> {
        self.claims.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    /// A claim that is a moment (RFC 7519 section 2, NumericDate).
    fn moment(&self, name: &str) -> Option<Timestamp> {
        let value = self.claims.get(name)?;
        if let Some(seconds) = value.as_i64() {
            return Some(Timestamp(seconds.saturating_mul(1000)));
        }
        let seconds = value.as_f64().filter(|s| s.is_finite() && *s >= 0.0)?;
        let since = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        Some(Timestamp(0).plus(since))
    }

    fn is_for(&self, audience: Audience<'_>) -> bool {
        let named: Vec<&str> = match self.claims.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        match audience {
            Audience::OneOf(accepted) => accepted.iter().any(|own| named.contains(&own.as_str())),
            // OpenID Connect Core section 3.1.3.7, steps 3 to 5.
            Audience::Client(id) => {
                named.contains(&id) && self.claims.get("azp").is_none_or(|azp| azp.as_str() == Some(id))
            }
            Audience::Anyone => true,
        }
    }
}
