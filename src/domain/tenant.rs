//! A tenant and its states.

use crate::clock::Timestamp;

use super::id::TenantId;
use super::key::KeyVersion;

/// What may be done with a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantState {
    /// In service; new values are sealed under `active_version`.
    Active {
        /// The newest version.
        active_version: KeyVersion,
    },
    /// Out of service; may be restored until `purge_at`.
    PurgeScheduled {
        /// The version that is the newest again after a restore.
        active_version: KeyVersion,
        /// When the purge happens.
        purge_at: Timestamp,
    },
    /// The tombstone is set, the key material is being destroyed.
    Purging,
    /// Gone for good.
    Purged {
        /// When the last byte of key material was gone from the vault's files.
        erased_at: Timestamp,
    },
}

/// A tenant as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its name.
    pub id: TenantId,
    /// What may be done with it.
    pub state: TenantState,
    /// Grows with every tombstone and restore, so that nothing begun before
    /// can be committed after.
    pub epoch: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its newest key version was made.
    pub rotated_at: Timestamp,
}

impl Tenant {
    /// The version new values are sealed under; `None` when out of service.
    #[must_use]
    pub fn sealing_version(&self) -> Option<KeyVersion> {
        match self.state {
            TenantState::Active { active_version } => Some(active_version),
            TenantState::PurgeScheduled { .. } | TenantState::Purging | TenantState::Purged { .. } => None,
        }
    }
}
