//! Requests that have not arrived in full: bounded in bytes for all and for each
//! caller, and in time. When the vault stops they are refused at once, since
//! nothing was begun for them.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::codegen::http::HeaderMap;

use crate::domain::id::CallerId;
use crate::metrics::Counters;
use crate::shutdown::Shutdown;

use super::status::{self, Status};

/// What one caller may hold of the whole.
const SHARE: usize = 16;
/// What a request costs beside its bytes.
const OVERHEAD: usize = 512;

/// The bytes of all unfinished requests.
pub(super) struct Budget {
    most: usize,
    most_per_caller: usize,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    all: usize,
    by_caller: HashMap<CallerId, usize>,
}

impl Budget {
    /// Any caller can have two of the largest requests under way.
    pub(super) fn new(most: usize, largest: usize) -> Arc<Self> {
        let most_per_caller = (most / SHARE).max(2 * (largest + OVERHEAD));
        Arc::new(Self { most: most.max(most_per_caller), most_per_caller, used: Mutex::default() })
    }

    /// For a request with these headers; nothing where there is no room for it.
    pub(super) fn hold(self: &Arc<Self>, caller: &CallerId, headers: &HeaderMap) -> Option<Held> {
        let bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
        let mut held = Held { budget: Arc::clone(self), caller: caller.clone(), bytes: 0 };
        held.more(bytes + OVERHEAD).then_some(held)
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one request holds; given back when this is dropped.
pub(super) struct Held {
    budget: Arc<Budget>,
    caller: CallerId,
    bytes: usize,
}

impl Held {
    fn more(&mut self, bytes: usize) -> bool {
        let mut used = self.budget.used();
        let own = used.by_caller.get(&self.caller).copied().unwrap_or(0);
        if used.all + bytes > self.budget.most || own + bytes > self.budget.most_per_caller {
            return false;
        }
        used.all += bytes;
        used.by_caller.insert(self.caller.clone(), own + bytes);
        drop(used);
        self.bytes += bytes;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut used = self.budget.used();
        used.all -= self.bytes;
        if let Some(own) = used.by_caller.get_mut(&self.caller) {
            *own -= self.bytes;
            if *own == 0 {
                used.by_caller.remove(&self.caller);
            }
        }
    }
}

/// When a request is given up: too late, or for the shutdown.
type TooLate = Pin<Box<dyn Future<Output = &'static str> + Send>>;

/// The body of a request within its bounds.
pub(super) struct Unfinished<B> {
    body: B,
    /// None: it has arrived.
    held: Option<Held>,
    too_late: TooLate,
    metrics: Arc<Counters>,
}

impl<B> Unfinished<B> {
    /// `time`: within which it has to arrive; none for a stream, which may go on.
    pub(super) fn new(
        body: B,
        held: Held,
        time: Option<Duration>,
        stopping: Shutdown,
        metrics: Arc<Counters>,
    ) -> Self {
        let too_late = Box::pin(async move {
            let late = async {
                match time {
                    Some(time) => tokio::time::sleep(time).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = late => "it did not arrive in server.limits.request_seconds",
                () = stopping.triggered() => "the vault is stopping",
            }
        });
        Self { body, held: Some(held), too_late, metrics }
    }

    fn refuse(&mut self, why: &'static str) -> Status {
        let caller = self.held.take().map(|held| held.caller.to_string()).unwrap_or_default();
        self.metrics.request_unfinished();
        tracing::info!(caller.id = caller, why, "refused a request that has not arrived in full");
        status::overloaded()
    }
}

impl<B> Body for Unfinished<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let Some(held) = &mut this.held else {
            return polled.map(|frame| frame.map(|frame| frame.map_err(|e| status::broken(e.into()))));
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                if !held.more(bytes) {
                    let why = "the bytes of unfinished requests are over server.limits.unfinished_bytes";
                    return Poll::Ready(Some(Err(this.refuse(why))));
                }
                if this.body.is_end_stream() {
                    this.held = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(status::broken(error.into())))),
            Poll::Ready(None) => {
                this.held = None;
                Poll::Ready(None)
            }
            Poll::Pending => this.too_late.as_mut().poll(cx).map(|why| Some(Err(this.refuse(why)))),
        }
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

    fn caller(name: &str) -> CallerId {
        CallerId::new(name).unwrap()
    }

    #[test]
    fn one_caller_cannot_hold_what_is_for_all() {
        let budget = Budget::new(16 * 10_000, 1000);
        let hold = |name: &str| budget.hold(&caller(name), &HeaderMap::new());
        let mut held = Vec::new();
        while let Some(more) = hold("urn:greedy") {
            held.push(more);
        }
        assert_eq!(held.len(), 10_000 / OVERHEAD);
        assert!(!held[0].more(1000));
        let mut other = hold("urn:other").unwrap();
        assert!(other.more(1000));
        drop((held, other));
        let used = budget.used();
        assert_eq!((used.all, used.by_caller.len()), (0, 0));
    }

    #[test]
    fn all_together_do_not_pass_the_bound() {
        let budget = Budget::new(16 * 10_000, 1000);
        let held: Vec<_> = (0..200)
            .filter_map(|n| {
                let mut held = budget.hold(&caller(&format!("urn:{n}")), &HeaderMap::new())?;
                held.more(1000).then_some(held)
            })
            .collect();
        assert_eq!(held.len(), 160_000 / (1000 + OVERHEAD));
        assert!(budget.used().all <= 160_000);
    }

    #[test]
    fn the_largest_request_always_fits() {
        let budget = Budget::new(1_048_576, 4_194_304);
        let mut held = budget.hold(&caller("urn:a"), &HeaderMap::new()).unwrap();
        assert!(held.more(4_194_304));
    }
}
