//! Whether a tenant is in service, in memory: the check that makes a purge
//! take effect before it returns (invariant 9, I10).
//!
//! The store is the authority. A guard is opened from a read of the store and
//! closed by every change of the tenant's state; the tenant's epoch in it marks
//! what was issued before a change.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::domain::failure::Failure;
use crate::domain::id::TenantId;
use crate::domain::reason::Reason;
use crate::domain::tenant::{Tenant, TenantState};
use crate::store::Store;

/// The guards of all tenants that were asked for.
#[derive(Debug, Default)]
pub struct TenantGuards {
    open: RwLock<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// The tenants in service.
    guards: HashMap<TenantId, Guard>,
    /// The tenants that have no key to seal with, and why.
    without_keys: HashMap<TenantId, String>,
    /// Grows with every closing, so that a read of the store that began before
    /// cannot open the guard after.
    closings: u64,
}

#[derive(Debug)]
struct Guard {
    epoch: u64,
    passing: TaskTracker,
}

/// Held by who hands out a token of the tenant, from the check of the guard
/// until the answer is made. A closing waits for all of them.
#[derive(Debug)]
pub struct Pass {
    /// The tenant's epoch.
    pub epoch: u64,
    _token: TaskTrackerToken,
}

impl TenantGuards {
    /// Passes the guard, when it is known to be open.
    #[must_use]
    pub fn pass(&self, tenant: &TenantId) -> Option<Pass> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.guards.get(tenant).map(|guard| Pass { epoch: guard.epoch, _token: guard.passing.token() })
    }

    /// Passes the guard; reads the store when it is not known to be open.
    ///
    /// # Errors
    ///
    /// No such tenant, out of service, without a key to seal with, or the store
    /// cannot be read.
    pub async fn enter(&self, tenant: &TenantId, store: &dyn Store) -> Result<Pass, Failure> {
        loop {
            if let Some(pass) = self.pass(tenant) {
                return Ok(pass);
            }
            let closings = {
                let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
                if let Some(why) = open.without_keys.get(tenant) {
                    return Err(Failure::new(Reason::KeyUnavailable, why.clone()));
                }
                open.closings
            };
            let found = store.tenant(tenant).await?;
            let tenant = in_service(found)?;
            let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
            if open.closings == closings {
                let guard = Guard { epoch: tenant.epoch, passing: TaskTracker::new() };
                open.guards.entry(tenant.id).or_insert(guard);
            }
            // Otherwise a tenant changed while the store was read: look again.
        }
    }

    /// Takes a tenant out of service that has no key to seal with; `None` puts it
    /// back. One that was in service and stays so is not disturbed.
    pub async fn set_without_keys(&self, tenant: &TenantId, why: Option<String>) {
        let changes = {
            let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
            let leaves = why.is_some();
            let was_out = match why {
                Some(why) => open.without_keys.insert(tenant.clone(), why),
                None => open.without_keys.remove(tenant),
            };
            leaves || was_out.is_some()
        };
        if changes {
            self.close(tenant).await;
        }
    }

    /// Whether the tenant is out of service for want of a key.
    #[must_use]
    pub fn is_without_keys(&self, tenant: &TenantId) -> bool {
        self.open.read().unwrap_or_else(PoisonError::into_inner).without_keys.contains_key(tenant)
    }

    /// How many tenants are out of service for want of a key.
    #[must_use]
    pub fn count_without_keys(&self) -> usize {
        self.open.read().unwrap_or_else(PoisonError::into_inner).without_keys.len()
    }

    /// Closes a tenant's guard and waits until nobody is passing it. Called
    /// after every durable change of a tenant, before that change is answered.
    pub async fn close(&self, tenant: &TenantId) {
        let guard = {
            let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
            open.closings += 1;
            open.guards.remove(tenant)
        };
        if let Some(guard) = guard {
            guard.passing.close();
            guard.passing.wait().await;
        }
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
        // One that is pending is in service for its enrolment; it has no grants.
        TenantState::Pending { .. } | TenantState::Active { .. } => Ok(tenant),
        TenantState::PurgeScheduled { .. } => {
            Err(Failure::new(Reason::TenantPurgeScheduled, "the tenant's purge is scheduled"))
        }
        TenantState::Purging | TenantState::Purged { .. } => {
            Err(Failure::new(Reason::TenantPurged, "the tenant was purged"))
        }
    }
}

/// A tenant that does not exist has no grants: who asks for one of them gets
/// the answer that any unknown grant gets.
#[must_use]
pub fn as_unknown_grant(failure: Failure) -> Failure {
    match failure.reason() {
        Reason::TenantNotFound => Failure::new(Reason::GrantNotFound, failure.detail().to_owned()),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Timestamp;
    use crate::domain::key::KeyVersion;
    use crate::store::sqlite::SqliteStore;

    fn acme() -> TenantId {
        TenantId::new("acme").unwrap()
    }

    async fn store(directory: &tempfile::TempDir) -> SqliteStore {
        let store = SqliteStore::open(&directory.path().join("vault.db")).unwrap();
        store.create_tenant(&acme(), KeyVersion::FIRST, Timestamp(0)).await.unwrap().unwrap();
        store
    }

    #[tokio::test]
    async fn a_closing_waits_for_those_who_are_passing() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory).await;
        let guards = Arc::new(TenantGuards::default());
        let pass = guards.enter(&acme(), &store).await.unwrap();
        let closing = tokio::spawn({
            let guards = Arc::clone(&guards);
            async move { guards.close(&acme()).await }
        });
        while guards.pass(&acme()).is_some() {
            tokio::task::yield_now().await;
        }
        assert!(!closing.is_finished());
        drop(pass);
        closing.await.unwrap();
    }

    #[tokio::test]
    async fn a_guard_does_not_open_for_a_tenant_out_of_service() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory).await;
        let guards = TenantGuards::default();
        let before = guards.enter(&acme(), &store).await.unwrap().epoch;
        store.schedule_purge(&acme(), Timestamp(9)).await.unwrap().unwrap();
        guards.close(&acme()).await;
        let refused = guards.enter(&acme(), &store).await.unwrap_err();
        assert_eq!(refused.reason(), Reason::TenantPurgeScheduled);
        store.restore_tenant(&acme(), before + 1).await.unwrap().unwrap();
        let after = guards.enter(&acme(), &store).await.unwrap().epoch;
        assert!(after > before, "tokens from before the purge would be served again");
    }
}
