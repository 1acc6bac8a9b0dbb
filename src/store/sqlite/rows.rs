//! Rows to domain types and back. A row that breaks a rule is an error, never
//! a guess.

use rusqlite::types::Type;
use rusqlite::{Error, Result, Row};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::domain::failure::known_word;
use crate::domain::grant::{
    Asks, Attempt, AttemptId, Epoch, Generation, Grant, GrantId, GrantKey, GrantState, InDoubtCause, Lineage,
    Owner,
};
use crate::domain::id::{ClientId, InvalidName, Issuer, SubjectId, TenantId};
use crate::domain::key::KeyVersion;
use crate::domain::scope::{Claims, Resource, ScopeSet};
use crate::domain::tenant::{Tenant, TenantState};
use crate::seal::Sealed;
use crate::store::SealedGrant;

/// The columns [`grant`] reads, from `grants g LEFT JOIN attempt a`.
pub(super) const GRANT_COLUMNS: &str = "
    g.id, g.tenant, g.client, g.subject, g.issuer, g.status, g.cause, g.claims, g.error, g.suberror,
    g.generation, g.key_version, g.scopes, g.resource, g.created_at, g.refreshed_at, g.idle_expires_at,
    g.absolute_expires_at, g.next_refresh_at, g.not_before, g.sealed, g.lineage, g.last_attempt, g.unhelpful,
    g.asked, a.id AS attempt_id, a.epoch, a.owner, a.asks, a.started_at, a.fenced_at, a.follows, a.overtakes,
    a.in_use_since, a.probe_after";

/// Where [`GRANT_COLUMNS`] come from.
pub(super) const GRANT_TABLES: &str = "grants g LEFT JOIN attempt a ON a.grant_id = g.id";

/// The columns [`tenant`] reads.
pub(super) const TENANT_COLUMNS: &str =
    "id, state, epoch, active_version, purge_at, erased_at, created_at, rotated_at, pending";

pub(super) fn grant(row: &Row<'_>) -> Result<Grant> {
    Ok(Grant {
        id: GrantId(uuid(row, "id")?),
        key: GrantKey {
            tenant: name(row, "tenant", TenantId::new)?,
            client: name(row, "client", ClientId::new)?,
            subject: name(row, "subject", SubjectId::stored)?,
        },
        issuer: name(row, "issuer", Issuer::stored)?,
        lineage: Lineage(uuid(row, "lineage")?),
        state: grant_state(row)?,
        generation: Generation(row.get("generation")?),
        last_attempt: optional_uuid(row, "last_attempt")?.map(AttemptId),
        unhelpful: row.get("unhelpful")?,
        key_version: version(row, "key_version")?,
        scopes: scopes(row, "scopes")?,
        asked: scopes(row, "asked")?,
        resource: resource(row)?,
        created_at: time(row, "created_at")?,
        refreshed_at: time(row, "refreshed_at")?,
        idle_expires_at: optional_time(row, "idle_expires_at")?,
        absolute_expires_at: optional_time(row, "absolute_expires_at")?,
        next_refresh_at: time(row, "next_refresh_at")?,
        not_before: optional_time(row, "not_before")?,
    })
}

pub(super) fn sealed_grant(row: &Row<'_>) -> Result<SealedGrant> {
    Ok(SealedGrant { grant: grant(row)?, sealed: Sealed::from_bytes(row.get("sealed")?) })
}

fn grant_state(row: &Row<'_>) -> Result<GrantState> {
    let status: String = row.get("status")?;
    Ok(match status.as_str() {
        "ACTIVE" => GrantState::Active,
        "SENDING" => GrantState::Sending(attempt(row)?),
        "IN_DOUBT" => GrantState::InDoubt {
            attempt: attempt(row)?,
            cause: cause(row, "cause")?.ok_or_else(|| broken("cause", "is missing"))?,
            probe_after: time(row, "probe_after")?,
        },
        "REVOKED" => GrantState::Revoked,
        "LOST" => {
            GrantState::Lost { cause: cause(row, "cause")?.ok_or_else(|| broken("cause", "is missing"))? }
        }
        "REAUTH" => GrantState::Reauth {
            claims: row
                .get::<_, Option<String>>("claims")?
                .map(|c| Claims::new(&c))
                .transpose()
                .map_err(|e| invalid("claims", &e))?,
            error: known_word(&row.get::<_, Option<String>>("error")?.unwrap_or_default()),
            suberror: known_word(&row.get::<_, Option<String>>("suberror")?.unwrap_or_default()),
        },
        _ => return Err(broken("status", "is unknown")),
    })
}

pub(super) fn attempt(row: &Row<'_>) -> Result<Attempt> {
    Ok(Attempt {
        id: AttemptId(uuid(row, "attempt_id")?),
        epoch: Epoch(row.get("epoch")?),
        owner: Owner(uuid(row, "owner")?),
        asks: asks(row)?,
        started_at: time(row, "started_at")?,
        in_use_since: time(row, "in_use_since")?,
        fenced_at: optional_time(row, "fenced_at")?,
        follows: cause(row, "follows")?,
        overtakes: optional_time(row, "overtakes")?,
    })
}

fn asks(row: &Row<'_>) -> Result<Asks> {
    match row.get::<_, String>("asks")?.as_str() {
        "GRANT" => Ok(Asks::Grant),
        "TARGET" => Ok(Asks::Target),
        _ => Err(broken("asks", "is unknown")),
    }
}

pub(super) fn asks_word(asks: Asks) -> &'static str {
    match asks {
        Asks::Grant => "GRANT",
        Asks::Target => "TARGET",
    }
}

/// The words and values a grant's state is kept in.
pub(super) struct StateColumns {
    pub(super) status: &'static str,
    pub(super) cause: Option<&'static str>,
    pub(super) claims: Option<String>,
    pub(super) error: Option<&'static str>,
    pub(super) suberror: Option<&'static str>,
}

impl StateColumns {
    pub(super) fn of(state: &GrantState) -> Self {
        let plain = |status| Self { status, cause: None, claims: None, error: None, suberror: None };
        match state {
            GrantState::Active => plain("ACTIVE"),
            GrantState::Sending(_) => plain("SENDING"),
            GrantState::InDoubt { cause, .. } => Self { cause: Some(cause.as_str()), ..plain("IN_DOUBT") },
            GrantState::Revoked => plain("REVOKED"),
            GrantState::Lost { cause } => Self { cause: Some(cause.as_str()), ..plain("LOST") },
            GrantState::Reauth { claims, error, suberror } => Self {
                claims: claims.as_ref().map(|c| c.as_str().to_owned()),
                error: Some(error),
                suberror: Some(suberror),
                ..plain("REAUTH")
            },
        }
    }
}

pub(super) fn tenant(row: &Row<'_>) -> Result<Tenant> {
    let state: String = row.get("state")?;
    let active_version = version(row, "active_version")?;
    Ok(Tenant {
        id: name(row, "id", TenantId::new)?,
        state: match state.as_str() {
            "ACTIVE" if row.get("pending")? => TenantState::Pending { active_version },
            "ACTIVE" => TenantState::Active { active_version },
            "PURGE_SCHEDULED" => {
                TenantState::PurgeScheduled { active_version, purge_at: time(row, "purge_at")? }
            }
            "PURGING" => TenantState::Purging,
            "PURGED" => TenantState::Purged { erased_at: time(row, "erased_at")? },
            _ => return Err(broken("state", "is unknown")),
        },
        epoch: row.get("epoch")?,
        created_at: time(row, "created_at")?,
        rotated_at: time(row, "rotated_at")?,
    })
}

pub(super) fn uuid(row: &Row<'_>, column: &str) -> Result<Uuid> {
    Uuid::from_slice(&row.get::<_, Vec<u8>>(column)?).map_err(|_| broken(column, "is not a UUID"))
}

pub(super) fn optional_uuid(row: &Row<'_>, column: &str) -> Result<Option<Uuid>> {
    row.get::<_, Option<Vec<u8>>>(column)?
        .map(|bytes| Uuid::from_slice(&bytes).map_err(|_| broken(column, "is not a UUID")))
        .transpose()
}

pub(super) fn name<T>(
    row: &Row<'_>,
    column: &str,
    parse: impl Fn(&str) -> Result<T, InvalidName>,
) -> Result<T> {
    parse(&row.get::<_, String>(column)?).map_err(|e| invalid(column, &e))
}

pub(super) fn scopes(row: &Row<'_>, column: &str) -> Result<ScopeSet> {
    ScopeSet::stored(row.get::<_, String>(column)?.split_ascii_whitespace()).map_err(|e| invalid(column, &e))
}

pub(super) fn resource(row: &Row<'_>) -> Result<Option<Resource>> {
    let resource: Option<String> = row.get("resource")?;
    resource.map(|r| Resource::new(&r)).transpose().map_err(|e| invalid("resource", &e))
}

pub(super) fn version(row: &Row<'_>, column: &str) -> Result<KeyVersion> {
    row.get(column).map(KeyVersion)
}

pub(super) fn time(row: &Row<'_>, column: &str) -> Result<Timestamp> {
    row.get(column).map(Timestamp)
}

pub(super) fn optional_time(row: &Row<'_>, column: &str) -> Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp))
}

fn cause(row: &Row<'_>, column: &str) -> Result<Option<InDoubtCause>> {
    let word: Option<String> = row.get(column)?;
    word.map(|w| InDoubtCause::parse(&w).ok_or_else(|| broken(column, "is unknown"))).transpose()
}

pub(super) fn answer(row: &Row<'_>) -> Result<Option<Sealed>> {
    Ok(row.get::<_, Option<Vec<u8>>>("answer")?.map(Sealed::from_bytes))
}

fn invalid(column: &str, error: &InvalidName) -> Error {
    broken(column, &error.to_string())
}

pub(super) fn broken(column: &str, what: &str) -> Error {
    Error::FromSqlConversionFailure(0, Type::Text, format!("column {column} {what}").into())
}
