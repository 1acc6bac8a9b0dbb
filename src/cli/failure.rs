//! What went wrong, for the person at the terminal: what failed, the stable
//! reason, what to do; and the exit code for the script around it.

use std::fmt;
use std::time::Duration;

use tonic::Code;
use tonic_types::StatusExt as _;

use crate::client::interaction;
use crate::domain::reason::Reason;
use crate::proto::InteractionRequired;

use super::Exit;
use super::harmless::harmless;

/// A command that failed.
#[derive(Debug)]
pub struct CliFailure {
    exit: Exit,
    lines: Vec<String>,
}

impl CliFailure {
    /// A failure with its text.
    pub(super) fn new(exit: Exit, what: impl fmt::Display) -> Self {
        Self { exit, lines: vec![what.to_string()] }
    }

    /// Adds a line of advice.
    pub(super) fn advice(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// The exit code.
    pub(super) fn exit(&self) -> Exit {
        self.exit
    }
}

/// `error: …`, then one line each for the reason and what to do.
impl fmt::Display for CliFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, line) in self.lines.iter().enumerate() {
            match i {
                0 => write!(f, "error: {line}")?,
                _ => write!(f, "\n  {line}")?,
            }
        }
        Ok(())
    }
}

#[expect(clippy::disallowed_types, reason = "reads the vault's answer; makes none")]
impl From<tonic::Status> for CliFailure {
    fn from(status: tonic::Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let word = info.map(|info| info.reason.clone()).unwrap_or_default();
        let request = info.and_then(|info| info.metadata.get("request_id"));
        let reason = Reason::ALL.into_iter().find(|r| r.as_str() == word);
        let delay = details.retry_info().and_then(|retry| retry.retry_delay);

        let mut failure = Self::new(exit_of(status.code()), harmless(status.message()));
        if word.is_empty() {
            failure = failure.advice(format!("code: {:?}", status.code()));
        } else {
            failure = failure.advice(format!("reason: {}", harmless(&word)));
        }
        if let Some(interaction) = interaction(status.details()) {
            failure = failure.explain(&interaction);
        }
        for broken in details.bad_request().map(|b| b.field_violations.as_slice()).unwrap_or_default() {
            failure = failure.advice(harmless(&broken.description));
        }
        if let Some(delay) = delay {
            failure = failure.advice(format!("try again in {}", span(delay)));
        }
        if let Some(request) = request {
            failure = failure.advice(format!("request id in the vault's log: {}", harmless(request)));
        }
        match reason.map(what_to_do) {
            Some(advice) => failure.advice(advice),
            None if matches!(status.code(), Code::Cancelled | Code::Unknown) => {
                // The vault ends a connection whose certificate it does not take
                // before there is a call that could carry a reason.
                failure.exit = Exit::NotPermitted;
                failure.advice(
                    "the connection ended before an answer: is the certificate issued by the vault's \
                     client_ca_file, for client use, and not expired? The vault's log says why",
                )
            }
            None => failure,
        }
    }
}

impl CliFailure {
    fn explain(mut self, interaction: &InteractionRequired) -> Self {
        let InteractionRequired { claims, error, suberror } = interaction;
        for (name, value) in [("provider error", error), ("provider suberror", suberror), ("claims", claims)]
        {
            if !value.is_empty() {
                self = self.advice(format!("{name}: {}", harmless(value)));
            }
        }
        self
    }
}

fn span(delay: Duration) -> String {
    if delay < Duration::from_secs(1) {
        format!("{} ms", delay.as_millis())
    } else {
        format!("{} s", delay.as_millis().div_ceil(1000))
    }
}

/// The vault chooses the code by what its caller will do, and so does a script.
fn exit_of(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Ok,
        Code::PermissionDenied | Code::Unauthenticated => Exit::NotPermitted,
        Code::NotFound => Exit::NotFound,
        Code::FailedPrecondition => Exit::MustAct,
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Aborted => {
            Exit::TryAgain
        }
        Code::InvalidArgument | Code::AlreadyExists | Code::OutOfRange => Exit::InvalidArgument,
        Code::Cancelled | Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => {
            Exit::Unexpected
        }
    }
}

fn what_to_do(reason: Reason) -> &'static str {
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
        Reason::TenantNotFound => "check the tenant's name, or create it with `obo-vault tenant create`",
        Reason::ClientNotFound => "check the client's name against the vault's configuration",
        Reason::GrantNotFound => "check tenant, subject and client, or take the grant in first",
        Reason::TenantExists => "nothing needs to be done if it is the tenant you mean",
        Reason::TenantNameTaken => "use the tenant's name as it is written in `obo-vault tenant list`",
        Reason::TenantPurged => "choose another name: a purged tenant's is not given out again",
        Reason::TenantPurgeScheduled => "take the purge back first with `obo-vault tenant restore`",
        Reason::PurgeNotScheduled => "nothing needs to be done: no purge is scheduled",
        Reason::PurgeProtected => "schedule the purge instead, or have the configuration changed",
        Reason::PurgeIncomplete => "repeat the purge until it says that it is complete",
        Reason::InteractionRequired => {
            "send the user to the provider with the claims above, then exchange the new access token"
        }
        Reason::GrantRevoked => "have the user sign in again, then exchange the new access token",
        Reason::GrantLost => "have the user sign in again, then exchange the new access token",
        Reason::GrantInDoubt => "wait: the vault finds out by itself",
        Reason::IssuerChanged => "have the provider's settings put back, or have the user sign in again",
        Reason::IdentityUnproven => "exchange an access token of the user instead of importing",
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
        Reason::KeyUnavailable => "have an operator check the key store and the root key",
        Reason::RestoreUnconfirmed => {
            "have an operator put the newest database back, or confirm this one: obo-vault store confirm-restore"
        }
        Reason::AuditUnavailable => "have an operator make the audit file writable; nothing was done",
        Reason::StoreUnavailable => "have an operator check the database and the disk",
        Reason::MessageTooLarge => "send less, or have server.max_message_bytes raised",
        Reason::MethodUnknown => "use a client of the vault's own version",
        Reason::VaultOverloaded => "wait, or have an operator raise the limit named in the vault's log",
        Reason::Internal => "report it with the vault's log lines of this time",
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_types, reason = "plays the vault")]
mod tests {
    use prost::Message as _;
    use tonic::Status;
    use tonic_types::{ErrorDetails, pb};

    use super::*;

    #[test]
    fn a_refusal_says_what_why_and_what_to_do() {
        let mut details = ErrorDetails::new();
        let metadata = [("request_id".to_owned(), "r-17".to_owned())];
        details.set_error_info("PROVIDER_THROTTLED", "obo-vault", metadata);
        details.set_retry_info(Some(Duration::from_millis(1500)));
        let failure: CliFailure = Status::with_error_details(Code::Unavailable, "slow down", details).into();
        assert_eq!(failure.exit(), Exit::TryAgain);
        insta::assert_snapshot!(failure, @r"
        error: slow down
          reason: PROVIDER_THROTTLED
          try again in 2 s
          request id in the vault's log: r-17
          wait: the provider asked for a pause
        ");
    }

    #[test]
    fn the_claims_reach_the_person_who_can_use_them() {
        let wanted = InteractionRequired {
            claims: r#"{"access_token":{"acrs":{"essential":true}}}"#.into(),
            error: "interaction_required".into(),
            suberror: String::new(),
        };
        let any = |type_url: &str, value: Vec<u8>| prost_types::Any { type_url: type_url.into(), value };
        let info = pb::ErrorInfo { reason: "INTERACTION_REQUIRED".into(), ..Default::default() };
        let details = pb::Status {
            code: 9,
            message: String::new(),
            details: vec![
                any("type.googleapis.com/google.rpc.ErrorInfo", info.encode_to_vec()),
                any("type.googleapis.com/obovault.v1.InteractionRequired", wanted.encode_to_vec()),
            ],
        };
        let status = Status::with_details(
            Code::FailedPrecondition,
            "the user must act",
            details.encode_to_vec().into(),
        );
        let failure: CliFailure = status.into();
        assert_eq!(failure.exit(), Exit::MustAct);
        assert!(failure.to_string().contains(&wanted.claims), "{failure}");
    }

    #[test]
    fn a_proxy_in_between_knows_no_reasons() {
        let failure: CliFailure = Status::permission_denied("no").into();
        assert_eq!(failure.exit(), Exit::NotPermitted);
        assert!(failure.to_string().contains("code: PermissionDenied"));
    }
}
