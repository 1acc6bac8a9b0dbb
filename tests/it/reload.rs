//! What comes from files is renewed while the vault serves.

use std::fs;

use obo_vault::demo::provider::Options;
use obo_vault::demo::stand::{POLICY, Settings};

use crate::harness::{Stand, eventually, reason};
use crate::log;

fn replace(stand: &Stand, name: &str, text: &str) {
    // Made aside and renamed, as one who takes care does it.
    let aside = stand.files.directory().join("aside");
    fs::write(&aside, text).unwrap();
    let mode = fs::metadata(stand.files.directory().join(name)).unwrap().permissions();
    fs::set_permissions(&aside, mode).unwrap();
    fs::rename(&aside, stand.files.directory().join(name)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_in_force_soon_after_its_file_has_changed() {
    let stand = Stand::new().await;
    stand.tenant().await;
    stand.grant("ada").await;
    stand.token("ada").await.unwrap();

    let without = POLICY.replace("spiffe://stand/mail", "spiffe://stand/nobody");
    replace(&stand, "policy.cedar", &without);
    let refused = eventually("the new policy", async || stand.token("ada").await.err()).await;
    assert_eq!(reason(&refused), "NOT_PERMITTED");

    replace(&stand, "policy.cedar", "permit(");
    let directory = stand.files.directory().display().to_string();
    eventually("the bad policy is said aloud", async || {
        let lines = log::captured();
        lines.lines().any(|l| l.contains("cannot be reloaded") && l.contains(&directory)).then_some(())
    })
    .await;
    assert_eq!(reason(&stand.token("ada").await.unwrap_err()), "NOT_PERMITTED");

    replace(&stand, "policy.cedar", POLICY);
    eventually("the old policy again", async || stand.token("ada").await.ok()).await;
    let audit = fs::read_to_string(stand.files.directory().join("audit.jsonl")).unwrap();
    assert_eq!(audit.matches("\"action\":\"reloaded\"").count(), 2, "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_secret_is_renewed_without_a_restart() {
    let mut stand = Stand::unstarted(Options::default(), Settings::default(), |upstream| {
        upstream.client_secret = "expired".into();
    })
    .await;
    stand.start().await;
    stand.tenant().await;
    let refused = stand.exchange(stand.exchange_request("ada")).await.unwrap_err();
    assert_eq!(reason(&refused), "PROVIDER_REJECTED_CLIENT");

    // One that cannot be used changes nothing.
    replace(&stand, "client.secret", "two\nlines");
    replace(&stand, "client.secret", "development-secret\n");
    eventually("the new secret", async || stand.exchange(stand.exchange_request("ada")).await.ok()).await;
    stand.token("ada").await.unwrap();
}
