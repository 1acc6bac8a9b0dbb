//! Tenants that an enrolment makes: pending until their first grant.

use obo_vault::domain::key::{KeyId, KeyVersion};
use obo_vault::domain::tenant::TenantState;
use obo_vault::store::TenantRefused;

use crate::Make;
use crate::world::*;

const PENDING: TenantState = TenantState::Pending { active_version: V1 };
const ACTIVE: TenantState = TenantState::Active { active_version: V1 };

pub(crate) async fn a_name_is_taken_in_every_spelling(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    for name in ["Acme", "ACME", "acmE"] {
        let id = tenant(name);
        assert_eq!(store.create_tenant(&id, V1, NOW).await.unwrap(), Err(TenantRefused::NameTaken), "{name}");
        let pending = store.create_pending_tenant(&id, V1, NOW).await.unwrap();
        assert_eq!(pending, Err(TenantRefused::NameTaken), "{name}");
        assert_eq!(store.tenant(&id).await.unwrap(), None);
    }
    for name in ["acme-2", "a_me", "acm"] {
        store.create_tenant(&tenant(name), V1, NOW).await.unwrap().unwrap();
    }
    // So is that of a tombstone.
    store.tombstone(&acme(), None).await.unwrap().unwrap();
    store.finish_purge(&acme(), at(9)).await.unwrap().unwrap();
    assert_eq!(store.create_tenant(&tenant("Acme"), V1, NOW).await.unwrap(), Err(TenantRefused::NameTaken));
}

pub(crate) async fn a_first_grant_ends_the_wait(make: Make) {
    let mut backend = make();
    let store = backend.store();
    let made = store.create_pending_tenant(&acme(), V1, NOW).await.unwrap().unwrap();
    assert_eq!(made.state, PENDING);
    assert_eq!(store.create_pending_tenant(&acme(), V1, at(1)).await.unwrap(), Err(TenantRefused::Exists));
    assert!(store.tenants(None, 10).await.unwrap().is_empty(), "it is listed");
    // Nothing but its first grant, or an operator, changes it.
    for change in [
        store.schedule_purge(&acme(), at(9)).await,
        store.restore_tenant(&acme(), 1).await,
        store.tombstone(&acme(), None).await,
        store.finish_purge(&acme(), at(9)).await,
        store.advance_version(&acme(), V1, V2, NOW).await,
    ] {
        assert_eq!(change.unwrap(), Err(TenantRefused::NotFound));
    }
    enrolled(store, 1, key("ada")).await;
    backend.reopen();
    assert_eq!(backend.store().tenant(&acme()).await.unwrap().unwrap().state, ACTIVE);
    assert_eq!(backend.store().tenants(None, 10).await.unwrap().len(), 1);
    assert!(!backend.store().drop_pending_tenant(&acme()).await.unwrap());
}

pub(crate) async fn an_operator_ends_the_wait(make: Make) {
    let backend = make();
    let store = backend.store();
    store.create_pending_tenant(&acme(), V1, NOW).await.unwrap().unwrap();
    let taken = store.create_tenant(&acme(), V1, at(9)).await.unwrap().unwrap();
    assert_eq!(taken.state, ACTIVE);
    assert_eq!(store.create_tenant(&acme(), V1, at(9)).await.unwrap(), Err(TenantRefused::Exists));
    assert!(!store.drop_pending_tenant(&acme()).await.unwrap());
    assert!(store.abandoned_tenants().await.unwrap().is_empty());
}

pub(crate) async fn what_nobody_enrols_in_is_dropped_and_its_name_is_free(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let id = tenant("umbrella");
    store.create_pending_tenant(&id, V1, NOW).await.unwrap().unwrap();
    let begun = enrolment(1, key_in("umbrella", "portal", "ada"));
    store.begin_enrolment(&begun).await.unwrap().unwrap();
    assert!(store.abandoned_tenants().await.unwrap().is_empty(), "an enrolment is under way");
    assert!(!store.drop_pending_tenant(&id).await.unwrap(), "an enrolment is under way");
    store.abandon_enrolment(begun.attempt).await.unwrap();
    assert_eq!(store.abandoned_tenants().await.unwrap(), std::slice::from_ref(&id));
    assert!(store.drop_pending_tenant(&id).await.unwrap());
    for _ in 0..2 {
        assert!(!store.drop_pending_tenant(&id).await.unwrap(), "it was there twice");
        assert!(!store.drop_pending_tenant(&acme()).await.unwrap(), "a tenant in service was dropped");
    }
    assert_eq!(store.tenant(&id).await.unwrap(), None);
    store.create_tenant(&tenant("Umbrella"), V1, NOW).await.unwrap().unwrap();
}

pub(crate) async fn unused_keys_go_and_may_come_again(make: Make) {
    let backend = make();
    let keys = backend.keys();
    let (first, second) = (KeyId([1; 16]), KeyId([2; 16]));
    assert!(keys.insert(&acme(), V1, first, b"first", NOW).await.unwrap());
    assert!(keys.insert(&tenant("other"), V1, first, b"other", NOW).await.unwrap());
    for _ in 0..2 {
        keys.remove_unused(&acme()).await.unwrap();
        assert!(keys.keys(&acme()).await.unwrap().is_empty());
    }
    assert!(keys.insert(&acme(), V1, second, b"second", NOW).await.unwrap());
    assert_eq!(keys.key(&acme(), V1).await.unwrap().unwrap().info.key_id, second);
    assert_eq!(keys.keys(&tenant("other")).await.unwrap().len(), 1);
    // What was purged stays on record.
    keys.destroy_tenant(&acme(), at(9)).await.unwrap();
    keys.remove_unused(&acme()).await.unwrap();
    assert_eq!(keys.keys(&acme()).await.unwrap().len(), 1);
    assert!(!keys.insert(&acme(), KeyVersion(2), first, b"late", NOW).await.unwrap());
}
