//! Who is at the other end of a call, as it was found out for this call.

use crate::domain::failure::Failure;
use crate::domain::reason::Reason;
use crate::pipeline::{Pipeline, RequestContext};

use super::listen::Identified;

/// The context of a request.
pub(super) fn of<T>(pipeline: &Pipeline, request: &tonic::Request<T>) -> RequestContext {
    let caller = match request.extensions().get::<Identified>() {
        Some(Identified(caller)) => caller.clone().map_err(Failure::from),
        None => Err(Failure::new(Reason::CallerUnidentified, "a connection without a peer")),
    };
    let given = request.metadata().get("x-request-id").and_then(|id| id.to_str().ok());
    pipeline.context(caller, given)
}
