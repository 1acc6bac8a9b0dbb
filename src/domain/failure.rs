//! A refused or failed operation on its way to the caller.
//!
//! The caller gets the reason, a constant text for it, and what it needs to go
//! on: a delay or the provider's claims. The detail goes to the log only; it is
//! written by the vault's own code and never holds a secret.

use std::fmt;
use std::time::Duration;

use super::chain::error_chain;
use super::reason::Reason;
use super::scope::Claims;

/// Why an operation was refused or failed.
#[derive(Debug, Clone)]
pub struct Failure {
    reason: Reason,
    retry_after: Option<Duration>,
    interaction: Option<Box<Interaction>>,
    detail: String,
}

/// What the user has to do at the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interaction {
    /// What to pass on in the authorization request.
    pub claims: Option<Claims>,
    /// The provider's `error`, as far as the vault knows the word.
    pub error: &'static str,
    /// The provider's `suberror`, as far as the vault knows the word.
    pub suberror: &'static str,
}

/// The provider's `error` or `suberror` as far as the vault knows the word:
/// "" stays "", an unknown one becomes "other". A provider's own text never
/// goes further than this.
#[must_use]
pub fn known_word(word: &str) -> &'static str {
    const WORDS: [&str; 27] = [
        "",
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "invalid_target",
        "interaction_required",
        "login_required",
        "consent_required",
        "account_selection_required",
        "mfa_required",
        "access_denied",
        "server_error",
        "temporarily_unavailable",
        "slow_down",
        "invalid_resource",
        "basic_action",
        "additional_action",
        "message_only",
        "user_password_expired",
        "bad_token",
        "token_expired",
        "client_mismatch",
        "protection_policy_required",
        "device_authentication_failed",
    ];
    WORDS.into_iter().find(|known| *known == word).unwrap_or("other")
}

impl Failure {
    /// A failure with its detail for the log.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, retry_after: None, interaction: None, detail: detail.into() }
    }

    /// A failure whose detail is an error's text and that of all its causes.
    #[must_use]
    pub fn because(reason: Reason, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(reason, error_chain(error))
    }

    /// Says when a retry can succeed.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Says that a retry may do harm.
    #[must_use]
    pub fn without_retry(mut self) -> Self {
        self.retry_after = None;
        self
    }

    /// Says what the user has to do.
    #[must_use]
    pub fn interaction(mut self, interaction: Interaction) -> Self {
        self.interaction = Some(Box::new(interaction));
        self
    }

    /// The stable reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// When a retry can succeed.
    #[must_use]
    pub fn retry_delay(&self) -> Option<Duration> {
        self.retry_after
    }

    /// What the user has to do.
    #[must_use]
    pub fn required_interaction(&self) -> Option<&Interaction> {
        self.interaction.as_deref()
    }

    /// The detail, for the log.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.detail)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text, and the cause where there is one.
    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Layer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            self.1.as_deref().map(|inner| inner as _)
        }
    }

    #[test]
    fn a_failure_tells_every_cause_once() {
        let disk = Layer("no space left", None);
        let store = Layer("store: commit 1: no space left", Some(Box::new(disk)));
        let keyring = Layer("the key store failed", Some(Box::new(store)));
        let failure = Failure::because(Reason::StoreUnavailable, &keyring);
        assert_eq!(failure.detail(), "the key store failed: store: commit 1: no space left");
    }
}
