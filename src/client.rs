//! A client of the API: one connection, the generated clients on it.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message as _;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic_types::pb;

use crate::domain::chain::error_chain;
use crate::proto::InteractionRequired;
use crate::proto::grant_service_client::GrantServiceClient;
use crate::proto::rotation_service_client::RotationServiceClient;
use crate::proto::tenant_service_client::TenantServiceClient;
use crate::proto::token_service_client::TokenServiceClient;

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
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The address is not one the client uses.
    Address(String),
    /// A file cannot be read or used.
    File(PathBuf, String),
    /// The vault cannot be reached, or the two do not trust each other.
    Unreachable(String),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(what) => f.write_str(what),
            Self::File(path, what) => write!(f, "{}: {what}", path.display()),
            Self::Unreachable(what) => write!(f, "cannot connect: {what}"),
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
        // tonic's own text is "transport error"; what happened is in its causes.
        let channel =
            endpoint(address)?.connect().await.map_err(|e| ConnectError::Unreachable(error_chain(&e)))?;
        Ok(Self::over(channel))
    }

    /// The clients on a connection that is there.
    #[must_use]
    pub fn over(channel: Channel) -> Self {
        Self {
            tokens: TokenServiceClient::new(channel.clone()),
            grants: GrantServiceClient::new(channel.clone()),
            tenants: TenantServiceClient::new(channel.clone()),
            rotation: RotationServiceClient::new(channel),
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

fn endpoint(address: &Address) -> Result<Endpoint, ConnectError> {
    let refuse = |what: &str| ConnectError::Address(format!("endpoint {}: {what}", address.endpoint));
    let uri: Uri = address.endpoint.parse().map_err(|_| refuse("is not a URL"))?;
    let host = uri.host().ok_or_else(|| refuse("has no host"))?;
    let endpoint = Endpoint::from(uri.clone())
        .connect_timeout(Duration::from_secs(10))
        .user_agent(concat!("obo-vault/", env!("CARGO_PKG_VERSION")))
        .map_err(|e| refuse(&error_chain(&e)))?;
    match uri.scheme_str() {
        Some("https") => endpoint
            .tls_config(tls(address)?)
            .map_err(|e| ConnectError::Address(format!("certificates or key: {}", error_chain(&e)))),
        Some("http") if is_loopback(host) => Ok(endpoint),
        Some("http") => Err(refuse("plain text is allowed to a loopback host only; use https")),
        _ => Err(refuse("must begin with https://")),
    }
}

fn tls(address: &Address) -> Result<ClientTlsConfig, ConnectError> {
    let missing = |what: &str| ConnectError::Address(format!("an https endpoint needs {what}"));
    let ca = address.ca_file.as_deref().ok_or_else(|| missing("the CA of the vault's certificate"))?;
    let certificate =
        address.certificate_file.as_deref().ok_or_else(|| missing("the caller's certificate"))?;
    let key = address.key_file.as_deref().ok_or_else(|| missing("the caller's private key"))?;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(ca)?))
        .identity(Identity::from_pem(read(certificate)?, read(key)?));
    Ok(match &address.server_name {
        Some(name) => tls.domain_name(name),
        None => tls,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, ConnectError> {
    std::fs::read(path).map_err(|e| ConnectError::File(path.to_owned(), format!("cannot be read: {e}")))
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
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
        for bad in ["", "vault:8443", "ftp://127.0.0.1", "https://"] {
            assert!(
                endpoint(&Address { endpoint: bad.into(), ..Address::default() }).is_err(),
                "{bad:?} was accepted"
            );
        }
    }
}
