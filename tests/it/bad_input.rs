//! Requests that are none: too large, unreadable, for a method that is not
//! there, with fields that break their rules.

use obo_vault::proto::{GetAccessTokenRequest, GetAccessTokenResponse};
use tonic::Code;
use tonic::codegen::http::uri::PathAndQuery;

use crate::harness::Stand;
use crate::refusal::{Refusal, Refused as _};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_is_refused_and_says_so() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let mut request = stand.exchange_request("ada");
    request.user_access_token = "x".repeat(66_000);
    let refusal = stand.exchange(request).await.refused();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::OutOfRange, "MESSAGE_TOO_LARGE"));
    // The connection and the vault are as good as before.
    stand.grant("ada").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_method_is_refused_and_says_so() {
    let stand = Stand::new().await;
    for path in ["/obovault.v1.TokenService/GetRefreshToken", "/obovault.v2.TokenService/GetAccessToken"] {
        let refusal = raw(&stand, path, GetAccessTokenRequest::default()).await;
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::Unimplemented, "METHOD_UNKNOWN"),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_is_refused_and_says_so() {
    let stand = Stand::new().await;
    // A number where a text must be.
    let message = prost_types::Duration { seconds: 7, nanos: 7 };
    let refusal = raw(&stand, "/obovault.v1.TokenService/GetAccessToken", message).await;
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_break_their_rules_are_refused_before_anything_is_looked_up() {
    let stand = Stand::new().await;
    type Change = fn(&mut GetAccessTokenRequest);
    let cases: [Change; 17] = [
        |r| r.tenant.clear(),
        |r| r.tenant = "../etc".into(),
        |r| r.tenant = "x".repeat(129),
        |r| r.subject.clear(),
        |r| r.subject = "line\nbreak".into(),
        |r| r.subject = "x".repeat(256),
        |r| r.client.clear(),
        |r| r.client = "a b".into(),
        |r| r.scopes = vec![String::new()],
        |r| r.scopes = vec!["two scopes".into()],
        |r| r.resource = "no-uri".into(),
        |r| r.resource = "https://a.example/#fragment".into(),
        |r| r.claims_challenge = "[]".into(),
        |r| r.claims_challenge = "{\"a\":}".into(),
        |r| r.claims_challenge = format!("{{\"a\":\"{}\"}}", "x".repeat(8 * 1024)),
        |r| r.min_remaining_life = Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        |r| r.min_remaining_life = Some(prost_types::Duration { seconds: i64::MAX, nanos: -5 }),
    ];
    for (number, change) in cases.into_iter().enumerate() {
        let refusal = stand.token_with("ada", change).await.refused();
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::InvalidArgument, "INVALID_REQUEST"),
            "case {number}"
        );
    }
}

/// Calls a method by its path.
async fn raw<M: prost::Message + Send + Sync + 'static>(
    stand: &Stand,
    path: &'static str,
    message: M,
) -> Refusal {
    let mut grpc = tonic::client::Grpc::new(stand.channel("mail").await);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<M, GetAccessTokenResponse>::default();
    grpc.unary(tonic::Request::new(message), PathAndQuery::from_static(path), codec).await.refused()
}
