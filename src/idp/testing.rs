//! What the tests of this module share: a provider and a client with nothing
//! special about them, keys, signed tokens, and a server that counts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::{rand, signature};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::spec::{Budget, ClientAuth, ClientSpec, ProviderSpec, TenantRule};
use super::{Client, Idp};
use crate::clock::{Clock, Instant, SharedClock, SystemClock, Timestamp};
use crate::domain::id::{ClientId, TenantId};
use crate::domain::profile::Profile;
use crate::entropy::OsEntropy;
use crate::secret::ClientSecret;

/// A provider at `base`.
pub(super) fn provider(base: &str) -> ProviderSpec {
    ProviderSpec {
        name: "p".into(),
        issuer: format!("{base}/{{tenant}}/v2.0"),
        other_issuers: Vec::new(),
        other_audience: Vec::new(),
        token_endpoint: format!("{base}/{{tenant}}/token"),
        revocation_endpoint: Some(format!("{base}/{{tenant}}/revoke")),
        jwks_uri: format!("{base}/keys"),
        audience: vec!["api://vault".into(), "vault".into()],
        tenant: TenantRule::Claim("tid".into()),
        subject_claims: vec!["oid".into(), "sub".into()],
        profile: Profile::strict(),
        ca_file_pem: None,
        budget: Budget { requests_per_second: 5.0, concurrency: 2 },
    }
}

/// A client of that provider.
pub(super) fn client(auth: ClientAuth) -> ClientSpec {
    let id = ClientId::new("mail").unwrap();
    ClientSpec { id, provider: "p".into(), client_id: "client 1".into(), auth, declares_cp1: false }
}

/// The same with a secret in the body.
pub(super) fn post_client() -> ClientSpec {
    client(ClientAuth::SecretPost(ClientSecret::new("s3cr&t".into())))
}

/// The tenant of the tests.
pub(super) fn tenant() -> TenantId {
    TenantId::new("t1").unwrap()
}

/// A client ready for use.
#[expect(clippy::needless_pass_by_value, reason = "so that a test writes its values in place")]
pub(super) fn ready(provider: ProviderSpec, client: ClientSpec, clock: SharedClock) -> Arc<Client> {
    let id = client.id.clone();
    let idp = Idp::new([&provider], [&client], &clock, &OsEntropy::shared()).unwrap();
    Arc::clone(idp.client(&id).unwrap())
}

/// A clock that stands still until it is moved.
pub(super) struct StillClock {
    now: Timestamp,
    instant: Instant,
    moved: Mutex<Duration>,
}

impl StillClock {
    pub(super) fn new() -> Self {
        let system = SystemClock::new();
        Self { now: system.now(), instant: system.instant(), moved: Mutex::default() }
    }

    pub(super) fn advance(&self, span: Duration) {
        *self.moved.lock().unwrap() += span;
    }
}

impl Clock for StillClock {
    fn now(&self) -> Timestamp {
        self.now.plus(*self.moved.lock().unwrap())
    }

    fn instant(&self) -> Instant {
        self.instant.plus(*self.moved.lock().unwrap())
    }
}

/// An RSA key pair.
pub(super) struct RsaKey(Vec<u8>);

impl RsaKey {
    pub(super) fn generate() -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
        Self(pkcs8.as_ref().to_vec())
    }

    pub(super) fn private_pem(&self) -> String {
        pem(&self.0)
    }

    fn encoding_key(&self) -> EncodingKey {
        EncodingKey::from_rsa_pem(self.private_pem().as_bytes()).unwrap()
    }

    pub(super) fn jwk(&self) -> Jwk {
        Jwk::from_encoding_key(&self.encoding_key(), Algorithm::RS256).unwrap()
    }

    /// The part of the public key that everybody knows.
    pub(super) fn jwk_modulus(&self) -> String {
        self.published("k")["n"].as_str().unwrap().to_owned()
    }

    /// The key as a key set has it.
    pub(super) fn published(&self, key_id: &str) -> Value {
        let mut jwk = serde_json::to_value(self.jwk()).unwrap();
        let own = jwk.as_object_mut().unwrap();
        own.remove("alg");
        own.insert("kid".into(), key_id.into());
        own.insert("use".into(), "sig".into());
        jwk
    }

    /// A signed token.
    pub(super) fn token(&self, key_id: Option<&str>, claims: &Value) -> String {
        self.typed(Some("JWT"), key_id, claims)
    }

    /// A signed token with another `typ` in its header.
    pub(super) fn typed(&self, typ: Option<&str>, key_id: Option<&str>, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::RS256);
        header.typ = typ.map(str::to_owned);
        header.kid = key_id.map(str::to_owned);
        jsonwebtoken::encode(&header, claims, &self.encoding_key()).unwrap()
    }
}

/// A new EC private key.
pub(super) fn ec_key_pem() -> String {
    let random = rand::SystemRandom::new();
    let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    pem(signature::EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap().as_ref())
}

fn pem(pkcs8: &[u8]) -> String {
    let text = STANDARD.encode(pkcs8);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|l| std::str::from_utf8(l).unwrap()).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

/// What the server does with a request it has read.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// Writes this and closes.
    Close(String),
    /// The same of bytes that are no text.
    CloseBytes(Vec<u8>),
    /// Writes this and waits for the next request.
    KeepAlive(String),
    /// Writes this and nothing more, ever.
    Hang(String),
}

impl Reply {
    /// A whole answer.
    pub(super) fn full(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::KeepAlive(format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}"))
    }

    /// A key set.
    pub(super) fn keys(keys: &[Value]) -> Self {
        Self::full("200 OK", "", &json!({ "keys": keys }).to_string())
    }
}

/// A server on loopback that notes what reaches it. It ends with the runtime.
pub(super) struct Server {
    pub(super) base: String,
    seen: Arc<Mutex<Seen>>,
    reply: Arc<Mutex<Reply>>,
}

#[derive(Default)]
struct Seen {
    connections: usize,
    bytes: usize,
    requests: Vec<String>,
}

impl Server {
    pub(super) async fn start(reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let reply = Arc::new(Mutex::new(reply));
        let server = Self { base, seen: Arc::clone(&seen), reply: Arc::clone(&reply) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                seen.lock().unwrap().connections += 1;
                tokio::spawn(serve(stream, Arc::clone(&seen), Arc::clone(&reply)));
            }
        });
        server
    }

    /// From now on it does this.
    pub(super) fn reply(&self, reply: Reply) {
        *self.reply.lock().unwrap() = reply;
    }

    pub(super) fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    pub(super) fn bytes(&self) -> usize {
        self.seen.lock().unwrap().bytes
    }

    /// Whole requests, head and body.
    pub(super) fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().requests.clone()
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Seen>>, reply: Arc<Mutex<Reply>>) {
    let mut pending = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        while let Some(end) = whole_request(&pending) {
            let request = String::from_utf8(pending.drain(..end).collect()).unwrap();
            seen.lock().unwrap().requests.push(request);
            let reply = reply.lock().unwrap().clone();
            let bytes = match &reply {
                Reply::Close(text) | Reply::KeepAlive(text) | Reply::Hang(text) => text.as_bytes(),
                Reply::CloseBytes(bytes) => bytes,
            };
            if stream.write_all(bytes).await.is_err() {
                return;
            }
            match reply {
                Reply::Close(_) | Reply::CloseBytes(_) => return,
                Reply::KeepAlive(_) => {}
                Reply::Hang(_) => tokio::time::sleep(Duration::from_secs(3600)).await,
            }
        }
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                seen.lock().unwrap().bytes += count;
                pending.extend_from_slice(&chunk[..count]);
            }
        }
    }
}

/// Where the first request in `bytes` ends, if all of it is there.
fn whole_request(bytes: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(bytes);
    let head = text.find("\r\n\r\n")? + 4;
    let length = text[..head].lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
    });
    let end = head + length.unwrap_or(0);
    (bytes.len() >= end).then_some(end)
}
