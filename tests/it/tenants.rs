//! Tenants and their keys, and who may do what.

use std::fmt::Write as _;
use std::time::Duration;

use obo_vault::client::Client;
use obo_vault::demo::stand::ROLES;
use obo_vault::proto::{self, KeyState, TenantState};
use tonic::Code;

use crate::harness::{Stand, TENANT, TOKENS_EXPIRED, reason, token_request};

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_made_once_and_listed_page_by_page() {
    let stand = Stand::new().await;
    for name in ["d", "b", "e", "a", "c"] {
        let tenant = stand.create(name).await.unwrap();
        assert_eq!((tenant.tenant.as_str(), tenant.active_key_version), (name, 1));
        assert_eq!(tenant.state(), TenantState::Active);
        assert!(tenant.create_time.is_some());
    }
    let again = stand.create("a").await.unwrap_err();
    assert_eq!((again.code(), reason(&again).as_str()), (Code::AlreadyExists, "TENANT_EXISTS"));
    for bad in ["", "../a", ".a", &"x".repeat(129)] {
        assert_eq!(stand.create(bad).await.unwrap_err().code(), Code::InvalidArgument, "{bad:?}");
    }

    let (mut names, mut token) = (Vec::new(), String::new());
    loop {
        let (page, next) = stand.tenants(2, &token).await;
        names.extend(page.into_iter().map(|t| t.tenant));
        if next.is_empty() {
            break;
        }
        token = next;
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    let (exact, next) = stand.tenants(5, "").await;
    assert_eq!((exact.len(), next.as_str()), (5, ""), "a page that is full to the end promises another");
    for bad in [token.to_lowercase(), format!("A{token}"), "?".into()] {
        let request = proto::ListTenantsRequest { page_size: 2, page_token: bad.clone() };
        let refused = stand.client("auditor").await.tenants.list_tenants(request).await.unwrap_err();
        assert_eq!(reason(&refused), "PAGE_TOKEN_INVALID", "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_goes_on_after_a_restart() {
    let mut stand = Stand::new().await;
    for name in ["a", "b"] {
        stand.create(name).await.unwrap();
    }
    let (_, token) = stand.tenants(1, "").await;
    stand.restart().await;
    let (page, next) = stand.tenants(1, &token).await;
    assert_eq!((page[0].tenant.as_str(), next.as_str()), ("b", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_seals_what_comes_and_the_census_follows() {
    let mut stand = Stand::new().await;
    let unknown = stand.rotate_key().await.unwrap_err();
    assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    stand.tenant().await;
    assert_eq!(stand.usage().await, [(1, KeyState::Active, 0)]);
    for user in ["ada", "bob"] {
        stand.grant(user).await;
    }
    assert_eq!(stand.contoso().await.grant_count, 2);
    assert_eq!(stand.rotate_key().await.unwrap().version, 2);
    assert_eq!(stand.usage().await, [(1, KeyState::Deactivated, 2), (2, KeyState::Active, 0)]);
    stand.advance(TOKENS_EXPIRED);
    stand.token("ada").await.unwrap();
    assert_eq!(stand.usage().await, [(1, KeyState::Deactivated, 1), (2, KeyState::Active, 1)]);
    stand.restart().await;
    stand.grant("eve").await;
    assert_eq!(stand.usage().await, [(1, KeyState::Deactivated, 1), (2, KeyState::Active, 2)]);
    assert_eq!(stand.contoso().await.active_key_version, 2);
    // What the old version sealed still opens.
    stand.token("bob").await.unwrap();
    assert_eq!(stand.provider.stats().reuse_detected, 0);
}

/// Who may what, through the real API, as text that a reviewer reads.
#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_its_own_and_nothing_else() {
    let stand = Stand::new().await;
    stand.tenant().await;
    for role in ROLES {
        stand.create(&format!("victim-of-{role}")).await.unwrap();
    }
    let mut table = String::new();
    for role in ROLES {
        writeln!(table, "{role}").unwrap();
        stand.grant("ada").await;
        let client = stand.client(role).await;
        for (call, outcome) in everything(&stand, client, role).await {
            writeln!(table, "  {call:<20} {outcome}").unwrap();
        }
    }
    insta::assert_snapshot!("roles_by_call", table);
}

async fn everything(stand: &Stand, client: Client, role: &str) -> Vec<(&'static str, String)> {
    let Client { mut tokens, mut grants, mut tenants, mut rotation, .. } = client;
    let tenant = || TENANT.to_owned();
    let victim = || format!("victim-of-{role}");
    let (subject, portal) = (|| "ada".to_owned(), || "portal".to_owned());
    let import = proto::ImportGrantRequest {
        tenant: tenant(),
        subject: "bob".into(),
        client: portal(),
        imported_token: stand.provider.mint_refresh_token("vault", "bob", &["openid", "mail.read"]),
        scopes: vec!["mail.read".into()],
        ..Default::default()
    };
    let describe = proto::DescribeGrantRequest { tenant: tenant(), subject: subject(), client: portal() };
    let list = proto::ListGrantsRequest { tenant: tenant(), ..Default::default() };
    let revoke = proto::RevokeGrantRequest { tenant: tenant(), subject: subject(), client: portal() };
    let schedule = proto::ScheduleTenantPurgeRequest {
        tenant: victim(),
        window: Some(Duration::from_secs(60).try_into().unwrap()),
    };
    vec![
        ("GetAccessToken", outcome(tokens.get_access_token(token_request("ada")).await)),
        ("ExchangeOnBehalfOf", outcome(grants.exchange_on_behalf_of(stand.exchange_request("ada")).await)),
        ("ImportGrant", outcome(grants.import_grant(import).await)),
        ("DescribeGrant", outcome(grants.describe_grant(describe).await)),
        ("ListGrants", outcome(grants.list_grants(list).await)),
        ("RevokeGrant", outcome(grants.revoke_grant(revoke).await)),
        (
            "CreateTenant",
            outcome(
                tenants.create_tenant(proto::CreateTenantRequest { tenant: format!("made-by-{role}") }).await,
            ),
        ),
        ("ListTenants", outcome(tenants.list_tenants(proto::ListTenantsRequest::default()).await)),
        (
            "RotateTenantKey",
            outcome(tenants.rotate_tenant_key(proto::RotateTenantKeyRequest { tenant: tenant() }).await),
        ),
        (
            "DescribeTenantKeys",
            outcome(
                tenants.describe_tenant_keys(proto::DescribeTenantKeysRequest { tenant: tenant() }).await,
            ),
        ),
        ("ScheduleTenantPurge", outcome(tenants.schedule_tenant_purge(schedule).await)),
        (
            "RestoreTenant",
            outcome(tenants.restore_tenant(proto::RestoreTenantRequest { tenant: victim() }).await),
        ),
        (
            "PurgeTenantNow",
            outcome(
                tenants
                    .purge_tenant_now(proto::PurgeTenantNowRequest { tenant: victim(), confirm: victim() })
                    .await,
            ),
        ),
        ("RunRotation", outcome(rotation.run_rotation(proto::RunRotationRequest::default()).await)),
        ("DescribeRotation", outcome(rotation.describe_rotation(proto::DescribeRotationRequest {}).await)),
    ]
}

fn outcome<T>(answer: Result<T, tonic::Status>) -> String {
    match answer {
        Ok(_) => "OK".into(),
        Err(status) => format!("{:?} {}", status.code(), reason(&status)),
    }
}
