//! Grants, attempts and intakes: the two commits of the protocol.

use rusqlite::{OptionalExtension as _, Result, Row, named_params};

use crate::clock::Timestamp;
use crate::domain::grant::{AttemptId, Generation, Grant, GrantId, GrantKey, GrantState};
use crate::domain::id::{ClientId, Issuer, SubjectId, TenantId};
use crate::domain::key::KeyVersion;
use crate::domain::tenant::TenantState;
use crate::seal::Sealed;
use crate::store::{
    Claim, ClaimLost, Commit, CommitRefused, GrantCursor, Intake, IntakeCommit, OpenAttempt, OpenIntake,
    SealedGrant,
};

use super::db::Connection;
use super::rows::{self, GRANT_COLUMNS, GRANT_TABLES, StateColumns};
use super::tenants;

type Outcome<T, R> = Result<std::result::Result<T, R>>;

/// Commit 1.
pub(super) fn claim(c: &Connection, claim: &Claim) -> Outcome<SealedGrant, ClaimLost> {
    let Some(SealedGrant { grant, .. }) = by_id(c, claim.grant)? else { return Ok(Err(ClaimLost)) };
    let as_seen = match (&grant.state, claim.takes_over) {
        (GrantState::Active, None) => true,
        (GrantState::InDoubt { attempt, .. }, Some(id)) => attempt.id == id,
        _ => false,
    };
    let in_service = tenants::find(c, &grant.key.tenant)?.is_some_and(|t| t.sealing_version().is_some());
    if !as_seen || grant.generation != claim.generation || !in_service {
        return Ok(Err(ClaimLost));
    }
    c.prepare_cached(
        "INSERT OR REPLACE INTO attempt (grant_id, id, epoch, started_at, fenced_at, follows)
         VALUES (:grant, :id, :epoch, :started_at, :fenced_at, :follows)",
    )?
    .execute(named_params! {
        ":grant": claim.grant.0.as_bytes(),
        ":id": claim.attempt.id.0.as_bytes(),
        ":epoch": claim.attempt.epoch.0,
        ":started_at": claim.attempt.started_at.0,
        ":fenced_at": claim.attempt.fenced_at.map(|t| t.0),
        ":follows": claim.attempt.follows.map(|f| f.as_str()),
    })?;
    put_state(c, claim.grant, &GrantState::Sending(claim.attempt.clone()), None)?;
    Ok(by_id(c, claim.grant)?.ok_or(ClaimLost))
}

/// Rule 5: the raw answer, before anybody parses it. `table` is "attempt" or
/// "intake".
pub(super) fn record_answer(
    c: &Connection,
    table: &'static str,
    attempt: AttemptId,
    key_version: KeyVersion,
    answer: &Sealed,
) -> Result<bool> {
    // An answer under an older version could lose its key to a retirement.
    let tenant = match table {
        "attempt" => "(SELECT tenant FROM grants WHERE id = grant_id)",
        _ => "tenant",
    };
    let changed = c
        .prepare_cached(&format!(
            "UPDATE {table} SET answer = ?2, answer_version = ?3
             WHERE id = ?1 AND ?3 = (SELECT active_version FROM tenant t WHERE t.id = {tenant})"
        ))?
        .execute((attempt.0.as_bytes(), answer.as_bytes(), key_version.0))?;
    Ok(changed == 1)
}

/// Commit 2.
pub(super) fn commit(c: &Connection, commit: &Commit) -> Outcome<Grant, CommitRefused> {
    let Some(SealedGrant { grant, sealed }) = by_id(c, commit.grant)? else {
        return Ok(Err(CommitRefused::Superseded));
    };
    let owner = match &grant.state {
        GrantState::Sending(attempt) | GrantState::InDoubt { attempt, .. } => Some(attempt.id),
        GrantState::Active | GrantState::Revoked | GrantState::Lost { .. } | GrantState::Reauth { .. } => {
            None
        }
    };
    if owner != Some(commit.attempt) {
        return Ok(Err(CommitRefused::Superseded));
    }
    let newest = match newest_version(c, &grant.key.tenant)? {
        Ok(version) => version,
        Err(refused) => return Ok(Err(refused)),
    };
    let (generation, key_version, sealed) = match &commit.renewed {
        None => (grant.generation, grant.key_version, &sealed),
        Some(renewed) if renewed.generation != grant.generation.next() => {
            return Ok(Err(CommitRefused::Superseded));
        }
        Some(renewed) if renewed.key_version != newest => return Ok(Err(CommitRefused::KeyVersionMoved)),
        Some(renewed) => (renewed.generation, renewed.key_version, &renewed.sealed),
    };
    c.prepare_cached(
        "UPDATE grants SET generation = :generation, key_version = :key_version, sealed = :sealed,
                scopes = :scopes, refreshed_at = :at, idle_expires_at = :idle, next_refresh_at = :next
         WHERE id = :id",
    )?
    .execute(named_params! {
        ":id": commit.grant.0.as_bytes(),
        ":generation": generation.0,
        ":key_version": key_version.0,
        ":sealed": sealed.as_bytes(),
        ":scopes": commit.scopes.as_ref().unwrap_or(&grant.scopes).to_wire(),
        ":at": commit.at.0,
        ":idle": commit.idle_expires_at.map(|t| t.0),
        ":next": commit.next_refresh_at.0,
    })?;
    put_state(c, commit.grant, &GrantState::Active, commit.not_before)?;
    delete_attempt(c, commit.grant)?;
    Ok(by_id(c, commit.grant)?.map(|s| s.grant).ok_or(CommitRefused::Superseded))
}

pub(super) fn settle(
    c: &Connection,
    id: GrantId,
    attempt: AttemptId,
    state: &GrantState,
    not_before: Option<Timestamp>,
) -> Outcome<Grant, ClaimLost> {
    let owned: Option<i64> = c
        .prepare_cached("SELECT 1 FROM attempt WHERE grant_id = ?1 AND id = ?2")?
        .query_row((id.0.as_bytes(), attempt.0.as_bytes()), |row| row.get(0))
        .optional()?;
    if owned.is_none() {
        return Ok(Err(ClaimLost));
    }
    if let GrantState::InDoubt { probe_after, .. } = state {
        c.prepare_cached(
            "UPDATE attempt SET probe_after = ?2, answer = NULL, answer_version = NULL WHERE grant_id = ?1",
        )?
        .execute((id.0.as_bytes(), probe_after.0))?;
    } else {
        delete_attempt(c, id)?;
    }
    put_state(c, id, state, not_before)?;
    Ok(by_id(c, id)?.map(|s| s.grant).ok_or(ClaimLost))
}

pub(super) fn begin_intake(c: &Connection, intake: &Intake) -> Outcome<(), CommitRefused> {
    let in_service = tenants::find(c, &intake.key.tenant)?.is_some_and(|t| t.sealing_version().is_some());
    if !in_service {
        return Ok(Err(CommitRefused::TenantGone));
    }
    if next_generation(c, intake)? != Some(intake.generation) {
        return Ok(Err(CommitRefused::Superseded));
    }
    c.prepare_cached(
        "INSERT INTO intake (id, tenant, client, subject, grant_id, generation, issuer, prove_identity, scopes,
                resource, started_at)
         VALUES (:id, :tenant, :client, :subject, :grant, :generation, :issuer, :prove, :scopes, :resource, :at)",
    )?
    .execute(named_params! {
        ":id": intake.attempt.0.as_bytes(),
        ":tenant": intake.key.tenant.as_str(),
        ":client": intake.key.client.as_str(),
        ":subject": intake.key.subject.as_str(),
        ":grant": intake.grant.0.as_bytes(),
        ":generation": intake.generation.0,
        ":issuer": intake.issuer.as_str(),
        ":prove": intake.prove_identity,
        ":scopes": intake.scopes.to_wire(),
        ":resource": intake.resource.as_ref().map(|r| r.as_str()),
        ":at": intake.started_at.0,
    })?;
    Ok(Ok(()))
}

pub(super) fn commit_intake(c: &Connection, commit: &IntakeCommit) -> Outcome<(Grant, bool), CommitRefused> {
    let IntakeCommit { intake, renewed, scopes, at, idle_expires_at, absolute_expires_at, next_refresh_at } =
        commit;
    match newest_version(c, &intake.key.tenant)? {
        Err(refused) => return Ok(Err(refused)),
        Ok(version) if version != renewed.key_version => return Ok(Err(CommitRefused::KeyVersionMoved)),
        Ok(_) => {}
    }
    let known: Option<i64> = c
        .prepare_cached("SELECT 1 FROM intake WHERE id = ?1")?
        .query_row([intake.attempt.0.as_bytes()], |row| row.get(0))
        .optional()?;
    if known.is_none() || next_generation(c, intake)? != Some(renewed.generation) {
        return Ok(Err(CommitRefused::Superseded));
    }
    let replaced = find(c, &intake.key)?.is_some();
    c.prepare_cached(
        "INSERT INTO grants (id, tenant, client, subject, issuer, status, generation, key_version, sealed, scopes,
                resource, created_at, refreshed_at, idle_expires_at, absolute_expires_at, next_refresh_at)
         VALUES (:id, :tenant, :client, :subject, :issuer, 'ACTIVE', :generation, :key_version, :sealed, :scopes,
                :resource, :at, :at, :idle, :absolute, :next)
         ON CONFLICT (tenant, client, subject) DO UPDATE SET issuer = :issuer, generation = :generation,
                key_version = :key_version, sealed = :sealed, scopes = :scopes, resource = :resource,
                refreshed_at = :at, idle_expires_at = :idle, absolute_expires_at = :absolute,
                next_refresh_at = :next",
    )?
    .execute(named_params! {
        ":id": intake.grant.0.as_bytes(),
        ":tenant": intake.key.tenant.as_str(),
        ":client": intake.key.client.as_str(),
        ":subject": intake.key.subject.as_str(),
        ":issuer": intake.issuer.as_str(),
        ":generation": renewed.generation.0,
        ":key_version": renewed.key_version.0,
        ":sealed": renewed.sealed.as_bytes(),
        ":scopes": scopes.to_wire(),
        ":resource": intake.resource.as_ref().map(|r| r.as_str()),
        ":at": at.0,
        ":idle": idle_expires_at.map(|t| t.0),
        ":absolute": absolute_expires_at.map(|t| t.0),
        ":next": next_refresh_at.0,
    })?;
    delete_attempt(c, intake.grant)?;
    put_state(c, intake.grant, &GrantState::Active, None)?;
    abandon_intake(c, intake.attempt)?;
    Ok(by_id(c, intake.grant)?.map(|s| (s.grant, replaced)).ok_or(CommitRefused::Superseded))
}

pub(super) fn abandon_intake(c: &Connection, attempt: AttemptId) -> Result<()> {
    c.prepare_cached("DELETE FROM intake WHERE id = ?1")?.execute([attempt.0.as_bytes()]).map(drop)
}

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

pub(super) fn delete(c: &Connection, id: GrantId) -> Result<bool> {
    Ok(c.prepare_cached("DELETE FROM grants WHERE id = ?1")?.execute([id.0.as_bytes()])? == 1)
}

pub(super) fn open_attempts(c: &Connection) -> Result<Vec<OpenAttempt>> {
    c.prepare(&format!("SELECT {GRANT_COLUMNS}, a.answer FROM attempt a JOIN grants g ON a.grant_id = g.id"))?
        .query_map([], |row| {
            Ok(OpenAttempt { grant: rows::grant(row)?, attempt: rows::attempt(row)?, answer: answer(row)? })
        })?
        .collect()
}

pub(super) fn open_intakes(c: &Connection) -> Result<Vec<OpenIntake>> {
    c.prepare("SELECT * FROM intake")?
        .query_map([], |row| {
            let intake = Intake {
                attempt: AttemptId(rows::uuid(row, "id")?),
                key: GrantKey {
                    tenant: rows::name(row, "tenant", TenantId::new)?,
                    client: rows::name(row, "client", ClientId::new)?,
                    subject: rows::name(row, "subject", SubjectId::stored)?,
                },
                grant: GrantId(rows::uuid(row, "grant_id")?),
                generation: Generation(row.get("generation")?),
                issuer: rows::name(row, "issuer", Issuer::stored)?,
                prove_identity: row.get("prove_identity")?,
                scopes: rows::scopes(row, "scopes")?,
                resource: rows::resource(row)?,
                started_at: rows::time(row, "started_at")?,
            };
            Ok(OpenIntake { intake, answer: answer(row)? })
        })?
        .collect()
}

/// The table of attempts holds what is open and nothing else, so it is small.
pub(super) fn due_probes(
    c: &Connection,
    now: Timestamp,
    orphaned_before: Timestamp,
    limit: u32,
) -> Result<Vec<Grant>> {
    c.prepare_cached(&format!(
        "SELECT {GRANT_COLUMNS} FROM attempt a JOIN grants g ON a.grant_id = g.id JOIN tenant t ON t.id = g.tenant
         WHERE t.state = 'ACTIVE' AND (
             (g.status = 'IN_DOUBT' AND a.probe_after < ?1) OR (g.status = 'SENDING' AND a.started_at < ?2))
         ORDER BY a.started_at LIMIT ?3"
    ))?
    .query_map((now.0, orphaned_before.0, limit), rows::grant)?
    .collect()
}

fn answer(row: &Row<'_>) -> Result<Option<Sealed>> {
    Ok(row.get::<_, Option<Vec<u8>>>("answer")?.map(Sealed::from_bytes))
}

fn by_id(c: &Connection, id: GrantId) -> Result<Option<SealedGrant>> {
    c.prepare_cached(&format!("SELECT {GRANT_COLUMNS} FROM {GRANT_TABLES} WHERE g.id = ?1"))?
        .query_row([id.0.as_bytes()], rows::sealed_grant)
        .optional()
}

/// The tenant's newest key version; the commit's own check of invariants 4, I8
/// and I9.
fn newest_version(c: &Connection, tenant: &TenantId) -> Outcome<KeyVersion, CommitRefused> {
    Ok(match tenants::find(c, tenant)?.map(|t| t.state) {
        Some(TenantState::Active { active_version } | TenantState::PurgeScheduled { active_version, .. }) => {
            Ok(active_version)
        }
        Some(TenantState::Purging | TenantState::Purged { .. }) | None => Err(CommitRefused::TenantGone),
    })
}

/// The generation an intake's token gets: one more than the grant has, 1 where
/// there is none. `None`: the grant has another identifier now.
fn next_generation(c: &Connection, intake: &Intake) -> Result<Option<Generation>> {
    Ok(match find(c, &intake.key)? {
        None => Some(Generation(1)),
        Some(grant) if grant.id == intake.grant => Some(grant.generation.next()),
        Some(_) => None,
    })
}

fn put_state(c: &Connection, id: GrantId, state: &GrantState, not_before: Option<Timestamp>) -> Result<()> {
    let columns = StateColumns::of(state);
    c.prepare_cached(
        "UPDATE grants SET status = :status, cause = :cause, claims = :claims, error = :error,
                suberror = :suberror, not_before = :not_before
         WHERE id = :id",
    )?
    .execute(named_params! {
        ":id": id.0.as_bytes(),
        ":status": columns.status,
        ":cause": columns.cause,
        ":claims": columns.claims,
        ":error": columns.error,
        ":suberror": columns.suberror,
        ":not_before": not_before.map(|t| t.0),
    })
    .map(drop)
}

fn delete_attempt(c: &Connection, id: GrantId) -> Result<()> {
    c.prepare_cached("DELETE FROM attempt WHERE grant_id = ?1")?.execute([id.0.as_bytes()]).map(drop)
}
