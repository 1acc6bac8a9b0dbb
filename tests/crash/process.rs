//! `obo-vault serve` as a process of its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use obo_vault::client::Client;
use obo_vault::demo::stand::Files;
use tokio::sync::watch;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// Far more than anything here takes; for what would otherwise never end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A serving binary. Dropping it kills it.
pub(crate) struct Binary {
    child: Child,
    address: SocketAddr,
    log: watch::Receiver<Vec<String>>,
}

impl Binary {
    /// Starts it; returns when it serves.
    pub(crate) async fn start(files: &Files) -> Self {
        // A write beyond the limit of `limit_files` shall fail as one to a full
        // disk does, and not end the process by a signal.
        let mut child = Command::new("sh")
            .args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#, env!("CARGO_BIN_EXE_obo-vault")])
            .args(["serve", "--config"])
            .arg(files.config())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, log) = watch::channel(Vec::new());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                sender.send_modify(|lines| lines.push(line));
            }
        });
        let mut binary = Self { child, address: ([127, 0, 0, 1], 0).into(), log };
        let serving = binary.logged("\"message\":\"serving\"").await;
        let line: serde_json::Value = serde_json::from_str(&serving).unwrap();
        binary.address = line["address"].as_str().unwrap().parse().unwrap();
        binary
    }

    /// Waits for a line of its log that contains the text.
    pub(crate) async fn logged(&self, text: &str) -> String {
        let mut log = self.log.clone();
        let found = |lines: &Vec<String>| lines.iter().find(|line| line.contains(text)).cloned();
        let waited = tokio::time::timeout(PATIENCE, log.wait_for(|lines| found(lines).is_some()))
            .await
            .map(|r| r.map(|lines| found(&lines).unwrap()));
        match waited {
            Ok(Ok(line)) => line,
            Ok(Err(_)) => panic!("it ended before it logged {text}: {:#?}", self.log.borrow()),
            Err(_) => panic!("it did not log {text}: {:#?}", self.log.borrow()),
        }
    }

    pub(crate) async fn client(&self, files: &Files, caller: &str) -> Client {
        Client::connect(&files.address(self.address, caller)).await.unwrap()
    }

    /// A connection for services that the vault's own client does not speak.
    pub(crate) async fn channel(&self, files: &Files, caller: &str) -> Channel {
        let address = files.address(self.address, caller);
        let read = |file: Option<std::path::PathBuf>| std::fs::read(file.unwrap()).unwrap();
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(address.ca_file)))
            .identity(Identity::from_pem(read(address.certificate_file), read(address.key_file)))
            .domain_name(address.server_name.unwrap());
        let endpoint = Endpoint::from_shared(address.endpoint).unwrap().tls_config(tls).unwrap();
        endpoint.connect().await.unwrap()
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        tool("kill", &["-TERM", &self.child.id().to_string()]);
    }

    /// SIGHUP.
    pub(crate) fn hang_up(&self) {
        tool("kill", &["-HUP", &self.child.id().to_string()]);
    }

    /// Asserts that it does not end within the span, as it would if it had
    /// nothing to wait for.
    pub(crate) async fn stays_up(&mut self, span: Duration) {
        tokio::time::sleep(span).await;
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "it ended and did not wait: {ended:?}");
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        let wait = tokio::task::spawn_blocking(move || self.child.wait().unwrap());
        tokio::time::timeout(PATIENCE, wait).await.expect("it did not end").unwrap()
    }

    pub(crate) async fn stop(self) {
        self.terminate();
        let status = self.ended().await;
        assert!(status.success(), "{status}");
    }

    /// Lets no file of it grow beyond this many bytes, or any again.
    pub(crate) fn limit_files(&self, bytes: Option<u64>) {
        let limit = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
        tool("prlimit", &["--pid", &self.child.id().to_string(), &format!("--fsize={limit}:")]);
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tool(name: &str, arguments: &[&str]) {
    let ran = Command::new(name).args(arguments).status();
    let ran = ran.unwrap_or_else(|error| {
        panic!("the crash tests need `{name}` (packages util-linux and procps of most systems): {error}")
    });
    assert!(ran.success(), "{name} {arguments:?}: {ran}");
}
