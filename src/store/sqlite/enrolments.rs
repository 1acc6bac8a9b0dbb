//! Enrolments: the same two commits for a grant that the vault acquires.

use rusqlite::{OptionalExtension as _, Result, Row, named_params};

use crate::clock::Timestamp;
use crate::domain::grant::{AttemptId, Generation, Grant, GrantId, GrantKey, Lineage, Owner};
use crate::domain::id::{ClientId, Issuer, SubjectId, TenantId};
use crate::domain::protocol::State;
use crate::store::{
    Enrolment, EnrolmentCommit, EnrolmentKind, EnrolmentRefused, EnrolmentStage, ImportMark, OpenEnrolment,
};

use super::attempts;
use super::db::Connection;
use super::grants::{self, Outcome};
use super::rows;
use super::tenants;

pub(super) fn begin(c: &Connection, enrolment: &Enrolment) -> Outcome<(), EnrolmentRefused> {
    if find(c, enrolment.attempt)?.is_some() {
        // Its own acknowledgement was lost.
        return Ok(Ok(()));
    }
    if tenants::find(c, &enrolment.key.tenant)?.is_none_or(|t| t.sealing_version().is_none()) {
        return Ok(Err(EnrolmentRefused::TenantGone));
    }
    if let Some(moved) = moved(c, enrolment)? {
        return Ok(Err(moved));
    }
    let kind = match enrolment.kind {
        EnrolmentKind::OnBehalfOf => "EXCHANGE",
        EnrolmentKind::Import(_) => "IMPORT",
    };
    c.prepare_cached(
        "INSERT INTO enrolment (id, lineage, owner, kind, mark, stage, tenant, client, subject, grant_id, generation,
                issuer, scopes, resource, started_at)
         VALUES (:id, :lineage, :owner, :kind, :mark, 'SENDING', :tenant, :client, :subject, :grant, :generation,
                :issuer, :scopes, :resource, :at)",
    )?
    .execute(named_params! {
        ":id": enrolment.attempt.0.as_bytes(),
        ":lineage": enrolment.lineage.0.as_bytes(),
        ":owner": enrolment.owner.0.as_bytes(),
        ":kind": kind,
        ":mark": mark(enrolment).as_ref().map(|mark| mark.as_slice()),
        ":tenant": enrolment.key.tenant.as_str(),
        ":client": enrolment.key.client.as_str(),
        ":subject": enrolment.key.subject.as_str(),
        ":grant": enrolment.grant.0.as_bytes(),
        ":generation": enrolment.generation.0,
        ":issuer": enrolment.issuer.as_str(),
        ":scopes": enrolment.scopes.to_wire(),
        ":resource": enrolment.resource.as_ref().map(|r| r.as_str()),
        ":at": enrolment.started_at.0,
    })?;
    Ok(Ok(()))
}

pub(super) fn suspend(c: &Connection, id: AttemptId, stage: EnrolmentStage) -> Result<bool> {
    let (word, until) = match stage {
        EnrolmentStage::Sending => ("SENDING", None),
        EnrolmentStage::InDoubt { probe_after } => ("IN_DOUBT", Some(probe_after.0)),
        EnrolmentStage::Held { until } => {
            let until = held_since_before(c, id)?.map_or(until, |before| before.min(until));
            forget_older(c, id)?;
            ("HELD", Some(until.0))
        }
    };
    let changed = c
        .prepare_cached("UPDATE enrolment SET stage = ?2, until = ?3 WHERE id = ?1")?
        .execute((id.0.as_bytes(), word, until))?;
    Ok(changed == 1)
}

pub(super) fn commit(c: &Connection, commit: &EnrolmentCommit) -> Outcome<(Grant, bool), EnrolmentRefused> {
    let EnrolmentCommit { enrolment, renewed, scopes, at, absolute_expires_at, dates } = commit;
    let existing = grants::find(c, &enrolment.key)?;
    if find(c, enrolment.attempt)?.is_none() {
        // It was committed before, or it is gone with what it made.
        return Ok(match existing {
            Some(grant) if grant.lineage == enrolment.lineage => {
                let replaced = renewed.generation > Generation(1);
                Ok((grant, replaced))
            }
            Some(_) | None => Err(EnrolmentRefused::Orphaned),
        });
    }
    match grants::newest_version(c, &enrolment.key.tenant)? {
        None => return Ok(Err(EnrolmentRefused::TenantGone)),
        Some(newest) if newest != renewed.key_version => return Ok(Err(EnrolmentRefused::KeyVersionMoved)),
        Some(_) => {}
    }
    if let Some(moved) = moved(c, enrolment)? {
        return Ok(Err(moved));
    }
    c.prepare_cached(
        "INSERT INTO grants (id, tenant, client, subject, issuer, lineage, status, generation, key_version, sealed,
                scopes, asked, resource, created_at, refreshed_at, idle_expires_at, absolute_expires_at,
                next_refresh_at, imported)
         VALUES (:id, :tenant, :client, :subject, :issuer, :lineage, 'ACTIVE', :generation, :key_version, :sealed,
                :scopes, :asked, :resource, :at, :at, :idle, :absolute, :next, :imported)
         ON CONFLICT (tenant, client, subject) DO UPDATE SET issuer = :issuer, key_version = :key_version,
                sealed = :sealed, scopes = :scopes, asked = :asked, resource = :resource, refreshed_at = :at,
                idle_expires_at = :idle, absolute_expires_at = :absolute, next_refresh_at = :next,
                imported = COALESCE(:imported, imported)",
    )?
    .execute(named_params! {
        ":id": enrolment.grant.0.as_bytes(),
        ":tenant": enrolment.key.tenant.as_str(),
        ":client": enrolment.key.client.as_str(),
        ":subject": enrolment.key.subject.as_str(),
        ":issuer": enrolment.issuer.as_str(),
        ":lineage": enrolment.lineage.0.as_bytes(),
        ":generation": renewed.generation.0,
        ":key_version": renewed.key_version.0,
        ":sealed": renewed.sealed.as_bytes(),
        ":scopes": scopes.to_wire(),
        ":asked": enrolment.scopes.to_wire(),
        ":resource": enrolment.resource.as_ref().map(|r| r.as_str()),
        ":at": at.0,
        ":idle": dates.idle_expires_at.map(|t| t.0),
        ":absolute": absolute_expires_at.map(|t| t.0),
        ":next": dates.next_refresh_at.0,
        ":imported": mark(enrolment).as_ref().map(|mark| mark.as_slice()),
    })?;
    let state = State::enrolled(existing.as_ref().map(|g| g.generation), enrolment.lineage);
    attempts::put_state(c, enrolment.grant, &state)?;
    tenants::confirm(c, &enrolment.key.tenant)?;
    forget_older(c, enrolment.attempt)?;
    abandon(c, enrolment.attempt)?;
    let made = grants::by_id(c, enrolment.grant)?;
    Ok(made.map(|made| (made.grant, existing.is_some())).ok_or(EnrolmentRefused::Orphaned))
}

pub(super) fn abandon(c: &Connection, id: AttemptId) -> Result<()> {
    c.prepare_cached("DELETE FROM enrolment WHERE id = ?1")?.execute([id.0.as_bytes()]).map(drop)
}

/// Until when an import is held that this one goes on with, or is itself.
fn held_since_before(c: &Connection, id: AttemptId) -> Result<Option<Timestamp>> {
    c.prepare_cached(
        "SELECT MIN(until) FROM enrolment WHERE stage = 'HELD' AND (id = ?1 OR (mark, tenant, client) =
                (SELECT mark, tenant, client FROM enrolment WHERE id = ?1))",
    )?
    .query_row([id.0.as_bytes()], |row| row.get::<_, Option<i64>>(0))
    .map(|until| until.map(Timestamp))
}

/// The answer of an import is here, so what the same import left before is used up:
/// found and sent once more, it would look like a theft.
fn forget_older(c: &Connection, id: AttemptId) -> Result<()> {
    c.prepare_cached(
        "DELETE FROM enrolment WHERE id <> ?1 AND (mark, tenant, client) =
                (SELECT mark, tenant, client FROM enrolment WHERE id = ?1)",
    )?
    .execute([id.0.as_bytes()])
    .map(drop)
}

/// Forgets the imports of a user that are held. Returns whether there were any.
pub(super) fn forget_held(c: &Connection, key: &GrantKey) -> Result<bool> {
    let forgotten = c
        .prepare_cached(
            "DELETE FROM enrolment WHERE tenant = ?1 AND client = ?2 AND subject = ?3 AND stage = 'HELD'",
        )?
        .execute((key.tenant.as_str(), key.client.as_str(), key.subject.as_str()))?;
    Ok(forgotten > 0)
}

pub(super) fn find_import(
    c: &Connection,
    tenant: &TenantId,
    client: &ClientId,
    mark: ImportMark,
) -> Result<Option<OpenEnrolment>> {
    c.prepare_cached(
        "SELECT * FROM enrolment WHERE mark = ?1 AND tenant = ?2 AND client = ?3 ORDER BY started_at DESC LIMIT 1",
    )?
    .query_row((mark.0.as_slice(), tenant.as_str(), client.as_str()), open_enrolment)
    .optional()
}

pub(super) fn open(c: &Connection) -> Result<Vec<OpenEnrolment>> {
    c.prepare("SELECT * FROM enrolment")?.query_map([], open_enrolment)?.collect()
}

fn find(c: &Connection, id: AttemptId) -> Result<Option<OpenEnrolment>> {
    c.prepare_cached("SELECT * FROM enrolment WHERE id = ?1")?
        .query_row([id.0.as_bytes()], open_enrolment)
        .optional()
}

fn open_enrolment(row: &Row<'_>) -> Result<OpenEnrolment> {
    let enrolment = Enrolment {
        attempt: AttemptId(rows::uuid(row, "id")?),
        lineage: Lineage(rows::uuid(row, "lineage")?),
        owner: Owner(rows::uuid(row, "owner")?),
        kind: kind(row)?,
        key: GrantKey {
            tenant: rows::name(row, "tenant", TenantId::new)?,
            client: rows::name(row, "client", ClientId::new)?,
            subject: rows::name(row, "subject", SubjectId::stored)?,
        },
        grant: GrantId(rows::uuid(row, "grant_id")?),
        generation: Generation(row.get("generation")?),
        issuer: rows::name(row, "issuer", Issuer::stored)?,
        scopes: rows::scopes(row, "scopes")?,
        resource: rows::resource(row)?,
        started_at: rows::time(row, "started_at")?,
    };
    Ok(OpenEnrolment { enrolment, stage: stage(row)?, answer: rows::answer(row)? })
}

fn mark(enrolment: &Enrolment) -> Option<[u8; 32]> {
    match enrolment.kind {
        EnrolmentKind::OnBehalfOf => None,
        EnrolmentKind::Import(mark) => mark.map(|mark| mark.0),
    }
}

fn kind(row: &Row<'_>) -> Result<EnrolmentKind> {
    let mark: Option<Vec<u8>> = row.get("mark")?;
    match row.get::<_, String>("kind")?.as_str() {
        "EXCHANGE" => Ok(EnrolmentKind::OnBehalfOf),
        "IMPORT" => {
            let mark = mark.map(|mark| mark.try_into().map_err(|_| rows::broken("mark", "is not 32 bytes")));
            Ok(EnrolmentKind::Import(mark.transpose()?.map(ImportMark)))
        }
        _ => Err(rows::broken("kind", "is unknown")),
    }
}

fn stage(row: &Row<'_>) -> Result<EnrolmentStage> {
    Ok(match row.get::<_, String>("stage")?.as_str() {
        "SENDING" => EnrolmentStage::Sending,
        "IN_DOUBT" => EnrolmentStage::InDoubt { probe_after: rows::time(row, "until")? },
        "HELD" => EnrolmentStage::Held { until: rows::time(row, "until")? },
        _ => return Err(rows::broken("stage", "is unknown")),
    })
}

/// Where the token belongs now, when that is not where the enrolment seals it.
fn moved(c: &Connection, enrolment: &Enrolment) -> Result<Option<EnrolmentRefused>> {
    let existing = grants::find(c, &enrolment.key)?;
    let grant = existing.as_ref().map_or(enrolment.grant, |g| g.id);
    let generation = State::enrolled(existing.map(|g| g.generation), enrolment.lineage).generation;
    let fits = grant == enrolment.grant && generation == enrolment.generation;
    Ok((!fits).then_some(EnrolmentRefused::PlaceMoved { grant, generation }))
}
