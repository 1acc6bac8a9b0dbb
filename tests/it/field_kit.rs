//! What the tests of field reports need beside the stand: providers by profile,
//! answers on the wire, alerts and counters.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use obo_vault::demo::provider::{DevProvider, Fault, Matching, Options};
use obo_vault::demo::stand::Settings;
use obo_vault::domain::profile::Reuse;
use obo_vault::proto;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::harness::{Stand, TENANT, token_request};
use crate::harness_more::Asking;
use crate::log;

/// A provider and the profile that describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Strict,
    Grace,
    Tolerant,
}

pub(crate) const KINDS: [Kind; 3] = [Kind::Strict, Kind::Grace, Kind::Tolerant];

impl Kind {
    pub(crate) fn options(self) -> Options {
        let reuse = match self {
            Self::Strict => Reuse::Strict,
            Self::Grace => Reuse::Grace { window: Duration::from_secs(30) },
            Self::Tolerant => Reuse::Tolerated,
        };
        Options { reuse, ..Options::default() }
    }

    pub(crate) fn settings(self) -> Settings {
        let profile = match self {
            Self::Strict => "profile = \"strict\"\nmulti_resource = true",
            Self::Grace => "profile = \"grace\"\ngrace_seconds = 30\nmulti_resource = true",
            Self::Tolerant => "profile = \"tolerant\"",
        };
        Settings { profile: profile.to_owned(), ..Settings::default() }
    }

    /// A stand with such a provider, its tenant and ada's grant.
    pub(crate) async fn stand(self) -> Stand {
        self.stand_with(self.settings()).await
    }

    pub(crate) async fn stand_with(self, settings: Settings) -> Stand {
        let stand = Stand::with(self.options(), settings).await;
        stand.tenant().await;
        stand.grant("ada").await;
        stand
    }
}

/// An OAuth error; a strict provider may have used the token up before it.
pub(crate) fn says(status: u16, error: &str, suberror: Option<&str>, consumes: bool) -> Fault {
    Fault::Status {
        status,
        error: Some(error.to_owned()),
        suberror: suberror.map(str::to_owned),
        claims: None,
        retry_after: None,
        body: None,
        content_type: None,
        consumes,
    }
}

/// A body of the test's own.
pub(crate) fn answers(status: u16, content_type: &str, body: &str) -> Fault {
    Fault::Status {
        status,
        error: None,
        suberror: None,
        claims: None,
        retry_after: None,
        body: Some(body.to_owned()),
        content_type: Some(content_type.to_owned()),
        consumes: false,
    }
}

pub(crate) fn with_claims() -> Matching {
    Matching { claims: true, ..Matching::default() }
}

pub(crate) fn with_scope(scope: &str) -> Matching {
    Matching { scope: Some(scope.to_owned()), ..Matching::default() }
}

/// A table of a second provider, and what stands in a client's table for it.
pub(crate) fn provider_table(name: &str, provider: &DevProvider, profile: &str) -> String {
    format!(
        "[providers.{name}]\nissuer = \"{}\"\ntoken_endpoint = \"{}\"\njwks_uri = \"{}\"\n\
         revocation_endpoint = \"{}\"\naudience = [\"api://vault\"]\ntenant_claim = \"tid\"\n{profile}\n",
        provider.issuer(),
        provider.token_endpoint(),
        provider.jwks_uri(),
        provider.revocation_endpoint(),
    )
}

impl Stand {
    /// Changes the configuration; the next start reads it.
    #[track_caller]
    pub(crate) fn reconfigure(&self, from: &str, to: &str) {
        let config = std::fs::read_to_string(self.files.config()).unwrap();
        assert_eq!(config.matches(from).count(), 1, "{from:?} is not in the configuration once");
        std::fs::write(self.files.config(), config.replace(from, to)).unwrap();
    }

    /// A token for a caller and the target that `change` makes of the usual one.
    pub(crate) async fn token_as(
        &self,
        caller: &str,
        user: &str,
        change: impl FnOnce(&mut proto::GetAccessTokenRequest),
    ) -> Result<proto::GetAccessTokenResponse, tonic::Status> {
        let mut request = token_request(user);
        change(&mut request);
        let answer = self.client(caller).await.tokens.get_access_token(request).await;
        answer.map(tonic::Response::into_inner)
    }

    /// Asks for ada's token for these scopes without waiting for it.
    pub(crate) async fn ask_as(&self, caller: &str, scopes: Vec<String>) -> Asking {
        let (mut client, request) =
            (self.client(caller).await, proto::GetAccessTokenRequest { scopes, ..token_request("ada") });
        tokio::spawn(
            async move { client.tokens.get_access_token(request).await.map(tonic::Response::into_inner) },
        )
    }

    pub(crate) async fn import(
        &self,
        user: &str,
        token: &str,
    ) -> Result<proto::ImportGrantResponse, tonic::Status> {
        let answer = self.client("web").await.grants.import_grant(import_request(user, token)).await;
        answer.map(tonic::Response::into_inner)
    }

    /// A refresh token of the user's that another system kept until now.
    pub(crate) fn minted(&self, user: &str) -> String {
        self.provider.mint_refresh_token("vault", user, &["mail.read", "offline_access"])
    }

    /// The grant as a listing shows it.
    pub(crate) async fn listed(&self, user: &str) -> proto::Grant {
        let request = proto::ListGrantsRequest { tenant: TENANT.into(), ..Default::default() };
        let page = self.client("auditor").await.grants.list_grants(request).await.unwrap().into_inner();
        page.grants.into_iter().find(|grant| grant.subject == user).unwrap()
    }

    pub(crate) async fn revoke(&self, user: &str) -> Result<proto::RevokeGrantResponse, tonic::Status> {
        let request = proto::RevokeGrantRequest {
            tenant: TENANT.into(),
            subject: user.into(),
            client: "portal".into(),
        };
        let answer = self.client("operator").await.grants.revoke_grant(request).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) fn token_requests(&self) -> u64 {
        self.provider.stats().token_requests
    }
}

pub(crate) fn import_request(user: &str, token: &str) -> proto::ImportGrantRequest {
    proto::ImportGrantRequest {
        tenant: TENANT.into(),
        subject: user.into(),
        client: "portal".into(),
        imported_token: token.into(),
        ..Default::default()
    }
}

/// How often this was logged about a grant.
pub(crate) fn alerts(grant: &proto::Grant, text: &str) -> usize {
    let log = log::captured();
    log.lines().filter(|line| line.contains(&grant.grant_id) && line.contains(text)).count()
}

/// The counters of a vault, over HTTP.
pub(crate) struct Meter(SocketAddr);

impl Meter {
    /// Adds the listener to the settings. Its loopback address is used for
    /// nothing else, so the port stays free until the vault starts.
    pub(crate) fn on(settings: &mut Settings) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.3:0").unwrap();
        let address = listener.local_addr().unwrap();
        settings.server = format!("{}\nmetrics_listen = \"{address}\"", settings.server);
        Self(address)
    }

    pub(crate) async fn read(&self, counter: &str) -> u64 {
        let mut stream = TcpStream::connect(self.0).await.unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.0);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("obo_vault_{counter} ")));
        line.unwrap_or_else(|| panic!("no {counter} in {text}")).parse().unwrap()
    }
}

/// Makes the bytes that the vault receives of the provider's JSON.
type Change = Box<dyn FnOnce(&str) -> Vec<u8> + Send>;

/// A line to the token endpoint on which answers may be changed.
pub(crate) struct Wire {
    address: SocketAddr,
    changes: Arc<Mutex<VecDeque<Change>>>,
    task: JoinHandle<()>,
}

impl Wire {
    /// A stand whose token endpoint is at the end of such a line.
    pub(crate) async fn stand(kind: Kind, settings: Settings) -> (Stand, Self) {
        let mut wire = None;
        let mut stand = Stand::unstarted(kind.options(), settings, |_| ()).await;
        let direct = stand.provider.token_endpoint();
        let wire_address =
            wire.insert(Self::up_to(stand.provider.base().replace("http://", "")).await).address;
        stand.reconfigure(
            &format!("token_endpoint = \"{direct}\""),
            &format!("token_endpoint = \"http://{wire_address}/token\""),
        );
        stand.start().await;
        stand.tenant().await;
        (stand, wire.unwrap())
    }

    async fn up_to(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let changes: Arc<Mutex<VecDeque<Change>>> = Arc::default();
        let waiting = Arc::clone(&changes);
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let change = waiting.lock().unwrap().pop_front();
                tokio::spawn(pass(near, to.clone(), change));
            }
        });
        Self { address, changes, task }
    }

    /// What happens to the next answer.
    pub(crate) fn next(&self, change: impl FnOnce(&str) -> Vec<u8> + Send + 'static) {
        self.changes.lock().unwrap().push_back(Box::new(change));
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A success on the wire.
pub(crate) fn success(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\n{headers}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

async fn pass(mut near: TcpStream, to: String, change: Option<Change>) {
    let Some((head, body)) = message(&mut near).await else { return };
    let mut far = TcpStream::connect(to).await.unwrap();
    far.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
    let Some((head, body)) = message(&mut far).await else { return };
    let answer = match change {
        Some(change) => change(std::str::from_utf8(&body).unwrap()),
        None => [head.as_bytes(), &body].concat(),
    };
    // The vault may have left; that is what some tests are about.
    let _ = near.write_all(&answer).await;
    let _ = near.shutdown().await;
}

/// Head and body of an HTTP message with a length.
async fn message(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
    });
    let mut body = bytes.split_off(end);
    while body.len() < length.unwrap_or(0) {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some((head, body))
}
