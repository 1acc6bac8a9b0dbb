//! Whose token is it: the provider's keys as they are exchanged, and the names
//! under which it issues tokens.

use obo_vault::demo::provider::{Options, UserClaims};
use obo_vault::demo::stand::Settings;
use obo_vault::proto::GrantState;

use crate::harness::{Stand, TENANT, TOKENS_EXPIRED};
use crate::log;
use crate::refusal::Refused as _;

#[tokio::test(flavor = "multi_thread")]
async fn keys_exchanged_a_moment_after_they_were_fetched_are_found() {
    let stand = Stand::new().await;
    stand.tenant().await;
    stand.grant("ada").await;
    assert_eq!(stand.provider.stats().jwks_requests, 1);
    stand.provider.rotate_signing_key().unwrap();
    stand.grant("ada").await;
    stand.grant("bob").await;
    assert_eq!(stand.provider.stats().jwks_requests, 2, "one fetch more, for all that follow");
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_tokens_drive_no_fetches() {
    let stand = Stand::new().await;
    stand.tenant().await;
    stand.grant("ada").await;
    for n in 0..30 {
        let mut request = stand.exchange_request("ada");
        let claims = UserClaims { signed_by_stranger: true, ..UserClaims::default() };
        request.user_access_token = stand.provider.user_token_with(&format!("user-{n}"), claims);
        assert_eq!(stand.exchange(request).await.refused().reason, "ASSERTION_REJECTED");
    }
    assert!(stand.provider.stats().jwks_requests <= 4, "{:?}", stand.provider.stats());
    stand.grant("bob").await;
}

/// As Entra issues v1.0 and v2.0 tokens: two names, one provider, one grant.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_stays_under_one_issuer_whatever_form_its_users_token_had() {
    let named = "https://login.example/{tenant}/v2.0";
    let mut own = String::new();
    let mut stand = Stand::unstarted(Options::default(), Settings::default(), |upstream| {
        own = std::mem::replace(&mut upstream.issuer, named.into());
    })
    .await;
    stand.reconfigure(
        "audience = [\"api://vault\"]",
        &format!("audience = [\"vault\"]\nother_issuers = [\"{own}\"]\nother_audience = [\"api://vault\"]"),
    );
    stand.start().await;
    stand.tenant().await;
    let grant = stand.grant("ada").await;
    assert_eq!(grant.issuer, named.replace("{tenant}", TENANT));
    stand.advance(TOKENS_EXPIRED);
    stand.token("ada").await.unwrap();
    // Of the other form, which the development provider itself does not take: the
    // vault does, and it is the same grant.
    let mut request = stand.exchange_request("ada");
    request.user_access_token = stand.provider.user_token_with(
        "ada",
        UserClaims {
            issuer: Some(named.replace("{tenant}", TENANT)),
            audience: "vault".into(),
            extra: serde_json::json!({ "scp": "access_as_user" }).as_object().unwrap().clone(),
            ..UserClaims::default()
        },
    );
    assert_eq!(stand.exchange(request).await.refused().reason, "ASSERTION_REFUSED_BY_PROVIDER");
    stand.restart().await;
    stand.token("ada").await.unwrap();
    let after = stand.describe("ada").await;
    assert_eq!((after.state(), after.issuer), (GrantState::Active, grant.issuer));
}

/// The log says what was expected and what came, and the token stays out of it.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_refusal_says_what_was_expected_and_what_came() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let issuer = stand.provider.issuer();
    for (claims, expected) in [
        (
            UserClaims { audience: "api://odd-audience".into(), ..UserClaims::default() },
            "its audience is \"api://odd-audience\", expected one of api://vault".to_owned(),
        ),
        (
            UserClaims { issuer: Some("https://odd-issuer.example".into()), ..UserClaims::default() },
            format!("its issuer is \"https://odd-issuer.example\", expected \"{issuer}\""),
        ),
        (
            UserClaims { signed_by_stranger: true, ..UserClaims::default() },
            "algorithm ES256, 1 published keys tried".to_owned(),
        ),
        (
            UserClaims { tenant: Some("odd tenant".into()), ..UserClaims::default() },
            "its claim tid is \"odd tenant\"".to_owned(),
        ),
    ] {
        let mut request = stand.exchange_request("ada");
        request.user_access_token = stand.provider.user_token_with("ada", claims);
        let token = request.user_access_token.clone();
        assert!(stand.exchange(request).await.is_err());
        // Quotes are escaped in the log's fields.
        let log = log::captured().replace("\\\"", "\"");
        assert!(log.contains(&expected), "{expected} is not in the log");
        let signature = token.rsplit_once('.').unwrap().1;
        assert!(!log.contains(signature), "a token is in the log");
    }
}
