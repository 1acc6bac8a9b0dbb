//! GetAccessToken: what is shared and what is not, when a token is fetched, and
//! what ends a grant.

use std::collections::BTreeSet;
use std::time::Duration;

use obo_vault::demo::provider::Options;
use obo_vault::demo::stand::{POLICY, Settings};
use obo_vault::proto::{CreateTenantRequest, GrantState};
use tonic::Code;

use crate::harness::{Stand, TOKENS_EXPIRED, eventually, token_request};
use crate::refusal::Refused as _;

/// Past the moment from which a token is refreshed ahead (70 % of an hour at
/// the latest), while it still lives.
const NEARLY_OVER: Duration = Duration::from_secs(2600);

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_tenant_a_foreign_tenant_and_an_unknown_grant_look_the_same() {
    let stand = ready("ada").await;
    let request = CreateTenantRequest { tenant: "fabrikam".into() };
    stand.client("operator").await.tenants.create_tenant(request).await.unwrap();

    let unknown_grant = stand.token("nobody").await.refused();
    let foreign = stand.token_with("ada", |r| r.tenant = "fabrikam".into()).await.refused();
    let unknown_tenant = stand.token_with("ada", |r| r.tenant = "nowhere".into()).await.refused();
    for refusal in [&unknown_grant, &foreign, &unknown_tenant] {
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::NotFound, "GRANT_NOT_FOUND"));
        assert_eq!(refusal.retry, None);
    }
    assert_eq!(stand.provider.stats().token_requests, 1, "the enrolment alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_policy_does_not_permit_is_refused_whether_it_exists_or_not() {
    let policy = POLICY.replacen(
        "when { context.client == \"portal\" }",
        "when { context.client == \"portal\" && resource == Tenant::\"contoso\" \
         && !context.scopes.isEmpty() && [\"mail.read\"].containsAll(context.scopes) }",
        1,
    );
    let stand = Stand::with(Options::default(), Settings { policy, ..Settings::default() }).await;
    stand.tenant().await;
    stand.grant("ada").await;
    stand.token("ada").await.unwrap();

    let scope = stand.token_with("ada", |r| r.scopes = vec!["mail.read".into(), "mail.send".into()]).await;
    let all_scopes = stand.token_with("ada", |r| r.scopes.clear()).await;
    let tenant = stand.token_with("ada", |r| r.tenant = "nowhere".into()).await;
    let client = stand.token_with("ada", |r| r.client = "nothing".into()).await;
    let before = stand.provider.stats();
    for answer in [scope, all_scopes, tenant, client] {
        let refusal = answer.refused();
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::PermissionDenied, "NOT_PERMITTED"));
    }
    assert_eq!(stand.provider.stats(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_outside_the_grant_is_refused_before_the_provider_is_asked() {
    let options = Options { multi_resource: false, ..Options::default() };
    let settings = Settings { profile: "profile = \"strict\"".into(), ..Settings::default() };
    let stand = Stand::with(options, settings).await;
    stand.tenant().await;
    stand.grant("ada").await;

    let before = stand.provider.stats();
    let refusal = stand.token_with("ada", |r| r.scopes = vec!["files.read".into()]).await.refused();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "SCOPE_NOT_GRANTED"));
    // Such a provider redeems the token before it refuses the resource.
    let resource = stand.token_with("ada", |r| r.resource = "https://typo.example".into()).await.refused();
    assert_eq!(resource.reason, "SCOPE_NOT_GRANTED");
    assert_eq!(stand.provider.stats(), before);
    // The refusal is remembered for those scopes alone.
    stand.advance(TOKENS_EXPIRED);
    stand.token_with("ada", |r| r.scopes = vec!["files.read".into()]).await.refused();
    assert!(!stand.token("ada").await.unwrap().from_cache);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_never_shared_between_scopes_resources_claims_or_users() {
    let stand = ready("ada").await;
    stand.grant("bob").await;
    let two = || vec!["mail.read".to_owned(), "files.read".to_owned()];
    let ask = async || {
        [
            stand.token("ada").await,
            stand.token("bob").await,
            stand.token_with("ada", |r| r.scopes = two()).await,
            stand.token_with("ada", |r| r.scopes = vec!["files.read".into()]).await,
            stand.token_with("ada", |r| r.resource = "https://files.example".into()).await,
            stand.token_with("ada", |r| r.resource = "https://mail.example".into()).await,
            stand.token_with("ada", |r| r.claims_challenge = r#"{"access_token":{"a":null}}"#.into()).await,
            stand.token_with("ada", |r| r.claims_challenge = r#"{"access_token":{"b":null}}"#.into()).await,
        ]
        .map(Result::unwrap)
    };
    let first = ask().await;
    let different: BTreeSet<_> = first.iter().map(|answer| &answer.access_token).collect();
    assert_eq!(different.len(), first.len());

    let asked = stand.provider.stats().token_requests;
    for (answer, before) in ask().await.iter().zip(&first) {
        assert!(answer.from_cache);
        assert_eq!(answer.access_token, before.access_token);
    }
    let turned = stand.token_with("ada", |r| r.scopes = two().into_iter().rev().chain(two()).collect()).await;
    assert_eq!(turned.unwrap().access_token, first[2].access_token, "order and repetition do not matter");
    assert_eq!(stand.provider.stats().token_requests, asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claims_challenge_goes_past_memory_to_the_provider() {
    let stand = ready("ada").await;
    let plain = stand.token("ada").await.unwrap();
    assert!(plain.from_cache);
    let challenge = r#"{"access_token":{"nbf":{"essential":true,"value":"1700000000"}}}"#;
    let answered = stand.token_with("ada", |r| r.claims_challenge = challenge.into()).await.unwrap();
    assert!(!answered.from_cache);
    assert_ne!(answered.access_token, plain.access_token);
    let sent: serde_json::Value =
        serde_json::from_str(&stand.provider.last_token_request()["claims"]).unwrap();
    assert_eq!(sent["access_token"]["nbf"]["value"], "1700000000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lives_at_least_as_long_as_asked() {
    let lifetime = Duration::from_secs(1200);
    let stand =
        Stand::with(Options { access_token_lifetime: lifetime, ..Options::default() }, Settings::default())
            .await;
    stand.tenant().await;
    stand.grant("ada").await;
    let at_least = |seconds| prost_types::Duration { seconds, nanos: 0 };

    // 590 of its 1200 seconds are left, and it is not due for a refresh ahead.
    stand.advance(Duration::from_secs(610));
    let kept = stand.token_with("ada", |r| r.min_remaining_life = Some(at_least(500))).await.unwrap();
    assert!(kept.from_cache);
    let fetched = stand.token_with("ada", |r| r.min_remaining_life = Some(at_least(600))).await.unwrap();
    assert_ne!(fetched.access_token, kept.access_token);

    let most = stand.token_with("ada", |r| r.min_remaining_life = Some(at_least(601))).await.refused();
    assert_eq!(most.reason, "INVALID_REQUEST");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_shorter_than_asked_is_handed_out_and_does_not_cost_a_request_each_time() {
    let lifetime = Duration::from_secs(300);
    let stand =
        Stand::with(Options { access_token_lifetime: lifetime, ..Options::default() }, Settings::default())
            .await;
    stand.tenant().await;
    stand.grant("ada").await;
    let asked = stand.provider.stats().token_requests;
    for _ in 0..3 {
        let ten_minutes = prost_types::Duration { seconds: 600, nanos: 0 };
        stand.token_with("ada", |r| r.min_remaining_life = Some(ten_minutes)).await.unwrap();
    }
    assert_eq!(stand.provider.stats().token_requests, asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_refreshed_ahead_once_and_only_when_somebody_asks() {
    let stand = ready("ada").await;
    let first = stand.token("ada").await.unwrap();
    stand.advance(NEARLY_OVER);
    assert_eq!(stand.provider.stats().refreshes, 0, "nobody has asked");

    let second = stand.token("ada").await.unwrap();
    assert!(second.from_cache);
    assert_eq!(second.access_token, first.access_token);
    let third = eventually("the token is replaced", async || {
        let answer = stand.token("ada").await.unwrap();
        assert!(answer.from_cache, "nobody waits for a refresh ahead");
        (answer.access_token != first.access_token).then_some(answer)
    })
    .await;
    assert_eq!(stand.token("ada").await.unwrap().access_token, third.access_token);
    assert_eq!(stand.provider.stats().refreshes, 1);
    assert_eq!(stand.describe("ada").await.generation, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_cancels_loses_nothing() {
    let stand = ready("ada").await;
    stand.advance(TOKENS_EXPIRED);
    let gate = stand.hang();
    let mut client = stand.client("mail").await;
    let call = tokio::spawn(async move { client.tokens.get_access_token(token_request("ada")).await });
    gate.reached(1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!(stand.describe("ada").await.state(), GrantState::Sending);

    gate.release();
    assert_eq!(stand.until("ada", GrantState::Active).await.generation, 2);
    assert!(stand.token("ada").await.unwrap().from_cache, "its answer is there for the next one");
    stand.advance(TOKENS_EXPIRED);
    stand.token("ada").await.unwrap();
    assert_eq!(stand.provider.stats().reuse_detected, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_whose_deadline_passes_loses_nothing() {
    let stand = ready("ada").await;
    stand.advance(TOKENS_EXPIRED);
    let gate = stand.hang();
    let mut request = tonic::Request::new(token_request("ada"));
    request.set_timeout(Duration::from_millis(200));
    let late = stand.client("mail").await.tokens.get_access_token(request).await.unwrap_err();
    // CANCELLED is the word of this client's own timer; `deadlines` asks the vault's.
    assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late:?}");

    gate.reached(1).await;
    gate.release();
    assert_eq!(stand.until("ada", GrantState::Active).await.generation, 2);
    assert!(stand.token("ada").await.unwrap().from_cache);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_grant_is_not_asked_for_again_until_the_user_comes_back() {
    let stand = ready("ada").await;
    stand.advance(TOKENS_EXPIRED);
    stand.provider.revoke_user("ada");
    let refusal = stand.token("ada").await.refused();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "GRANT_REVOKED"));
    assert_eq!(refusal.retry, None, "waiting does not help");

    let asked = stand.provider.stats().token_requests;
    assert_eq!(stand.token("ada").await.refused().reason, "GRANT_REVOKED");
    // Long after the refusal is forgotten, the grant's state still says so.
    stand.advance(TOKENS_EXPIRED);
    assert_eq!(stand.token("ada").await.refused().reason, "GRANT_REVOKED");
    assert_eq!(stand.provider.stats().token_requests, asked);
    assert_eq!(stand.describe("ada").await.state(), GrantState::Revoked);

    let revived = stand.grant("ada").await;
    assert_eq!(revived.generation, 2);
    assert_eq!(revived.state(), GrantState::Active);
    assert!(stand.token("ada").await.unwrap().from_cache);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_reaches_the_caller_as_claims() {
    let stand = ready("ada").await;
    stand.advance(TOKENS_EXPIRED);
    stand.provider.require_mfa("ada", true);
    let claims = r#"{"access_token":{"acrs":{"essential":true,"values":["second-factor"]}}}"#;
    let asked = stand.provider.stats().token_requests;
    for wait in [Duration::ZERO, Duration::ZERO, TOKENS_EXPIRED] {
        stand.advance(wait);
        let refusal = stand.token("ada").await.refused();
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::FailedPrecondition, "INTERACTION_REQUIRED")
        );
        let interaction = refusal.interaction.unwrap();
        assert_eq!(interaction.claims, claims, "verbatim");
        assert_eq!(interaction.error, "interaction_required");
        assert_eq!(interaction.suberror, "basic_action");
    }
    assert_eq!(stand.provider.stats().token_requests, asked + 1);
    assert_eq!(stand.describe("ada").await.state(), GrantState::Reauth);

    let refusal = stand.exchange(stand.exchange_request("ada")).await.refused();
    assert_eq!(refusal.interaction.unwrap().claims, claims, "an exchange meets the same demand");

    stand.provider.require_mfa("ada", false);
    assert_eq!(stand.grant("ada").await.state(), GrantState::Active);
    assert!(stand.token("ada").await.unwrap().from_cache);
}

/// A stand with a user's grant.
async fn ready(user: &str) -> Stand {
    let stand = Stand::new().await;
    stand.tenant().await;
    stand.grant(user).await;
    stand
}
