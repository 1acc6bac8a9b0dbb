//! What each end of an attempt is to its caller.

use crate::clock::Timestamp;
use crate::domain::failure::{Failure, Interaction};
use crate::domain::grant::{Grant, GrantState};
use crate::domain::id::TenantId;
use crate::domain::protocol::Refusal as ClaimRefusal;
use crate::domain::protocol::bounds::BACK_OFF;
use crate::domain::reason::Reason;
use crate::domain::scope::Claims;
use crate::idp::{Refusal, RefusalKind};
use crate::metrics::RedemptionOutcome;
use crate::store::Store;

use super::guard::in_service;

/// What a refused claim is to a caller.
pub(super) fn claim_failure(grant: &Grant, refusal: ClaimRefusal, now: Timestamp) -> Failure {
    match (&grant.state, refusal) {
        (GrantState::Revoked, _) => Failure::new(Reason::GrantRevoked, "the provider revoked the grant"),
        (GrantState::Lost { cause }, _) => {
            Failure::new(Reason::GrantLost, format!("the refresh token was lost: {}", cause.as_str()))
        }
        (GrantState::Reauth { claims, error, suberror }, _) => interaction(claims.clone(), error, suberror),
        (GrantState::InDoubt { cause, .. }, ClaimRefusal::NotYet(until)) => {
            Failure::new(Reason::GrantInDoubt, format!("the outcome is not known: {}", cause.as_str()))
                .retry_after(until.since(now))
        }
        (_, ClaimRefusal::NotYet(until)) => {
            Failure::new(Reason::ProviderBackOff, "backing off after a failure").retry_after(until.since(now))
        }
        (_, ClaimRefusal::Busy | ClaimRefusal::Dead | ClaimRefusal::OwnRequestFirst | ClaimRefusal::Over) => {
            Failure::new(Reason::GrantInDoubt, "another attempt owns the refresh token").retry_after(BACK_OFF)
        }
    }
}

/// What a provider's refusal of the grant's own request is to a caller; `grant`
/// is as it is afterwards.
pub(super) fn refusal_failure(refusal: &Refusal, grant: Option<&Grant>, now: Timestamp) -> Failure {
    let detail = &refusal.detail;
    match &refusal.kind {
        RefusalKind::InvalidGrant => match grant.map(|grant| &grant.state) {
            Some(GrantState::Lost { cause }) => {
                Failure::new(Reason::GrantLost, format!("{detail}, after {}", cause.as_str()))
            }
            Some(GrantState::InDoubt { .. }) => unknown_outcome(grant, now, Reason::ProviderRefused, detail),
            _ => Failure::new(Reason::GrantRevoked, detail.clone()),
        },
        RefusalKind::InteractionRequired { claims, error, suberror } => {
            interaction(claims.clone(), error, suberror)
        }
        RefusalKind::ClientRejected => unknown_outcome(grant, now, Reason::ProviderRejectedClient, detail),
        RefusalKind::Throttled => Failure::new(Reason::ProviderThrottled, detail.clone())
            .retry_after(refusal.retry_after.unwrap_or(BACK_OFF)),
        RefusalKind::Unavailable | RefusalKind::Redirected | RefusalKind::Malformed => {
            unknown_outcome(grant, now, Reason::ProviderUnavailable, detail)
        }
        RefusalKind::ScopeRejected | RefusalKind::Other => {
            unknown_outcome(grant, now, Reason::ProviderRefused, detail)
        }
    }
}

/// What a provider's refusal of a caller's choice is to that caller. It says
/// nothing of the grant.
pub(super) fn target_failure(refusal: &Refusal) -> Failure {
    match &refusal.kind {
        RefusalKind::InteractionRequired { claims, error, suberror } => {
            interaction(claims.clone(), error, suberror)
        }
        RefusalKind::ClientRejected => Failure::new(Reason::ProviderRejectedClient, refusal.detail.clone()),
        RefusalKind::Throttled => Failure::new(Reason::ProviderThrottled, refusal.detail.clone())
            .retry_after(refusal.retry_after.unwrap_or(BACK_OFF)),
        RefusalKind::Unavailable | RefusalKind::Redirected | RefusalKind::Malformed => {
            Failure::new(Reason::ProviderUnavailable, refusal.detail.clone()).retry_after(BACK_OFF)
        }
        RefusalKind::InvalidGrant | RefusalKind::ScopeRejected | RefusalKind::Other => Failure::new(
            Reason::ProviderRefused,
            format!("the scopes, the resource or the claims asked for were refused: {}", refusal.detail),
        ),
    }
}

/// The failure of a request whose outcome may be unknown now.
pub(super) fn unknown_outcome(
    grant: Option<&Grant>,
    now: Timestamp,
    otherwise: Reason,
    detail: &str,
) -> Failure {
    match grant.map(|grant| (&grant.state, grant.not_before)) {
        Some((GrantState::InDoubt { probe_after, .. }, _)) => {
            Failure::new(Reason::GrantInDoubt, detail).retry_after(probe_after.since(now))
        }
        Some((_, Some(until))) if until > now => {
            Failure::new(otherwise, detail).retry_after(until.since(now))
        }
        Some(_) | None => {
            let failure = Failure::new(otherwise, detail);
            match otherwise {
                Reason::ProviderUnavailable => failure.retry_after(BACK_OFF),
                _ => failure,
            }
        }
    }
}

/// A request of which no byte was written.
pub(super) fn not_sent(detail: String, overloaded: bool) -> Failure {
    let reason = if overloaded { Reason::VaultOverloaded } else { Reason::ProviderUnavailable };
    Failure::new(reason, detail).retry_after(BACK_OFF)
}

/// An answer that belongs to nobody any more: why.
pub(super) async fn gone_failure(store: &dyn Store, tenant: &TenantId) -> Failure {
    match store.tenant(tenant).await.map_err(Failure::from).and_then(in_service) {
        Err(failure) => failure,
        Ok(_) => Failure::new(Reason::GrantNotFound, "the grant was revoked or replaced meanwhile"),
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
