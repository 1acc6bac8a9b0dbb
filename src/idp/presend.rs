//! The pre-send deadline check: a layer around the HTTP client's
//! connector that, once a connection stands, asks whether the request may still
//! go out, and gives the connection away only on a yes.
//!
//! The connector is built once and knows nothing of requests, so the question
//! finds its request by the task: the exchange runs within [`guarded`], and since
//! the client has no pool it opens its connection there too.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot};
use tower::{Layer, Service};

/// Where the check asks, and by what it is answered. Whoever does not answer
/// does not say yes.
pub(super) type Keeper = mpsc::UnboundedSender<oneshot::Sender<bool>>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

tokio::task_local! {
    static KEEPER: Keeper;
}

/// Runs an exchange whose connections ask `keeper`. Outside of this, as for
/// published keys, nothing is asked.
pub(super) fn guarded<F: Future>(keeper: Keeper, exchange: F) -> impl Future<Output = F::Output> {
    KEEPER.scope(keeper, exchange)
}

/// Puts the check behind a connector.
#[derive(Clone)]
pub(super) struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = Checked<S>;

    fn layer(&self, connector: S) -> Checked<S> {
        Checked(connector)
    }
}

/// A connector that hands its connection out only if there is still time.
#[derive(Clone)]
pub(super) struct Checked<S>(S);

impl<S, R> Service<R> for Checked<S>
where
    S: Service<R, Error = BoxError>,
    S::Future: Send + 'static,
    S::Response: Send,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, destination: R) -> Self::Future {
        let connecting = self.0.call(destination);
        Box::pin(async move {
            let connection = connecting.await?;
            if let Ok(keeper) = KEEPER.try_with(Clone::clone) {
                let (reply, answer) = oneshot::channel();
                if keeper.send(reply).is_err() || !answer.await.unwrap_or(false) {
                    return Err(TooLate.into());
                }
            }
            Ok(connection)
        })
    }
}

/// The request came too late to its connection.
#[derive(Debug)]
struct TooLate;

impl fmt::Display for TooLate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too late to send")
    }
}

impl std::error::Error for TooLate {}
