//! RevokeGrant: gone from memory, from the store and at the provider.

use obo_vault::demo::provider::Options;
use obo_vault::demo::stand::Settings;
use obo_vault::proto::{RevokeGrantRequest, RevokeGrantResponse};
use tonic::Code;

use crate::harness::{Stand, TENANT, TOKENS_EXPIRED};
use crate::refusal::Refused as _;
use crate::relay::Relay;

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_grant_is_gone_everywhere_at_once() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let before = stand.grant("ada").await;
    stand.grant("bob").await;
    assert!(stand.token("ada").await.unwrap().from_cache);

    assert!(revoke(&stand, "ada").await.unwrap().revoked_at_provider);
    assert!(!stand.provider.family_alive("ada"));
    let refusal = stand.token("ada").await.refused();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::NotFound, "GRANT_NOT_FOUND"));
    assert_eq!(stand.try_describe("ada").await.refused().reason, "GRANT_NOT_FOUND");
    assert!(stand.token("bob").await.unwrap().from_cache, "nobody else is touched");

    let again = revoke(&stand, "ada").await.refused();
    assert_eq!((again.code, again.reason.as_str()), (Code::NotFound, "GRANT_NOT_FOUND"));
    assert_ne!(stand.grant("ada").await.grant_id, before.grant_id, "a new consent is a new grant");
    assert!(stand.token("ada").await.unwrap().from_cache);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vaults_copy_goes_whether_the_provider_can_be_told_or_not() {
    let mut relay = None;
    for reachable in [true, false] {
        let mut stand = Stand::unstarted(Options::default(), Settings::default(), |_| ()).await;
        let config = std::fs::read_to_string(stand.files.config()).unwrap();
        let told = format!("revocation_endpoint = \"{}\"", stand.provider.revocation_endpoint());
        assert!(config.contains(&told));
        let instead = if reachable {
            String::new()
        } else {
            let mut dead = Relay::up_to("127.0.0.1:1").await;
            dead.down().await;
            let address = dead.address();
            relay = Some(dead);
            format!("revocation_endpoint = \"http://{address}/revoke\"")
        };
        std::fs::write(stand.files.config(), config.replace(&told, &instead)).unwrap();
        stand.start().await;
        stand.tenant().await;
        stand.grant("ada").await;
        assert!(!revoke(&stand, "ada").await.unwrap().revoked_at_provider);
        assert_eq!(stand.token("ada").await.refused().reason, "GRANT_NOT_FOUND");
    }
    drop(relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_tenant_is_an_unknown_grant() {
    let stand = Stand::new().await;
    let refusal = revoke(&stand, "ada").await.refused();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::NotFound, "GRANT_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_grant_can_be_revoked() {
    let stand = Stand::new().await;
    stand.tenant().await;
    stand.grant("ada").await;
    stand.advance(TOKENS_EXPIRED);
    stand.provider.revoke_user("ada");
    assert_eq!(stand.token("ada").await.refused().reason, "GRANT_REVOKED");
    revoke(&stand, "ada").await.unwrap();
    assert_eq!(stand.token("ada").await.refused().reason, "GRANT_NOT_FOUND");
}

async fn revoke(stand: &Stand, user: &str) -> Result<RevokeGrantResponse, tonic::Status> {
    let request = RevokeGrantRequest { tenant: TENANT.into(), subject: user.into(), client: "portal".into() };
    let answer = stand.client("operator").await.grants.revoke_grant(request).await;
    answer.map(tonic::Response::into_inner)
}
