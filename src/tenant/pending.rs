//! Tenants that an enrolment makes. One stays pending, there for nobody else,
//! until its first grant is kept, which puts it in service in the same
//! transaction; where there will be no grant, it goes again with its keys.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::failure::Failure;
use crate::domain::id::TenantId;
use crate::domain::key::{KeyState, KeyVersion, KeyVersionInfo};
use crate::domain::reason::Reason;
use crate::domain::tenant::{Tenant, TenantState};
use crate::store::TenantRefused;

use super::{TenantService, refused};

/// Who makes a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maker {
    Operator,
    Enrolment,
}

/// How many enrolments are under way for each tenant, and the lock under which
/// tenants come and go.
#[derive(Debug, Default)]
pub(super) struct Enrolments {
    under_way: Arc<Mutex<HashMap<TenantId, usize>>>,
    changing: tokio::sync::Mutex<()>,
}

/// One of them, until it is dropped.
struct UnderWay {
    tenant: TenantId,
    all: Arc<Mutex<HashMap<TenantId, usize>>>,
}

impl Enrolments {
    fn begin(&self, tenant: &TenantId) -> UnderWay {
        *lock(&self.under_way).entry(tenant.clone()).or_default() += 1;
        UnderWay { tenant: tenant.clone(), all: Arc::clone(&self.under_way) }
    }

    fn any(&self, tenant: &TenantId) -> bool {
        lock(&self.under_way).contains_key(tenant)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut all = lock(&self.all);
        if let Some(count) = all.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.tenant);
            }
        }
    }
}

fn lock(counts: &Mutex<HashMap<TenantId, usize>>) -> MutexGuard<'_, HashMap<TenantId, usize>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TenantService {
    /// Runs an enrolment that may make its tenant, where the configuration
    /// allows it. A tenant that is there stays as it is.
    ///
    /// # Errors
    ///
    /// A tenant's name differs from this one in case only, a store cannot be
    /// written, or the enrolment's own.
    pub async fn enrolling<T>(
        &self,
        id: &TenantId,
        enrolment: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        // Before a tenant is made: its keys may belong to one that this token store
        // does not know any more.
        self.redeemer.check_confirmed()?;
        let under_way = self.enrolments.begin(id);
        let enrolled = match self.make(id, Maker::Enrolment).await {
            Ok(_) => enrolment.await,
            Err(failure) if failure.reason() == Reason::TenantExists => enrolment.await,
            Err(failure) => Err(failure),
        };
        drop(under_way);
        if enrolled.is_err()
            && let Err(failure) = self.collect(id).await
        {
            tracing::warn!(tenant.id = %id, %failure, "a tenant without grants stays for now");
        }
        enrolled
    }

    /// Collects the tenants of enrolments that a crash or a failing store left
    /// behind. Returns how many.
    ///
    /// # Errors
    ///
    /// A store cannot be used; the next round tries again.
    pub async fn collect_abandoned(&self) -> Result<u32, Failure> {
        if self.redeemer.check_confirmed().is_err() {
            return Ok(0);
        }
        let mut collected = 0;
        for id in self.store.abandoned_tenants().await? {
            collected += u32::from(self.collect(&id).await?);
        }
        Ok(collected)
    }

    /// Drops a tenant that is pending, unless an enrolment may still need it.
    ///
    /// The row goes first: once it is gone no enrolment can begin, so that no
    /// value is ever sealed under a key that is being removed.
    async fn collect(&self, id: &TenantId) -> Result<bool, Failure> {
        let _one_at_a_time = self.enrolments.changing.lock().await;
        if self.enrolments.any(id) || !self.store.drop_pending_tenant(id).await? {
            return Ok(false);
        }
        self.put_out_of_service(id).await;
        self.keyring.remove_unused(id).await?;
        tracing::info!(tenant.id = %id, "forgot a tenant that never had a grant");
        Ok(true)
    }

    /// Makes a tenant and its first key version: the key, then the tenant, then
    /// the key's state.
    pub(super) async fn make(&self, id: &TenantId, maker: Maker) -> Result<Tenant, Failure> {
        let _one_at_a_time = self.enrolments.changing.lock().await;
        if let Some(known) = self.store.tenant(id).await? {
            match (known.state, maker) {
                (TenantState::Purging | TenantState::Purged { .. }, _) => {
                    return Err(Failure::new(Reason::TenantPurged, "a tenant of that name was purged"));
                }
                (TenantState::Active { .. } | TenantState::PurgeScheduled { .. }, _) => {
                    return Err(refused(TenantRefused::Exists));
                }
                // What follows finishes what a crash may have interrupted.
                (TenantState::Pending { .. }, Maker::Operator | Maker::Enrolment) => {}
            }
        }
        let versions = self.keyring.versions(id).await?;
        let (first, now) = (first_version(&versions), self.clock.now());
        self.keyring.create_version(id, first).await?;
        let made = match maker {
            Maker::Operator => self.store.create_tenant(id, first, now).await?,
            Maker::Enrolment => self.store.create_pending_tenant(id, first, now).await?,
        };
        match made {
            Err(TenantRefused::NameTaken) => {
                if versions.is_empty() {
                    self.keyring.remove_unused(id).await?;
                }
                Err(refused(TenantRefused::NameTaken))
            }
            Ok(_) | Err(TenantRefused::Exists) => {
                self.keyring.activate(id, first).await?;
                made.map_err(refused)
            }
            Err(other @ (TenantRefused::NotFound | TenantRefused::WrongState)) => Err(refused(other)),
        }
    }
}

/// The version that a tenant begins with. The key store may know it already: a
/// crash was in between, or the token store is an older copy.
fn first_version(versions: &[KeyVersionInfo]) -> KeyVersion {
    let seals = |info: &&KeyVersionInfo| matches!(info.state, KeyState::Active | KeyState::PreActive);
    let last = versions.iter().map(|info| info.version).max();
    let sealing = versions.iter().filter(seals).map(|info| info.version).max();
    sealing.or(last.map(KeyVersion::next)).unwrap_or(KeyVersion::FIRST)
}
