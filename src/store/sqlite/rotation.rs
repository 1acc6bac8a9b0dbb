//! What the rotation job reads and writes: due grants, stale seals, its runs.

use rusqlite::{OptionalExtension as _, Result, Row, named_params};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::domain::grant::{Grant, GrantId};
use crate::domain::id::TenantId;
use crate::domain::key::KeyVersion;
use crate::domain::rotation::{Counts, Phase, Run, RunOptions, Trigger};
use crate::store::{DueCursor, Reseal, SealedGrant};

use super::db::Connection;
use super::rows::{self, GRANT_COLUMNS, GRANT_TABLES};
use super::tenants;

pub(super) fn due_refreshes(
    c: &Connection,
    now: Option<Timestamp>,
    after: Option<DueCursor>,
    limit: u32,
) -> Result<Vec<Grant>> {
    let (at, grant) = after.map_or((i64::MIN, Uuid::nil()), |after| (after.at.0, after.grant.0));
    c.prepare_cached(&due_refreshes_sql())?
        .query_map((now.map_or(i64::MAX, |t| t.0), at, grant.as_bytes(), limit), rows::grant)?
        .collect()
}

pub(super) fn count_due_refreshes(c: &Connection, now: Option<Timestamp>) -> Result<u64> {
    c.prepare_cached(COUNT_DUE_REFRESHES)?.query_row([now.map_or(i64::MAX, |t| t.0)], |row| row.get(0))
}

pub(super) fn stale_grants(
    c: &Connection,
    tenant: &TenantId,
    newest: KeyVersion,
    after: Option<(KeyVersion, GrantId)>,
    limit: u32,
) -> Result<Vec<SealedGrant>> {
    let (version, grant) = after.map_or((0, Uuid::nil()), |(version, grant)| (version.0, grant.0));
    c.prepare_cached(&stale_grants_sql())?
        .query_map((tenant.as_str(), newest.0, version, grant.as_bytes(), limit), rows::sealed_grant)?
        .collect()
}

/// Asked once in a tenant's life, so that it may sort.
pub(super) fn sealed_grants(
    c: &Connection,
    tenant: &TenantId,
    after: Option<GrantId>,
    limit: u32,
) -> Result<Vec<SealedGrant>> {
    c.prepare_cached(&format!(
        "SELECT {GRANT_COLUMNS} FROM {GRANT_TABLES}
         WHERE g.tenant = ?1 AND (?2 IS NULL OR g.id > ?2) ORDER BY g.id LIMIT ?3"
    ))?
    .query_map((tenant.as_str(), after.map(|id| *id.0.as_bytes()), limit), rows::sealed_grant)?
    .collect()
}

pub(super) fn count_stale_grants(c: &Connection, tenant: &TenantId, newest: KeyVersion) -> Result<u64> {
    c.prepare_cached(COUNT_STALE_GRANTS)?.query_row((tenant.as_str(), newest.0), |row| row.get(0))
}

pub(super) fn reseal(c: &Connection, tenant: &TenantId, batch: &[Reseal]) -> Result<u64> {
    // Invariant 4: only the newest version seals, whatever the caller believes.
    let newest = tenants::find(c, tenant)?.and_then(|t| t.sealing_version());
    let mut put = 0;
    let mut statement = c.prepare_cached(
        "UPDATE grants SET sealed = :sealed, key_version = :to
         WHERE id = :id AND tenant = :tenant AND generation = :generation AND key_version = :from",
    )?;
    for reseal in batch.iter().filter(|r| Some(r.to) == newest) {
        put += statement.execute(named_params! {
            ":id": reseal.grant.0.as_bytes(),
            ":tenant": tenant.as_str(),
            ":generation": reseal.generation.0,
            ":from": reseal.from.0,
            ":to": reseal.to.0,
            ":sealed": reseal.sealed.as_bytes(),
        })?;
    }
    Ok(u64::try_from(put).unwrap_or(u64::MAX))
}

pub(super) fn postpone_refresh(c: &Connection, grant: GrantId, at: Timestamp) -> Result<()> {
    c.prepare_cached("UPDATE grants SET next_refresh_at = ?2 WHERE id = ?1")?
        .execute((grant.0.as_bytes(), at.0))
        .map(drop)
}

pub(super) fn save_run(c: &Connection, run: &Run) -> Result<()> {
    let Counts {
        versions_created,
        refresh_total,
        refreshed,
        refresh_failed,
        reseal_total,
        resealed,
        reseal_failed,
        versions_destroyed,
    } = run.counts;
    c.prepare_cached(
        "INSERT OR REPLACE INTO rotation_run VALUES (:id, :phase, :cause, :force, :all, :started, :ended,
            :created, :refresh_total, :refreshed, :refresh_failed, :reseal_total, :resealed, :reseal_failed,
            :destroyed)",
    )?
    .execute(named_params! {
        ":id": run.id.as_bytes(),
        ":phase": phase_word(run.phase),
        ":cause": run.trigger.as_str(),
        ":force": run.options.force_new_versions,
        ":all": run.options.refresh_all,
        ":started": run.started_at.0,
        ":ended": run.ended_at.map(|t| t.0),
        ":created": versions_created,
        ":refresh_total": refresh_total,
        ":refreshed": refreshed,
        ":refresh_failed": refresh_failed,
        ":reseal_total": reseal_total,
        ":resealed": resealed,
        ":reseal_failed": reseal_failed,
        ":destroyed": versions_destroyed,
    })
    .map(drop)
}

pub(super) fn newest_run(c: &Connection) -> Result<Option<Run>> {
    c.prepare_cached("SELECT * FROM rotation_run ORDER BY started_at DESC, rowid DESC LIMIT 1")?
        .query_row([], run)
        .optional()
}

pub(super) fn find_run(c: &Connection, id: Uuid) -> Result<Option<Run>> {
    c.prepare_cached("SELECT * FROM rotation_run WHERE id = ?1")?.query_row([id.as_bytes()], run).optional()
}

pub(super) fn deployment(c: &Connection, candidate: Uuid) -> Result<Uuid> {
    c.prepare_cached("INSERT INTO deployment (only, id) VALUES (1, ?1) ON CONFLICT DO NOTHING")?
        .execute([candidate.as_bytes()])?;
    c.prepare_cached("SELECT id FROM deployment")?.query_row([], |row| rows::uuid(row, "id"))
}

fn run(row: &Row<'_>) -> Result<Run> {
    let phase: String = row.get("phase")?;
    let trigger: String = row.get("cause")?;
    Ok(Run {
        id: rows::uuid(row, "id")?,
        phase: PHASES
            .into_iter()
            .find(|p| phase_word(*p) == phase)
            .ok_or_else(|| rows::broken("phase", "is unknown"))?,
        trigger: [Trigger::Schedule, Trigger::CatchUp, Trigger::Resume, Trigger::Request]
            .into_iter()
            .find(|t| t.as_str() == trigger)
            .ok_or_else(|| rows::broken("cause", "is unknown"))?,
        options: RunOptions {
            force_new_versions: row.get("force_new_versions")?,
            refresh_all: row.get("refresh_all")?,
        },
        started_at: rows::time(row, "started_at")?,
        ended_at: rows::optional_time(row, "ended_at")?,
        counts: Counts {
            versions_created: row.get("versions_created")?,
            refresh_total: row.get("refresh_total")?,
            refreshed: row.get("refreshed")?,
            refresh_failed: row.get("refresh_failed")?,
            reseal_total: row.get("reseal_total")?,
            resealed: row.get("resealed")?,
            reseal_failed: row.get("reseal_failed")?,
            versions_destroyed: row.get("versions_destroyed")?,
        },
    })
}

pub(super) const COUNT_DUE_REFRESHES: &str = "SELECT count(*) FROM grants g JOIN tenant t ON t.id = g.tenant
     WHERE g.status = 'ACTIVE' AND t.state = 'ACTIVE' AND g.next_refresh_at <= ?1";

pub(super) const COUNT_STALE_GRANTS: &str =
    "SELECT count(*) FROM grants WHERE tenant = ?1 AND key_version < ?2";

pub(super) fn due_refreshes_sql() -> String {
    format!(
        "SELECT {GRANT_COLUMNS} FROM {GRANT_TABLES} JOIN tenant t ON t.id = g.tenant
         WHERE g.status = 'ACTIVE' AND t.state = 'ACTIVE' AND g.next_refresh_at <= ?1
           AND (g.next_refresh_at, g.id) > (?2, ?3)
         ORDER BY g.next_refresh_at, g.id LIMIT ?4"
    )
}

pub(super) fn stale_grants_sql() -> String {
    format!(
        "SELECT {GRANT_COLUMNS} FROM {GRANT_TABLES}
         WHERE g.tenant = ?1 AND g.key_version < ?2 AND (g.key_version, g.id) > (?3, ?4)
         ORDER BY g.key_version, g.id LIMIT ?5"
    )
}

const PHASES: [Phase; 5] = [Phase::NewVersions, Phase::Refresh, Phase::Reseal, Phase::Retire, Phase::Done];

fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::NewVersions => "NEW_VERSIONS",
        Phase::Refresh => "REFRESH",
        Phase::Reseal => "RESEAL",
        Phase::Retire => "RETIRE",
        Phase::Done => "DONE",
    }
}
