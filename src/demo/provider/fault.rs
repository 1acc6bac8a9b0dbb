//! What can go wrong at the token endpoint, on demand.
//!
//! A fault that *consumes* lets the provider do its work first: the refresh
//! token is spent, a new one exists, and only the answer goes wrong. One that
//! does not consume leaves the refresh token as it was.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// One thing that goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// An answer with this status, as JSON made of the given parts, or raw.
    Status {
        /// The HTTP status.
        status: u16,
        /// `error` of the JSON body.
        error: Option<String>,
        /// `suberror` of the JSON body.
        suberror: Option<String>,
        /// `claims` of the JSON body.
        claims: Option<String>,
        /// The header Retry-After, in seconds.
        retry_after: Option<u64>,
        /// The body, in place of JSON.
        body: Option<String>,
        /// The content type, in place of `application/json`.
        content_type: Option<String>,
        /// Whether the refresh token is used all the same.
        consumes: bool,
    },
    /// Status 400 without a body; does not consume.
    EmptyBody400,
    /// A page of HTML, as a broken gateway gives it.
    Html {
        /// The HTTP status.
        status: u16,
        /// Whether the refresh token is used all the same.
        consumes: bool,
    },
    /// Success without `refresh_token`: the old one stays good.
    NoRefreshToken,
    /// Success with `"refresh_token": null`: the old one stays good.
    NullRefreshToken,
    /// Success with `"refresh_token": ""`: the old one stays good.
    EmptyRefreshToken,
    /// Success with `expires_in` as a string of digits.
    ExpiresInText,
    /// Success with `expires_in` as a fraction.
    ExpiresInFloat,
    /// Success with `expires_in` as words nobody can read.
    ExpiresInGarbage,
    /// Success without `expires_in`.
    ExpiresInMissing,
    /// Success with the scopes in another order and more spaces than needed.
    OddScopeOrder,
    /// Success without `access_token`; the refresh token is rotated.
    NoAccessToken,
    /// Success, padded to 4 MiB.
    OversizedBody,
    /// The connection is closed without a byte of an answer.
    CloseBeforeAnswer {
        /// Whether the refresh token is used first.
        consume: bool,
    },
    /// The head and half of the body of a success, then the connection closes.
    HalfBody {
        /// Whether the refresh token is used first.
        consume: bool,
    },
    /// No answer until the gate opens; then the ordinary one.
    Hang {
        /// Whether the refresh token is used before the wait, or after it.
        consume: bool,
        /// What the answer waits for.
        gate: Gate,
    },
    /// The ordinary answer, this much later; the refresh token is used before
    /// the wait.
    Delay(Duration),
    /// Status 307 to another address of the provider; does not consume.
    Redirect,
}

impl Fault {
    /// A JSON error with this status that does not consume.
    #[must_use]
    pub fn error(status: u16, error: &str) -> Self {
        Self::Status {
            status,
            error: Some(error.to_owned()),
            suberror: None,
            claims: None,
            retry_after: None,
            body: None,
            content_type: None,
            consumes: false,
        }
    }

    /// Status 429, with Retry-After where seconds are given; does not consume.
    #[must_use]
    pub fn throttled(retry_after: Option<u64>) -> Self {
        Self::Status {
            status: 429,
            error: Some("temporarily_unavailable".to_owned()),
            suberror: None,
            claims: None,
            retry_after,
            body: None,
            content_type: None,
            consumes: false,
        }
    }
}

/// Holds requests back until it is opened, and tells when one has come.
#[derive(Debug, Clone)]
pub struct Gate {
    open: CancellationToken,
    arrived: watch::Sender<usize>,
}

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn new() -> Self {
        Self { open: CancellationToken::new(), arrived: watch::Sender::new(0) }
    }

    /// Lets everything through, now and later.
    pub fn release(&self) {
        self.open.cancel();
    }

    /// Returns once `count` requests have come to the gate since it was made.
    pub async fn reached(&self, count: usize) {
        // The sender lives in `self`, so the wait cannot end in an error.
        let _ = self.arrived.subscribe().wait_for(|arrived| *arrived >= count).await;
    }

    pub(super) async fn pass(&self) {
        self.arrived.send_modify(|arrived| *arrived += 1);
        self.open.cancelled().await;
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}
