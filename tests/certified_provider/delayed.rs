//! The network between the vault and its provider: it can hold a request up,
//! tell its sender that the connection broke, and deliver it much later.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Passes one request per connection on, which is what the vault sends.
pub(crate) struct Network {
    address: SocketAddr,
    server: String,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    hold: bool,
    held: Option<Vec<u8>>,
}

impl Network {
    /// To the server of this address, `http://host:port`.
    pub(crate) async fn to(base: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = base.trim_start_matches("http://").to_owned();
        let state: Arc<Mutex<State>> = Arc::default();
        let (upstream, shared) = (server.clone(), Arc::clone(&state));
        let task = tokio::spawn(async move {
            loop {
                let (sender, _) = listener.accept().await.unwrap();
                tokio::spawn(pass(sender, upstream.clone(), Arc::clone(&shared)));
            }
        });
        Self { address, server, state, task }
    }

    /// The same place, through this network.
    pub(crate) fn through(&self, url: &str) -> String {
        url.replace(&self.server, &self.address.to_string())
    }

    /// Holds the next request up and cuts its sender's connection.
    pub(crate) fn hold_next(&self) {
        self.state.lock().unwrap().hold = true;
    }

    /// Delivers what was held up; the status of the answer nobody waits for.
    pub(crate) async fn deliver_held(&self) -> u16 {
        let request = self.state.lock().unwrap().held.take().expect("a request was held up");
        let mut server = TcpStream::connect(&self.server).await.unwrap();
        server.write_all(&request).await.unwrap();
        let mut answer = String::new();
        server.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut sender: TcpStream, server: String, state: Arc<Mutex<State>>) {
    let Some(request) = whole_request(&mut sender).await else { return };
    {
        let mut state = state.lock().unwrap();
        if std::mem::take(&mut state.hold) {
            state.held = Some(request);
            return;
        }
    }
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    if server.write_all(&request).await.is_ok() {
        // Either side may go away; the other notices by the end of the stream.
        let _ = tokio::io::copy(&mut server, &mut sender).await;
    }
}

/// A request with its body, asking for the connection to end with the answer.
async fn whole_request(sender: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let head = bytes.windows(4).position(|end| end == b"\r\n\r\n");
        if let Some(head) = head {
            let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap_or("0");
            if bytes.len() >= head + 4 + length.trim().parse::<usize>().unwrap() {
                bytes.splice(head..head, *b"\r\nConnection: close");
                return Some(bytes);
            }
        }
        if sender.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
