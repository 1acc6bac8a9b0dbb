//! SIGHUP: everything from a file is read again, and nothing under way ends.

use obo_vault::demo::provider::{Fault, Gate};
use obo_vault::demo::stand::Settings;

use crate::world::{World, fresh, usual};

#[tokio::test(flavor = "multi_thread")]
async fn a_redemption_under_way_outlives_a_sighup() {
    let mut world = World::new(&Settings::default()).await;
    world.exchange("ada").await.unwrap();
    let gate = Gate::new();
    world.provider.script(Fault::Hang { consume: true, gate: gate.clone() }, 1);
    let mut client = world.client("mail").await;
    let call = tokio::spawn(async move { client.tokens.get_access_token(fresh("ada")).await });
    gate.reached(1).await;

    world.binary().hang_up();
    world.binary().logged("SIGHUP: all files were read again").await;
    gate.release();
    let answer = call.await.unwrap().unwrap().into_inner();
    assert!(!answer.access_token.is_empty());
    assert_eq!(world.describe("ada").await.unwrap().generation, 2);
    world.token(usual("ada")).await.unwrap();
    assert!(world.provider.family_alive("ada"));
    world.take().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sighup_says_what_needs_a_restart_and_what_cannot_be_used() {
    let mut world = World::new(&Settings::default()).await;
    let file = world.file("obo-vault.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n[cache]\nmax_tokens = 77\n")).unwrap();
    std::fs::write(world.file("policy.cedar"), "permit(").unwrap();
    world.binary().hang_up();
    let changed = world.binary().logged("need a restart").await;
    assert!(changed.contains("cache.max_tokens") && !changed.contains("77"), "{changed}");
    world.binary().logged("cannot be reloaded: the old stays in force").await;
    world.exchange("ada").await.unwrap();
    world.take().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_says_what_is_served_and_no_secret() {
    let mut world = World::new(&Settings::default()).await;
    let starting: serde_json::Value =
        serde_json::from_str(&world.binary().logged("\"message\":\"starting\"").await).unwrap();
    for (field, part) in [
        ("version", env!("CARGO_PKG_VERSION")),
        ("file.configuration", "obo-vault.toml"),
        ("file.policy", "policy.cedar"),
        ("file.tokens", "vault.db"),
        ("file.keys", "keys.db"),
        ("file.root_key", "root.key"),
        ("file.audit", "audit.jsonl"),
        ("providers", "dev"),
        ("clients", "portal"),
    ] {
        assert!(starting[field].as_str().unwrap().contains(part), "{field}: {starting}");
    }
    world.take().stop().await;
    world.start().await;
    let serving: serde_json::Value =
        serde_json::from_str(&world.binary().logged("\"message\":\"serving\"").await).unwrap();
    assert_eq!(serving["tenants"], 1);
    assert!(serving["next_rotation"].as_str().unwrap().ends_with("T03:00:00.000Z"), "{serving}");
    assert_eq!(serving["metrics"], "none");
    world.take().stop().await;
}
