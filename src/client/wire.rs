//! Sockets that remember what went wrong.
//!
//! HTTP/2 libraries keep of an I/O error its kind and its text; that the peer
//! sent a TLS alert is lost on the way up. So the cause is noted where it
//! happens, at the socket, and looked up when a call has failed.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tonic::transport::Uri;

use super::tls::Tls;
use super::trouble::Trouble;

/// How far a connection has come, and what stopped it.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    stage: Stage,
    trouble: Option<Trouble>,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stage {
    /// For its host.
    #[default]
    Host,
    /// For the other end's part of the TLS handshake.
    Handshake,
    /// For an answer.
    Answer,
}

impl Watch {
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).trouble.clone()
    }

    pub(super) fn stage(&self) -> Stage {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).stage
    }

    /// Another connection is made: what was wrong with the last is over.
    fn begin(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Seen::default();
    }

    fn reached(&self, stage: Stage) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).stage = stage;
    }

    /// The first cause is the cause: what follows is its consequence. An alert
    /// is more than an end that came with it.
    fn note(&self, trouble: &Trouble) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(seen.trouble, None | Some(Trouble::Ended)) {
            seen.trouble = Some(trouble.clone());
        }
    }
}

type Connecting = Pin<Box<dyn Future<Output = Result<TokioIo<Box<dyn Stream>>, Trouble>> + Send>>;

/// Makes connections; one is made anew when the last has ended.
pub(super) fn connector(tls: Option<Tls>, watch: Watch) -> impl FnMut(Uri) -> Connecting + Clone {
    move |uri| {
        let (tls, watch) = (tls.clone(), watch.clone());
        Box::pin(async move {
            watch.begin();
            let connected = connect(&uri, tls, &watch).await;
            connected.inspect_err(|trouble| watch.note(trouble)).map(TokioIo::new)
        })
    }
}

/// A connection, whatever is inside.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn connect(uri: &Uri, tls: Option<Tls>, watch: &Watch) -> Result<Box<dyn Stream>, Trouble> {
    let bracketed = uri.host().unwrap_or_default();
    let host = bracketed.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
    let addresses = lookup_host((host, port)).await.map_err(|_| Trouble::UnknownHost(host.to_owned()))?;
    let mut last = Trouble::UnknownHost(host.to_owned());
    let mut connected = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                connected = Some(stream);
                break;
            }
            Err(error) => last = Trouble::of_io(&error),
        }
    }
    let socket = connected.ok_or(last)?;
    // Only costs time where it fails.
    let _ = socket.set_nodelay(true);
    let Some(Tls { connector, name }) = tls else {
        watch.reached(Stage::Answer);
        return Ok(Box::new(Watched::new(socket, watch.clone())));
    };
    watch.reached(Stage::Handshake);
    let stream = connector.connect(name, socket).await.map_err(|error| Trouble::of_io(&error))?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(Trouble::SpeaksOther);
    }
    watch.reached(Stage::Answer);
    Ok(Box::new(Watched::new(stream, watch.clone())))
}

/// A stream that notes what ends it.
struct Watched<S> {
    inner: S,
    watch: Watch,
    /// The first bytes received, until they are enough to know the protocol.
    first: Vec<u8>,
    /// Whether the other end takes no more.
    deaf: bool,
}

/// How many bytes tell HTTP/2 from what else may listen there: a frame's length
/// and type.
const ENOUGH: usize = 4;
/// The type of the frame that begins every HTTP/2 connection (RFC 9113 section
/// 3.4).
const SETTINGS: u8 = 4;
/// The type of a TLS record with an alert, and the first byte of its version
/// (RFC 8446 section 5.1).
const TLS_ALERT: [u8; 2] = [21, 3];

/// What listens there, from the first bytes it sent; nothing where it is HTTP/2.
fn not_http2(first: &[u8]) -> Option<Trouble> {
    match first {
        [_, _, _, SETTINGS, ..] => None,
        [a, b, ..] if [*a, *b] == TLS_ALERT => Some(Trouble::SpeaksTls),
        _ => Some(Trouble::SpeaksOther),
    }
}

impl<S: AsyncRead + Unpin> Watched<S> {
    fn new(inner: S, watch: Watch) -> Self {
        Self { inner, watch, first: Vec::with_capacity(ENOUGH), deaf: false }
    }

    /// Looks at the first bytes of the other end.
    fn inspect(&mut self, received: &[u8]) -> io::Result<()> {
        if self.first.len() >= ENOUGH {
            return Ok(());
        }
        let missing = ENOUGH - self.first.len();
        self.first.extend_from_slice(&received[..missing.min(received.len())]);
        match not_http2(&self.first) {
            Some(trouble) if self.first.len() == ENOUGH => {
                self.watch.note(&trouble);
                Err(io::Error::new(io::ErrorKind::InvalidData, trouble))
            }
            _ => Ok(()),
        }
    }

    /// A write has failed, mostly because the other end closed the connection,
    /// and it may have said why before, or even answered: that is still to be
    /// read. So what is written goes nowhere from here on, and reading, which
    /// ends where the connection does, tells how it ended.
    fn written<T>(&mut self, result: io::Result<T>, instead: T) -> Poll<io::Result<T>> {
        Poll::Ready(Ok(result.unwrap_or_else(|_| {
            self.deaf = true;
            instead
        })))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut this.inner).poll_read(cx, buf));
        let read = match read {
            Ok(()) if buf.filled().len() == before && buf.remaining() > 0 => {
                this.watch.note(&Trouble::Ended);
                Ok(())
            }
            // A read that fails has read nothing.
            Ok(()) => this.inspect(&buf.filled()[before..]).inspect_err(|_| buf.set_filled(before)),
            Err(error) => {
                this.watch.note(&Trouble::of_io(&error));
                Err(error)
            }
        };
        Poll::Ready(read)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, buf));
        this.written(written, buf.len())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.deaf {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(Pin::new(&mut this.inner).poll_flush(cx));
        this.written(flushed, ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let all = bufs.iter().map(|buf| buf.len()).sum();
        if this.deaf {
            return Poll::Ready(Ok(all));
        }
        let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, bufs));
        this.written(written, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// What a peer leaves that has said something and takes no more.
    struct Closing<'a>(&'a [u8]);

    impl AsyncRead for Closing<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Closing<'_> {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_was_said_before_the_end_is_read_though_nothing_can_be_written() {
        let watch = Watch::default();
        let mut stream = Watched::new(Closing(b"\x15\x03\x03\0\x02"), watch.clone());
        stream.write_all(b"a call").await.unwrap();
        stream.flush().await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(watch.trouble(), Some(Trouble::SpeaksTls));

        let watch = Watch::default();
        let mut stream = Watched::new(Closing(b"\0\0\0\x04rest"), watch.clone());
        stream.write_all(b"a call").await.unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        assert_eq!((received.as_slice(), watch.trouble()), (&b"\0\0\0\x04rest"[..], Some(Trouble::Ended)));
    }

    #[test]
    fn the_first_bytes_tell_what_listens_there() {
        assert_eq!(not_http2(b"\0\0\x12\x04\0"), None);
        assert_eq!(not_http2(b"\x15\x03\x03\0"), Some(Trouble::SpeaksTls));
        for other in [b"HTTP", b"<!DO", b"SSH-", b"220 "] {
            assert_eq!(not_http2(other), Some(Trouble::SpeaksOther));
        }
    }

    #[test]
    fn an_end_says_less_than_an_alert_and_an_alert_is_not_replaced() {
        let watch = Watch::default();
        watch.note(&Trouble::Ended);
        watch.note(&Trouble::UnknownIssuer);
        watch.note(&Trouble::SpeaksOther);
        assert_eq!(watch.trouble(), Some(Trouble::UnknownIssuer));
    }
}
