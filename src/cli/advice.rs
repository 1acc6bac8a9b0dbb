//! What to do about a failure. It depends on the reason, and where the same
//! reason stands in the way of different things, on the command.

use crate::client::{Refusal, Trouble};
use crate::domain::reason::Reason;

use super::Exit;

/// What a command wants of the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// An access token.
    Reading,
    /// A new grant.
    Enrolling,
    /// To see something.
    Looking,
    /// The end of a grant.
    Revoking,
    /// A new tenant.
    Creating,
    /// A new key version, a scheduled purge, or the end of either.
    Managing,
    /// The end of a tenant.
    Purging,
    /// A run of the rotation job.
    Rotating,
}

/// What to do about a refusal; `claims` says whether claims came with it.
pub(super) fn what_to_do(reason: Reason, doing: Doing, claims: bool) -> &'static str {
    match reason {
        Reason::InvalidRequest => "correct the value named above",
        Reason::AssertionMalformed => "hand in the user's access token as it came: a JWT, nothing around it",
        Reason::AssertionRejected => {
            "hand in an access token that the provider made out to this vault (issuer and audience as configured)"
        }
        Reason::AssertionAlgorithmRefused => {
            "hand in a token signed with RS256, PS256, ES256 or another public-key algorithm"
        }
        Reason::AssertionKeyUnknown => {
            "hand in a token of the configured provider, or have its jwks_uri checked"
        }
        Reason::AssertionRefusedByProvider => {
            "get a fresh access token of the user; the vault's log has the provider's words"
        }
        Reason::AssertionExpired => "get a fresh access token of the user and try again",
        Reason::ScopeNotGranted => {
            "ask for scopes within the grant, or exchange again with the scopes needed"
        }
        Reason::PageTokenInvalid => "begin again without a page token",
        Reason::WindowInvalid => "choose a window of 0 to 30 days",
        Reason::ConfirmationMismatch => "give the tenant's name as the confirmation",
        Reason::CallerUnidentified => {
            "use a certificate with exactly one URI name, or one DNS name, from the CA the vault trusts"
        }
        Reason::NotPermitted => "have an operator permit it in the vault's policy",
        Reason::GrantedScopesNotPermitted => {
            "have an operator compare the token's scopes in the audit log with the policy"
        }
        Reason::TooManyInFlight => "wait, and ask for fewer things of one grant at once",
        Reason::TenantNotFound => "check the tenant's name (`obo-vault tenant list` shows those there are)",
        Reason::ClientNotFound => "check the client's name against the vault's configuration",
        Reason::GrantNotFound => no_grant(doing),
        Reason::TenantExists => "nothing needs to be done if it is the tenant you mean",
        Reason::TenantNameTaken => "use the tenant's name as it is written in `obo-vault tenant list`",
        Reason::TenantPurged => after_a_purge(doing),
        Reason::TenantPurgeScheduled => before_a_purge(doing),
        Reason::PurgeNotScheduled => "nothing needs to be done: no purge is scheduled",
        Reason::PurgeProtected => "schedule the purge instead, or have the configuration changed",
        Reason::PurgeIncomplete => "repeat the purge until it says that it is complete",
        Reason::InteractionRequired if claims => {
            "send the user to the provider with the claims above, then exchange the new access token"
        }
        Reason::InteractionRequired => {
            "send the user to the provider to sign in again, then exchange the new access token"
        }
        Reason::GrantRevoked => "have the user sign in again, then exchange the new access token",
        Reason::GrantLost => "have the user sign in again, then exchange the new access token",
        Reason::GrantInDoubt if doing == Doing::Enrolling => {
            "repeat the same after the pause, and not before"
        }
        Reason::GrantInDoubt => "wait: the vault finds out by itself",
        Reason::IssuerChanged => "have the provider's settings put back, or have the user sign in again",
        Reason::IdentityUnproven => {
            "stop importing, have an operator look into the vault's log, then repeat this import"
        }
        Reason::IdentityMismatch => "check the subject: the token belongs to another user",
        Reason::NoRefreshToken => "have the client registered at the provider for offline access",
        Reason::NoAccessToken => "look into the vault's log: the provider's answer has no access token",
        Reason::ProviderRefused => "look into the vault's log for the provider's reason",
        Reason::ProviderThrottled => "wait: the provider asked for a pause",
        Reason::ProviderUnavailable => "wait, and look at the provider's state",
        Reason::ProviderBackOff => "wait: the vault asks the provider again after the pause",
        Reason::ProviderKeysUnusable => "have an operator check what the provider's jwks_uri answers",
        Reason::ProviderRejectedClient => {
            "have an operator renew the client's secret or key in the vault's configuration"
        }
        Reason::GrantUnreadable => "have an operator look into it: stored data was changed or moved",
        Reason::RestoreUnconfirmed => {
            "have an operator put the newest database back, or confirm this one: obo-vault store confirm-restore"
        }
        Reason::KeyUnavailable => "have an operator check the key store and the root key",
        Reason::AuditUnavailable => "have an operator make the audit file writable; nothing was done",
        Reason::StoreUnavailable => "have an operator check the database and the disk",
        Reason::MessageTooLarge => "send less, or have server.max_message_bytes raised",
        Reason::MethodUnknown => "use a client of the vault's own version",
        Reason::VaultOverloaded => "wait, or have an operator raise the limit named in the vault's log",
        Reason::Internal => "report it with the vault's log lines of this time",
    }
}

fn after_a_purge(doing: Doing) -> &'static str {
    match doing {
        Doing::Reading => "stop asking: the tenant's tokens are gone for good, and none can be got again",
        Doing::Enrolling => "stop enrolling its users: the tenant is gone for good",
        Doing::Revoking => "nothing needs to be done: the tenant's grants went with it",
        Doing::Creating => "choose another name: a purged tenant's is not given out again",
        Doing::Looking | Doing::Managing | Doing::Purging | Doing::Rotating => {
            "nothing can be done: the tenant was purged, its keys are destroyed"
        }
    }
}

fn before_a_purge(doing: Doing) -> &'static str {
    match doing {
        Doing::Reading | Doing::Enrolling => {
            "stop asking until an operator says otherwise: the tenant is to be purged"
        }
        Doing::Looking
        | Doing::Revoking
        | Doing::Creating
        | Doing::Managing
        | Doing::Purging
        | Doing::Rotating => "take the purge back first with `obo-vault tenant restore`, if it is a mistake",
    }
}

fn no_grant(doing: Doing) -> &'static str {
    match doing {
        Doing::Revoking => "nothing needs to be done if the names are right: there is nothing to revoke",
        Doing::Reading
        | Doing::Enrolling
        | Doing::Looking
        | Doing::Creating
        | Doing::Managing
        | Doing::Purging
        | Doing::Rotating => {
            "check tenant, subject and client, or have the user sign in and exchange the access token"
        }
    }
}

/// What to do about a connection, and how a script is told.
pub(super) fn about(trouble: &Trouble, endpoint: &str) -> (Exit, String) {
    match trouble {
        Trouble::UnknownHost(_) => {
            (Exit::TryAgain, "check the host in --endpoint, and the machine's name server".to_owned())
        }
        Trouble::Refused => (Exit::TryAgain, format!("is the vault running at {endpoint}? See --endpoint")),
        Trouble::Unreachable(_) => (Exit::TryAgain, format!("check the network between here and {endpoint}")),
        Trouble::Ended => (
            Exit::TryAgain,
            "is the vault still running? Repeat the command; what was begun may have been done".to_owned(),
        ),
        Trouble::SpeaksTls => {
            (Exit::Configuration, "use https:// in --endpoint, and --ca, --cert and --key with it".to_owned())
        }
        Trouble::SpeaksPlainText => (
            Exit::Configuration,
            "use http:// in --endpoint if the vault serves plain text on loopback; or is the port another's?"
                .to_owned(),
        ),
        Trouble::SpeaksOther => (
            Exit::Configuration,
            "check host and port in --endpoint: it is no vault that listens there".to_owned(),
        ),
        Trouble::UnknownIssuer => (
            Exit::Configuration,
            "give the authority that issued the vault's certificate with --ca".to_owned(),
        ),
        Trouble::WrongName { .. } => (
            Exit::Configuration,
            "use one of the certificate's names in --endpoint, or name it with --server-name".to_owned(),
        ),
        Trouble::ServerExpired => (
            Exit::MustAct,
            "have an operator renew the vault's certificate; check this machine's clock".to_owned(),
        ),
        Trouble::ServerNotYetValid => {
            (Exit::MustAct, "check this machine's clock, and the certificate's dates".to_owned())
        }
        Trouble::ServerCertificate(_) => {
            (Exit::Configuration, "have an operator give the vault another certificate".to_owned())
        }
        Trouble::ClientCertificate(refusal) => (Exit::NotPermitted, another_certificate(*refusal).to_owned()),
        Trouble::Tls(_) => (
            Exit::Configuration,
            "is it the vault that listens there? The vault's log says why a handshake failed".to_owned(),
        ),
    }
}

fn another_certificate(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Expired => "renew the certificate that --cert names",
        Refusal::UnknownIssuer => {
            "use a certificate of an authority that the vault's configuration names for callers"
        }
        Refusal::Purpose => "use a certificate for client use (extended key usage clientAuth)",
        Refusal::Revoked => "get another certificate for --cert and --key",
        Refusal::Missing | Refusal::Other => {
            "is it issued by an authority the vault trusts, for client use, not expired, and with one name? \
             The vault's log says why it was refused"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_purge_nobody_is_told_to_choose_a_name_but_who_chooses_one() {
        let advice = |doing| what_to_do(Reason::TenantPurged, doing, false);
        assert!(advice(Doing::Creating).contains("another name"));
        for doing in [Doing::Reading, Doing::Enrolling, Doing::Looking, Doing::Revoking, Doing::Managing] {
            assert!(!advice(doing).contains("another name"), "{doing:?}");
        }
        assert!(advice(Doing::Reading).contains("stop asking"));
    }

    #[test]
    fn claims_are_spoken_of_where_there_are_some() {
        let advice = |claims| what_to_do(Reason::InteractionRequired, Doing::Reading, claims);
        assert!(advice(true).contains("claims"));
        assert!(!advice(false).contains("claims"));
    }
}
