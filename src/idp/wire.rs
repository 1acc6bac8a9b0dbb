//! The request as it goes out: its fields, in the order and the encoding that
//! Microsoft's client for Python gives them, and its headers.
//!
//! Compared with that client (MSAL 1.39), field by field, what differs is: its
//! claims have white space between their parts, ours are the caller's bytes or
//! compact; it names scopes in every refresh, we name none where the grant's
//! own are meant; and it has no `resource`.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value, json};
use url::Url;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::proof::{PrepareError, Proven, form_encode};
use crate::clock::Timestamp;
use crate::domain::scope::{Claims, ScopeSet, Target};
use crate::secret::{RefreshToken, UnverifiedAssertion};

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// What the token endpoint is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Exchange<'a> {
    /// A refresh token is redeemed (RFC 6749 section 6).
    Refresh {
        /// The refresh token.
        token: &'a RefreshToken,
        /// What the access token is for; no scopes: those of the grant.
        target: &'a Target,
    },
    /// A user's access token is exchanged (RFC 7523 in the form of Entra's
    /// on-behalf-of flow).
    OnBehalfOf {
        /// The user's access token.
        assertion: &'a UnverifiedAssertion,
        /// What the access token is for.
        target: &'a Target,
    },
}

/// A request, complete and not yet sent. It can be sent once.
pub struct Prepared {
    pub(super) url: Url,
    pub(super) authorization: Option<Zeroizing<String>>,
    pub(super) body: Zeroizing<String>,
    pub(super) request_id: Uuid,
    fenced_at: Option<Timestamp>,
}

impl Prepared {
    /// When the provider stops accepting this request, tolerance included.
    /// `None`: never, the client does not fence.
    #[must_use]
    pub fn fenced_at(&self) -> Option<Timestamp> {
        self.fenced_at
    }

    /// The `client-request-id` it carries, for the log.
    #[must_use]
    pub fn request_id(&self) -> Uuid {
        self.request_id
    }

    fn new(
        endpoint: &str,
        fields: &[(&str, &str)],
        authorization: Option<Zeroizing<String>>,
        fenced_at: Option<Timestamp>,
        request_id: Uuid,
    ) -> Result<Self, PrepareError> {
        let url = Url::parse(endpoint).map_err(|_| PrepareError::EndpointNotUrl)?;
        Ok(Self { url, authorization, body: form(fields), request_id, fenced_at })
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("request_id", &self.request_id)
            .field("fenced_at", &self.fenced_at)
            .finish_non_exhaustive()
    }
}

/// How requests of a client differ from those of others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Habits {
    /// Whether it tells the provider that its callers can answer challenges.
    pub(super) declares_cp1: bool,
    /// Whether a refresh asks for what brings a refresh token again.
    pub(super) protocol_scopes_in_refresh: bool,
}

/// A request to the token endpoint.
pub(super) fn token_request(
    endpoint: &str,
    client_id: &str,
    habits: Habits,
    exchange: Exchange<'_>,
    proven: Proven,
    request_id: Uuid,
) -> Result<Prepared, PrepareError> {
    let (Exchange::Refresh { target, .. } | Exchange::OnBehalfOf { target, .. }) = exchange;
    let claims = claims(habits.declares_cp1, target.claims.as_ref())?;
    let claims = claims.as_deref().map(|claims| ("claims", claims));
    let resource = target.resource.as_ref().map(|resource| ("resource", resource.as_str()));
    let proof = proven.fields.iter().map(|(name, value)| (*name, value.as_str()));

    let mut fields = vec![("client_id", client_id)];
    let scope;
    match exchange {
        Exchange::Refresh { token, target } => {
            // No scopes stand for those of the grant, which have all there is.
            scope = if habits.protocol_scopes_in_refresh && !target.scopes.is_empty() {
                with_protocol_scopes(&target.scopes)
            } else {
                target.scopes.to_wire()
            };
            fields.extend([("grant_type", "refresh_token"), ("client_info", "1")]);
            fields.extend(proof);
            fields.extend(claims);
            fields.push(("refresh_token", token.expose()));
            if !scope.is_empty() {
                fields.push(("scope", &scope));
            }
            fields.extend(resource);
        }
        Exchange::OnBehalfOf { assertion, target } => {
            scope = with_protocol_scopes(&target.scopes);
            fields.extend([("grant_type", JWT_BEARER), ("client_info", "1")]);
            fields.extend(proof);
            fields.push(("requested_token_use", "on_behalf_of"));
            fields.extend(claims);
            fields.push(("scope", &scope));
            fields.extend(resource);
            fields.push(("assertion", assertion.expose()));
        }
    }
    Prepared::new(endpoint, &fields, proven.authorization, proven.fenced_at, request_id)
}

/// A request to the revocation endpoint (RFC 7009 section 2.1).
pub(super) fn revocation_request(
    endpoint: &str,
    client_id: &str,
    token: &RefreshToken,
    proven: Proven,
    request_id: Uuid,
) -> Result<Prepared, PrepareError> {
    let mut fields = vec![("client_id", client_id)];
    fields.extend(proven.fields.iter().map(|(name, value)| (*name, value.as_str())));
    fields.extend([("token", token.expose()), ("token_type_hint", "refresh_token")]);
    Prepared::new(endpoint, &fields, proven.authorization, proven.fenced_at, request_id)
}

/// The scopes asked for, each once, and the three that bring a refresh token
/// and an ID token with it; in order, as the first request of a grant has them.
fn with_protocol_scopes(asked: &ScopeSet) -> String {
    let all: BTreeSet<&str> = asked.iter().chain(["offline_access", "openid", "profile"]).collect();
    all.into_iter().collect::<Vec<&str>>().join(" ")
}

/// The claims request: the caller's challenge, and the declaration that it can
/// answer challenges where the client is configured to make it.
fn claims(declares_cp1: bool, challenge: Option<&Claims>) -> Result<Option<String>, PrepareError> {
    let parse = |claims: &Claims| {
        serde_json::from_str::<Map<String, Value>>(claims.as_str()).map_err(|_| PrepareError::ClaimsNotJson)
    };
    match (declares_cp1, challenge) {
        (false, None) => Ok(None),
        (false, Some(challenge)) => parse(challenge).map(|_| Some(challenge.as_str().to_owned())),
        (true, challenge) => {
            let mut merged = json!({ "access_token": { "xms_cc": { "values": ["CP1"] } } });
            if let Some(challenge) = challenge {
                merge(&mut merged, Value::Object(parse(challenge)?));
            }
            Ok(Some(merged.to_string()))
        }
    }
}

/// Merges `theirs` into `ours`: objects field by field, lists as a union, and
/// otherwise theirs wins; but a null, which asks for a claim without more
/// (OpenID Connect Core section 5.5.1), takes nothing away.
fn merge(ours: &mut Value, theirs: Value) {
    match (ours, theirs) {
        (_, Value::Null) => {}
        (Value::Object(ours), Value::Object(theirs)) => {
            for (name, value) in theirs {
                match ours.get_mut(&name) {
                    Some(known) => merge(known, value),
                    None => {
                        ours.insert(name, value);
                    }
                }
            }
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            for value in theirs {
                if !ours.contains(&value) {
                    ours.push(value);
                }
            }
        }
        (ours, theirs) => *ours = theirs,
    }
}

/// The body. Its memory is taken once, so that no copy of a secret is left
/// behind by growing it.
fn form(fields: &[(&str, &str)]) -> Zeroizing<String> {
    let most = fields.iter().map(|(name, value)| name.len() + 3 * value.len() + 2).sum();
    let mut body = Zeroizing::new(String::with_capacity(most));
    for (name, value) in fields {
        if !body.is_empty() {
            body.push('&');
        }
        body.push_str(name);
        body.push('=');
        form_encode(value, &mut body);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::super::proof::Proof;
    use super::super::spec::{ClientAuth, ClientSpec, SigningAlg};
    use super::super::testing::{client, ec_key_pem, post_client, provider, ready, tenant};
    use proptest::prelude::*;

    use super::*;
    use crate::clock::SystemClock;
    use crate::domain::profile::Profile;
    use crate::domain::scope::{Resource, ScopeSet};
    use crate::secret::ClientSecret;

    const REFRESH: &str = "r/1+=";

    fn refresh(spec: ClientSpec, target: &Target) -> Result<Prepared, PrepareError> {
        let token = RefreshToken::new(REFRESH.into());
        prepare(spec, Exchange::Refresh { token: &token, target })
    }

    fn on_behalf_of(spec: ClientSpec, target: &Target) -> Result<Prepared, PrepareError> {
        let assertion = UnverifiedAssertion::new("a.b.c".into());
        prepare(spec, Exchange::OnBehalfOf { assertion: &assertion, target })
    }

    fn prepare(spec: ClientSpec, exchange: Exchange<'_>) -> Result<Prepared, PrepareError> {
        let client = ready(provider("https://p.example"), spec, SystemClock::shared());
        let proof = Proof { now: Timestamp(0), send_by: Timestamp(1000), jti: "j".into() };
        client.prepare(&tenant(), exchange, proof)
    }

    fn full() -> Target {
        Target {
            scopes: ScopeSet::new(["b/.default", "a", "openid"]).unwrap(),
            resource: Some(Resource::new("https://graph.example/").unwrap()),
            claims: Some(Claims::new(r#"{"access_token":{"acrs":{"essential":true}}}"#).unwrap()),
        }
    }

    fn jwt_client() -> ClientSpec {
        let key_pem = ClientSecret::new(ec_key_pem());
        let alg = SigningAlg::Es256;
        client(ClientAuth::PrivateKeyJwt { key_pem, alg, key_id: None, certificate_pem: None })
    }

    fn basic_client() -> ClientSpec {
        client(ClientAuth::SecretBasic(ClientSecret::new("s".into())))
    }

    #[test]
    fn a_refresh_has_its_fields_in_order() {
        let prepared = refresh(post_client(), &full()).unwrap();
        assert_eq!(
            *prepared.body,
            "client_id=client+1&grant_type=refresh_token&client_info=1&client_secret=s3cr%26t\
             &claims=%7B%22access_token%22%3A%7B%22acrs%22%3A%7B%22essential%22%3Atrue%7D%7D%7D\
             &refresh_token=r%2F1%2B%3D&scope=a+b%2F.default+openid\
             &resource=https%3A%2F%2Fgraph.example%2F"
        );
        assert_eq!(prepared.url.as_str(), "https://p.example/t1/token");
        assert_eq!((prepared.authorization, prepared.fenced_at), (None, None));
    }

    #[test]
    fn a_refresh_for_the_scopes_of_the_grant_names_none() {
        let prepared = refresh(post_client(), &Target::default()).unwrap();
        assert_eq!(
            *prepared.body,
            "client_id=client+1&grant_type=refresh_token&client_info=1&client_secret=s3cr%26t\
             &refresh_token=r%2F1%2B%3D"
        );
    }

    #[test]
    fn an_exchange_on_behalf_of_has_its_fields_in_order() {
        let prepared = on_behalf_of(post_client(), &full()).unwrap();
        assert_eq!(
            *prepared.body,
            "client_id=client+1&grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&client_info=1\
             &client_secret=s3cr%26t&requested_token_use=on_behalf_of\
             &claims=%7B%22access_token%22%3A%7B%22acrs%22%3A%7B%22essential%22%3Atrue%7D%7D%7D\
             &scope=a+b%2F.default+offline_access+openid+profile\
             &resource=https%3A%2F%2Fgraph.example%2F&assertion=a.b.c"
        );
    }

    /// What MSAL 1.39 for Python was seen to send, with the same values.
    #[test]
    fn requests_are_byte_for_byte_those_of_microsofts_client() {
        let spec = || client(ClientAuth::SecretPost(ClientSecret::new("s~*cr&t".into())));
        let mut entra = provider("https://p.example");
        entra.profile = Profile::tolerant();
        let client = ready(entra, spec(), SystemClock::shared());
        let body = |exchange: Exchange<'_>| {
            let proof = Proof { now: Timestamp(0), send_by: Timestamp(1000), jti: "j".into() };
            client.prepare(&tenant(), exchange, proof).unwrap().body.to_string()
        };
        let token = RefreshToken::new("r~*!'()/+=- ".into());
        let assertion = UnverifiedAssertion::new("a.b.c".into());
        for (scopes, claims, expected, first) in [
            (vec!["b/.default", "a"], None, "&scope=a+b%2F.default+offline_access+openid+profile", ""),
            (vec!["user.read"], None, "&scope=offline_access+openid+profile+user.read", ""),
            (vec!["openid", "c"], Some("{}"), "&scope=c+offline_access+openid+profile", "&claims=%7B%7D"),
        ] {
            let claims = claims.map(|claims| Claims::new(claims).unwrap());
            let target = Target { scopes: ScopeSet::new(scopes).unwrap(), claims, resource: None };
            assert_eq!(
                body(Exchange::Refresh { token: &token, target: &target }),
                format!(
                    "client_id=client+1&grant_type=refresh_token&client_info=1&client_secret=s~%2Acr%26t{first}\
                     &refresh_token=r~%2A%21%27%28%29%2F%2B%3D-+{expected}"
                )
            );
            assert_eq!(
                body(Exchange::OnBehalfOf { assertion: &assertion, target: &target }),
                format!(
                    "client_id=client+1&grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer\
                     &client_info=1&client_secret=s~%2Acr%26t&requested_token_use=on_behalf_of{first}{expected}\
                     &assertion=a.b.c"
                )
            );
        }
        let none = body(Exchange::Refresh { token: &token, target: &Target::default() });
        assert!(!none.contains("scope"), "the grant's own: {none}");
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_again(value: String) {
            let body = form(&[("v", &value)]);
            prop_assert!(body.is_ascii());
            let decoded: Vec<_> = url::form_urlencoded::parse(body.as_bytes()).collect();
            prop_assert_eq!(&*decoded[0].1, value);
        }
    }

    #[test]
    fn a_secret_in_the_header_is_not_in_the_body() {
        for prepared in [refresh(basic_client(), &full()), on_behalf_of(basic_client(), &full())] {
            let prepared = prepared.unwrap();
            // The form-encoded pair "client+1:s".
            assert_eq!(prepared.authorization.as_deref().map(String::as_str), Some("Basic Y2xpZW50KzE6cw=="));
            assert!(!prepared.body.contains("client_secret"), "{}", *prepared.body);
            assert!(prepared.body.starts_with("client_id=client+1&grant_type="));
        }
    }

    #[test]
    fn an_assertion_stands_where_the_secret_does() {
        for (prepared, next) in [
            (refresh(jwt_client(), &full()), "claims"),
            (on_behalf_of(jwt_client(), &full()), "requested_token_use"),
        ] {
            let prepared = prepared.unwrap();
            let names: Vec<&str> = prepared.body.split('&').map(|f| f.split_once('=').unwrap().0).collect();
            let first =
                ["client_id", "grant_type", "client_info", "client_assertion", "client_assertion_type"];
            assert_eq!(names[..5], first);
            assert_eq!(names[5], next);
            assert!(prepared.body.contains(
                "&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&"
            ));
            assert_eq!(prepared.fenced_at(), Some(Timestamp(6000 + 60_000)));
        }
    }

    #[test]
    fn a_challenge_does_not_displace_the_declared_capability() {
        let merged = |challenge: Option<&str>| -> Value {
            let challenge = challenge.map(|c| Claims::new(c).unwrap());
            serde_json::from_str(&claims(true, challenge.as_ref()).unwrap().unwrap()).unwrap()
        };
        let cp1 = json!({ "values": ["CP1"] });
        assert_eq!(merged(None), json!({ "access_token": { "xms_cc": cp1 } }));
        assert_eq!(
            merged(Some(r#"{"access_token":{"nbf":{"essential":true,"value":"1"}},"id_token":{"a":null}}"#)),
            json!({
                "access_token": { "xms_cc": cp1, "nbf": { "essential": true, "value": "1" } },
                "id_token": { "a": null },
            })
        );
        assert_eq!(
            merged(Some(r#"{"access_token":{"xms_cc":{"values":["CP2","CP1"]}}}"#)),
            json!({ "access_token": { "xms_cc": { "values": ["CP1", "CP2"] } } })
        );
        for nothing in [r#"{"access_token":null}"#, r#"{"access_token":{"xms_cc":null}}"#] {
            assert_eq!(merged(Some(nothing)), json!({ "access_token": { "xms_cc": cp1 } }));
        }
    }

    #[test]
    fn claims_that_are_not_json_are_not_sent() {
        let claims = Some(Claims::new("{nonsense}").unwrap());
        let target = Target { claims, ..Target::default() };
        assert_eq!(refresh(post_client(), &target).unwrap_err(), PrepareError::ClaimsNotJson);
        let cp1 = ClientSpec { declares_cp1: true, ..post_client() };
        assert_eq!(on_behalf_of(cp1, &target).unwrap_err(), PrepareError::ClaimsNotJson);
    }

    #[test]
    fn a_request_prints_nothing_of_its_body() {
        let prepared = refresh(basic_client(), &full()).unwrap();
        let printed = format!("{prepared:?}");
        assert!(
            !printed.contains("Basic") && !printed.contains("r%2F1") && !printed.contains(REFRESH),
            "{printed}"
        );
    }
}
