//! Tenants and their keys, for operators: create, rotate, describe, schedule a
//! purge, restore, purge.
//!
//! Every step touches two stores, and no transaction spans them. The token
//! store says which version is the newest; the key store follows. A crash
//! between the two is finished by [`TenantService::reconcile`] at the next
//! start, as is a restore of one of the two (`fit`):
//!
//! | step | first | then |
//! |---|---|---|
//! | create, rotate | key made PRE_ACTIVE | newest version named, key ACTIVE |
//! | give up a pending tenant | row deleted | keys removed |
//! | purge | tombstone: PURGING, epoch + 1 | guard closed, providers told (best effort), keys destroyed, grants deleted, both logs truncated, PURGED |

use std::sync::Arc;
use std::time::Duration;

use crate::audit::AuditLog;
use crate::authz::Permit;
use crate::authz::permit::{
    CreateTenant, DescribeTenantKeys, ListTenants, PurgeTenantNow, RestoreTenant, RotateTenantKey,
    ScheduleTenantPurge,
};
use crate::clock::SharedClock;
use crate::domain::failure::Failure;
use crate::domain::id::TenantId;
use crate::domain::key::{KeyVersion, KeyVersionInfo};
use crate::domain::reason::Reason;
use crate::domain::tenant::{Tenant, TenantState};
use crate::keyring::Keyring;
use crate::keyring::versions::advance;
use crate::redeem::Redeemer;
use crate::redeem::guard::in_service;
use crate::store::{Refusable, Store, TenantRefused};

mod fit;
mod pending;
pub mod purge;

pub use purge::Purged;

use pending::{Enrolments, Maker};

/// Longest window of a scheduled purge.
pub const LONGEST_WINDOW: Duration = Duration::from_secs(30 * 86_400);

/// The service.
#[derive(Clone)]
pub struct TenantService {
    redeemer: Arc<Redeemer>,
    store: Arc<dyn Store>,
    keyring: Arc<Keyring>,
    audit: Arc<AuditLog>,
    clock: SharedClock,
    purge_protection: Option<Duration>,
    /// One purge at a time: an operator's and the watch's must not meet.
    purging: Arc<tokio::sync::Mutex<()>>,
    enrolments: Arc<Enrolments>,
}

impl std::fmt::Debug for TenantService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TenantService").finish_non_exhaustive()
    }
}

/// A key version with its usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageLine {
    /// The version.
    pub info: KeyVersionInfo,
    /// Sealed values that name it now.
    pub sealed_values: u64,
}

/// A tenant and how many grants it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The tenant.
    pub tenant: Tenant,
    /// Its grants.
    pub grants: u64,
}

impl TenantService {
    /// The service over its parts; `purge_protection` is the least window in which
    /// a purge can be taken back, where purges are protected.
    #[must_use]
    pub fn new(
        redeemer: Arc<Redeemer>,
        store: Arc<dyn Store>,
        keyring: Arc<Keyring>,
        audit: Arc<AuditLog>,
        clock: SharedClock,
        purge_protection: Option<Duration>,
    ) -> Self {
        let (purging, enrolments) = (Arc::default(), Arc::default());
        Self { redeemer, store, keyring, audit, clock, purge_protection, purging, enrolments }
    }

    /// Makes the tenant of the permit and its first key version.
    ///
    /// # Errors
    ///
    /// It exists or was purged, its name differs from another's in case only, or
    /// a store cannot be written.
    pub async fn create(&self, permit: &Permit<CreateTenant>) -> Result<Counted, Failure> {
        let tenant = self.make(permit.tenant(), Maker::Operator).await?;
        self.counted(tenant).await
    }

    /// A page of tenants, and where the next begins.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub async fn list(
        &self,
        _permit: &Permit<ListTenants>,
        after: Option<&TenantId>,
        limit: u32,
    ) -> Result<(Vec<Counted>, Option<TenantId>), Failure> {
        let mut page = self.store.tenants(after, limit.saturating_add(1)).await?;
        let size = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = page.len() > size;
        page.truncate(size);
        let next = if more { page.last().map(|tenant| tenant.id.clone()) } else { None };
        let mut counted = Vec::with_capacity(page.len());
        for tenant in page {
            counted.push(self.counted(tenant).await?);
        }
        Ok((counted, next))
    }

    /// Makes a new key version, the newest from then on.
    ///
    /// # Errors
    ///
    /// No such tenant, out of service, or a store cannot be written.
    pub async fn rotate_key(&self, permit: &Permit<RotateTenantKey>) -> Result<KeyVersionInfo, Failure> {
        let id = permit.tenant();
        let tenant = in_service(Some(self.known(id).await?))?;
        let from = tenant.sealing_version().unwrap_or(KeyVersion::FIRST);
        let info = advance(&*self.store, &self.keyring, id, from, self.clock.now()).await?;
        // One that had no key to seal with has one now.
        self.redeemer.guards().set_without_keys(id, None).await;
        Ok(info)
    }

    /// The tenant's key versions with their usage.
    ///
    /// # Errors
    ///
    /// No such tenant, or a store cannot be read.
    pub async fn describe_keys(
        &self,
        permit: &Permit<DescribeTenantKeys>,
    ) -> Result<(Counted, Vec<UsageLine>), Failure> {
        let id = permit.tenant();
        let tenant = self.known(id).await?;
        let usage = self.store.usage(id).await?;
        let versions = self.keyring.versions(id).await?;
        let lines = versions
            .into_iter()
            .map(|info| {
                let sealed_values = usage.iter().find(|(v, _)| *v == info.version).map_or(0, |(_, n)| *n);
                UsageLine { info, sealed_values }
            })
            .collect();
        Ok((self.counted(tenant).await?, lines))
    }

    /// Takes the tenant out of service at once; purges it when the window ends.
    ///
    /// # Errors
    ///
    /// No such tenant, already purged, a window outside 0 to 30 days, or shorter
    /// than the protection asks for.
    pub async fn schedule_purge(
        &self,
        permit: &Permit<ScheduleTenantPurge>,
        window: Duration,
    ) -> Result<Counted, Failure> {
        if window > LONGEST_WINDOW {
            return Err(Failure::new(Reason::WindowInvalid, "the window is longer than 30 days"));
        }
        // A window that nobody can use is a purge of now.
        if let Some(least) = self.purge_protection.filter(|least| window < *least) {
            let (asked, least) = (window.as_secs(), least.as_secs());
            let detail = format!("a window of {asked} s is shorter than the least one, {least} s");
            return Err(Failure::new(Reason::PurgeProtected, detail));
        }
        let id = permit.tenant();
        let changed = self.store.schedule_purge(id, self.clock.now().plus(window)).await;
        if may_have_happened(&changed) {
            self.put_out_of_service(id).await;
        }
        let tenant = changed?.map_err(refused)?;
        self.counted(tenant).await
    }

    /// Takes a scheduled purge back.
    ///
    /// # Errors
    ///
    /// No such tenant, nothing scheduled, or already purged.
    pub async fn restore(&self, permit: &Permit<RestoreTenant>) -> Result<Counted, Failure> {
        let id = permit.tenant();
        let epoch = self.known(id).await?.epoch;
        let restored = self.store.restore_tenant(id, epoch).await;
        if may_have_happened(&restored) {
            self.redeemer.guards().close(id).await;
        }
        let tenant = match restored? {
            Ok(tenant) => self.in_service_again(tenant).await?,
            Err(TenantRefused::NotFound | TenantRefused::Exists | TenantRefused::NameTaken) => {
                return Err(refused(TenantRefused::NotFound));
            }
            Err(TenantRefused::WrongState) => {
                return Err(match self.known(id).await?.state {
                    TenantState::Pending { .. } | TenantState::Active { .. } => {
                        Failure::new(Reason::PurgeNotScheduled, "there is no scheduled purge")
                    }
                    TenantState::PurgeScheduled { .. } => {
                        Failure::new(Reason::StoreUnavailable, "the tenant changed meanwhile")
                            .retry_after(Duration::from_secs(1))
                    }
                    TenantState::Purging | TenantState::Purged { .. } => refused(TenantRefused::WrongState),
                });
            }
        };
        self.counted(tenant).await
    }

    /// Destroys the tenant's keys and deletes its sealed tokens, now.
    ///
    /// # Errors
    ///
    /// No such tenant, a wrong confirmation, protection, or a file that could
    /// not be cleaned yet (the purge is finished by itself then).
    pub async fn purge_now(&self, permit: &Permit<PurgeTenantNow>, confirm: &str) -> Result<Purged, Failure> {
        let id = permit.tenant();
        if confirm != id.as_str() {
            return Err(Failure::new(
                Reason::ConfirmationMismatch,
                "the confirmation is not the tenant's name",
            ));
        }
        let tenant = self.known(id).await?;
        if self.purge_protection.is_some()
            && !matches!(tenant.state, TenantState::Purging | TenantState::Purged { .. })
        {
            return Err(Failure::new(Reason::PurgeProtected, "the configuration forbids an immediate purge"));
        }
        self.purge(id, None).await
    }

    /// Closes the guard, waits for those who are passing, frees the memory.
    async fn put_out_of_service(&self, id: &TenantId) {
        self.redeemer.guards().close(id).await;
        self.redeemer.cache().forget_tenant(id);
        self.keyring.forget(id);
    }

    /// A restore of a database may have come between: the keys are looked at now.
    async fn in_service_again(&self, tenant: Tenant) -> Result<Tenant, Failure> {
        let versions = self.keyring.versions(&tenant.id).await?;
        if let Err(error) = self.ready(&tenant, &versions).await {
            let why = format!("its keys do not fit its grants: {}", Failure::from(error).detail());
            tracing::error!(tenant.id = %tenant.id, detail = why, "a tenant stays out of service");
            self.redeemer.guards().set_without_keys(&tenant.id, Some(why)).await;
        }
        self.known(&tenant.id).await
    }

    async fn known(&self, id: &TenantId) -> Result<Tenant, Failure> {
        let found = self.store.tenant(id).await?.filter(|tenant| !tenant.is_pending());
        found.ok_or_else(|| refused(TenantRefused::NotFound))
    }

    async fn counted(&self, tenant: Tenant) -> Result<Counted, Failure> {
        let grants = self.store.grant_count(&tenant.id).await?;
        Ok(Counted { tenant, grants })
    }
}

/// Whether a change is in the store, or nobody but the store knows: an answer
/// that was lost proves nothing. A tenant that was put out of service for
/// nothing is back with the next call.
fn may_have_happened<T, R>(outcome: &Refusable<T, R>) -> bool {
    !matches!(outcome, Ok(Err(_)))
}

fn refused(refused: TenantRefused) -> Failure {
    match refused {
        TenantRefused::NotFound => Failure::new(Reason::TenantNotFound, "no such tenant"),
        TenantRefused::Exists => Failure::new(Reason::TenantExists, "a tenant of that name exists"),
        TenantRefused::NameTaken => {
            Failure::new(Reason::TenantNameTaken, "another tenant's name differs in case only")
        }
        TenantRefused::WrongState => Failure::new(Reason::TenantPurged, "the tenant was purged"),
    }
}
