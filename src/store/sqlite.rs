//! The back-end of one node: SQLite, two files.
//!
//! In reading order:
//!
//! - `db`: one writer thread that commits many operations at once, a few
//!   readers, the settings that make commits durable and deletions real;
//! - `files`: whether the files are still at their paths;
//! - `schema`: the tables and their migrations;
//! - `rows`: rows to domain types and back;
//! - `tenants`, `grants`, `attempts`, `enrolments`, `rotation`: the operations
//!   of [`Store`];
//! - `keys`: the key store.
//!
//! This is the only module that talks to SQLite.

use std::path::Path;

use async_trait::async_trait;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::domain::grant::{AttemptId, Grant, GrantId, GrantKey};
use crate::domain::id::{ClientId, TenantId};
use crate::domain::key::KeyVersion;
use crate::domain::rotation::Run;
use crate::domain::tenant::Tenant;
use crate::seal::Sealed;
use crate::store::{
    Advance, AdvanceRefused, AnswerOf, Claim, ClaimRefused, DueCursor, Enrolment, EnrolmentCommit,
    EnrolmentRefused, EnrolmentStage, GrantCursor, ImportMark, OpenAttempt, OpenEnrolment, Refusable, Reseal,
    SealedGrant, Settled, Standing, Store, StoreError, TenantRefused,
};

mod attempts;
mod db;
mod enrolments;
mod files;
mod grants;
mod keys;
mod rotation;
mod rows;
mod schema;
mod tenants;

pub use keys::SqliteKeyStore;

/// Tenants, grants, attempts and rotation runs in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    db: db::Db,
}

impl SqliteStore {
    /// Opens the file, makes it when it is not there (mode 0600), brings its
    /// tables up to date, and locks out other processes.
    ///
    /// # Errors
    ///
    /// The file cannot be opened or locked, is newer than this program, or the
    /// settings that make commits durable do not hold.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { db: db::Db::open(path, &schema::TOKENS, None)? })
    }

    /// The same, beside the keys that its tokens are sealed under: nothing is
    /// committed any more when a file of either store is not at its path.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_beside(path: &Path, keys: &SqliteKeyStore) -> Result<Self, StoreError> {
        Ok(Self { db: db::Db::open(path, &schema::TOKENS, Some(&keys.db))? })
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn create_tenant(
        &self,
        id: &TenantId,
        version: KeyVersion,
        at: Timestamp,
    ) -> Refusable<Tenant, TenantRefused> {
        let id = id.clone();
        self.db.write("create tenant", move |c| tenants::create(c, &id, version, at)).await
    }

    async fn create_pending_tenant(
        &self,
        id: &TenantId,
        version: KeyVersion,
        at: Timestamp,
    ) -> Refusable<Tenant, TenantRefused> {
        let id = id.clone();
        self.db.write("create pending tenant", move |c| tenants::create_pending(c, &id, version, at)).await
    }

    async fn abandoned_tenants(&self) -> Result<Vec<TenantId>, StoreError> {
        self.db.read("find abandoned tenants", tenants::abandoned).await
    }

    async fn drop_pending_tenant(&self, id: &TenantId) -> Result<bool, StoreError> {
        let id = id.clone();
        self.db.write("drop pending tenant", move |c| tenants::drop_pending(c, &id)).await
    }

    async fn tenant(&self, id: &TenantId) -> Result<Option<Tenant>, StoreError> {
        let id = id.clone();
        self.db.read("find tenant", move |c| tenants::find(c, &id)).await
    }

    async fn tenants(&self, after: Option<&TenantId>, limit: u32) -> Result<Vec<Tenant>, StoreError> {
        let after = after.cloned();
        self.db.read("list tenants", move |c| tenants::list(c, after.as_ref(), limit)).await
    }

    async fn grant_count(&self, id: &TenantId) -> Result<u64, StoreError> {
        let id = id.clone();
        self.db.read("count grants", move |c| tenants::grant_count(c, &id)).await
    }

    async fn advance_version(
        &self,
        id: &TenantId,
        from: KeyVersion,
        to: KeyVersion,
        at: Timestamp,
    ) -> Refusable<Tenant, TenantRefused> {
        let id = id.clone();
        self.db.write("advance key version", move |c| tenants::advance_version(c, &id, from, to, at)).await
    }

    async fn schedule_purge(&self, id: &TenantId, purge_at: Timestamp) -> Refusable<Tenant, TenantRefused> {
        let id = id.clone();
        self.db.write("schedule purge", move |c| tenants::schedule_purge(c, &id, purge_at)).await
    }

    async fn restore_tenant(&self, id: &TenantId, epoch: u64) -> Refusable<Tenant, TenantRefused> {
        let id = id.clone();
        self.db.write("restore tenant", move |c| tenants::restore(c, &id, epoch)).await
    }

    async fn tombstone(&self, id: &TenantId, due_by: Option<Timestamp>) -> Refusable<Tenant, TenantRefused> {
        let id = id.clone();
        self.db.write("set tombstone", move |c| tenants::tombstone(c, &id, due_by)).await
    }

    async fn delete_tenant_grants(&self, id: &TenantId) -> Result<u64, StoreError> {
        let id = id.clone();
        self.db.write("delete tenant's grants", move |c| tenants::delete_grants(c, &id)).await
    }

    async fn finish_purge(&self, id: &TenantId, erased_at: Timestamp) -> Refusable<Tenant, TenantRefused> {
        let id = id.clone();
        self.db.write("finish purge", move |c| tenants::finish_purge(c, &id, erased_at)).await
    }

    async fn purges_due(&self, now: Timestamp) -> Result<Vec<Tenant>, StoreError> {
        self.db.read("find due purges", move |c| tenants::purges_due(c, now)).await
    }

    async fn usage(&self, id: &TenantId) -> Result<Vec<(KeyVersion, u64)>, StoreError> {
        let id = id.clone();
        self.db.read("count key usage", move |c| tenants::usage(c, &id)).await
    }

    async fn grant(&self, key: &GrantKey) -> Result<Option<Grant>, StoreError> {
        let key = key.clone();
        self.db.read("find grant", move |c| grants::find(c, &key)).await
    }

    async fn sealed_grant(&self, key: &GrantKey) -> Result<Option<SealedGrant>, StoreError> {
        let key = key.clone();
        self.db.read("find sealed grant", move |c| grants::find_sealed(c, &key)).await
    }

    async fn grants(
        &self,
        tenant: &TenantId,
        client: Option<&ClientId>,
        after: Option<&GrantCursor>,
        limit: u32,
    ) -> Result<Vec<Grant>, StoreError> {
        let (tenant, client, after) = (tenant.clone(), client.cloned(), after.cloned());
        self.db
            .read("list grants", move |c| grants::list(c, &tenant, client.as_ref(), after.as_ref(), limit))
            .await
    }

    async fn sealed_grants(
        &self,
        tenant: &TenantId,
        after: Option<GrantId>,
        limit: u32,
    ) -> Result<Vec<SealedGrant>, StoreError> {
        let tenant = tenant.clone();
        self.db.read("list sealed grants", move |c| grants::list_sealed(c, &tenant, after, limit)).await
    }

    async fn delete_grant(&self, id: GrantId) -> Result<bool, StoreError> {
        self.db.write("delete grant", move |c| grants::delete(c, id)).await
    }

    async fn claim(&self, claim: Claim) -> Refusable<SealedGrant, ClaimRefused> {
        self.db.write("commit 1", move |c| attempts::claim(c, &claim)).await
    }

    async fn record_answer(
        &self,
        of: AnswerOf,
        key_version: KeyVersion,
        answer: &Sealed,
    ) -> Result<bool, StoreError> {
        let answer = answer.clone();
        self.db.write("record answer", move |c| attempts::record_answer(c, of, key_version, &answer)).await
    }

    async fn advance(&self, advance: Advance) -> Refusable<Settled, AdvanceRefused> {
        self.db.write("commit 2", move |c| attempts::advance(c, &advance)).await
    }

    async fn begin_enrolment(&self, enrolment: &Enrolment) -> Refusable<(), EnrolmentRefused> {
        let enrolment = enrolment.clone();
        self.db.write("begin enrolment", move |c| enrolments::begin(c, &enrolment)).await
    }

    async fn suspend_enrolment(&self, id: AttemptId, stage: EnrolmentStage) -> Result<bool, StoreError> {
        self.db.write("suspend enrolment", move |c| enrolments::suspend(c, id, stage)).await
    }

    async fn commit_enrolment(&self, commit: EnrolmentCommit) -> Refusable<(Grant, bool), EnrolmentRefused> {
        self.db.write("commit enrolment", move |c| enrolments::commit(c, &commit)).await
    }

    async fn abandon_enrolment(&self, id: AttemptId) -> Result<(), StoreError> {
        self.db.write("abandon enrolment", move |c| enrolments::abandon(c, id)).await
    }

    async fn open_import(
        &self,
        tenant: &TenantId,
        client: &ClientId,
        mark: ImportMark,
    ) -> Result<Option<OpenEnrolment>, StoreError> {
        let (tenant, client) = (tenant.clone(), client.clone());
        self.db.read("find open import", move |c| enrolments::find_import(c, &tenant, &client, mark)).await
    }

    async fn imported_grant(
        &self,
        tenant: &TenantId,
        client: &ClientId,
        mark: ImportMark,
    ) -> Result<Option<Grant>, StoreError> {
        let (tenant, client) = (tenant.clone(), client.clone());
        self.db.read("find imported grant", move |c| grants::imported(c, &tenant, &client, mark)).await
    }

    async fn open_attempts(&self) -> Result<Vec<OpenAttempt>, StoreError> {
        self.db.read("find open attempts", attempts::open).await
    }

    async fn open_enrolments(&self) -> Result<Vec<OpenEnrolment>, StoreError> {
        self.db.read("find open enrolments", enrolments::open).await
    }

    async fn due_probes(
        &self,
        now: Timestamp,
        orphaned_before: Timestamp,
        after: Option<DueCursor>,
        limit: u32,
    ) -> Result<Vec<Grant>, StoreError> {
        self.db
            .read("find due probes", move |c| attempts::due_probes(c, now, orphaned_before, after, limit))
            .await
    }

    async fn due_refreshes(
        &self,
        now: Option<Timestamp>,
        after: Option<DueCursor>,
        limit: u32,
    ) -> Result<Vec<Grant>, StoreError> {
        self.db.read("find due refreshes", move |c| rotation::due_refreshes(c, now, after, limit)).await
    }

    async fn count_due_refreshes(&self, now: Option<Timestamp>) -> Result<u64, StoreError> {
        self.db.read("count due refreshes", move |c| rotation::count_due_refreshes(c, now)).await
    }

    async fn stale_grants(
        &self,
        tenant: &TenantId,
        newest: KeyVersion,
        after: Option<(KeyVersion, GrantId)>,
        limit: u32,
    ) -> Result<Vec<SealedGrant>, StoreError> {
        let tenant = tenant.clone();
        self.db
            .read("find stale grants", move |c| rotation::stale_grants(c, &tenant, newest, after, limit))
            .await
    }

    async fn count_stale_grants(&self, tenant: &TenantId, newest: KeyVersion) -> Result<u64, StoreError> {
        let tenant = tenant.clone();
        self.db.read("count stale grants", move |c| rotation::count_stale_grants(c, &tenant, newest)).await
    }

    async fn reseal(&self, tenant: &TenantId, batch: Vec<Reseal>) -> Result<u64, StoreError> {
        let tenant = tenant.clone();
        self.db.write("put re-sealed tokens", move |c| rotation::reseal(c, &tenant, &batch)).await
    }

    async fn postpone_refresh(&self, grant: GrantId, next_refresh_at: Timestamp) -> Result<(), StoreError> {
        self.db
            .write("postpone refresh", move |c| rotation::postpone_refresh(c, grant, next_refresh_at))
            .await
    }

    async fn save_run(&self, run: &Run) -> Result<(), StoreError> {
        let run = run.clone();
        self.db.write("save rotation run", move |c| rotation::save_run(c, &run)).await
    }

    async fn newest_run(&self) -> Result<Option<Run>, StoreError> {
        self.db.read("find newest rotation run", rotation::newest_run).await
    }

    async fn run(&self, id: Uuid) -> Result<Option<Run>, StoreError> {
        self.db.read("find rotation run", move |c| rotation::find_run(c, id)).await
    }

    async fn deployment(&self, candidate: Uuid) -> Result<Uuid, StoreError> {
        self.db.write("find deployment", move |c| rotation::deployment(c, candidate)).await
    }

    async fn standing(&self) -> Result<Standing, StoreError> {
        self.db.read("read the vault's identity", tenants::standing).await
    }

    async fn advance_counter(&self, beyond: u64) -> Result<u64, StoreError> {
        self.db.write("advance the counter", move |c| tenants::advance_counter(c, beyond)).await
    }

    async fn erase_deleted(&self) -> Result<bool, StoreError> {
        self.db.truncate_log().await
    }

    async fn check_writable(&self) -> Result<(), StoreError> {
        self.db
            .write("check writable", |c| {
                c.execute("UPDATE health SET checked = checked + 1", [])?;
                Ok(())
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The job and the upkeep ask these every second or for every batch; over a
    /// million grants none may walk through all of them.
    #[tokio::test]
    async fn what_is_asked_again_and_again_uses_an_index() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&directory.path().join("vault.db")).unwrap();
        let queries = [
            (rotation::due_refreshes_sql(), "grants_due"),
            (rotation::COUNT_DUE_REFRESHES.to_owned(), "grants_due"),
            (rotation::stale_grants_sql(), "grants_version"),
            (rotation::COUNT_STALE_GRANTS.to_owned(), "grants_version"),
            (tenants::purges_due_sql(), "tenant_purges"),
            (tenants::NAME_TAKEN.to_owned(), "tenant_name"),
        ];
        for (sql, index) in queries {
            let explain = format!("EXPLAIN QUERY PLAN {sql}");
            let plan: Vec<String> = store
                .db
                .read("explain", move |c| {
                    let mut statement = c.prepare(&explain)?;
                    let parameters = vec![0; statement.parameter_count()];
                    let rows = statement
                        .query_map(rusqlite::params_from_iter(parameters), |row| row.get("detail"))?;
                    rows.collect()
                })
                .await
                .unwrap();
            let scans = plan.iter().any(|line| line.starts_with("SCAN"));
            let indexed = plan.iter().any(|line| line.starts_with("SEARCH") && line.contains(index));
            let sorts = plan.iter().any(|line| line.contains("TEMP B-TREE"));
            assert!(indexed && !scans && !sorts, "{sql}\n{plan:#?}");
        }
    }
}
