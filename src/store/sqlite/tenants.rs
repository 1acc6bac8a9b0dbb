//! Tenants and the usage of their keys.

use rusqlite::{OptionalExtension as _, Result, named_params};

use crate::clock::Timestamp;
use crate::domain::id::TenantId;
use crate::domain::key::KeyVersion;
use crate::domain::tenant::{Tenant, TenantState};
use crate::store::{Standing, TenantRefused};

use super::db::Connection;
use super::rows::{self, TENANT_COLUMNS};

type Change = Result<std::result::Result<Tenant, TenantRefused>>;

pub(super) fn create(c: &Connection, id: &TenantId, version: KeyVersion, at: Timestamp) -> Change {
    if find(c, id)?.is_some_and(|tenant| tenant.is_pending()) {
        confirm(c, id)?;
        return changed(c, id);
    }
    insert(c, id, version, at, false)
}

pub(super) fn create_pending(c: &Connection, id: &TenantId, version: KeyVersion, at: Timestamp) -> Change {
    insert(c, id, version, at, true)
}

fn insert(c: &Connection, id: &TenantId, version: KeyVersion, at: Timestamp, pending: bool) -> Change {
    if let Some(known) = find(c, id)? {
        // The same making told again: its acknowledgement was lost.
        let made = known.created_at == at && known.epoch == 1 && known.sealing_version() == Some(version);
        return Ok(if made { Ok(known) } else { Err(TenantRefused::Exists) });
    }
    if c.prepare_cached(NAME_TAKEN)?.exists([id.as_str()])? {
        return Ok(Err(TenantRefused::NameTaken));
    }
    c.prepare_cached(
        "INSERT INTO tenant (id, state, epoch, active_version, created_at, rotated_at, pending)
         VALUES (:id, 'ACTIVE', 1, :version, :at, :at, :pending)",
    )?
    .execute(named_params! { ":id": id.as_str(), ":version": version.0, ":at": at.0, ":pending": pending })?;
    changed(c, id)
}

/// A name that differs from others in case only would be taken for one of them.
/// The characters of a tenant's name are ASCII.
pub(super) const NAME_TAKEN: &str = "SELECT 1 FROM tenant WHERE id = ?1 COLLATE NOCASE";

/// The tenant has its first grant, or an operator wants it: no longer pending.
pub(super) fn confirm(c: &Connection, id: &TenantId) -> Result<()> {
    c.prepare_cached("UPDATE tenant SET pending = 0 WHERE id = ?1 AND pending = 1")?
        .execute([id.as_str()])
        .map(drop)
}

const ABANDONED: &str = "
    SELECT id FROM tenant t WHERE pending = 1
        AND NOT EXISTS (SELECT 1 FROM enrolment i WHERE i.tenant = t.id)
        AND NOT EXISTS (SELECT 1 FROM grants g WHERE g.tenant = t.id)";

pub(super) fn abandoned(c: &Connection) -> Result<Vec<TenantId>> {
    c.prepare_cached(ABANDONED)?.query_map([], |row| rows::name(row, "id", TenantId::new))?.collect()
}

pub(super) fn drop_pending(c: &Connection, id: &TenantId) -> Result<bool> {
    let sql = format!("DELETE FROM tenant WHERE id = ?1 AND id IN ({ABANDONED})");
    Ok(c.prepare_cached(&sql)?.execute([id.as_str()])? == 1)
}

pub(super) fn find(c: &Connection, id: &TenantId) -> Result<Option<Tenant>> {
    c.prepare_cached(&format!("SELECT {TENANT_COLUMNS} FROM tenant WHERE id = ?1"))?
        .query_row([id.as_str()], rows::tenant)
        .optional()
}

pub(super) fn list(c: &Connection, after: Option<&TenantId>, limit: u32) -> Result<Vec<Tenant>> {
    c.prepare_cached(&format!(
        "SELECT {TENANT_COLUMNS} FROM tenant WHERE id > ?1 AND pending = 0 ORDER BY id LIMIT ?2"
    ))?
    .query_map((after.map_or("", TenantId::as_str), limit), rows::tenant)?
    .collect()
}

pub(super) fn grant_count(c: &Connection, id: &TenantId) -> Result<u64> {
    c.prepare_cached("SELECT count(*) FROM grants WHERE tenant = ?1")?
        .query_row([id.as_str()], |row| row.get(0))
}

pub(super) fn advance_version(
    c: &Connection,
    id: &TenantId,
    from: KeyVersion,
    to: KeyVersion,
    at: Timestamp,
) -> Change {
    change(
        c,
        id,
        |tenant| match tenant.sealing_version() {
            Some(version) if version == from => Next::Write,
            Some(version) if version == to && tenant.rotated_at == at => Next::Done,
            _ => Next::Refuse,
        },
        || {
            c.prepare_cached("UPDATE tenant SET active_version = ?2, rotated_at = ?3 WHERE id = ?1")?
                .execute((id.as_str(), to.0, at.0))
        },
    )
}

pub(super) fn schedule_purge(c: &Connection, id: &TenantId, purge_at: Timestamp) -> Change {
    let next = |tenant: &Tenant| match tenant.state {
        TenantState::PurgeScheduled { purge_at: known, .. } if known == purge_at => Next::Done,
        TenantState::Active { .. } | TenantState::PurgeScheduled { .. } => Next::Write,
        TenantState::Pending { .. } | TenantState::Purging | TenantState::Purged { .. } => Next::Refuse,
    };
    change(c, id, next, || {
        c.prepare_cached(
            "UPDATE tenant SET state = 'PURGE_SCHEDULED', purge_at = ?2, epoch = epoch + 1 WHERE id = ?1",
        )?
        .execute((id.as_str(), purge_at.0))
    })
}

pub(super) fn restore(c: &Connection, id: &TenantId, epoch: u64) -> Change {
    change(
        c,
        id,
        |tenant| match tenant.state {
            TenantState::PurgeScheduled { .. } if tenant.epoch == epoch => Next::Write,
            TenantState::Active { .. } if tenant.epoch == epoch + 1 => Next::Done,
            _ => Next::Refuse,
        },
        || {
            c.prepare_cached(
                "UPDATE tenant SET state = 'ACTIVE', purge_at = NULL, epoch = epoch + 1 WHERE id = ?1",
            )?
            .execute([id.as_str()])
        },
    )
}

pub(super) fn tombstone(c: &Connection, id: &TenantId, due_by: Option<Timestamp>) -> Change {
    let next = |tenant: &Tenant| match (&tenant.state, due_by) {
        (TenantState::Purging, _) => Next::Done,
        (TenantState::Active { .. } | TenantState::PurgeScheduled { .. }, None) => Next::Write,
        (TenantState::PurgeScheduled { purge_at, .. }, Some(now)) if *purge_at <= now => Next::Write,
        _ => Next::Refuse,
    };
    change(c, id, next, || {
        c.prepare_cached(
            "UPDATE tenant SET state = 'PURGING', purge_at = NULL, epoch = epoch + 1 WHERE id = ?1",
        )?
        .execute([id.as_str()])
    })
}

pub(super) fn delete_grants(c: &Connection, id: &TenantId) -> Result<u64> {
    match find(c, id)? {
        Some(Tenant { state: TenantState::Purging, .. }) => {}
        Some(_) | None => return Ok(0),
    }
    c.prepare_cached("DELETE FROM enrolment WHERE tenant = ?1")?.execute([id.as_str()])?;
    // Attempts go with their grants.
    let deleted = c.prepare_cached("DELETE FROM grants WHERE tenant = ?1")?.execute([id.as_str()])?;
    Ok(u64::try_from(deleted).unwrap_or(u64::MAX))
}

pub(super) fn finish_purge(c: &Connection, id: &TenantId, erased_at: Timestamp) -> Change {
    change(
        c,
        id,
        |tenant| match tenant.state {
            TenantState::Purging => Next::Write,
            TenantState::Purged { erased_at: known } if known == erased_at => Next::Done,
            _ => Next::Refuse,
        },
        || {
            c.prepare_cached(
                "UPDATE tenant SET state = 'PURGED', active_version = 0, erased_at = ?2 WHERE id = ?1",
            )?
            .execute((id.as_str(), erased_at.0))
        },
    )
}

pub(super) fn purges_due(c: &Connection, now: Timestamp) -> Result<Vec<Tenant>> {
    c.prepare_cached(&purges_due_sql())?.query_map([now.0], rows::tenant)?.collect()
}

/// The first condition is word for word that of the index.
pub(super) fn purges_due_sql() -> String {
    format!(
        "SELECT {TENANT_COLUMNS} FROM tenant
         WHERE state IN ('PURGE_SCHEDULED', 'PURGING') AND (state = 'PURGING' OR purge_at <= ?1)"
    )
}

pub(super) fn usage(c: &Connection, id: &TenantId) -> Result<Vec<(KeyVersion, u64)>> {
    c.prepare_cached(
        "SELECT version, sum(n) FROM (
            SELECT key_version AS version, count(*) AS n FROM grants WHERE tenant = ?1 GROUP BY key_version
            UNION ALL
            SELECT a.answer_version, count(*) FROM attempt a JOIN grants g ON g.id = a.grant_id
                WHERE g.tenant = ?1 AND a.answer_version IS NOT NULL GROUP BY a.answer_version
            UNION ALL
            SELECT answer_version, count(*) FROM enrolment
                WHERE tenant = ?1 AND answer_version IS NOT NULL GROUP BY answer_version
         ) GROUP BY version ORDER BY version",
    )?
    .query_map([id.as_str()], |row| Ok((KeyVersion(row.get(0)?), row.get(1)?)))?
    .collect()
}

pub(super) fn standing(c: &Connection) -> Result<Standing> {
    let known = c
        .prepare_cached("SELECT id, counter FROM deployment")?
        .query_row([], |row| Ok((rows::uuid(row, "id")?, row.get("counter")?)))
        .optional()?;
    let is_empty = !c.prepare_cached("SELECT 1 FROM tenant")?.exists([])?;
    let (vault, counter) = known.map_or((None, 0), |(id, counter)| (Some(id), counter));
    Ok(Standing { vault, is_empty, counter })
}

pub(super) fn advance_counter(c: &Connection, beyond: u64) -> Result<u64> {
    c.prepare_cached("UPDATE deployment SET counter = max(counter, ?1) + 1 RETURNING counter")?
        .query_row([beyond], |row| row.get(0))
}

/// What a change of a tenant comes to.
enum Next {
    Write,
    /// It was made before, and its acknowledgement was lost.
    Done,
    Refuse,
}

fn change(
    c: &Connection,
    id: &TenantId,
    next: impl FnOnce(&Tenant) -> Next,
    write: impl FnOnce() -> Result<usize>,
) -> Change {
    match find(c, id)? {
        None | Some(Tenant { state: TenantState::Pending { .. }, .. }) => Ok(Err(TenantRefused::NotFound)),
        Some(tenant) => match next(&tenant) {
            Next::Refuse => Ok(Err(TenantRefused::WrongState)),
            Next::Done => Ok(Ok(tenant)),
            Next::Write => {
                write()?;
                changed(c, id)
            }
        },
    }
}

fn changed(c: &Connection, id: &TenantId) -> Change {
    find(c, id)?.ok_or(rusqlite::Error::QueryReturnedNoRows).map(Ok)
}
