//! The mark: how far the token store had come when it was last noted, kept in the
//! key store, where a restore of the token store does not reach. A token store
//! that is behind its mark is an older copy: its refresh tokens may have been
//! redeemed since.
//!
//! The mark is proven with the root key, so that whoever can write the file alone
//! can neither move it nor put another vault's in its place.

use uuid::Uuid;

use crate::domain::id::TenantId;
use crate::domain::key::KeyVersion;
use crate::store::Mark;

use super::{Keyring, KeyringError, ROTATE_AT_SEALS};

impl Keyring {
    /// The token store's counter as it was last noted; `None`: never, or for
    /// another vault.
    ///
    /// # Errors
    ///
    /// [`KeyringError::MarkUnproven`] when it was not made with this root key for
    /// this vault, [`KeyringError::Store`].
    pub async fn mark(&self) -> Result<Option<u64>, KeyringError> {
        let standing = self.store.standing().await?;
        let Some((vault, mark)) = standing.vault.zip(standing.mark) else { return Ok(None) };
        // Both come from files at rest: how long the comparison takes tells nobody
        // anything.
        if self.proof(vault, mark.counter).await? == mark.proof {
            Ok(Some(mark.counter))
        } else {
            Err(KeyringError::MarkUnproven)
        }
    }

    /// Notes how far the token store has come. The mark never goes back.
    ///
    /// # Errors
    ///
    /// [`KeyringError::RootKey`], [`KeyringError::Store`].
    pub async fn set_mark(&self, counter: u64) -> Result<(), KeyringError> {
        let Some(vault) = self.store.standing().await?.vault else { return Ok(()) };
        let proof = self.proof(vault, counter).await?;
        Ok(self.store.set_mark(Mark { counter, proof }).await?)
    }

    /// Counts half of all seals as made, so that the next rotation replaces the
    /// version: how many were made with it is not known after its key store was
    /// restored.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Store`].
    pub async fn presume_used(&self, tenant: &TenantId, version: KeyVersion) -> Result<(), KeyringError> {
        let known = self.store.key(tenant, version).await?.map_or(0, |key| key.info.seals_reserved);
        let missing = ROTATE_AT_SEALS.saturating_sub(known);
        if missing > 0 {
            self.store.reserve_seals(tenant, version, missing).await?;
            self.cache.forget(tenant);
        }
        Ok(())
    }

    async fn proof(&self, vault: Uuid, counter: u64) -> Result<[u8; 32], KeyringError> {
        let mut bytes = b"obo-vault mark v1\0".to_vec();
        bytes.extend_from_slice(vault.as_bytes());
        bytes.extend_from_slice(&counter.to_be_bytes());
        self.root.prove(&bytes).await
    }
}
