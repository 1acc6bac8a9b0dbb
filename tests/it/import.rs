//! ImportGrant: a token is kept only when the provider's answer proves whose it
//! is.

use obo_vault::demo::provider::{AccessTokenForm, Fault, Options};
use obo_vault::demo::stand::Settings;
use obo_vault::proto::{
    CreateTenantRequest, DescribeGrantRequest, GrantState, ImportGrantRequest, ImportGrantResponse,
    RevokeGrantRequest,
};
use tonic::Code;

use crate::harness::{Stand, TENANT, TOKENS_EXPIRED};
use crate::refusal::Refused as _;

#[tokio::test(flavor = "multi_thread")]
async fn a_pasted_token_is_redeemed_at_once_and_kept() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let token = minted(&stand, "ada");
    let answer = import(&stand, "ada", &format!(" \t{token}\r\n\n")).await.unwrap();
    assert!(!answer.replaced);
    let grant = answer.grant.unwrap();
    assert_eq!((grant.state(), grant.generation), (GrantState::Active, 1));
    assert_eq!(stand.provider.stats().refreshes, 1);
    assert_ne!(stand.provider.current_refresh_token("ada", "vault").unwrap(), token, "it was rotated");

    stand.advance(TOKENS_EXPIRED);
    stand.token("ada").await.unwrap();
    assert!(stand.provider.family_alive("ada"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_replaces_what_the_grant_had() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let before = stand.grant("ada").await;
    let answer = import(&stand, "ada", &minted(&stand, "ada")).await.unwrap();
    assert!(answer.replaced);
    let grant = answer.grant.unwrap();
    assert_eq!((grant.grant_id, grant.generation), (before.grant_id, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_none_is_not_sent() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let long = "x".repeat(16 * 1024 + 1);
    for pasted in ["", " \r\n", "two words", "two\nlines", "nul\0byte", &long] {
        let refusal = import(&stand, "ada", pasted).await.refused();
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
    }
    assert_eq!(stand.provider.stats().token_requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_users_token_is_revoked_and_not_stored() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let before = stand.grant("carol").await;
    for user in ["ada", "carol"] {
        let refusal = import(&stand, user, &minted(&stand, "bob")).await.refused();
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "IDENTITY_MISMATCH"));
        assert!(!stand.provider.family_alive("bob"), "the token that came back is of use to nobody");
    }
    assert_eq!(stand.provider.stats().revocations, 2);
    for user in ["ada", "bob"] {
        assert_eq!(stand.try_describe(user).await.refused().reason, "GRANT_NOT_FOUND");
    }
    assert_eq!(stand.describe("carol").await, before, "the grant that was there is untouched");
    assert!(stand.token("carol").await.unwrap().from_cache);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_another_tenant_does_not_pass_for_one_of_this() {
    let stand = Stand::new().await;
    let request = CreateTenantRequest { tenant: "fabrikam".into() };
    stand.client("operator").await.tenants.create_tenant(request).await.unwrap();
    let request =
        ImportGrantRequest { tenant: "fabrikam".into(), ..import_request("ada", &minted(&stand, "ada")) };
    let answer = stand.client("web").await.grants.import_grant(request).await;
    assert_eq!(answer.refused().reason, "IDENTITY_UNPROVEN");
    // What is not understood is no evidence against the user: it is held.
    assert!(stand.provider.family_alive("ada"));
    assert_eq!(stand.provider.stats().revocations, 0);
    let request =
        DescribeGrantRequest { tenant: "fabrikam".into(), subject: "ada".into(), client: "portal".into() };
    let described = stand.client("auditor").await.grants.describe_grant(request).await;
    assert_eq!(described.refused().reason, "GRANT_NOT_FOUND", "what is held is unusable");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_say_whose_it_is_proves_nothing() {
    let options = Options { access_token: AccessTokenForm::Opaque { bytes: 600 }, ..Options::default() };
    let stand = Stand::with(options, Settings::default()).await;
    stand.tenant().await;
    stand.provider.script(answer_without_identity(), 1);
    let refusal = import(&stand, "ada", &minted(&stand, "ada")).await.refused();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "IDENTITY_UNPROVEN"));
    assert_eq!(stand.try_describe("ada").await.refused().reason, "GRANT_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_does_not_rotate_leaves_the_imported_token_in_use() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let faults = [Fault::NoRefreshToken, Fault::NullRefreshToken, Fault::EmptyRefreshToken];
    for (user, fault) in ["ada", "bob", "eve"].into_iter().zip(faults) {
        let token = minted(&stand, user);
        stand.provider.script(fault, 1);
        // The same import once more is done already.
        for _ in 0..2 {
            let grant = import(&stand, user, &token).await.unwrap().grant.unwrap();
            assert_eq!(grant.generation, 1);
        }
        assert_eq!(stand.provider.current_refresh_token(user, "vault").unwrap(), token);
    }
    stand.advance(TOKENS_EXPIRED);
    for user in ["ada", "bob", "eve"] {
        stand.token(user).await.unwrap();
    }
    assert_eq!(stand.provider.stats().reuse_detected, 0);
}

/// Under another user's name too: the token is known, and sent to nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_finished_import_is_not_made_again_for_somebody_else() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let token = minted(&stand, "ada");
    import(&stand, "ada", &token).await.unwrap();
    let before = stand.provider.stats();
    assert_eq!(import(&stand, "bob", &token).await.refused().reason, "IDENTITY_MISMATCH");
    assert_eq!(stand.provider.stats(), before);
    assert!(stand.provider.family_alive("ada"));

    // Once the grant is gone, the token is like any other.
    let request =
        RevokeGrantRequest { tenant: TENANT.into(), subject: "ada".into(), client: "portal".into() };
    stand.client("operator").await.grants.revoke_grant(request).await.unwrap();
    assert_eq!(import(&stand, "ada", &token).await.refused().reason, "GRANT_REVOKED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_token_is_refused_as_revoked() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let refusal = import(&stand, "ada", "never-issued").await.refused();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "GRANT_REVOKED"));
    assert_eq!(stand.try_describe("ada").await.refused().reason, "GRANT_NOT_FOUND");
}

async fn import(stand: &Stand, user: &str, token: &str) -> Result<ImportGrantResponse, tonic::Status> {
    let answer = stand.client("web").await.grants.import_grant(import_request(user, token)).await;
    answer.map(tonic::Response::into_inner)
}

fn import_request(user: &str, token: &str) -> ImportGrantRequest {
    ImportGrantRequest {
        tenant: TENANT.into(),
        subject: user.into(),
        client: "portal".into(),
        imported_token: token.into(),
        ..Default::default()
    }
}

/// A refresh token of the user's that another system kept until now.
fn minted(stand: &Stand, user: &str) -> String {
    stand.provider.mint_refresh_token("vault", user, &["mail.read", "offline_access"])
}

fn answer_without_identity() -> Fault {
    Fault::Status {
        status: 200,
        error: None,
        suberror: None,
        claims: None,
        retry_after: None,
        body: Some(r#"{"token_type":"Bearer","access_token":"opaque","refresh_token":"opaque"}"#.into()),
        content_type: Some("application/json".into()),
        consumes: false,
    }
}
