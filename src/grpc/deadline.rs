//! A call whose `grpc-timeout` passes ends as DEADLINE_EXCEEDED.
//!
//! What was begun goes on in tasks of its own, as it does for a caller that
//! leaves.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{Either, Ready, ready};
use tokio::time::Sleep;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

use super::status;

/// See [the module](self).
#[derive(Debug, Clone, Copy)]
pub struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner }
    }
}

/// See [`DeadlineLayer`].
#[derive(Debug, Clone)]
pub struct Deadline<S> {
    inner: S,
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<S, R> Service<Request<R>> for Deadline<S>
where
    S: Service<Request<R>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Boxed<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        // Its time begins here, and not when the call is polled first.
        let passed = timeout(request.headers()).map(passed);
        let answer = self.inner.call(request);
        match passed {
            None => Either::Left(answer),
            Some(passed) => Either::Right(Box::pin(async move {
                tokio::select! {
                    biased;
                    answer = answer => answer,
                    () = passed => Ok(status::deadline_exceeded()),
                }
            })),
        }
    }
}

/// Even a sleep of nothing would wait for the next tick: nothing left is over at
/// once.
fn passed(rest: Duration) -> Either<Ready<()>, Sleep> {
    if rest.is_zero() { Either::Left(ready(())) } else { Either::Right(tokio::time::sleep(rest)) }
}

/// The deadline as the protocol writes it; what is written otherwise is none.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (value, unit) = text.split_at(text.len().checked_sub(1)?);
    let value: u64 = value.parse().ok().filter(|_| value.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_read_as_the_protocol_writes_it() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            timeout(&headers)
        };
        assert_eq!(timeout(&HeaderMap::new()), None);
        for (text, expected) in [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("4S", Duration::from_secs(4)),
            ("5m", Duration::from_millis(5)),
            ("6u", Duration::from_micros(6)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(read(text), Some(expected), "{text}");
        }
        for odd in ["", "S", "5", "5s", "-5S", "100000000S", "5 S"] {
            assert_eq!(read(odd), None, "{odd:?}");
        }
    }

    #[tokio::test]
    async fn what_does_not_end_ends_with_its_deadline() {
        let forever = tower::service_fn(|_: Request<()>| {
            std::future::pending::<Result<Response<Body>, std::convert::Infallible>>()
        });
        let calls = (0..400_u64).map(|n| async move {
            let micros = n * 100;
            let request = Request::builder().header("grpc-timeout", format!("{micros}u")).body(()).unwrap();
            let call = DeadlineLayer.layer(forever).call(request);
            tokio::time::timeout(Duration::from_secs(60), call).await
        });
        for answer in futures_util::future::join_all(calls).await {
            let answer = answer.expect("it went on past its deadline").unwrap();
            assert_eq!(answer.headers()["grpc-status"], "4");
        }
    }
}
