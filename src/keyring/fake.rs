//! A key store in memory, for the tests of the keyring. It keeps the contract
//! of [`KeyStore`], and it can be stopped in the middle of an operation and
//! told to fail.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::domain::id::TenantId;
use crate::domain::key::{KeyId, KeyState, KeyVersion, KeyVersionInfo};
use crate::store::{KeyRecord, KeyStanding, KeyStore, Mark, StoreError};

/// A key store in memory.
pub(super) struct FakeKeyStore {
    keys: Mutex<BTreeMap<(TenantId, KeyVersion), KeyRecord>>,
    tombstones: Mutex<HashSet<TenantId>>,
    vault: Mutex<(Option<Uuid>, Option<Mark>)>,
    /// Stops readers of a key after they have read it.
    pub(super) reads: Gate,
    /// Stops reservations after they are durable.
    pub(super) reservations: Gate,
    /// How many times a key was read.
    pub(super) read_count: AtomicUsize,
    /// While set, every operation fails.
    pub(super) broken: AtomicBool,
}

/// Where a test stops others and lets them go.
pub(super) struct Gate {
    shut: AtomicBool,
    arrived: Semaphore,
    leave: Semaphore,
}

impl Gate {
    fn open() -> Self {
        Self { shut: AtomicBool::new(false), arrived: Semaphore::new(0), leave: Semaphore::new(0) }
    }

    /// The next to come stop.
    pub(super) fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
    }

    /// Waits until one has come to the gate.
    pub(super) async fn someone_waits(&self) {
        self.arrived.acquire().await.unwrap().forget();
    }

    /// Lets all go, those who wait and those who come later.
    pub(super) fn release(&self) {
        self.shut.store(false, Ordering::SeqCst);
        self.leave.add_permits(1000);
    }

    async fn pass(&self) {
        if self.shut.load(Ordering::SeqCst) {
            self.arrived.add_permits(1);
            self.leave.acquire().await.unwrap().forget();
        }
    }
}

impl FakeKeyStore {
    /// An empty store.
    pub(super) fn new() -> Self {
        Self {
            keys: Mutex::default(),
            tombstones: Mutex::default(),
            vault: Mutex::default(),
            reads: Gate::open(),
            reservations: Gate::open(),
            read_count: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
        }
    }

    /// Changes what is known of a key, as another process would.
    pub(super) fn change(&self, tenant: &TenantId, version: KeyVersion, change: impl FnOnce(&mut KeyRecord)) {
        change(self.keys.lock().unwrap().get_mut(&(tenant.clone(), version)).unwrap());
    }

    /// Seals reserved so far, of all keys.
    pub(super) fn reserved(&self) -> u64 {
        self.keys.lock().unwrap().values().map(|key| key.info.seals_reserved).sum()
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.broken.load(Ordering::SeqCst) { Err(error("the disk is gone")) } else { Ok(()) }
    }
}

#[async_trait]
impl KeyStore for FakeKeyStore {
    async fn insert(
        &self,
        tenant: &TenantId,
        version: KeyVersion,
        key_id: KeyId,
        wrapped: &[u8],
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        self.check()?;
        let mut keys = self.keys.lock().unwrap();
        if self.tombstones.lock().unwrap().contains(tenant) || keys.contains_key(&(tenant.clone(), version)) {
            return Ok(false);
        }
        let info = KeyVersionInfo {
            version,
            key_id,
            state: KeyState::PreActive,
            created_at: at,
            seals_reserved: 0,
            unused_since: None,
        };
        keys.insert((tenant.clone(), version), KeyRecord { info, wrapped: Some(wrapped.to_vec()) });
        Ok(true)
    }

    async fn keys(&self, tenant: &TenantId) -> Result<Vec<KeyRecord>, StoreError> {
        self.check()?;
        let keys = self.keys.lock().unwrap();
        Ok(keys.iter().filter(|((owner, _), _)| owner == tenant).map(|(_, key)| key.clone()).collect())
    }

    async fn key(&self, tenant: &TenantId, version: KeyVersion) -> Result<Option<KeyRecord>, StoreError> {
        self.check()?;
        self.read_count.fetch_add(1, Ordering::SeqCst);
        let key = self.keys.lock().unwrap().get(&(tenant.clone(), version)).cloned();
        self.reads.pass().await;
        Ok(key)
    }

    async fn activate(&self, tenant: &TenantId, version: KeyVersion) -> Result<(), StoreError> {
        self.check()?;
        for ((owner, number), key) in self.keys.lock().unwrap().iter_mut() {
            if owner == tenant && *number == version {
                key.info.state = KeyState::Active;
            } else if owner == tenant && key.info.state == KeyState::Active {
                key.info.state = KeyState::Deactivated;
            }
        }
        Ok(())
    }

    async fn reserve_seals(
        &self,
        tenant: &TenantId,
        version: KeyVersion,
        count: u64,
    ) -> Result<u64, StoreError> {
        self.check()?;
        let total = {
            let mut keys = self.keys.lock().unwrap();
            let key = keys.get_mut(&(tenant.clone(), version)).ok_or_else(|| error("no such key"))?;
            key.info.seals_reserved += count;
            key.info.seals_reserved
        };
        self.reservations.pass().await;
        Ok(total)
    }

    async fn destroy(&self, tenant: &TenantId, version: KeyVersion) -> Result<(), StoreError> {
        self.check()?;
        if let Some(key) = self.keys.lock().unwrap().get_mut(&(tenant.clone(), version)) {
            key.info.state = KeyState::Destroyed;
            key.wrapped = None;
        }
        Ok(())
    }

    async fn destroy_tenant(&self, tenant: &TenantId, _at: Timestamp) -> Result<u32, StoreError> {
        self.check()?;
        self.tombstones.lock().unwrap().insert(tenant.clone());
        let mut versions = 0;
        for ((owner, _), key) in self.keys.lock().unwrap().iter_mut() {
            if owner == tenant {
                key.info.state = KeyState::Destroyed;
                key.wrapped = None;
                versions += 1;
            }
        }
        Ok(versions)
    }

    async fn remove_unused(&self, tenant: &TenantId) -> Result<(), StoreError> {
        self.check()?;
        self.keys.lock().unwrap().retain(|(owner, _), _| owner != tenant);
        Ok(())
    }

    async fn tombstones(&self) -> Result<Vec<TenantId>, StoreError> {
        self.check()?;
        Ok(self.tombstones.lock().unwrap().iter().cloned().collect())
    }

    async fn note_unused(
        &self,
        tenant: &TenantId,
        version: KeyVersion,
        since: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        self.check()?;
        if let Some(key) = self.keys.lock().unwrap().get_mut(&(tenant.clone(), version)) {
            key.info.unused_since = since;
        }
        Ok(())
    }

    async fn standing(&self) -> Result<KeyStanding, StoreError> {
        self.check()?;
        let is_empty = self.keys.lock().unwrap().is_empty() && self.tombstones.lock().unwrap().is_empty();
        let (vault, mark) = *self.vault.lock().unwrap();
        Ok(KeyStanding { vault, is_empty, mark })
    }

    async fn adopt(&self, vault: Uuid) -> Result<(), StoreError> {
        self.check()?;
        let mut known = self.vault.lock().unwrap();
        if known.0 != Some(vault) {
            *known = (Some(vault), None);
        }
        Ok(())
    }

    async fn set_mark(&self, mark: Mark) -> Result<(), StoreError> {
        self.check()?;
        let mut known = self.vault.lock().unwrap();
        if known.1.is_none_or(|set| set.counter <= mark.counter) {
            known.1 = Some(mark);
        }
        Ok(())
    }

    async fn erase_deleted(&self) -> Result<bool, StoreError> {
        self.check().map(|()| true)
    }
}

fn error(detail: &str) -> StoreError {
    StoreError { operation: "key store", detail: detail.into() }
}
