//! DescribeGrant and ListGrants: what is known of grants, without a secret.

use obo_vault::demo::provider::Options;
use obo_vault::demo::stand::Settings;
use obo_vault::proto::{CreateTenantRequest, GrantState, ListGrantsRequest, ListGrantsResponse};
use tonic::Code;

use crate::harness::{Stand, TENANT, TOKENS_EXPIRED};
use crate::refusal::Refused as _;

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_described_as_it_is() {
    let profile = "profile = \"strict\"\nmulti_resource = true\nidle_lifetime_seconds = 86400\n\
                   absolute_lifetime_seconds = 864000"
        .to_owned();
    let stand = Stand::with(Options::default(), Settings { profile, ..Settings::default() }).await;
    stand.tenant().await;
    let enrolled = stand.grant("ada").await;
    assert_eq!(stand.describe("ada").await, enrolled);
    assert_eq!(enrolled.state(), GrantState::Active);
    assert_eq!((enrolled.tenant.as_str(), enrolled.client.as_str()), (TENANT, "portal"));
    assert_eq!((enrolled.generation, enrolled.key_version), (1, 1));
    assert_eq!(enrolled.scopes, ["mail.read"]);
    assert_eq!(enrolled.issuer, stand.provider.issuer());
    assert_eq!((enrolled.cause.as_str(), &enrolled.probe_after_time), ("", &None));

    stand.advance(TOKENS_EXPIRED);
    stand.token("ada").await.unwrap();
    let used = stand.describe("ada").await;
    let seconds = |time: &Option<prost_types::Timestamp>| time.as_ref().unwrap().seconds;
    assert_eq!(used.create_time, enrolled.create_time);
    assert!(seconds(&used.refresh_time) >= seconds(&enrolled.refresh_time) + 3700);
    assert_eq!(seconds(&used.idle_expire_time), seconds(&used.refresh_time) + 86_400);
    assert_eq!(used.absolute_expire_time, enrolled.absolute_expire_time);
    assert_eq!(seconds(&used.absolute_expire_time), seconds(&used.create_time) + 864_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_found() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let refusal = stand.try_describe("nobody").await.refused();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::NotFound, "GRANT_NOT_FOUND"));
    let refusal = list(&stand, ListGrantsRequest { tenant: "nowhere".into(), ..all() }).await.refused();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    assert!(list(&stand, all()).await.unwrap().grants.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_each_other_without_gap_or_repetition() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let users = ["ada", "bob", "carol", "dora", "emil"];
    for user in users {
        stand.grant(user).await;
    }
    let (mut found, mut sizes, mut page_token) = (Vec::new(), Vec::new(), String::new());
    loop {
        let page = list(&stand, ListGrantsRequest { page_size: 2, page_token, ..all() }).await.unwrap();
        sizes.push(page.grants.len());
        found.extend(page.grants.into_iter().map(|grant| grant.subject));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(sizes, [2, 2, 1]);
    assert_eq!(found, users);

    let whole = list(&stand, ListGrantsRequest { page_size: 5, ..all() }).await.unwrap();
    assert_eq!((whole.grants.len(), whole.next_page_token.as_str()), (5, ""), "no empty last page");
    assert_eq!(whole.grants[1], stand.describe("bob").await);
    let other = list(&stand, ListGrantsRequest { client: "other".into(), ..all() }).await.unwrap();
    assert!(other.grants.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_is_good_for_its_own_listing_only() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let request = CreateTenantRequest { tenant: "fabrikam".into() };
    stand.client("operator").await.tenants.create_tenant(request).await.unwrap();
    for user in ["ada", "bob"] {
        stand.grant(user).await;
    }
    let page = list(&stand, ListGrantsRequest { page_size: 1, ..all() }).await.unwrap();
    let token = page.next_page_token;
    let mut touched = token.clone();
    touched.replace_range(0..1, if token.starts_with('A') { "B" } else { "A" });
    let next = |page_token: &str| ListGrantsRequest { page_size: 1, page_token: page_token.into(), ..all() };
    for request in [
        next("nonsense"),
        next(&touched),
        ListGrantsRequest { tenant: "fabrikam".into(), ..next(&token) },
        ListGrantsRequest { client: "portal".into(), ..next(&token) },
    ] {
        let refusal = list(&stand, request).await.refused();
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, "PAGE_TOKEN_INVALID"));
    }
    assert_eq!(list(&stand, next(&token)).await.unwrap().grants[0].subject, "bob");
    let refusal = list(&stand, ListGrantsRequest { page_size: 1001, ..all() }).await.refused();
    assert_eq!(refusal.reason, "INVALID_REQUEST");
}

async fn list(stand: &Stand, request: ListGrantsRequest) -> Result<ListGrantsResponse, tonic::Status> {
    let answer = stand.client("auditor").await.grants.list_grants(request).await;
    answer.map(tonic::Response::into_inner)
}

fn all() -> ListGrantsRequest {
    ListGrantsRequest { tenant: TENANT.into(), ..Default::default() }
}
