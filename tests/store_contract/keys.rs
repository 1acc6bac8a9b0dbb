//! The key store: versions, their states, and their end.

use obo_vault::domain::key::{KeyId, KeyState, KeyVersion};
use obo_vault::store::{KeyStanding, KeyStore, Mark};
use uuid::Uuid;

use crate::Make;
use crate::world::*;

async fn insert(keys: &dyn KeyStore, version: KeyVersion) -> bool {
    let id = KeyId([u8::try_from(version.0).unwrap(); 16]);
    keys.insert(&acme(), version, id, format!("wrapped {version}").as_bytes(), NOW).await.unwrap()
}

async fn states(keys: &dyn KeyStore) -> Vec<(u32, KeyState, bool)> {
    let keys = keys.keys(&acme()).await.unwrap();
    keys.iter().map(|k| (k.info.version.0, k.info.state, k.wrapped.is_some())).collect()
}

pub(crate) async fn a_version_is_inserted_once(make: Make) {
    let mut backend = make();
    let keys = backend.keys();
    assert!(insert(keys, V1).await);
    assert!(insert(keys, V1).await, "a repeat is taken for another's key");
    let again = keys.insert(&acme(), V1, KeyId([9; 16]), b"another", at(1)).await.unwrap();
    assert!(!again);
    backend.reopen();
    let key = backend.keys().key(&acme(), V1).await.unwrap().unwrap();
    assert_eq!(key.wrapped.as_deref(), Some(b"wrapped 1".as_slice()), "a key was replaced");
    assert_eq!((key.info.key_id, key.info.created_at), (KeyId([1; 16]), NOW));
    assert_eq!((key.info.state, key.info.seals_reserved), (KeyState::PreActive, 0));
    assert!(backend.keys().key(&acme(), V2).await.unwrap().is_none());
    assert!(backend.keys().keys(&tenant("other")).await.unwrap().is_empty());
}

pub(crate) async fn one_version_is_active(make: Make) {
    let backend = make();
    let keys = backend.keys();
    for version in [V2, V1, KeyVersion(3)] {
        assert!(insert(keys, version).await);
    }
    keys.activate(&acme(), V1).await.unwrap();
    let pre = |version| (version, KeyState::PreActive, true);
    assert_eq!(states(keys).await, [(1, KeyState::Active, true), pre(2), pre(3)]);
    for _ in 0..2 {
        keys.activate(&acme(), V2).await.unwrap();
        let expected = [(1, KeyState::Deactivated, true), (2, KeyState::Active, true), pre(3)];
        assert_eq!(states(keys).await, expected);
    }
}

pub(crate) async fn seals_are_reserved_for_good(make: Make) {
    let mut backend = make();
    insert(backend.keys(), V1).await;
    insert(backend.keys(), V2).await;
    assert_eq!(backend.keys().reserve_seals(&acme(), V1, 100).await.unwrap(), 100);
    assert_eq!(backend.keys().reserve_seals(&acme(), V1, 1 << 32).await.unwrap(), (1 << 32) + 100);
    assert!(backend.keys().reserve_seals(&acme(), KeyVersion(3), 1).await.is_err());
    backend.reopen();
    assert_eq!(backend.keys().reserve_seals(&acme(), V1, 1).await.unwrap(), (1 << 32) + 101);
    assert_eq!(backend.keys().key(&acme(), V2).await.unwrap().unwrap().info.seals_reserved, 0);
}

pub(crate) async fn a_destroyed_version_has_no_bytes(make: Make) {
    let backend = make();
    let keys = backend.keys();
    for version in [V1, V2] {
        insert(keys, version).await;
        keys.activate(&acme(), version).await.unwrap();
    }
    for _ in 0..2 {
        keys.destroy(&acme(), V1).await.unwrap();
        assert_eq!(states(keys).await, [(1, KeyState::Destroyed, false), (2, KeyState::Active, true)]);
    }
    assert!(!insert(keys, V1).await, "a destroyed version was made again");
    keys.activate(&acme(), V1).await.unwrap();
    assert_eq!(states(keys).await, [(1, KeyState::Destroyed, false), (2, KeyState::Active, true)]);
    assert!(keys.erase_deleted().await.unwrap());
}

pub(crate) async fn a_purged_tenant_gets_no_key_again(make: Make) {
    let mut backend = make();
    let keys = backend.keys();
    let other = tenant("other");
    assert!(keys.insert(&other, V1, KeyId([7; 16]), b"other", NOW).await.unwrap());
    for version in [V1, V2] {
        insert(keys, version).await;
    }
    keys.destroy(&acme(), V1).await.unwrap();
    for _ in 0..2 {
        assert_eq!(keys.destroy_tenant(&acme(), at(9)).await.unwrap(), 2, "of its whole life");
    }
    backend.reopen();
    let keys = backend.keys();
    assert!(!insert(keys, KeyVersion(3)).await, "a purged tenant got a key");
    assert_eq!(states(keys).await, [(1, KeyState::Destroyed, false), (2, KeyState::Destroyed, false)]);
    // One that never had a key is purged as well.
    assert_eq!(keys.destroy_tenant(&tenant("empty"), at(9)).await.unwrap(), 0);
    assert!(!keys.insert(&tenant("empty"), V1, KeyId([8; 16]), b"late", NOW).await.unwrap());
    let left = keys.key(&other, V1).await.unwrap().unwrap();
    assert_eq!(left.wrapped.as_deref(), Some(b"other".as_slice()));
}

pub(crate) async fn the_unused_are_noted_until_something_names_them(make: Make) {
    let mut backend = make();
    for version in [V1, V2] {
        insert(backend.keys(), version).await;
    }
    let noted = async |keys: &dyn KeyStore| -> Vec<_> {
        keys.keys(&acme()).await.unwrap().iter().map(|key| key.info.unused_since).collect()
    };
    backend.keys().note_unused(&acme(), V1, Some(at(5))).await.unwrap();
    backend.reopen();
    assert_eq!(noted(backend.keys()).await, [Some(at(5)), None]);
    backend.keys().note_unused(&acme(), V1, None).await.unwrap();
    assert_eq!(noted(backend.keys()).await, [None, None]);
}

pub(crate) async fn tombstones_are_listed(make: Make) {
    let mut backend = make();
    insert(backend.keys(), V1).await;
    assert!(backend.keys().tombstones().await.unwrap().is_empty());
    for name in ["gone", "acme"] {
        backend.keys().destroy_tenant(&tenant(name), NOW).await.unwrap();
    }
    backend.reopen();
    assert_eq!(backend.keys().tombstones().await.unwrap(), [acme(), tenant("gone")]);
}

pub(crate) async fn a_mark_never_goes_back(make: Make) {
    let (ours, theirs) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let mut backend = make();
    let new = backend.keys().standing().await.unwrap();
    assert_eq!(new, KeyStanding { vault: None, is_empty: true, mark: None });
    let mark = |counter| Mark { counter, proof: [u8::try_from(counter).unwrap(); 32] };
    for _ in 0..2 {
        backend.keys().adopt(ours).await.unwrap();
        for counter in [3, 9, 7] {
            backend.keys().set_mark(mark(counter)).await.unwrap();
        }
    }
    backend.reopen();
    let known = backend.keys().standing().await.unwrap();
    assert_eq!(known, KeyStanding { vault: Some(ours), is_empty: true, mark: Some(mark(9)) });
    // The mark of one vault says nothing of another.
    backend.keys().adopt(theirs).await.unwrap();
    backend.keys().destroy_tenant(&acme(), NOW).await.unwrap();
    let adopted = backend.keys().standing().await.unwrap();
    assert_eq!(adopted, KeyStanding { vault: Some(theirs), is_empty: false, mark: None });
}
