//! Keys that are open in memory: bounded in number and time, each loaded once
//! however many ask for it, and forgotten at once when told.
//!
//! A key lives in a [`Slot`]. Forgetting a key empties its slot, which zeroes
//! the bytes, whoever still holds the slot, and shuts it for good: a load that
//! comes late finds it shut and its key is dropped. So what was forgotten
//! cannot come back through a call that was under way.
//!
//! A tenant that is purged is *tombstoned* besides: no new slot is made for it.
//! Slots are made, and keys used, under the lock that a tombstone takes: a slot is
//! made either before, and then emptied, or not at all; and when it has
//! returned, no use of the tenant's keys is under way or will ever be.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;

use crate::domain::id::TenantId;
use crate::domain::key::{KeyId, KeyState, KeyVersion};
use crate::secret::KeyBytes;

use super::counter::SealCounter;

/// A tenant's key, opened.
pub(super) struct OpenedKey {
    pub(super) bytes: KeyBytes,
    pub(super) id: KeyId,
    /// As it was when the key was loaded.
    pub(super) state: KeyState,
    pub(super) counter: Arc<SealCounter>,
}

/// The tenant is tombstoned: no key of it is opened any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tombstoned;

/// The opened keys of this process.
pub(super) struct KeyCache {
    tenants: moka::sync::Cache<TenantId, Arc<TenantSlots>>,
    tombstoned: RwLock<HashSet<TenantId>>,
}

impl KeyCache {
    /// A cache of at most `most` tenants, each kept for `ttl`.
    pub(super) fn new(most: u64, ttl: Duration) -> Self {
        let tenants = moka::sync::Cache::builder()
            .max_capacity(most)
            .time_to_live(ttl)
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(|_, slots: Arc<TenantSlots>, cause| match cause {
                // The cache lets go of removed values some time later; the
                // keys are to be gone now.
                RemovalCause::Explicit | RemovalCause::Expired | RemovalCause::Replaced => slots.shut(),
                // Pushed out by other tenants: whoever is using a key may end,
                // so that a small cache under load still makes progress.
                RemovalCause::Size => {}
            })
            .build();
        Self { tenants, tombstoned: RwLock::default() }
    }

    /// Whether the tenant may be used at all.
    pub(super) fn check(&self, tenant: &TenantId) -> Result<(), Tombstoned> {
        let tombstoned = self.tombstoned.read().unwrap_or_else(PoisonError::into_inner);
        if tombstoned.contains(tenant) { Err(Tombstoned) } else { Ok(()) }
    }

    /// The slot of a key version, empty where it is new.
    pub(super) fn slot(&self, tenant: &TenantId, version: KeyVersion) -> Result<Arc<Slot>, Tombstoned> {
        let tombstoned = self.tombstoned.read().unwrap_or_else(PoisonError::into_inner);
        loop {
            if tombstoned.contains(tenant) {
                return Err(Tombstoned);
            }
            let slots = self.tenants.get_with_by_ref(tenant, Arc::default);
            // `None`: forgotten since the line above; the next turn makes anew.
            if let Some(slot) = slots.slot(version) {
                return Ok(slot);
            }
        }
    }

    /// Uses the key in a slot; `None` when it is not, or no longer, there.
    /// A tombstone waits for `work`, which therefore must be short.
    pub(super) fn with<T>(
        &self,
        tenant: &TenantId,
        slot: &Slot,
        work: impl FnOnce(&OpenedKey) -> T,
    ) -> Result<Option<T>, Tombstoned> {
        let tombstoned = self.tombstoned.read().unwrap_or_else(PoisonError::into_inner);
        if tombstoned.contains(tenant) { Err(Tombstoned) } else { Ok(slot.with(work)) }
    }

    /// Takes a slot out whose load failed, so that versions that never were
    /// take no room.
    pub(super) fn drop_slot(&self, tenant: &TenantId, version: KeyVersion, slot: &Arc<Slot>) {
        if let Some(slots) = self.tenants.get(tenant) {
            slots.remove(version, Some(slot));
        }
    }

    /// Zeroes and drops one version's key.
    pub(super) fn forget_version(&self, tenant: &TenantId, version: KeyVersion) {
        if let Some(slots) = self.tenants.get(tenant) {
            slots.remove(version, None);
        }
    }

    /// Zeroes and drops all of a tenant's keys.
    pub(super) fn forget(&self, tenant: &TenantId) {
        self.tenants.invalidate(tenant);
    }

    /// Zeroes and drops all of a tenant's keys, and opens none ever again.
    pub(super) fn tombstone(&self, tenant: &TenantId) {
        self.tombstoned.write().unwrap_or_else(PoisonError::into_inner).insert(tenant.clone());
        self.forget(tenant);
    }

    /// How many tenants are kept.
    #[cfg(test)]
    pub(super) fn open_tenants(&self) -> u64 {
        self.tenants.run_pending_tasks();
        self.tenants.entry_count()
    }

    /// How many versions of the tenant take room.
    #[cfg(test)]
    pub(super) fn slots(&self, tenant: &TenantId) -> usize {
        let slots = self.tenants.get(tenant);
        slots.map_or(0, |slots| slots.versions.lock().unwrap().as_ref().map_or(0, HashMap::len))
    }

    /// How many keys of the tenant are open.
    #[cfg(test)]
    pub(super) fn open_keys(&self, tenant: &TenantId) -> usize {
        let Some(slots) = self.tenants.get(tenant) else { return 0 };
        let versions = slots.versions.lock().unwrap();
        versions.iter().flat_map(HashMap::values).filter(|slot| slot.with(|_| ()).is_some()).count()
    }
}

/// The slots of one tenant; `None` once they are shut.
struct TenantSlots {
    versions: Mutex<Option<HashMap<KeyVersion, Arc<Slot>>>>,
}

impl Default for TenantSlots {
    fn default() -> Self {
        Self { versions: Mutex::new(Some(HashMap::new())) }
    }
}

impl TenantSlots {
    fn slot(&self, version: KeyVersion) -> Option<Arc<Slot>> {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.as_mut().map(|versions| Arc::clone(versions.entry(version).or_default()))
    }

    /// Shuts one slot; where `only` is given, only that one.
    fn remove(&self, version: KeyVersion, only: Option<&Arc<Slot>>) {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(versions) = versions.as_mut() else { return };
        let found =
            versions.get(&version).is_some_and(|slot| only.is_none_or(|only| Arc::ptr_eq(only, slot)));
        if found && let Some(slot) = versions.remove(&version) {
            slot.shut();
        }
    }

    fn shut(&self) {
        let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner).take();
        versions.into_iter().flat_map(HashMap::into_values).for_each(|slot| slot.shut());
    }
}

/// The place of one opened key.
#[derive(Default)]
pub(super) struct Slot {
    /// Held by the one that loads.
    loading: tokio::sync::Mutex<()>,
    held: RwLock<Held>,
}

#[derive(Default)]
enum Held {
    #[default]
    Empty,
    Open(OpenedKey),
    Shut,
}

impl Slot {
    /// Loads the key where the slot is empty. Of many that ask at once one
    /// loads and the others wait for it.
    pub(super) async fn fill<E>(&self, load: impl Future<Output = Result<OpenedKey, E>>) -> Result<(), E> {
        if !self.is_empty() {
            return Ok(());
        }
        let _loading = self.loading.lock().await;
        if !self.is_empty() {
            return Ok(());
        }
        let key = load.await?;
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(*held, Held::Empty) {
            *held = Held::Open(key);
        }
        Ok(())
    }

    fn with<T>(&self, work: impl FnOnce(&OpenedKey) -> T) -> Option<T> {
        match &*self.held.read().unwrap_or_else(PoisonError::into_inner) {
            Held::Open(key) => Some(work(key)),
            Held::Empty | Held::Shut => None,
        }
    }

    fn is_empty(&self) -> bool {
        matches!(*self.held.read().unwrap_or_else(PoisonError::into_inner), Held::Empty)
    }

    fn shut(&self) {
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Held::Shut;
    }
}
