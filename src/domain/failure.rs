//! A refused or failed operation on its way to the caller.
//!
//! The caller gets the reason, a constant text for it, and what it needs to go
//! on: a delay or the provider's claims. The detail goes to the log only; it is
//! written by the vault's own code and never holds a secret.

use std::fmt;
use std::time::Duration;

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

impl Failure {
    /// A failure with its detail for the log.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, retry_after: None, interaction: None, detail: detail.into() }
    }

    /// Says when a retry can succeed.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
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
