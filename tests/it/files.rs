//! Files that go away under a serving vault: it must not go on as if they were
//! there.

use std::fs;
use std::path::Path;

use obo_vault::proto::GetAccessTokenRequest;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Stand, eventually};
use crate::log;
use crate::refusal::Refused as _;

/// What happens to a file.
type Accident = fn(&Path);

/// Something that can be undone, with which the vault goes on by itself.
const MOVED: Accident = |path| fs::rename(path, path.with_extension("aside")).unwrap();

const FOR_GOOD: [Accident; 3] = [
    |path| fs::remove_file(path).unwrap(),
    |path| {
        fs::write(path.with_extension("new"), "").unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    },
    |path| fs::write(path, "").unwrap(),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_answered_once_the_audit_log_is_gone() {
    for accident in FOR_GOOD {
        let stand = Stand::new().await;
        stand.tenant().await;
        stand.grant("ada").await;
        stand.token("ada").await.unwrap();
        let before = stand.provider.stats().token_requests;
        accident(&stand.files.directory().join("audit.jsonl"));

        // At once: no look has come between.
        for refusal in [
            stand.token("ada").await.refused(),
            stand.token_with("ada", fresh(1)).await.refused(),
            stand.try_describe("ada").await.refused(),
            stand.exchange(stand.exchange_request("bob")).await.refused(),
        ] {
            assert_eq!(refusal.reason, "AUDIT_UNAVAILABLE");
        }
        assert_eq!(stand.provider.stats().token_requests, before, "the provider was asked");
        becomes(&stand, ServingStatus::NotServing).await;
        assert!(log::captured().contains("send SIGHUP"), "the log does not say what to do");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_log_that_was_moved_away_stops_the_vault_until_it_is_back() {
    let stand = Stand::new().await;
    stand.tenant().await;
    stand.grant("ada").await;
    let path = stand.files.directory().join("audit.jsonl");
    MOVED(&path);
    becomes(&stand, ServingStatus::NotServing).await;
    assert_eq!(stand.token("ada").await.refused().reason, "AUDIT_UNAVAILABLE");
    // Whatever was answered until then is in the file, wherever it is.
    fs::rename(path.with_extension("aside"), &path).unwrap();
    becomes(&stand, ServingStatus::Serving).await;
    stand.token("ada").await.unwrap();
    obo_vault::audit::verify(&path, None).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_redeemed_once_a_file_of_a_store_is_gone() {
    for file in ["vault.db", "vault.db-wal", "vault.db.lock", "keys.db", "keys.db-wal"] {
        let stand = Stand::new().await;
        stand.tenant().await;
        stand.grant("ada").await;
        let before = stand.provider.stats().token_requests;
        let path = stand.files.directory().join(file);
        MOVED(&path);

        // At once: no look has come between.
        for refusal in [
            stand.token_with("ada", fresh(1)).await.refused(),
            stand.exchange(stand.exchange_request("bob")).await.refused(),
        ] {
            assert_eq!(refusal.reason, "STORE_UNAVAILABLE", "{file}");
        }
        assert_eq!(stand.provider.stats().token_requests, before, "{file}: the provider was asked");
        becomes(&stand, ServingStatus::NotServing).await;
        let named = format!("{} is not there any more", path.display());
        assert!(log::captured().contains(&named), "the log does not say which file");

        fs::rename(path.with_extension("aside"), &path).unwrap();
        becomes(&stand, ServingStatus::Serving).await;
        stand.token_with("ada", fresh(2)).await.unwrap();
        assert_eq!(stand.describe("ada").await.generation, 2, "{file}");
    }
}

/// A wish for a token that is in no memory, so that the refresh token is used.
fn fresh(n: u32) -> impl FnOnce(&mut GetAccessTokenRequest) {
    move |request| request.claims_challenge = format!(r#"{{"access_token":{{"nonce":{{"value":"{n}"}}}}}}"#)
}

/// Waits until the vault's health is this.
async fn becomes(stand: &Stand, wanted: ServingStatus) {
    let mut health = HealthClient::new(stand.channel("auditor").await);
    eventually(&format!("health is {wanted:?}"), async || {
        let request = HealthCheckRequest { service: String::new() };
        let status = health.check(request).await.unwrap().into_inner().status();
        (status == wanted).then_some(())
    })
    .await;
}
