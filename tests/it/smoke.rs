//! The whole path, once.

use crate::harness::{Stand, TOKENS_EXPIRED, reason};

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_enrolled_used_renewed_and_survives_a_restart() {
    let mut stand = Stand::new().await;
    stand.tenant().await;
    let grant = stand.grant("ada").await;
    assert_eq!(grant.subject, "ada");
    assert_eq!(grant.generation, 1);

    let first = stand.token("ada").await.unwrap();
    assert!(first.from_cache, "the token of the enrolment is used");
    stand.advance(TOKENS_EXPIRED);
    let second = stand.token("ada").await.unwrap();
    assert!(!second.from_cache);
    assert_ne!(first.access_token, second.access_token);
    assert_eq!(stand.describe("ada").await.generation, 2);

    stand.restart().await;
    let third = stand.token("ada").await.unwrap();
    assert!(!third.from_cache, "access tokens are never on disk");
    assert_eq!(stand.describe("ada").await.generation, 3);
    assert!(stand.provider.family_alive("ada"));
    assert_eq!(stand.provider.stats().reuse_detected, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_without_the_right_is_refused() {
    let stand = Stand::new().await;
    stand.tenant().await;
    stand.grant("ada").await;
    let refused =
        stand.client("rotator").await.tokens.get_access_token(crate::harness::token_request("ada")).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    assert_eq!(reason(&refused), "NOT_PERMITTED");
}
