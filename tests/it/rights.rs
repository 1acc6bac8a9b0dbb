//! What a caller without rights can find out: nothing. And what it can make the
//! vault do: nothing.

use std::collections::BTreeSet;

use obo_vault::client::Client;
use obo_vault::demo::provider::{Options, UserClaims};
use obo_vault::demo::stand::{POLICY, Settings};
use obo_vault::proto;
use rcgen::SanType;

use crate::harness::{Stand, TENANT, token_request};
use crate::refusal::{Refusal, Refused as _};

/// Names in a request, which may be there and may not, and fields that may break
/// their rules.
#[derive(Debug, Clone)]
struct Named {
    tenant: &'static str,
    subject: &'static str,
    client: &'static str,
    assertion: String,
    page_token: &'static str,
    claims: &'static str,
}

/// Calls every RPC; each is to be refused.
async fn every_rpc(client: &mut Client, named: &Named) -> Vec<(&'static str, Refusal)> {
    let Named { tenant, subject, client: name, assertion, page_token, claims } = named.clone();
    let (tenant, subject, name) = (tenant.to_owned(), subject.to_owned(), name.to_owned());
    let (page_token, claims_challenge) = (page_token.to_owned(), claims.to_owned());
    let Client { tokens, grants, tenants, rotation, .. } = client;
    let scopes = vec!["mail.read".to_owned()];
    let mut refusals = Vec::new();
    macro_rules! call {
        ($service:ident.$rpc:ident($request:expr)) => {
            refusals.push((stringify!($rpc), $service.$rpc(with_id($request)).await.refused()))
        };
    }
    call!(tokens.get_access_token(proto::GetAccessTokenRequest {
        tenant: tenant.clone(),
        subject: subject.clone(),
        client: name.clone(),
        scopes: scopes.clone(),
        claims_challenge: claims_challenge.clone(),
        ..Default::default()
    }));
    call!(grants.exchange_on_behalf_of(proto::ExchangeOnBehalfOfRequest {
        client: name.clone(),
        user_access_token: assertion.clone(),
        scopes: scopes.clone(),
        claims_challenge,
        ..Default::default()
    }));
    call!(grants.import_grant(proto::ImportGrantRequest {
        tenant: tenant.clone(),
        subject: subject.clone(),
        client: name.clone(),
        imported_token: assertion,
        scopes,
        ..Default::default()
    }));
    call!(grants.describe_grant(proto::DescribeGrantRequest {
        tenant: tenant.clone(),
        subject: subject.clone(),
        client: name.clone()
    }));
    call!(grants.list_grants(proto::ListGrantsRequest {
        tenant: tenant.clone(),
        client: name.clone(),
        page_token: page_token.clone(),
        ..Default::default()
    }));
    call!(grants.revoke_grant(proto::RevokeGrantRequest { tenant: tenant.clone(), subject, client: name }));
    call!(tenants.create_tenant(proto::CreateTenantRequest { tenant: tenant.clone() }));
    call!(tenants.list_tenants(proto::ListTenantsRequest { page_token, ..Default::default() }));
    call!(tenants.rotate_tenant_key(proto::RotateTenantKeyRequest { tenant: tenant.clone() }));
    call!(tenants.describe_tenant_keys(proto::DescribeTenantKeysRequest { tenant: tenant.clone() }));
    call!(
        tenants.schedule_tenant_purge(proto::ScheduleTenantPurgeRequest {
            tenant: tenant.clone(),
            window: None
        })
    );
    call!(tenants.restore_tenant(proto::RestoreTenantRequest { tenant: tenant.clone() }));
    call!(tenants.purge_tenant_now(proto::PurgeTenantNowRequest { tenant: tenant.clone(), confirm: tenant }));
    call!(rotation.run_rotation(proto::RunRotationRequest::default()));
    call!(rotation.describe_rotation(proto::DescribeRotationRequest {}));
    refusals
}

async fn stranger(stand: &Stand) -> Client {
    let name = SanType::URI("spiffe://stand/stranger".try_into().unwrap());
    stand.files.pki().client("stranger", &[name]).unwrap();
    stand.client("stranger").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_without_rights_has_one_answer_whatever_there_is() {
    let stand = Stand::new().await;
    stand.tenant().await;
    stand.grant("ada").await;
    let mut stranger = stranger(&stand).await;
    let there = Named {
        tenant: TENANT,
        subject: "ada",
        client: "portal",
        assertion: stand.provider.user_token("ada", "api://vault"),
        page_token: "",
        claims: "",
    };
    let claimed = |claims| stand.provider.user_token_with("ada", claims);
    let requests = [
        there.clone(),
        Named { tenant: "fabrikam", ..there.clone() },
        Named { subject: "nobody", ..there.clone() },
        Named { client: "nothing", ..there.clone() },
        Named {
            assertion: claimed(UserClaims { tenant: Some("fabrikam".into()), ..UserClaims::default() }),
            ..there.clone()
        },
        Named {
            assertion: claimed(UserClaims {
                issuer: Some("https://x.example".into()),
                ..UserClaims::default()
            }),
            ..there.clone()
        },
        Named {
            assertion: claimed(UserClaims { signed_by_stranger: true, ..UserClaims::default() }),
            ..there.clone()
        },
        Named {
            assertion: claimed(UserClaims { expires_in_seconds: -900, ..UserClaims::default() }),
            ..there.clone()
        },
        Named {
            assertion: claimed(UserClaims { without: vec!["tid".into()], ..UserClaims::default() }),
            ..there.clone()
        },
        Named { assertion: "no token at all".into(), ..there.clone() },
        // What breaks a rule is not told either.
        Named { assertion: String::new(), ..there.clone() },
        Named { tenant: "../etc", subject: "", client: "", ..there.clone() },
        Named { page_token: "made up", claims: "[]", ..there },
    ];
    for request in requests {
        let refusals = every_rpc(&mut stranger, &request).await;
        assert_eq!(refusals.len(), obo_vault::domain::action::Action::ALL.len(), "each RPC is one action");
        let seen: BTreeSet<(String, String, Option<std::time::Duration>)> = refusals
            .iter()
            .map(|(_, refusal)| (refusal.reason.clone(), undated(&refusal.shown), refusal.retry))
            .collect();
        assert_eq!(seen.len(), 1, "{request:?}: {refusals:#?}");
        assert_eq!(seen.first().unwrap().0, "NOT_PERMITTED");
    }
}

/// All that a caller sees, but for the second in which it sees it.
fn undated(shown: &str) -> String {
    let (before, rest) = shown.split_once("\"date\": ").unwrap();
    let (_, after) = rest.split_once("GMT\"").unwrap();
    format!("{before}{after}")
}

/// The request under an id that is the same for all.
fn with_id<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("x-request-id", "one".parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_tenants_have_nothing_fetched_for_them() {
    let policy = format!(
        "{POLICY}\n{}",
        r#"permit (principal == Caller::"spiffe://stand/stranger", action == Action::"ExchangeOnBehalfOf", resource == Tenant::"own");"#
    );
    let settings = Settings { policy: policy.clone(), ..Settings::default() };
    for settings in [Settings::default(), settings] {
        let stand = unstarted_with_keys_per_tenant(settings).await;
        let mut stranger = stranger(&stand).await;
        for n in 0..1001 {
            let claims = UserClaims {
                tenant: Some(format!("made-up-{n}")),
                signed_by_stranger: true,
                ..UserClaims::default()
            };
            let request = proto::ExchangeOnBehalfOfRequest {
                user_access_token: stand.provider.user_token_with("ada", claims),
                ..stand.exchange_request("ada")
            };
            let refusal = stranger.grants.exchange_on_behalf_of(request).await.refused();
            assert_eq!(refusal.reason, "NOT_PERMITTED");
        }
        assert_eq!(stand.provider.stats().jwks_requests, 0);
    }
}

/// Also a caller who may for any tenant: one that is not there, and is not made
/// by an enrolment, has no keys to be fetched.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_not_there_has_no_keys_fetched_for_it() {
    let stand = unstarted_with_keys_per_tenant(Settings::default()).await;
    let claims = UserClaims { tenant: Some("made-up".into()), ..UserClaims::default() };
    let request = proto::ExchangeOnBehalfOfRequest {
        user_access_token: stand.provider.user_token_with("ada", claims),
        ..stand.exchange_request("ada")
    };
    assert_eq!(stand.exchange(request).await.refused().reason, "TENANT_NOT_FOUND");
    assert_eq!(stand.provider.stats().jwks_requests, 0);
    // Where there is one, its keys are.
    stand.tenant().await;
    stand.grant("ada").await;
    assert_eq!(stand.provider.stats().jwks_requests, 1);
}

async fn unstarted_with_keys_per_tenant(settings: Settings) -> Stand {
    let mut stand = Stand::unstarted(Options::default(), settings, |upstream| {
        upstream.jwks_uri.push_str("?tenant={tenant}");
    })
    .await;
    stand.start().await;
    stand
}

/// A caller with a right elsewhere is denied the same way for what is there and
/// for what is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_for_one_client_tells_nothing_of_another() {
    let policy = format!(
        "{POLICY}\n{}",
        r#"permit (principal == Caller::"spiffe://stand/stranger", action, resource == Tenant::"own")
            when { context has client && context.client == "own" };"#
    );
    let stand = Stand::with(Options::default(), Settings { policy, ..Settings::default() }).await;
    stand.tenant().await;
    stand.grant("ada").await;
    let mut stranger = stranger(&stand).await;
    for client in ["portal", "nothing"] {
        for tenant in [TENANT, "fabrikam"] {
            let request = proto::GetAccessTokenRequest {
                tenant: tenant.into(),
                client: client.into(),
                ..token_request("ada")
            };
            assert_eq!(stranger.tokens.get_access_token(request).await.refused().reason, "NOT_PERMITTED");
        }
        for token in [stand.provider.user_token("ada", "api://vault"), "no token".into()] {
            let request = proto::ExchangeOnBehalfOfRequest {
                client: client.into(),
                user_access_token: token,
                ..stand.exchange_request("ada")
            };
            let refused = stranger.grants.exchange_on_behalf_of(request).await.refused();
            assert_eq!(refused.reason, "NOT_PERMITTED");
        }
    }
}
