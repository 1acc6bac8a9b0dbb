//! Connections: TLS with client certificates, or plain text on loopback when
//! the configuration asks for it by naming the caller. Who is at the other end
//! is found out once per connection.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::authn::{self, Caller, Unidentified};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Most handshakes at once.
const HANDSHAKES: usize = 256;
/// Pause after the system refused a connection, for example for want of file
/// descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// How connections are secured.
#[derive(Clone)]
pub enum Security {
    /// TLS with a client certificate.
    Tls(TlsAcceptor),
    /// Plain text on loopback; every caller is the one named.
    PlainText(Caller),
}

impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tls(_) => f.write_str("Tls"),
            Self::PlainText(caller) => f.debug_tuple("PlainText").field(caller.id()).finish(),
        }
    }
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer(Arc<Result<Caller, Unidentified>>);

impl Peer {
    /// The caller its certificate names.
    ///
    /// # Errors
    ///
    /// Why the certificate names none, or more than one.
    pub fn caller(&self) -> Result<&Caller, &Unidentified> {
        (*self.0).as_ref()
    }
}

/// A connection whose peer is known.
#[derive(Debug)]
pub struct Connection {
    stream: Transport,
    peer: Peer,
}

#[derive(Debug)]
enum Transport {
    Tls(Box<TlsStream<TcpStream>>),
    Plain(TcpStream),
}

/// Accepts connections until the listener is dropped with the stream.
pub fn connections(
    listener: TcpListener,
    security: Security,
) -> impl Stream<Item = Result<Connection, io::Error>> + Send {
    let (ready, stream) = mpsc::channel(64);
    tokio::spawn(async move {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = ready.closed() => return,
            };
            let (socket, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
            let (security, ready) = (security.clone(), ready.clone());
            tokio::spawn(async move {
                match tokio::time::timeout(HANDSHAKE, secure(socket, &security)).await {
                    Ok(Ok(connection)) => {
                        let _ = ready.send(Ok(connection)).await;
                    }
                    Ok(Err(error)) => log_handshake(address, &error.to_string()),
                    Err(_) => log_handshake(address, "timed out"),
                }
                drop(permit);
            });
        }
    });
    ReceiverStream::new(stream)
}

fn log_handshake(address: SocketAddr, why: &str) {
    tracing::info!(peer.address = %address, why, "handshake failed");
}

async fn secure(socket: TcpStream, security: &Security) -> io::Result<Connection> {
    socket.set_nodelay(true)?;
    match security {
        Security::PlainText(caller) => {
            Ok(Connection { stream: Transport::Plain(socket), peer: Peer(Arc::new(Ok(caller.clone()))) })
        }
        Security::Tls(acceptor) => {
            let stream = acceptor.accept(socket).await?;
            let certificates: &[CertificateDer<'_>] =
                stream.get_ref().1.peer_certificates().unwrap_or_default();
            let peer = Peer(Arc::new(authn::identify(certificates)));
            Ok(Connection { stream: Transport::Tls(Box::new(stream)), peer })
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Transport::Tls(stream) => stream.is_write_vectored(),
            Transport::Plain(stream) => stream.is_write_vectored(),
        }
    }
}
