//! What is counted of grants: each event once, whoever finds it.

use std::time::Duration;

use obo_vault::demo::provider::{Fault, Options};
use obo_vault::demo::stand::Settings;
use obo_vault::proto::GrantState;

use crate::field_kit::{Meter, says, with_scope};
use crate::harness::{Stand, TOKENS_EXPIRED};
use crate::refusal::Refused as _;

/// Beyond the hard limit and the margin of a strict provider.
const PROBE_DUE: Duration = Duration::from_secs(130);

async fn stand() -> (Stand, Meter) {
    let mut settings = Settings {
        profile: "profile = \"strict\"\nmulti_resource = true\nrequests_per_second = 1000".into(),
        ..Settings::default()
    };
    let meter = Meter::on(&mut settings);
    let stand = Stand::with(Options::default(), settings).await;
    stand.tenant().await;
    (stand, meter)
}

/// Lost, revoked, re-authentication needed, client rejected.
async fn counted(meter: &Meter) -> [u64; 4] {
    [
        meter.read("grants_lost_total").await,
        meter.read("grants_revoked_total").await,
        meter.read("grants_reauth_total").await,
        meter.read("clients_rejected_total").await,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_a_caller_finds_is_counted_once() {
    let (stand, meter) = stand().await;
    stand.expect_reuse();
    for user in ["ada", "bob", "eve", "kim"] {
        stand.grant(user).await;
    }
    stand.advance(TOKENS_EXPIRED);
    assert_eq!(counted(&meter).await, [0, 0, 0, 0], "all are there before anything happens");
    for (user, fault, reason, expected) in [
        ("ada", Fault::error(400, "invalid_grant"), "GRANT_REVOKED", [0, 1, 0, 0]),
        ("bob", says(400, "interaction_required", None, false), "INTERACTION_REQUIRED", [0, 1, 1, 0]),
        ("eve", Fault::error(401, "invalid_client"), "GRANT_IN_DOUBT", [0, 1, 1, 1]),
    ] {
        stand.provider.script(fault, 1);
        // Asked three times, found once.
        for _ in 0..3 {
            assert_eq!(stand.token(user).await.refused().reason, reason, "{user}");
        }
        assert_eq!(counted(&meter).await, expected, "{user}");
    }
    // What is said of a caller's choice is not said of the grant.
    let fault = says(400, "interaction_required", None, false);
    stand.provider.fault_when(with_scope("files.read"), fault, 1);
    let refusal = stand.token_with("kim", |r| r.scopes = vec!["files.read".into()]).await.refused();
    assert_eq!(refusal.reason, "INTERACTION_REQUIRED");
    assert_eq!(stand.describe("kim").await.state(), GrantState::Active);
    assert_eq!(counted(&meter).await, [0, 1, 1, 1]);
    assert_eq!(meter.read("redemptions_total{outcome=\"target_refused\"}").await, 1);
    assert_eq!(meter.read("redemptions_total{outcome=\"reauth\"}").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_a_probe_finds_is_counted_once() {
    let (stand, meter) = stand().await;
    stand.expect_reuse();
    stand.grant("ada").await;
    stand.advance(TOKENS_EXPIRED);
    stand.provider.script(Fault::CloseBeforeAnswer { consume: true }, 1);
    assert_eq!(stand.token("ada").await.refused().reason, "GRANT_IN_DOUBT");
    assert_eq!(meter.read("grants_in_doubt_total").await, 1);
    stand.advance(PROBE_DUE);
    stand.until("ada", GrantState::Lost).await;
    assert_eq!(stand.token("ada").await.refused().reason, "GRANT_LOST");
    assert_eq!(counted(&meter).await, [1, 0, 0, 0]);
    assert_eq!(meter.read("redemptions_total{outcome=\"lost\"}").await, 1);
    assert_eq!(meter.read("grants_in_doubt_total").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_the_rotation_finds_is_counted_once() {
    let (stand, meter) = stand().await;
    stand.expect_reuse();
    for user in ["ada", "bob", "eve"] {
        stand.grant(user).await;
    }
    stand.advance(TOKENS_EXPIRED);
    stand.provider.script(Fault::error(400, "invalid_grant"), 1);
    stand.provider.script(says(400, "interaction_required", None, false), 1);
    for _ in 0..2 {
        stand.rotate(false, true).await;
    }
    assert_eq!(counted(&meter).await, [0, 1, 1, 0]);
    assert_eq!(meter.read("redemptions_total{outcome=\"renewed\"}").await, 2, "of the third, twice");
}

/// The alert on the age of the last run does not fire because there was none yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_vault_has_missed_no_rotation() {
    let (stand, meter) = stand().await;
    let now = obo_vault::clock::Clock::now(&*stand.clock).unix_seconds();
    let last = meter.read("rotation_last_success_timestamp_seconds").await;
    assert!(now.abs_diff(i64::try_from(last).unwrap()) < 600, "{last} at {now}");
    assert_eq!(meter.read("rotations_failed_total").await, 0);
}
