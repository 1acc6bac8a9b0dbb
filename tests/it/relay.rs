//! A line to a provider that can be taken down and put up again.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Passes connections on while it is up; refuses them while it is down.
pub(crate) struct Relay {
    address: SocketAddr,
    to: String,
    up: Option<JoinHandle<()>>,
}

impl Relay {
    /// A relay to `to` (`host:port`), up. It has a loopback address of its own,
    /// so that nobody else is given its port while it is down.
    pub(crate) async fn up_to(to: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let up = Some(tokio::spawn(pass(listener, to.to_owned())));
        Self { address, to: to.to_owned(), up }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn down(&mut self) {
        let task = self.up.take().unwrap();
        task.abort();
        // The port is closed when the task is gone.
        let _ = task.await;
    }

    pub(crate) async fn up(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.up = Some(tokio::spawn(pass(listener, self.to.clone())));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(task) = &self.up {
            task.abort();
        }
    }
}

async fn pass(listener: TcpListener, to: String) {
    let mut lines = JoinSet::new();
    while let Ok((mut near, _)) = listener.accept().await {
        let to = to.clone();
        lines.spawn(async move {
            if let Ok(mut far) = TcpStream::connect(to).await {
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}
