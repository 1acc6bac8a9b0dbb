//! The keyring: each tenant's key in its versions, kept wrapped in the key
//! store and opened, for a while, in memory.
//!
//! In reading order:
//!
//! - this file: [`Keyring`], all that the services call;
//! - [`root`]: the root key, which wraps the tenants' keys, as a trait;
//! - [`file`](mod@file): the root key in a file;
//! - `error`: why the keyring refuses;
//! - `cache`: opened keys, few and not for long, and how they are forgotten;
//! - `counter`: how many seals a key version has left;
//! - `mark`: how far the token store had come, proven with the root key;
//! - `ending`: retired versions, purged tenants;
//! - [`versions`]: a new version of a tenant's key, in both stores.
//!
//! What it promises:
//!
//! - no version seals more than [`MAX_SEALS`] values, crashes included
//!   (invariant 4 of docs/ARCHITECTURE.md);
//! - every seal has a fresh random nonce;
//! - once [`Keyring::destroy_tenant`] has begun, no call seals or opens for
//!   that tenant, not even one that was under way (invariant 9).
//!
//! Which version is a tenant's newest is not decided here: the token store
//! knows, and its commits check it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::clock::SharedClock;
use crate::domain::id::TenantId;
use crate::domain::key::{KeyId, KeyState, KeyVersion, KeyVersionInfo};
use crate::entropy::{self, SharedEntropy};
use crate::seal::{self, Place, Sealed};
use crate::secret::{KeyBytes, Plaintext};
use crate::store::{KeyRecord, KeyStore};

mod cache;
mod counter;
mod ending;
mod error;
#[cfg(test)]
mod fake;
pub mod file;
mod mark;
pub mod root;
pub mod versions;

pub use error::KeyringError;
pub use file::{FileRootKey, RootKeyError};
pub use root::RootKey;

use cache::{KeyCache, OpenedKey, Slot};
use counter::{SealCounter, TakeError};

/// Most values one key version may seal, over all processes together: with
/// random 96-bit nonces two of them share one with a probability below 2^-32
/// (NIST SP 800-38D section 8.3).
pub const MAX_SEALS: u64 = 1 << 32;

/// From this many seals on a version is to be replaced: half of [`MAX_SEALS`],
/// so that the other half is there while the rotation runs.
pub const ROTATE_AT_SEALS: u64 = MAX_SEALS / 2;

/// Whether the version has sealed so much that it is to be replaced.
#[must_use]
pub fn needs_rotation(version: &KeyVersionInfo) -> bool {
    version.seals_reserved >= ROTATE_AT_SEALS
}

/// How much the keyring holds in memory and reserves ahead.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Tenants whose keys are kept opened at most.
    pub cached_tenants: u64,
    /// How long a tenant's keys are kept opened.
    pub cached_for: Duration,
    /// Seals reserved in the key store at a time. A crash, and a key that
    /// leaves the cache, waste at most this many.
    pub seal_block: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cached_tenants: 10_000, cached_for: Duration::from_secs(600), seal_block: 4096 }
    }
}

/// The tenants' keys. One per process; see the module's documentation.
pub struct Keyring {
    root: Arc<dyn RootKey>,
    store: Arc<dyn KeyStore>,
    clock: SharedClock,
    entropy: SharedEntropy,
    cache: KeyCache,
    seal_block: u64,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("root", &self.root.id()).finish_non_exhaustive()
    }
}

impl Keyring {
    /// A keyring with nothing opened yet.
    #[must_use]
    pub fn new(
        root: Arc<dyn RootKey>,
        store: Arc<dyn KeyStore>,
        clock: SharedClock,
        entropy: SharedEntropy,
        limits: Limits,
    ) -> Self {
        let cache = KeyCache::new(limits.cached_tenants, limits.cached_for);
        Self { root, store, clock, entropy, cache, seal_block: limits.seal_block }
    }

    /// Makes a version in PRE_ACTIVE. Repeatable: where the version exists and
    /// may still seal, it is returned as it is.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Retired`] or [`KeyringError::Destroyed`] for a version
    /// whose time is over, [`KeyringError::TenantGone`] for a purged tenant.
    pub async fn create_version(
        &self,
        tenant: &TenantId,
        version: KeyVersion,
    ) -> Result<KeyVersionInfo, KeyringError> {
        self.cache.check(tenant)?;
        if let Some(record) = self.store.key(tenant, version).await? {
            return sealing(record.info);
        }
        let key_id = KeyId(entropy::bytes(&*self.entropy)?);
        let key = KeyBytes::new(*Zeroizing::new(entropy::bytes(&*self.entropy)?));
        let wrapped = self.root.wrap(tenant, version, key_id, &key).await?;
        self.store.insert(tenant, version, key_id, &wrapped, self.clock.now()).await?;
        // Read back in any case: another process may have been first, and the
        // store refuses a tenant whose tombstone is set.
        match self.store.key(tenant, version).await? {
            Some(record) => sealing(record.info),
            None => Err(KeyringError::TenantGone),
        }
    }

    /// Makes a version ACTIVE; the one that was is DEACTIVATED. Repeatable.
    ///
    /// # Errors
    ///
    /// [`KeyringError::NoSuchKey`] when it was not made first,
    /// [`KeyringError::Retired`] when a newer version is active already, and as
    /// [`Keyring::create_version`].
    pub async fn activate(&self, tenant: &TenantId, version: KeyVersion) -> Result<(), KeyringError> {
        self.cache.check(tenant)?;
        let mut versions = self.versions(tenant).await?;
        // A step that was interrupted and comes late must not take a newer
        // version out of use.
        let overtaken = versions.iter().any(|v| v.version > version && v.state == KeyState::Active);
        let at =
            versions.iter().position(|v| v.version == version).ok_or(KeyringError::NoSuchKey(version))?;
        let info = sealing(versions.swap_remove(at))?;
        if overtaken {
            return Err(KeyringError::Retired(version, info.state));
        }
        if info.state == KeyState::PreActive {
            self.store.activate(tenant, version).await?;
        }
        // The opened keys remember their state: the older one must notice that
        // it seals no more.
        self.cache.forget(tenant);
        Ok(())
    }

    /// All versions of a tenant's key, oldest first, destroyed ones included.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Store`].
    pub async fn versions(&self, tenant: &TenantId) -> Result<Vec<KeyVersionInfo>, KeyringError> {
        Ok(self.store.keys(tenant).await?.into_iter().map(|record| record.info).collect())
    }

    /// Whether a version can be opened with the root key at hand.
    ///
    /// # Errors
    ///
    /// Why it cannot: another root key wraps it, or it is not in the key store.
    pub async fn check(&self, tenant: &TenantId, version: KeyVersion) -> Result<(), KeyringError> {
        self.opened(tenant, version).await.map(drop)
    }

    /// Seals a value for its place under `version`, the tenant's newest as the
    /// caller read it. The caller's commit checks that it still is.
    ///
    /// A PRE_ACTIVE version seals too: the token store moves to a new version
    /// first, and the version is activated after.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Retired`] when the version moved on, and the others.
    pub async fn seal(
        &self,
        version: KeyVersion,
        place: &Place,
        plaintext: &[u8],
    ) -> Result<Sealed, KeyringError> {
        loop {
            let slot = self.opened(&place.tenant, version).await?;
            // `None` here and below: the key was forgotten in between. Whether
            // it may be loaded again is decided anew.
            let Some((state, counter)) =
                self.cache.with(&place.tenant, &slot, |key| (key.state, Arc::clone(&key.counter)))?
            else {
                continue;
            };
            if !matches!(state, KeyState::PreActive | KeyState::Active) {
                return Err(KeyringError::Retired(version, state));
            }
            let reserve = || self.store.reserve_seals(&place.tenant, version, self.seal_block);
            counter.take(self.seal_block, reserve).await.map_err(|error| match error {
                TakeError::Exhausted => KeyringError::Exhausted(version),
                TakeError::Store(error) => KeyringError::Store(error),
            })?;
            let nonce = entropy::bytes(&*self.entropy)?;
            let sealed = self.cache.with(&place.tenant, &slot, |key| {
                seal::seal(&key.bytes, key.id, version, place, nonce, plaintext)
            })?;
            if let Some(sealed) = sealed {
                return sealed.map_err(KeyringError::TooLong);
            }
        }
    }

    /// Opens a value in its place, with the one key its envelope names.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Unreadable`] when it was altered or moved, and the
    /// others.
    pub async fn open(&self, place: &Place, sealed: &Sealed) -> Result<Plaintext, KeyringError> {
        let version = sealed.header().map_err(KeyringError::Unreadable)?.version;
        loop {
            let slot = self.opened(&place.tenant, version).await?;
            let opened = self
                .cache
                .with(&place.tenant, &slot, |key| seal::open(&key.bytes, key.id, version, place, sealed))?;
            if let Some(opened) = opened {
                return opened.map_err(KeyringError::Unreadable);
            }
        }
    }

    /// Forgets a tenant's opened keys; they are loaded again when next needed.
    pub fn forget(&self, tenant: &TenantId) {
        self.cache.forget(tenant);
    }

    /// The slot of a key version, loaded; it may be forgotten again at any
    /// time, which the slot itself tells.
    async fn opened(&self, tenant: &TenantId, version: KeyVersion) -> Result<Arc<Slot>, KeyringError> {
        let slot = self.cache.slot(tenant, version)?;
        if let Err(error) = slot.fill(self.load(tenant, version)).await {
            self.cache.drop_slot(tenant, version, &slot);
            return Err(error);
        }
        Ok(slot)
    }

    async fn load(&self, tenant: &TenantId, version: KeyVersion) -> Result<OpenedKey, KeyringError> {
        let KeyRecord { info, wrapped } =
            self.store.key(tenant, version).await?.ok_or(KeyringError::NoSuchKey(version))?;
        let wrapped = match wrapped {
            Some(wrapped) if info.state != KeyState::Destroyed => wrapped,
            Some(_) | None => return Err(KeyringError::Destroyed(version)),
        };
        let bytes = self.root.unwrap(tenant, version, info.key_id, &wrapped).await?;
        let counter = Arc::new(SealCounter::new(info.seals_reserved));
        Ok(OpenedKey { bytes, id: info.key_id, state: info.state, counter })
    }
}

/// A version that may seal, or why it may not.
fn sealing(info: KeyVersionInfo) -> Result<KeyVersionInfo, KeyringError> {
    match info.state {
        KeyState::PreActive | KeyState::Active => Ok(info),
        KeyState::Destroyed => Err(KeyringError::Destroyed(info.version)),
        KeyState::Deactivated | KeyState::Compromised => Err(KeyringError::Retired(info.version, info.state)),
    }
}

#[cfg(test)]
mod tests;
