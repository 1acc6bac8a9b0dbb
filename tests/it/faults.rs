//! The store fails, or what it says is lost, in the middle of things.

use std::time::Duration;

use futures_util::future::join_all;
use obo_vault::demo::provider::Fault;
use obo_vault::proto::{GrantState, RunRotationRequest, ScheduleTenantPurgeRequest};
use tonic::Code;

use crate::faulty_store::{Hold, StoreFault};
use crate::field_kit::Kind;
use crate::harness::{Stand, TENANT, TOKENS_EXPIRED, reason};
use crate::harness_more::eventually;

/// A stand with a user whose access token has expired.
async fn stand() -> Stand {
    let stand = Stand::new().await;
    stand.tenant().await;
    stand.grant("ada").await;
    stand.advance(TOKENS_EXPIRED);
    stand
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_where_the_intent_could_not_be_written() {
    let stand = stand().await;
    let before = stand.provider.stats().token_requests;
    // It is asked for twice, since the first acknowledgement may have been lost.
    stand.faults.on("claim", 1, StoreFault::Fail);
    stand.faults.on("claim", 2, StoreFault::Fail);
    let refused = stand.token("ada").await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"));
    assert_eq!(stand.provider.stats().token_requests, before);
    stand.faults.assert_met();
    stand.token("ada").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_write_of_a_redemption_may_fail_once() {
    for operation in ["record_answer", "advance"] {
        let stand = stand().await;
        stand.faults.on(operation, 1, StoreFault::Fail);
        stand.token("ada").await.unwrap_or_else(|status| panic!("{operation}: {status:?}"));
        stand.faults.assert_met();
        let grant = stand.describe("ada").await;
        assert_eq!((grant.state(), grant.generation), (GrantState::Active, 2), "{operation}");
        assert!(stand.provider.family_alive("ada"), "{operation}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_write_of_a_redemption_may_be_repeated() {
    for operation in ["claim", "record_answer", "advance"] {
        let stand = stand().await;
        stand.faults.on(operation, 1, StoreFault::LoseAnswer);
        let first = stand.token("ada").await;
        stand.faults.assert_met();
        assert!(first.is_ok(), "{operation}: {first:?}");
        eventually("a token", async || stand.token("ada").await.ok()).await;
        assert_eq!(stand.describe("ada").await.state(), GrantState::Active, "{operation}");
        assert!(stand.provider.family_alive("ada"), "{operation}: its own token was revoked");
    }
}

/// Whatever is not acknowledged, the new token is this grant's own.
#[tokio::test(flavor = "multi_thread")]
async fn each_write_of_an_enrolment_may_fail_or_be_repeated() {
    for operation in ["begin_enrolment", "record_answer", "commit_enrolment"] {
        for fault in [StoreFault::Fail, StoreFault::LoseAnswer] {
            for kind in [Kind::Strict, Kind::Tolerant] {
                let case = format!("{operation} {fault:?} {kind:?}");
                let stand = Stand::with(kind.options(), kind.settings()).await;
                stand.tenant().await;
                let token = stand.minted("bob");
                for (user, replaces) in [("ada", false), ("bob", false), ("ada", true)] {
                    stand.faults.on(operation, 1, fault.clone());
                    let grant = if user == "bob" {
                        stand.import(user, &token).await.unwrap_or_else(|e| panic!("{case}: {e:?}")).grant
                    } else {
                        stand.exchange(stand.exchange_request(user)).await.unwrap().grant
                    };
                    stand.faults.assert_met();
                    let expected = (GrantState::Active, if replaces { 2 } else { 1 });
                    let grant = grant.unwrap();
                    assert_eq!((grant.state(), grant.generation), expected, "{case}");
                }
                assert_eq!(stand.provider.stats().revocations, 0, "{case}");
                stand.advance(TOKENS_EXPIRED);
                for user in ["ada", "bob"] {
                    stand.token(user).await.unwrap_or_else(|e| panic!("{case}, {user}: {e:?}"));
                    assert!(stand.provider.family_alive(user), "{case}, {user}");
                }
                let stats = stand.provider.stats();
                assert_eq!((stats.revocations, stats.reuse_detected), (0, 0), "{case}");
            }
        }
    }
}

/// An import that is suspended, or held, must be found by the next one.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_suspended_whatever_becomes_of_the_write() {
    for fault in [StoreFault::Fail, StoreFault::LoseAnswer] {
        for held in [false, true] {
            let case = format!("{fault:?}, held: {held}");
            let mut settings = Kind::Strict.settings();
            if held {
                settings.profile.push_str("\nsubject_claims = [\"email\"]");
            }
            let stand = Stand::with(Kind::Strict.options(), settings).await;
            stand.tenant().await;
            // With an ID token, so that what is held can be looked at again.
            let scopes = ["mail.read", "offline_access", "openid"];
            let token = stand.provider.mint_refresh_token("vault", "ada", &scopes);
            if !held {
                stand.provider.script(Fault::CloseBeforeAnswer { consume: false }, 1);
            }
            stand.faults.on("suspend_enrolment", 1, fault.clone());
            let before = stand.token_requests();
            let expected = if held { "IDENTITY_UNPROVEN" } else { "GRANT_IN_DOUBT" };
            for _ in 0..2 {
                assert_eq!(reason(&stand.import("ada", &token).await.unwrap_err()), expected, "{case}");
            }
            stand.faults.assert_met();
            assert_eq!(stand.token_requests(), before + 1, "{case}");
            assert!(stand.provider.family_alive("ada"), "{case}");
            assert_eq!(stand.provider.stats().revocations, 0, "{case}");
        }
    }
}

/// A delete whose acknowledgement is lost has happened: the provider is told of
/// this grant's token and of no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_revoked_once_whatever_becomes_of_the_delete() {
    for fault in [StoreFault::Fail, StoreFault::LoseAnswer] {
        let stand = stand().await;
        stand.grant("bob").await;
        stand.faults.on("delete_grant", 1, fault.clone());
        assert!(stand.revoke("ada").await.unwrap().revoked_at_provider, "{fault:?}");
        stand.faults.assert_met();
        assert_eq!(stand.provider.stats().revocations, 1, "{fault:?}");
        assert!(!stand.provider.family_alive("ada"), "{fault:?}");
        assert_eq!(reason(&stand.token("ada").await.unwrap_err()), "GRANT_NOT_FOUND", "{fault:?}");
        stand.advance(TOKENS_EXPIRED);
        stand.token("bob").await.unwrap();
        assert!(stand.provider.family_alive("bob"), "{fault:?}");
    }
}

/// A settled end that was not acknowledged is told again, and changes nothing
/// the second time: neither what callers hear nor how often operators do.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_without_tokens_may_be_told_twice() {
    let ends = [
        (Fault::error(400, "invalid_grant"), GrantState::Revoked, "GRANT_REVOKED"),
        (Fault::error(400, "interaction_required"), GrantState::Reauth, "INTERACTION_REQUIRED"),
        (Fault::CloseBeforeAnswer { consume: false }, GrantState::InDoubt, "GRANT_IN_DOUBT"),
    ];
    for (end, state, expected) in ends {
        for fault in [StoreFault::Fail, StoreFault::LoseAnswer] {
            let stand = stand().await;
            stand.provider.script(end.clone(), 1);
            stand.faults.on("advance", 1, fault.clone());
            let before = stand.token_requests();
            assert_eq!(reason(&stand.token("ada").await.unwrap_err()), expected, "{end:?} {fault:?}");
            stand.faults.assert_met();
            assert_eq!(stand.describe("ada").await.state(), state, "{end:?} {fault:?}");
            let stats = stand.provider.stats();
            assert_eq!((stats.token_requests, stats.revocations), (before + 1, 0), "{end:?} {fault:?}");
            assert!(stand.provider.family_alive("ada"), "{end:?} {fault:?}");
        }
    }
}

/// An attempt whose task is gone although the process is not is adopted by who
/// asks next, and costs nothing but time.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_its_task_left_behind_is_adopted() {
    let stand = stand().await;
    let before = stand.provider.stats().token_requests;
    for nth in [1, 2] {
        stand.faults.on("claim", nth, StoreFault::LoseAnswer);
    }
    stand.faults.on("advance", 1, StoreFault::Fail);
    assert_eq!(reason(&stand.token("ada").await.unwrap_err()), "STORE_UNAVAILABLE");
    stand.faults.assert_met();
    assert_eq!(stand.describe("ada").await.state(), GrantState::Sending, "nobody took it back");
    assert_eq!(stand.provider.stats().token_requests, before, "nothing was sent");

    assert_eq!(reason(&stand.token("ada").await.unwrap_err()), "GRANT_IN_DOUBT");
    let adopted = stand.describe("ada").await;
    assert_eq!((adopted.state(), adopted.cause.as_str()), (GrantState::InDoubt, "owner_died"));
    stand.advance(Duration::from_secs(130));
    let probed = stand.until("ada", GrantState::Active).await;
    assert_eq!(probed.generation, 2);
    assert!(stand.provider.family_alive("ada"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_handed_out_once_it_is_durable_and_not_before() {
    let stand = stand().await;
    let hold = Hold::new();
    stand.faults.on("advance", 1, StoreFault::Hold(hold.clone()));
    let asking = stand.ask("ada").await;
    hold.reached(1).await;
    assert_eq!(stand.describe("ada").await.state(), GrantState::Sending);
    assert!(!asking.is_finished());
    hold.release();
    asking.await.unwrap().unwrap();
    assert_eq!(stand.describe("ada").await.generation, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_goes_on_after_any_one_write_has_failed() {
    let cases = (1..=6).flat_map(|nth| [(nth, StoreFault::Fail), (nth, StoreFault::LoseAnswer)]);
    join_all(cases.map(|(nth, fault)| rotation_with(nth, fault))).await;
}

async fn rotation_with(nth: usize, fault: StoreFault) {
    let case = format!("write {nth}: {fault:?}");
    let stand = Stand::new().await;
    stand.tenant().await;
    stand.grant("ada").await;
    stand.faults.on_write(nth, fault);
    // A run whose beginning may not be durable is refused.
    let request = RunRotationRequest { force_new_versions: true, refresh_all: false };
    if let Err(refused) = stand.client("rotator").await.rotation.run_rotation(request).await {
        assert_eq!((nth, reason(&refused).as_str()), (1, "STORE_UNAVAILABLE"), "{case}");
    }
    for _ in 0..2 {
        let run = stand.rotate(true, false).await.pop().unwrap();
        assert_eq!(run.reseal_failed, 0, "{case}");
    }
    stand.faults.assert_met();
    let usage = stand.usage().await;
    assert_eq!(usage.iter().filter(|(_, _, values)| *values > 0).count(), 1, "{case}: {usage:?}");
    stand.advance(TOKENS_EXPIRED);
    stand.token("ada").await.unwrap_or_else(|status| panic!("{case}: {status:?}"));
    assert!(stand.provider.family_alive("ada"), "{case}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_comes_to_its_end_after_any_of_its_steps_has_failed() {
    let steps = ["tombstone", "destroy_tenant", "delete_tenant_grants", "erase_deleted", "finish_purge"];
    for step in steps {
        for fault in [StoreFault::Fail, StoreFault::LoseAnswer] {
            let stand = Stand::new().await;
            stand.tenant().await;
            stand.grant("ada").await;
            stand.faults.on(step, 1, fault.clone());
            let refused = stand.purge_now(TENANT).await.unwrap_err();
            assert_eq!(reason(&refused), "STORE_UNAVAILABLE", "{step} {fault:?}");
            let served = stand.token("ada").await;
            let tombstone = step != "tombstone" || matches!(fault, StoreFault::LoseAnswer);
            assert_eq!(served.is_err(), tombstone, "{step} {fault:?}: {served:?}");
            stand.faults.assert_met();
            let purged = eventually("the end of the purge", async || {
                // An operator who tries again is told what was destroyed.
                stand.purge_now(TENANT).await.ok()
            })
            .await;
            assert_eq!(purged.key_versions_destroyed, 1, "{step} {fault:?}");
            assert_eq!(stand.contoso().await.grant_count, 0);
            assert_eq!(reason(&stand.token("ada").await.unwrap_err()), "TENANT_PURGED");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_may_repeat_what_was_not_acknowledged() {
    let stand = Stand::new().await;
    stand.faults.on("create_tenant", 1, StoreFault::LoseAnswer);
    assert_eq!(reason(&stand.create(TENANT).await.unwrap_err()), "STORE_UNAVAILABLE");
    assert_eq!(reason(&stand.create(TENANT).await.unwrap_err()), "TENANT_EXISTS");
    stand.grant("ada").await;

    stand.faults.on("advance_version", 1, StoreFault::LoseAnswer);
    assert_eq!(reason(&stand.rotate_key().await.unwrap_err()), "STORE_UNAVAILABLE");
    stand.grant("bob").await;
    assert_eq!(stand.rotate_key().await.unwrap().version, 3);

    stand.faults.on("schedule_purge", 1, StoreFault::LoseAnswer);
    let request = ScheduleTenantPurgeRequest {
        tenant: TENANT.into(),
        window: Some(Duration::from_secs(3600).try_into().unwrap()),
    };
    assert!(stand.token("ada").await.unwrap().from_cache);
    let lost = stand.client("purger").await.tenants.schedule_tenant_purge(request).await.unwrap_err();
    assert_eq!(reason(&lost), "STORE_UNAVAILABLE");
    assert_eq!(reason(&stand.token("ada").await.unwrap_err()), "TENANT_PURGE_SCHEDULED");

    stand.faults.on("restore_tenant", 1, StoreFault::LoseAnswer);
    assert_eq!(reason(&stand.restore().await.unwrap_err()), "STORE_UNAVAILABLE");
    stand.token("ada").await.unwrap();
    stand.faults.assert_met();
}
