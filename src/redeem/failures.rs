//! What each end of an attempt is to its caller.

use crate::clock::Timestamp;
use crate::domain::failure::{Failure, Interaction};
use crate::domain::grant::{Grant, GrantState};
use crate::domain::reason::Reason;
use crate::domain::scope::Claims;
use crate::idp::{Refusal, RefusalKind};
use crate::keyring::KeyringError;
use crate::metrics::RedemptionOutcome;

use super::step::{self, State};

/// What a refused claim is to a caller.
pub(super) fn claim_failure(grant: &Grant, refusal: step::Refusal, now: Timestamp) -> Failure {
    match (&grant.state, refusal) {
        (GrantState::Revoked, _) => Failure::new(Reason::GrantRevoked, "the provider revoked the grant"),
        (GrantState::Lost { cause }, _) => {
            Failure::new(Reason::GrantLost, format!("the refresh token was lost: {}", cause.as_str()))
        }
        (GrantState::Reauth { claims, error, suberror }, _) => interaction(claims.clone(), error, suberror),
        (GrantState::InDoubt { cause, .. }, step::Refusal::NotYet(until)) => {
            Failure::new(Reason::GrantInDoubt, format!("in doubt: {}", cause.as_str()))
                .retry_after(until.since(now))
        }
        (_, step::Refusal::NotYet(until)) => {
            Failure::new(Reason::ProviderUnavailable, "backing off after a failure")
                .retry_after(until.since(now))
        }
        (_, step::Refusal::Busy | step::Refusal::Dead) => {
            Failure::new(Reason::GrantInDoubt, "another attempt owns the refresh token")
                .retry_after(step::BACK_OFF)
        }
    }
}

/// What a provider's refusal is to a caller.
pub(super) fn refusal_failure(refusal: &Refusal, state: &State, now: Timestamp) -> Failure {
    let pause = refusal.retry_after.unwrap_or(step::BACK_OFF);
    let detail = &refusal.detail;
    match &refusal.kind {
        RefusalKind::InvalidGrant => match &state.grant {
            GrantState::Lost { cause } => {
                Failure::new(Reason::GrantLost, format!("{detail}, after a doubt: {}", cause.as_str()))
            }
            GrantState::Active
            | GrantState::Sending(_)
            | GrantState::InDoubt { .. }
            | GrantState::Revoked
            | GrantState::Reauth { .. } => Failure::new(Reason::GrantRevoked, detail.clone()),
        },
        RefusalKind::InteractionRequired { claims, error, suberror } => {
            interaction(claims.clone(), error, suberror)
        }
        RefusalKind::ClientRejected => doubtful(state, now, Reason::ProviderRejectedClient, detail),
        RefusalKind::ScopeRejected => doubtful(state, now, Reason::ProviderRefused, detail),
        RefusalKind::Throttled => Failure::new(Reason::ProviderThrottled, detail.clone()).retry_after(pause),
        RefusalKind::Unavailable | RefusalKind::Redirected | RefusalKind::Malformed => {
            doubtful(state, now, Reason::ProviderUnavailable, detail)
        }
        RefusalKind::Other => doubtful(state, now, Reason::ProviderRefused, detail),
    }
}

/// The failure of a request whose grant may be in doubt now.
pub(super) fn doubtful(state: &State, now: Timestamp, otherwise: Reason, detail: &str) -> Failure {
    match &state.grant {
        GrantState::InDoubt { probe_after, .. } => {
            Failure::new(Reason::GrantInDoubt, detail).retry_after(probe_after.since(now))
        }
        GrantState::Active
        | GrantState::Sending(_)
        | GrantState::Revoked
        | GrantState::Lost { .. }
        | GrantState::Reauth { .. } => {
            let failure = Failure::new(otherwise, detail);
            match otherwise {
                Reason::ProviderUnavailable => failure.retry_after(step::BACK_OFF),
                _ => failure,
            }
        }
    }
}

fn interaction(claims: Option<Claims>, error: &'static str, suberror: &'static str) -> Failure {
    Failure::new(
        Reason::InteractionRequired,
        format!("the provider wants the user to act: {error} {suberror}"),
    )
    .interaction(Interaction { claims, error, suberror })
}

/// How a redemption that ended for this reason is counted.
pub(super) fn outcome_of(reason: Option<Reason>) -> RedemptionOutcome {
    match reason {
        None | Some(Reason::NoAccessToken) => RedemptionOutcome::Renewed,
        Some(Reason::GrantInDoubt) => RedemptionOutcome::InDoubt,
        Some(Reason::GrantRevoked) => RedemptionOutcome::Revoked,
        Some(Reason::GrantLost) => RedemptionOutcome::Lost,
        Some(Reason::InteractionRequired) => RedemptionOutcome::Reauth,
        Some(_) => RedemptionOutcome::Unused,
    }
}

/// What a failing keyring is to a caller.
#[must_use]
pub fn key_failure(error: &KeyringError) -> Failure {
    error.clone().into()
}
