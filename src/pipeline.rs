//! The request pipeline: what every request goes through, over whatever
//! transport it came and whatever it was that identified its caller.
//!
//! 1. identify: the transport says who calls, or why nobody;
//! 2. convert: every field checked, by [`fields`];
//! 3. permit: does the policy allow this caller this action here;
//! 4. audit the request: written down before anything is done;
//! 5. do it;
//! 6. audit the outcome: durable before anything leaves;
//! 7. answer.
//!
//! The action is the marker type of the permit that the work asks for, and comes
//! from there alone: what is permitted, recorded and counted is what is done.
//! Whatever fails is a [`Failure`] and leaves as [`Refused`], which the
//! transport alone puts into its own words.
//!
//! In reading order: this file; [`context`]: who asks and what comes back;
//! [`fields`]: the checks of single fields.

use std::future::{self, Future};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::task::TaskTracker;

use crate::audit::{AuditLog, Entry, Kind, Ticket};
use crate::authn::Caller;
use crate::authz::resource::{Named, Resource as _};
use crate::authz::{Authorizer, Permit, Permitted};
use crate::domain::failure::Failure;
use crate::domain::id::SubjectId;
use crate::domain::reason::Reason;
use crate::domain::scope::{Claims, ScopeSet, Target};
use crate::metrics::Counters;
use crate::redeem::Origin;

pub mod context;
pub mod fields;

pub use context::{Call, Kept, Refused, RequestContext, Worked};

/// What all transports and services share.
pub struct Pipeline {
    authorizer: Arc<Authorizer>,
    audit: Arc<AuditLog>,
    metrics: Arc<Counters>,
    tasks: TaskTracker,
    /// Random per process, so that request ids of two runs differ.
    run: String,
    requests: AtomicU64,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").finish_non_exhaustive()
    }
}

/// A request that was permitted and recorded.
struct Admitted<A: Permitted> {
    permit: Permit<A>,
    origin: Origin,
    subject: Option<SubjectId>,
}

impl Pipeline {
    /// The pipeline of one process. `run` is random.
    #[must_use]
    pub fn new(
        authorizer: Arc<Authorizer>,
        audit: Arc<AuditLog>,
        metrics: Arc<Counters>,
        run: String,
    ) -> Self {
        Self { authorizer, audit, metrics, tasks: TaskTracker::new(), run, requests: AtomicU64::new(0) }
    }

    /// Waits for the work of callers that have gone away.
    pub async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The context of a request: who asks, as the transport found out, and the
    /// caller's own request id where it is a usable one.
    pub fn context(&self, caller: Result<Caller, Failure>, given_id: Option<&str>) -> RequestContext {
        let request_id = match given_id {
            Some(id) if context::is_request_id(id) => id.to_owned(),
            Some(_) | None => format!("{}-{}", self.run, self.requests.fetch_add(1, Ordering::Relaxed)),
        };
        RequestContext { caller, request_id }
    }

    /// A request that changes something or reads the store: done in a task of
    /// its own, which goes on when the caller leaves.
    ///
    /// # Errors
    ///
    /// Whatever step refuses it.
    pub async fn call<A, R, T, F>(
        self: &Arc<Self>,
        context: RequestContext,
        convert: impl FnOnce() -> Result<Call<A, R>, Failure> + Send,
        work: impl FnOnce(Permit<A>, R, Origin) -> F + Send + 'static,
    ) -> Result<T, Refused>
    where
        A: Permitted,
        R: Send + 'static,
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        self.call_verified(context, |_caller| future::ready(convert()), work).await
    }

    /// [`Self::call`] for a request that says only after a verification whose
    /// it is. `verify` is not begun for a caller who is nobody.
    ///
    /// # Errors
    ///
    /// Whatever step refuses it.
    pub async fn call_verified<A, R, T, V, F>(
        self: &Arc<Self>,
        context: RequestContext,
        verify: impl FnOnce(Caller) -> V + Send,
        work: impl FnOnce(Permit<A>, R, Origin) -> F + Send + 'static,
    ) -> Result<T, Refused>
    where
        A: Permitted,
        R: Send + 'static,
        T: Send + 'static,
        V: Future<Output = Result<Call<A, R>, Failure>> + Send,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let caller = self.identify::<A>(&context)?;
        let call = verify(caller.clone()).await;
        let call = call.map_err(|failure| self.refuse_recorded::<A>(&context, failure))?;
        let (pipeline, id) = (Arc::clone(self), context.request_id.clone());
        let task = self.tasks.spawn(async move {
            let (admitted, request, requested) = pipeline.admit(&context, &caller, call)?;
            // Durable before anything is done.
            let requested = pipeline.audit.durable(requested).await;
            requested.map_err(|e| pipeline.refuse::<A>(&context, e.into()))?;
            let result = work(admitted.permit.clone(), request, admitted.origin.clone()).await;
            pipeline.finish(&context, &admitted, None, None, result).await
        });
        let ended = task.await;
        ended.unwrap_or_else(|_| Err(Refused::new(Failure::new(Reason::Internal, "a task ended"), id)))
    }

    /// The fast path of GetAccessToken: the request is in the chain before
    /// anything is looked up, and on disk before anything is sent or answered.
    ///
    /// # Errors
    ///
    /// Whatever step refuses it.
    pub async fn call_quickly<A, R, T, K, F>(
        &self,
        context: RequestContext,
        convert: impl FnOnce() -> Result<Call<A, R>, Failure>,
        work: impl FnOnce(Permit<A>, R, Origin) -> F,
    ) -> Result<T, Refused>
    where
        A: Permitted,
        K: Kept,
        F: Future<Output = Worked<T, K>>,
    {
        let caller = self.identify::<A>(&context)?;
        let call = convert().map_err(|failure| self.refuse_recorded::<A>(&context, failure))?;
        let (admitted, request, requested) = self.admit(&context, &caller, call)?;
        let Worked { result, kept } = work(admitted.permit.clone(), request, admitted.origin.clone()).await;
        let answer = self.finish(&context, &admitted, Some(requested), kept.granted(), result).await;
        // Held until the answer is made: see `redeem::guard::Pass`.
        drop(kept);
        answer
    }

    fn identify<A: Permitted>(&self, context: &RequestContext) -> Result<Caller, Refused> {
        context.caller.clone().map_err(|failure| self.refuse_recorded::<A>(context, failure))
    }

    /// Asks the policy, and writes the request down whatever it says.
    fn admit<A: Permitted, R>(
        &self,
        context: &RequestContext,
        caller: &Caller,
        call: Call<A, R>,
    ) -> Result<(Admitted<A>, R, Ticket), Refused> {
        let Call { resource, subject, request } = call;
        let origin = Origin { request_id: context.request_id.clone(), caller: caller.id().clone() };
        let resource = Arc::new(resource);
        let permit = self.authorizer.permit::<A>(caller, Arc::clone(&resource));
        let append = |kind, reason: Option<Reason>| {
            self.audit.append(entry::<A>(kind, &origin, &subject, &resource).reason(reason))
        };
        let requested = append(Kind::Request, None).map_err(|e| self.refuse::<A>(context, e.into()))?;
        match permit {
            Ok(permit) => Ok((Admitted { permit, origin, subject }, request, requested)),
            Err(denied) => {
                // Nothing leaves, so nobody has to wait for the disk.
                let _ = append(Kind::Outcome, Some(Reason::NotPermitted));
                Err(self.refuse::<A>(context, denied.into()))
            }
        }
    }

    async fn finish<A: Permitted, T>(
        &self,
        context: &RequestContext,
        admitted: &Admitted<A>,
        requested: Option<Ticket>,
        granted: Option<&ScopeSet>,
        result: Result<T, Failure>,
    ) -> Result<T, Refused> {
        let Admitted { permit, origin, subject } = admitted;
        let outcome = entry::<A>(Kind::Outcome, origin, subject, permit.resource())
            .granted_scopes(granted)
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
        match audited.map_err(Failure::from).and(result) {
            Ok(answer) => {
                self.metrics.call(A::ACTION, None);
                tracing::debug!(request.id = %context.request_id, action = A::ACTION.as_str(), "ok");
                Ok(answer)
            }
            Err(failure) => Err(self.refuse::<A>(context, failure)),
        }
    }

    /// Refuses a request that failed before the policy could be asked about it,
    /// and leaves a trace in the audit log all the same.
    fn refuse_recorded<A: Permitted>(&self, context: &RequestContext, failure: Failure) -> Refused {
        let caller = context.caller.as_ref().ok().map(Caller::id);
        let outcome = Entry::new(Kind::Outcome, &context.request_id, A::ACTION.as_str())
            .caller(caller)
            .reason(failure.reason());
        // Nothing was done and nothing leaves, so nobody waits for the disk.
        let _ = self.audit.append(outcome);
        self.refuse::<A>(context, failure)
    }

    /// Counts and logs what failed and why; the caller learns less.
    fn refuse<A: Permitted>(&self, context: &RequestContext, failure: Failure) -> Refused {
        self.metrics.call(A::ACTION, Some(failure.reason()));
        let caller = context.caller.as_ref().map_or("unidentified", |caller| caller.id().as_str());
        tracing::warn!(
            request.id = %context.request_id, caller.id = caller, action = A::ACTION.as_str(),
            reason = failure.reason().as_str(), detail = failure.detail(), "refused"
        );
        Refused::new(failure, context.request_id.clone())
    }
}

fn entry<'a, A: Permitted>(
    kind: Kind,
    origin: &'a Origin,
    subject: &'a Option<SubjectId>,
    resource: &'a A::Resource,
) -> Entry<'a> {
    let Named { tenant, client, target } = resource.named();
    let entry = Entry::new(kind, &origin.request_id, A::ACTION.as_str())
        .caller(&origin.caller)
        .tenant(tenant)
        .client(client)
        .subject(subject);
    let Some(Target { scopes, resource, claims }) = target else { return entry };
    entry
        .scopes((!scopes.is_empty()).then_some(scopes))
        .resource(resource)
        .claims_sha256(claims.as_ref().map(Claims::sha256))
}

#[cfg(test)]
mod tests;
