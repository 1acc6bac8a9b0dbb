//! Why something was refused or failed, in words that stay the same. They are
//! what callers' code and alerts match on; docs/ERRORS.md explains each.

/// A stable reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// A field is missing or breaks its rule.
    InvalidRequest,
    /// The user's access token is not a JWT the vault can read.
    AssertionMalformed,
    /// Its signature, issuer or audience is not the configured one, or it has
    /// no usable tenant or subject.
    AssertionRejected,
    /// It is signed with an algorithm the vault does not accept.
    AssertionAlgorithmRefused,
    /// It is signed with a key that the provider does not publish.
    AssertionKeyUnknown,
    /// The provider itself refused to exchange it.
    AssertionRefusedByProvider,
    /// It has expired.
    AssertionExpired,
    /// A scope or the resource is outside what was granted and asked for.
    ScopeNotGranted,
    /// The page token is not one the vault gave out for this request.
    PageTokenInvalid,
    /// The purge window is outside 0 to 30 days.
    WindowInvalid,
    /// The confirmation is not the tenant's name.
    ConfirmationMismatch,
    /// The caller has no identity the vault accepts, or more than one.
    CallerUnidentified,
    /// The policy does not permit it.
    NotPermitted,
    /// The token would carry scopes that the policy does not permit this caller.
    GrantedScopesNotPermitted,
    /// This caller has too many requests for one grant under way, or too many
    /// targets of it refused.
    TooManyInFlight,
    /// No such tenant.
    TenantNotFound,
    /// No such client in the configuration.
    ClientNotFound,
    /// No such grant, or not for this caller.
    GrantNotFound,
    /// The tenant exists.
    TenantExists,
    /// Another tenant's name differs from this one in case only.
    TenantNameTaken,
    /// The tenant is gone for good.
    TenantPurged,
    /// The tenant is out of service until restored.
    TenantPurgeScheduled,
    /// There is no scheduled purge to take back.
    PurgeNotScheduled,
    /// The configuration forbids an immediate purge, or one with so short a window.
    PurgeProtected,
    /// The keys are gone, but a file could not be cleaned yet.
    PurgeIncomplete,
    /// The provider wants the user to act.
    InteractionRequired,
    /// The provider revoked the grant.
    GrantRevoked,
    /// The grant's refresh token was lost with an unknown outcome.
    GrantLost,
    /// Whether the refresh token was used is not known yet.
    GrantInDoubt,
    /// The grant came from another issuer than its client is configured for now.
    IssuerChanged,
    /// The provider's answer to an import does not say who the user is, as far as
    /// the vault understands it. The import is held.
    IdentityUnproven,
    /// The provider's answer to an import names another user.
    IdentityMismatch,
    /// The provider issued no refresh token at the enrolment.
    NoRefreshToken,
    /// The provider answered without an access token.
    NoAccessToken,
    /// The provider refused the request for another reason.
    ProviderRefused,
    /// The provider asked for a pause.
    ProviderThrottled,
    /// The provider cannot be reached or failed.
    ProviderUnavailable,
    /// The vault waits before it asks the provider again after a failure.
    ProviderBackOff,
    /// The provider's published keys cannot be used as they are.
    ProviderKeysUnusable,
    /// The provider rejected the vault's own client credentials.
    ProviderRejectedClient,
    /// The sealed token cannot be opened: tampered with, moved or rolled back.
    GrantUnreadable,
    /// A key of the tenant is unavailable.
    KeyUnavailable,
    /// The token store is an older copy, and no operator has confirmed it.
    RestoreUnconfirmed,
    /// The audit log cannot be written; nothing was done.
    AuditUnavailable,
    /// The store cannot be read or written.
    StoreUnavailable,
    /// The vault itself is short of a resource, for example of file descriptors.
    VaultOverloaded,
    /// The request is larger than the vault takes.
    MessageTooLarge,
    /// There is no such method.
    MethodUnknown,
    /// A defect in the vault.
    Internal,
}

impl Reason {
    /// Every reason, in the order of the enum.
    pub const ALL: [Self; 49] = [
        Self::InvalidRequest,
        Self::AssertionMalformed,
        Self::AssertionRejected,
        Self::AssertionAlgorithmRefused,
        Self::AssertionKeyUnknown,
        Self::AssertionRefusedByProvider,
        Self::AssertionExpired,
        Self::ScopeNotGranted,
        Self::PageTokenInvalid,
        Self::WindowInvalid,
        Self::ConfirmationMismatch,
        Self::CallerUnidentified,
        Self::NotPermitted,
        Self::GrantedScopesNotPermitted,
        Self::TooManyInFlight,
        Self::TenantNotFound,
        Self::ClientNotFound,
        Self::GrantNotFound,
        Self::TenantExists,
        Self::TenantNameTaken,
        Self::TenantPurged,
        Self::TenantPurgeScheduled,
        Self::PurgeNotScheduled,
        Self::PurgeProtected,
        Self::PurgeIncomplete,
        Self::InteractionRequired,
        Self::GrantRevoked,
        Self::GrantLost,
        Self::GrantInDoubt,
        Self::IssuerChanged,
        Self::IdentityUnproven,
        Self::IdentityMismatch,
        Self::NoRefreshToken,
        Self::NoAccessToken,
        Self::ProviderRefused,
        Self::ProviderThrottled,
        Self::ProviderUnavailable,
        Self::ProviderBackOff,
        Self::ProviderKeysUnusable,
        Self::ProviderRejectedClient,
        Self::GrantUnreadable,
        Self::KeyUnavailable,
        Self::RestoreUnconfirmed,
        Self::AuditUnavailable,
        Self::StoreUnavailable,
        Self::VaultOverloaded,
        Self::MessageTooLarge,
        Self::MethodUnknown,
        Self::Internal,
    ];

    /// The word on the wire, in the audit log and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::AssertionMalformed => "ASSERTION_MALFORMED",
            Self::AssertionRejected => "ASSERTION_REJECTED",
            Self::AssertionAlgorithmRefused => "ASSERTION_ALGORITHM_REFUSED",
            Self::AssertionKeyUnknown => "ASSERTION_KEY_UNKNOWN",
            Self::AssertionRefusedByProvider => "ASSERTION_REFUSED_BY_PROVIDER",
            Self::AssertionExpired => "ASSERTION_EXPIRED",
            Self::ScopeNotGranted => "SCOPE_NOT_GRANTED",
            Self::PageTokenInvalid => "PAGE_TOKEN_INVALID",
            Self::WindowInvalid => "WINDOW_INVALID",
            Self::ConfirmationMismatch => "CONFIRMATION_MISMATCH",
            Self::CallerUnidentified => "CALLER_UNIDENTIFIED",
            Self::NotPermitted => "NOT_PERMITTED",
            Self::GrantedScopesNotPermitted => "GRANTED_SCOPES_NOT_PERMITTED",
            Self::TooManyInFlight => "TOO_MANY_IN_FLIGHT",
            Self::TenantNotFound => "TENANT_NOT_FOUND",
            Self::ClientNotFound => "CLIENT_NOT_FOUND",
            Self::GrantNotFound => "GRANT_NOT_FOUND",
            Self::TenantExists => "TENANT_EXISTS",
            Self::TenantNameTaken => "TENANT_NAME_TAKEN",
            Self::TenantPurged => "TENANT_PURGED",
            Self::TenantPurgeScheduled => "TENANT_PURGE_SCHEDULED",
            Self::PurgeNotScheduled => "PURGE_NOT_SCHEDULED",
            Self::PurgeProtected => "PURGE_PROTECTED",
            Self::PurgeIncomplete => "PURGE_INCOMPLETE",
            Self::InteractionRequired => "INTERACTION_REQUIRED",
            Self::GrantRevoked => "GRANT_REVOKED",
            Self::GrantLost => "GRANT_LOST",
            Self::GrantInDoubt => "GRANT_IN_DOUBT",
            Self::IssuerChanged => "ISSUER_CHANGED",
            Self::IdentityUnproven => "IDENTITY_UNPROVEN",
            Self::IdentityMismatch => "IDENTITY_MISMATCH",
            Self::NoRefreshToken => "NO_REFRESH_TOKEN",
            Self::NoAccessToken => "NO_ACCESS_TOKEN",
            Self::ProviderRefused => "PROVIDER_REFUSED",
            Self::ProviderThrottled => "PROVIDER_THROTTLED",
            Self::ProviderUnavailable => "PROVIDER_UNAVAILABLE",
            Self::ProviderBackOff => "PROVIDER_BACK_OFF",
            Self::ProviderKeysUnusable => "PROVIDER_KEYS_UNUSABLE",
            Self::ProviderRejectedClient => "PROVIDER_REJECTED_CLIENT",
            Self::GrantUnreadable => "GRANT_UNREADABLE",
            Self::KeyUnavailable => "KEY_UNAVAILABLE",
            Self::RestoreUnconfirmed => "RESTORE_UNCONFIRMED",
            Self::AuditUnavailable => "AUDIT_UNAVAILABLE",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
            Self::VaultOverloaded => "VAULT_OVERLOADED",
            Self::MessageTooLarge => "MESSAGE_TOO_LARGE",
            Self::MethodUnknown => "METHOD_UNKNOWN",
            Self::Internal => "INTERNAL",
        }
    }
}
