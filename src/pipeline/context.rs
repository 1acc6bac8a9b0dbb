//! What goes into the pipeline and what comes out of it.

use crate::authn::Caller;
use crate::authz::Permitted;
use crate::domain::failure::Failure;
use crate::domain::id::{ClientId, SubjectId};
use crate::domain::scope::{ScopeSet, Target};

/// Who asks, and under which request id.
#[derive(Debug, Clone)]
pub struct RequestContext {
    pub(super) caller: Result<Caller, Failure>,
    pub(super) request_id: String,
}

/// A request for the action `A`, its fields checked.
#[derive(Debug)]
pub struct Call<A: Permitted, R> {
    /// What the policy judges.
    pub resource: A::Resource,
    /// Whose grant, for the audit log. `None` where no user is concerned, or
    /// where only the provider's answer will say who the user is.
    pub subject: Option<SubjectId>,
    /// What else the work needs.
    pub request: R,
}

impl<A: Permitted, R> Call<A, R> {
    /// A call about no user.
    #[must_use]
    pub fn new(resource: A::Resource, request: R) -> Self {
        Self { resource, subject: None, request }
    }

    /// A call about this user's grant.
    #[must_use]
    pub fn about(subject: SubjectId, resource: A::Resource, request: R) -> Self {
        Self { resource, subject: Some(subject), request }
    }
}

/// A request for a token of a tenant that only a verification will tell: its
/// fields are checked, and nothing else.
#[derive(Debug)]
pub struct Claiming<C> {
    /// The OAuth client.
    pub client: ClientId,
    /// What the token is to be for.
    pub target: Target,
    /// What says which tenant, not yet verified.
    pub request: C,
}

/// What became of the work, and what is held until its answer is made.
#[derive(Debug)]
pub struct Worked<T, K> {
    /// The answer, or why there is none.
    pub result: Result<T, Failure>,
    /// What is held.
    pub kept: K,
}

/// Held until the answer is made.
pub trait Kept {
    /// The scopes that a token has, where they are not those asked for.
    fn granted(&self) -> Option<&ScopeSet>;
}

/// A request that was refused, or failed: recorded, counted and logged.
#[derive(Debug)]
pub struct Refused {
    failure: Failure,
    request_id: String,
}

impl Refused {
    pub(super) fn new(failure: Failure, request_id: String) -> Self {
        Self { failure, request_id }
    }

    /// Why. Its detail is for the log and was logged.
    #[must_use]
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    /// The id that the log and the audit entries have.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }
}

/// Whether a caller's own request id is taken over: one that could break a line
/// of the log is not.
pub(super) fn is_request_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
