//! The request pipeline: what every request goes through, over whatever
//! transport it came and whatever it was that identified its caller.
//!
//! 1. identify: the transport says who calls, or why nobody;
//! 2. convert: every field checked, by [`fields`], without looking anything up;
//! 3. permit: does the policy allow this caller this action here. Who may not do
//!    it anywhere is told that and no more, even of a field that breaks its rule;
//! 4. audit the request: written down before anything is done;
//! 5. do it;
//! 6. audit the outcome: durable before anything leaves;
//! 7. answer.
//!
//! The action is the marker type of the permit that the work asks for, and comes
//! from there alone: what is permitted, recorded and counted is what is done.
//! Nothing is looked up, fetched or verified before the permit, so that the answer
//! to a caller without rights is the same whatever there is. What is refused
//! until then costs one short line, counted rather than repeated
//! ([`AuditLog::refused`]).
//!
//! Whatever fails is a [`Failure`] and leaves as [`Refused`], which the
//! transport alone puts into its own words.
//!
//! In reading order: this file; [`context`]: who asks and what comes back;
//! [`fields`]: the checks of single fields; `refuse`: refusals.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::task::TaskTracker;

use crate::audit::{AuditLog, Entry, Kind, Ticket};
use crate::authn::Caller;
use crate::authz::resource::{Named, Resource as _, TokenWanted};
use crate::authz::{Authorizer, Permit, Permitted};
use crate::domain::failure::Failure;
use crate::domain::id::{CallerId, ClientId, SubjectId, TenantId};
use crate::domain::reason::Reason;
use crate::domain::scope::{Claims, ScopeSet, Target};
use crate::metrics::Counters;
use crate::redeem::Origin;

pub mod context;
pub mod fields;
mod refuse;

pub use context::{Call, Claiming, Kept, Refused, RequestContext, Worked};

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
        let caller = self.identify::<A>(&context)?;
        let Call { resource, subject, request } = self.converted::<A, _>(&context, &caller, convert())?;
        let permit = self.permit::<A>(&context, &caller, subject.as_ref(), resource)?;
        self.perform(context, permit, subject, request, work).await
    }

    /// [`Self::call`] for a request whose tenant only a verification will prove.
    /// The policy is asked about the tenant that is claimed, and the verification
    /// has to find the same: it is not begun for a caller without that permit.
    /// Nor is what `claim` finds wrong told to a caller who may not do this for
    /// any tenant.
    ///
    /// # Errors
    ///
    /// Whatever step refuses it.
    pub async fn call_verified<A, C, R, T, V, F>(
        self: &Arc<Self>,
        context: RequestContext,
        convert: impl FnOnce() -> Result<Claiming<C>, Failure> + Send,
        claim: impl FnOnce(&ClientId, &C) -> Result<TenantId, Failure> + Send,
        verify: impl FnOnce(Permit<A>, C) -> V + Send,
        work: impl FnOnce(Permit<A>, R, Origin) -> F + Send + 'static,
    ) -> Result<T, Refused>
    where
        A: Permitted<Resource = TokenWanted>,
        C: Send,
        R: Send + 'static,
        T: Send + 'static,
        V: Future<Output = Result<(SubjectId, R), Failure>> + Send,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let caller = self.identify::<A>(&context)?;
        let Claiming { client, target, request } = self.converted::<A, _>(&context, &caller, convert())?;
        if let Err(denied) = self.authorizer.permits_somewhere::<A>(&caller, &client, &target) {
            let named = Named { tenant: None, client: Some(&client), target: Some(&target) };
            return Err(self.deny::<A>(&context, named, None, denied.into()));
        }
        let recorded = |failure| self.refuse_recorded::<A>(&context, failure);
        let tenant = claim(&client, &request).map_err(recorded)?;
        let permit = self.permit::<A>(&context, &caller, None, TokenWanted { tenant, client, target })?;
        let (subject, request) = verify(permit.clone(), request).await.map_err(recorded)?;
        self.perform(context, permit, Some(subject), request, work).await
    }

    /// Does what is permitted, in a task of its own.
    async fn perform<A, R, T, F>(
        self: &Arc<Self>,
        context: RequestContext,
        permit: Permit<A>,
        subject: Option<SubjectId>,
        request: R,
        work: impl FnOnce(Permit<A>, R, Origin) -> F + Send + 'static,
    ) -> Result<T, Refused>
    where
        A: Permitted,
        R: Send + 'static,
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let (pipeline, id) = (Arc::clone(self), context.request_id.clone());
        let task = self.tasks.spawn(async move {
            let (admitted, requested) = pipeline.admit(&context, permit, subject)?;
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
        let Call { resource, subject, request } = self.converted::<A, _>(&context, &caller, convert())?;
        let permit = self.permit::<A>(&context, &caller, subject.as_ref(), resource)?;
        let (admitted, requested) = self.admit(&context, permit, subject)?;
        let Worked { result, kept } = work(admitted.permit.clone(), request, admitted.origin.clone()).await;
        let answer = self.finish(&context, &admitted, Some(requested), kept.granted(), result).await;
        // Held until the answer is made: see `redeem::guard::Pass`.
        drop(kept);
        answer
    }

    fn identify<A: Permitted>(&self, context: &RequestContext) -> Result<Caller, Refused> {
        let caller = context.caller.clone();
        caller.map_err(|failure| self.deny::<A>(context, Named::default(), None, failure))
    }

    /// What a conversion found wrong is told to who may do such a thing at all.
    fn converted<A: Permitted, C>(
        &self,
        context: &RequestContext,
        caller: &Caller,
        converted: Result<C, Failure>,
    ) -> Result<C, Refused> {
        converted.map_err(|failure| match self.authorizer.permits_at_all::<A>(caller) {
            Ok(()) => self.refuse_recorded::<A>(context, failure),
            Err(denied) => self.deny::<A>(context, Named::default(), None, denied.into()),
        })
    }

    /// Asks the policy.
    fn permit<A: Permitted>(
        &self,
        context: &RequestContext,
        caller: &Caller,
        subject: Option<&SubjectId>,
        resource: A::Resource,
    ) -> Result<Permit<A>, Refused> {
        let resource = Arc::new(resource);
        let permit = self.authorizer.permit::<A>(caller, Arc::clone(&resource));
        permit.map_err(|denied| self.deny::<A>(context, resource.named(), subject, denied.into()))
    }

    /// Writes a request down that is permitted.
    fn admit<A: Permitted>(
        &self,
        context: &RequestContext,
        permit: Permit<A>,
        subject: Option<SubjectId>,
    ) -> Result<(Admitted<A>, Ticket), Refused> {
        let origin = Origin { request_id: context.request_id.clone(), caller: permit.caller().id().clone() };
        let named = permit.resource().named();
        let request =
            entry::<A>(Kind::Request, &origin.request_id, Some(&origin.caller), subject.as_ref(), named);
        let requested = self.audit.append(request).map_err(|e| self.refuse::<A>(context, e.into()))?;
        Ok((Admitted { permit, origin, subject }, requested))
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
        let (id, caller, named) = (&origin.request_id, Some(&origin.caller), permit.resource().named());
        let outcome = entry::<A>(Kind::Outcome, id, caller, subject.as_ref(), named)
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
}

fn entry<'a, A: Permitted>(
    kind: Kind,
    request_id: &'a str,
    caller: Option<&'a CallerId>,
    subject: Option<&'a SubjectId>,
    Named { tenant, client, target }: Named<'a>,
) -> Entry<'a> {
    let entry = Entry::new(kind, request_id, A::ACTION.as_str())
        .caller(caller)
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
