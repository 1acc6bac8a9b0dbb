//! What every call goes through, in this order:
//!
//! 1. identify: who is at the other end of the connection;
//! 2. convert: every field checked;
//! 3. permit: does the policy allow this caller this action here;
//! 4. audit the request: written down before anything is done;
//! 5. do it;
//! 6. audit the outcome: durable before anything leaves.
//!
//! Whatever fails is a [`Failure`] until `Door::refuse` makes a status of it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::task::TaskTracker;

use crate::audit::{AuditLog, Entry, Kind, Ticket};
use crate::authn::Caller;
use crate::authz::permit::Permitted;
use crate::authz::{Authorizer, Permit, Request as Resource};
use crate::domain::action::Action;
use crate::domain::failure::Failure;
use crate::domain::id::SubjectId;
use crate::domain::reason::Reason;
use crate::metrics::Counters;
use crate::redeem::Origin;
use crate::redeem::record::unavailable;

use crate::grpc::listen::Peer;
use crate::grpc::page::Pages;
use crate::grpc::status::{self, Status};

/// What all services share.
pub struct Door {
    authorizer: Arc<Authorizer>,
    audit: Arc<AuditLog>,
    metrics: Arc<Counters>,
    tasks: TaskTracker,
    /// Random per process, so that request ids of two runs differ.
    run: String,
    requests: AtomicU64,
    /// Key of page tokens.
    pub(crate) pages: Pages,
}

/// Who calls, and under which request id.
#[derive(Debug, Clone)]
pub struct Visitor {
    pub(crate) caller: Result<Caller, Failure>,
    pub(crate) request_id: String,
}

/// What the policy and the audit log are told of a call.
#[derive(Debug, Clone, Default)]
pub struct Subject {
    pub(crate) resource: Resource,
    pub(crate) subject: Option<SubjectId>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

impl Door {
    /// The door of one process. `run` is random, `pages` keys the page tokens.
    #[must_use]
    pub fn new(
        authorizer: Arc<Authorizer>,
        audit: Arc<AuditLog>,
        metrics: Arc<Counters>,
        run: String,
        pages: Pages,
    ) -> Self {
        Self {
            authorizer,
            audit,
            metrics,
            tasks: TaskTracker::new(),
            run,
            requests: AtomicU64::new(0),
            pages,
        }
    }

    /// Waits for the work of callers that have gone away.
    pub async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Who calls. The certificate was read when the connection was made.
    pub(crate) fn visitor<T>(&self, request: &tonic::Request<T>) -> Visitor {
        let caller = match request.extensions().get::<Peer>() {
            Some(peer) => peer
                .caller()
                .cloned()
                .map_err(|why| Failure::new(Reason::CallerUnidentified, why.to_string())),
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
    pub(crate) async fn call<A, T, F>(
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
            let (visit, requested) = door.enter::<A>(&visitor, subject)?;
            // Durable before anything is done.
            let requested = door.audit.durable(requested).await;
            requested.map_err(|e| door.refuse(&visitor, A::ACTION, &unavailable(&e)))?;
            let result = work(visit.permit.clone(), visit.origin.clone()).await;
            door.leave(&visitor, &visit, None, result).await
        });
        let result = task.await;
        result.unwrap_or_else(|_| Err(status::of(&Failure::new(Reason::Internal, "a task ended"), "")))
    }

    /// The fast path of GetAccessToken: the request is in the chain before
    /// anything is looked up, and on disk before anything is sent or answered.
    pub(crate) async fn quick_call<A, T, K, F>(
        &self,
        visitor: Visitor,
        subject: Result<Subject, Failure>,
        work: impl FnOnce(Permit<A>, Origin) -> F,
    ) -> Result<tonic::Response<T>, Status>
    where
        A: Permitted,
        F: Future<Output = Result<(T, K), Failure>>,
    {
        let (visit, requested) = self.enter::<A>(&visitor, subject)?;
        match work(visit.permit.clone(), visit.origin.clone()).await {
            Ok((answer, kept)) => {
                let answer = self.leave(&visitor, &visit, Some(requested), Ok(answer)).await;
                // Held until the answer is made: see `redeem::gate::Pass`.
                drop(kept);
                answer
            }
            Err(failure) => self.leave(&visitor, &visit, Some(requested), Err(failure)).await,
        }
    }

    fn enter<A: Permitted>(
        &self,
        visitor: &Visitor,
        subject: Result<Subject, Failure>,
    ) -> Result<(Visit<A>, Ticket), Status> {
        let refuse = |failure: Failure| self.refuse_audited(visitor, A::ACTION, &failure);
        let caller = visitor.caller.as_ref().map_err(|failure| refuse(failure.clone()))?;
        let subject = subject.map_err(refuse)?;
        let origin = Origin { request_id: visitor.request_id.clone(), caller: caller.id().clone() };
        let permit = self.authorizer.permit::<A>(caller, subject.resource.clone());
        let request = self
            .audit
            .append(described(
                Entry::new(Kind::Request, &origin.request_id, A::ACTION.as_str()),
                &origin,
                &subject,
            ))
            .map_err(|e| self.refuse(visitor, A::ACTION, &unavailable(&e)))?;
        match permit {
            Ok(permit) => Ok((Visit { permit, origin, subject }, request)),
            Err(denied) => {
                let failure = Failure::new(Reason::NotPermitted, denied.to_string());
                let outcome = described(
                    Entry::new(Kind::Outcome, &origin.request_id, A::ACTION.as_str()),
                    &origin,
                    &subject,
                )
                .reason(Reason::NotPermitted);
                // Nothing leaves, so nobody has to wait for the disk.
                let _ = self.audit.append(outcome);
                Err(self.refuse(visitor, A::ACTION, &failure))
            }
        }
    }

    async fn leave<A: Permitted, T>(
        &self,
        visitor: &Visitor,
        visit: &Visit<A>,
        requested: Option<Ticket>,
        result: Result<T, Failure>,
    ) -> Result<tonic::Response<T>, Status> {
        let outcome = Entry::new(Kind::Outcome, &visit.origin.request_id, A::ACTION.as_str());
        let outcome = described(outcome, &visit.origin, &visit.subject)
            .reason(result.as_ref().err().map(Failure::reason));
        // Each ticket speaks for its own entry; usually both are in one batch.
        let audited = match self.audit.append(outcome) {
            Ok(outcome) => match requested {
                Some(requested) => {
                    let requested = self.audit.durable(requested).await;
                    requested.and(self.audit.durable(outcome).await)
                }
                None => self.audit.durable(outcome).await,
            },
            Err(error) => Err(error),
        };
        let audited = audited.map_err(|e| unavailable(&e));
        match audited.and(result) {
            Ok(answer) => {
                self.metrics.call(A::ACTION, None);
                tracing::debug!(request.id = %visitor.request_id, action = A::ACTION.as_str(), "ok");
                Ok(tonic::Response::new(answer))
            }
            Err(failure) => Err(self.refuse(visitor, A::ACTION, &failure)),
        }
    }

    /// Refuses a call that failed before the policy could be asked about it, and
    /// leaves a trace in the audit log all the same.
    pub(crate) fn refuse_audited(&self, visitor: &Visitor, action: Action, failure: &Failure) -> Status {
        let caller = visitor.caller.as_ref().ok().map(Caller::id);
        let outcome = Entry::new(Kind::Outcome, &visitor.request_id, action.as_str())
            .caller(caller)
            .reason(failure.reason());
        // Nothing was done and nothing leaves, so nobody waits for the disk.
        let _ = self.audit.append(outcome);
        self.refuse(visitor, action, failure)
    }

    /// Logs what failed and why, and tells the caller what it may know.
    fn refuse(&self, visitor: &Visitor, action: Action, failure: &Failure) -> Status {
        // Whoever is nobody learns that and nothing else, not even what is wrong
        // with the request.
        let failure = visitor.caller.as_ref().err().unwrap_or(failure);
        self.metrics.call(action, Some(failure.reason()));
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

fn described<'a>(entry: Entry<'a>, origin: &'a Origin, subject: &'a Subject) -> Entry<'a> {
    let Subject { resource: Resource { tenant, client, scopes, resource }, subject } = subject;
    entry
        .caller(&origin.caller)
        .tenant(tenant)
        .client(client)
        .subject(subject)
        .scopes((!scopes.is_empty()).then_some(scopes))
        .resource(resource)
}

fn is_request_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
