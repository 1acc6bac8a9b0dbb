//! SIGTERM: what is on its way to a provider is awaited.

use std::time::Duration;

use obo_vault::demo::provider::{Fault, Gate};
use obo_vault::demo::stand::Settings;

use crate::world::{World, fresh, usual};

#[tokio::test(flavor = "multi_thread")]
async fn a_redemption_under_way_is_finished_and_kept() {
    for consume in [false, true] {
        let mut world = World::new(&Settings::default()).await;
        world.exchange("ada").await.unwrap();
        let gate = Gate::new();
        world.provider.script(Fault::Hang { consume, gate: gate.clone() }, 1);
        let mut client = world.client("mail").await;
        let call = tokio::spawn(async move { client.tokens.get_access_token(fresh("ada")).await });
        gate.reached(1).await;

        let binary = world.take();
        binary.terminate();
        binary.logged("shutting down").await;
        gate.release();
        let answer = call.await.unwrap().unwrap().into_inner();
        assert!(!answer.access_token.is_empty());
        let status = binary.ended().await;
        assert_eq!(status.code(), Some(0));

        world.start().await;
        let grant = world.describe("ada").await.unwrap();
        assert_eq!(grant.generation, 2, "{grant:?}");
        world.token(usual("ada")).await.unwrap();
        assert!(world.provider.family_alive("ada"));
        world.take().stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redemption_whose_caller_has_gone_is_finished_and_kept() {
    let mut world = World::new(&Settings::default()).await;
    world.exchange("ada").await.unwrap();
    let gate = Gate::new();
    world.provider.script(Fault::Hang { consume: true, gate: gate.clone() }, 1);
    let mut client = world.client("mail").await;
    let call = tokio::spawn(async move { client.tokens.get_access_token(fresh("ada")).await });
    gate.reached(1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());

    let mut binary = world.take();
    binary.terminate();
    binary.logged("shutting down").await;
    binary.stays_up(Duration::from_millis(700)).await;
    gate.release();
    assert_eq!(binary.ended().await.code(), Some(0));

    world.start().await;
    assert_eq!(world.describe("ada").await.unwrap().generation, 2);
    world.token(usual("ada")).await.unwrap();
    assert!(world.provider.family_alive("ada"));
    world.take().stop().await;
}
