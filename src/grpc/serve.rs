//! One connection: its calls, and its end.
//!
//! A connection ends when its peer leaves, when it is old or was idle for long,
//! when its identity has ended, when its place is needed, and at a shutdown. It
//! is told to go first (GOAWAY), and what is under way for it is waited for; a
//! stream that it merely holds open is not.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::ServiceExt as _;

use crate::authn::Unidentified;
use crate::clock::{Instant, SharedClock};
use crate::domain::id::CallerId;
use crate::metrics::Counters;
use crate::shutdown::Shutdown;

use super::Api;
use super::limits::Limits;
use super::listen::{Connection, Identified, Peer};
use super::places::{OpenCall, Place};
use super::status;
use super::unfinished::{Budget, Unfinished};

/// How often a connection is asked whether its time is over.
const LOOK: Duration = Duration::from_secs(1);
/// How long a peer that was told to go has for it once nothing is under way.
const LINGER: Duration = Duration::from_secs(1);
/// The same for an idle one whose place is needed.
const EVICTED: Duration = Duration::from_millis(50);
/// How often a silent peer is asked whether it is there, and how long it has.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(20));
/// Most bytes of a call's headers.
const HEADERS: u32 = 8 * 1024;
/// Most bytes of one stream, and of a connection, that nobody has read.
const WINDOWS: (u32, u32) = (64 * 1024, 1024 * 1024);
/// Where the vault's own services are; health and reflection are elsewhere.
const OWN: &str = "/obovault.";
/// Health, whose requests are whole messages too.
const HEALTH: &str = "/grpc.health.";

/// What all connections of a listener share.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) api: Api,
    pub(super) clock: SharedClock,
    pub(super) limits: Limits,
    pub(super) budget: Arc<Budget>,
    pub(super) metrics: Arc<Counters>,
    pub(super) stopping: Shutdown,
    /// How long what is under way is waited for.
    pub(super) drain: Duration,
}

/// One connection and its peer.
struct Conversation {
    common: Common,
    peer: Peer,
    caller: CallerId,
    place: Place,
    since: Instant,
    age: Duration,
    /// Calls whose answer is not known yet.
    working: TaskTracker,
    /// Calls whose answer has not left in full.
    open: TaskTracker,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Shutdown,
    Evicted,
    Age,
    Idle,
    Identity(Unidentified),
}

/// Serves the calls of a connection until its end. `age`: how old it becomes.
pub(super) async fn serve(
    common: Common,
    connection: Connection,
    caller: CallerId,
    place: Place,
    age: Duration,
) {
    let Connection { stream, peer } = connection;
    let since = common.clock.instant();
    let (working, open) = (TaskTracker::new(), TaskTracker::new());
    working.close();
    open.close();
    let conversation = Arc::new(Conversation { common, peer, caller, place, since, age, working, open });
    let service = {
        let conversation = Arc::clone(&conversation);
        service_fn(move |request| answer(Arc::clone(&conversation), request))
    };
    let mut http =
        pin!(protocol(&conversation.common.limits).serve_connection(TokioIo::new(stream), service));
    let ending = tokio::select! {
        served = &mut http => {
            if let Err(error) = served {
                tracing::debug!(caller.id = %conversation.caller, %error, "a connection broke off");
            }
            return;
        }
        ending = conversation.ending() => ending,
    };
    conversation.say(ending);
    http.as_mut().graceful_shutdown();
    tokio::select! {
        _ = &mut http => {}
        () = conversation.let_go(ending) => {}
    }
}

fn protocol(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut protocol = http2::Builder::new(TokioExecutor::new());
    protocol
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.calls_per_connection)
        .max_header_list_size(HEADERS)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1);
    protocol
}

impl Conversation {
    async fn ending(&self) -> Ending {
        let due = async {
            loop {
                tokio::time::sleep(LOOK).await;
                if let Some(ending) = self.due() {
                    return ending;
                }
            }
        };
        tokio::select! {
            () = self.common.stopping.triggered() => Ending::Shutdown,
            () = self.place.evicted() => Ending::Evicted,
            ending = due => ending,
        }
    }

    fn due(&self) -> Option<Ending> {
        if let Err(why) = self.peer.caller(self.common.clock.now()) {
            return Some(Ending::Identity(why));
        }
        let now = self.common.clock.instant();
        let idle = self.place.activity().idle_since().map(|since| now.since(since));
        over(now.since(self.since), idle, self.age, self.common.limits.idle)
    }

    fn say(&self, ending: Ending) {
        match ending {
            Ending::Identity(why) => {
                tracing::warn!(caller.id = %self.caller, %why, "closing a connection: its identity has ended");
            }
            Ending::Shutdown | Ending::Evicted | Ending::Age | Ending::Idle => {
                tracing::debug!(caller.id = %self.caller, ?ending, "closing a connection");
            }
        }
    }

    /// Waits until the connection may be closed whether its peer agrees or not.
    async fn let_go(&self, ending: Ending) {
        let drain = self.common.drain;
        match ending {
            Ending::Evicted => return tokio::time::sleep(EVICTED).await,
            // Others can come in meanwhile, so what goes on may go on.
            Ending::Age | Ending::Idle => tokio::select! {
                _ = tokio::time::timeout(drain, self.open.wait()) => {}
                () = self.common.stopping.triggered() => {}
            },
            Ending::Shutdown | Ending::Identity(_) => {}
        }
        let _ = tokio::time::timeout(drain, self.working.wait()).await;
        tokio::time::sleep(LINGER).await;
    }
}

/// Whether a connection of that age, idle for so long, has come to its end.
fn over(aged: Duration, idle: Option<Duration>, age: Duration, most_idle: Duration) -> Option<Ending> {
    if aged >= age {
        Some(Ending::Age)
    } else if idle.is_some_and(|idle| idle >= most_idle) {
        Some(Ending::Idle)
    } else {
        None
    }
}

/// An age between nine and eleven tenths of the usual one, so that connections
/// that were made together do not end together.
pub(super) fn spread(age: Duration, chance: u16) -> Duration {
    age.mul_f64(0.9 + 0.2 * f64::from(chance) / f64::from(u16::MAX))
}

/// One call. Who the peer is, is asked anew.
async fn answer(
    conversation: Arc<Conversation>,
    request: Request<Incoming>,
) -> Result<Response<Answered>, Infallible> {
    let call = conversation.place.activity().begin();
    let (working, open) = (conversation.working.token(), conversation.open.token());
    let Common { api, clock, limits, budget, metrics, stopping, .. } = &conversation.common;
    let path = request.uri().path();
    let own = path.starts_with(OWN);
    let whole = own || path.starts_with(HEALTH);
    let caller = conversation.peer.caller(clock.now());
    let response = match (&caller, budget.hold(&conversation.caller, request.headers())) {
        // The pipeline refuses the vault's own calls, and counts them.
        (Err(why), _) if !own => {
            tracing::warn!(caller.id = %conversation.caller, %why, path, "refused");
            status::unidentified()
        }
        (_, None) => {
            metrics.request_unfinished();
            status::overloaded().into_http()
        }
        (_, Some(held)) => {
            let time = whole.then_some(limits.request);
            let mut request = request.map(|body| {
                Body::new(Unfinished::new(body, held, time, stopping.clone(), Arc::clone(metrics)))
            });
            request.extensions_mut().insert(Identified(caller));
            api.clone().oneshot(request).await?
        }
    };
    drop(working);
    Ok(response.map(|body| Answered { body, _call: call, _open: open }))
}

/// The body of an answer; the call is over when it has left.
struct Answered {
    body: Body,
    _call: OpenCall,
    _open: TaskTrackerToken,
}

impl http_body::Body for Answered {
    type Data = Bytes;
    type Error = status::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, status::Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_ends_by_age_or_when_it_was_idle() {
        let seconds = Duration::from_secs;
        let over =
            |aged, idle: Option<u64>| over(seconds(aged), idle.map(seconds), seconds(100), seconds(10));
        assert_eq!(over(99, None), None, "at work");
        assert_eq!(over(99, Some(9)), None);
        assert_eq!(over(99, Some(10)), Some(Ending::Idle));
        assert_eq!(over(100, None), Some(Ending::Age), "whatever goes on");
    }

    #[test]
    fn ages_are_spread_by_a_tenth() {
        let age = Duration::from_secs(1000);
        assert_eq!(spread(age, 0), Duration::from_secs(900));
        assert_eq!(spread(age, u16::MAX), Duration::from_secs(1100));
    }
}
