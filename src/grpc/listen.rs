//! Connections: TLS with client certificates, or plain text on loopback when
//! the configuration asks for it by naming the caller.
//!
//! A handshake has a place and a time; nobody waits for one that another holds.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;

use crate::authn::{Caller, Credential, PresentTrust, Trust, Unidentified};
use crate::clock::{SharedClock, Timestamp};
use crate::entropy::{self, SharedEntropy};
use crate::metrics::Counters;
use crate::shutdown::Shutdown;

use super::Api;
use super::limits::Limits;
use super::places::{Place, Places};
use super::serve::{self, Common};
use super::unfinished::Budget;

/// Pause after the system refused a connection, for example for want of file
/// descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// How connections are secured.
#[derive(Clone)]
pub enum Security {
    /// TLS with a client certificate.
    Tls(Arc<Tls>),
    /// Plain text on loopback; every caller is the one named.
    PlainText(Caller),
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(_) => f.write_str("Tls"),
            Self::PlainText(caller) => f.debug_tuple("PlainText").field(caller.id()).finish(),
        }
    }
}

/// The certificates of now: they can be replaced while the vault serves.
pub struct Tls {
    acceptor: RwLock<TlsAcceptor>,
    trust: Arc<PresentTrust>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// These; `acceptor` asks clients for certificates of those whom `trust` has.
    #[must_use]
    pub fn new(acceptor: TlsAcceptor, trust: Arc<Trust>) -> Self {
        Self { acceptor: RwLock::new(acceptor), trust: Arc::new(PresentTrust::new(trust)) }
    }

    /// Puts others in their place: for new connections, and at their next call
    /// for those that stand.
    pub fn replace(&self, acceptor: TlsAcceptor, trust: Arc<Trust>) {
        *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = acceptor;
        self.trust.replace(trust);
    }

    /// For the next connection.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Who is at the other end of one call.
#[derive(Debug, Clone)]
pub(super) struct Identified(pub(super) Result<Caller, Unidentified>);

/// The other end of a connection.
#[derive(Debug)]
pub(super) enum Peer {
    Certified(Credential),
    PlainText(Caller),
}

impl Peer {
    /// Who it is at this time.
    pub(super) fn caller(&self, now: Timestamp) -> Result<Caller, Unidentified> {
        match self {
            Self::Certified(credential) => credential.caller(now),
            Self::PlainText(caller) => Ok(caller.clone()),
        }
    }
}

/// A connection whose peer is known.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: Transport,
    pub(super) peer: Peer,
}

/// What the API is served with.
pub struct Serving {
    /// The API.
    pub api: Api,
    /// How connections are secured.
    pub security: Security,
    /// Bounds.
    pub limits: Limits,
    /// Largest request taken, in bytes.
    pub max_message_bytes: usize,
    /// How long a shutdown waits for what is under way.
    pub drain: Duration,
    /// The time.
    pub clock: SharedClock,
    /// Randomness.
    pub entropy: SharedEntropy,
    /// Counters.
    pub metrics: Arc<Counters>,
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").field("security", &self.security).finish_non_exhaustive()
    }
}

/// Accepts and serves connections until the shutdown, and then until the last
/// of them has ended.
pub async fn serve(listener: TcpListener, serving: Serving, shutdown: Shutdown) {
    let Serving { api, security, limits, max_message_bytes, drain, clock, entropy, metrics } = serving;
    let places = Places::new(limits.clone(), Arc::clone(&clock), Arc::clone(&metrics));
    let budget = Budget::new(limits.unfinished_bytes, max_message_bytes);
    let common = Common { api, clock, limits, budget, metrics, stopping: shutdown.clone(), drain };
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.triggered() => break,
            accepted = listener.accept() => accepted,
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let place = places.enter(address.ip());
        let chance = entropy::bytes::<2>(&*entropy).map_or(0, u16::from_be_bytes);
        let (security, common) = (security.clone(), common.clone());
        connections.spawn(async move {
            let age = serve::spread(common.limits.age, chance);
            if let Some(connection) = admit(&common, socket, address, &security, &place).await
                && let Some(caller) = settle(&common, &connection, address, &place)
            {
                serve::serve(common, connection, caller, place, age).await;
            }
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// The handshake, within its time and for as long as its place is not needed.
async fn admit(
    common: &Common,
    socket: TcpStream,
    address: SocketAddr,
    security: &Security,
    place: &Place,
) -> Option<Connection> {
    let secured = tokio::time::timeout(
        common.limits.handshake,
        secure(socket, security, &common.clock, || place.speaks()),
    );
    let why = tokio::select! {
        secured = secured => match secured {
            Ok(Ok(connection)) => return Some(connection),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it took longer than server.limits.handshake_seconds".to_owned(),
        },
        () = common.stopping.triggered() => return None,
        () = place.evicted() => {
            tracing::debug!(peer.address = %address, "a handshake gave its place to a newer one");
            return None;
        }
    };
    common.metrics.handshake_failed();
    tracing::info!(peer.address = %address, why, "handshake failed");
    None
}

/// Whose connection it is, where there is a place for it.
fn settle(
    common: &Common,
    connection: &Connection,
    address: SocketAddr,
    place: &Place,
) -> Option<crate::domain::id::CallerId> {
    let caller = connection.peer.caller(common.clock.now()).ok()?.id().clone();
    if place.serves(&caller) {
        return Some(caller);
    }
    tracing::warn!(
        peer.address = %address, caller.id = %caller,
        "refused a connection: all that server.limits allows are at work"
    );
    None
}

async fn secure(
    socket: TcpStream,
    security: &Security,
    clock: &SharedClock,
    speaks: impl FnOnce(),
) -> io::Result<Connection> {
    socket.set_nodelay(true)?;
    match security {
        Security::PlainText(caller) => {
            Ok(Connection { stream: Transport::Plain(socket), peer: Peer::PlainText(caller.clone()) })
        }
        Security::Tls(tls) => {
            // To be readable is a hint of the runtime's; a byte is evidence.
            if socket.peek(&mut [0]).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            speaks();
            let stream = tls.acceptor().accept(socket).await?;
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let credential =
                Credential::new(chain, Arc::clone(&tls.trust), clock.now()).map_err(io::Error::other)?;
            Ok(Connection { stream: Transport::Tls(Box::new(stream)), peer: Peer::Certified(credential) })
        }
    }
}

/// The bytes of a connection.
#[derive(Debug)]
pub(super) enum Transport {
    Tls(Box<TlsStream<TcpStream>>),
    Plain(TcpStream),
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Plain(stream) => stream.is_write_vectored(),
        }
    }
}
