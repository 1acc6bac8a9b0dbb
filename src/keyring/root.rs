//! The root key: what wraps every tenant's key. It may be a file on this
//! machine ([`super::file`]) or a service that never lets the key out, so the
//! trait speaks of wrapping and not of bytes.

use async_trait::async_trait;

use crate::domain::id::TenantId;
use crate::domain::key::{KeyId, KeyVersion};
use crate::secret::KeyBytes;

use super::KeyringError;

/// A root key. What it wraps is bound to the tenant, the version and the key's
/// identifier: [`RootKey::unwrap`] fails when any of them differs.
#[async_trait]
pub trait RootKey: Send + Sync + 'static {
    /// Names the root key, for logs and for operators. Not a secret.
    fn id(&self) -> String;

    /// Wraps a tenant's key.
    async fn wrap(
        &self,
        tenant: &TenantId,
        version: KeyVersion,
        key_id: KeyId,
        key: &KeyBytes,
    ) -> Result<Vec<u8>, KeyringError>;

    /// Unwraps a tenant's key.
    async fn unwrap(
        &self,
        tenant: &TenantId,
        version: KeyVersion,
        key_id: KeyId,
        wrapped: &[u8],
    ) -> Result<KeyBytes, KeyringError>;

    /// A keyed hash of the bytes, under a key that is derived from the root key:
    /// whoever does not have the root key cannot make it.
    async fn prove(&self, bytes: &[u8]) -> Result<[u8; 32], KeyringError>;
}
