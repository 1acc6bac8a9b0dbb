//! One POST and no more, and an honest word about what became of it.
//!
//! The difference that counts is between "no byte of the request was written"
//! and everything else. It is not guessed from the kind of error: each request
//! opens a connection of its own, and when that connection stands a gate asks
//! whether there is still time. Before the gate nothing can have been sent;
//! after it anything may have been. The gate opens once per request, so a
//! second connection, which could only be a repetition, never comes about.

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, RequestBuilder, Response, redirect, retry};
use tokio::sync::{mpsc, oneshot};
use tower::{Layer, Service};
use zeroize::Zeroizing;

use super::answer::RawAnswer;
use super::wire::Prepared;
use crate::clock::{Clock, Timestamp};

/// How long a connection may take to stand, TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Most bytes of an answer.
const MOST_BYTES: usize = 1024 * 1024;

/// Longest wait a provider's Retry-After can impose.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// What became of a request. The details are the vault's own words and an
/// error's kind; they hold nothing of the request or the answer.
#[derive(Debug)]
pub enum SendOutcome {
    /// Proven: no byte of it was written.
    NotSent {
        /// Why.
        detail: String,
    },
    /// It may have been received, and the answer is not known.
    Interrupted {
        /// What happened.
        detail: String,
    },
    /// The provider answered.
    Answered(RawAnswer),
}

/// A provider's connection: no pool, no retries, no redirects, no proxy.
#[expect(clippy::disallowed_types, reason = "this is the one home of the HTTP client")]
pub(super) struct Http(reqwest::Client);

impl Http {
    /// `authorities` (PEM) replace the system's; `tls` says whether any are
    /// needed at all.
    #[expect(clippy::disallowed_types, reason = "this is the one home of the HTTP client")]
    pub(super) fn new(authorities: Option<&[u8]>, tls: bool) -> Result<Self, String> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("obo-vault/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            // With a pool, hyper repeats a request when a kept connection turns
            // out to be dead, and the gate would not see it pass.
            .pool_max_idle_per_host(0)
            .connector_layer(GateLayer)
            .connect_timeout(CONNECT_LIMIT);
        match authorities {
            Some(pem) => {
                let authorities = Certificate::from_pem_bundle(pem).unwrap_or_default();
                if authorities.is_empty() {
                    return Err("its CA file holds no certificate in PEM".into());
                }
                builder = builder.tls_certs_only(authorities);
            }
            None if !tls => builder = builder.tls_certs_only([]),
            None => {}
        }
        builder.build().map(Self).map_err(|error| format!("no HTTP client: {}", words(error)))
    }

    /// Makes one POST.
    pub(super) async fn post(
        &self,
        prepared: Prepared,
        still_in_time: impl FnOnce() -> bool + Send,
        limit: Duration,
        clock: &dyn Clock,
    ) -> SendOutcome {
        let Prepared { url, authorization, body, request_id, .. } = prepared;
        let mut request = self
            .0
            .post(url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .header("client-request-id", request_id.to_string())
            .header("return-client-request-id", "true")
            .body(Bytes::from_owner(WipedBytes(body)));
        if let Some(authorization) = authorization {
            let Ok(mut value) = HeaderValue::from_str(&authorization) else {
                return SendOutcome::NotSent { detail: "the credentials do not fit a header".into() };
            };
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }

        let mut still_in_time = Some(still_in_time);
        let mut passed = false;
        let (gate, mut asked) = mpsc::unbounded_channel::<oneshot::Sender<bool>>();
        let mut exchange = pin!(tokio::time::timeout(limit, GATE.scope(gate, exchange(request, clock))));
        let ended = loop {
            tokio::select! {
                biased;
                Some(reply) = asked.recv() => {
                    let open = still_in_time.take().is_some_and(|ask| ask());
                    passed |= open;
                    // The asker is gone only when the exchange has ended.
                    let _gone = reply.send(open);
                }
                ended = &mut exchange => break ended,
            }
        };
        match ended {
            Ok(Ok(answer)) => SendOutcome::Answered(answer),
            Ok(Err(detail)) if passed => SendOutcome::Interrupted { detail },
            Ok(Err(detail)) => SendOutcome::NotSent { detail },
            Err(_) if passed => SendOutcome::Interrupted { detail: "no answer within the limit".into() },
            Err(_) => SendOutcome::NotSent { detail: "no connection within the limit".into() },
        }
    }

    /// Fetches a public document.
    pub(super) async fn get(&self, url: &str, limit: Duration) -> Result<Zeroizing<Vec<u8>>, String> {
        let fetch = async {
            let request = self.0.get(url).header(ACCEPT, "application/json");
            let response = request.send().await.map_err(words)?;
            let status = response.status();
            if status.as_u16() != 200 {
                return Err(format!("HTTP status {}", status.as_u16()));
            }
            read(response).await
        };
        tokio::time::timeout(limit, fetch).await.unwrap_or_else(|_| Err("no answer within the limit".into()))
    }
}

async fn exchange(request: RequestBuilder, clock: &dyn Clock) -> Result<RawAnswer, String> {
    let response = request.send().await.map_err(words)?;
    let status = response.status().as_u16();
    let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = header.and_then(|value| retry_after(value, clock.now()));
    Ok(RawAnswer::new(status, retry_after, read(response).await?))
}

/// Reads a body within bounds.
async fn read(mut response: Response) -> Result<Zeroizing<Vec<u8>>, String> {
    const TOO_LONG: &str = "answer too long";
    let announced = response.content_length().unwrap_or(16 * 1024);
    let announced = usize::try_from(announced).unwrap_or(usize::MAX);
    if announced > MOST_BYTES {
        return Err(TOO_LONG.into());
    }
    let mut body = Zeroizing::new(Vec::with_capacity(announced));
    while let Some(chunk) = response.chunk().await.map_err(words)? {
        let needed = body.len() + chunk.len();
        if needed > MOST_BYTES {
            return Err(TOO_LONG.into());
        }
        if needed > body.capacity() {
            // Grown by hand, so that the memory left behind is wiped.
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two()));
            larger.extend_from_slice(&body);
            body = larger;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Seconds, or a date in the form of RFC 9110 section 5.6.7.
fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // What does not fit a number is longer than the longest.
        value.parse().map_or(LONGEST_RETRY_AFTER, Duration::from_secs)
    } else {
        let date = chrono::DateTime::parse_from_rfc2822(value).ok()?;
        Timestamp(date.timestamp_millis()).since(now)
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

/// An error's kinds from the outside in, without the address.
fn words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        words.push_str(": ");
        words.push_str(&inner.to_string());
        source = inner.source();
    }
    words
}

/// The request's body, wiped when the last reference to it goes.
struct WipedBytes(Zeroizing<String>);

impl AsRef<[u8]> for WipedBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

tokio::task_local! {
    /// Where the connector asks whether the request may still go out. Without
    /// one, as for keys, it may.
    static GATE: mpsc::UnboundedSender<oneshot::Sender<bool>>;
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

#[derive(Clone)]
struct GateLayer;

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, connector: S) -> Gate<S> {
        Gate(connector)
    }
}

/// A connector that hands its connection out only if there is still time.
#[derive(Clone)]
struct Gate<S>(S);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<S, R> Service<R> for Gate<S>
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
            if let Ok(gate) = GATE.try_with(Clone::clone) {
                let (reply, answer) = oneshot::channel();
                // Whoever does not answer does not say yes.
                if gate.send(reply).is_err() || !answer.await.unwrap_or(false) {
                    return Err(TooLate.into());
                }
            }
            Ok(connection)
        })
    }
}
