//! Who is at the other end of a call. The certificate was read when the
//! connection was made.

use crate::domain::failure::Failure;
use crate::domain::reason::Reason;
use crate::pipeline::{Pipeline, RequestContext};

use super::listen::Peer;

/// The context of a request.
pub(super) fn of<T>(pipeline: &Pipeline, request: &tonic::Request<T>) -> RequestContext {
    let caller = match request.extensions().get::<Peer>() {
        Some(peer) => peer.caller().cloned().map_err(|why| Failure::from(*why)),
        None => Err(Failure::new(Reason::CallerUnidentified, "a connection without a peer")),
    };
    let given = request.metadata().get("x-request-id").and_then(|id| id.to_str().ok());
    pipeline.context(caller, given)
}
