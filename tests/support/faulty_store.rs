//! Stores in which things go wrong on demand: between the vault and its
//! database, so that everything above sees what a network or a full disk does.
//!
//! A fault waits for the n-th call of one operation, or for the n-th write of
//! any kind. To follow a change of a trait, change its list below.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use obo_vault::app::Stores;
use obo_vault::clock::Timestamp;
use obo_vault::domain::grant::{AttemptId, Grant, GrantId, GrantKey};
use obo_vault::domain::id::{ClientId, TenantId};
use obo_vault::domain::key::{KeyId, KeyVersion};
use obo_vault::domain::rotation::Run;
use obo_vault::domain::tenant::Tenant;
use obo_vault::seal::Sealed;
use obo_vault::store::{
    Advance, AdvanceRefused, AnswerOf, Claim, ClaimRefused, DueCursor, Enrolment, EnrolmentCommit,
    EnrolmentRefused, EnrolmentStage, GrantCursor, ImportMark, KeyRecord, KeyStanding, KeyStore, Mark,
    OpenAttempt, OpenEnrolment, Refusable, Reseal, SealedGrant, Settled, Standing, Store, StoreError,
    TenantRefused,
};
use tokio::sync::watch;
use uuid::Uuid;

/// What goes wrong with one call.
#[derive(Debug, Clone)]
pub(crate) enum StoreFault {
    /// It fails and nothing has happened.
    Fail,
    /// It has happened, and its caller is told that it failed.
    LoseAnswer,
    /// It happens when the hold is released.
    Hold(Hold),
}

/// Keeps calls waiting, and tells when one has come.
#[derive(Debug, Clone)]
pub(crate) struct Hold {
    arrived: watch::Sender<usize>,
    released: watch::Sender<bool>,
}

impl Hold {
    pub(crate) fn new() -> Self {
        Self { arrived: watch::Sender::new(0), released: watch::Sender::new(false) }
    }

    /// Returns once `count` calls have come.
    pub(crate) async fn reached(&self, count: usize) {
        self.arrived.subscribe().wait_for(|arrived| *arrived >= count).await.unwrap();
    }

    /// Lets every call go on, now and later.
    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }

    async fn wait(&self) {
        let mut released = self.released.subscribe();
        self.arrived.send_modify(|arrived| *arrived += 1);
        released.wait_for(|released| *released).await.unwrap();
    }
}

/// The faults of a vault's stores; clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<Plan>>);

#[derive(Debug, Default)]
struct Plan {
    waiting: Vec<Waiting>,
}

/// A fault and how many calls it lets pass.
#[derive(Debug)]
struct Waiting {
    /// `None`: any write.
    operation: Option<&'static str>,
    passes: usize,
    fault: StoreFault,
}

impl Faults {
    /// The `nth` call of the operation from now on, 1 for the next.
    pub(crate) fn on(&self, operation: &'static str, nth: usize, fault: StoreFault) {
        assert!(OPERATIONS.contains(&operation), "there is no operation {operation}");
        self.add(Some(operation), nth, fault);
    }

    /// The `nth` write of any kind from now on.
    pub(crate) fn on_write(&self, nth: usize, fault: StoreFault) {
        self.add(None, nth, fault);
    }

    /// A fault that was never met shows nothing.
    pub(crate) fn assert_met(&self) {
        let plan = self.0.lock().unwrap();
        assert!(plan.waiting.is_empty(), "never met: {:?}", plan.waiting);
    }

    /// The stores, with these faults before them.
    pub(crate) fn before(&self, stores: Stores) -> Stores {
        let Stores { tokens, keys } = stores;
        Stores {
            tokens: Arc::new(Faulty { inner: tokens, faults: self.clone() }),
            keys: Arc::new(Faulty { inner: keys, faults: self.clone() }),
        }
    }

    fn add(&self, operation: Option<&'static str>, nth: usize, fault: StoreFault) {
        self.0.lock().unwrap().waiting.push(Waiting {
            operation,
            passes: nth.checked_sub(1).unwrap(),
            fault,
        });
    }

    fn met(&self, operation: &'static str, writes: bool) -> Option<StoreFault> {
        let mut plan = self.0.lock().unwrap();
        let mut due = None;
        for (at, waiting) in plan.waiting.iter_mut().enumerate() {
            let meant = waiting.operation.map_or(writes, |named| named == operation);
            match waiting.passes.checked_sub(1) {
                _ if !meant => {}
                Some(passes) => waiting.passes = passes,
                None => due = due.or(Some(at)),
            }
        }
        due.map(|at| plan.waiting.remove(at).fault)
    }
}

struct Faulty<S: ?Sized> {
    inner: Arc<S>,
    faults: Faults,
}

impl<S: ?Sized> Faulty<S> {
    async fn call<T>(
        &self,
        operation: &'static str,
        writes: bool,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let failed = |detail: &str| StoreError { operation, detail: detail.to_owned() };
        match self.faults.met(operation, writes) {
            None => call.await,
            Some(StoreFault::Fail) => Err(failed("fails for the test")),
            Some(StoreFault::LoseAnswer) => {
                call.await?;
                Err(failed("its answer is lost for the test"))
            }
            Some(StoreFault::Hold(hold)) => {
                hold.wait().await;
                call.await
            }
        }
    }
}

macro_rules! writes {
    (write) => {
        true
    };
    (read) => {
        false
    };
}

/// The traits, operation by operation, each a `read` or a `write`.
macro_rules! delegate {
    ($( $store:ident { $( $kind:ident $name:ident ( $( $arg:ident : $type:ty ),* ) -> $out:ty; )* } )*) => {
        const OPERATIONS: &[&str] = &[ $( $( stringify!($name), )* )* ];
        $(
            #[async_trait]
            impl $store for Faulty<dyn $store> {
                $(
                    async fn $name(&self $(, $arg: $type)*) -> $out {
                        self.call(stringify!($name), writes!($kind), self.inner.$name($($arg),*)).await
                    }
                )*
            }
        )*
    };
}

delegate! {
    Store {
        write create_tenant(id: &TenantId, version: KeyVersion, at: Timestamp) -> Refusable<Tenant, TenantRefused>;
        write create_pending_tenant(id: &TenantId, version: KeyVersion, at: Timestamp)
            -> Refusable<Tenant, TenantRefused>;
        read abandoned_tenants() -> Result<Vec<TenantId>, StoreError>;
        write drop_pending_tenant(id: &TenantId) -> Result<bool, StoreError>;
        read tenant(id: &TenantId) -> Result<Option<Tenant>, StoreError>;
        read tenants(after: Option<&TenantId>, limit: u32) -> Result<Vec<Tenant>, StoreError>;
        read grant_count(id: &TenantId) -> Result<u64, StoreError>;
        write advance_version(id: &TenantId, from: KeyVersion, to: KeyVersion, at: Timestamp)
            -> Refusable<Tenant, TenantRefused>;
        write schedule_purge(id: &TenantId, purge_at: Timestamp) -> Refusable<Tenant, TenantRefused>;
        write restore_tenant(id: &TenantId, epoch: u64) -> Refusable<Tenant, TenantRefused>;
        write tombstone(id: &TenantId, due_by: Option<Timestamp>) -> Refusable<Tenant, TenantRefused>;
        write delete_tenant_grants(id: &TenantId) -> Result<u64, StoreError>;
        write finish_purge(id: &TenantId, erased_at: Timestamp) -> Refusable<Tenant, TenantRefused>;
        read purges_due(now: Timestamp) -> Result<Vec<Tenant>, StoreError>;
        read usage(id: &TenantId) -> Result<Vec<(KeyVersion, u64)>, StoreError>;
        read grant(key: &GrantKey) -> Result<Option<Grant>, StoreError>;
        read sealed_grant(key: &GrantKey) -> Result<Option<SealedGrant>, StoreError>;
        read grants(tenant: &TenantId, client: Option<&ClientId>, after: Option<&GrantCursor>, limit: u32)
            -> Result<Vec<Grant>, StoreError>;
        read sealed_grants(tenant: &TenantId, after: Option<GrantId>, limit: u32)
            -> Result<Vec<SealedGrant>, StoreError>;
        write delete_grant(id: GrantId) -> Result<bool, StoreError>;
        write claim(claim: Claim) -> Refusable<SealedGrant, ClaimRefused>;
        write record_answer(of: AnswerOf, key_version: KeyVersion, answer: &Sealed) -> Result<bool, StoreError>;
        write advance(advance: Advance) -> Refusable<Settled, AdvanceRefused>;
        write begin_enrolment(enrolment: &Enrolment) -> Refusable<(), EnrolmentRefused>;
        write suspend_enrolment(id: AttemptId, stage: EnrolmentStage) -> Result<bool, StoreError>;
        write commit_enrolment(commit: EnrolmentCommit) -> Refusable<(Grant, bool), EnrolmentRefused>;
        write abandon_enrolment(id: AttemptId) -> Result<(), StoreError>;
        read open_import(tenant: &TenantId, client: &ClientId, mark: ImportMark)
            -> Result<Option<OpenEnrolment>, StoreError>;
        read imported_grant(tenant: &TenantId, client: &ClientId, mark: ImportMark)
            -> Result<Option<Grant>, StoreError>;
        read open_attempts() -> Result<Vec<OpenAttempt>, StoreError>;
        read open_enrolments() -> Result<Vec<OpenEnrolment>, StoreError>;
        read due_probes(now: Timestamp, orphaned_before: Timestamp, after: Option<DueCursor>, limit: u32)
            -> Result<Vec<Grant>, StoreError>;
        read due_refreshes(now: Option<Timestamp>, after: Option<DueCursor>, limit: u32)
            -> Result<Vec<Grant>, StoreError>;
        read count_due_refreshes(now: Option<Timestamp>) -> Result<u64, StoreError>;
        read stale_grants(
            tenant: &TenantId, newest: KeyVersion, after: Option<(KeyVersion, GrantId)>, limit: u32
        ) -> Result<Vec<SealedGrant>, StoreError>;
        read count_stale_grants(tenant: &TenantId, newest: KeyVersion) -> Result<u64, StoreError>;
        write reseal(tenant: &TenantId, batch: Vec<Reseal>) -> Result<u64, StoreError>;
        write postpone_refresh(grant: GrantId, next_refresh_at: Timestamp) -> Result<(), StoreError>;
        write save_run(run: &Run) -> Result<(), StoreError>;
        read newest_run() -> Result<Option<Run>, StoreError>;
        read run(id: Uuid) -> Result<Option<Run>, StoreError>;
        write deployment(candidate: Uuid) -> Result<Uuid, StoreError>;
        read standing() -> Result<Standing, StoreError>;
        // Now and then, so it would be the n-th write by chance.
        read advance_counter(beyond: u64) -> Result<u64, StoreError>;
        write erase_deleted() -> Result<bool, StoreError>;
        // Asked every second, so it would be the n-th write by chance.
        read check_writable() -> Result<(), StoreError>;
    }
    KeyStore {
        write insert(tenant: &TenantId, version: KeyVersion, key_id: KeyId, wrapped: &[u8], at: Timestamp)
            -> Result<bool, StoreError>;
        read keys(tenant: &TenantId) -> Result<Vec<KeyRecord>, StoreError>;
        read key(tenant: &TenantId, version: KeyVersion) -> Result<Option<KeyRecord>, StoreError>;
        write activate(tenant: &TenantId, version: KeyVersion) -> Result<(), StoreError>;
        write reserve_seals(tenant: &TenantId, version: KeyVersion, count: u64) -> Result<u64, StoreError>;
        write destroy(tenant: &TenantId, version: KeyVersion) -> Result<(), StoreError>;
        write destroy_tenant(tenant: &TenantId, at: Timestamp) -> Result<u32, StoreError>;
        write remove_unused(tenant: &TenantId) -> Result<(), StoreError>;
        read tombstones() -> Result<Vec<TenantId>, StoreError>;
        write note_unused(tenant: &TenantId, version: KeyVersion, since: Option<Timestamp>)
            -> Result<(), StoreError>;
        read standing() -> Result<KeyStanding, StoreError>;
        write adopt(vault: Uuid) -> Result<(), StoreError>;
        // Now and then, so it would be the n-th write by chance.
        read set_mark(mark: Mark) -> Result<(), StoreError>;
        write erase_deleted() -> Result<bool, StoreError>;
    }
}
