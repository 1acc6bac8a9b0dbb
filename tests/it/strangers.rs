//! What strangers, and callers without any right, cost the others: connections
//! that say nothing, requests that never end, connections that stay.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use obo_vault::demo::provider::Options;
use obo_vault::demo::stand::Settings;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::codegen::http::Request;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Stand, eventually, token_request};
use crate::refusal::Refused as _;

/// Far below the time that a shutdown may take for exchanges, and far above what
/// one without any takes.
const PROMPT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_good_caller_is_answered_whatever_strangers_hold_open() {
    let mut stand = Stand::new().await;
    stand.tenant().await;
    stand.grant("ada").await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(stand.address()).await.unwrap());
    }
    let mut unfinished = Vec::new();
    for _ in 0..10 {
        unfinished.push(HalfSent::new(&stand, "rotator", 190).await);
    }
    stand.files.pki().client("nameless", &[]).unwrap();
    let mut nameless = Vec::new();
    for _ in 0..60 {
        // The client's side of a TLS 1.3 handshake may be over before the
        // server has looked at the certificate.
        nameless.extend(tls(&stand, "nameless").await.ok());
    }
    stand.token("ada").await.unwrap();
    assert!(stand.is_let_in("auditor").await);
    for mut stream in nameless {
        assert!(!matches!(stream.read(&mut [0; 256]).await, Ok(1..)), "a nameless peer was answered");
    }
    assert_eq!((silent.len(), unfinished.len()), (300, 10), "the strangers hold on to what they have");
    // Nothing was begun for any of them, so nobody waits for them.
    tokio::time::timeout(PROMPT, stand.stop()).await.expect("the drain waits for strangers");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_are_closed_when_their_places_are_needed() {
    let server = "[server.limits]\nhandshakes = 16\nhandshakes_per_address = 16\nhandshake_seconds = 60";
    let stand = limited(server).await;
    let mut first = TcpStream::connect(stand.address()).await.unwrap();
    let mut others = Vec::new();
    for _ in 0..16 {
        others.push(TcpStream::connect(stand.address()).await.unwrap());
    }
    // The oldest is closed, long before the time of its handshake is over.
    let closed = tokio::time::timeout(Duration::from_secs(30), first.read(&mut [0])).await;
    let others: Vec<_> = others.iter().map(|other| other.try_read(&mut [0]).is_ok()).collect();
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "closed were: {closed:?} {others:?}");
    assert!(stand.is_let_in("mail").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_never_arrives_is_given_up() {
    let stand = limited("[server.limits]\nrequest_seconds = 1").await;
    let half = HalfSent::new(&stand, "mail", 1).await;
    assert_eq!(half.statuses().await, [Some("14".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_callers_unfinished_requests_are_bounded() {
    let stand = limited("[server.limits]\nunfinished_bytes = 1048576\nrequest_seconds = 300").await;
    // Its share is that of two of the largest requests.
    let half = HalfSent::new(&stand, "mail", 20).await;
    eventually("the refusal of most", async || {
        (half.answers.iter().filter(|answer| answer.is_finished()).count() >= 18).then_some(())
    })
    .await;
    // Another caller does not notice.
    assert!(stand.is_let_in("auditor").await);
    stand.exchange(stand.exchange_request("ada")).await.refused();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_calls_is_closed() {
    let stand = limited("[server.limits]\nidle_seconds = 300").await;
    let mut idle = tls(&stand, "mail").await.unwrap();
    let mut watch = HealthClient::new(stand.channel("mail").await)
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    watch.message().await.unwrap().unwrap();
    stand.advance(Duration::from_secs(301));
    ended(&mut idle).await;
    for _ in 0..2 {
        let next = watch.message().await;
        assert!(matches!(next, Ok(Some(_))), "one on which something is going on is not idle: {next:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_an_age_whatever_goes_on_on_it() {
    let stand = limited("drain_seconds = 1\n[server.limits]\nage_seconds = 600\nidle_seconds = 86400").await;
    let mut client = stand.client("mail").await;
    client.tokens.get_access_token(token_request("ada")).await.unwrap_err();
    let mut idle = tls(&stand, "mail").await.unwrap();
    let channel = stand.channel("mail").await;
    let mut watch =
        HealthClient::new(channel).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    stand.advance(Duration::from_secs(700));
    ended(&mut idle).await;
    eventually("the stream ends", async || {
        let next = tokio::time::timeout(Duration::from_millis(20), watch.message()).await;
        matches!(next, Ok(Err(_) | Ok(None))).then_some(())
    })
    .await;
    // Who calls on comes back by itself.
    eventually("an answer", async || {
        let status = client.tokens.get_access_token(token_request("ada")).await.unwrap_err();
        (status.code() == tonic::Code::NotFound).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_has_so_many_connections_and_its_idle_ones_make_room() {
    let stand = limited("[server.limits]\nconnections_per_caller = 3").await;
    let mut first = tls(&stand, "mail").await.unwrap();
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(HalfSent::new(&stand, "mail", 0).await);
    }
    ended(&mut first).await;
    assert!(stand.is_let_in("mail").await);
}

async fn limited(server: &str) -> Stand {
    let settings = Settings { server: server.to_owned(), ..Settings::default() };
    Stand::with(Options::default(), settings).await
}

/// The server ends the connection, whatever it says before.
async fn ended(stream: &mut TlsStream<TcpStream>) {
    let end = async {
        let mut bytes = [0; 1024];
        while matches!(stream.read(&mut bytes).await, Ok(1..)) {}
    };
    tokio::time::timeout(PROMPT, end).await.unwrap();
}

/// A TLS connection of the caller of that name that says nothing on it.
async fn tls(stand: &Stand, caller: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let path = |name: String| stand.files.directory().join(name);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(stand.files.pki().ca()).unwrap()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let chain = vec![CertificateDer::from_pem_file(path(format!("{caller}.pem"))).unwrap()];
    let key = PrivateKeyDer::from_pem_file(path(format!("{caller}.key"))).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let socket = TcpStream::connect(stand.address()).await?;
    connector.connect(ServerName::try_from("localhost").unwrap(), socket).await
}

/// A connection with requests whose bodies never end.
struct HalfSent {
    answers: Vec<tokio::task::JoinHandle<Option<String>>>,
    _sender: SendRequest<Endless>,
}

impl HalfSent {
    async fn new(stand: &Stand, caller: &str, streams: usize) -> Self {
        let io = TokioIo::new(tls(stand, caller).await.unwrap());
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let mut answers = Vec::new();
        for _ in 0..streams {
            sender.ready().await.unwrap();
            let request = Request::post("https://localhost/obovault.v1.TokenService/GetAccessToken")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Endless(Some(beginning())))
                .unwrap();
            let answer = sender.send_request(request);
            answers.push(tokio::spawn(async move {
                let answer = answer.await.ok()?;
                Some(answer.headers().get("grpc-status")?.to_str().ok()?.to_owned())
            }));
        }
        Self { answers, _sender: sender }
    }

    /// What became of each.
    async fn statuses(self) -> Vec<Option<String>> {
        let mut statuses = Vec::new();
        for answer in self.answers {
            statuses.push(tokio::time::timeout(PROMPT, answer).await.unwrap().unwrap());
        }
        statuses
    }
}

/// Of a message of 65,000 bytes all but the last few.
fn beginning() -> Bytes {
    let length = 65_000_u32.to_be_bytes();
    [&[0][..], &length, &[b'x'; 64_000]].concat().into()
}

/// Some bytes, and no end.
struct Endless(Option<Bytes>);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None => Poll::Pending,
        }
    }
}
