//! Callers' deadlines, as a caller sees them who leaves the clock to the vault.

use obo_vault::client::{Address, Client};
use obo_vault::demo::provider::Options;
use obo_vault::demo::stand::Settings;
use obo_vault::proto::token_service_client::TokenServiceClient;
use obo_vault::proto::{CreateTenantRequest, DescribeGrantRequest, GrantState};
use tonic::Code;

use crate::callers::without_tls;
use crate::harness::{Stand, TENANT, TOKENS_EXPIRED, eventually, token_request};

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_is_called_that_and_the_work_goes_on() {
    let stand = in_plain_text().await;
    let address = Address { endpoint: format!("http://{}", stand.address()), ..Address::default() };
    let mut client = Client::connect(&address).await.unwrap();
    client.tenants.create_tenant(CreateTenantRequest { tenant: TENANT.into() }).await.unwrap();
    client.grants.exchange_on_behalf_of(stand.exchange_request("ada")).await.unwrap();
    stand.advance(TOKENS_EXPIRED);
    let gate = stand.hang();

    // tonic's own client has a timer that fires at about the same time. A bare
    // connection has none: what it gets is what the vault says.
    let executor = hyper_util::rt::TokioExecutor::new();
    let bare = hyper_util::client::legacy::Client::builder(executor).http2_only(true).build_http();
    let bare = TokenServiceClient::with_origin(bare, address.endpoint.parse().unwrap());
    let calls = (1..=200_u32).map(|n| {
        let mut bare = bare.clone();
        async move {
            let mut request = tonic::Request::new(token_request("ada"));
            request.metadata_mut().insert("grpc-timeout", format!("{}u", n * 500).parse().unwrap());
            (n, bare.get_access_token(request).await.unwrap_err())
        }
    });
    for (n, refused) in futures_util::future::join_all(calls).await {
        assert_eq!(refused.code(), Code::DeadlineExceeded, "{n}: {refused:?}");
    }

    gate.reached(1).await;
    gate.release();
    let grant = eventually("the exchange is finished", async || {
        let request =
            DescribeGrantRequest { tenant: TENANT.into(), subject: "ada".into(), client: "portal".into() };
        let grant = client.grants.describe_grant(request).await.unwrap().into_inner().grant.unwrap();
        (grant.state() == GrantState::Active).then_some(grant)
    })
    .await;
    assert_eq!(grant.generation, 2);
    assert!(client.tokens.get_access_token(token_request("ada")).await.unwrap().into_inner().from_cache);
    assert_eq!(stand.provider.stats().reuse_detected, 0);
}

/// A stand with one caller, who may do everything.
async fn in_plain_text() -> Stand {
    let settings = Settings {
        server: "plain_text_caller = \"spiffe://stand/anybody\"".into(),
        policy: "permit (principal, action, resource);".into(),
        ..Settings::default()
    };
    let mut stand = Stand::unstarted(Options::default(), settings, |_| ()).await;
    std::fs::write(stand.files.config(), without_tls(&stand.files)).unwrap();
    stand.start().await;
    stand
}
