//! The two commits of a redemption, and what ends an attempt otherwise.

use obo_vault::domain::grant::{Attempt, DoubtCause, Epoch, Generation, Grant, GrantId, GrantState};
use obo_vault::domain::scope::{Claims, ScopeSet};
use obo_vault::store::{Claim, ClaimLost, Commit, CommitRefused, Store};
use uuid::Uuid;

use crate::Make;
use crate::world::*;

fn doubt(n: u128) -> GrantState {
    GrantState::InDoubt { attempt: attempt(n), cause: DoubtCause::Interrupted, probe_after: at(40) }
}

async fn in_doubt(store: &dyn Store, grant: &Grant, n: u128) -> Grant {
    claimed(store, grant, n).await;
    store.settle(grant.id, attempt_id(n), doubt(n), None).await.unwrap().unwrap()
}

pub(crate) async fn a_claim_is_for_the_grant_as_it_was_seen(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = taken_in(store, 1, key("ada")).await;
    let right = claim(&ada, 11);
    let wrong = [
        Claim { grant: GrantId(Uuid::from_u128(99)), ..right.clone() },
        Claim { generation: Generation(2), ..right.clone() },
        Claim { takes_over: Some(attempt_id(5)), ..right.clone() },
    ];
    for claim in wrong {
        assert!(matches!(store.claim(claim.clone()).await.unwrap(), Err(ClaimLost)), "{claim:?} was taken");
    }
    assert_eq!(read(store, &ada.key).await.grant, ada, "a lost claim changed the grant");
    let got = store.claim(right).await.unwrap().unwrap();
    assert_eq!(got.grant, Grant { state: GrantState::Sending(attempt(11)), ..ada.clone() });
    assert_eq!(got.sealed.as_bytes(), b"token 1 of ada");
    let second = store.claim(claim(&ada, 12)).await.unwrap();
    assert!(matches!(second, Err(ClaimLost)), "two attempts own one refresh token");
    let over = Claim { takes_over: Some(attempt_id(11)), ..claim(&ada, 12) };
    assert!(
        matches!(store.claim(over).await.unwrap(), Err(ClaimLost)),
        "an attempt under way was taken over"
    );
}

pub(crate) async fn a_claim_needs_a_tenant_in_service(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = taken_in(store, 1, key("ada")).await;
    store.schedule_purge(&acme(), at(100)).await.unwrap().unwrap();
    assert!(store.claim(claim(&ada, 11)).await.unwrap().is_err());
    store.restore_tenant(&acme()).await.unwrap().unwrap();
    assert!(store.claim(claim(&ada, 11)).await.unwrap().is_ok());
    let bob = taken_in(store, 2, key("bob")).await;
    store.tombstone(&acme(), None).await.unwrap().unwrap();
    assert!(store.claim(claim(&bob, 12)).await.unwrap().is_err());
}

pub(crate) async fn a_doubt_is_taken_over_by_who_names_it(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = in_doubt(store, &taken_in(store, 1, key("ada")).await, 11).await;
    for takes_over in [None, Some(attempt_id(10))] {
        let claim = Claim { takes_over, ..claim(&ada, 12) };
        assert!(store.claim(claim).await.unwrap().is_err(), "taken over as {takes_over:?}");
    }
    let probe =
        Attempt { epoch: Epoch(1), fenced_at: None, follows: Some(DoubtCause::Interrupted), ..attempt(12) };
    let claim = Claim { takes_over: Some(attempt_id(11)), attempt: probe.clone(), ..claim(&ada, 12) };
    let got = store.claim(claim.clone()).await.unwrap().unwrap();
    assert_eq!(got.grant.state, GrantState::Sending(probe));
    assert!(store.claim(claim).await.unwrap().is_err(), "one doubt was taken over twice");
    let late = store.commit(renewal(&ada, 11, V1)).await.unwrap();
    assert_eq!(late, Err(CommitRefused::Superseded), "the attempt that was taken over committed");
    let late = store.settle(ada.id, attempt_id(11), GrantState::Active, None).await.unwrap();
    assert_eq!(late, Err(ClaimLost));
}

pub(crate) async fn a_commit_renews_once(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = taken_in(store, 1, key("ada")).await;
    assert_eq!(store.commit(renewal(&ada, 11, V1)).await.unwrap(), Err(CommitRefused::Superseded));
    claimed(store, &ada, 11).await;
    assert!(store.record_answer(attempt_id(11), V1, &sealed("answer")).await.unwrap());

    let mut skips = renewal(&ada, 11, V1);
    skips.renewed.as_mut().unwrap().generation = Generation(3);
    let refused = [
        renewal(&ada, 12, V1),
        Commit { grant: GrantId(Uuid::from_u128(99)), ..renewal(&ada, 11, V1) },
        skips,
    ];
    for commit in refused {
        let outcome = store.commit(commit.clone()).await.unwrap();
        assert_eq!(outcome, Err(CommitRefused::Superseded), "{commit:?}");
    }
    let scopes = ScopeSet::new(["files.read"]).unwrap();
    let commit = Commit { scopes: Some(scopes.clone()), ..renewal(&ada, 11, V1) };
    let renewed = store.commit(commit.clone()).await.unwrap().unwrap();
    let expected = Grant {
        state: GrantState::Active,
        generation: Generation(2),
        scopes,
        refreshed_at: at(30),
        idle_expires_at: Some(at(3_000_000)),
        next_refresh_at: at(600_000),
        ..ada.clone()
    };
    assert_eq!(renewed, expected);
    let stored = read(store, &ada.key).await;
    assert_eq!((stored.grant, stored.sealed.as_bytes()), (renewed, b"a new token".as_slice()));
    assert_eq!(store.commit(commit).await.unwrap(), Err(CommitRefused::Superseded), "renewed twice");
    assert!(store.open_attempts().await.unwrap().is_empty());
    assert_eq!(store.census(&acme()).await.unwrap(), [(V1, 1)], "the answer outlived the commit");
}

pub(crate) async fn a_commit_without_a_new_token_keeps_the_old(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = taken_in(store, 1, key("ada")).await;
    claimed(store, &ada, 11).await;
    // The version moves meanwhile: the old token stays under its own.
    advance(store, V1).await;
    let commit = Commit { renewed: None, not_before: Some(at(70)), ..renewal(&ada, 11, V2) };
    let kept = store.commit(commit).await.unwrap().unwrap();
    assert_eq!((kept.generation, kept.key_version), (Generation(1), V1));
    assert_eq!(kept.not_before, Some(at(70)));
    assert_eq!((kept.refreshed_at, kept.scopes.clone()), (at(30), ada.scopes));
    let stored = read(store, &ada.key).await;
    assert_eq!((stored.grant, stored.sealed.as_bytes()), (kept, b"token 1 of ada".as_slice()));
}

pub(crate) async fn a_commit_is_sealed_under_the_newest_version(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = taken_in(store, 1, key("ada")).await;
    claimed(store, &ada, 11).await;
    advance(store, V1).await;
    let old = store.commit(renewal(&ada, 11, V1)).await.unwrap();
    assert_eq!(old, Err(CommitRefused::KeyVersionMoved));
    assert_eq!(read(store, &ada.key).await.sealed.as_bytes(), b"token 1 of ada");
    let again = store.commit(renewal(&ada, 11, V2)).await.unwrap().unwrap();
    assert_eq!((again.generation, again.key_version), (Generation(2), V2));
}

pub(crate) async fn a_commit_of_a_purged_tenant_is_refused_and_of_a_scheduled_one_taken(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = taken_in(store, 1, key("ada")).await;
    let bob = taken_in(store, 2, key("bob")).await;
    claimed(store, &ada, 11).await;
    claimed(store, &bob, 12).await;
    store.schedule_purge(&acme(), at(100)).await.unwrap().unwrap();
    let renewed = store.commit(renewal(&ada, 11, V1)).await.unwrap().unwrap();
    assert_eq!(renewed.generation, Generation(2), "a restore would find a used token");
    store.tombstone(&acme(), None).await.unwrap().unwrap();
    for renewed in [renewal(&bob, 12, V1).renewed, None] {
        let commit = Commit { renewed, ..renewal(&bob, 12, V1) };
        assert_eq!(store.commit(commit).await.unwrap(), Err(CommitRefused::TenantGone));
    }
    assert_eq!(read(store, &bob.key).await.sealed.as_bytes(), b"token 1 of bob");
}

pub(crate) async fn a_doubt_still_takes_its_answer(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = in_doubt(store, &taken_in(store, 1, key("ada")).await, 11).await;
    let renewed = store.commit(renewal(&ada, 11, V1)).await.unwrap().unwrap();
    assert_eq!((renewed.state, renewed.generation), (GrantState::Active, Generation(2)));
}

pub(crate) async fn an_attempt_ends_in_every_state(make: Make) {
    let reauth =
        |claims| GrantState::Reauth { claims, error: "interaction_required", suberror: "basic_action" };
    let states = [
        GrantState::Active,
        doubt(11),
        GrantState::Revoked,
        GrantState::Lost { cause: DoubtCause::OwnerDied },
        reauth(None),
        reauth(Some(Claims::new("{\"access_token\":{}}").unwrap())),
    ];
    for state in states {
        let mut backend = make();
        let store = backend.store();
        with_acme(store).await;
        let ada = taken_in(store, 1, key("ada")).await;
        let none = store.settle(ada.id, attempt_id(11), state.clone(), None).await.unwrap();
        assert_eq!(none, Err(ClaimLost), "an attempt ended that never was");
        claimed(store, &ada, 11).await;
        assert!(store.record_answer(attempt_id(11), V1, &sealed("answer")).await.unwrap());
        let other = store.settle(ada.id, attempt_id(12), state.clone(), None).await.unwrap();
        assert_eq!(other, Err(ClaimLost));
        let settled =
            store.settle(ada.id, attempt_id(11), state.clone(), Some(at(77))).await.unwrap().unwrap();
        let expected = Grant { state: state.clone(), not_before: Some(at(77)), ..ada.clone() };
        assert_eq!(settled, expected);
        backend.reopen();
        let store = backend.store();
        let stored = read(store, &ada.key).await;
        assert_eq!((stored.grant, stored.sealed.as_bytes()), (expected, b"token 1 of ada".as_slice()));
        let stays = usize::from(matches!(state, GrantState::InDoubt { .. }));
        assert_eq!(store.open_attempts().await.unwrap().len(), stays, "{state:?}");
        assert_eq!(store.census(&acme()).await.unwrap(), [(V1, 1)], "{state:?} kept an answer");
        let again = store.claim(claim(&settled, 13)).await.unwrap();
        let alive = matches!(state, GrantState::Active | GrantState::InDoubt { .. });
        assert_eq!(again.is_ok(), alive, "claimed from {state:?}");
        if let Ok(claimed) = again {
            assert_eq!(claimed.grant.not_before, None, "an attempt under way still waits");
        }
    }
}

pub(crate) async fn an_answer_is_recorded_under_the_newest_version_alone(make: Make) {
    let mut backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = taken_in(store, 1, key("ada")).await;
    assert!(!store.record_answer(attempt_id(11), V1, &sealed("early")).await.unwrap());
    claimed(store, &ada, 11).await;
    assert!(!store.record_answer(attempt_id(11), V2, &sealed("ahead")).await.unwrap());
    advance(store, V1).await;
    assert!(!store.record_answer(attempt_id(11), V1, &sealed("old")).await.unwrap());
    assert!(store.record_answer(attempt_id(11), V2, &sealed("new")).await.unwrap());
    backend.reopen();
    let open = backend.store().open_attempts().await.unwrap();
    assert_eq!(open[0].answer.as_ref().unwrap().as_bytes(), b"new");
    backend.store().tombstone(&acme(), None).await.unwrap().unwrap();
    backend.store().delete_tenant_grants(&acme()).await.unwrap();
    assert!(!backend.store().record_answer(attempt_id(11), V2, &sealed("late")).await.unwrap());
}

pub(crate) async fn open_attempts_are_found_after_reopening(make: Make) {
    let mut backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = taken_in(store, 1, key("ada")).await;
    let bob = taken_in(store, 2, key("bob")).await;
    taken_in(store, 3, key("eve")).await;
    let ada = claimed(store, &ada, 11).await;
    let bob = in_doubt(store, &bob, 12).await;
    backend.reopen();
    let mut open = backend.store().open_attempts().await.unwrap();
    open.sort_by_key(|o| o.attempt.id);
    let found: Vec<_> = open.iter().map(|o| (&o.grant, &o.attempt, o.answer.is_some())).collect();
    assert_eq!(found, [(&ada, &attempt(11), false), (&bob, &attempt(12), false)]);
}

pub(crate) async fn probes_are_due_after_their_time(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let begun = |n: i64| Attempt { started_at: at(n), ..attempt(10 + u128::try_from(n).unwrap()) };
    let mut grants = Vec::new();
    for (n, subject) in [(1, "ada"), (2, "bob"), (3, "eve"), (4, "sending")] {
        let grant = taken_in(store, u128::try_from(n).unwrap(), key(subject)).await;
        let claim = Claim { attempt: begun(n), ..claim(&grant, 0) };
        let mut grant = store.claim(claim).await.unwrap().unwrap().grant;
        if subject != "sending" {
            let (cause, probe_after) = (DoubtCause::AmbiguousAnswer, at(100 - 10 * n));
            let state = GrantState::InDoubt { attempt: begun(n), cause, probe_after };
            grant = store.settle(grant.id, begun(n).id, state, None).await.unwrap().unwrap();
        }
        grants.push(grant);
    }
    let due = |now, limit| store.due_probes(at(now), at(4), limit);
    assert_eq!(due(70, 9).await.unwrap(), [], "a probe at its very moment is too early");
    assert_eq!(due(71, 9).await.unwrap(), grants[2..3]);
    assert_eq!(due(1000, 2).await.unwrap(), grants[..2]);
    assert_eq!(due(1000, 9).await.unwrap(), grants[..3], "one whose task may be alive");
    assert_eq!(store.due_probes(at(0), at(5), 9).await.unwrap(), grants[3..], "one that nobody owns");
    store.schedule_purge(&acme(), at(100)).await.unwrap().unwrap();
    assert_eq!(store.due_probes(at(1000), at(1000), 9).await.unwrap(), [], "of a tenant out of service");
}

pub(crate) async fn a_deleted_grant_takes_its_attempt_along(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = taken_in(store, 1, key("ada")).await;
    let bob = taken_in(store, 2, key("bob")).await;
    claimed(store, &ada, 11).await;
    assert!(store.delete_grant(ada.id).await.unwrap());
    assert!(!store.delete_grant(ada.id).await.unwrap());
    assert_eq!(store.grant(&ada.key).await.unwrap(), None);
    assert!(store.sealed_grant(&ada.key).await.unwrap().is_none());
    assert!(store.open_attempts().await.unwrap().is_empty());
    assert_eq!(store.commit(renewal(&ada, 11, V1)).await.unwrap(), Err(CommitRefused::Superseded));
    assert!(!store.record_answer(attempt_id(11), V1, &sealed("late")).await.unwrap());
    assert_eq!(store.grant(&bob.key).await.unwrap(), Some(bob));
}
