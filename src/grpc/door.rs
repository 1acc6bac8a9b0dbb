//! What every call goes through, in this order:
//!
//! 1. identify: who is at the other end of the connection;
//! 2. convert: every field checked;
//! 3. permit: does the policy allow this caller this action here;
//! 4. audit the request: written down before anything is done;
//! 5. do it;
//! 6. audit the outcome: durable before anything leaves.
//!
//! Whatever fails is a [`Failure`] until [`Door::refuse`] makes a status of it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::task::TaskTracker;

use crate::audit::{AuditLog, Entry, Kind};
use crate::authn::Caller;
use crate::authz::permit::Permitted;
use crate::authz::{Authorizer, Permit, Request as Resource};
use crate::domain::action::Action;
use crate::domain::failure::Failure;
use crate::domain::id::SubjectId;
use crate::domain::reason::Reason;
use crate::metrics::Metrics;
use crate::redeem::Origin;
use crate::redeem::record::unavailable;

use super::listen::Peer;
use super::status::{self, Status};

/// What all services share.
#[derive(Debug)]
pub struct Door {
    authorizer: Arc<Authorizer>,
    audit: Arc<AuditLog>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    /// Random per process, so that request ids of two runs differ.
    run: String,
    requests: AtomicU64,
    /// Key of page tokens.
    pub(super) pages: super::page::Pages,
}

/// Who calls, and under which request id.
#[derive(Debug, Clone)]
pub struct Visitor {
    pub(super) caller: Result<Caller, Failure>,
    pub(super) request_id: String,
}

/// What the policy and the audit log are told of a call.
#[derive(Debug, Clone, Default)]
pub struct Subject {
    pub(super) resource: Resource,
    pub(super) subject: Option<SubjectId>,
}

impl Door {
    /// The door of one process. `run` is random, `pages` keys the page tokens.
    #[must_use]
    pub fn new(
        authorizer: Arc<Authorizer>,
        audit: Arc<AuditLog>,
        metrics: Arc<Metrics>,
        run: String,
        pages: super::page::Pages,
    ) -> Self {
        Self { authorizer, audit, metrics, tasks: TaskTracker::new(), run, requests: AtomicU64::new(0), pages }
    }

    /// Waits for the work of callers that have gone away.
    pub async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Who calls. The certificate was read when the connection was made.
    pub(super) fn visitor<T>(&self, request: &tonic::Request<T>) -> Visitor {
        let caller = match request.extensions().get::<Peer>() {
            Some(peer) => peer.caller().map_err(|why| Failure::new(Reason::CallerUnidentified, why.to_string())),
            None => Err(Failure::new(Reason::CallerUnidentified, "a connection without a peer")),
        };
        let given = request.metadata().get("x-request-id").and_then(|id| id.to_str().ok());
        let request_id = match given {
            Some(id) if is_request_id(id) => id.to_owned(),
            Some(_) | None => format!("{}-{}", self.run, self.requests.fetch_add(1, Ordering::Relaxed)),
        };
        Visitor { caller, request_id }
    }

    /// A call that changes something or reads the store: done in a task of its
    /// own, which goes on when the caller leaves.
    pub(super) async fn call<A, T, F>(
        self: &Arc<Self>,
        visitor: Visitor,
        subject: Result<Subject, Failure>,
        work: impl FnOnce(Permit<A>, Origin) -> F + Send + 'static,
    ) -> Result<tonic::Response<T>, Status>
    where
        A: Permitted + Send + Sync + 'static,
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let door = Arc::clone(self);
        let task = self.tasks.spawn(async move {
            let visit = door.enter::<A>(&visitor, subject)?;
            // Durable before anything is done.
            door.request_durable(&visit, &visitor).await?;
            let result = work(visit.permit.clone(), visit.origin.clone()).await;
            door.leave(&visitor, &visit, result).await
        });
        let result = task.await;
        result.unwrap_or_else(|_| Err(status::of(&Failure::new(Reason::Internal, "a task ended"), "")))
    }

    /// The fast path of GetAccessToken: the request is in the chain before
    /// anything is looked up, and on disk before anything is sent or answered.
    pub(super) async fn quick_call<A, T, K>(
        &self,
        visitor: Visitor,
        subject: Result<Subject, Failure>,
        work: impl AsyncFnOnce(&Permit<A>, &Origin) -> Result<(T, K), Failure>,
    ) -> Result<tonic::Response<T>, Status>
    where
        A: Permitted,
    {
        let visit = self.enter::<A>(&visitor, subject)?;
        match work(&visit.permit, &visit.origin).await {
            Ok((answer, kept)) => {
                let answer = self.leave(&visitor, &visit, Ok(answer)).await;
                // Held until the answer is made: see `redeem::gate::Pass`.
                drop(kept);
                answer
            }
            Err(failure) => self.leave(&visitor, &visit, Err(failure)).await,
        }
    }

    fn enter<A: Permitted>(&self, visitor: &Visitor, subject: Result<Subject, Failure>) -> Result<Visit<A>, Status> {
        let refuse = |failure: Failure| self.refuse(visitor, A::ACTION, &failure);
        let caller = visitor.caller.as_ref().map_err(|failure| refuse(failure.clone()))?;
        let subject = subject.map_err(refuse)?;
        let origin = Origin { request_id: visitor.request_id.clone(), caller: caller.id().clone() };
        let permit = self.authorizer.permit::<A>(caller, subject.resource.clone());
        self.audit
            .append(entry(Kind::Request, &origin, A::ACTION, &subject))
            .map_err(|e| refuse(unavailable(&e)))?;
        match permit {
            Ok(permit) => Ok(Visit { permit, origin, subject }),
            Err(denied) => {
                let failure = Failure::new(Reason::NotPermitted, denied.to_string());
                let outcome = entry(Kind::Outcome, &origin, A::ACTION, &subject).reason(Reason::NotPermitted);
                // Nothing leaves, so nobody has to wait for the disk.
                let _ = self.audit.append(outcome);
                Err(self.refuse(visitor, A::ACTION, &failure))
            }
        }
    }

    async fn request_durable<A>(&self, visit: &Visit<A>, visitor: &Visitor) -> Result<(), Status>
    where
        A: Permitted,
    {
        let started = self.audit.record(entry(Kind::Event, &visit.origin, A::ACTION, &visit.subject).note("begins"));
        started.await.map_err(|e| self.refuse(visitor, A::ACTION, &unavailable(&e)))
    }

    async fn leave<A: Permitted, T>(
        &self,
        visitor: &Visitor,
        visit: &Visit<A>,
        result: Result<T, Failure>,
    ) -> Result<tonic::Response<T>, Status> {
        let mut outcome = entry(Kind::Outcome, &visit.origin, A::ACTION, &visit.subject);
        if let Err(failure) = &result {
            outcome = outcome.reason(failure.reason());
        }
        let audited = self.audit.record(outcome).await.map_err(|e| unavailable(&e));
        match audited.and(result) {
            Ok(answer) => {
                self.metrics.call(A::ACTION.as_str(), "OK");
                tracing::debug!(request.id = %visitor.request_id, action = A::ACTION.as_str(), "ok");
                Ok(tonic::Response::new(answer))
            }
            Err(failure) => Err(self.refuse(visitor, A::ACTION, &failure)),
        }
    }

    /// Logs what failed and why, and tells the caller what it may know.
    pub(super) fn refuse(&self, visitor: &Visitor, action: Action, failure: &Failure) -> Status {
        self.metrics.call(action.as_str(), failure.reason().as_str());
        let caller = visitor.caller.as_ref().map_or("unidentified", |caller| caller.id().as_str());
        tracing::warn!(
            request.id = %visitor.request_id, caller.id = caller, action = action.as_str(),
            reason = failure.reason().as_str(), detail = failure.detail(), "refused"
        );
        status::of(failure, &visitor.request_id)
    }
}

struct Visit<A> {
    permit: Permit<A>,
    origin: Origin,
    subject: Subject,
}

fn entry<'a>(kind: Kind, origin: &'a Origin, action: Action, subject: &'a Subject) -> Entry<'a> {
    let Subject { resource: Resource { tenant, client, scopes, resource }, subject } = subject;
    let mut entry = Entry::new(kind, &origin.request_id, action.as_str()).caller(&origin.caller);
    if let Some(tenant) = tenant {
        entry = entry.tenant(tenant);
    }
    if let Some(client) = client {
        entry = entry.client(client);
    }
    if let Some(subject) = subject {
        entry = entry.subject(subject);
    }
    if !scopes.is_empty() {
        entry = entry.scopes(scopes);
    }
    if let Some(resource) = resource {
        entry = entry.resource(resource);
    }
    entry
}

fn is_request_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
