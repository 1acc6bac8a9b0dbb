//! ExchangeOnBehalfOf: whose token is accepted, and what is refused before the
//! provider hears of it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use obo_vault::demo::provider::{Fault, Options, UserClaims};
use obo_vault::demo::stand::Settings;
use obo_vault::proto::{self, GrantState};
use tonic::Code;

use crate::harness::{Stand, TENANT, TOKENS_EXPIRED, eventually};
use crate::refusal::Refused as _;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_proves_nothing_is_refused_and_never_sent() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let good = stand.provider.user_token("ada", "api://vault");
    let (head, signature) = good.rsplit_once('.').unwrap();
    let claims = head.split_once('.').unwrap().1;
    let unsigned = format!("{}.{claims}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#));
    let with = |claims: UserClaims| stand.provider.user_token_with("ada", claims);
    let usual = UserClaims::default;
    let without = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();

    let malformed = (Code::InvalidArgument, "ASSERTION_MALFORMED");
    let rejected = (Code::FailedPrecondition, "ASSERTION_REJECTED");
    let unsigned_refused = (Code::FailedPrecondition, "ASSERTION_ALGORITHM_REFUSED");
    let expired = (Code::FailedPrecondition, "ASSERTION_EXPIRED");
    let cases = [
        ("no JWT", "not a token".to_owned(), malformed),
        ("two parts", head.to_owned(), malformed),
        ("not signed", unsigned, unsigned_refused),
        ("other signature", format!("{head}.{}", signature.chars().rev().collect::<String>()), rejected),
        ("stranger", with(UserClaims { signed_by_stranger: true, ..usual() }), rejected),
        ("wrong audience", with(UserClaims { audience: "api://other".into(), ..usual() }), rejected),
        (
            "other issuer",
            with(UserClaims { issuer: Some("https://other.example".into()), ..usual() }),
            rejected,
        ),
        ("no tenant", with(UserClaims { without: without(&["tid"]), ..usual() }), rejected),
        ("no user", with(UserClaims { without: without(&["oid", "sub"]), ..usual() }), rejected),
        ("no expiry", with(UserClaims { without: without(&["exp"]), ..usual() }), rejected),
        ("expired", with(UserClaims { expires_in_seconds: -3600, ..usual() }), expired),
    ];
    for (name, token, expected) in cases {
        let mut request = stand.exchange_request("ada");
        request.user_access_token = token;
        let refusal = stand.exchange(request).await.refused();
        assert_eq!((refusal.code, refusal.reason.as_str()), expected, "{name}");
    }
    assert_eq!(stand.provider.stats().token_requests, 0);
    assert_eq!(stand.try_describe("ada").await.refused().reason, "GRANT_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_must_name_is_checked() {
    let stand = Stand::new().await;
    stand.tenant().await;
    type Change = fn(&mut proto::ExchangeOnBehalfOfRequest);
    let cases: [(Change, &str); 8] = [
        (|r| r.client.clear(), "INVALID_REQUEST"),
        (|r| r.client = "nothing".into(), "CLIENT_NOT_FOUND"),
        (|r| r.user_access_token.clear(), "INVALID_REQUEST"),
        (|r| r.user_access_token = "x".repeat(33 * 1024), "INVALID_REQUEST"),
        (|r| r.scopes.clear(), "INVALID_REQUEST"),
        (|r| r.scopes = vec!["a b".into()], "INVALID_REQUEST"),
        (|r| r.resource = "files".into(), "INVALID_REQUEST"),
        (|r| r.claims_challenge = "{nonsense}".into(), "INVALID_REQUEST"),
    ];
    for (number, (change, reason)) in cases.into_iter().enumerate() {
        let mut request = stand.exchange_request("ada");
        change(&mut request);
        assert_eq!(stand.exchange(request).await.refused().reason, reason, "case {number}");
    }
    assert_eq!(stand.provider.stats().token_requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_cannot_be_fetched_are_waited_for() {
    let stand = Stand::new().await;
    stand.tenant().await;
    stand.provider.withhold_jwks(true);
    let refusal = stand.exchange(stand.exchange_request("ada")).await.refused();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unavailable, "PROVIDER_UNAVAILABLE"));
    assert!(refusal.retry.is_some());
    stand.provider.withhold_jwks(false);
    stand.advance(refusal.retry.unwrap());
    stand.grant("ada").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_comes_from_the_token_and_from_nowhere_else() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let grant = stand.grant("bob").await;
    assert_eq!((grant.tenant.as_str(), grant.subject.as_str()), (TENANT, "bob"));
    assert_eq!(stand.try_describe("ada").await.refused().reason, "GRANT_NOT_FOUND");

    // A token of a user elsewhere is a grant elsewhere, whatever the user's name.
    let mut request = stand.exchange_request("bob");
    let elsewhere = UserClaims { tenant: Some("fabrikam".into()), ..UserClaims::default() };
    request.user_access_token = stand.provider.user_token_with("bob", elsewhere);
    assert_eq!(stand.exchange(request).await.refused().reason, "TENANT_NOT_FOUND");
    assert_eq!(stand.describe("bob").await.generation, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_exchange_replaces_all_that_the_grant_had() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let first = stand.exchange(stand.exchange_request("ada")).await.unwrap();
    assert!(!first.replaced);
    let first = first.grant.unwrap();
    let old = stand.token("ada").await.unwrap();
    let other = stand.token_with("ada", |r| r.scopes = vec!["files.read".into()]).await.unwrap();
    let generation = stand.describe("ada").await.generation;

    let second = stand.exchange(stand.exchange_request("ada")).await.unwrap();
    assert!(second.replaced);
    let second = second.grant.unwrap();
    assert_eq!(second.grant_id, first.grant_id);
    assert_eq!(second.generation, generation + 1);
    assert_ne!(stand.token("ada").await.unwrap().access_token, old.access_token);
    let fetched = stand.token_with("ada", |r| r.scopes = vec!["files.read".into()]).await.unwrap();
    assert_ne!(fetched.access_token, other.access_token);
    assert_eq!(stand.provider.stats().reuse_detected, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_tenant_is_made_at_enrolment_only_where_the_configuration_says_so() {
    let stand = Stand::new().await;
    let refusal = stand.exchange(stand.exchange_request("ada")).await.refused();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    assert_eq!(stand.provider.stats().token_requests, 0, "the user's token was not spent");

    let more = "[tenants]\ncreate_at_first_intake = true".to_owned();
    let stand = Stand::with(Options::default(), Settings { more, ..Settings::default() }).await;
    assert_eq!(stand.grant("ada").await.tenant, TENANT);
    stand.grant("bob").await;
    assert!(stand.token("ada").await.unwrap().from_cache);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_says_no_leaves_nothing_behind_and_the_old_grant_as_it_was() {
    let stand = Stand::new().await;
    stand.tenant().await;
    stand.grant("old").await;
    let invalid_client = Fault::error(401, "invalid_client");
    let cases = [
        (Fault::EmptyBody400, "PROVIDER_REFUSED"),
        (Fault::Html { status: 200, consumes: false }, "PROVIDER_UNAVAILABLE"),
        (Fault::Html { status: 500, consumes: false }, "PROVIDER_UNAVAILABLE"),
        (Fault::Redirect, "PROVIDER_UNAVAILABLE"),
        (Fault::CloseBeforeAnswer { consume: false }, "PROVIDER_UNAVAILABLE"),
        (Fault::HalfBody { consume: false }, "PROVIDER_UNAVAILABLE"),
        (Fault::throttled(Some(17)), "PROVIDER_THROTTLED"),
        (Fault::throttled(None), "PROVIDER_THROTTLED"),
        (Fault::NoRefreshToken, "NO_REFRESH_TOKEN"),
        (Fault::NullRefreshToken, "NO_REFRESH_TOKEN"),
        (Fault::EmptyRefreshToken, "NO_REFRESH_TOKEN"),
        (Fault::error(400, "invalid_grant"), "ASSERTION_REFUSED_BY_PROVIDER"),
        (Fault::error(400, "invalid_scope"), "PROVIDER_REFUSED"),
        (invalid_client, "PROVIDER_REJECTED_CLIENT"),
    ];
    for (fault, reason) in cases {
        for user in ["new", "old"] {
            stand.provider.script(fault.clone(), 1);
            let answered = stand.exchange(stand.exchange_request(user)).await;
            assert!(answered.is_err(), "{fault:?} at {user}");
            let refusal = answered.refused();
            assert_eq!(refusal.reason, reason, "{fault:?}");
            assert!(refusal.code != Code::Unavailable || refusal.retry.is_some(), "{fault:?}");
        }
        assert_eq!(stand.try_describe("new").await.refused().reason, "GRANT_NOT_FOUND", "{fault:?}");
        let old = stand.describe("old").await;
        assert_eq!((old.state(), old.generation), (GrantState::Active, 1), "{fault:?}");
    }
    assert_eq!(stand.provider.stats().redirects_followed, 0);
    assert!(stand.token("old").await.unwrap().from_cache);
    stand.grant("new").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pause_a_provider_asks_for_reaches_the_caller() {
    let stand = Stand::new().await;
    stand.tenant().await;
    stand.provider.script(Fault::throttled(Some(17)), 1);
    let refusal = stand.exchange(stand.exchange_request("ada")).await.refused();
    assert_eq!(refusal.retry.map(|pause| pause.as_secs()), Some(17));
}

#[tokio::test(flavor = "multi_thread")]
async fn oddities_of_an_answer_do_not_cost_the_refresh_token() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let faults = [
        Fault::ExpiresInText,
        Fault::ExpiresInFloat,
        Fault::ExpiresInGarbage,
        Fault::ExpiresInMissing,
        Fault::OddScopeOrder,
        Fault::NoAccessToken,
        Fault::OversizedBody,
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let user = format!("user-{number}");
        stand.provider.script(fault.clone(), 1);
        let mut request = stand.exchange_request(&user);
        request.scopes = vec!["mail.read".into(), "files.read".into()];
        let grant = stand.exchange(request).await.unwrap().grant.unwrap();
        assert_eq!(grant.state(), GrantState::Active, "{fault:?}");
        assert_eq!(grant.scopes, ["files.read", "mail.read"], "{fault:?}");
        stand.advance(TOKENS_EXPIRED);
        stand.token(&user).await.unwrap();
        assert!(stand.provider.family_alive(&user), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_goes_on_when_its_caller_leaves() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let gate = stand.hang();
    let request = stand.exchange_request("ada");
    let mut client = stand.client("web").await;
    let call = tokio::spawn(async move { client.grants.exchange_on_behalf_of(request).await });
    gate.reached(1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    gate.release();
    let grant = eventually("the grant is there", async || stand.try_describe("ada").await.ok()).await;
    assert_eq!(grant.state(), GrantState::Active);
    assert!(stand.token("ada").await.unwrap().from_cache);
}
