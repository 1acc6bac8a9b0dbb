//! A tenant and its states.

use crate::clock::Timestamp;

use super::id::TenantId;
use super::key::KeyVersion;

/// What may be done with a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantState {
    /// Made by an enrolment and not there for anybody else: it is in service
    /// from its first grant on, and gone when there will be none.
    Pending {
        /// The only version.
        active_version: KeyVersion,
    },
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
    /// Whether it is there for the enrolment that made it and for nobody else.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        matches!(self.state, TenantState::Pending { .. })
    }

    /// The version new values are sealed under; `None` when out of service.
    #[must_use]
    pub fn sealing_version(&self) -> Option<KeyVersion> {
        match self.state {
            TenantState::Pending { active_version } | TenantState::Active { active_version } => {
                Some(active_version)
            }
            TenantState::PurgeScheduled { .. } | TenantState::Purging | TenantState::Purged { .. } => None,
        }
    }
}
