//! Whether a tenant is in service, in memory: the check that makes a purge
//! take effect before it returns (invariant 9, I10).
//!
//! The store is the authority. A gate is opened from a read of the store and
//! closed by every change of the tenant's state; the tenant's epoch in it marks
//! what was issued before a change.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use crate::domain::failure::Failure;
use crate::domain::id::TenantId;
use crate::domain::reason::Reason;
use crate::domain::tenant::{Tenant, TenantState};
use crate::store::{Store, StoreError};

/// The gates of all tenants that were asked for.
#[derive(Debug, Default)]
pub struct Gates {
    open: RwLock<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// Epochs of the tenants in service.
    epochs: HashMap<TenantId, u64>,
    /// Grows with every closing, so that a read of the store that began before
    /// cannot open the gate after.
    closings: u64,
}

impl Gates {
    /// The tenant's epoch, when its gate is known to be open.
    #[must_use]
    pub fn epoch(&self, tenant: &TenantId) -> Option<u64> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).epochs.get(tenant).copied()
    }

    /// The tenant's epoch; reads the store when the gate is not open.
    ///
    /// # Errors
    ///
    /// No such tenant, out of service, or the store cannot be read.
    pub async fn enter(&self, tenant: &TenantId, store: &dyn Store) -> Result<u64, Failure> {
        loop {
            if let Some(epoch) = self.epoch(tenant) {
                return Ok(epoch);
            }
            let closings = self.open.read().unwrap_or_else(PoisonError::into_inner).closings;
            let found = store.tenant(tenant).await.map_err(|e| store_failure(&e))?;
            let tenant = in_service(found)?;
            let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
            if open.closings == closings {
                open.epochs.insert(tenant.id, tenant.epoch);
                return Ok(tenant.epoch);
            }
            // A tenant changed while the store was read: look again.
        }
    }

    /// Closes a tenant's gate. Called after every durable change of a tenant,
    /// before that change is answered.
    pub fn close(&self, tenant: &TenantId) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.closings += 1;
        open.epochs.remove(tenant);
    }
}

/// The tenant when it is in service; otherwise why it is not.
///
/// # Errors
///
/// No such tenant, or out of service.
pub fn in_service(tenant: Option<Tenant>) -> Result<Tenant, Failure> {
    let Some(tenant) = tenant else {
        return Err(Failure::new(Reason::TenantNotFound, "no such tenant"));
    };
    match tenant.state {
        TenantState::Active { .. } => Ok(tenant),
        TenantState::PurgeScheduled { .. } => {
            Err(Failure::new(Reason::TenantPurgeScheduled, "the tenant's purge is scheduled"))
        }
        TenantState::Purging | TenantState::Purged { .. } => {
            Err(Failure::new(Reason::TenantPurged, "the tenant was purged"))
        }
    }
}

/// What a failing store is to a caller.
#[must_use]
pub fn store_failure(error: &StoreError) -> Failure {
    Failure::new(Reason::StoreUnavailable, error.to_string()).retry_after(std::time::Duration::from_secs(1))
}
