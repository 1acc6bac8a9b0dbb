//! Enrolments: the same two commits for a grant the vault does not have yet.

use obo_vault::domain::grant::{Generation, Grant, GrantId, GrantState, Lineage};
use obo_vault::domain::protocol::{Advanced, End, Says};
use obo_vault::store::{Enrolment, EnrolmentKind, EnrolmentRefused, EnrolmentStage, ImportMark};
use uuid::Uuid;

use crate::Make;
use crate::world::*;

/// The enrolment that replaces a grant.
fn replacement(n: u128, grant: &Grant) -> Enrolment {
    Enrolment { grant: grant.id, generation: grant.generation.next(), ..enrolment(n, grant.key.clone()) }
}

pub(crate) async fn an_enrolment_makes_a_grant(make: Make) {
    let mut backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = enrolled(store, 1, key("ada")).await;
    let commit = kept(&enrolment(1, key("ada")), V1);
    let expected = Grant {
        id: commit.enrolment.grant,
        key: key("ada"),
        issuer: commit.enrolment.issuer.clone(),
        lineage: commit.enrolment.lineage,
        state: GrantState::Active,
        generation: Generation(1),
        last_attempt: None,
        unhelpful: 0,
        key_version: V1,
        scopes: commit.scopes.clone(),
        asked: commit.enrolment.scopes.clone(),
        resource: commit.enrolment.resource.clone(),
        created_at: at(1),
        refreshed_at: at(1),
        idle_expires_at: commit.dates.idle_expires_at,
        absolute_expires_at: commit.absolute_expires_at,
        next_refresh_at: commit.dates.next_refresh_at,
        not_before: None,
    };
    assert_eq!(ada, expected);
    backend.reopen();
    let stored = read(backend.store(), &ada.key).await;
    assert_eq!((stored.grant, stored.sealed.as_bytes()), (ada, b"token 1 of ada".as_slice()));
    assert!(backend.store().open_enrolments().await.unwrap().is_empty());
}

/// An acknowledgement that was lost is no proof of another owner.
pub(crate) async fn an_enrolment_told_twice_is_one_enrolment(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let first = enrolment(1, key("ada"));
    for _ in 0..2 {
        store.begin_enrolment(&first).await.unwrap().unwrap();
    }
    assert_eq!(store.open_enrolments().await.unwrap().len(), 1);
    let made = store.commit_enrolment(kept(&first, V1)).await.unwrap().unwrap();
    let again = store.commit_enrolment(kept(&first, V1)).await.unwrap().unwrap();
    assert_eq!(made, again, "a repeat returns what it did");
    // The same after the token was used.
    claimed(store, &made.0, 11).await;
    ended(store, renewal(&made.0, 11, V1)).await;
    let later = store.commit_enrolment(kept(&first, V1)).await.unwrap().unwrap();
    assert_eq!(later.0.generation, Generation(2), "a repeat put the old token back");
    // Replaced or gone, what it made belongs to nobody.
    let second = replacement(2, &later.0);
    store.begin_enrolment(&second).await.unwrap().unwrap();
    let (new, replaced) = store.commit_enrolment(kept(&second, V1)).await.unwrap().unwrap();
    assert!(replaced);
    assert_eq!(store.commit_enrolment(kept(&second, V1)).await.unwrap(), Ok((new.clone(), true)));
    assert_eq!(store.commit_enrolment(kept(&first, V1)).await.unwrap(), Err(EnrolmentRefused::Orphaned));
    store.delete_grant(new.id).await.unwrap();
    assert_eq!(store.commit_enrolment(kept(&second, V1)).await.unwrap(), Err(EnrolmentRefused::Orphaned));
    assert_eq!(store.grant(&key("ada")).await.unwrap(), None);
}

pub(crate) async fn an_enrolment_replaces_a_grant_in_any_state(make: Make) {
    let interaction = Says::Interaction { claims: None, error: "login_required", suberror: "" };
    let ends = [
        None,
        Some(End::Unsent),
        Some(End::Interrupted),
        Some(refused(Says::InvalidGrant)),
        Some(refused(interaction)),
    ];
    for end in ends {
        let backend = make();
        let store = backend.store();
        with_acme(store).await;
        let old = enrolled(store, 1, key("ada")).await;
        claimed(store, &old, 11).await;
        if let Some(end) = &end {
            ended(store, ending(&old, 11, end.clone())).await;
        }
        let before = read(store, &old.key).await;
        let enrolment = replacement(2, &old);
        store.begin_enrolment(&enrolment).await.unwrap().unwrap();
        let during = read(store, &old.key).await;
        assert_eq!(
            (during.grant, during.sealed),
            (before.grant, before.sealed),
            "begun and already replaced"
        );
        let (new, replaced) = store.commit_enrolment(kept(&enrolment, V1)).await.unwrap().unwrap();
        assert!(replaced);
        assert_eq!((new.id, new.generation, new.lineage), (old.id, Generation(2), enrolment.lineage));
        assert_eq!((&new.state, new.not_before), (&GrantState::Active, None), "after {end:?}");
        assert_eq!(read(store, &old.key).await.sealed.as_bytes(), b"token 2 of ada");
        // Whoever was still out with the old token comes too late.
        let late = ended(store, renewal(&old, 11, V1)).await;
        assert_eq!((late.outcome, late.grant), (Advanced::Orphaned, Some(new)));
        assert!(store.open_attempts().await.unwrap().is_empty());
    }
}

/// A token is sealed for its grant and generation, so who is late is told where
/// it belongs now; its token is never lost for it.
pub(crate) async fn an_enrolment_learns_where_its_token_belongs(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = enrolled(store, 1, key("ada")).await;
    let there = EnrolmentRefused::PlaceMoved { grant: ada.id, generation: Generation(2) };
    let other = GrantId(Uuid::from_u128(77));
    let misplaced = [
        (enrolment(2, key("ada")), there),
        (Enrolment { generation: Generation(1), ..replacement(3, &ada) }, there),
        (Enrolment { generation: Generation(3), ..replacement(4, &ada) }, there),
        (Enrolment { grant: other, ..replacement(5, &ada) }, there),
        (
            Enrolment { generation: Generation(2), grant: other, ..enrolment(6, key("nobody")) },
            EnrolmentRefused::PlaceMoved { grant: other, generation: Generation(1) },
        ),
    ];
    for (enrolment, moved) in misplaced {
        assert_eq!(store.begin_enrolment(&enrolment).await.unwrap(), Err(moved), "{enrolment:?}");
    }
    assert!(store.open_enrolments().await.unwrap().is_empty());
    // The grant is renewed between the two commits of an enrolment.
    let slow = replacement(7, &ada);
    store.begin_enrolment(&slow).await.unwrap().unwrap();
    claimed(store, &ada, 11).await;
    let renewed = ended(store, renewal(&ada, 11, V1)).await.grant.unwrap();
    let moved = EnrolmentRefused::PlaceMoved { grant: ada.id, generation: Generation(3) };
    assert_eq!(store.commit_enrolment(kept(&slow, V1)).await.unwrap(), Err(moved));
    assert_eq!(read(store, &ada.key).await.grant, renewed);
    let again = Enrolment { generation: Generation(3), ..slow };
    let (new, replaced) = store.commit_enrolment(kept(&again, V1)).await.unwrap().unwrap();
    assert_eq!((new.generation, replaced), (Generation(3), true));
}

pub(crate) async fn an_enrolment_needs_a_tenant_in_service(make: Make) {
    let backend = make();
    let store = backend.store();
    let nowhere = store.begin_enrolment(&enrolment(1, key("ada"))).await.unwrap();
    assert_eq!(nowhere, Err(EnrolmentRefused::TenantGone));
    with_acme(store).await;
    let ada = enrolment(2, key("ada"));
    let bob = enrolment(3, key("bob"));
    for enrolment in [&ada, &bob] {
        store.begin_enrolment(enrolment).await.unwrap().unwrap();
    }
    store.schedule_purge(&acme(), at(100)).await.unwrap().unwrap();
    let begun = store.begin_enrolment(&enrolment(4, key("eve"))).await.unwrap();
    assert_eq!(begun, Err(EnrolmentRefused::TenantGone));
    store.commit_enrolment(kept(&ada, V1)).await.unwrap().unwrap();
    store.tombstone(&acme(), None).await.unwrap().unwrap();
    assert_eq!(store.commit_enrolment(kept(&bob, V1)).await.unwrap(), Err(EnrolmentRefused::TenantGone));
    assert_eq!(store.grant(&bob.key).await.unwrap(), None);
}

pub(crate) async fn an_enrolment_is_sealed_under_the_newest_version(make: Make) {
    let mut backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = enrolment(1, key("ada"));
    let of = obo_vault::store::AnswerOf::Enrolment(ada.attempt);
    assert!(!store.record_answer(of, V1, &sealed("early")).await.unwrap());
    store.begin_enrolment(&ada).await.unwrap().unwrap();
    advance(store, V1).await;
    assert!(!store.record_answer(of, V1, &sealed("old")).await.unwrap());
    assert!(store.record_answer(of, V2, &sealed("new")).await.unwrap());
    let old = store.commit_enrolment(kept(&ada, V1)).await.unwrap();
    assert_eq!(old, Err(EnrolmentRefused::KeyVersionMoved));
    backend.reopen();
    let store = backend.store();
    assert_eq!(store.open_enrolments().await.unwrap()[0].answer.as_ref().unwrap().as_bytes(), b"new");
    let (grant, _) = store.commit_enrolment(kept(&ada, V2)).await.unwrap().unwrap();
    assert_eq!(grant.key_version, V2);
    assert_eq!(store.usage(&acme()).await.unwrap(), [(V2, 1)]);
}

pub(crate) async fn an_abandoned_enrolment_commits_nothing(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = enrolment(1, key("ada"));
    store.begin_enrolment(&ada).await.unwrap().unwrap();
    store.abandon_enrolment(ada.attempt).await.unwrap();
    store.abandon_enrolment(ada.attempt).await.unwrap();
    assert_eq!(store.commit_enrolment(kept(&ada, V1)).await.unwrap(), Err(EnrolmentRefused::Orphaned));
    let of = obo_vault::store::AnswerOf::Enrolment(ada.attempt);
    assert!(!store.record_answer(of, V1, &sealed("late")).await.unwrap());
    assert_eq!(store.grant(&ada.key).await.unwrap(), None);
}

pub(crate) async fn open_enrolments_are_found_after_reopening(make: Make) {
    let mut backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = enrolment(1, key("ada"));
    let plain = Enrolment { resource: None, kind: EnrolmentKind::OnBehalfOf, ..enrolment(2, key("bob")) };
    for enrolment in [&ada, &plain] {
        store.begin_enrolment(enrolment).await.unwrap().unwrap();
    }
    backend.reopen();
    let mut open = backend.store().open_enrolments().await.unwrap();
    open.sort_by_key(|o| o.enrolment.attempt);
    let found: Vec<_> = open.iter().map(|o| (&o.enrolment, o.stage, o.answer.is_some())).collect();
    assert_eq!(found, [(&ada, EnrolmentStage::Sending, false), (&plain, EnrolmentStage::Sending, false)]);
}

/// The same token imported once more is the same import, whichever user it is
/// said to be of.
pub(crate) async fn an_open_import_is_found_by_its_mark(make: Make) {
    let mut backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = Enrolment { lineage: Lineage(Uuid::from_u128(5)), ..enrolment(1, key("ada")) };
    let EnrolmentKind::Import(Some(mark)) = ada.kind else { panic!("not an import") };
    store.begin_enrolment(&ada).await.unwrap().unwrap();
    let stages = [EnrolmentStage::InDoubt { probe_after: at(70) }, EnrolmentStage::Held { until: at(80) }];
    for stage in stages {
        assert!(store.suspend_enrolment(ada.attempt, stage).await.unwrap());
        assert!(!store.suspend_enrolment(attempt_id(9), stage).await.unwrap());
        let found = store.open_import(&ada.key.tenant, &ada.key.client, mark).await.unwrap().unwrap();
        assert_eq!((found.enrolment, found.stage), (ada.clone(), stage));
    }
    backend.reopen();
    let store = backend.store();
    assert!(store.open_import(&ada.key.tenant, &ada.key.client, mark).await.unwrap().is_some());
    let other = key_in("other", "batch", "ada");
    let elsewhere = [(&other.tenant, &ada.key.client, mark), (&ada.key.tenant, &other.client, mark)];
    for (tenant, client, mark) in elsewhere {
        assert!(store.open_import(tenant, client, mark).await.unwrap().is_none());
    }
    let unknown = ImportMark([7; 32]);
    assert!(store.open_import(&ada.key.tenant, &ada.key.client, unknown).await.unwrap().is_none());
    store.commit_enrolment(kept(&ada, V1)).await.unwrap().unwrap();
    assert!(store.open_import(&ada.key.tenant, &ada.key.client, mark).await.unwrap().is_none());
}

/// The token that is held is used up by what came of it: whatever happens to the
/// process next, it is not found any more.
pub(crate) async fn an_import_takes_the_place_of_what_it_left_before(make: Make) {
    let mut backend = make();
    let store = backend.store();
    with_acme(store).await;
    let held = enrolment(1, key("ada"));
    let of_the_same = |n| Enrolment { kind: held.kind, ..enrolment(n, key("ada")) };
    let (again, once_more, other) = (of_the_same(2), of_the_same(3), enrolment(4, key("bob")));
    let exchange = Enrolment { kind: EnrolmentKind::OnBehalfOf, ..enrolment(5, key("eve")) };
    for enrolment in [&held, &other, &exchange] {
        store.begin_enrolment(enrolment).await.unwrap().unwrap();
    }
    let hold = async |n: &Enrolment, until| {
        assert!(store.suspend_enrolment(n.attempt, EnrolmentStage::Held { until: at(until) }).await.unwrap());
    };
    hold(&other, 90).await;
    hold(&held, 80).await;
    let open = async |store: &dyn obo_vault::store::Store| {
        let mut open = store.open_enrolments().await.unwrap();
        open.sort_by_key(|o| o.enrolment.attempt);
        open.into_iter().map(|o| (o.enrolment.attempt, o.stage)).collect::<Vec<_>>()
    };
    let rest = [
        (other.attempt, EnrolmentStage::Held { until: at(90) }),
        (exchange.attempt, EnrolmentStage::Sending),
    ];
    assert_eq!(
        open(store).await,
        [[(held.attempt, EnrolmentStage::Held { until: at(80) })].as_slice(), &rest].concat()
    );
    // Held no longer than the first one was, told once or twice.
    store.begin_enrolment(&again).await.unwrap().unwrap();
    for _ in 0..2 {
        hold(&again, 200).await;
    }
    assert_eq!(
        open(store).await,
        [[(again.attempt, EnrolmentStage::Held { until: at(80) })].as_slice(), &rest].concat()
    );
    store.begin_enrolment(&once_more).await.unwrap().unwrap();
    for _ in 0..2 {
        store.commit_enrolment(kept(&once_more, V1)).await.unwrap().unwrap();
    }
    backend.reopen();
    assert_eq!(open(backend.store()).await, rest);
}

/// Until another import replaces it; a consent of the user does not count as one.
pub(crate) async fn a_finished_import_is_found_by_its_mark(make: Make) {
    let mut backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = Enrolment { lineage: Lineage(Uuid::from_u128(5)), ..enrolment(1, key("ada")) };
    let EnrolmentKind::Import(Some(mark)) = ada.kind else { panic!("not an import") };
    store.begin_enrolment(&ada).await.unwrap().unwrap();
    assert_eq!(store.imported_grant(&ada.key.tenant, &ada.key.client, mark).await.unwrap(), None);
    let (made, _) = store.commit_enrolment(kept(&ada, V1)).await.unwrap().unwrap();
    backend.reopen();
    let store = backend.store();
    let found = store.imported_grant(&ada.key.tenant, &ada.key.client, mark).await.unwrap();
    assert_eq!(found.map(|grant| grant.id), Some(made.id));
    let other = key_in("other", "batch", "ada");
    for (tenant, client, mark) in [
        (&other.tenant, &ada.key.client, mark),
        (&ada.key.tenant, &other.client, mark),
        (&ada.key.tenant, &ada.key.client, ImportMark([7; 32])),
    ] {
        assert_eq!(store.imported_grant(tenant, client, mark).await.unwrap(), None);
    }

    let renewed = |n: u128, generation, kind| Enrolment {
        lineage: Lineage(Uuid::from_u128(n)),
        generation: Generation(generation),
        grant: made.id,
        kind,
        ..enrolment(n, key("ada"))
    };
    let consent = renewed(6, 2, EnrolmentKind::OnBehalfOf);
    store.begin_enrolment(&consent).await.unwrap().unwrap();
    store.commit_enrolment(kept(&consent, V1)).await.unwrap().unwrap();
    let found = store.imported_grant(&ada.key.tenant, &ada.key.client, mark).await.unwrap();
    assert_eq!(found.map(|grant| grant.generation), Some(Generation(2)));

    let another = ImportMark([8; 32]);
    let import = renewed(7, 3, EnrolmentKind::Import(Some(another)));
    store.begin_enrolment(&import).await.unwrap().unwrap();
    store.commit_enrolment(kept(&import, V1)).await.unwrap().unwrap();
    assert_eq!(store.imported_grant(&ada.key.tenant, &ada.key.client, mark).await.unwrap(), None);
    assert!(store.imported_grant(&ada.key.tenant, &ada.key.client, another).await.unwrap().is_some());

    store.delete_grant(made.id).await.unwrap();
    assert_eq!(store.imported_grant(&ada.key.tenant, &ada.key.client, another).await.unwrap(), None);
}
