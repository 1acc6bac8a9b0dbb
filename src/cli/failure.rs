//! What went wrong, for the person at the terminal: what failed, the stable
//! reason, what to do; and the exit code for the script around it.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::client::{ConnectError, Stage, Trouble, interaction};
use crate::domain::chain::sources;
use crate::domain::reason::Reason;
use crate::proto::InteractionRequired;

use super::Exit;
use super::advice::{Doing, about, what_to_do};
use super::harmless::harmless;

/// What a call over the API ends with.
#[expect(clippy::disallowed_types, reason = "reads the vault's answer; makes none")]
pub(super) type Answered<T> = Result<tonic::Response<T>, tonic::Status>;

/// A command that failed.
#[derive(Debug)]
pub struct CliFailure {
    exit: Exit,
    told: Box<Told>,
}

#[derive(Debug, Default)]
struct Told {
    message: String,
    code: Option<Code>,
    reason: Option<String>,
    /// What came with it: a name and a value each.
    details: Vec<(&'static str, String)>,
    /// Further lines of what is wrong.
    notes: Vec<String>,
    retry_delay: Option<Duration>,
    request_id: Option<String>,
    advice: Vec<String>,
}

impl CliFailure {
    /// A failure with its text.
    pub(super) fn new(exit: Exit, what: impl fmt::Display) -> Self {
        Self { exit, told: Box::new(Told { message: what.to_string(), ..Told::default() }) }
    }

    /// Adds a line that says what to do.
    pub(super) fn advice(mut self, line: impl Into<String>) -> Self {
        self.told.advice.push(line.into());
        self
    }

    /// Adds a line of what is wrong.
    pub(super) fn note(mut self, line: impl Into<String>) -> Self {
        self.told.notes.push(line.into());
        self
    }

    /// The exit code.
    pub(super) fn exit(&self) -> Exit {
        self.exit
    }

    /// No connection was made.
    pub(super) fn unconnected(error: &ConnectError, endpoint: &str) -> Self {
        match error {
            ConnectError::Address(_) => {
                Self::new(Exit::Usage, error).advice("see --endpoint, --ca, --cert, --key and --server-name")
            }
            ConnectError::File(..) => Self::new(Exit::Configuration, error)
                .advice("see --ca, --cert and --key: each is a file in PEM"),
            ConnectError::Trouble(trouble) => {
                let (exit, advice) = about(trouble, endpoint);
                Self::new(exit, harmless(&error.to_string())).advice(advice)
            }
            ConnectError::TimedOut(Stage::Host, _) => Self::new(Exit::TryAgain, error)
                .advice(format!("check the network between here and {endpoint}, and its firewalls")),
            ConnectError::TimedOut(Stage::Handshake | Stage::Answer, _) => Self::new(Exit::TryAgain, error)
                .advice(format!(
                    "is it the vault that listens at {endpoint}, and is it overloaded? See --timeout"
                )),
        }
    }

    /// The deadline has passed.
    pub(super) fn late(endpoint: &str, timeout: Duration) -> Self {
        Self::new(Exit::TryAgain, format!("no answer from {endpoint} within {timeout:?}")).advice(
            "what was begun goes on in the vault: repeat the command, with a longer --timeout if need be",
        )
    }

    /// The vault refused, or the connection to it ended; `trouble` is what is
    /// known to be wrong with the connection.
    #[expect(clippy::disallowed_types, reason = "reads the vault's answer; makes none")]
    pub(super) fn refused(
        status: &tonic::Status,
        doing: Doing,
        trouble: Option<&Trouble>,
        endpoint: &str,
        timeout: Duration,
    ) -> Self {
        if status.get_error_details().error_info().is_some() {
            return Self::of_status(status, doing);
        }
        // tonic keeps the deadline on this side, too, and calls it a cancellation.
        let timed_out = sources(status).any(|source| source.is::<tonic::TimeoutExpired>());
        if timed_out || status.code() == Code::DeadlineExceeded {
            return Self::late(endpoint, timeout);
        }
        // A status with a source was made on this side, of an error; the
        // connection's own account of it is better.
        let local = std::error::Error::source(status).is_some();
        match trouble {
            None if !local => Self::of_status(status, doing),
            known => {
                let trouble = known.unwrap_or(&Trouble::Ended);
                let (exit, advice) = about(trouble, endpoint);
                Self::new(exit, harmless(&trouble.to_string())).advice(advice)
            }
        }
    }

    #[expect(clippy::disallowed_types, reason = "reads the vault's answer; makes none")]
    fn of_status(status: &tonic::Status, doing: Doing) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let word = info.map(|info| info.reason.clone()).unwrap_or_default();
        let reason = Reason::ALL.into_iter().find(|r| r.as_str() == word);
        let mut failure = Self::new(exit_of(status.code()), harmless(status.message()));
        failure.told.code = Some(status.code());
        failure.told.reason = Some(harmless(&word)).filter(|word| !word.is_empty());
        failure.told.request_id =
            info.and_then(|info| info.metadata.get("request_id")).map(|id| harmless(id));
        failure.told.retry_delay = details.retry_info().and_then(|retry| retry.retry_delay);
        let mut claims = false;
        if let Some(interaction) = interaction(status.details()) {
            claims = !interaction.claims.is_empty();
            failure = failure.explain(&interaction);
        }
        for broken in details.bad_request().map(|b| b.field_violations.as_slice()).unwrap_or_default() {
            failure = failure.note(harmless(&broken.description));
        }
        match reason {
            Some(reason) => failure.advice(what_to_do(reason, doing, claims)),
            None if failure.told.reason.is_none() => failure.advice(
                "the answer has no reason of the vault's: is it the vault that listens there, or a proxy?",
            ),
            None => failure.advice("the reason is one of another version: use the vault's own client"),
        }
    }

    fn explain(mut self, interaction: &InteractionRequired) -> Self {
        let InteractionRequired { claims, error, suberror } = interaction;
        for (name, value) in [("provider error", error), ("provider suberror", suberror), ("claims", claims)]
        {
            if !value.is_empty() {
                self.told.details.push((name, harmless(value)));
            }
        }
        self
    }

    /// One object, for scripts.
    pub(super) fn json(&self) -> Value {
        let Told { message, code, reason, details, notes, retry_delay, request_id, advice } = &*self.told;
        let details: Map<_, _> =
            details.iter().map(|(name, value)| (name.replace(' ', "_"), value.clone().into())).collect();
        json!({
            "code": self.exit as u8,
            "status": code.map(name_of),
            "reason": reason,
            "message": message,
            "details": details,
            "notes": notes,
            "retry_after_seconds": retry_delay.map(|delay| delay.as_secs_f64()),
            "what_to_do": advice.join("; "),
            "request_id": request_id,
        })
    }
}

/// `error: …`, then one line each for the reason and what to do.
impl fmt::Display for CliFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Told { message, code, reason, details, notes, retry_delay, request_id, advice } = &*self.told;
        write!(f, "error: {message}")?;
        match (reason, code) {
            (Some(reason), _) => write!(f, "\n  reason: {reason}")?,
            (None, Some(code)) => write!(f, "\n  code: {}", name_of(*code))?,
            (None, None) => {}
        }
        for (name, value) in details {
            write!(f, "\n  {name}: {value}")?;
        }
        for note in notes {
            write!(f, "\n  {note}")?;
        }
        if let Some(delay) = retry_delay {
            write!(f, "\n  try again in {}", span(*delay))?;
        }
        if let Some(request) = request_id {
            write!(f, "\n  request id in the vault's log: {request}")?;
        }
        for line in advice {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

fn span(delay: Duration) -> String {
    if delay < Duration::from_secs(1) {
        format!("{} ms", delay.as_millis())
    } else {
        format!("{} s", delay.as_millis().div_ceil(1000))
    }
}

/// The name of a code as gRPC writes it.
fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
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

#[cfg(test)]
#[expect(clippy::disallowed_types, reason = "plays the vault")]
mod tests {
    use prost::Message as _;
    use tonic::Status;
    use tonic_types::{ErrorDetails, pb};

    use super::*;

    fn refused(status: &Status) -> CliFailure {
        CliFailure::refused(status, Doing::Reading, None, "https://127.0.0.1:1", Duration::from_secs(1))
    }

    #[test]
    fn a_refusal_says_what_why_and_what_to_do() {
        let mut details = ErrorDetails::new();
        let metadata = [("request_id".to_owned(), "r-17".to_owned())];
        details.set_error_info("PROVIDER_THROTTLED", "obo-vault", metadata);
        details.set_retry_info(Some(Duration::from_millis(1500)));
        let failure = refused(&Status::with_error_details(Code::Unavailable, "slow down", details));
        assert_eq!(failure.exit(), Exit::TryAgain);
        insta::assert_snapshot!(failure, @r"
        error: slow down
          reason: PROVIDER_THROTTLED
          try again in 2 s
          request id in the vault's log: r-17
          wait: the provider asked for a pause
        ");
        let json = failure.json();
        assert_eq!((&json["code"], &json["reason"]), (&json!(7), &json!("PROVIDER_THROTTLED")));
        assert_eq!((&json["message"], &json["request_id"]), (&json!("slow down"), &json!("r-17")));
        assert_eq!(json["what_to_do"], "wait: the provider asked for a pause");
        assert_eq!(json["retry_after_seconds"], 1.5);
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
        let failure = refused(&status);
        assert_eq!(failure.exit(), Exit::MustAct);
        assert!(failure.to_string().contains(&wanted.claims), "{failure}");
        assert_eq!(failure.json()["details"]["claims"], wanted.claims);
    }

    #[test]
    fn a_proxy_in_between_knows_no_reasons() {
        let failure = refused(&Status::permission_denied("no"));
        assert_eq!(failure.exit(), Exit::NotPermitted);
        assert!(failure.to_string().contains("code: PERMISSION_DENIED"));
        assert_eq!(failure.json()["status"], "PERMISSION_DENIED");
    }

    #[test]
    fn what_is_wrong_with_the_connection_is_told_before_what_a_library_makes_of_it() {
        let of = |status: &Status, trouble: Option<Trouble>| {
            CliFailure::refused(
                status,
                Doing::Reading,
                trouble.as_ref(),
                "https://v:1",
                Duration::from_secs(9),
            )
        };
        // What tonic makes of an error of its own has that error as its source.
        let local = Status::from_error("broken".into());
        let ended = of(&local, None);
        assert_eq!(ended.exit(), Exit::TryAgain);
        assert!(!ended.to_string().contains("certificate"), "{ended}");
        let refused = of(&local, Some(Trouble::ClientCertificate(crate::client::Refusal::Expired)));
        assert_eq!(refused.exit(), Exit::NotPermitted);
        assert!(refused.to_string().contains("expired"), "{refused}");
        let late = of(&Status::deadline_exceeded("late"), None);
        assert_eq!(late.exit(), Exit::TryAgain);
        assert!(late.to_string().contains("--timeout"), "{late}");
    }
}
