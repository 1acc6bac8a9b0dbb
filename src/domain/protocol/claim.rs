//! Asking for the right to redeem a token.

use crate::clock::Timestamp;
use crate::domain::grant::{Asks, Attempt, Epoch, GrantState};
use crate::domain::profile::Profile;

use super::bounds::{harmless_after, overtaken, too_late_for_grace};
use super::{Claim, Refusal, State};

/// The state in which the attempt owns the token, when it may.
///
/// # Errors
///
/// Why it may not; then nothing changes.
pub fn claim(state: &State, claim: &Claim, profile: &Profile, now: Timestamp) -> Result<State, Refusal> {
    if state.last_attempt == Some(claim.attempt) {
        return Err(Refusal::Over);
    }
    let (epoch, follows, overtakes, in_use_since) = match &state.grant {
        GrantState::Active => match state.not_before {
            Some(until) if now < until => return Err(Refusal::NotYet(until)),
            Some(_) | None => (Epoch(0), None, None, now),
        },
        GrantState::InDoubt { attempt, .. } if attempt.id == claim.attempt => return Err(Refusal::Over),
        GrantState::InDoubt { probe_after, cause, .. }
            if now < *probe_after || (now == *probe_after && cause.may_be_under_way()) =>
        {
            return Err(Refusal::NotYet(*probe_after));
        }
        GrantState::InDoubt { attempt, cause, .. } if too_late_for_grace(attempt, *cause, profile, now) => {
            return Err(Refusal::NotYet(harmless_after(attempt)));
        }
        GrantState::InDoubt { .. } if claim.asks == Asks::Target => return Err(Refusal::OwnRequestFirst),
        GrantState::InDoubt { attempt, cause, .. } => {
            let overtakes = overtaken(attempt, *cause, now);
            let in_use_since = if cause.may_be_under_way() { attempt.in_use_since } else { now };
            (Epoch(attempt.epoch.0.saturating_add(1)), Some(*cause), overtakes, in_use_since)
        }
        // The claim's own acknowledgement was lost.
        GrantState::Sending(attempt) if attempt.id == claim.attempt => return Ok(state.clone()),
        GrantState::Sending(_) => return Err(Refusal::Busy),
        GrantState::Revoked | GrantState::Lost { .. } | GrantState::Reauth { .. } => {
            return Err(Refusal::Dead);
        }
    };
    let attempt = Attempt {
        id: claim.attempt,
        epoch,
        owner: claim.owner,
        asks: claim.asks,
        started_at: now,
        in_use_since,
        fenced_at: claim.fenced_at,
        follows,
        overtakes,
    };
    Ok(State { grant: GrantState::Sending(attempt), not_before: None, ..state.clone() })
}
