//! What the vault keeps, as whole atomic operations: each method is one
//! transaction that has happened entirely when it returns `Ok`.
//!
//! A store cannot decrypt (invariant 2): it is given sealed bytes and gives
//! them back. There are two, in separate files:
//!
//! - [`Store`]: tenants, grants, attempts, rotation runs. It knows key versions
//!   by number, never a key's bytes;
//! - [`KeyStore`]: wrapped tenant keys, kept out of the other's backups.
//!
//! `attempts` and `enrolments` are what it is told of those, and what it answers;
//! `standing` is what the two say of themselves.
//!
//! [`sqlite`] is the back-end of one node; every back-end passes the same
//! contract (`tests/store_contract.rs`).

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::domain::failure::Failure;
use crate::domain::grant::{AttemptId, Generation, Grant, GrantId, GrantKey};
use crate::domain::id::{ClientId, SubjectId, TenantId};
use crate::domain::key::{KeyId, KeyVersion, KeyVersionInfo};
use crate::domain::reason::Reason;
use crate::domain::rotation::Run;
use crate::domain::tenant::Tenant;
use crate::seal::Sealed;

mod attempts;
mod enrolments;
pub mod sqlite;
mod standing;

pub use attempts::{
    Advance, AdvanceRefused, AnswerOf, Claim, ClaimRefused, Dates, OpenAttempt, Renewed, Settled,
};
pub use enrolments::{
    Enrolment, EnrolmentCommit, EnrolmentKind, EnrolmentRefused, EnrolmentStage, ImportMark, OpenEnrolment,
};
pub use standing::{KeyStanding, Mark, Standing};

/// The store failed. Nothing of the operation has happened, except where its own
/// acknowledgement was lost. Every operation may be told again with the same
/// arguments: a repeat changes nothing more and returns what the first one did
/// (of counts of what was deleted, what is left to delete).
#[derive(Debug, Clone)]
pub struct StoreError {
    /// What was being done, for example "commit 2".
    pub operation: &'static str,
    /// Why it failed, for the log.
    pub detail: String,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store: {}: {}", self.operation, self.detail)
    }
}

impl std::error::Error for StoreError {}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::because(Reason::StoreUnavailable, &error).retry_after(Duration::from_secs(1))
    }
}

/// The outcome of an operation that a rule of the data may refuse.
pub type Refusable<T, R> = Result<Result<T, R>, StoreError>;

/// A grant with its sealed refresh token.
#[derive(Debug, Clone)]
pub struct SealedGrant {
    /// The grant.
    pub grant: Grant,
    /// Its refresh token, sealed under `grant.key_version`.
    pub sealed: Sealed,
}

/// One value re-sealed.
#[derive(Debug, Clone)]
pub struct Reseal {
    /// The grant.
    pub grant: GrantId,
    /// The generation that was opened; nothing happens when it moved on.
    pub generation: Generation,
    /// The version that was opened; nothing happens when it moved on.
    pub from: KeyVersion,
    /// The version it is sealed under now.
    pub to: KeyVersion,
    /// The sealed token.
    pub sealed: Sealed,
}

/// Where a page of grants begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantCursor {
    /// The client of the last grant of the page before.
    pub client: ClientId,
    /// Its subject.
    pub subject: SubjectId,
}

/// Where a batch of due grants begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DueCursor {
    /// `next_refresh_at` of the last one, or when its attempt began.
    pub at: Timestamp,
    /// Its identifier.
    pub grant: GrantId,
}

/// Why a change of a tenant was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantRefused {
    /// No such tenant.
    NotFound,
    /// A tenant of that name exists.
    Exists,
    /// A tenant exists whose name differs in case only.
    NameTaken,
    /// Its state does not allow the change.
    WrongState,
}

/// Tenants, grants, attempts and rotation runs.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Makes a tenant whose newest version is `version`; one that is pending is
    /// in service from now on.
    async fn create_tenant(
        &self,
        id: &TenantId,
        version: KeyVersion,
        at: Timestamp,
    ) -> Refusable<Tenant, TenantRefused>;
    /// Makes a tenant for an enrolment: PENDING, until its first grant is
    /// committed.
    async fn create_pending_tenant(
        &self,
        id: &TenantId,
        version: KeyVersion,
        at: Timestamp,
    ) -> Refusable<Tenant, TenantRefused>;
    /// Tenants that are pending although no enrolment is under way.
    async fn abandoned_tenants(&self) -> Result<Vec<TenantId>, StoreError>;
    /// Forgets a tenant that is pending, unless an enrolment is under way. Its
    /// name may be used again. Returns whether it was there.
    async fn drop_pending_tenant(&self, id: &TenantId) -> Result<bool, StoreError>;
    /// Finds a tenant.
    async fn tenant(&self, id: &TenantId) -> Result<Option<Tenant>, StoreError>;
    /// Tenants after `after` that are not pending, in the order of their names.
    async fn tenants(&self, after: Option<&TenantId>, limit: u32) -> Result<Vec<Tenant>, StoreError>;
    /// Number of a tenant's grants.
    async fn grant_count(&self, id: &TenantId) -> Result<u64, StoreError>;
    /// Makes `to` the tenant's newest version, when it is `from` and the tenant
    /// is in service.
    async fn advance_version(
        &self,
        id: &TenantId,
        from: KeyVersion,
        to: KeyVersion,
        at: Timestamp,
    ) -> Refusable<Tenant, TenantRefused>;
    /// Takes the tenant out of service until it is restored or purged; its
    /// epoch grows.
    async fn schedule_purge(&self, id: &TenantId, purge_at: Timestamp) -> Refusable<Tenant, TenantRefused>;
    /// Takes back the purge that was scheduled in this epoch; the epoch grows.
    async fn restore_tenant(&self, id: &TenantId, epoch: u64) -> Refusable<Tenant, TenantRefused>;
    /// Sets the tombstone: PURGING, epoch + 1. With
    /// `due_by`, only where a purge is scheduled for then or earlier: one that
    /// was taken back or postponed meanwhile is left alone.
    async fn tombstone(&self, id: &TenantId, due_by: Option<Timestamp>) -> Refusable<Tenant, TenantRefused>;
    /// Deletes the grants, attempts and enrolments of a tenant that is PURGING;
    /// returns how many grants there were.
    async fn delete_tenant_grants(&self, id: &TenantId) -> Result<u64, StoreError>;
    /// Ends a purge: PURGED.
    async fn finish_purge(&self, id: &TenantId, erased_at: Timestamp) -> Refusable<Tenant, TenantRefused>;
    /// Tenants whose purge is due or was not finished.
    async fn purges_due(&self, now: Timestamp) -> Result<Vec<Tenant>, StoreError>;
    /// How many sealed values name each version of the tenant's key right now:
    /// refresh tokens and raw answers.
    async fn usage(&self, id: &TenantId) -> Result<Vec<(KeyVersion, u64)>, StoreError>;

    /// Finds a grant.
    async fn grant(&self, key: &GrantKey) -> Result<Option<Grant>, StoreError>;
    /// Finds a grant with its sealed token.
    async fn sealed_grant(&self, key: &GrantKey) -> Result<Option<SealedGrant>, StoreError>;
    /// A tenant's grants after `after`, by client and subject.
    async fn grants(
        &self,
        tenant: &TenantId,
        client: Option<&ClientId>,
        after: Option<&GrantCursor>,
        limit: u32,
    ) -> Result<Vec<Grant>, StoreError>;
    /// All grants of a tenant with their sealed tokens, by identifier, after
    /// `after`.
    async fn sealed_grants(
        &self,
        tenant: &TenantId,
        after: Option<GrantId>,
        limit: u32,
    ) -> Result<Vec<SealedGrant>, StoreError>;
    /// Deletes a grant with its attempt and the imports that are held of its user.
    /// `false`: it was not there.
    async fn delete_grant(&self, id: GrantId) -> Result<bool, StoreError>;

    /// Commit 1: the grant becomes SENDING and the intent is durable.
    async fn claim(&self, claim: Claim) -> Refusable<SealedGrant, ClaimRefused>;
    /// Makes a sealed raw answer durable (rule 5). `false`: the attempt is no
    /// longer there, or `key_version` is no longer the newest.
    async fn record_answer(
        &self,
        of: AnswerOf,
        key_version: KeyVersion,
        answer: &Sealed,
    ) -> Result<bool, StoreError>;
    /// Ends or suspends an attempt; with tokens it is commit 2. The attempt and
    /// its answer stay only while the grant is IN_DOUBT.
    async fn advance(&self, advance: Advance) -> Refusable<Settled, AdvanceRefused>;

    /// Makes the intent of an enrolment durable.
    async fn begin_enrolment(&self, enrolment: &Enrolment) -> Refusable<(), EnrolmentRefused>;
    /// Says where an enrolment is; `false`: it is no longer there. One that becomes
    /// HELD takes the place of what the same import left before, and is held no
    /// longer than that was.
    async fn suspend_enrolment(&self, id: AttemptId, stage: EnrolmentStage) -> Result<bool, StoreError>;
    /// Commit 2 of an enrolment: the grant is made or replaced, in any state it
    /// had, and what the same import left before is forgotten. Returns whether the
    /// grant was there.
    async fn commit_enrolment(&self, commit: EnrolmentCommit) -> Refusable<(Grant, bool), EnrolmentRefused>;
    /// Forgets an enrolment that led to nothing.
    async fn abandon_enrolment(&self, id: AttemptId) -> Result<(), StoreError>;
    /// The open enrolment of the same import, whichever subject it named.
    async fn open_import(
        &self,
        tenant: &TenantId,
        client: &ClientId,
        mark: ImportMark,
    ) -> Result<Option<OpenEnrolment>, StoreError>;
    /// The grant that the last import of this token made or replaced, whichever
    /// subject it named; consents given since do not change that.
    async fn imported_grant(
        &self,
        tenant: &TenantId,
        client: &ClientId,
        mark: ImportMark,
    ) -> Result<Option<Grant>, StoreError>;

    /// Attempts that are open; at start, those of a dead process.
    async fn open_attempts(&self) -> Result<Vec<OpenAttempt>, StoreError>;
    /// Enrolments that are open; at start, those of a dead process.
    async fn open_enrolments(&self) -> Result<Vec<OpenEnrolment>, StoreError>;
    /// Grants in doubt whose `probe_after` has come, and grants that have been
    /// SENDING since before `orphaned_before`, those that began first, after
    /// `after`.
    async fn due_probes(
        &self,
        now: Timestamp,
        orphaned_before: Timestamp,
        after: Option<DueCursor>,
        limit: u32,
    ) -> Result<Vec<Grant>, StoreError>;

    /// Active grants that are due for a refresh, by index; all active ones when
    /// `now` is `None`.
    async fn due_refreshes(
        &self,
        now: Option<Timestamp>,
        after: Option<DueCursor>,
        limit: u32,
    ) -> Result<Vec<Grant>, StoreError>;
    /// How many grants [`Store::due_refreshes`] would give in all.
    async fn count_due_refreshes(&self, now: Option<Timestamp>) -> Result<u64, StoreError>;
    /// A tenant's grants sealed under a version older than `newest`, by version
    /// and identifier, after `after`.
    async fn stale_grants(
        &self,
        tenant: &TenantId,
        newest: KeyVersion,
        after: Option<(KeyVersion, GrantId)>,
        limit: u32,
    ) -> Result<Vec<SealedGrant>, StoreError>;
    /// How many grants of the tenant are sealed under an older version.
    async fn count_stale_grants(&self, tenant: &TenantId, newest: KeyVersion) -> Result<u64, StoreError>;
    /// Puts re-sealed tokens in place; those that moved on are left alone.
    /// Returns how many were put.
    async fn reseal(&self, tenant: &TenantId, batch: Vec<Reseal>) -> Result<u64, StoreError>;
    /// Moves a grant's next refresh.
    async fn postpone_refresh(&self, grant: GrantId, next_refresh_at: Timestamp) -> Result<(), StoreError>;

    /// Saves a run of the rotation job.
    async fn save_run(&self, run: &Run) -> Result<(), StoreError>;
    /// The newest run.
    async fn newest_run(&self) -> Result<Option<Run>, StoreError>;
    /// A run by its identifier.
    async fn run(&self, id: Uuid) -> Result<Option<Run>, StoreError>;

    /// The random identity of this deployment: `candidate` when it had none.
    async fn deployment(&self, candidate: Uuid) -> Result<Uuid, StoreError>;
    /// Which vault the store belongs to, and how far it has come.
    async fn standing(&self) -> Result<Standing, StoreError>;
    /// Moves the store's counter on, beyond `beyond` and by one at least. Returns
    /// where it is now. The store must belong to a vault.
    async fn advance_counter(&self, beyond: u64) -> Result<u64, StoreError>;
    /// Overwrites what was deleted: TRUNCATE checkpoint until nothing holds the
    /// log. `false`: a reader held it until the limit, call again.
    async fn erase_deleted(&self) -> Result<bool, StoreError>;
    /// Whether the store can be written right now; for health.
    async fn check_writable(&self) -> Result<(), StoreError>;
}

/// A wrapped tenant key.
#[derive(Debug, Clone)]
pub struct KeyRecord {
    /// What is known besides its bytes.
    pub info: KeyVersionInfo,
    /// The key, wrapped by the root key; `None` once destroyed.
    pub wrapped: Option<Vec<u8>>,
}

/// Wrapped tenant keys, in a file of their own.
#[async_trait]
pub trait KeyStore: Send + Sync + 'static {
    /// Adds a version in PRE_ACTIVE. `false`: that version exists already.
    async fn insert(
        &self,
        tenant: &TenantId,
        version: KeyVersion,
        key_id: KeyId,
        wrapped: &[u8],
        at: Timestamp,
    ) -> Result<bool, StoreError>;
    /// All versions of a tenant, oldest first.
    async fn keys(&self, tenant: &TenantId) -> Result<Vec<KeyRecord>, StoreError>;
    /// One version.
    async fn key(&self, tenant: &TenantId, version: KeyVersion) -> Result<Option<KeyRecord>, StoreError>;
    /// Makes the version ACTIVE and the one that was DEACTIVATED. Repeatable.
    async fn activate(&self, tenant: &TenantId, version: KeyVersion) -> Result<(), StoreError>;
    /// Adds `count` to the seals reserved and returns the new total. The
    /// reservation is durable before any of its seals is made.
    async fn reserve_seals(
        &self,
        tenant: &TenantId,
        version: KeyVersion,
        count: u64,
    ) -> Result<u64, StoreError>;
    /// Overwrites and drops the wrapped key of one version: DESTROYED.
    async fn destroy(&self, tenant: &TenantId, version: KeyVersion) -> Result<(), StoreError>;
    /// Overwrites and drops every wrapped key of the tenant and sets its
    /// tombstone: no version can be added any more. Returns how many versions
    /// the tenant had over its lifetime.
    async fn destroy_tenant(&self, tenant: &TenantId, at: Timestamp) -> Result<u32, StoreError>;
    /// Overwrites and removes every wrapped key of a tenant that never had a
    /// grant. No tombstone is set: versions can be added again.
    async fn remove_unused(&self, tenant: &TenantId) -> Result<(), StoreError>;
    /// The tenants whose tombstone is set.
    async fn tombstones(&self) -> Result<Vec<TenantId>, StoreError>;
    /// Notes since when nothing names the version; `None`: something does.
    async fn note_unused(
        &self,
        tenant: &TenantId,
        version: KeyVersion,
        since: Option<Timestamp>,
    ) -> Result<(), StoreError>;
    /// Which vault the store belongs to, and its mark.
    async fn standing(&self) -> Result<KeyStanding, StoreError>;
    /// Makes it the store of this vault, whichever it was before. The mark of
    /// another vault is forgotten.
    async fn adopt(&self, vault: Uuid) -> Result<(), StoreError>;
    /// Puts the mark in place, unless the one that is there is further. The store
    /// must belong to a vault.
    async fn set_mark(&self, mark: Mark) -> Result<(), StoreError>;
    /// Overwrites what was deleted: TRUNCATE checkpoint until nothing holds the
    /// log. `false`: a reader held it until the limit, call again.
    async fn erase_deleted(&self) -> Result<bool, StoreError>;
}
