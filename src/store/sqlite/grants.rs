//! Grants: finding, listing, deleting.

use rusqlite::{OptionalExtension as _, Result};

use crate::domain::grant::{Grant, GrantId, GrantKey};
use crate::domain::id::{ClientId, TenantId};
use crate::domain::key::KeyVersion;
use crate::domain::tenant::TenantState;
use crate::store::{GrantCursor, ImportMark, SealedGrant};

use super::db::Connection;
use super::enrolments;
use super::rows::{self, GRANT_COLUMNS, GRANT_TABLES};
use super::tenants;

pub(super) type Outcome<T, R> = Result<std::result::Result<T, R>>;

pub(super) fn find(c: &Connection, key: &GrantKey) -> Result<Option<Grant>> {
    Ok(find_sealed(c, key)?.map(|s| s.grant))
}

pub(super) fn find_sealed(c: &Connection, key: &GrantKey) -> Result<Option<SealedGrant>> {
    c.prepare_cached(&format!(
        "SELECT {GRANT_COLUMNS} FROM {GRANT_TABLES} WHERE g.tenant = ?1 AND g.client = ?2 AND g.subject = ?3"
    ))?
    .query_row((key.tenant.as_str(), key.client.as_str(), key.subject.as_str()), rows::sealed_grant)
    .optional()
}

pub(super) fn list(
    c: &Connection,
    tenant: &TenantId,
    client: Option<&ClientId>,
    after: Option<&GrantCursor>,
    limit: u32,
) -> Result<Vec<Grant>> {
    let (after_client, after_subject) =
        after.map_or(("", ""), |after| (after.client.as_str(), after.subject.as_str()));
    c.prepare_cached(&format!(
        "SELECT {GRANT_COLUMNS} FROM {GRANT_TABLES}
         WHERE g.tenant = ?1 AND (?2 IS NULL OR g.client = ?2) AND (g.client, g.subject) > (?3, ?4)
         ORDER BY g.client, g.subject LIMIT ?5"
    ))?
    .query_map(
        (tenant.as_str(), client.map(ClientId::as_str), after_client, after_subject, limit),
        rows::grant,
    )?
    .collect()
}

pub(super) fn list_sealed(
    c: &Connection,
    tenant: &TenantId,
    after: Option<GrantId>,
    limit: u32,
) -> Result<Vec<SealedGrant>> {
    let after = after.map_or_else(Vec::new, |id| id.0.as_bytes().to_vec());
    c.prepare_cached(&format!(
        "SELECT {GRANT_COLUMNS} FROM {GRANT_TABLES} WHERE g.tenant = ?1 AND g.id > ?2 ORDER BY g.id LIMIT ?3"
    ))?
    .query_map((tenant.as_str(), after, limit), rows::sealed_grant)?
    .collect()
}

/// With what is held of its user: whoever revokes means all of it.
pub(super) fn delete(c: &Connection, id: GrantId) -> Result<bool> {
    if let Some(SealedGrant { grant, .. }) = by_id(c, id)? {
        enrolments::forget_held(c, &grant.key)?;
    }
    Ok(c.prepare_cached("DELETE FROM grants WHERE id = ?1")?.execute([id.0.as_bytes()])? == 1)
}

pub(super) fn by_id(c: &Connection, id: GrantId) -> Result<Option<SealedGrant>> {
    c.prepare_cached(&format!("SELECT {GRANT_COLUMNS} FROM {GRANT_TABLES} WHERE g.id = ?1"))?
        .query_row([id.0.as_bytes()], rows::sealed_grant)
        .optional()
}

/// The grant that the import with this mark led to.
pub(super) fn imported(
    c: &Connection,
    tenant: &TenantId,
    client: &ClientId,
    mark: ImportMark,
) -> Result<Option<Grant>> {
    c.prepare_cached(&format!(
        "SELECT {GRANT_COLUMNS} FROM {GRANT_TABLES}
         WHERE g.imported = ?1 AND g.tenant = ?2 AND g.client = ?3 LIMIT 1"
    ))?
    .query_row((mark.0.as_slice(), tenant.as_str(), client.as_str()), rows::grant)
    .optional()
}

/// The tenant's newest key version; the commit's own check of invariants 4, I8
/// and I9. `None`: the tenant is gone.
pub(super) fn newest_version(c: &Connection, tenant: &TenantId) -> Result<Option<KeyVersion>> {
    Ok(match tenants::find(c, tenant)?.map(|t| t.state) {
        Some(
            TenantState::Pending { active_version }
            | TenantState::Active { active_version }
            | TenantState::PurgeScheduled { active_version, .. },
        ) => Some(active_version),
        Some(TenantState::Purging | TenantState::Purged { .. }) | None => None,
    })
}
