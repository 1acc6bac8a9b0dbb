//! Attempts: the two commits of the protocol. What may happen and what comes of
//! it, [`crate::domain::protocol`] says; here it is read, asked and written in
//! one transaction.

use rusqlite::{Result, named_params};

use crate::clock::Timestamp;
use crate::domain::grant::{Attempt, Grant, GrantId, GrantState};
use crate::domain::key::KeyVersion;
use crate::domain::protocol::{self, Advanced, End, State};
use crate::seal::Sealed;
use crate::store::{
    Advance, AdvanceRefused, AnswerOf, Claim, ClaimRefused, DueCursor, OpenAttempt, Renewed, SealedGrant,
    Settled,
};

use super::db::Connection;
use super::grants::{self, Outcome};
use super::rows::{self, GRANT_COLUMNS, StateColumns};
use super::tenants;

/// Commit 1.
pub(super) fn claim(c: &Connection, claim: &Claim) -> Outcome<SealedGrant, ClaimRefused> {
    let Some(SealedGrant { grant, sealed }) = grants::by_id(c, claim.grant)? else {
        return Ok(Err(ClaimRefused::Changed));
    };
    if (grant.lineage, grant.generation) != (claim.lineage, claim.generation) {
        return Ok(Err(ClaimRefused::Changed));
    }
    if tenants::find(c, &grant.key.tenant)?.is_none_or(|t| t.sealing_version().is_none()) {
        return Ok(Err(ClaimRefused::OutOfService));
    }
    let state = match protocol::claim(&State::of(&grant), &claim.claim, &claim.profile, claim.at) {
        Ok(state) => state,
        Err(refusal) => return Ok(Err(ClaimRefused::Protocol(refusal))),
    };
    // The request was signed for one epoch.
    let prepared = matches!(&state.grant, GrantState::Sending(attempt) if attempt.epoch == claim.epoch);
    if !prepared {
        return Ok(Err(ClaimRefused::Changed));
    }
    // A claim told again changes nothing, not even a recorded answer.
    if state != State::of(&grant) {
        put_state(c, claim.grant, &state)?;
    }
    Ok(grants::by_id(c, claim.grant)?
        .map(|claimed| SealedGrant { sealed, ..claimed })
        .ok_or(ClaimRefused::Changed))
}

/// Rule 5: the raw answer, before anybody parses it. An answer under an older
/// version could lose its key to a retirement.
pub(super) fn record_answer(
    c: &Connection,
    of: AnswerOf,
    key_version: KeyVersion,
    answer: &Sealed,
) -> Result<bool> {
    let (statement, id) = match of {
        AnswerOf::Attempt(id) => (
            "UPDATE attempt SET answer = ?2, answer_version = ?3
             WHERE id = ?1 AND ?3 = (SELECT active_version FROM tenant t
                 WHERE t.id = (SELECT tenant FROM grants WHERE id = grant_id))",
            id,
        ),
        AnswerOf::Enrolment(id) => (
            "UPDATE enrolment SET answer = ?2, answer_version = ?3
             WHERE id = ?1 AND ?3 = (SELECT active_version FROM tenant t WHERE t.id = tenant)",
            id,
        ),
    };
    let changed =
        c.prepare_cached(statement)?.execute((id.0.as_bytes(), answer.as_bytes(), key_version.0))?;
    Ok(changed == 1)
}

/// The end of an attempt; with tokens, commit 2.
pub(super) fn advance(c: &Connection, advance: &Advance) -> Outcome<Settled, AdvanceRefused> {
    let Advance { grant: id, of, end, renewed, dates: _, profile, at } = advance;
    let Some(SealedGrant { grant, .. }) = grants::by_id(c, *id)? else {
        let outcome = match end {
            End::Answered { .. } => Advanced::Orphaned,
            End::Unsent | End::Interrupted | End::OwnerDied(_) | End::Refused(_) => Advanced::Late,
        };
        return Ok(Ok(Settled { outcome, grant: None }));
    };
    let outcome = protocol::advance(&State::of(&grant), of, end, profile, *at);
    let Advanced::Moved { state, .. } = &outcome else {
        return Ok(Ok(Settled { outcome, grant: Some(grant) }));
    };
    if matches!(end, End::Answered { .. }) {
        let newest = match grants::newest_version(c, &grant.key.tenant)? {
            Some(newest) => newest,
            None => return Ok(Err(AdvanceRefused::TenantGone)),
        };
        if let Some(renewed) = renewed {
            if renewed.key_version != newest {
                return Ok(Err(AdvanceRefused::KeyVersionMoved));
            }
            if renewed.generation != state.generation {
                return Err(rows::broken("generation", "is not the one that the token was sealed for"));
            }
            put_token(c, *id, renewed)?;
        }
        put_dates(c, *id, advance)?;
    }
    put_state(c, *id, state)?;
    Ok(Ok(Settled { outcome, grant: grants::by_id(c, *id)?.map(|s| s.grant) }))
}

fn put_token(c: &Connection, id: GrantId, renewed: &Renewed) -> Result<()> {
    c.prepare_cached("UPDATE grants SET key_version = ?2, sealed = ?3 WHERE id = ?1")?
        .execute((id.0.as_bytes(), renewed.key_version.0, renewed.sealed.as_bytes()))
        .map(drop)
}

fn put_dates(c: &Connection, id: GrantId, advance: &Advance) -> Result<()> {
    let Some(dates) = advance.dates else { return Ok(()) };
    c.prepare_cached(
        "UPDATE grants SET refreshed_at = ?2, idle_expires_at = ?3, next_refresh_at = ?4 WHERE id = ?1",
    )?
    .execute((id.0.as_bytes(), advance.at.0, dates.idle_expires_at.map(|t| t.0), dates.next_refresh_at.0))
    .map(drop)
}

/// Writes a state whole, its attempt with it.
pub(super) fn put_state(c: &Connection, id: GrantId, state: &State) -> Result<()> {
    let State { lineage, generation, grant, not_before, last_attempt, unhelpful } = state;
    let columns = StateColumns::of(grant);
    c.prepare_cached(
        "UPDATE grants SET lineage = :lineage, generation = :generation, status = :status, cause = :cause,
                claims = :claims, error = :error, suberror = :suberror, not_before = :not_before,
                last_attempt = :last, unhelpful = :unhelpful
         WHERE id = :id",
    )?
    .execute(named_params! {
        ":id": id.0.as_bytes(),
        ":lineage": lineage.0.as_bytes(),
        ":generation": generation.0,
        ":status": columns.status,
        ":cause": columns.cause,
        ":claims": columns.claims,
        ":error": columns.error,
        ":suberror": columns.suberror,
        ":not_before": not_before.map(|t| t.0),
        ":last": last_attempt.as_ref().map(|a| a.0.as_bytes().as_slice()),
        ":unhelpful": unhelpful,
    })?;
    match grant {
        GrantState::Sending(attempt) => put_attempt(c, id, attempt, None),
        GrantState::InDoubt { attempt, probe_after, .. } => put_attempt(c, id, attempt, Some(*probe_after)),
        GrantState::Active | GrantState::Revoked | GrantState::Lost { .. } | GrantState::Reauth { .. } => {
            delete_attempt(c, id)
        }
    }
}

fn put_attempt(
    c: &Connection,
    grant: GrantId,
    attempt: &Attempt,
    probe_after: Option<Timestamp>,
) -> Result<()> {
    let Attempt { id, epoch, owner, asks, started_at, in_use_since, fenced_at, follows, overtakes } = attempt;
    // Without its answer: one that is recorded belongs to an attempt that ends.
    c.prepare_cached(
        "INSERT OR REPLACE INTO attempt
                (grant_id, id, epoch, owner, asks, started_at, in_use_since, fenced_at, follows, overtakes,
                probe_after)
         VALUES (:grant, :id, :epoch, :owner, :asks, :started_at, :in_use_since, :fenced_at, :follows,
                :overtakes, :probe_after)",
    )?
    .execute(named_params! {
        ":grant": grant.0.as_bytes(),
        ":id": id.0.as_bytes(),
        ":epoch": epoch.0,
        ":owner": owner.0.as_bytes(),
        ":asks": rows::asks_word(*asks),
        ":started_at": started_at.0,
        ":in_use_since": in_use_since.0,
        ":fenced_at": fenced_at.map(|t| t.0),
        ":follows": follows.map(|f| f.as_str()),
        ":overtakes": overtakes.map(|t| t.0),
        ":probe_after": probe_after.map(|t| t.0),
    })
    .map(drop)
}

pub(super) fn delete_attempt(c: &Connection, id: GrantId) -> Result<()> {
    c.prepare_cached("DELETE FROM attempt WHERE grant_id = ?1")?.execute([id.0.as_bytes()]).map(drop)
}

pub(super) fn open(c: &Connection) -> Result<Vec<OpenAttempt>> {
    c.prepare(&format!("SELECT {GRANT_COLUMNS}, a.answer FROM attempt a JOIN grants g ON a.grant_id = g.id"))?
        .query_map([], |row| {
            Ok(OpenAttempt {
                grant: rows::grant(row)?,
                attempt: rows::attempt(row)?,
                answer: rows::answer(row)?,
            })
        })?
        .collect()
}

/// The table of attempts holds what is open and nothing else, so it is small.
pub(super) fn due_probes(
    c: &Connection,
    now: Timestamp,
    orphaned_before: Timestamp,
    after: Option<DueCursor>,
    limit: u32,
) -> Result<Vec<Grant>> {
    let (after_at, after_grant) =
        after.map_or((i64::MIN, Vec::new()), |after| (after.at.0, after.grant.0.as_bytes().to_vec()));
    c.prepare_cached(&format!(
        "SELECT {GRANT_COLUMNS} FROM attempt a JOIN grants g ON a.grant_id = g.id JOIN tenant t ON t.id = g.tenant
         WHERE t.state = 'ACTIVE' AND (
             (g.status = 'IN_DOUBT' AND a.probe_after < ?1) OR (g.status = 'SENDING' AND a.started_at < ?2))
             AND (a.started_at, g.id) > (?3, ?4)
         ORDER BY a.started_at, g.id LIMIT ?5"
    ))?
    .query_map((now.0, orphaned_before.0, after_at, after_grant, limit), rows::grant)?
    .collect()
}
