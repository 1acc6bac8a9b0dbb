//! The certified provider behaves as the tests that lean on it believe:
//! rotation on every use, family revocation on reuse, on-behalf-of, a second
//! factor on demand. When it changes its ways, this says so first.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use support::oidc_provider::{Counts, OidcProvider, Settings};

mod support;

const SCOPE: &str = "https://graph.example/mail.read offline_access openid profile";

#[test]
fn every_use_rotates_and_an_old_token_kills_the_family() {
    let provider = OidcProvider::start();
    let first = provider.refresh_token(OidcProvider::CLIENT, "ada", &["https://graph.example/mail.read"]);
    let second = token(&refresh(&provider, &first));
    let third = token(&refresh(&provider, &second));
    assert!(first != second && second != third, "a use did not rotate");
    assert_eq!(provider.counts(), Counts { refreshes: 2, exchanges: 0, grants_revoked: 0, alive: 1 });

    assert_eq!(error(&refresh(&provider, &first)), "invalid_grant");
    assert_eq!(error(&refresh(&provider, &third)), "invalid_grant");
    assert_eq!(provider.counts(), Counts { refreshes: 4, exchanges: 0, grants_revoked: 1, alive: 0 });
}

#[test]
fn on_behalf_of_gives_tokens_for_the_user_and_refuses_bad_assertions() {
    let provider = OidcProvider::start_with(&Settings {
        access_token_lifetime: Duration::from_secs(7),
        tenant: "fabrikam".to_owned(),
    });
    let (status, answer) = on_behalf_of(&provider, &provider.user_token("ada"));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["scope"], "https://graph.example/mail.read");
    assert_eq!(answer["expires_in"], 7);
    for answer in [answer.clone(), refresh(&provider, &token(&answer))] {
        let claims = unverified(&answer["id_token"]);
        assert_eq!((&claims["oid"], &claims["tid"]), (&json!("ada"), &json!("fabrikam")));
        assert_eq!((&claims["aud"], &claims["iss"]), (&json!("vault"), &json!(provider.issuer())));
        assert_eq!(unverified(&answer["access_token"])["aud"], OidcProvider::GRAPH);
    }

    let other_audience = provider.user_token_for("ada", "api://other", 600);
    let expired = provider.user_token_for("ada", OidcProvider::AUDIENCE, -600);
    for bad in [other_audience, expired, "not.a.token".to_owned()] {
        assert_eq!(error(&on_behalf_of(&provider, &bad).1), "invalid_grant");
    }
    assert_eq!(provider.counts().exchanges, 4);
}

#[test]
fn one_refresh_token_serves_several_resources() {
    let provider = OidcProvider::start();
    let first = provider.refresh_token(OidcProvider::CLIENT, "ada", &["https://graph.example/mail.read"]);
    let scope = "https://files.example/.default offline_access openid";
    let answer = redeem(&provider, &first, &[("scope", scope)]);
    assert_eq!(unverified(&answer["access_token"])["aud"], OidcProvider::FILES, "{answer}");
    assert_eq!(answer["scope"], "https://files.example/.default");
}

#[test]
fn a_second_factor_is_asked_for_without_spending_the_token() {
    let provider = OidcProvider::start();
    let first = provider.refresh_token(OidcProvider::CLIENT, "ada", &["https://graph.example/mail.read"]);
    provider.require_second_factor("ada", true);
    for answer in [refresh(&provider, &first), on_behalf_of(&provider, &provider.user_token("ada")).1] {
        assert_eq!(error(&answer), "interaction_required");
        assert_eq!(answer["suberror"], "basic_action");
        let claims: Value = serde_json::from_str(answer["claims"].as_str().unwrap()).unwrap();
        assert!(claims["access_token"].is_object());
    }
    provider.require_second_factor("ada", false);
    token(&refresh(&provider, &first));
}

#[test]
fn a_lost_answer_has_used_the_token() {
    let provider = OidcProvider::start();
    let first = provider.refresh_token(OidcProvider::CLIENT, "ada", &["https://graph.example/mail.read"]);
    provider.lose_answers(1);
    assert_eq!(refresh(&provider, &first), Value::Null);
    assert_eq!(error(&refresh(&provider, &first)), "invalid_grant");
    assert_eq!(provider.counts().grants_revoked, 1);
}

#[test]
fn an_error_does_not_prove_the_token_unused() {
    let provider = OidcProvider::start();
    let minted =
        provider.refresh_tokens(OidcProvider::CLIENT, "ada", &["https://graph.example/mail.read"], 2);
    let [(_, scope_case), (_, target_case)] = minted.as_slice() else { panic!("two were asked for") };
    assert_eq!(error(&redeem(&provider, scope_case, &[("scope", "unheard-of")])), "invalid_scope");
    token(&refresh(&provider, scope_case));
    let answer = redeem(&provider, target_case, &[("resource", "https://other.example")]);
    assert_eq!(error(&answer), "invalid_target");
    assert_eq!(error(&refresh(&provider, target_case)), "invalid_grant");
}

#[test]
fn a_client_assertion_is_accepted_once_and_until_it_expires() {
    let provider = OidcProvider::start();
    let key = EncodingKey::from_ec_pem(provider.client_key_pem().as_bytes()).unwrap();
    let assertion = |jti: &str, seconds: i64| {
        let client = OidcProvider::CERT_CLIENT;
        let claims = json!({
            "iss": client, "sub": client, "aud": provider.issuer(), "exp": now() + seconds, "jti": jti,
        });
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key).unwrap()
    };
    let redeem = |refresh_token: &str, assertion: &str| {
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", assertion),
        ];
        provider.post("/token", &form).1
    };
    let first =
        provider.refresh_token(OidcProvider::CERT_CLIENT, "ada", &["https://graph.example/mail.read"]);
    assert_eq!(error(&redeem(&first, &assertion("late", -60))), "invalid_client");
    let once = assertion("once", 30);
    let second = token(&redeem(&first, &once));
    assert_eq!(error(&redeem(&second, &once)), "invalid_client");
    token(&redeem(&second, &assertion("again", 30)));
}

#[test]
fn a_revoked_token_is_refused() {
    let provider = OidcProvider::start();
    let first = provider.refresh_token(OidcProvider::CLIENT, "ada", &["https://graph.example/mail.read"]);
    let path = provider.revocation_endpoint().replace(provider.issuer(), "");
    assert_eq!(provider.post(&path, &with_secret(&[("token", &first)])).0, 200);
    assert_eq!(error(&refresh(&provider, &first)), "invalid_grant");
}

fn refresh(provider: &OidcProvider, token: &str) -> Value {
    redeem(provider, token, &[("scope", SCOPE)])
}

fn redeem(provider: &OidcProvider, token: &str, more: &[(&str, &str)]) -> Value {
    let mut form = vec![("grant_type", "refresh_token"), ("refresh_token", token)];
    form.extend(more);
    provider.post("/token", &with_secret(&form)).1
}

fn on_behalf_of(provider: &OidcProvider, assertion: &str) -> (u16, Value) {
    let form = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("requested_token_use", "on_behalf_of"),
        ("assertion", assertion),
        ("scope", SCOPE),
    ];
    provider.post("/token", &with_secret(&form))
}

fn with_secret<'a>(form: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut form = form.to_vec();
    form.extend([("client_id", OidcProvider::CLIENT), ("client_secret", OidcProvider::CLIENT_SECRET)]);
    form
}

fn token(answer: &Value) -> String {
    answer["refresh_token"].as_str().unwrap_or_else(|| panic!("no refresh token in {answer}")).to_owned()
}

fn error(answer: &Value) -> &str {
    answer["error"].as_str().unwrap_or_else(|| panic!("no error in {answer}"))
}

fn unverified(token: &Value) -> Value {
    jsonwebtoken::dangerous::insecure_decode_claims(token.as_str().unwrap()).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "the provider is another process with the machine's clock")]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}
