//! Tenants that the first enrolment of one of their users makes: there from the
//! first grant on, and gone without a trace where there is none.

use std::time::Duration;

use obo_vault::demo::provider::{Fault, Gate, Options, UserClaims};
use obo_vault::demo::stand::Settings;
use obo_vault::proto::{
    DescribeTenantKeysRequest, ImportGrantRequest, ListGrantsRequest, ScheduleTenantPurgeRequest, TenantState,
};
use tonic::{Code, Status};

use crate::faulty_store::{Hold, StoreFault};
use crate::harness::{Stand, TENANT, reason};
use crate::harness_more::eventually;

/// A stand that makes tenants at enrolments.
async fn stand() -> Stand {
    let more = "[tenants]\ncreate_at_first_intake = true".to_owned();
    Stand::with(Options::default(), Settings { more, ..Settings::default() }).await
}

/// An exchange of the user's that hangs at the provider until the gate opens.
async fn hanging(stand: &Stand, user: &str, gate: &Gate) -> tokio::task::JoinHandle<Result<(), Status>> {
    stand.provider.script(Fault::Hang { consume: false, gate: gate.clone() }, 1);
    let (mut web, request) = (stand.client("web").await, stand.exchange_request(user));
    let exchange = tokio::spawn(async move { web.grants.exchange_on_behalf_of(request).await.map(drop) });
    gate.reached(1).await;
    exchange
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>) -> String {
    reason(&answer.unwrap_err())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_exchange_leaves_no_tenant_and_no_key() {
    let mut stand = stand().await;
    for fault in [
        Fault::error(400, "invalid_grant"),
        Fault::error(401, "invalid_client"),
        Fault::CloseBeforeAnswer { consume: false },
        Fault::NoRefreshToken,
        Fault::EmptyBody400,
    ] {
        stand.provider.script(fault.clone(), 1);
        stand.exchange(stand.exchange_request("ada")).await.unwrap_err();
        assert_eq!(stand.tenants(0, "").await.0, [], "{fault:?}");
        assert_eq!(refused(stand.token("ada").await), "GRANT_NOT_FOUND", "{fault:?}");
    }
    stand.stop().await;
    assert_eq!(stand.wrapped_keys().await, [] as [Vec<u8>; 0]);
    stand.start().await;
    // The name is free, for an operator and for the next user.
    stand.grant("ada").await;
    assert_eq!(stand.contoso().await.state(), TenantState::Active);
    assert_eq!(refused(stand.create(TENANT).await), "TENANT_EXISTS");
    stand.restart().await;
    stand.token("ada").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_tenant_is_there_for_nobody_else() {
    let stand = stand().await;
    let gate = Gate::new();
    let exchange = hanging(&stand, "ada", &gate).await;

    assert_eq!(stand.tenants(0, "").await.0, []);
    assert_eq!(refused(stand.token("bob").await), "GRANT_NOT_FOUND");
    assert_eq!(refused(stand.rotate_key().await), "TENANT_NOT_FOUND");
    assert_eq!(refused(stand.restore().await), "TENANT_NOT_FOUND");
    assert_eq!(refused(stand.purge_now(TENANT).await), "TENANT_NOT_FOUND");
    let (mut auditor, mut purger, mut web) =
        (stand.client("auditor").await, stand.client("purger").await, stand.client("web").await);
    let request = DescribeTenantKeysRequest { tenant: TENANT.into() };
    assert_eq!(refused(auditor.tenants.describe_tenant_keys(request).await), "TENANT_NOT_FOUND");
    let request = ListGrantsRequest { tenant: TENANT.into(), ..Default::default() };
    assert_eq!(refused(auditor.grants.list_grants(request).await), "TENANT_NOT_FOUND");
    let window = Some(Duration::from_secs(3600).try_into().unwrap());
    let request = ScheduleTenantPurgeRequest { tenant: TENANT.into(), window };
    assert_eq!(refused(purger.tenants.schedule_tenant_purge(request).await), "TENANT_NOT_FOUND");
    let request = ImportGrantRequest {
        tenant: TENANT.into(),
        subject: "bob".into(),
        client: "portal".into(),
        imported_token: "rt".into(),
        ..Default::default()
    };
    assert_eq!(refused(web.grants.import_grant(request).await), "TENANT_NOT_FOUND");
    // Nor does the job give it a second key version.
    let run = stand.rotate(true, false).await.pop().unwrap();
    assert_eq!(run.versions_created, 0);

    gate.release();
    exchange.await.unwrap().unwrap();
    let tenant = stand.contoso().await;
    assert_eq!((tenant.state(), tenant.grant_count, tenant.active_key_version), (TenantState::Active, 1, 1));
    stand.rotate_key().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolment_that_fails_does_not_take_the_tenant_of_another() {
    let stand = stand().await;
    let gate = Gate::new();
    let exchange = hanging(&stand, "ada", &gate).await;
    stand.provider.script(Fault::error(400, "invalid_grant"), 1);
    stand.exchange(stand.exchange_request("bob")).await.unwrap_err();
    gate.release();
    exchange.await.unwrap().unwrap();
    assert_eq!(stand.contoso().await.grant_count, 1);
    stand.grant("bob").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_that_of_one_which_has_not_written_its_intent() {
    let stand = stand().await;
    let hold = Hold::new();
    stand.faults.on("begin_enrolment", 1, StoreFault::Hold(hold.clone()));
    let (mut web, request) = (stand.client("web").await, stand.exchange_request("ada"));
    let exchange = tokio::spawn(async move { web.grants.exchange_on_behalf_of(request).await.map(drop) });
    hold.reached(1).await;
    stand.provider.script(Fault::error(400, "invalid_grant"), 1);
    stand.exchange(stand.exchange_request("bob")).await.unwrap_err();
    hold.release();
    exchange.await.unwrap().unwrap();
    assert_eq!(stand.contoso().await.grant_count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_enrolments_at_once_those_that_succeed_keep_the_tenant() {
    for _ in 0..5 {
        let stand = stand().await;
        stand.provider.script(Fault::error(400, "invalid_grant"), 6);
        let exchanges =
            (0..12).map(|number| stand.exchange(stand.exchange_request(&format!("user-{number}"))));
        let outcomes = futures_util::future::join_all(exchanges).await;
        let kept = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(kept, 6, "{outcomes:?}");
        assert_eq!(stand.contoso().await.grant_count, 6);
        assert_eq!(stand.usage().await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_takes_a_pending_tenant_over() {
    let stand = stand().await;
    let gate = Gate::new();
    let exchange = hanging(&stand, "ada", &gate).await;
    assert_eq!(stand.create(TENANT).await.unwrap().state(), TenantState::Active);
    stand.provider.require_mfa("ada", true);
    gate.release();
    exchange.await.unwrap().unwrap_err();
    assert_eq!(stand.contoso().await.state(), TenantState::Active);
    stand.grant("bob").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_enrolment_could_not_clear_away_is_collected_later() {
    for operation in ["drop_pending_tenant", "abandon_enrolment"] {
        let mut stand = stand().await;
        stand.provider.script(Fault::error(400, "invalid_grant"), 1);
        stand.faults.on(operation, 1, StoreFault::Fail);
        stand.exchange(stand.exchange_request("ada")).await.unwrap_err();
        stand.faults.assert_met();
        if operation == "abandon_enrolment" {
            // As after a crash: the next start clears the enrolment away.
            stand.stop().await;
            assert_eq!(stand.wrapped_keys().await.len(), 1);
            stand.start().await;
        }
        eventually("the removal", async || {
            let row =
                stand.database().query_row("SELECT count(*) FROM tenant", [], |row| row.get::<_, i64>(0));
            (row.unwrap() == 0).then_some(())
        })
        .await;
        stand.stop().await;
        assert_eq!(stand.wrapped_keys().await, [] as [Vec<u8>; 0], "{operation}");
        stand.start().await;
        stand.grant("ada").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_differs_in_case_only_is_taken() {
    let mut stand = stand().await;
    stand.grant("ada").await;
    for name in ["Contoso", "CONTOSO", "contosO"] {
        let taken = stand.create(name).await.unwrap_err();
        assert_eq!((taken.code(), reason(&taken).as_str()), (Code::AlreadyExists, "TENANT_NAME_TAKEN"));
        let before = stand.provider.stats().token_requests;
        let claims = UserClaims { tenant: Some(name.to_owned()), ..UserClaims::default() };
        let request = obo_vault::proto::ExchangeOnBehalfOfRequest {
            user_access_token: stand.provider.user_token_with("eve", claims),
            ..stand.exchange_request("eve")
        };
        assert_eq!(refused(stand.exchange(request).await), "TENANT_NAME_TAKEN", "{name}");
        assert_eq!(stand.provider.stats().token_requests, before, "the user's token was sent");
    }
    stand.create("contoso-2").await.unwrap();
    let names: Vec<_> = stand.tenants(0, "").await.0.into_iter().map(|tenant| tenant.tenant).collect();
    assert_eq!(names, ["contoso", "contoso-2"]);
    stand.purge_now(TENANT).await.unwrap();
    assert_eq!(refused(stand.create("Contoso").await), "TENANT_NAME_TAKEN", "a tombstone's name");
    stand.restart().await;
}
