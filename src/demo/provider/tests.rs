//! What a client sees of the provider, down to the bytes: each test talks to
//! it over a socket of its own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::clock::{Clock as _, ShiftedClock, SystemClock};
use crate::domain::profile::Reuse;
use crate::entropy::OsEntropy;

const SCOPE: &str = "https://graph.example/mail.read";

#[tokio::test]
async fn every_use_rotates_and_an_old_token_kills_the_family() {
    let provider = start(Options::default()).await;
    let first = provider.mint_refresh_token("vault", "ada", &[SCOPE]);
    let second = refresh(&provider, &first).await.token();
    assert_ne!(first, second);
    let third = refresh(&provider, &second).await.token();
    assert_eq!(provider.current_refresh_token("ada", "vault").as_ref(), Some(&third));
    assert!(provider.family_alive("ada"));

    let reused = refresh(&provider, &first).await;
    assert_eq!((reused.status, reused.error()), (400, "invalid_grant".to_owned()));
    let newest = refresh(&provider, &third).await;
    assert_eq!((newest.status, newest.error()), (400, "invalid_grant".to_owned()));

    assert!(!provider.family_alive("ada"));
    assert_eq!(provider.current_refresh_token("ada", "vault"), None);
    let stats = provider.stats();
    assert_eq!((stats.token_requests, stats.refreshes), (4, 2));
    assert_eq!((stats.reuse_detected, stats.families_revoked), (1, 1));
}

#[tokio::test]
async fn of_concurrent_uses_one_at_most_succeeds_and_the_family_dies() {
    let provider = Arc::new(start(Options::default()).await);
    let token = provider.mint_refresh_token("vault", "ada", &[SCOPE]);
    let uses: Vec<_> = (0..8)
        .map(|_| {
            let (provider, token) = (Arc::clone(&provider), token.clone());
            tokio::spawn(async move { refresh(&provider, &token).await.status })
        })
        .collect();
    let mut successes = 0;
    for one in uses {
        successes += usize::from(one.await.unwrap() == 200);
    }
    assert_eq!(successes, 1);
    assert!(!provider.family_alive("ada"));
}

#[tokio::test]
async fn a_token_with_white_space_or_a_byte_missing_is_not_the_token() {
    let provider = start(Options::default()).await;
    let token = provider.mint_refresh_token("vault", "ada", &[SCOPE]);
    for wrong in [format!("{token}\n"), format!(" {token}"), token[..token.len() - 1].to_owned()] {
        assert_eq!(refresh(&provider, &wrong).await.error(), "invalid_grant");
    }
    assert_eq!(refresh(&provider, &token).await.status, 200);
}

#[tokio::test]
async fn on_behalf_of_gives_a_refresh_token_and_names_the_user() {
    let provider = start(Options::default()).await;
    let assertion = provider.user_token("ada", "api://vault");
    let answer = on_behalf_of(&provider, &assertion, &format!("{SCOPE} offline_access openid")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["scope"], SCOPE);
    let claims = unverified(answer.json()["id_token"].as_str().unwrap());
    assert_eq!((&claims["oid"], &claims["tid"]), (&json!("ada"), &json!("contoso")));
    assert_eq!((&claims["aud"], &claims["iss"]), (&json!("vault"), &json!(provider.issuer())));
    let access = unverified(answer.json()["access_token"].as_str().unwrap());
    assert_eq!(access["aud"], "https://graph.example");
    assert_eq!(refresh(&provider, &answer.token()).await.status, 200);
    assert_eq!(provider.stats().obo_exchanges, 1);

    let without = on_behalf_of(&provider, &assertion, SCOPE).await;
    assert_eq!((without.status, without.json().get("refresh_token")), (200, None));
}

#[tokio::test]
async fn a_fault_for_some_requests_leaves_the_others_and_the_queue_alone() {
    let provider = start(Options::default()).await;
    let files = || [("resource", "https://files.example"), ("scope", "a b")];
    let kinds = [
        (
            Matching { resource: Some("https://files.example".into()), ..Matching::default() },
            files().to_vec(),
        ),
        (Matching { scope: Some("b".into()), ..Matching::default() }, files().to_vec()),
        (Matching { claims: true, ..Matching::default() }, vec![("claims", "{}")]),
    ];
    for (matching, fields) in kinds {
        let token = provider.mint_refresh_token("vault", "ada", &[SCOPE]);
        let (seen, all) = (provider.count_when(matching.clone()), provider.count_when(Matching::default()));
        provider.script(Fault::error(503, "temporarily_unavailable"), 1);
        provider.fault_when(matching.clone(), Fault::error(400, "invalid_target"), 2);
        let with_fields = async || refresh_with(&provider, &token, &fields).await;
        assert_eq!(with_fields().await.error(), "invalid_target", "{matching:?}");
        let near_miss = [("resource", "https://files.example/2"), ("scope", "ab bc")];
        assert_eq!(refresh_with(&provider, &token, &near_miss).await.error(), "temporarily_unavailable");
        assert_eq!(with_fields().await.error(), "invalid_target", "{matching:?}");
        assert_eq!(with_fields().await.status, 200, "{matching:?}");
        assert_eq!((seen.count(), all.count()), (3, 4), "{matching:?}");

        provider.fault_when(matching, Fault::EmptyBody400, usize::MAX);
        for _ in 0..3 {
            assert_eq!(with_fields().await.status, 400);
        }
        provider.clear_script();
    }
    assert_eq!(provider.stats().reuse_detected, 0);
}

#[tokio::test]
async fn what_was_asked_for_is_shown_without_what_proves_something() {
    let provider = start(Options::default()).await;
    let token = provider.mint_refresh_token("vault", "ada", &[SCOPE]);
    refresh_with(&provider, &token, &[("scope", "a b"), ("claims", "{}")]).await;
    on_behalf_of(&provider, &provider.user_token("ada", "api://vault"), SCOPE).await;
    let asked = [("grant_type", "refresh_token"), ("client_id", "vault"), ("scope", "a b"), ("claims", "{}")];
    assert_eq!(
        provider.last_refresh(),
        asked.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    );
}

#[tokio::test]
async fn all_that_a_user_agreed_to_at_a_resource_may_be_in_the_answer() {
    let consented = ["https://graph.example/files.all", "https://other.example/x"].map(str::to_owned);
    let provider = start(Options { consented: consented.to_vec(), ..Options::default() }).await;
    let token = provider.mint_refresh_token("vault", "ada", &[SCOPE]);
    let answer = refresh_with(&provider, &token, &[("scope", SCOPE)]).await;
    assert_eq!(answer.json()["scope"], format!("https://graph.example/files.all {SCOPE}"));
    let access = unverified(answer.json()["access_token"].as_str().unwrap());
    assert_eq!(access["scp"], answer.json()["scope"]);
}

#[tokio::test]
async fn a_user_of_another_tenant_stays_one() {
    let provider = start(Options::default()).await;
    let claims = UserClaims { tenant: Some("fabrikam".into()), ..UserClaims::default() };
    let assertion = provider.user_token_with("grace", claims);
    let exchanged = on_behalf_of(&provider, &assertion, &format!("{SCOPE} offline_access")).await;
    let refreshed = refresh(&provider, &exchanged.token()).await;
    for answer in [exchanged, refreshed] {
        let access = unverified(answer.json()["access_token"].as_str().unwrap());
        assert_eq!(access["tid"], "fabrikam");
    }
}

#[tokio::test]
async fn a_bad_assertion_gives_nothing() {
    let provider = start(Options::default()).await;
    let other_audience = UserClaims { audience: "api://other".into(), ..UserClaims::default() };
    let expired = UserClaims { expires_in_seconds: -1, ..UserClaims::default() };
    let other_issuer =
        UserClaims { issuer: Some("https://elsewhere.example".into()), ..UserClaims::default() };
    let stranger = UserClaims { signed_by_stranger: true, ..UserClaims::default() };
    let nobody = UserClaims { without: vec!["oid".into()], ..UserClaims::default() };
    for claims in [other_audience, expired, other_issuer, stranger, nobody] {
        let assertion = provider.user_token_with("ada", claims.clone());
        let answer = on_behalf_of(&provider, &assertion, SCOPE).await;
        assert_eq!((answer.status, answer.error()), (400, "invalid_grant".to_owned()), "{claims:?}");
    }
    assert_eq!(provider.stats().obo_exchanges, 0);
}

#[tokio::test]
async fn a_user_who_owes_a_second_factor_gets_claims_and_keeps_the_token() {
    let provider = start(Options::default()).await;
    let token = provider.mint_refresh_token("vault", "ada", &[SCOPE]);
    provider.require_mfa("ada", true);
    let answer = refresh(&provider, &token).await;
    assert_eq!((answer.status, answer.error()), (400, "interaction_required".to_owned()));
    assert_eq!(answer.json()["suberror"], "basic_action");
    let claims: Value = serde_json::from_str(answer.json()["claims"].as_str().unwrap()).unwrap();
    assert!(claims["access_token"].is_object());
    provider.require_mfa("ada", false);
    assert_eq!(refresh(&provider, &token).await.status, 200);
}

#[tokio::test]
async fn without_multi_resource_another_resources_scope_is_refused_and_a_other_resource_redeems() {
    let provider = start(Options { multi_resource: false, ..Options::default() }).await;
    let token = provider.mint_refresh_token("vault", "ada", &[SCOPE]);
    let with = |name: &'static str, value: &'static str| {
        let form = vec![("grant_type", "refresh_token"), ("refresh_token", &token), (name, value)];
        post(&provider, "/token", with_secret(form))
    };
    assert_eq!(with("scope", "https://files.example/read").await.error(), "invalid_scope");
    assert!(provider.current_refresh_token("ada", "vault").unwrap() == token, "invalid_scope used the token");
    assert_eq!(with("resource", "https://files.example").await.error(), "invalid_target");
    assert!(
        provider.current_refresh_token("ada", "vault").unwrap() != token,
        "invalid_target kept the token"
    );
}

#[tokio::test]
async fn a_wrong_secret_is_refused_before_the_token_is_looked_at() {
    let provider = start(Options::default()).await;
    let token = provider.mint_refresh_token("vault", "ada", &[SCOPE]);
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", &token),
        ("client_id", "vault"),
        ("client_secret", "guess"),
    ];
    let answer = post(&provider, "/token", form.to_vec()).await;
    assert_eq!((answer.status, answer.error()), (401, "invalid_client".to_owned()));
    assert_eq!(provider.stats().clients_refused, 1);
    assert_eq!(refresh(&provider, &token).await.status, 200);
}

#[tokio::test]
async fn a_client_assertion_is_good_once_and_until_it_expires() {
    let pair = KeyPair::generate().unwrap();
    let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
    let clock = Arc::new(ShiftedClock::new());
    let proof = DevClientAuth::PublicKeyPem(pair.public_key_pem(), Algorithm::ES256);
    let options = Options { clients: vec![("cert".to_owned(), proof)], ..Options::default() };
    let provider = DevProvider::start(options, clock.clone(), OsEntropy::shared()).await.unwrap();

    let assertion = |jti: &str, audience: &str| {
        let exp = clock.now().unix_seconds() + 10;
        let claims = json!({"iss": "cert", "sub": "cert", "aud": audience, "exp": exp, "jti": jti});
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key).unwrap()
    };
    let redeem = async |assertion: &str| {
        let token = provider.current_refresh_token("ada", "cert").unwrap();
        let form = vec![
            ("grant_type", "refresh_token"),
            ("refresh_token", &token),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", assertion),
        ];
        post(&provider, "/token", form).await.status
    };
    let _first = provider.mint_refresh_token("cert", "ada", &[SCOPE]);

    let once = assertion("a", &provider.token_endpoint());
    assert_eq!(redeem(&once).await, 200);
    assert_eq!(redeem(&once).await, 401, "the same jti was accepted twice");
    assert_eq!(redeem(&assertion("b", "https://elsewhere.example")).await, 401);

    let late = assertion("c", &provider.issuer());
    let in_time = assertion("d", &provider.issuer());
    clock.advance(Duration::from_secs(20));
    assert_eq!(redeem(&in_time).await, 200, "the tolerance was not granted");
    clock.advance(Duration::from_secs(10));
    assert_eq!(redeem(&late).await, 401, "an expired assertion was accepted");
    assert!(provider.family_alive("ada"));
}

#[tokio::test]
async fn revocation_ends_the_family_and_tells_nothing_of_unknown_tokens() {
    let provider = start(Options::default()).await;
    let token = provider.mint_refresh_token("vault", "ada", &[SCOPE]);
    let revoke = |token: &str| post(&provider, "/revoke", with_secret(vec![("token", token)]));
    assert_eq!(revoke("never-issued").await.status, 200);
    assert!(provider.family_alive("ada"));
    assert_eq!(revoke(&token).await.status, 200);
    assert!(!provider.family_alive("ada"));
    assert_eq!(refresh(&provider, &token).await.error(), "invalid_grant");
    assert_eq!((provider.stats().revocations, provider.stats().families_revoked), (1, 1));
}

#[tokio::test]
async fn the_published_key_explains_the_tokens_until_it_is_rotated() {
    let provider = start(Options::default()).await;
    let explains = |set: &Value, token: &str| {
        let jwk = serde_json::from_value(set["keys"][0].clone()).unwrap();
        let key = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
        let kid = jsonwebtoken::decode_header(token).unwrap().kid;
        kid.as_deref() == set["keys"][0]["kid"].as_str()
            && signer::verify(token, &key, Algorithm::ES256).is_some()
    };
    let keys = get(&provider, "/jwks").await.json();
    assert!(explains(&keys, &provider.user_token("ada", "api://vault")));
    let stranger = UserClaims { signed_by_stranger: true, ..UserClaims::default() };
    assert!(!explains(&keys, &provider.user_token_with("ada", stranger)));

    provider.rotate_signing_key().unwrap();
    let token = provider.user_token("ada", "api://vault");
    assert!(!explains(&keys, &token));
    assert!(explains(&get(&provider, "/jwks").await.json(), &token));
    provider.withhold_jwks(true);
    assert_eq!(get(&provider, "/jwks").await.status, 503);
}

#[tokio::test]
async fn discovery_names_the_addresses() {
    let provider = start(Options::default()).await;
    let document = get(&provider, "/.well-known/openid-configuration").await.json();
    assert_eq!(document["issuer"], provider.issuer());
    assert_eq!(document["token_endpoint"], provider.token_endpoint());
    assert_eq!(document["jwks_uri"], provider.jwks_uri());
    assert_eq!(document["revocation_endpoint"], provider.revocation_endpoint());
}

#[tokio::test]
async fn faults_are_met_in_order_and_then_all_is_well() {
    let provider = start(Options::default()).await;
    let token = provider.mint_refresh_token("vault", "ada", &[SCOPE]);
    provider.script(Fault::throttled(Some(7)), 2);
    provider.script(Fault::error(500, "server_error"), 1);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let answer = refresh(&provider, &token).await;
        seen.push((answer.status, answer.header("retry-after")));
    }
    assert_eq!(seen, [(429, Some("7".to_owned())), (429, Some("7".to_owned())), (500, None)]);
    assert_eq!(refresh(&provider, &token).await.status, 200);
}

/// Each fault that answers something whole: what it looks like, and whether
/// the token that was sent is used afterwards.
#[tokio::test]
async fn each_whole_fault_does_what_it_says() {
    type Check = fn(&Answer) -> bool;
    let status = |body: Option<&str>, content_type: Option<&str>, consumes| Fault::Status {
        status: 403,
        error: Some("access_denied".into()),
        suberror: Some("token_expired".into()),
        claims: Some("{}".into()),
        retry_after: None,
        body: body.map(str::to_owned),
        content_type: content_type.map(str::to_owned),
        consumes,
    };
    let cases: Vec<(Fault, Check, bool)> = vec![
        (
            status(None, None, false),
            |a| a.status == 403 && a.error() == "access_denied" && a.json()["suberror"] == "token_expired",
            false,
        ),
        (
            status(Some("oops"), Some("text/plain"), true),
            |a| a.body == b"oops" && a.header("content-type").as_deref() == Some("text/plain"),
            true,
        ),
        (Fault::EmptyBody400, |a| a.status == 400 && a.body.is_empty(), false),
        (Fault::Html { status: 200, consumes: true }, |a| a.status == 200 && a.body.starts_with(b"<!"), true),
        (
            Fault::Html { status: 500, consumes: false },
            |a| a.status == 500 && a.body.starts_with(b"<!"),
            false,
        ),
        (Fault::NoRefreshToken, |a| a.status == 200 && a.json().get("refresh_token").is_none(), false),
        (Fault::NullRefreshToken, |a| a.json().get("refresh_token") == Some(&Value::Null), false),
        (Fault::EmptyRefreshToken, |a| a.json()["refresh_token"] == "", false),
        (Fault::ExpiresInText, |a| a.json()["expires_in"] == "3600", true),
        (Fault::ExpiresInFloat, |a| a.json()["expires_in"] == 3600.5, true),
        (Fault::ExpiresInGarbage, |a| a.json()["expires_in"] == "in a while", true),
        (Fault::ExpiresInMissing, |a| a.status == 200 && a.json().get("expires_in").is_none(), true),
        (Fault::OddScopeOrder, |a| a.json()["scope"] == " b:2  a:1 ", true),
        (Fault::NoAccessToken, |a| a.json().get("access_token").is_none() && !a.token().is_empty(), true),
        (Fault::OversizedBody, |a| a.status == 200 && a.body.len() > 4 << 20 && !a.token().is_empty(), true),
        (Fault::Delay(Duration::from_millis(1)), |a| a.status == 200 && !a.token().is_empty(), true),
        (
            Fault::Redirect,
            |a| a.status == 307 && a.header("location").unwrap().ends_with("/elsewhere"),
            false,
        ),
    ];
    let provider = start(Options::default()).await;
    for (fault, looks_right, spends) in cases {
        let token = provider.mint_refresh_token("vault", "ada", &["a:1", "b:2"]);
        provider.script(fault.clone(), 1);
        let answer = refresh(&provider, &token).await;
        assert!(looks_right(&answer), "{fault:?} was answered with {answer:?}");
        assert!(answer.complete, "{fault:?} was cut");
        let current = provider.current_refresh_token("ada", "vault").unwrap();
        assert_eq!(current != token, spends, "{fault:?}");
        assert_eq!(refresh(&provider, &current).await.status, 200, "after {fault:?}");
    }
}

#[tokio::test]
async fn a_connection_closes_without_a_byte_or_in_the_middle() {
    let provider = start(Options::default()).await;
    for consume in [false, true] {
        let token = provider.mint_refresh_token("vault", "ada", &[SCOPE]);
        provider.script(Fault::CloseBeforeAnswer { consume }, 1);
        let answer = refresh(&provider, &token).await;
        assert_eq!(answer.raw_bytes, 0, "{answer:?}");
        assert_eq!(provider.current_refresh_token("ada", "vault").unwrap() != token, consume);

        let token = provider.mint_refresh_token("vault", "ada", &[SCOPE]);
        provider.script(Fault::HalfBody { consume }, 1);
        let answer = refresh(&provider, &token).await;
        assert_eq!(answer.status, 200);
        assert!(!answer.complete && !answer.body.is_empty(), "{answer:?}");
        assert_eq!(provider.current_refresh_token("ada", "vault").unwrap() != token, consume);
    }
}

#[tokio::test]
async fn a_hung_request_is_answered_when_the_gate_opens() {
    let provider = Arc::new(start(Options::default()).await);
    for consume in [false, true] {
        let token = provider.mint_refresh_token("vault", "ada", &[SCOPE]);
        let gate = Gate::new();
        provider.script(Fault::Hang { consume, gate: gate.clone() }, 1);
        let waiting = tokio::spawn({
            let (provider, token) = (Arc::clone(&provider), token.clone());
            async move { refresh(&provider, &token).await }
        });
        gate.reached(1).await;
        assert_eq!(provider.current_refresh_token("ada", "vault").unwrap() != token, consume);
        assert!(!waiting.is_finished());
        gate.release();
        let answer = waiting.await.unwrap();
        assert_eq!(provider.current_refresh_token("ada", "vault").unwrap(), answer.token());
    }
}

#[tokio::test]
async fn stopping_ends_hung_requests_and_closes_the_port() {
    let provider = start(Options::default()).await;
    let address = provider.issuer().trim_start_matches("http://").to_owned();
    let token = provider.mint_refresh_token("vault", "ada", &[SCOPE]);
    let gate = Gate::new();
    provider.script(Fault::Hang { consume: false, gate: gate.clone() }, 1);
    let form = with_secret(vec![("grant_type", "refresh_token"), ("refresh_token", &token)]);
    let hung = tokio::spawn(post(&provider, "/token", form));
    gate.reached(1).await;
    provider.stop().await;
    assert_eq!(hung.await.unwrap().raw_bytes, 0);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn opaque_access_tokens_have_the_size_that_was_asked_for() {
    let access_token = AccessTokenForm::Opaque { bytes: 1500 };
    let provider = start(Options { access_token, reuse: Reuse::Tolerated, ..Options::default() }).await;
    let token = provider.mint_refresh_token("vault", "ada", &[SCOPE]);
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let access = refresh(&provider, &token).await.json()["access_token"].as_str().unwrap().to_owned();
        assert_eq!(access.len(), 1500);
        assert!(seen.insert(access), "an access token was repeated");
    }
}

async fn start(options: Options) -> DevProvider {
    DevProvider::start(options, SystemClock::shared(), OsEntropy::shared()).await.unwrap()
}

async fn refresh(provider: &DevProvider, token: &str) -> Answer {
    refresh_with(provider, token, &[]).await
}

async fn refresh_with(provider: &DevProvider, token: &str, fields: &[(&str, &str)]) -> Answer {
    let form = [&[("grant_type", "refresh_token"), ("refresh_token", token)], fields].concat();
    post(provider, "/token", with_secret(form)).await
}

async fn on_behalf_of(provider: &DevProvider, assertion: &str, scope: &str) -> Answer {
    let form = vec![
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("requested_token_use", "on_behalf_of"),
        ("assertion", assertion),
        ("scope", scope),
    ];
    post(provider, "/token", with_secret(form)).await
}

fn with_secret<'a>(mut form: Vec<(&'a str, &'a str)>) -> Vec<(&'a str, &'a str)> {
    form.extend([("client_id", "vault"), ("client_secret", "development-secret")]);
    form
}

fn post(
    provider: &DevProvider,
    path: &str,
    form: Vec<(&str, &str)>,
) -> impl Future<Output = Answer> + Send + use<> {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    exchange(
        provider,
        format!(
            "POST {path} HTTP/1.1\r\nHost: provider\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    )
}

fn get(provider: &DevProvider, path: &str) -> impl Future<Output = Answer> + Send + use<> {
    exchange(provider, format!("GET {path} HTTP/1.1\r\nHost: provider\r\nConnection: close\r\n\r\n"))
}

fn exchange(provider: &DevProvider, request: String) -> impl Future<Output = Answer> + Send + use<> {
    let address = provider.issuer().trim_start_matches("http://").to_owned();
    async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        // A reset is one way for a connection to end; what came before counts.
        let _ = stream.read_to_end(&mut bytes).await;
        Answer::parse(&bytes)
    }
}

/// What came back, as far as it came.
struct Answer {
    raw_bytes: usize,
    status: u16,
    head: String,
    body: Vec<u8>,
    complete: bool,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(bytes.len());
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let body = bytes.get(end + 4..).unwrap_or_default().to_vec();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let mut answer = Self { raw_bytes: bytes.len(), status, head, body, complete: false };
        let announced = answer.header("content-length").and_then(|n| n.parse().ok());
        answer.complete = announced == Some(answer.body.len());
        answer
    }

    fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn token(&self) -> String {
        self.json()["refresh_token"].as_str().unwrap_or_default().to_owned()
    }

    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = String::from_utf8_lossy(&self.body[..self.body.len().min(300)]);
        write!(f, "{} bytes, status {}, body {start:?}", self.raw_bytes, self.status)
    }
}

fn unverified(token: &str) -> Value {
    jsonwebtoken::dangerous::insecure_decode_claims(token).unwrap()
}
