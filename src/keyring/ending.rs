//! The end of keys: versions that nothing names, tenants that are purged.

use crate::clock::Timestamp;
use crate::domain::id::TenantId;
use crate::domain::key::KeyVersion;

use super::{Keyring, KeyringError};

impl Keyring {
    /// Destroys one version. The caller has made sure that nothing names it.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Store`].
    pub async fn destroy_version(&self, tenant: &TenantId, version: KeyVersion) -> Result<(), KeyringError> {
        self.store.destroy(tenant, version).await?;
        // After the store, so that what is loaded from now on finds it
        // destroyed, and what was loaded before is forgotten here.
        self.cache.forget_version(tenant, version);
        Ok(())
    }

    /// The tenants whose tombstone is set in the key store.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Store`].
    pub async fn tombstones(&self) -> Result<Vec<TenantId>, KeyringError> {
        Ok(self.store.tombstones().await?)
    }

    /// Notes since when nothing names the version; `None`: something does.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Store`].
    pub async fn note_unused(
        &self,
        tenant: &TenantId,
        version: KeyVersion,
        since: Option<Timestamp>,
    ) -> Result<(), KeyringError> {
        Ok(self.store.note_unused(tenant, version, since).await?)
    }

    /// Destroys all of a tenant's keys, for good, and returns how many versions
    /// there were. In memory first: from the moment this is called no value of
    /// the tenant is sealed or opened in this process. [`Keyring::erase`] then
    /// clears what the store's files still hold.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Store`]; the tenant stays out of use, call again.
    pub async fn destroy_tenant(&self, tenant: &TenantId) -> Result<u32, KeyringError> {
        self.cache.tombstone(tenant);
        Ok(self.store.destroy_tenant(tenant, self.clock.now()).await?)
    }

    /// Removes the keys of a tenant that never had a grant and is none any more;
    /// they may be made again.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Store`].
    pub async fn remove_unused(&self, tenant: &TenantId) -> Result<(), KeyringError> {
        self.cache.forget(tenant);
        Ok(self.store.remove_unused(tenant).await?)
    }

    /// Clears destroyed keys from the key store's files. `false`: a reader was
    /// in the way, call again.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Store`].
    pub async fn erase(&self) -> Result<bool, KeyringError> {
        Ok(self.store.erase_deleted().await?)
    }
}
