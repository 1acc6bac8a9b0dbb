//! What a caller is given, and when in spite of a failure.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::domain::reason::Reason;

use super::cache::IssuedToken;
use super::guard::Pass;

/// An access token on its way to a caller. The pass keeps a purge waiting until
/// it is dropped, so it is held until the answer is made.
#[derive(Debug)]
pub struct Handed {
    /// The token.
    pub token: Arc<IssuedToken>,
    /// When it expires, by the wall clock as it goes now.
    pub expires_at: Timestamp,
    /// Whether it came from memory.
    pub from_cache: bool,
    /// Shows that the tenant is in service.
    pub pass: Pass,
}

/// Whether a token that is still alive is handed out in spite of the failure.
pub(super) fn passes(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::GrantInDoubt
            | Reason::ProviderThrottled
            | Reason::ProviderUnavailable
            | Reason::ProviderBackOff
            | Reason::ProviderRejectedClient
            | Reason::ProviderRefused
            | Reason::StoreUnavailable
            | Reason::TooManyInFlight
            | Reason::VaultOverloaded
    )
}
