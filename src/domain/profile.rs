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

/// What starts a refresh token's idle time anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IdleClock {
    /// Its issue: a refresh that brings no new token moves nothing.
    Issue,
    /// Every use of it (Google).
    Use,
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
    /// Whether a refresh must ask for `openid`, `profile` and `offline_access`
    /// again, or may bring no new refresh token (Entra).
    pub protocol_scopes_in_refresh: bool,
    /// What starts the idle time anew.
    pub idle_clock: IdleClock,
    /// Whether every access token carries all scopes that were ever consented
    /// to for its resource, whatever was asked (Entra). There the resource is
    /// the border between callers, not the scope.
    pub grants_all_consented: bool,
    /// Whether revoking one refresh token ends the user's whole consent
    /// (Google). Then a token that belongs to no grant is dropped, not revoked.
    pub revocation_ends_consent: bool,
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
            protocol_scopes_in_refresh: false,
            idle_clock: IdleClock::Issue,
            grants_all_consented: false,
            revocation_ends_consent: false,
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
            protocol_scopes_in_refresh: true,
            idle_clock: IdleClock::Issue,
            grants_all_consented: true,
            revocation_ends_consent: false,
        }
    }
}
