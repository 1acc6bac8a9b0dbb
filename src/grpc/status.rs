//! Reasons to statuses: the only place that makes one.
//!
//! The code is chosen by what the caller will do: wait and try again
//! (UNAVAILABLE), let somebody act (FAILED_PRECONDITION), fix the request
//! (INVALID_ARGUMENT), ask for a right (PERMISSION_DENIED). The text is constant
//! for each reason; details go to the log.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::TryFutureExt as _;
use futures_util::future::MapOk;
use prost::Message as _;
use prost_types::Any;
use tonic::Code;
use tonic_types::pb::bad_request::FieldViolation;
use tonic_types::pb::{BadRequest, ErrorInfo, RetryInfo};
use tower::{Layer, Service};

use crate::domain::failure::{Failure, Interaction};
use crate::domain::reason::Reason;
use crate::pipeline::Refused;
use crate::proto::InteractionRequired;

/// The one name of tonic's status in the vault.
#[expect(clippy::disallowed_types, reason = "the home of statuses")]
pub(super) type Status = tonic::Status;

/// What a method of a service returns.
pub(super) type Answer<T> = Result<tonic::Response<T>, Status>;

/// `ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "obo-vault";

/// The pipeline's answer as one of gRPC.
pub(super) fn answer<T>(answered: Result<T, Refused>) -> Answer<T> {
    answered.map(tonic::Response::new).map_err(|refused| of(refused.failure(), refused.request_id()))
}

/// The status of a failure.
fn of(failure: &Failure, request_id: &str) -> Status {
    let (code, text) = meaning(failure.reason());
    let mut details =
        details(failure.reason(), request_id, failure.retry_delay(), failure.required_interaction());
    if failure.reason() == Reason::InvalidRequest {
        // The detail of this reason is the rule that was broken: one of the
        // pipeline's own constant texts, without anything the caller sent.
        let broken = FieldViolation { description: failure.detail().to_owned(), ..FieldViolation::default() };
        details.push(any("google.rpc.BadRequest", &BadRequest { field_violations: vec![broken] }));
    }
    Status::with_details(code, text, encoded(code, text, details).into())
}

fn details(
    reason: Reason,
    request_id: &str,
    retry: Option<Duration>,
    interaction: Option<&Interaction>,
) -> Vec<Any> {
    let metadata =
        [("request_id".to_owned(), request_id.to_owned())].into_iter().filter(|(_, v)| !v.is_empty());
    let info =
        ErrorInfo { reason: reason.as_str().into(), domain: DOMAIN.into(), metadata: metadata.collect() };
    let mut details = vec![any("google.rpc.ErrorInfo", &info)];
    // A pause too long for the format is none worth waiting for.
    if let Some(delay) = retry.and_then(|delay| prost_types::Duration::try_from(delay).ok()) {
        details.push(any("google.rpc.RetryInfo", &RetryInfo { retry_delay: Some(delay) }));
    }
    if let Some(Interaction { claims, error, suberror }) = interaction {
        let required = InteractionRequired {
            claims: claims.as_ref().map_or_else(String::new, |c| c.as_str().to_owned()),
            error: (*error).to_owned(),
            suberror: (*suberror).to_owned(),
        };
        details.push(any("obovault.v1.InteractionRequired", &required));
    }
    details
}

fn encoded(code: Code, text: &str, details: Vec<Any>) -> Vec<u8> {
    tonic_types::Status { code: code.into(), message: text.to_owned(), details }.encode_to_vec()
}

fn any(name: &str, message: &impl prost::Message) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

/// The answer to a call whose deadline has passed. The caller set it, so it has
/// no reason of the vault's.
pub(super) fn deadline_exceeded() -> tonic::codegen::http::Response<tonic::body::Body> {
    Status::deadline_exceeded("the caller's deadline has passed; what was begun goes on").into_http()
}

/// The answer to a call of a peer who is nobody any more, where no service of the
/// vault's own gives it.
pub(super) fn unidentified() -> tonic::codegen::http::Response<tonic::body::Body> {
    bare(Reason::CallerUnidentified).into_http()
}

/// For a request whose place was needed, or that did not arrive.
pub(super) fn overloaded() -> Status {
    bare(Reason::VaultOverloaded)
}

/// For a request that broke off.
pub(super) fn broken(error: Box<dyn std::error::Error + Send + Sync>) -> Status {
    Status::from_error(error)
}

/// The status of a reason alone.
fn bare(reason: Reason) -> Status {
    let (code, text) = meaning(reason);
    Status::with_details(code, text, encoded(code, text, details(reason, "", None, None)).into())
}

/// What each reason is on the wire.
#[must_use]
pub fn meaning(reason: Reason) -> (Code, &'static str) {
    match reason {
        Reason::InvalidRequest => (Code::InvalidArgument, "a field of the request is missing or invalid"),
        Reason::AssertionMalformed => (Code::InvalidArgument, "the user's access token is not a signed JWT"),
        Reason::AssertionRejected => {
            (Code::FailedPrecondition, "the user's access token is not accepted for this client")
        }
        Reason::AssertionAlgorithmRefused => (
            Code::FailedPrecondition,
            "the user's access token is signed with an algorithm that is not accepted",
        ),
        Reason::AssertionKeyUnknown => (
            Code::FailedPrecondition,
            "the user's access token is signed with a key the provider does not publish",
        ),
        Reason::AssertionRefusedByProvider => {
            (Code::FailedPrecondition, "the identity provider refused to exchange the user's access token")
        }
        Reason::AssertionExpired => (Code::FailedPrecondition, "the user's access token has expired"),
        Reason::ScopeNotGranted => (Code::FailedPrecondition, "a scope is outside the grant"),
        Reason::PageTokenInvalid => (Code::InvalidArgument, "the page token is not one of this listing"),
        Reason::WindowInvalid => (Code::InvalidArgument, "the window must be 0 to 30 days"),
        Reason::ConfirmationMismatch => (Code::InvalidArgument, "the confirmation must be the tenant's name"),
        Reason::CallerUnidentified => {
            (Code::Unauthenticated, "the client certificate must carry exactly one accepted identity")
        }
        Reason::NotPermitted => (Code::PermissionDenied, "the policy does not permit this"),
        Reason::GrantedScopesNotPermitted => (
            Code::PermissionDenied,
            "the token would carry scopes that the policy does not permit this caller",
        ),
        Reason::TooManyInFlight => {
            (Code::ResourceExhausted, "this caller has too many requests under way, or made too many in vain")
        }
        Reason::TenantNotFound => (Code::NotFound, "no such tenant"),
        Reason::ClientNotFound => (Code::NotFound, "no such client"),
        Reason::GrantNotFound => (Code::NotFound, "no such grant"),
        Reason::TenantExists => (Code::AlreadyExists, "a tenant of that name exists"),
        Reason::TenantNameTaken => {
            (Code::AlreadyExists, "another tenant's name differs from this one in case only")
        }
        Reason::TenantPurged => (Code::FailedPrecondition, "the tenant was purged"),
        Reason::TenantPurgeScheduled => {
            (Code::FailedPrecondition, "the tenant is out of service, its purge is scheduled")
        }
        Reason::PurgeNotScheduled => (Code::FailedPrecondition, "there is no scheduled purge to take back"),
        Reason::PurgeProtected => {
            (Code::FailedPrecondition, "the configuration forbids a purge so soon; schedule it for later")
        }
        Reason::PurgeIncomplete => (
            Code::Unavailable,
            "the keys are destroyed, their traces are not yet overwritten; it is tried again",
        ),
        Reason::InteractionRequired => {
            (Code::FailedPrecondition, "the user must sign in again at the identity provider")
        }
        Reason::GrantRevoked => {
            (Code::FailedPrecondition, "the identity provider revoked the grant; the user must consent again")
        }
        Reason::GrantLost => {
            (Code::FailedPrecondition, "the refresh token was lost; the user must consent again")
        }
        Reason::GrantInDoubt => (Code::Unavailable, "whether the refresh token was used is not known yet"),
        Reason::IssuerChanged => (
            Code::FailedPrecondition,
            "the grant came from another issuer than its client is configured for now",
        ),
        Reason::IdentityUnproven => {
            (Code::FailedPrecondition, "the identity provider's answer does not say who the user is")
        }
        Reason::IdentityMismatch => (Code::FailedPrecondition, "the token belongs to another user"),
        Reason::NoRefreshToken => (Code::FailedPrecondition, "the identity provider issued no refresh token"),
        Reason::NoAccessToken => (Code::Unavailable, "the identity provider's answer has no access token"),
        Reason::ProviderRefused => (Code::FailedPrecondition, "the identity provider refused the request"),
        Reason::ProviderThrottled => (Code::Unavailable, "the identity provider asks for a pause"),
        Reason::ProviderUnavailable => (Code::Unavailable, "the identity provider cannot be reached"),
        Reason::ProviderBackOff => {
            (Code::Unavailable, "the identity provider is not asked again yet after a failure")
        }
        Reason::ProviderKeysUnusable => {
            (Code::Unavailable, "the identity provider's published keys cannot be used")
        }
        Reason::ProviderRejectedClient => {
            (Code::FailedPrecondition, "the identity provider rejects the vault's client credentials")
        }
        Reason::GrantUnreadable => (Code::DataLoss, "the sealed token cannot be opened"),
        Reason::KeyUnavailable => (Code::Unavailable, "a key of the tenant is unavailable right now"),
        Reason::RestoreUnconfirmed => (
            Code::FailedPrecondition,
            "the vault's database was restored, and an operator has not confirmed it yet",
        ),
        Reason::AuditUnavailable => {
            (Code::Unavailable, "the audit log cannot be written; nothing was handed out")
        }
        Reason::StoreUnavailable => (Code::Unavailable, "the store cannot be used right now"),
        Reason::MessageTooLarge => (Code::OutOfRange, "the request is larger than the vault takes"),
        Reason::MethodUnknown => (Code::Unimplemented, "there is no such method"),
        Reason::VaultOverloaded => (Code::Unavailable, "the vault is short of a resource"),
        Reason::Internal => (Code::Internal, "a defect in the vault; the log has the details"),
    }
}

/// Gives the statuses that tonic makes by itself (an oversized or unreadable
/// message, an unknown method) the details every error of the API has.
#[derive(Debug, Clone, Copy)]
pub struct DescribeLayer;

impl<S> Layer<S> for DescribeLayer {
    type Service = Describe<S>;

    fn layer(&self, inner: S) -> Describe<S> {
        Describe { inner }
    }
}

/// See [`DescribeLayer`].
#[derive(Debug, Clone)]
pub struct Describe<S> {
    inner: S,
}

impl<S, B, R> Service<tonic::codegen::http::Request<R>> for Describe<S>
where
    S: Service<tonic::codegen::http::Request<R>, Response = tonic::codegen::http::Response<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = MapOk<S::Future, fn(S::Response) -> S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: tonic::codegen::http::Request<R>) -> Self::Future {
        self.inner.call(request).map_ok(|mut answer| {
            describe(answer.headers_mut());
            answer
        })
    }
}

fn describe(headers: &mut tonic::codegen::http::HeaderMap) {
    // Only a call that ended before any message has its status in the headers.
    let Some(code) = headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes())) else {
        return;
    };
    if code == Code::Ok || headers.contains_key(Status::GRPC_STATUS_DETAILS) {
        return;
    }
    let reason = match code {
        Code::OutOfRange | Code::ResourceExhausted => Reason::MessageTooLarge,
        Code::Unimplemented => Reason::MethodUnknown,
        Code::Internal | Code::InvalidArgument => Reason::InvalidRequest,
        _ => return,
    };
    // A constant text is always a valid header.
    let _ = bare(reason).add_header(headers);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_text() {
        let texts: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| meaning(*r).1).collect();
        assert_eq!(texts.len(), Reason::ALL.len());
    }

    #[test]
    fn the_detail_stays_in_the_log() {
        let status = of(&Failure::new(Reason::GrantRevoked, "hunter2"), "r-1");
        assert!(!format!("{status:?}").contains("hunter2"));
        assert!(!String::from_utf8_lossy(status.details()).contains("hunter2"));
        assert!(String::from_utf8_lossy(status.details()).contains("GRANT_REVOKED"));
    }
}
