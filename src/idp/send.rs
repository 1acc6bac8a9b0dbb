//! One POST and no more, and an honest word about what became of it.
//!
//! The difference that counts is between "no byte of the request was written"
//! and everything else. It is not guessed from the kind of error: each request
//! opens a connection of its own, and when that connection stands the pre-send deadline check asks
//! (see `presend`) whether there is still time. Before it nothing can have
//! been sent; after it anything may have been. It passes once per request,
//! so a second connection, which could only be a repetition, never comes about.

use std::pin::{Pin, pin};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER,
};
use reqwest::{Certificate, RequestBuilder, Response, redirect, retry};
use tokio::sync::mpsc;
use tokio::time::Sleep;
use zeroize::Zeroizing;

use super::answer::RawAnswer;
use super::body::{self, Arrived};
use super::coding;
use super::fields::is_whole_object;
use super::form;
use super::presend::{self, DeadlineLayer};
use super::wire::Prepared;
use crate::clock::{Clock, Timestamp};
use crate::domain::chain::{error_chain, sources};

/// How long a connection may take to stand, TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

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
        /// Whether the vault itself lacked what it takes, such as a descriptor.
        overloaded: bool,
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
#[derive(Clone)]
pub(super) struct Http(Arc<RwLock<reqwest::Client>>);

impl Http {
    /// `authorities` (PEM) replace the system's; `tls` says whether any are
    /// needed at all.
    pub(super) fn new(authorities: Option<&[u8]>, tls: bool) -> Result<Self, String> {
        Self::build(authorities, tls).map(|client| Self(Arc::new(RwLock::new(client))))
    }

    /// The same with other authorities, for requests from now on.
    pub(super) fn renew(&self, authorities: Option<&[u8]>, tls: bool) -> Result<(), String> {
        let client = Self::build(authorities, tls)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = client;
        Ok(())
    }

    #[expect(clippy::disallowed_types, reason = "this is the one home of the HTTP client")]
    fn client(&self) -> reqwest::Client {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[expect(clippy::disallowed_types, reason = "this is the one home of the HTTP client")]
    fn build(authorities: Option<&[u8]>, tls: bool) -> Result<reqwest::Client, String> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("obo-vault/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            // With a pool, hyper repeats a request when a kept connection turns
            // out to be dead, and the check would not see it pass.
            .pool_max_idle_per_host(0)
            .connector_layer(DeadlineLayer)
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
        builder.build().map_err(|error| format!("no HTTP client: {}", Fault::of(error).detail))
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
            .client()
            .post(url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .header(ACCEPT_ENCODING, "identity")
            .header("client-request-id", request_id.to_string())
            .header("return-client-request-id", "true")
            .body(Bytes::from_owner(WipedBytes(body)));
        if let Some(authorization) = authorization {
            let Ok(mut value) = HeaderValue::from_str(&authorization) else {
                let detail = "the credentials do not fit a header".into();
                return SendOutcome::NotSent { detail, overloaded: false };
            };
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }

        let mut still_in_time = Some(still_in_time);
        let mut passed = false;
        let (keeper, mut asked) = mpsc::unbounded_channel();
        let mut exchange = pin!(presend::guarded(keeper, exchange(request, limit, clock)));
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
            Ok(head) => arrived(head),
            Err(Fault { detail, .. }) if passed => SendOutcome::Interrupted { detail },
            Err(Fault { detail, overloaded }) => SendOutcome::NotSent { detail, overloaded },
        }
    }

    /// Fetches a public document; the body counts only with the status 200.
    pub(super) async fn get(
        &self,
        url: &str,
        limit: Duration,
        clock: &dyn Clock,
    ) -> Result<(u16, Zeroizing<Vec<u8>>), Fault> {
        let request =
            self.client().get(url).header(ACCEPT, "application/json").header(ACCEPT_ENCODING, "identity");
        let Head { status, body, .. } = exchange(request, limit, clock).await?;
        match body.fault {
            Some(detail) if status == 200 => Err(Fault { detail, overloaded: false }),
            _ => Ok((status, body.bytes)),
        }
    }
}

/// What came of a request once its head was there.
struct Head {
    status: u16,
    retry_after: Option<Duration>,
    body: Arrived,
}

async fn exchange(request: RequestBuilder, limit: Duration, clock: &dyn Clock) -> Result<Head, Fault> {
    let mut limit = pin!(tokio::time::sleep(limit));
    let response = tokio::select! {
        biased;
        response = request.send() => response.map_err(Fault::of)?,
        () = limit.as_mut() => return Err(Fault::limit()),
    };
    let status = response.status().as_u16();
    let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = header.and_then(|value| retry_after(value, clock.now()));
    Ok(Head { status, retry_after, body: read(response, limit).await })
}

/// Reads a body, as far as it comes, and undoes its content codings.
async fn read(response: Response, limit: Pin<&mut Sleep>) -> Arrived {
    let named: Vec<&str> = response
        .headers()
        .get_all(CONTENT_ENCODING)
        .iter()
        .map(|value| value.to_str().unwrap_or("?"))
        .collect();
    let named = named.join(",");
    let announced = response.content_length();
    let chunks = stream::unfold(response, |mut response| async move {
        let chunk = response.chunk().await.map_err(|error| Fault::of(error).detail);
        chunk.transpose().map(|chunk| (chunk, response))
    });
    coding::decode(&named, body::collect(chunks, announced, limit).await)
}

/// What a request became once its head was there. A refresh token that stands
/// whole in what arrived of a success is never thrown away for what is missing
/// around it (rule 5); an answer of which nothing else is known is none.
fn arrived(Head { status, retry_after, body }: Head) -> SendOutcome {
    let success = (200..300).contains(&status);
    let Arrived { bytes, fault } = if success { form::as_object(body) } else { body };
    // A whole object lacks nothing, however its connection ended.
    let whole = fault.is_none() || success && is_whole_object(&bytes);
    let answer = if whole {
        RawAnswer::new(status, retry_after, bytes)
    } else {
        RawAnswer::torn(status, retry_after, bytes)
    };
    if !answer.is_torn() {
        return SendOutcome::Answered(answer);
    }
    let detail = fault.unwrap_or_else(|| "the answer's JSON breaks off".into());
    if success && answer.has_refresh_token() {
        tracing::warn!(status, detail, "an answer broke off after its refresh token, which is kept");
        return SendOutcome::Answered(answer);
    }
    SendOutcome::Interrupted { detail }
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

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) detail: String,
    /// Whether the vault itself lacked a resource.
    pub(super) overloaded: bool,
}

impl Fault {
    fn of(error: reqwest::Error) -> Self {
        // Without the address, which is for the configuration to tell.
        let error = error.without_url();
        let overloaded = sources(&error).any(is_lack) || error.is_connect() && lacks_descriptors();
        Self { detail: error_chain(&error), overloaded }
    }

    fn limit() -> Self {
        Self { detail: "no answer within the limit".into(), overloaded: false }
    }
}

/// Whether an error says that this process or machine has no more of something:
/// descriptors (EMFILE, ENFILE), memory (ENOMEM) or buffers (ENOBUFS).
fn is_lack(error: &(dyn std::error::Error + 'static)) -> bool {
    const LINUX: [i32; 4] = [24, 23, 12, 105];
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.raw_os_error().is_some_and(|code| LINUX.contains(&code)))
}

/// A resolver without a descriptor says only that a name cannot be found, so
/// that is tried out.
fn lacks_descriptors() -> bool {
    std::fs::File::open("/dev/null").is_err_and(|error| is_lack(&error))
}

/// The request's body, wiped when the last reference to it goes.
struct WipedBytes(Zeroizing<String>);

impl AsRef<[u8]> for WipedBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use tokio::net::TcpListener;

    use super::super::testing::{Reply, Server, client, post_client, provider, ready, tenant};
    use super::super::{Client, ClientAuth, Exchange, MOST_ANSWER_BYTES, Proof, Verdict, classify};
    use super::*;
    use crate::clock::SystemClock;
    use crate::domain::profile::Profile;
    use crate::domain::scope::Target;
    use crate::secret::{ClientSecret, RefreshToken};

    /// Longer than any of these tests takes.
    const AMPLE: Duration = Duration::from_secs(60);
    /// Short, for those that wait for it; a connection on loopback stands by then.
    const SHORT: Duration = Duration::from_secs(2);

    fn client_at(base: &str) -> Arc<Client> {
        ready(provider(base), post_client(), SystemClock::shared())
    }

    async fn send(client: &Client, in_time: bool, limit: Duration) -> SendOutcome {
        let token = RefreshToken::new("hunter2".into());
        let target = Target::default();
        let proof = Proof { now: Timestamp(0), send_by: Timestamp(0), jti: "j".into() };
        let exchange = Exchange::Refresh { token: &token, target: &target };
        let prepared = client.prepare(&tenant(), exchange, proof).unwrap();
        let outcome = client.send(prepared, || in_time, limit).await;
        assert!(!format!("{outcome:?}").contains("hunter2"), "{outcome:?}");
        outcome
    }

    #[track_caller]
    fn assert_interrupted(outcome: SendOutcome) -> String {
        let SendOutcome::Interrupted { detail } = outcome else { panic!("{outcome:?}") };
        detail
    }

    #[track_caller]
    fn assert_not_sent(outcome: SendOutcome) -> String {
        let SendOutcome::NotSent { detail, .. } = outcome else { panic!("{outcome:?}") };
        detail
    }

    #[tokio::test]
    async fn an_answer_comes_back_whole() {
        let server = Server::start(Reply::full("429 Slow", "Retry-After: 7\r\n", "body")).await;
        let SendOutcome::Answered(answer) = send(&client_at(&server.base), true, AMPLE).await else {
            panic!()
        };
        assert_eq!((answer.status(), answer.retry_after()), (429, Some(Duration::from_secs(7))));
        assert_eq!(*answer.text(), "body");
    }

    #[tokio::test]
    async fn a_request_has_the_headers_of_the_token_endpoint() {
        let server = Server::start(Reply::full("200 OK", "", "{}")).await;
        let basic = client(ClientAuth::SecretBasic(ClientSecret::new("s".into())));
        let client = ready(provider(&server.base), basic, SystemClock::shared());
        send(&client, true, AMPLE).await;
        let requests = server.requests();
        let (head, body) = requests[0].split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /t1/token HTTP/1.1\r\n"), "{head}");
        let header = |name: &str| {
            let line = head.lines().find(|l| l.to_ascii_lowercase().starts_with(&format!("{name}:")));
            line.map(|l| l.split_once(':').unwrap().1.trim().to_owned())
        };
        assert_eq!(header("content-type").as_deref(), Some("application/x-www-form-urlencoded"));
        assert_eq!(header("accept").as_deref(), Some("application/json"));
        assert_eq!(header("accept-encoding").as_deref(), Some("identity"));
        assert_eq!(header("return-client-request-id").as_deref(), Some("true"));
        assert!(uuid::Uuid::parse_str(&header("client-request-id").unwrap()).is_ok());
        assert_eq!(header("authorization").as_deref(), Some("Basic Y2xpZW50KzE6cw=="));
        assert_eq!(body, "client_id=client+1&grant_type=refresh_token&client_info=1&refresh_token=hunter2");
    }

    #[tokio::test]
    async fn a_refused_connection_is_proven_unsent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let detail = assert_not_sent(send(&client_at(&base), true, AMPLE).await);
        assert!(!detail.contains(&base), "the address is for the configuration: {detail}");
    }

    #[tokio::test]
    async fn too_late_nothing_is_written() {
        let server = Server::start(Reply::full("200 OK", "", "{}")).await;
        let detail = assert_not_sent(send(&client_at(&server.base), false, AMPLE).await);
        assert!(detail.contains("too late to send"), "{detail}");
        assert_eq!((server.bytes(), server.requests().len()), (0, 0));
    }

    #[tokio::test]
    async fn a_connection_closed_without_an_answer_is_an_unknown_outcome_and_not_repeated() {
        let server = Server::start(Reply::Close(String::new())).await;
        assert_interrupted(send(&client_at(&server.base), true, AMPLE).await);
        assert_eq!((server.connections(), server.requests().len()), (1, 1));
    }

    #[tokio::test]
    async fn half_an_answer_is_an_unknown_outcome() {
        for half in [
            "HTTP/1.1 200 OK\r\ncontent-le",
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"refresh_token\":\"hunter2",
            "HTTP/1.1 200 OK\r\ncontent-length: 24\r\n\r\n{\"access_token\":\"hunter2\"",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7\r\nhunter2\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n<p>{\"refresh_token\":\"hunter2\"}",
            "HTTP/1.1 400 No\r\ncontent-length: 100\r\n\r\n{\"error\":\"invalid_grant\"}",
            "HTTP/1.1 400 No\r\ncontent-length: 100\r\n\r\n{\"refresh_token\":\"hunter2\"",
            "HTTP/1.1 200 OK\r\ncontent-encoding: aes128gcm\r\ncontent-length: 7\r\n\r\nhunter2",
            "nonsense hunter2\r\n\r\n",
        ] {
            let server = Server::start(Reply::Close(half.into())).await;
            assert_interrupted(send(&client_at(&server.base), true, AMPLE).await);
            assert_eq!(server.requests().len(), 1, "{half}");
        }
    }

    #[tokio::test]
    async fn a_server_that_hangs_is_an_unknown_outcome_at_the_limit() {
        let hung = async |start: &str| {
            let server = Server::start(Reply::Hang(start.into())).await;
            let detail = assert_interrupted(send(&client_at(&server.base), true, SHORT).await);
            assert_eq!(detail, "no answer within the limit");
            assert_eq!(server.requests().len(), 1);
        };
        tokio::join!(hung(""), hung("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"));
    }

    #[tokio::test]
    async fn an_answer_without_end_is_an_unknown_outcome() {
        let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(MOST_ANSWER_BYTES + 1));
        let server = Server::start(Reply::Hang(endless)).await;
        assert_eq!(assert_interrupted(send(&client_at(&server.base), true, AMPLE).await), body::TOO_LONG);
        let most = Server::start(Reply::full("200 OK", "", &"x".repeat(MOST_ANSWER_BYTES))).await;
        let SendOutcome::Answered(answer) = send(&client_at(&most.base), true, AMPLE).await else { panic!() };
        assert_eq!(answer.text().len(), MOST_ANSWER_BYTES);
    }

    const WHOLE: &str = r#"{"access_token":"at","refresh_token":"rt","expires_in":60}"#;

    /// The access token and the refresh token of an answer.
    fn tokens(outcome: SendOutcome) -> (Option<String>, Option<String>) {
        let SendOutcome::Answered(answer) = outcome else { panic!("{outcome:?}") };
        let Verdict::Tokens(tokens) = classify(&Profile::strict(), &answer) else { panic!("{answer:?}") };
        let access_token = tokens.access_token.map(|token| token.expose().to_owned());
        (access_token, tokens.refresh_token.map(|token| token.expose().to_owned()))
    }

    #[tokio::test]
    async fn a_refresh_token_that_arrived_is_kept_whatever_breaks_after_it() {
        let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
        let ok = |headers: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{headers}\r\n{body}");
        let cut = r#"{"refresh_token":"rt","access_token":"at","id_t"#;
        let padded =
            |pad: usize| format!(r#"{{"refresh_token":"rt","x":"{}","access_token":"at"}}"#, "x".repeat(pad));
        for (reply, whole) in [
            (ok("transfer-encoding: chunked\r\n", &chunk(WHOLE)), true),
            (ok("transfer-encoding: chunked\r\n", &format!("{}z", chunk(WHOLE))), true),
            (ok("transfer-encoding: chunked\r\n", &chunk(cut)), false),
            (ok("content-length: 1000\r\n", WHOLE), true),
            (ok("content-length: 1000\r\n", cut), false),
            (ok("content-length: 45\r\n", &format!("{cut}oken\":\"it\"}}")), false),
            (ok("", WHOLE), true),
            (ok("", cut), false),
            (ok("", &padded(600_000)), true),
            (ok("", &padded(MOST_ANSWER_BYTES)), false),
            (
                ok(
                    &format!("content-length: {}\r\n", padded(MOST_ANSWER_BYTES).len()),
                    &padded(MOST_ANSWER_BYTES),
                ),
                false,
            ),
        ] {
            let server = Server::start(Reply::Close(reply.clone())).await;
            let access_token = whole.then(|| "at".to_owned());
            let got = tokens(send(&client_at(&server.base), true, AMPLE).await);
            assert_eq!(got, (access_token, Some("rt".into())), "{}", &reply[..reply.len().min(120)]);
        }
    }

    #[tokio::test]
    async fn an_answer_that_does_not_end_is_taken_at_the_limit() {
        let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{WHOLE}");
        let server = Server::start(Reply::Hang(reply)).await;
        let got = tokens(send(&client_at(&server.base), true, SHORT).await);
        assert_eq!(got, (Some("at".into()), Some("rt".into())));
    }

    #[tokio::test]
    async fn an_answer_that_comes_coded_is_decoded() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut encoder, WHOLE.as_bytes()).unwrap();
        let coded = encoder.finish().unwrap();
        for (headers, cut) in [
            ("content-encoding: gzip\r\n", 0),
            ("Content-Encoding: GZIP\r\ncontent-encoding: identity\r\n", 0),
            ("content-encoding: gzip\r\ncontent-length: 1000\r\n", 8),
        ] {
            let head = format!("HTTP/1.1 200 OK\r\n{headers}\r\n").into_bytes();
            let server =
                Server::start(Reply::CloseBytes([&head, &coded[..coded.len() - cut]].concat())).await;
            let got = tokens(send(&client_at(&server.base), true, AMPLE).await);
            assert_eq!(got, (Some("at".into()), Some("rt".into())), "{headers}");
        }
    }

    #[cfg(feature = "demo")]
    #[tokio::test]
    async fn an_answer_whose_tls_connection_ends_without_its_goodbye_is_kept() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        use tokio_rustls::{TlsAcceptor, rustls};

        let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let cryptography = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(cryptography)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![key.cert.der().clone()],
                rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut spec = provider(&format!("https://{}", listener.local_addr().unwrap()));
        spec.ca_file_pem = Some(key.cert.pem().into_bytes());
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut request = [0; 4096];
            while !request.windows(7).any(|end| end == b"hunter2") {
                let read = stream.read(&mut request).await.unwrap();
                assert!(read > 0, "the request broke off");
            }
            let reply = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{WHOLE}");
            stream.write_all(reply.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            // Closes the TCP connection, and says nothing in TLS.
            stream.into_inner().0.shutdown().await.unwrap();
        });
        let client = ready(spec, post_client(), SystemClock::shared());
        let got = tokens(send(&client, true, AMPLE).await);
        assert_eq!(got, (Some("at".into()), Some("rt".into())));
    }

    #[tokio::test]
    async fn other_authorities_count_from_the_next_connection_on() {
        use tokio_rustls::{TlsAcceptor, rustls};

        let authority = || rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let (old, new) = (authority(), authority());
        let cryptography = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(cryptography)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![new.cert.der().clone()],
                rustls::pki_types::PrivateKeyDer::try_from(new.signing_key.serialize_der()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut spec = provider(&format!("https://{}", listener.local_addr().unwrap()));
        spec.ca_file_pem = Some(old.cert.pem().into_bytes());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // What it does not trust, the client ends.
                let _ = acceptor.accept(stream).await;
            }
        });
        let client = ready(spec, post_client(), SystemClock::shared());
        assert_not_sent(send(&client, true, AMPLE).await);
        client.provider.http.renew(Some(b"nonsense"), true).unwrap_err();
        assert_not_sent(send(&client, true, AMPLE).await);
        client.provider.http.renew(Some(new.cert.pem().as_bytes()), true).unwrap();
        // The handshake succeeds, and the server hangs up without an answer.
        assert_interrupted(send(&client, true, AMPLE).await);
    }

    /// Runs the test below in a process that may open few files.
    #[test]
    fn a_lack_of_descriptors_is_the_vaults_own() {
        let me = std::env::current_exe().unwrap();
        let run = r#"ulimit -n 64 && exec "$0" --ignored --exact idp::send::tests::without_descriptors"#;
        let ran = std::process::Command::new("sh").arg("-c").arg(run).arg(me).output().unwrap();
        let printed = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && printed.contains("1 passed"), "{printed}");
    }

    #[tokio::test]
    #[ignore = "run by the test above, with a limit"]
    async fn without_descriptors() {
        let client = client_at("http://127.0.0.1:9");
        let outcome = send(&client, true, AMPLE).await;
        assert!(matches!(outcome, SendOutcome::NotSent { overloaded: false, .. }), "{outcome:?}");
        let mut all = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            all.push(file);
        }
        for base in ["http://127.0.0.1:9", "http://localhost:9"] {
            let outcome = send(&client_at(base), true, AMPLE).await;
            assert!(matches!(outcome, SendOutcome::NotSent { overloaded: true, .. }), "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_not_followed() {
        let elsewhere = Server::start(Reply::full("200 OK", "", "{}")).await;
        for status in ["301", "302", "303", "307", "308"] {
            let location = format!("location: {}/t1/token\r\n", elsewhere.base);
            let server = Server::start(Reply::full(&format!("{status} Elsewhere"), &location, "")).await;
            let SendOutcome::Answered(answer) = send(&client_at(&server.base), true, AMPLE).await else {
                panic!()
            };
            assert_eq!(answer.status().to_string(), status);
            assert_eq!(server.requests().len(), 1);
        }
        assert_eq!(elsewhere.connections(), 0);
    }

    #[tokio::test]
    async fn every_request_has_a_connection_of_its_own() {
        let server = Server::start(Reply::full("200 OK", "", "{}")).await;
        let client = client_at(&server.base);
        for sent in 1..=3 {
            assert!(matches!(send(&client, true, AMPLE).await, SendOutcome::Answered(_)));
            assert_eq!((server.connections(), server.requests().len()), (sent, sent));
        }
    }

    /// Runs the test above in a process whose environment names a proxy that
    /// is not there.
    #[test]
    fn proxies_of_the_environment_are_not_asked() {
        let me = std::env::current_exe().unwrap();
        let mut child = std::process::Command::new(me);
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            child.env(name, "http://127.0.0.1:9");
        }
        child.env_remove("no_proxy").env_remove("NO_PROXY");
        let ran = child.args(["--exact", "idp::send::tests::an_answer_comes_back_whole"]).output().unwrap();
        let printed = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && printed.contains("1 passed"), "{printed}");
    }

    #[tokio::test]
    async fn a_revocation_is_asked_for_once() {
        let server = Server::start(Reply::full("200 OK", "", "")).await;
        let client = client_at(&server.base);
        let token = RefreshToken::new("r t".into());
        assert!(client.revoke(&tenant(), &token).await);
        let requests = server.requests();
        assert!(requests[0].starts_with("POST /t1/revoke "), "{}", requests[0]);
        assert!(requests[0].ends_with("client_secret=s3cr%26t&token=r+t&token_type_hint=refresh_token"));
        server.reply(Reply::full("503 No", "", ""));
        assert!(!client.revoke(&tenant(), &token).await);
        assert_eq!(server.requests().len(), 2);

        let mut without = provider(&server.base);
        without.revocation_endpoint = None;
        let client = ready(without, post_client(), SystemClock::shared());
        assert!(!client.revoke(&tenant(), &token).await);
        assert_eq!(server.requests().len(), 2);
    }

    #[cfg(feature = "demo")]
    #[tokio::test]
    async fn a_failed_tls_handshake_is_proven_unsent() {
        let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        // Both read the client's first bytes as the start of a plain request
        // that never ends; one waits for more, one is gone at once.
        let silent = Server::start(Reply::Hang(String::new())).await;
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone_at = format!("https://{}", gone.local_addr().unwrap());
        let closing = tokio::spawn(async move { while gone.accept().await.is_ok() {} });
        for (base, limit) in [(silent.base.replace("http:", "https:"), SHORT), (gone_at, AMPLE)] {
            let mut spec = provider(&base);
            spec.ca_file_pem = Some(key.cert.pem().into_bytes());
            let client = ready(spec, post_client(), SystemClock::shared());
            assert_not_sent(send(&client, true, limit).await);
        }
        closing.abort();
    }

    #[test]
    fn an_empty_ca_file_is_a_fault() {
        for pem in ["", "nonsense"] {
            assert!(Http::new(Some(pem.as_bytes()), true).is_err());
        }
    }

    #[test]
    fn a_wait_is_in_seconds_or_until_a_date() {
        let now = Timestamp(784_111_777_000);
        for (value, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("999999", Some(3600)),
            ("99999999999999999999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("Mon, 06 Nov 2094 08:49:37 GMT", None),
            ("Sat, 06 Nov 2094 08:49:37 GMT", Some(3600)),
            ("", None),
            ("soon", None),
            ("-1", None),
            ("1.5", None),
        ] {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_wait_is_within_bounds(value in ".*", now: i64) {
            prop_assert!(retry_after(&value, Timestamp(now)).unwrap_or_default() <= LONGEST_RETRY_AFTER);
        }
    }
}
