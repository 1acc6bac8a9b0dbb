//! Intakes: the same two commits for a grant the vault does not have yet.

use obo_vault::domain::grant::{DoubtCause, Generation, Grant, GrantId, GrantState};
use obo_vault::store::{CommitRefused, Intake};
use uuid::Uuid;

use crate::Make;
use crate::world::*;

/// The intake that replaces a grant.
fn replacement(n: u128, grant: &Grant) -> Intake {
    Intake { grant: grant.id, generation: grant.generation.next(), ..intake(n, grant.key.clone()) }
}

pub(crate) async fn an_intake_makes_a_grant(make: Make) {
    let mut backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = taken_in(store, 1, key("ada")).await;
    let commit = kept(&intake(1, key("ada")), V1);
    let expected = Grant {
        id: commit.intake.grant,
        key: key("ada"),
        issuer: commit.intake.issuer.clone(),
        state: GrantState::Active,
        generation: Generation(1),
        key_version: V1,
        scopes: commit.scopes.clone(),
        resource: commit.intake.resource.clone(),
        created_at: at(1),
        refreshed_at: at(1),
        idle_expires_at: commit.idle_expires_at,
        absolute_expires_at: commit.absolute_expires_at,
        next_refresh_at: commit.next_refresh_at,
        not_before: None,
    };
    assert_eq!(ada, expected);
    assert_eq!(store.commit_intake(commit).await.unwrap(), Err(CommitRefused::Superseded), "kept twice");
    backend.reopen();
    let stored = read(backend.store(), &ada.key).await;
    assert_eq!((stored.grant, stored.sealed.as_bytes()), (ada, b"token 1 of ada".as_slice()));
    assert!(backend.store().open_intakes().await.unwrap().is_empty());
}

pub(crate) async fn an_intake_replaces_a_grant_in_any_state(make: Make) {
    let states = [
        None,
        Some(GrantState::Active),
        Some(GrantState::InDoubt {
            attempt: attempt(11),
            cause: DoubtCause::Interrupted,
            probe_after: at(40),
        }),
        Some(GrantState::Revoked),
        Some(GrantState::Lost { cause: DoubtCause::Interrupted }),
        Some(GrantState::Reauth { claims: None, error: "login_required", suberror: "" }),
    ];
    for state in states {
        let backend = make();
        let store = backend.store();
        with_acme(store).await;
        let old = taken_in(store, 1, key("ada")).await;
        claimed(store, &old, 11).await;
        if let Some(state) = &state {
            store.settle(old.id, attempt_id(11), state.clone(), Some(at(99))).await.unwrap().unwrap();
        }
        let before = read(store, &old.key).await;
        let intake = replacement(2, &old);
        store.begin_intake(&intake).await.unwrap().unwrap();
        let during = read(store, &old.key).await;
        assert_eq!(
            (during.grant, during.sealed),
            (before.grant, before.sealed),
            "begun and already replaced"
        );
        let (new, replaced) = store.commit_intake(kept(&intake, V1)).await.unwrap().unwrap();
        assert!(replaced);
        assert_eq!((new.id, new.generation), (old.id, Generation(2)));
        assert_eq!((&new.state, new.not_before), (&GrantState::Active, None), "from {state:?}");
        assert_eq!(read(store, &old.key).await.sealed.as_bytes(), b"token 2 of ada");
        // Whoever was still out with the old token comes too late.
        assert_eq!(store.commit(renewal(&old, 11, V1)).await.unwrap(), Err(CommitRefused::Superseded));
        assert!(store.open_attempts().await.unwrap().is_empty());
    }
}

pub(crate) async fn an_intake_of_an_old_generation_is_refused(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = taken_in(store, 1, key("ada")).await;
    let refused = [
        intake(2, key("ada")),
        Intake { generation: Generation(1), ..replacement(3, &ada) },
        Intake { generation: Generation(3), ..replacement(4, &ada) },
        Intake { grant: GrantId(Uuid::from_u128(77)), ..replacement(5, &ada) },
        Intake { generation: Generation(2), ..intake(6, key("nobody")) },
    ];
    for intake in refused {
        let outcome = store.begin_intake(&intake).await.unwrap();
        assert_eq!(outcome, Err(CommitRefused::Superseded), "{intake:?}");
    }
    assert!(store.open_intakes().await.unwrap().is_empty());
    // The grant is renewed between the two commits of an intake.
    let slow = replacement(7, &ada);
    store.begin_intake(&slow).await.unwrap().unwrap();
    claimed(store, &ada, 11).await;
    let renewed = store.commit(renewal(&ada, 11, V1)).await.unwrap().unwrap();
    assert_eq!(store.commit_intake(kept(&slow, V1)).await.unwrap(), Err(CommitRefused::Superseded));
    assert_eq!(read(store, &ada.key).await.grant, renewed);
}

pub(crate) async fn an_intake_needs_a_tenant_in_service(make: Make) {
    let backend = make();
    let store = backend.store();
    let nowhere = store.begin_intake(&intake(1, key("ada"))).await.unwrap();
    assert_eq!(nowhere, Err(CommitRefused::TenantGone));
    with_acme(store).await;
    let ada = intake(2, key("ada"));
    let bob = intake(3, key("bob"));
    for intake in [&ada, &bob] {
        store.begin_intake(intake).await.unwrap().unwrap();
    }
    store.schedule_purge(&acme(), at(100)).await.unwrap().unwrap();
    let begun = store.begin_intake(&intake(4, key("eve"))).await.unwrap();
    assert_eq!(begun, Err(CommitRefused::TenantGone));
    store.commit_intake(kept(&ada, V1)).await.unwrap().unwrap();
    store.tombstone(&acme(), None).await.unwrap().unwrap();
    assert_eq!(store.commit_intake(kept(&bob, V1)).await.unwrap(), Err(CommitRefused::TenantGone));
    assert_eq!(store.grant(&bob.key).await.unwrap(), None);
}

pub(crate) async fn an_intake_is_sealed_under_the_newest_version(make: Make) {
    let mut backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = intake(1, key("ada"));
    assert!(!store.record_intake_answer(ada.attempt, V1, &sealed("early")).await.unwrap());
    store.begin_intake(&ada).await.unwrap().unwrap();
    advance(store, V1).await;
    assert!(!store.record_intake_answer(ada.attempt, V1, &sealed("old")).await.unwrap());
    assert!(store.record_intake_answer(ada.attempt, V2, &sealed("new")).await.unwrap());
    assert_eq!(store.commit_intake(kept(&ada, V1)).await.unwrap(), Err(CommitRefused::KeyVersionMoved));
    backend.reopen();
    let store = backend.store();
    assert_eq!(store.open_intakes().await.unwrap()[0].answer.as_ref().unwrap().as_bytes(), b"new");
    let (grant, _) = store.commit_intake(kept(&ada, V2)).await.unwrap().unwrap();
    assert_eq!(grant.key_version, V2);
    assert_eq!(store.census(&acme()).await.unwrap(), [(V2, 1)]);
}

pub(crate) async fn an_abandoned_intake_commits_nothing(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = intake(1, key("ada"));
    store.begin_intake(&ada).await.unwrap().unwrap();
    store.abandon_intake(ada.attempt).await.unwrap();
    store.abandon_intake(ada.attempt).await.unwrap();
    assert_eq!(store.commit_intake(kept(&ada, V1)).await.unwrap(), Err(CommitRefused::Superseded));
    assert!(!store.record_intake_answer(ada.attempt, V1, &sealed("late")).await.unwrap());
    assert_eq!(store.grant(&ada.key).await.unwrap(), None);
}

pub(crate) async fn open_intakes_are_found_after_reopening(make: Make) {
    let mut backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = intake(1, key("ada"));
    let plain = Intake { resource: None, prove_identity: false, ..intake(2, key("bob")) };
    for intake in [&ada, &plain] {
        store.begin_intake(intake).await.unwrap().unwrap();
    }
    backend.reopen();
    let mut open = backend.store().open_intakes().await.unwrap();
    open.sort_by_key(|o| o.intake.attempt);
    let found: Vec<_> = open.iter().map(|o| format!("{:?} {:?}", o.intake, o.answer)).collect();
    assert_eq!(found, [format!("{ada:?} None"), format!("{plain:?} None")]);
}
