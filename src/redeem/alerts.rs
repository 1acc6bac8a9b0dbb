//! What a refusal says, as the protocol takes it, and what operators are told.

use crate::domain::grant::{Grant, GrantState};
use crate::domain::protocol::{Alert, Refused, Says};
use crate::idp::{Client, Refusal, RefusalKind};

use super::parts::Parts;

/// A refusal as the protocol takes it.
pub(super) fn facts(refusal: &Refusal) -> Refused {
    let says = match &refusal.kind {
        RefusalKind::InvalidGrant => Says::InvalidGrant,
        RefusalKind::InteractionRequired { claims, error, suberror } => {
            Says::Interaction { claims: claims.clone(), error, suberror }
        }
        RefusalKind::ClientRejected => Says::ClientRejected,
        RefusalKind::Throttled | RefusalKind::Unavailable => Says::Outage,
        RefusalKind::ScopeRejected
        | RefusalKind::Redirected
        | RefusalKind::Malformed
        | RefusalKind::Other => Says::Nothing,
    };
    Refused {
        says,
        proves_unused: refusal.proves_unused,
        complete: refusal.complete,
        retry_after: refusal.retry_after,
    }
}

/// Counts what became of a grant.
pub(super) fn count(parts: &Parts, state: Option<&GrantState>) {
    match state {
        Some(GrantState::Revoked) => parts.metrics.grant_revoked(),
        Some(GrantState::Reauth { .. }) => parts.metrics.grant_reauth(),
        Some(
            GrantState::Active
            | GrantState::Sending(_)
            | GrantState::InDoubt { .. }
            | GrantState::Lost { .. },
        )
        | None => {}
    }
}

/// Tells operators, once.
pub(super) fn tell(parts: &Parts, grant: &Grant, client: &Client, alert: Alert) {
    let tenant = &grant.key.tenant;
    match alert {
        Alert::Lost(cause) => {
            parts.metrics.grant_lost();
            tracing::error!(
                tenant.id = %tenant, grant.id = %grant.id, cause = cause.as_str(),
                "refresh token lost: the user has to consent again"
            );
        }
        // Told of where the answer is read.
        Alert::ClientRejected => {}
        Alert::Unhelpful => {
            parts.metrics.grant_stalled();
            tracing::error!(
                tenant.id = %tenant, client.id = %client.id(), grant.id = %grant.id,
                "the provider answers every request for this grant with nothing that helps: \
                 it is asked again after growing pauses"
            );
        }
    }
}

/// The operator's mistake, wherever it shows. Which one it is the provider's own
/// numbers in `detail` say.
pub(super) fn client_rejected(parts: &Parts, client: &Client, refusal: &Refusal) {
    parts.metrics.client_rejected();
    tracing::error!(
        client.id = %client.id(), provider = client.provider_name(), detail = refusal.detail,
        "the provider rejects the vault's client credentials: check the client's secret or key"
    );
}
