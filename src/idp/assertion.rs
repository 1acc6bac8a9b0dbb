//! Whose token is this: the checks on a token from outside, and the rules that
//! make a tenant and a subject of its claims.
//!
//! The order: shape, algorithm, issuer, audience and kind; then the signature,
//! with the keys the provider publishes; then the user and the time, by the
//! vault's own clock. Only a token that passed all else is called expired.
//! Details are for the log: what was expected, and what came, cut short.

use std::fmt;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde_json::Value;

use super::answer::TokenAnswer;
use super::jwks::PublishedKey;
use super::keys::KeysFault;
use super::provider::{Provider, TokenForm};
use super::spec::TenantRule;
use super::token::{Unchecked, shown, shown_claim, shown_value};
use crate::clock::Timestamp;
use crate::domain::id::{CallerId, InvalidName, SubjectId, TenantId};
use crate::secret::UnverifiedAssertion;

/// How far the provider's clock may be from the vault's.
const LEEWAY: Duration = Duration::from_secs(60);

/// A user whose token was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedUser {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its name there.
    pub subject: SubjectId,
    /// When the token that proved it expires.
    pub expires_at: Option<Timestamp>,
    texts: Texts,
}

impl VerifiedUser {
    /// Whether any text among the verified token's claims is `subject`. Where
    /// that is another than the user's own, `subject_claims` may name the wrong
    /// claim, and the token may be that subject's all the same.
    #[must_use]
    pub fn names(&self, subject: &SubjectId) -> bool {
        self.texts.0.iter().any(|text| **text == *subject.as_str())
    }
}

/// The texts among a token's claims, which say more of a user than a log needs.
#[derive(Clone, PartialEq, Eq)]
struct Texts(Vec<Box<str>>);

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Texts(redacted)")
    }
}

/// Why a user's token was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssertionError {
    /// It is not a signed JWT.
    Malformed,
    /// It is signed with an algorithm that has no public key, or none.
    AlgorithmRefused(String),
    /// The provider publishes no key that it could be signed with.
    KeyUnknown(String),
    /// It is a JWT, but not a user's access token of this provider for the
    /// vault.
    Rejected(String),
    /// It was accepted until a while ago.
    Expired,
    /// There are no keys to check it with.
    KeysUnavailable(KeysFault),
}

impl fmt::Display for AssertionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the token is not a signed JWT"),
            Self::AlgorithmRefused(detail) | Self::KeyUnknown(detail) | Self::Rejected(detail) => {
                write!(f, "the token was rejected: {detail}")
            }
            Self::Expired => f.write_str("the token has expired"),
            Self::KeysUnavailable(fault) => write!(f, "the provider's keys are unavailable: {fault}"),
        }
    }
}

impl std::error::Error for AssertionError {}

/// Why an answer does not say whose tokens it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityError {
    /// It holds no proof, or one that does not hold.
    Unproven(String),
    /// There are no keys to check it with.
    KeysUnavailable(KeysFault),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unproven(detail) => write!(f, "the answer does not prove whose it is: {detail}"),
            Self::KeysUnavailable(fault) => write!(f, "the provider's keys are unavailable: {fault}"),
        }
    }
}

impl std::error::Error for IdentityError {}

/// Checks a user's access token that was handed in.
pub(super) async fn verify(
    provider: &Provider,
    client_id: &str,
    caller: &CallerId,
    assertion: &UnverifiedAssertion,
    now: Timestamp,
) -> Result<VerifiedUser, AssertionError> {
    let expected = Expected { client_id, token: Kind::Assertion, caller: Some(caller) };
    check(provider, assertion.expose(), expected, now).await
}

/// The tenant that a token claims. It proves nothing: whoever made the token
/// chose it.
pub(super) fn claimed_tenant(
    provider: &Provider,
    assertion: &UnverifiedAssertion,
) -> Result<TenantId, AssertionError> {
    let token = Unchecked::read(assertion.expose()).ok_or(AssertionError::Malformed)?;
    tenant(provider, &token).map_err(AssertionError::Rejected)
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
    let expected = |token| Expected { client_id, token, caller: None };
    let checked = match (&answer.id_token, &answer.access_token) {
        (Some(token), _) => check(provider, token.expose(), expected(Kind::IdToken), now).await,
        (None, Some(token)) => check(provider, token.expose(), expected(Kind::Answered), now).await,
        (None, None) => Err(AssertionError::Rejected("there is no ID token and no access token".into())),
    };
    match checked {
        Ok(user) if user.tenant == *expected_tenant => Ok(user),
        Ok(user) => Err(IdentityError::Unproven(format!(
            "the token is of the tenant {}, expected {expected_tenant}",
            user.tenant
        ))),
        Err(AssertionError::KeysUnavailable(fault)) => Err(IdentityError::KeysUnavailable(fault)),
        Err(error) => Err(IdentityError::Unproven(error.to_string())),
    }
}

/// What a token is to be.
#[derive(Clone, Copy)]
struct Expected<'a> {
    /// The vault's own name at the provider.
    client_id: &'a str,
    token: Kind,
    /// Who handed it in; `None` where the provider answered with it.
    caller: Option<&'a CallerId>,
}

#[derive(Clone, Copy)]
enum Kind {
    /// A user's access token for the vault.
    Assertion,
    /// An ID token for the client.
    IdToken,
    /// An access token for somebody else that the provider answered with.
    Answered,
}

async fn check(
    provider: &Provider,
    token: &str,
    expected: Expected<'_>,
    now: Timestamp,
) -> Result<VerifiedUser, AssertionError> {
    let token = Unchecked::read(token).ok_or(AssertionError::Malformed)?;
    let algorithm = algorithm(&token)?;
    let tenant = tenant(provider, &token).map_err(AssertionError::Rejected)?;
    let forms = provider.forms(&tenant);
    check_purpose(&forms, &token, expected).map_err(AssertionError::Rejected)?;
    let key = signing_key(provider, &token, &tenant, algorithm, expected.caller).await?;
    check_key_issuer(&forms, &key, &tenant).map_err(AssertionError::Rejected)?;
    let subject = subject(provider, &token).map_err(AssertionError::Rejected)?;
    let expires_at = check_time(&token, now)?;
    let texts = token.claims.values().filter_map(Value::as_str).map(Into::into).collect();
    Ok(VerifiedUser { tenant, subject, expires_at: Some(expires_at), texts: Texts(texts) })
}

/// Its algorithm, if it is one with a public key and no extension changes what
/// that means.
fn algorithm(token: &Unchecked<'_>) -> Result<Algorithm, AssertionError> {
    let named = token.header.get("alg").and_then(Value::as_str).and_then(|name| name.parse().ok());
    match named {
        Some(Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) | None => {
            let came = shown_claim(&token.header, "alg");
            let detail = format!("its algorithm is {came}, expected one with a public key");
            Err(AssertionError::AlgorithmRefused(detail))
        }
        Some(_) if token.header.contains_key("crit") => {
            Err(AssertionError::Rejected("its header demands an extension".into()))
        }
        Some(public) => Ok(public),
    }
}

fn tenant(provider: &Provider, token: &Unchecked<'_>) -> Result<TenantId, String> {
    match &provider.spec.tenant {
        TenantRule::Fixed(tenant) => Ok(tenant.clone()),
        TenantRule::Claim(claim) => name(token, claim, TenantId::new)
            .unwrap_or_else(|| Err(format!("it names no tenant: the claim {claim} is missing"))),
    }
}

/// The configured claims are a rule and not a search: the first that is there
/// decides, and when it cannot be used no later one takes its place. Else a
/// user could choose, by spoiling one claim, which other names him.
fn subject(provider: &Provider, token: &Unchecked<'_>) -> Result<SubjectId, String> {
    let claims = &provider.spec.subject_claims;
    let first = claims.iter().find_map(|claim| name(token, claim, SubjectId::new));
    first.unwrap_or_else(|| Err(format!("it names no subject: it has none of {}", claims.join(", "))))
}

/// The name in a claim; `None` when the claim is not there.
fn name<T>(
    token: &Unchecked<'_>,
    claim: &str,
    parse: impl Fn(&str) -> Result<T, InvalidName>,
) -> Option<Result<T, String>> {
    let value = token.claims.get(claim).filter(|value| !value.is_null())?;
    Some(match value.as_str() {
        None => Err(format!("its claim {claim} is not a text but {}", shown_value(value))),
        Some(text) => parse(text).map_err(|why| format!("its claim {claim} is {}: {why}", shown(text))),
    })
}

/// Who made it, for whom, and what for.
fn check_purpose(
    forms: &[TokenForm<'_>],
    token: &Unchecked<'_>,
    Expected { client_id, token: kind, caller: _ }: Expected<'_>,
) -> Result<(), String> {
    let Some(form) = forms.iter().find(|form| token.text("iss") == Some(&form.issuer)) else {
        let came = shown_claim(&token.claims, "iss");
        return Err(format!("its issuer is {came}, expected {}", issuers(forms)));
    };
    let audiences = token.audiences();
    let accepted = match kind {
        Kind::Assertion => form.audience.iter().map(String::as_str).collect(),
        Kind::IdToken => vec![client_id],
        Kind::Answered => audiences.clone(),
    };
    let meant = matches!(kind, Kind::Answered) || accepted.iter().any(|own| audiences.contains(own));
    if !meant {
        let came = shown_claim(&token.claims, "aud");
        return Err(format!("its audience is {came}, expected one of {}", accepted.join(", ")));
    }
    let other_kind = match kind {
        // OpenID Connect Core section 3.1.3.7, steps 4 and 5.
        Kind::IdToken if token.has("azp") && token.text("azp") != Some(client_id) => {
            Some(format!("its azp is {}, expected {client_id}", shown_claim(&token.claims, "azp")))
        }
        Kind::IdToken => token.not_an_id_token(),
        Kind::Assertion | Kind::Answered => token.not_a_users_access_token(client_id),
    };
    other_kind.map_or(Ok(()), Err)
}

/// A provider of many tenants says at the key for which of them it is. Which of
/// its own names it uses there is open: the keys of Entra's v1.0 tokens are
/// published under the issuer of its v2.0 tokens.
fn check_key_issuer(forms: &[TokenForm<'_>], key: &PublishedKey, tenant: &TenantId) -> Result<(), String> {
    let Some(own) = &key.issuer else { return Ok(()) };
    let own = own.replace("{tenantid}", tenant.as_str());
    if forms.iter().any(|form| form.issuer == own) {
        return Ok(());
    }
    Err(format!("its key is for another issuer: {}, expected {}", shown(&own), issuers(forms)))
}

fn issuers(forms: &[TokenForm<'_>]) -> String {
    let names: Vec<String> = forms.iter().map(|form| format!("\"{}\"", form.issuer)).collect();
    names.join(" or ")
}

/// The published key that signed it. Where none did, the provider may have
/// exchanged its keys under the same name, so they are fetched once more.
async fn signing_key(
    provider: &Provider,
    token: &Unchecked<'_>,
    tenant: &TenantId,
    algorithm: Algorithm,
    caller: Option<&CallerId>,
) -> Result<PublishedKey, AssertionError> {
    let uri = provider.spec.jwks_uri(tenant);
    let key_id = token.header.get("kid").and_then(Value::as_str);
    let came = || shown_claim(&token.header, "kid");
    let mut lookup = provider.keys.lookup(&provider.http, &uri, caller);
    let mut tried = 0;
    for anew in [false, true] {
        let keys = lookup.find(key_id, algorithm, anew).await.map_err(AssertionError::KeysUnavailable)?;
        if keys.is_empty() {
            let detail =
                format!("no published key has the key id {} and the algorithm {algorithm:?}", came());
            return Err(AssertionError::KeyUnknown(detail));
        }
        tried = keys.len();
        if let Some(key) = keys.into_iter().find(|key| key.made(token.signature, token.message, algorithm)) {
            lookup.verified();
            return Ok(key);
        }
    }
    let detail = format!(
        "its signature is not the provider's: key id {}, algorithm {algorithm:?}, {tried} published keys tried",
        came()
    );
    Err(AssertionError::Rejected(detail))
}

/// When it expires, if it is valid now.
fn check_time(token: &Unchecked<'_>, now: Timestamp) -> Result<Timestamp, AssertionError> {
    let expires_at = token.time("exp").ok_or_else(|| {
        let came = shown_claim(&token.claims, "exp");
        AssertionError::Rejected(format!("it has no expiry: its exp is {came}, expected a time"))
    })?;
    if token.claims.contains_key("nbf") && token.time("nbf").is_none_or(|nbf| now.plus(LEEWAY) < nbf) {
        let came = shown_claim(&token.claims, "nbf");
        let now = now.unix_seconds();
        return Err(AssertionError::Rejected(format!(
            "it is not valid yet: its nbf is {came}, now is {now}"
        )));
    }
    if now >= expires_at.plus(LEEWAY) { Err(AssertionError::Expired) } else { Ok(expires_at) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::super::spec::{ProviderSpec, TenantRule};
    use super::super::testing::{Reply, RsaKey, Server, StillClock, post_client, provider, ready, tenant};
    use super::super::token::MOST_TOKEN_BYTES;
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
            self.client.verify_assertion(&caller(), &UnverifiedAssertion::new(token)).await
        }

        fn answer(&self, tokens: &Value) -> TokenAnswer {
            let answer = RawAnswer::new(200, None, tokens.to_string().into_bytes());
            match classify(&Profile::strict(), &answer) {
                Verdict::Tokens(tokens) => tokens,
                Verdict::Refused(refusal) => panic!("{refusal:?}"),
            }
        }
    }

    fn caller() -> CallerId {
        CallerId::new("web").unwrap()
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
    async fn the_first_claim_that_is_there_names_the_subject() {
        let fixture = Fixture::new().await;
        for (changes, subject) in [
            (json!({ "oid": null }), "pairwise"),
            (json!({ "sub": null }), "user-1"),
            (json!({ "sub": 7 }), "user-1"),
            (json!({ "oid": "Ada", "sub": null }), "Ada"),
            (json!({ "aud": ["x", "vault"] }), "user-1"),
            (json!({ "nbf": null }), "user-1"),
        ] {
            let verified = fixture.verify_claims(&changes).await.unwrap();
            assert_eq!((verified.tenant, verified.subject), user(subject), "{changes}");
        }
        let mut claims = fixture.claims(&json!({}));
        claims["oid"] = Value::Null;
        let verified = fixture.verify(fixture.rsa.token(Some("k1"), &claims)).await.unwrap();
        assert_eq!(verified.subject.as_str(), "pairwise", "null is as good as not there");
    }

    #[tokio::test]
    async fn a_claim_that_cannot_be_used_is_not_passed_over() {
        let fixture = Fixture::new().await;
        for unusable in [
            json!(""),
            json!(" "),
            json!("mallory evil"),
            json!("x".repeat(256)),
            json!(7),
            json!(1.5),
            json!(true),
            json!(["user-1"]),
            json!({ "id": "user-1" }),
            json!("user\u{200b}-1"),
            json!("user\u{202e}-1"),
            json!("user\u{0}-1"),
        ] {
            for claim in ["oid", "tid"] {
                let outcome = fixture.verify_claims(&json!({ claim: unusable })).await;
                let Err(AssertionError::Rejected(detail)) = outcome else {
                    panic!("{unusable}: {outcome:?}")
                };
                assert!(detail.starts_with(&format!("its claim {claim} is ")), "{detail}");
                assert!(detail.is_ascii() && detail.len() < 250, "{detail}");
            }
        }
    }

    #[tokio::test]
    async fn a_token_of_another_kind_is_rejected_for_what_it_is() {
        let fixture = Fixture::new().await;
        for (changes, why) in [
            (json!({ "idtyp": "app" }), "its idtyp is \"app\""),
            (json!({ "idtyp": "device", "scp": "a" }), "its idtyp is \"device\""),
            (json!({ "idtyp": ["user"] }), "its idtyp is"),
            (json!({ "gty": "client-credentials" }), "client-credentials"),
            (json!({ "sub": "app-1", "client_id": "app-1", "scope": "a" }), "its sub is its client_id"),
            (json!({ "sub": "app-1", "azp": "app-1" }), "its sub is its azp"),
            (json!({ "sub": "app-1", "cid": "app-1", "scp": ["a"] }), "its sub is its cid"),
            (
                json!({ "azp": "job", "preferred_username": "service-account-job", "scope": "a" }),
                "service account",
            ),
            (json!({ "roles": ["Read.All"], "appid": "app-1" }), "it has no scope"),
            (json!({ "oid": "sp-1", "sub": "sp-1", "azp": "app-1" }), "it has no scope"),
            (
                json!({ "events": { "http://schemas.openid.net/event/backchannel-logout": {} } }),
                "it has events",
            ),
            (json!({ "typ": "ID", "scope": "a" }), "an ID token, not an access token: it says so"),
            (json!({ "typ": "Refresh", "scope": "a" }), "of the kind refresh"),
            (json!({ "typ": "Offline", "scope": "a" }), "of the kind offline"),
            (json!({ "typ": "Logout" }), "of the kind logout"),
            (json!({ "token_use": "id" }), "an ID token, not an access token: it says so"),
            (json!({ "at_hash": "x", "scope": "a" }), "an ID token, not an access token: it has at_hash"),
            (json!({ "c_hash": "x" }), "an ID token, not an access token: it has c_hash"),
            (json!({ "nonce": "x" }), "an ID token, not an access token: it has a nonce"),
            (json!({ "aud": ["client 1", "vault"] }), "an ID token, not an access token: it is made out to"),
            (json!({ "aud": ["client 1", "vault"], "scope": " " }), "an ID token, not an access token"),
        ] {
            let outcome = fixture.verify_claims(&changes).await;
            let Err(AssertionError::Rejected(detail)) = outcome else { panic!("{changes}: {outcome:?}") };
            assert!(detail.contains(why), "{changes}: {detail}");
        }
        for typ in [
            "logout+jwt",
            "dpop+jwt",
            "secevent+jwt",
            "application/secevent+jwt",
            "client-authentication+jwt",
            "oauth-authz-req+jwt",
            "token-introspection+jwt",
            "id_token",
            "",
        ] {
            let token = fixture.rsa.typed(Some(typ), Some("k1"), &fixture.claims(&json!({ "scp": "a" })));
            let outcome = fixture.verify(token).await;
            let Err(AssertionError::Rejected(detail)) = outcome else { panic!("{typ}: {outcome:?}") };
            let typ = typ.trim_start_matches("application/");
            assert!(detail.contains(&format!("its type is \"{typ}\"")), "{detail}");
        }
        assert_eq!(fixture.server.requests().len(), 0, "no key was needed to say so");
    }

    /// As the providers issue them.
    #[tokio::test]
    async fn access_tokens_of_users_are_accepted() {
        let fixture = Fixture::new().await;
        for (typ, changes) in [
            (Some("JWT"), json!({ "ver": "2.0", "azp": "spa", "scp": "access_as_user", "idtyp": "user" })),
            (Some("JWT"), json!({ "ver": "1.0", "appid": "spa", "scp": "a b", "roles": ["Admin"] })),
            (Some("JWT"), json!({ "scp": "a", "aud": "vault", "azp": "vault", "nonce": "n" })),
            (Some("jwt"), json!({})),
            (None, json!({ "cid": "spa", "scp": ["openid", "a"] })),
            (Some("at+jwt"), json!({ "client_id": "spa", "scope": "a" })),
            (Some("application/at+jwt"), json!({ "client_id": "spa", "nonce": "n" })),
            (Some("JWT"), json!({ "typ": "Bearer", "azp": "spa", "scope": "openid", "nonce": "n" })),
            (Some("JWT"), json!({ "token_use": "access", "client_id": "spa", "scope": "a" })),
            (Some("JWT"), json!({ "azp": "spa", "gty": "password", "scope": "a", "nonce": null })),
        ] {
            let token = fixture.rsa.typed(typ, Some("k1"), &fixture.claims(&changes));
            let verified = fixture.verify(token).await;
            assert_eq!(verified.map(|v| v.subject), Ok(user("user-1").1), "{typ:?} {changes}");
        }
    }

    #[tokio::test]
    async fn keys_exchanged_under_the_same_name_are_fetched_once_more() {
        // Right after a fetch as long after it; with a key id and without.
        for wait in [Duration::from_millis(1), Duration::from_secs(11), Duration::from_secs(500)] {
            for key_id in [Some("k1"), None] {
                let fixture = Fixture::new().await;
                assert!(fixture.verify_claims(&json!({})).await.is_ok());
                let next = RsaKey::generate();
                fixture.server.reply(Reply::keys(&[next.published("k1")]));
                fixture.clock.advance(wait);
                let token = next.token(key_id, &fixture.claims(&json!({})));
                assert!(fixture.verify(token).await.is_ok(), "{key_id:?} after {wait:?}");
                assert_eq!(fixture.server.requests().len(), 2);
                let old = fixture.verify_claims(&json!({})).await;
                assert!(matches!(old, Err(AssertionError::Rejected(_))), "{old:?}");
                let stranger = RsaKey::generate();
                for _ in 0..20 {
                    fixture.clock.advance(Duration::from_millis(1));
                    let forged = stranger.token(Some("k1"), &fixture.claims(&json!({})));
                    let outcome = fixture.verify(forged).await;
                    assert!(matches!(outcome, Err(AssertionError::Rejected(_))), "{outcome:?}");
                }
                assert!(fixture.server.requests().len() <= 4, "not at every call");
            }
        }
    }

    #[tokio::test]
    async fn of_several_keys_that_fit_the_one_that_signed_is_found() {
        let fixture = Fixture::new().await;
        let (first, second) = (RsaKey::generate(), RsaKey::generate());
        let mut other_algorithm = fixture.rsa.published("k1");
        other_algorithm["alg"] = "RS512".into();
        let mut nameless = second.published("k1");
        nameless.as_object_mut().unwrap().remove("kid");
        // Two of one name, one of another algorithm, one without a name.
        let set = [other_algorithm, first.published("k1"), fixture.rsa.published("k1"), nameless];
        fixture.server.reply(Reply::keys(&set));
        for key in [&first, &fixture.rsa, &second] {
            for key_id in [Some("k1"), None] {
                let token = key.token(key_id, &fixture.claims(&json!({})));
                assert!(fixture.verify(token).await.is_ok(), "{key_id:?}");
            }
        }
        assert_eq!(fixture.server.requests().len(), 1);
        let stranger = RsaKey::generate().token(Some("k1"), &fixture.claims(&json!({})));
        let outcome = fixture.verify(stranger).await;
        let Err(AssertionError::Rejected(detail)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(
            detail,
            "its signature is not the provider's: key id \"k1\", algorithm RS256, 3 published keys tried"
        );
    }

    #[tokio::test]
    async fn a_detail_says_what_came_and_what_was_expected_cut_short() {
        let fixture = Fixture::new().await;
        let detail = async |changes: Value| match fixture.verify_claims(&changes).await {
            Err(AssertionError::Rejected(detail)) => detail,
            outcome => panic!("{outcome:?}"),
        };
        let long = format!("ev\u{202e}il\n{}", "y".repeat(100));
        let shown = format!("\"ev?il?{}...\"", "y".repeat(58));
        let issuer = format!("{}/t1/v2.0", fixture.server.base);
        assert_eq!(
            detail(json!({ "iss": long })).await,
            format!("its issuer is {shown}, expected \"{issuer}\"")
        );
        let expected = "expected one of api://vault, vault";
        assert_eq!(detail(json!({ "aud": long })).await, format!("its audience is {shown}, {expected}"));
        assert_eq!(detail(json!({ "aud": null })).await, format!("its audience is missing, {expected}"));
        let unknown = fixture.rsa.token(Some("k9"), &fixture.claims(&json!({})));
        assert_eq!(
            fixture.verify(unknown).await,
            Err(AssertionError::KeyUnknown(
                "no published key has the key id \"k9\" and the algorithm RS256".into()
            ))
        );
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
        ] {
            let header = URL_SAFE_NO_PAD.encode(header.to_string());
            let outcome = fixture.verify(format!("{header}.{payload}.AAAA")).await;
            assert!(matches!(outcome, Err(AssertionError::AlgorithmRefused(_))), "{outcome:?}");
        }
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"k1","crit":["b64"]}"#);
        let outcome = fixture.verify(format!("{header}.{payload}.AAAA")).await;
        assert!(matches!(outcome, Err(AssertionError::Rejected(_))), "{outcome:?}");
        // The public key taken for a shared secret: the classic confusion.
        let secret = jsonwebtoken::EncodingKey::from_secret(fixture.rsa.jwk_modulus().as_bytes());
        let mut header = jsonwebtoken::Header::new(Algorithm::HS256);
        header.kid = Some("k1".into());
        let token = jsonwebtoken::encode(&header, &claims, &secret).unwrap();
        assert!(matches!(fixture.verify(token).await, Err(AssertionError::AlgorithmRefused(_))));
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
            format!("{good}{}", "A".repeat(MOST_TOKEN_BYTES)),
        ] {
            assert_eq!(fixture.verify(bad.clone()).await, Err(AssertionError::Malformed), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_token_cannot_be_checked_without_keys() {
        let fixture = Fixture::new().await;
        fixture.server.reply(Reply::full("500 No", "", ""));
        let outcome = fixture.verify_claims(&json!({})).await;
        assert_eq!(
            outcome,
            Err(AssertionError::KeysUnavailable(KeysFault::Unreachable("HTTP status=500".into())))
        );
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
        let Err(AssertionError::Rejected(detail)) = outcome else { panic!("{outcome:?}") };
        assert!(detail.starts_with("its key is for another issuer"), "{detail}");
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
        for (subject, named) in [("user-1", true), ("pairwise", true), ("user-2", false), ("pair", false)] {
            assert_eq!(found.names(&user(subject).1), named, "{subject}");
        }
        assert!(!format!("{found:?}").contains("pairwise"), "{found:?}");
        assert_eq!((found.tenant, found.subject), user("user-1"));

        for changes in [
            json!({ "aud": "client 2" }),
            json!({ "aud": ["client 1", "client 2"], "azp": "client 2" }),
            json!({ "exp": 1 }),
            json!({ "events": {} }),
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
