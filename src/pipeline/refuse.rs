//! Refusals: recorded, counted and logged, and how much of each is told.

use crate::audit::{Entry, Kind, Spelling};
use crate::authn::Caller;
use crate::authz::Permitted;
use crate::authz::resource::Named;
use crate::domain::failure::Failure;
use crate::domain::id::SubjectId;

use super::{Pipeline, Refused, RequestContext, entry};

impl Pipeline {
    /// Refuses a request of a caller with rights before anything was done, and
    /// leaves a trace in the audit log all the same.
    pub(super) fn refuse_recorded<A: Permitted>(
        &self,
        context: &RequestContext,
        failure: Failure,
    ) -> Refused {
        let caller = context.caller.as_ref().ok().map(Caller::id);
        let outcome = Entry::new(Kind::Outcome, &context.request_id, A::ACTION.as_str())
            .caller(caller)
            .reason(failure.reason());
        // Nothing was done and nothing leaves, so nobody waits for the disk.
        let _ = self.audit.append(outcome);
        self.refuse::<A>(context, failure)
    }

    /// Refuses who may not do this: in a line of the audit log and one of the
    /// log, or counted where that was so too often.
    pub(super) fn deny<A: Permitted>(
        &self,
        context: &RequestContext,
        named: Named<'_>,
        subject: Option<&SubjectId>,
        failure: Failure,
    ) -> Refused {
        let caller = context.caller.as_ref().ok().map(Caller::id);
        let outcome = entry::<A>(Kind::Outcome, &context.request_id, caller, subject, named);
        match self.audit.refused(outcome.reason(failure.reason())) {
            Spelling::InFull => self.refuse::<A>(context, failure),
            Spelling::Counted => {
                self.metrics.call(A::ACTION, Some(failure.reason()));
                Refused::new(failure, context.request_id.clone())
            }
        }
    }

    /// Counts and logs what failed and why; the caller learns less.
    pub(super) fn refuse<A: Permitted>(&self, context: &RequestContext, failure: Failure) -> Refused {
        self.metrics.call(A::ACTION, Some(failure.reason()));
        let caller = context.caller.as_ref().map_or("unidentified", |caller| caller.id().as_str());
        tracing::warn!(
            request.id = %context.request_id, caller.id = caller, action = A::ACTION.as_str(),
            reason = failure.reason().as_str(), detail = failure.detail(), "refused"
        );
        Refused::new(failure, context.request_id.clone())
    }
}
