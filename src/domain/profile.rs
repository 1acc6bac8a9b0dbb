//! How a provider behaves, as data. Nothing in the vault asks which provider
//! it talks to; it asks the profile.

use std::time::Duration;

/// What a provider does when it sees an old refresh token again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reuse {
    /// It revokes the whole family (Okta, Keycloak, Ory Hydra by default).
    Strict,
    /// It accepts the one before the newest for a while (Auth0, Cognito).
    Grace {
        /// For how long after the newer one was issued.
        window: Duration,
    },
    /// An old one stays valid (Entra, Google).
    Tolerated,
}

/// The behaviour of one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// What it does with an old refresh token.
    pub reuse: Reuse,
    /// Whether `401 invalid_client` and `unauthorized_client` prove that the
    /// refresh token was not looked at.
    pub client_error_proves_unused: bool,
    /// Whether 429 and 503 with Retry-After prove the same.
    pub throttle_proves_unused: bool,
    /// How long past its `exp` the provider accepts a `client_assertion`.
    pub assertion_tolerance: Duration,
    /// How long an unused refresh token lives.
    pub idle_lifetime: Option<Duration>,
    /// How long a grant lives in any case.
    pub absolute_lifetime: Option<Duration>,
    /// Whether one refresh token gives access tokens for any resource (Entra),
    /// or only within the scopes it was granted.
    pub multi_resource: bool,
}

impl Profile {
    /// A provider that revokes the family on reuse and of which nothing better
    /// is known: the safe choice.
    #[must_use]
    pub fn strict() -> Self {
        Self {
            reuse: Reuse::Strict,
            client_error_proves_unused: false,
            throttle_proves_unused: false,
            assertion_tolerance: Duration::from_secs(60),
            idle_lifetime: None,
            absolute_lifetime: None,
            multi_resource: false,
        }
    }

    /// A provider that accepts the previous token for `window`.
    #[must_use]
    pub fn grace(window: Duration) -> Self {
        Self { reuse: Reuse::Grace { window }, ..Self::strict() }
    }

    /// A provider whose old tokens stay valid, as Entra's do: 90 days idle, one
    /// token for all resources.
    #[must_use]
    pub fn tolerant() -> Self {
        Self {
            reuse: Reuse::Tolerated,
            client_error_proves_unused: true,
            throttle_proves_unused: true,
            assertion_tolerance: Duration::from_secs(300),
            idle_lifetime: Some(Duration::from_secs(90 * 86_400)),
            absolute_lifetime: None,
            multi_resource: true,
        }
    }
}
