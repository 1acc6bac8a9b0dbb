//! A client of the API: one connection, the generated clients on it.
//!
//! In reading order: `tls` reads the caller's files; `wire` makes connections
//! and remembers what went wrong with them; `trouble` is what can go wrong.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use prost::Message as _;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_types::pb;
use tower::service_fn;

use crate::domain::chain::error_chain;
use crate::proto::InteractionRequired;
use crate::proto::grant_service_client::GrantServiceClient;
use crate::proto::rotation_service_client::RotationServiceClient;
use crate::proto::tenant_service_client::TenantServiceClient;
use crate::proto::token_service_client::TokenServiceClient;

mod tls;
mod trouble;
mod wire;

pub use trouble::{Refusal, Trouble};
pub use wire::Stage;

use wire::Watch;

/// How long a connection may take to be made, where nothing else is said.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// After how much silence of a connection in use the other end is asked whether
/// it is still there, and how long it may take to say so.
const PING_AFTER: Duration = Duration::from_secs(30);

/// Where the vault is and who is calling.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Address {
    /// `https://host:port`; `http://` for a loopback host only.
    pub endpoint: String,
    /// Who issued the vault's certificate, PEM. Required with https.
    pub ca_file: Option<PathBuf>,
    /// The caller's certificate chain, PEM. Required with https.
    pub certificate_file: Option<PathBuf>,
    /// The caller's private key, PEM. Required with https.
    pub key_file: Option<PathBuf>,
    /// The name in the vault's certificate, where it is not the host.
    pub server_name: Option<String>,
}

/// The generated clients. They share one connection and are cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    /// Access tokens.
    pub tokens: TokenServiceClient<Channel>,
    /// Grants.
    pub grants: GrantServiceClient<Channel>,
    /// Tenants and their keys.
    pub tenants: TenantServiceClient<Channel>,
    /// The rotation job.
    pub rotation: RotationServiceClient<Channel>,
    watch: Watch,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The address is not one the client uses.
    Address(String),
    /// A file cannot be read or used.
    File(PathBuf, String),
    /// The vault cannot be reached, or the two do not trust each other.
    Trouble(Trouble),
    /// It took too long; the stage is the one it was stuck at.
    TimedOut(Stage, Duration),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(what) => f.write_str(what),
            Self::File(path, what) => write!(f, "{}: {what}", path.display()),
            Self::Trouble(trouble) => write!(f, "cannot connect: {trouble}"),
            Self::TimedOut(Stage::Host, within) => {
                write!(f, "cannot connect: the host does not answer within {within:?}")
            }
            Self::TimedOut(Stage::Handshake | Stage::Answer, within) => {
                write!(
                    f,
                    "cannot connect: what listens there took the connection and said nothing for {within:?}"
                )
            }
        }
    }
}

impl std::error::Error for ConnectError {}

impl Client {
    /// Connects.
    ///
    /// # Errors
    ///
    /// A bad address, an unreadable file, or no connection within 10 seconds.
    pub async fn connect(address: &Address) -> Result<Self, ConnectError> {
        Self::connect_within(address, CONNECT_WITHIN).await
    }

    /// Connects within a time of the caller's choice.
    ///
    /// # Errors
    ///
    /// A bad address, an unreadable file, or no connection within that time.
    pub async fn connect_within(address: &Address, within: Duration) -> Result<Self, ConnectError> {
        let (endpoint, tls) = endpoint(address)?;
        let watch = Watch::default();
        let connecting = endpoint.connect_with_connector(service_fn(wire::connector(tls, watch.clone())));
        match tokio::time::timeout(within, connecting).await {
            Ok(Ok(channel)) => Ok(Self { watch, ..Self::over(channel) }),
            // Without a cause of ours it is HTTP/2's: the other end is no vault.
            Ok(Err(_)) => Err(ConnectError::Trouble(watch.trouble().unwrap_or(Trouble::SpeaksOther))),
            Err(_) => Err(ConnectError::TimedOut(watch.stage(), within)),
        }
    }

    /// What was wrong with the connection when a call failed, where it was the
    /// connection. `tonic` keeps of it a text at most.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.watch.trouble()
    }

    /// The clients on a connection that is there.
    #[must_use]
    pub fn over(channel: Channel) -> Self {
        Self {
            tokens: TokenServiceClient::new(channel.clone()),
            grants: GrantServiceClient::new(channel.clone()),
            tenants: TenantServiceClient::new(channel.clone()),
            rotation: RotationServiceClient::new(channel),
            watch: Watch::default(),
        }
    }
}

/// What a user has to do at the provider, from the details of a refusal
/// (`tonic::Status::details`), where there is such a thing.
#[must_use]
pub fn interaction(details: &[u8]) -> Option<InteractionRequired> {
    // tonic-types knows the messages of google.rpc only.
    pb::Status::decode(details)
        .ok()?
        .details
        .iter()
        .find(|any| any.type_url.ends_with("/obovault.v1.InteractionRequired"))
        .and_then(|any| InteractionRequired::decode(any.value.as_slice()).ok())
}

/// How requests are sent, and what is below them: TLS is the connector's and
/// not tonic's, which forgets why it failed.
fn endpoint(address: &Address) -> Result<(Endpoint, Option<tls::Tls>), ConnectError> {
    let refuse = |what: &str| ConnectError::Address(format!("endpoint {}: {what}", address.endpoint));
    let uri: Uri = address.endpoint.parse().map_err(|_| refuse("is not a URL"))?;
    let bracketed = uri.host().ok_or_else(|| refuse("has no host"))?;
    let host = bracketed.trim_start_matches('[').trim_end_matches(']');
    if uri.path_and_query().is_some_and(|path| path != "/") {
        return Err(refuse("must end with the port: there is nothing to name behind it"));
    }
    let tls = match uri.scheme_str() {
        Some("https") => Some(tls::tls(address, host)?),
        Some("http") if is_loopback(host) => None,
        Some("http") => return Err(refuse("plain text is allowed to a loopback host only; use https")),
        _ => return Err(refuse("must begin with https://")),
    };
    // To tonic the connection is a plain one; the requests say what it is.
    let below = Uri::builder().scheme("http").path_and_query("/");
    let below = uri.authority().map(|authority| below.authority(authority.clone()).build());
    let below = below.and_then(Result::ok).ok_or_else(|| refuse("is not a URL"))?;
    let endpoint = Endpoint::from(below)
        .origin(uri.clone())
        .http2_keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_AFTER)
        .user_agent(concat!("obo-vault/", env!("CARGO_PKG_VERSION")))
        .map_err(|e| refuse(&error_chain(&e)))?;
    Ok((endpoint, tls))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &Address) -> String {
        endpoint(address).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_token_never_crosses_a_network_in_plain_text() {
        for host in ["vault.example", "10.0.0.1", "127.0.0.1.example"] {
            let address = Address { endpoint: format!("http://{host}:8443"), ..Address::default() };
            assert!(refused(&address).contains("loopback"), "{host}");
        }
        for host in ["localhost", "127.0.0.1", "[::1]"] {
            let address = Address { endpoint: format!("http://{host}:8443"), ..Address::default() };
            assert!(endpoint(&address).is_ok(), "{host}");
        }
    }

    #[test]
    fn what_is_missing_for_tls_is_named() {
        let mut address = Address { endpoint: "https://vault.example".into(), ..Address::default() };
        assert!(refused(&address).contains("CA of the vault's certificate"));
        address.ca_file = Some("ca.pem".into());
        assert!(refused(&address).contains("caller's certificate"));
        address.certificate_file = Some("caller.pem".into());
        assert!(refused(&address).contains("caller's private key"));
        address.key_file = Some("no-such-key.pem".into());
        assert!(refused(&address).contains("ca.pem: cannot be read"));
    }

    #[test]
    fn other_schemes_are_refused() {
        for bad in
            ["", "vault:8443", "ftp://127.0.0.1", "https://", "http://127.0.0.1:1/api", "http://[::1]:1/?a"]
        {
            assert!(
                endpoint(&Address { endpoint: bad.into(), ..Address::default() }).is_err(),
                "{bad:?} was accepted"
            );
        }
    }
}
