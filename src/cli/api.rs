//! What the commands over the API share: the connection and its time, names,
//! tokens from files, spans.

use std::future::Future;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::client::{Address, Client};
use crate::clock::{Clock as _, Instant, SystemClock};

use super::Exit;
use super::advice::Doing;
use super::failure::CliFailure;

/// Where the vault is and who is calling.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// The vault, https://host:port; http:// for a loopback host only.
    #[arg(
        long,
        value_name = "URL",
        env = "OBO_VAULT_ENDPOINT",
        hide_env_values = true,
        default_value = "https://127.0.0.1:8443"
    )]
    endpoint: String,
    /// Who issued the vault's certificate, PEM.
    #[arg(long, value_name = "FILE", env = "OBO_VAULT_CA", hide_env_values = true)]
    ca: Option<PathBuf>,
    /// The caller's certificate chain, PEM.
    #[arg(long, value_name = "FILE", env = "OBO_VAULT_CERT", hide_env_values = true)]
    cert: Option<PathBuf>,
    /// The caller's private key, PEM.
    #[arg(long, value_name = "FILE", env = "OBO_VAULT_KEY", hide_env_values = true)]
    key: Option<PathBuf>,
    /// The name in the vault's certificate, where it is not the host.
    #[arg(long, value_name = "NAME", env = "OBO_VAULT_SERVER_NAME", hide_env_values = true)]
    server_name: Option<String>,
    /// How long the connection and the vault's answer may take, for example 10s.
    #[arg(
        long,
        value_name = "SPAN",
        env = "OBO_VAULT_TIMEOUT",
        hide_env_values = true,
        default_value = "40s",
        value_parser = parse_timeout
    )]
    timeout: Duration,
}

impl Connection {
    /// Connects, for a command that does one kind of thing.
    pub(super) async fn open(self, doing: Doing) -> Result<Session, CliFailure> {
        let Self { endpoint, ca, cert, key, server_name, timeout } = self;
        let clock = SystemClock::new();
        let deadline = clock.instant().plus(timeout);
        let address = Address { endpoint, ca_file: ca, certificate_file: cert, key_file: key, server_name };
        let client = Client::connect_within(&address, timeout)
            .await
            .map_err(|error| CliFailure::unconnected(&error, &address.endpoint))?;
        Ok(Session { client, endpoint: address.endpoint, doing, clock, timeout, deadline })
    }
}

/// A connection to the vault, and how much time there is.
pub(super) struct Session {
    client: Client,
    endpoint: String,
    doing: Doing,
    clock: SystemClock,
    timeout: Duration,
    deadline: Instant,
}

impl Session {
    /// Makes one call and waits for its answer until the deadline, which the
    /// vault is told (`grpc-timeout`).
    pub(super) async fn call<M, A, F>(
        &self,
        message: M,
        send: impl FnOnce(Client, tonic::Request<M>) -> F,
    ) -> Result<A, CliFailure>
    where
        F: Future<Output = super::failure::Answered<A>>,
    {
        let remaining = self.remaining();
        let mut request = tonic::Request::new(message);
        request.set_timeout(remaining);
        self.within(remaining, send(self.client.clone(), request)).await
    }

    /// Begins a call that goes on for as long as the vault has something to
    /// report: only its beginning has a deadline.
    pub(super) async fn follow<M, A, F>(
        &self,
        message: M,
        send: impl FnOnce(Client, tonic::Request<M>) -> F,
    ) -> Result<A, CliFailure>
    where
        F: Future<Output = super::failure::Answered<A>>,
    {
        self.within(self.remaining(), send(self.client.clone(), tonic::Request::new(message))).await
    }

    /// The same command makes a further call; it has as much time as the first.
    pub(super) fn again(&mut self) {
        self.deadline = self.clock.instant().plus(self.timeout);
    }

    /// What a call that failed means.
    #[expect(clippy::disallowed_types, reason = "reads the vault's answer; makes none")]
    pub(super) fn failed(&self, status: &tonic::Status) -> CliFailure {
        CliFailure::refused(status, self.doing, self.client.trouble().as_ref(), &self.endpoint, self.timeout)
    }

    async fn within<A>(
        &self,
        remaining: Duration,
        call: impl Future<Output = super::failure::Answered<A>>,
    ) -> Result<A, CliFailure> {
        match tokio::time::timeout(remaining, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(CliFailure::late(&self.endpoint, self.timeout)),
        }
    }

    fn remaining(&self) -> Duration {
        self.deadline.since(self.clock.instant())
    }
}

/// One grant.
#[derive(Debug, Args)]
pub struct GrantName {
    /// Tenant of the user.
    #[arg(long, allow_hyphen_values = true)]
    pub(super) tenant: String,
    /// Subject of the user within the tenant.
    #[arg(long, allow_hyphen_values = true)]
    pub(super) subject: String,
    /// Name of the OAuth client in the vault's configuration.
    #[arg(long, allow_hyphen_values = true)]
    pub(super) client: String,
}

/// One page of a list.
#[derive(Debug, Args)]
pub struct Page {
    /// Most entries to show, 1 to 1000.
    #[arg(long, default_value_t = 100)]
    pub(super) page_size: u32,
    /// The `next_page_token` of the page before.
    #[arg(long, default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    pub(super) page_token: String,
}

/// Most bytes of a token; the vault refuses smaller ones already.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

/// Reads a token from a file, or from standard input where the name is `-`.
/// White space around it is dropped.
pub(super) fn read_token(file: &std::path::Path) -> Result<String, CliFailure> {
    let cannot = |e: std::io::Error| {
        CliFailure::new(Exit::InvalidArgument, format!("token file {}: {e}", file.display()))
    };
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin().lock().take(MAX_TOKEN_BYTES).read_to_string(&mut text).map_err(cannot)?;
    } else {
        let file = std::fs::File::open(file).map_err(cannot)?;
        file.take(MAX_TOKEN_BYTES).read_to_string(&mut text).map_err(cannot)?;
    }
    let token = text.trim();
    if token.is_empty() {
        Err(CliFailure::new(Exit::InvalidArgument, format!("token file {}: is empty", file.display())))
    } else {
        Ok(token.to_owned())
    }
}

/// Reads a span such as `30d`, `12h`, `45m`, `10s`, or `0`.
pub(super) fn parse_span(text: &str) -> Result<Duration, String> {
    const RULE: &str = "must be a number with d, h, m or s, for example 7d";
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| RULE)?;
    let unit = match &text[digits.len()..] {
        "d" => 86_400,
        "h" => 3600,
        "m" => 60,
        "s" => 1,
        "" if number == 0 => 1,
        _ => return Err(RULE.into()),
    };
    number.checked_mul(unit).map(Duration::from_secs).ok_or_else(|| RULE.into())
}

/// Reads a timeout: a span that is not zero.
fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_span(text)? {
        Duration::ZERO => Err("must be longer than nothing, for example 10s".to_owned()),
        timeout => Ok(timeout),
    }
}

/// A span as the API carries it.
pub(super) fn to_wire(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

/// What the vault's answer must have and has not: another version of it.
pub(super) fn missing(field: &str) -> CliFailure {
    CliFailure::new(Exit::Unexpected, format!("the vault's answer has no {field}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_needs_its_unit() {
        assert_eq!(parse_span("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!(parse_span("0"), Ok(Duration::ZERO));
        for bad in ["", "7", "d", "-1d", "1w", "1.5h", "99999999999999999999d", "18446744073709551615d"] {
            assert!(parse_span(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_pasted_token_loses_its_line_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, " secret-token\r\n").unwrap();
        assert_eq!(read_token(&file).unwrap(), "secret-token");
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(read_token(&file).unwrap_err().exit(), Exit::InvalidArgument);
    }
}
