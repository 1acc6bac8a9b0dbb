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

use super::answer::TokenAnswer;
use super::provider::Provider;
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

impl VerifiedUser {
    /// Whether the proof has the name in any of its claims.
    #[must_use]
    pub fn names(&self, _subject: &SubjectId) -> bool {
        false
    }
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
    let keys = keys.map_err(|fault| AssertionError::KeysUnavailable(fault.to_string()))?;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::spec::{ProviderSpec, TenantRule};
    use super::super::testing::{Reply, RsaKey, Server, StillClock, post_client, provider, ready, tenant};
    use super::super::{Client, RawAnswer, Verdict, classify};
    use super::*;
    use crate::clock::Clock as _;
    use crate::domain::profile::Profile;

    struct Fixture {
        rsa: RsaKey,
        server: Server,
        clock: Arc<StillClock>,
        client: Arc<Client>,
    }

    impl Fixture {
        async fn new() -> Self {
            Self::with(|_| ()).await
        }

        async fn with(change: impl FnOnce(&mut ProviderSpec)) -> Self {
            let rsa = RsaKey::generate();
            let server = Server::start(Reply::keys(&[rsa.published("k1")])).await;
            let clock = Arc::new(StillClock::new());
            let mut spec = provider(&server.base);
            change(&mut spec);
            let client = ready(spec, post_client(), clock.clone());
            Self { rsa, server, clock, client }
        }

        /// The claims of a good token, changed.
        fn claims(&self, changes: &Value) -> Value {
            let now = self.clock.now().unix_seconds();
            let mut claims = json!({
                "iss": format!("{}/t1/v2.0", self.server.base), "aud": "api://vault", "tid": "t1",
                "oid": "user-1", "sub": "pairwise", "iat": now, "nbf": now, "exp": now + 3600,
            });
            for (name, value) in changes.as_object().unwrap() {
                if value.is_null() {
                    claims.as_object_mut().unwrap().remove(name);
                } else {
                    claims[name] = value.clone();
                }
            }
            claims
        }

        async fn verify_claims(&self, changes: &Value) -> Result<VerifiedUser, AssertionError> {
            self.verify(self.rsa.token(Some("k1"), &self.claims(changes))).await
        }

        async fn verify(&self, token: String) -> Result<VerifiedUser, AssertionError> {
            self.client.verify_assertion(&UnverifiedAssertion::new(token)).await
        }

        fn answer(&self, tokens: &Value) -> TokenAnswer {
            let answer = RawAnswer::new(200, None, tokens.to_string().into_bytes());
            match classify(&Profile::strict(), &answer) {
                Verdict::Tokens(tokens) => tokens,
                Verdict::Refused(refusal) => panic!("{refusal:?}"),
            }
        }
    }

    fn user(subject: &str) -> (TenantId, SubjectId) {
        (tenant(), SubjectId::new(subject).unwrap())
    }

    #[tokio::test]
    async fn a_good_token_tells_its_user() {
        let fixture = Fixture::new().await;
        let verified = fixture.verify_claims(&json!({})).await.unwrap();
        assert_eq!((verified.tenant, verified.subject), user("user-1"));
        let seconds = verified.expires_at.unwrap().unix_seconds();
        assert!(seconds > fixture.clock.now().unix_seconds());
    }

    #[tokio::test]
    async fn the_first_usable_claim_names_the_subject() {
        let fixture = Fixture::new().await;
        for (changes, subject) in [
            (json!({ "oid": null }), "pairwise"),
            (json!({ "oid": "" }), "pairwise"),
            (json!({ "oid": 7 }), "pairwise"),
            (json!({ "oid": "a b" }), "pairwise"),
            (json!({ "sub": null }), "user-1"),
            (json!({ "aud": ["x", "vault"] }), "user-1"),
            (json!({ "nbf": null }), "user-1"),
        ] {
            let verified = fixture.verify_claims(&changes).await.unwrap();
            assert_eq!((verified.tenant, verified.subject), user(subject), "{changes}");
        }
    }

    #[tokio::test]
    async fn a_token_for_something_else_is_rejected() {
        let fixture = Fixture::new().await;
        let later = fixture.clock.now().unix_seconds() + 120;
        for changes in [
            json!({ "iss": "https://evil.example/t1/v2.0" }),
            json!({ "iss": null }),
            json!({ "iss": format!("{}/t2/v2.0", fixture.server.base) }),
            json!({ "tid": "t2" }),
            json!({ "tid": null }),
            json!({ "tid": "../t1" }),
            json!({ "tid": 7 }),
            json!({ "aud": "api://other" }),
            json!({ "aud": "api://vault/" }),
            json!({ "aud": [] }),
            json!({ "aud": null }),
            json!({ "exp": null }),
            json!({ "exp": "tomorrow" }),
            json!({ "nbf": later }),
            json!({ "nbf": "tomorrow" }),
            json!({ "oid": null, "sub": null }),
        ] {
            let outcome = fixture.verify_claims(&changes).await;
            assert!(matches!(outcome, Err(AssertionError::Rejected(_))), "{changes}: {outcome:?}");
        }
    }

    #[tokio::test]
    async fn the_vaults_clock_says_when_a_token_has_expired() {
        let fixture = Fixture::new().await;
        let token = fixture.rsa.token(Some("k1"), &fixture.claims(&json!({})));
        fixture.clock.advance(Duration::from_secs(3600 + 50));
        assert!(fixture.verify(token.clone()).await.is_ok(), "within the leeway");
        fixture.clock.advance(Duration::from_secs(20));
        assert_eq!(fixture.verify(token).await, Err(AssertionError::Expired));
    }

    #[tokio::test]
    async fn a_forged_signature_is_rejected_and_never_called_expired() {
        let fixture = Fixture::new().await;
        let stranger = RsaKey::generate();
        let expired = fixture.claims(&json!({ "exp": 1 }));
        let good = fixture.rsa.token(Some("k1"), &fixture.claims(&json!({})));
        let (message, signature) = good.rsplit_once('.').unwrap();
        let (header, _) = message.split_once('.').unwrap();
        let other = URL_SAFE_NO_PAD.encode(fixture.claims(&json!({ "oid": "admin" })).to_string());
        for forged in [
            stranger.token(Some("k1"), &fixture.claims(&json!({}))),
            stranger.token(Some("k1"), &expired),
            stranger.token(None, &fixture.claims(&json!({}))),
            stranger.token(Some("k2"), &fixture.claims(&json!({}))),
            format!("{header}.{other}.{signature}"),
            format!("{message}."),
            format!("{message}.AAAA"),
        ] {
            let outcome = fixture.verify(forged).await;
            assert!(matches!(outcome, Err(AssertionError::Rejected(_))), "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn an_algorithm_without_a_public_key_is_rejected() {
        let fixture = Fixture::new().await;
        let claims = fixture.claims(&json!({}));
        let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
        for header in [
            json!({ "alg": "none", "kid": "k1" }),
            json!({ "alg": "HS256", "kid": "k1" }),
            json!({ "alg": "RS257", "kid": "k1" }),
            json!({ "kid": "k1" }),
            json!({ "alg": "RS256", "kid": "k1", "crit": ["b64"] }),
        ] {
            let header = URL_SAFE_NO_PAD.encode(header.to_string());
            let outcome = fixture.verify(format!("{header}.{payload}.AAAA")).await;
            assert!(matches!(outcome, Err(AssertionError::Rejected(_))), "{outcome:?}");
        }
        // The public key taken for a shared secret: the classic confusion.
        let secret = jsonwebtoken::EncodingKey::from_secret(fixture.rsa.jwk_modulus().as_bytes());
        let mut header = jsonwebtoken::Header::new(Algorithm::HS256);
        header.kid = Some("k1".into());
        let token = jsonwebtoken::encode(&header, &claims, &secret).unwrap();
        assert!(matches!(fixture.verify(token).await, Err(AssertionError::Rejected(_))));
        assert_eq!(fixture.server.requests().len(), 0, "no key was needed to say so");
    }

    #[tokio::test]
    async fn what_is_no_jwt_is_malformed() {
        let fixture = Fixture::new().await;
        let good = fixture.rsa.token(Some("k1"), &fixture.claims(&json!({})));
        let array = URL_SAFE_NO_PAD.encode("[]");
        for bad in [
            String::new(),
            "opaque".into(),
            "a.b".into(),
            "a.b.c".into(),
            format!("{good}.x.y"),
            format!("{array}.{array}.x"),
            format!(" {good}"),
            format!("{good}{}", "A".repeat(MOST_BYTES)),
        ] {
            assert_eq!(fixture.verify(bad.clone()).await, Err(AssertionError::Malformed), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_token_cannot_be_checked_without_keys() {
        let fixture = Fixture::new().await;
        fixture.server.reply(Reply::full("500 No", "", ""));
        let outcome = fixture.verify_claims(&json!({})).await;
        assert_eq!(outcome, Err(AssertionError::KeysUnavailable("HTTP status 500".into())));
    }

    #[tokio::test]
    async fn a_provider_may_serve_one_tenant() {
        let fixture = Fixture::with(|spec| spec.tenant = TenantRule::Fixed(tenant())).await;
        let verified = fixture.verify_claims(&json!({ "tid": "t2" })).await.unwrap();
        assert_eq!((verified.tenant, verified.subject), user("user-1"));
    }

    #[tokio::test]
    async fn a_key_for_one_issuer_does_not_sign_for_another() {
        let fixture = Fixture::new().await;
        let mut key = fixture.rsa.published("k1");
        key["issuer"] = format!("{}/{{tenantid}}/v2.0", fixture.server.base).into();
        fixture.server.reply(Reply::keys(&[key.clone()]));
        assert!(fixture.verify_claims(&json!({})).await.is_ok());
        key["issuer"] = format!("{}/t2/v2.0", fixture.server.base).into();
        fixture.server.reply(Reply::keys(&[key]));
        fixture.clock.advance(Duration::from_secs(601));
        let outcome = fixture.verify_claims(&json!({})).await;
        assert_eq!(outcome, Err(AssertionError::Rejected("its key is for another issuer".into())));
    }

    #[tokio::test]
    async fn an_answer_tells_its_user_by_its_id_token() {
        let fixture = Fixture::new().await;
        let id_token = |changes: &Value| {
            let mut claims = fixture.claims(&json!({ "aud": "client 1" }));
            claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            fixture.rsa.token(Some("k1"), &claims)
        };
        let other = fixture.rsa.token(Some("k1"), &fixture.claims(&json!({ "oid": "user-2" })));
        let good = fixture.answer(&json!({ "access_token": other, "id_token": id_token(&json!({})) }));
        let found = fixture.client.identify(&good, &tenant()).await.unwrap();
        assert_eq!((found.tenant, found.subject), user("user-1"));

        for changes in [
            json!({ "aud": "client 2" }),
            json!({ "aud": ["client 1", "client 2"], "azp": "client 2" }),
            json!({ "exp": 1 }),
            json!({ "tid": "t2", "iss": format!("{}/t2/v2.0", fixture.server.base) }),
        ] {
            let answer = fixture.answer(&json!({ "access_token": other, "id_token": id_token(&changes) }));
            let outcome = fixture.client.identify(&answer, &tenant()).await;
            assert!(matches!(outcome, Err(IdentityError::Unproven(_))), "{changes}: {outcome:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_without_an_id_token_may_tell_by_its_access_token() {
        let fixture = Fixture::new().await;
        let token =
            fixture.rsa.token(Some("k1"), &fixture.claims(&json!({ "aud": "https://graph.example" })));
        let found =
            fixture.client.identify(&fixture.answer(&json!({ "access_token": token })), &tenant()).await;
        assert_eq!(found.map(|u| u.subject), Ok(user("user-1").1));

        for tokens in [json!({ "access_token": "opaque" }), json!({ "refresh_token": "r" })] {
            let outcome = fixture.client.identify(&fixture.answer(&tokens), &tenant()).await;
            assert!(matches!(outcome, Err(IdentityError::Unproven(_))), "{outcome:?}");
        }
        let stranger = RsaKey::generate().token(Some("k1"), &fixture.claims(&json!({})));
        let outcome =
            fixture.client.identify(&fixture.answer(&json!({ "access_token": stranger })), &tenant()).await;
        assert!(matches!(outcome, Err(IdentityError::Unproven(_))), "{outcome:?}");
    }
}
