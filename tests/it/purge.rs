//! The end of a tenant: out of service at once, and nothing left of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use obo_vault::demo::provider::{Fault, Gate};
use obo_vault::demo::stand::Settings;
use obo_vault::domain::id::TenantId;
use obo_vault::proto::{KeyState, TenantState};
use obo_vault::store::Store as _;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::{Stand, TENANT, TOKENS_EXPIRED, reason, token_request};
use crate::harness_more::eventually;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_purge_takes_effect_at_once_and_is_taken_back_whole() {
    let mut stand = Stand::new().await;
    stand.tenant().await;
    stand.grant("ada").await;
    let early = stand.restore().await.unwrap_err();
    assert_eq!(reason(&early), "PURGE_NOT_SCHEDULED");
    let before = stand.token("ada").await.unwrap();
    assert!(before.from_cache);

    let scheduled = stand.schedule_purge(HOUR).await;
    assert_eq!(scheduled.state(), TenantState::PurgeScheduled);
    assert!(scheduled.purge_time.is_some());
    for _ in 0..2 {
        let refused = stand.token("ada").await.unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::FailedPrecondition, "TENANT_PURGE_SCHEDULED")
        );
        let request = stand.exchange_request("bob");
        let refused = stand.client("web").await.grants.exchange_on_behalf_of(request).await.unwrap_err();
        assert_eq!(reason(&refused), "TENANT_PURGE_SCHEDULED");
        let refused = stand.rotate_key().await.unwrap_err();
        assert_eq!(reason(&refused), "TENANT_PURGE_SCHEDULED");
        stand.restart().await;
    }

    assert_eq!(stand.restore().await.unwrap().state(), TenantState::Active);
    let after = stand.token("ada").await.unwrap();
    assert!(!after.from_cache, "a token from before the purge came out of the memory");
    assert_ne!(after.access_token, before.access_token);
    assert_eq!(stand.provider.stats().reuse_detected, 0);
    assert_eq!(stand.contoso().await.grant_count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_from_before_a_purge_are_not_served_after_its_restore() {
    let stand = Stand::new().await;
    stand.tenant().await;
    stand.grant("ada").await;
    let before = stand.token("ada").await.unwrap();
    assert!(before.from_cache);
    stand.schedule_purge(HOUR).await;
    stand.restore().await.unwrap();
    let asked = stand.provider.stats().refreshes;
    let after = stand.token("ada").await.unwrap();
    assert!(!after.from_cache);
    assert_ne!(after.access_token, before.access_token);
    assert_eq!(stand.provider.stats().refreshes, asked + 1, "it came from somewhere else");

    // Nor is one that was on its way during all of it.
    stand.advance(TOKENS_EXPIRED);
    let gate = stand.hang();
    let asking = stand.ask("ada").await;
    gate.reached(1).await;
    stand.schedule_purge(HOUR).await;
    stand.restore().await.unwrap();
    gate.release();
    let late = asking.await.unwrap().unwrap_err();
    assert_eq!((late.code(), reason(&late).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"));
    let asked = stand.provider.stats().refreshes;
    stand.token("ada").await.unwrap();
    assert_eq!(stand.provider.stats().refreshes, asked + 1, "the late token was remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_ends_purges_by_itself() {
    let stand = Stand::new().await;
    stand.tenant().await;
    stand.grant("ada").await;
    let request = obo_vault::proto::ScheduleTenantPurgeRequest {
        tenant: TENANT.into(),
        window: Some((HOUR * 24 * 31).try_into().unwrap()),
    };
    let long = stand.client("purger").await.tenants.schedule_tenant_purge(request).await.unwrap_err();
    assert_eq!(reason(&long), "WINDOW_INVALID");
    stand.schedule_purge(HOUR).await;
    assert_eq!(stand.contoso().await.state(), TenantState::PurgeScheduled);
    stand.advance(HOUR + Duration::from_secs(1));
    let purged = eventually("the purge", async || {
        let tenant = stand.contoso().await;
        (tenant.state() == TenantState::Purged).then_some(tenant)
    })
    .await;
    assert_eq!((purged.grant_count, purged.active_key_version), (0, 0));
    let late = stand.restore().await.unwrap_err();
    assert_eq!(reason(&late), "TENANT_PURGED");
    assert_eq!(stand.usage().await, [(1, KeyState::Destroyed, 0)]);
    // Nobody called for it just now, and it is on record all the same.
    let audit = std::fs::read_to_string(stand.files.directory().join("audit.jsonl")).unwrap();
    let own: Vec<_> = audit.lines().filter(|line| line.contains("system:purge")).collect();
    assert!(own.first().is_some_and(|line| line.contains("intent")), "{own:?}");
    assert!(own.last().is_some_and(|line| line.contains("\"note\":\"purged\"")), "{own:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_leaves_no_byte_of_the_tenant() {
    let mut stand = Stand::new().await;
    stand.tenant().await;
    let users = ["ada", "bob", "eve"];
    for user in users {
        stand.grant(user).await;
    }
    stand.rotate_key().await.unwrap();
    stand.advance(TOKENS_EXPIRED);
    stand.token("ada").await.unwrap();
    stand.stop().await;
    let (keys, tokens) = (stand.wrapped_keys().await, stand.sealed_tokens());
    assert_eq!((keys.len(), tokens.len()), (2, 3));
    for bytes in keys.iter().chain(&tokens) {
        assert!(!stand.files_with(bytes).is_empty(), "the test does not see what it looks for");
    }
    stand.start().await;

    let wrong = stand.purge_now("Contoso").await.unwrap_err();
    assert_eq!((wrong.code(), reason(&wrong).as_str()), (Code::InvalidArgument, "CONFIRMATION_MISMATCH"));
    assert_eq!(stand.contoso().await.state(), TenantState::Active);
    let purged = stand.purge_now(TENANT).await.unwrap();
    assert_eq!((purged.key_versions_destroyed, purged.grants_deleted), (2, 3));
    assert!(purged.trial_open_failed && purged.live_erase_time.is_some());
    // While the vault runs, and with its files closed.
    for stopped in [false, true] {
        if stopped {
            stand.stop().await;
        }
        for bytes in &keys {
            assert_eq!(stand.files_with(bytes), Vec::<String>::new(), "a wrapped key, stopped: {stopped}");
        }
        for bytes in &tokens {
            assert_eq!(stand.files_with(bytes), Vec::<String>::new(), "a sealed token, stopped: {stopped}");
        }
    }
    stand.start().await;

    let again = stand.purge_now(TENANT).await.unwrap();
    assert_eq!((again.key_versions_destroyed, again.grants_deleted), (2, 0));
    assert_eq!(again.live_erase_time, purged.live_erase_time);
    assert_eq!(stand.contoso().await.state(), TenantState::Purged);
    let reused = stand.create(TENANT).await.unwrap_err();
    assert_eq!(reason(&reused), "TENANT_PURGED");
    for user in users {
        assert_eq!(reason(&stand.token(user).await.unwrap_err()), "TENANT_PURGED");
    }
    let nobody =
        obo_vault::proto::PurgeTenantNowRequest { tenant: "nobody".into(), confirm: "nobody".into() };
    let nobody = stand.client("purger").await.tenants.purge_tenant_now(nobody).await.unwrap_err();
    assert_eq!(reason(&nobody), "TENANT_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn protection_forbids_the_purge_of_now_and_not_the_window() {
    let more = "[tenants]\npurge_protection = true\n".to_owned();
    let stand = Stand::with(Default::default(), Settings { more, ..Settings::default() }).await;
    stand.tenant().await;
    stand.grant("ada").await;
    let refused = stand.purge_now(TENANT).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "PURGE_PROTECTED"));
    stand.token("ada").await.unwrap();
    // A window that nobody can use is a purge of now.
    for window in [Duration::ZERO, HOUR, HOUR * 24 - Duration::from_secs(1)] {
        let refused = stand.try_schedule_purge(window).await.unwrap_err();
        let found = (refused.code(), reason(&refused));
        assert_eq!(found, (Code::FailedPrecondition, "PURGE_PROTECTED".to_owned()), "{window:?}");
    }
    stand.token("ada").await.unwrap();
    stand.schedule_purge(HOUR * 24).await;
    let refused = stand.purge_now(TENANT).await.unwrap_err();
    assert_eq!(reason(&refused), "PURGE_PROTECTED", "the window would protect nothing");
    // Nor does another schedule shorten the one that is there.
    assert_eq!(reason(&stand.try_schedule_purge(HOUR).await.unwrap_err()), "PURGE_PROTECTED");
    stand.restore().await.unwrap();
    stand.token("ada").await.unwrap();
}

/// I9: an answer that comes after the tombstone belongs to nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_is_revoked_and_never_stored() {
    for consume in [true, false] {
        let mut stand = Stand::new().await;
        stand.tenant().await;
        stand.grant("ada").await;
        stand.advance(TOKENS_EXPIRED);
        let gate = Gate::new();
        stand.provider.script(Fault::Hang { consume, gate: gate.clone() }, 1);
        let asking = stand.ask("ada").await;
        gate.reached(1).await;
        // The purge does not wait for the answer.
        let purged = stand.purge_now(TENANT).await.unwrap();
        assert_eq!(purged.grants_deleted, 1);
        let before = stand.provider.stats().revocations;
        gate.release();
        let refused = asking.await.unwrap().unwrap_err();
        // A request that the provider looked at after the purge had revoked the
        // token got the provider's own no; nobody gets another from then on.
        assert_eq!(reason(&refused), if consume { "TENANT_PURGED" } else { "GRANT_REVOKED" });
        assert_eq!(reason(&stand.token("ada").await.unwrap_err()), "TENANT_PURGED");
        if consume {
            assert_eq!(stand.provider.stats().revocations, before + 1, "the late token was not revoked");
        }
        assert!(!stand.provider.family_alive("ada"), "the provider still honours a token of the tenant");
        stand.stop().await;
        assert!(stand.sealed_tokens().is_empty());
        assert!(stand.token_store().await.open_attempts().await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_enrolment_is_revoked_and_never_stored() {
    let mut stand = Stand::new().await;
    stand.tenant().await;
    let gate = stand.hang();
    let (mut client, request) = (stand.client("web").await, stand.exchange_request("ada"));
    let enrolment = tokio::spawn(async move { client.grants.exchange_on_behalf_of(request).await });
    gate.reached(1).await;
    stand.purge_now(TENANT).await.unwrap();
    gate.release();
    assert_eq!(reason(&enrolment.await.unwrap().unwrap_err()), "TENANT_PURGED");
    assert!(!stand.provider.family_alive("ada"));
    stand.stop().await;
    assert!(stand.sealed_tokens().is_empty());
    assert!(stand.token_store().await.open_enrolments().await.unwrap().is_empty());
}

/// A purge that is scheduled while a token is on its way keeps the new token:
/// a restore would find a used one otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_during_a_scheduled_purge_is_kept_for_a_restore() {
    let stand = Stand::new().await;
    stand.tenant().await;
    stand.grant("ada").await;
    stand.advance(TOKENS_EXPIRED);
    let gate = stand.hang();
    let asking = stand.ask("ada").await;
    gate.reached(1).await;
    stand.schedule_purge(HOUR).await;
    gate.release();
    let refused = asking.await.unwrap().unwrap_err();
    assert_eq!(reason(&refused), "TENANT_PURGE_SCHEDULED");
    stand.restore().await.unwrap();
    assert_eq!(stand.describe("ada").await.generation, 2);
    stand.token("ada").await.unwrap();
    assert_eq!(stand.provider.stats().reuse_detected, 0);
    assert!(stand.provider.family_alive("ada"));
}

/// I10, under load, with tokens in memory and without.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_token_is_handed_out_once_a_purge_has_returned() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let users: Vec<String> = (0..4).map(|n| format!("user{n}")).collect();
    for user in &users {
        stand.grant(user).await;
    }
    let purged = Arc::new(AtomicBool::new(false));
    let mut callers = Vec::new();
    for n in 0..8 {
        let (mut client, purged) = (stand.client("mail").await, Arc::clone(&purged));
        let mut request = token_request(&users[n % users.len()]);
        if n >= 4 {
            // Never in memory: each is a redemption.
            request.scopes = vec![format!("scope{n}")];
        }
        callers.push(tokio::spawn(async move {
            let (mut handed_out, mut after) = (0, 0);
            while after < 20 {
                let begun_after = purged.load(Ordering::SeqCst);
                match client.tokens.get_access_token(request.clone()).await {
                    Ok(_) => {
                        assert!(!begun_after, "a token was handed out after the purge");
                        handed_out += 1;
                    }
                    Err(refused) if begun_after => assert_eq!(reason(&refused), "TENANT_PURGED"),
                    Err(_) => {}
                }
                after += u32::from(begun_after);
            }
            handed_out
        }));
    }
    eventually("some load", async || (stand.audited("GetAccessToken") > 40).then_some(())).await;
    stand.purge_now(TENANT).await.unwrap();
    purged.store(true, Ordering::SeqCst);
    let mut handed_out = 0;
    for caller in callers {
        handed_out += caller.await.unwrap();
    }
    assert!(handed_out > 0, "the callers were never served, which proves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_a_crash_interrupted_is_finished_at_the_start() {
    let mut stand = Stand::new().await;
    stand.tenant().await;
    stand.grant("ada").await;
    stand.stop().await;
    let (keys, tokens) = (stand.wrapped_keys().await, stand.sealed_tokens());
    let store = stand.token_store().await;
    store.tombstone(&TenantId::new(TENANT).unwrap(), None).await.unwrap().unwrap();
    drop(store);
    assert!(!stand.files_with(&keys[0]).is_empty());
    stand.start().await;
    assert_eq!(stand.contoso().await.state(), TenantState::Purged);
    assert_eq!(stand.usage().await, [(1, KeyState::Destroyed, 0)]);
    for bytes in keys.iter().chain(&tokens) {
        assert_eq!(stand.files_with(bytes), Vec::<String>::new());
    }
    assert_eq!(reason(&stand.token("ada").await.unwrap_err()), "TENANT_PURGED");
}

/// A backup reads one of the files, so that what was deleted cannot be
/// overwritten yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_a_reader_holds_up_says_so_and_ends_when_the_reader_has_gone() {
    for name in ["vault.db", "keys.db"] {
        let stand = Stand::new().await;
        stand.tenant().await;
        stand.grant("ada").await;
        let reader = stand.reader(name);
        reader.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;").unwrap();

        let refused = stand.purge_now(TENANT).await.unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::Unavailable, "PURGE_INCOMPLETE"),
            "{name}"
        );
        assert!(refused.get_details_retry_info().is_some(), "{name}");
        // What matters has happened all the same.
        assert_eq!(stand.contoso().await.state(), TenantState::Purging, "{name}");
        assert_eq!(stand.usage().await, [(1, KeyState::Destroyed, 0)], "{name}");
        assert_eq!(reason(&stand.token("ada").await.unwrap_err()), "TENANT_PURGED", "{name}");

        drop(reader);
        eventually("the end of the purge", async || {
            (stand.contoso().await.state() == TenantState::Purged).then_some(())
        })
        .await;
        let again = stand.purge_now(TENANT).await.unwrap();
        assert_eq!((again.key_versions_destroyed, again.grants_deleted), (1, 0), "{name}");
    }
}
