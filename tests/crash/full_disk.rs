//! A full disk stops the service with a clear error and loses nothing.
//!
//! What is full is one file of the vault at a time: the system's limit on the
//! length of a process's files is set to where that file ends while the others
//! are shorter. Writes then fail as they do on a full disk, in the middle of
//! what is written, and need no rights and no second file system.

use obo_vault::audit;
use obo_vault::demo::provider::{Fault, Gate};
use obo_vault::demo::stand::Settings;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::process::PATIENCE;
use crate::world::{World, fresh, reason, usual};

/// How much longer the full file is than the others.
const AHEAD: u64 = 192 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_log_that_cannot_be_written_stops_everything() {
    let mut world = audit_is_longest().await;
    let before = world.provider.stats();
    // Some bytes fit, so that the line is torn.
    world.binary().limit_files(Some(world.length("audit.jsonl") + 50));

    let refusals = [
        world.token(usual("ada")).await.unwrap_err(),
        world.token(fresh("ada")).await.unwrap_err(),
        world.exchange("ada").await.unwrap_err(),
        world.describe("ada").await.unwrap_err(),
    ];
    for refused in &refusals {
        assert_eq!((refused.code(), reason(refused)), (Code::Unavailable, "AUDIT_UNAVAILABLE".to_owned()));
        assert!(refused.get_details_retry_info().is_some());
    }
    becomes(&world, ServingStatus::NotServing).await;
    assert_eq!(world.provider.stats().token_requests, before.token_requests, "the provider was asked");

    world.binary().limit_files(None);
    becomes(&world, ServingStatus::Serving).await;
    world.token(usual("ada")).await.unwrap();
    world.token(fresh("ada")).await.unwrap();
    assert!(world.provider.family_alive("ada"));
    world.take().stop().await;
    audit::verify(&world.file("audit.jsonl"), None).unwrap();
    let log = std::fs::read_to_string(world.file("audit.jsonl")).unwrap();
    assert!(log.contains("entries_lost"), "the log does not say that it was unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_comes_while_the_audit_log_is_full_is_kept_and_not_handed_out() {
    let mut world = audit_is_longest().await;
    let gate = Gate::new();
    world.provider.script(Fault::Hang { consume: false, gate: gate.clone() }, 1);
    let mut client = world.client("mail").await;
    let call = tokio::spawn(async move { client.tokens.get_access_token(fresh("ada")).await });
    gate.reached(1).await;
    world.binary().limit_files(Some(world.length("audit.jsonl")));
    gate.release();
    assert_eq!(reason(&call.await.unwrap().unwrap_err()), "AUDIT_UNAVAILABLE");

    world.binary().limit_files(None);
    becomes(&world, ServingStatus::Serving).await;
    let grant = world.describe("ada").await.unwrap();
    assert_eq!(grant.generation, 2, "the new refresh token was not kept: {grant:?}");
    world.token(fresh("ada")).await.unwrap();
    assert!(world.provider.family_alive("ada"));
    world.take().stop().await;
    audit::verify(&world.file("audit.jsonl"), None).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_written_stops_what_would_need_it() {
    let mut world = store_is_longest().await;
    let before = world.provider.stats();
    world.binary().limit_files(Some(world.length("vault.db-wal") + 100));

    for refused in [world.token(fresh("ada")).await.unwrap_err(), world.exchange("ada").await.unwrap_err()] {
        assert_eq!((refused.code(), reason(&refused)), (Code::Unavailable, "STORE_UNAVAILABLE".to_owned()));
        assert!(refused.get_details_retry_info().is_some());
    }
    becomes(&world, ServingStatus::NotServing).await;
    assert_eq!(world.provider.stats().token_requests, before.token_requests, "the provider was asked");

    world.binary().limit_files(None);
    becomes(&world, ServingStatus::Serving).await;
    world.token(fresh("ada")).await.unwrap();
    assert_eq!(world.describe("ada").await.unwrap().generation, 2);
    assert!(world.provider.family_alive("ada"));
    world.take().stop().await;
    audit::verify(&world.file("audit.jsonl"), None).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_while_the_store_is_full_is_kept_until_there_is_space() {
    let mut world = store_is_longest().await;
    let gate = Gate::new();
    world.provider.script(Fault::Hang { consume: false, gate: gate.clone() }, 2);
    let mut client = world.client("mail").await;
    let call = tokio::spawn(async move { client.tokens.get_access_token(fresh("ada")).await });
    let (mut client, request) = (world.client("web").await, world.exchange_request("new"));
    let enrolment = tokio::spawn(async move { client.grants.exchange_on_behalf_of(request).await });
    gate.reached(2).await;
    world.binary().limit_files(Some(world.length("vault.db-wal") + 100));
    gate.release();
    world.binary().logged("cannot record an answer").await;
    becomes(&world, ServingStatus::NotServing).await;
    assert!(!call.is_finished() && !enrolment.is_finished(), "an answer left before its token was durable");

    world.binary().limit_files(None);
    call.await.unwrap().unwrap();
    enrolment.await.unwrap().unwrap();
    becomes(&world, ServingStatus::Serving).await;
    world.take().stop().await;

    world.start().await;
    assert_eq!(world.describe("ada").await.unwrap().generation, 2);
    for user in ["ada", "new"] {
        world.token(usual(user)).await.unwrap();
        assert!(world.provider.family_alive(user));
    }
    assert_eq!(world.provider.stats().reuse_detected, 0);
    world.take().stop().await;
}

/// A world with the user ada whose longest file is the audit log.
async fn audit_is_longest() -> World {
    let world = World::new(&Settings { audit_durability: "os", ..Settings::default() }).await;
    world.exchange("ada").await.unwrap();
    let client = world.client("mail").await;
    while world.length("audit.jsonl") < world.length("vault.db-wal") + AHEAD {
        let calls = (0..50).map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.tokens.get_access_token(usual("ada")).await })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap().unwrap();
        }
    }
    world
}

/// A world with the user ada whose longest file is the store's log.
async fn store_is_longest() -> World {
    let world = World::new(&Settings { audit_durability: "os", ..Settings::default() }).await;
    world.exchange("ada").await.unwrap();
    while world.length("vault.db-wal") < world.length("audit.jsonl") + AHEAD {
        world.exchange("filler").await.unwrap();
    }
    world
}

/// Waits until the vault's health is this.
async fn becomes(world: &World, wanted: ServingStatus) {
    let channel = world.binary().channel(&world.files, "auditor").await;
    let request = HealthCheckRequest { service: String::new() };
    let mut health = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
    let come = async {
        while let Some(now) = health.message().await.unwrap() {
            if now.status() == wanted {
                return;
            }
        }
        panic!("the vault's health is no longer told");
    };
    tokio::time::timeout(PATIENCE, come).await.unwrap();
}
