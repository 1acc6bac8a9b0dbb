//! Tenants: their states, and which change leads where.

use obo_vault::domain::key::KeyVersion;
use obo_vault::domain::tenant::{Tenant, TenantState};
use obo_vault::store::AnswerOf;
use obo_vault::store::{Store, TenantRefused};

use crate::Make;
use crate::world::*;

pub(crate) async fn a_name_is_given_once(make: Make) {
    let backend = make();
    let store = backend.store();
    let made = store.create_tenant(&acme(), V1, NOW).await.unwrap().unwrap();
    assert_eq!(made.state, TenantState::Active { active_version: V1 });
    assert_eq!((made.created_at, made.rotated_at), (NOW, NOW));
    assert_eq!(store.tenant(&acme()).await.unwrap(), Some(made));
    assert_eq!(store.create_tenant(&acme(), V1, at(1)).await.unwrap(), Err(TenantRefused::Exists));
    purge(store).await;
    let again = store.create_tenant(&acme(), V1, NOW).await.unwrap();
    assert_eq!(again, Err(TenantRefused::Exists), "the name of a purged tenant is given out again");
    assert_eq!(store.tenant(&tenant("nobody")).await.unwrap(), None);
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    Schedule,
    Restore,
    Tombstone,
    Finish,
    Advance,
}

/// How a state is reached, the state, and where the changes it allows lead.
type Row<'a> = (&'a [Change], TenantState, &'a [(Change, TenantState)]);

const CHANGES: [Change; 5] =
    [Change::Schedule, Change::Restore, Change::Tombstone, Change::Finish, Change::Advance];

async fn apply(store: &dyn Store, change: Change) -> Result<Tenant, TenantRefused> {
    let id = acme();
    match change {
        Change::Schedule => store.schedule_purge(&id, at(100)).await,
        Change::Restore => {
            let epoch = store.tenant(&id).await.unwrap().map_or(0, |tenant| tenant.epoch);
            store.restore_tenant(&id, epoch).await
        }
        Change::Tombstone => store.tombstone(&id, None).await,
        Change::Finish => store.finish_purge(&id, at(200)).await,
        Change::Advance => store.advance_version(&id, V1, V2, at(5)).await,
    }
    .unwrap()
}

async fn purge(store: &dyn Store) {
    store.tombstone(&acme(), None).await.unwrap().unwrap();
    store.finish_purge(&acme(), at(200)).await.unwrap().unwrap();
}

pub(crate) async fn changes_lead_where_they_may_and_nowhere_else(make: Make) {
    use Change::*;
    let active = |version| TenantState::Active { active_version: version };
    let scheduled = TenantState::PurgeScheduled { active_version: V1, purge_at: at(100) };
    let purged = TenantState::Purged { erased_at: at(200) };
    let table: [Row<'_>; 4] = [
        (&[], active(V1), &[(Schedule, scheduled), (Tombstone, TenantState::Purging), (Advance, active(V2))]),
        (
            &[Schedule],
            scheduled,
            &[(Schedule, scheduled), (Restore, active(V1)), (Tombstone, TenantState::Purging)],
        ),
        (&[Tombstone], TenantState::Purging, &[(Tombstone, TenantState::Purging), (Finish, purged)]),
        (&[Tombstone, Finish], purged, &[(Finish, purged)]),
    ];
    for (path, state, allowed) in table {
        for change in CHANGES {
            let backend = make();
            let store = backend.store();
            with_acme(store).await;
            for step in path {
                apply(store, *step).await.unwrap();
            }
            let before = store.tenant(&acme()).await.unwrap().unwrap();
            assert_eq!(before.state, state);
            let outcome = apply(store, change).await;
            let after = store.tenant(&acme()).await.unwrap().unwrap();
            match allowed.iter().find(|(c, _)| *c == change) {
                Some((_, next)) => {
                    assert_eq!(outcome.unwrap(), after, "{change:?} from {state:?}");
                    assert_eq!(after.state, *next, "{change:?} from {state:?}");
                }
                None => {
                    assert_eq!(outcome, Err(TenantRefused::WrongState), "{change:?} from {state:?}");
                    assert_eq!(after, before, "a refused {change:?} changed something");
                }
            }
        }
    }
    let backend = make();
    for change in CHANGES {
        assert_eq!(apply(backend.store(), change).await, Err(TenantRefused::NotFound), "{change:?}");
    }
}

/// An acknowledgement that was lost is no proof of another's change.
pub(crate) async fn a_change_told_twice_is_one_change(make: Make) {
    let backend = make();
    let store = backend.store();
    let id = acme();
    let twice = |first: Tenant, again: Result<Tenant, TenantRefused>| {
        assert_eq!(again, Ok(first), "a repeat changed something, or was taken for another's");
    };
    let made = store.create_tenant(&id, V1, NOW).await.unwrap().unwrap();
    twice(made, store.create_tenant(&id, V1, NOW).await.unwrap());
    let advanced = store.advance_version(&id, V1, V2, at(5)).await.unwrap().unwrap();
    twice(advanced, store.advance_version(&id, V1, V2, at(5)).await.unwrap());
    let scheduled = store.schedule_purge(&id, at(100)).await.unwrap().unwrap();
    twice(scheduled.clone(), store.schedule_purge(&id, at(100)).await.unwrap());
    let restored = store.restore_tenant(&id, scheduled.epoch).await.unwrap().unwrap();
    twice(restored, store.restore_tenant(&id, scheduled.epoch).await.unwrap());
    let marked = store.tombstone(&id, None).await.unwrap().unwrap();
    twice(marked, store.tombstone(&id, None).await.unwrap());
    let purged = store.finish_purge(&id, at(200)).await.unwrap().unwrap();
    twice(purged, store.finish_purge(&id, at(200)).await.unwrap());
    let other = store.finish_purge(&id, at(201)).await.unwrap();
    assert_eq!(other, Err(TenantRefused::WrongState));
}

pub(crate) async fn every_change_of_service_starts_an_epoch(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let mut epoch = store.tenant(&acme()).await.unwrap().unwrap().epoch;
    for change in [Change::Schedule, Change::Restore, Change::Schedule, Change::Tombstone] {
        let next = apply(store, change).await.unwrap().epoch;
        assert!(next > epoch, "{change:?} left the epoch as it was");
        epoch = next;
    }
    let backend = make();
    with_acme(backend.store()).await;
    let before = backend.store().tenant(&acme()).await.unwrap().unwrap().epoch;
    let rotated = apply(backend.store(), Change::Advance).await.unwrap();
    assert_eq!(rotated.epoch, before, "a rotation would throw all cached tokens away");
}

pub(crate) async fn a_version_advances_from_the_newest_alone(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let advanced = store.advance_version(&acme(), V1, V2, at(5)).await.unwrap().unwrap();
    assert_eq!(advanced.state, TenantState::Active { active_version: V2 });
    assert_eq!((advanced.created_at, advanced.rotated_at), (NOW, at(5)));
    let late = store.advance_version(&acme(), V1, V2, at(6)).await.unwrap();
    assert_eq!(late, Err(TenantRefused::WrongState));
    let ahead = store.advance_version(&acme(), KeyVersion(3), KeyVersion(4), at(6)).await.unwrap();
    assert_eq!(ahead, Err(TenantRefused::WrongState));
    assert_eq!(store.tenant(&acme()).await.unwrap(), Some(advanced));
}

pub(crate) async fn only_a_tombstone_lets_grants_be_deleted(make: Make) {
    let mut backend = make();
    let store = backend.store();
    with_acme(store).await;
    store.create_tenant(&tenant("other"), V1, NOW).await.unwrap().unwrap();
    let ada = enrolled(store, 1, key("ada")).await;
    enrolled(store, 2, key("bob")).await;
    let elsewhere = enrolled(store, 3, key_in("other", "portal", "ada")).await;
    claimed(store, &ada, 11).await;
    store.begin_enrolment(&enrolment(4, key("eve"))).await.unwrap().unwrap();

    assert_eq!(store.delete_tenant_grants(&acme()).await.unwrap(), 0);
    store.schedule_purge(&acme(), at(100)).await.unwrap().unwrap();
    assert_eq!(store.delete_tenant_grants(&acme()).await.unwrap(), 0, "a restore would find nothing");
    assert_eq!(store.grant_count(&acme()).await.unwrap(), 2);
    store.tombstone(&acme(), None).await.unwrap().unwrap();
    assert_eq!(store.delete_tenant_grants(&acme()).await.unwrap(), 2);
    assert_eq!(store.delete_tenant_grants(&acme()).await.unwrap(), 0);
    assert_eq!(store.grant_count(&acme()).await.unwrap(), 0);
    assert_eq!(store.grant_count(&tenant("other")).await.unwrap(), 1);
    backend.reopen();
    let store = backend.store();
    assert!(store.open_attempts().await.unwrap().is_empty());
    assert!(store.open_enrolments().await.unwrap().is_empty());
    assert_eq!(store.grant(&elsewhere.key).await.unwrap(), Some(elsewhere));
}

pub(crate) async fn due_purges_are_those_at_their_time(make: Make) {
    let backend = make();
    let store = backend.store();
    for name in ["active", "later", "now", "purged", "purging"] {
        store.create_tenant(&tenant(name), V1, NOW).await.unwrap().unwrap();
    }
    store.schedule_purge(&tenant("later"), at(101)).await.unwrap().unwrap();
    store.schedule_purge(&tenant("now"), at(100)).await.unwrap().unwrap();
    for name in ["purged", "purging"] {
        store.tombstone(&tenant(name), None).await.unwrap().unwrap();
    }
    store.finish_purge(&tenant("purged"), at(50)).await.unwrap().unwrap();
    let due = store.purges_due(at(100)).await.unwrap();
    let mut names: Vec<_> = due.iter().map(|t| t.id.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["now", "purging"]);
}

/// The list of due purges is older than the purges: an operator may have
/// restored the tenant, or put its purge off, in between.
pub(crate) async fn a_due_purge_that_was_taken_back_or_put_off_is_refused(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    store.schedule_purge(&acme(), at(100)).await.unwrap().unwrap();
    assert_eq!(store.tombstone(&acme(), Some(at(99))).await.unwrap(), Err(TenantRefused::WrongState));
    store.restore_tenant(&acme(), 2).await.unwrap().unwrap();
    assert_eq!(store.tombstone(&acme(), Some(at(100))).await.unwrap(), Err(TenantRefused::WrongState));
    assert!(store.tenant(&acme()).await.unwrap().unwrap().sealing_version().is_some());
    store.schedule_purge(&acme(), at(100)).await.unwrap().unwrap();
    store.tombstone(&acme(), Some(at(100))).await.unwrap().unwrap();
    store.tombstone(&acme(), Some(at(100))).await.unwrap().unwrap();
}

pub(crate) async fn tenants_come_in_the_order_of_their_names(make: Make) {
    let backend = make();
    let store = backend.store();
    for name in ["b", "a", "Z", "a.b", "c"] {
        store.create_tenant(&tenant(name), V1, NOW).await.unwrap().unwrap();
    }
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = store.tenants(after.as_ref(), 2).await.unwrap();
        assert!(page.len() <= 2);
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        names.extend(page.iter().map(|t| t.id.as_str().to_owned()));
    }
    assert_eq!(names, ["Z", "a", "a.b", "b", "c"]);
}

pub(crate) async fn the_census_counts_tokens_and_answers(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    store.create_tenant(&tenant("other"), V1, NOW).await.unwrap().unwrap();
    enrolled(store, 9, key_in("other", "portal", "ada")).await;
    assert_eq!(store.usage(&acme()).await.unwrap(), []);
    let ada = enrolled(store, 1, key("ada")).await;
    enrolled(store, 2, key("bob")).await;
    assert_eq!(store.usage(&acme()).await.unwrap(), [(V1, 2)]);
    // Answers under the newest version; the tokens still name the first.
    advance(store, V1).await;
    claimed(store, &ada, 11).await;
    assert!(store.record_answer(AnswerOf::Attempt(attempt_id(11)), V2, &sealed("answer")).await.unwrap());
    let eve = enrolment(3, key("eve"));
    store.begin_enrolment(&eve).await.unwrap().unwrap();
    assert!(store.record_answer(AnswerOf::Enrolment(eve.attempt), V2, &sealed("answer")).await.unwrap());
    assert_eq!(store.usage(&acme()).await.unwrap(), [(V1, 2), (V2, 2)]);
    ended(store, renewal(&ada, 11, V2)).await;
    store.abandon_enrolment(eve.attempt).await.unwrap();
    assert_eq!(store.usage(&acme()).await.unwrap(), [(V1, 1), (V2, 1)]);
}
