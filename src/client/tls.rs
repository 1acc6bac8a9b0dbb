//! The caller's half of TLS: whom it trusts and who it is, from files.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::TlsConnector;

use super::{Address, ConnectError};

/// TLS to one server.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) connector: TlsConnector,
    /// The name that the server's certificate must have.
    pub(super) name: ServerName<'static>,
}

/// Reads the files of an address.
pub(super) fn tls(address: &Address, host: &str) -> Result<Tls, ConnectError> {
    let missing = |what: &str| ConnectError::Address(format!("an https endpoint needs {what}"));
    let ca = address.ca_file.as_deref().ok_or_else(|| missing("the CA of the vault's certificate"))?;
    let certificate =
        address.certificate_file.as_deref().ok_or_else(|| missing("the caller's certificate"))?;
    let key_file = address.key_file.as_deref().ok_or_else(|| missing("the caller's private key"))?;

    let name = address.server_name.as_deref().unwrap_or(host);
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| ConnectError::Address(format!("{name} is no name that a certificate could have")))?;
    let mut roots = RootCertStore::empty();
    for authority in certificates(ca)? {
        roots.add(authority).map_err(|e| refused(ca, format!("has a certificate of no use: {e}")))?;
    }
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&read(key_file)?)
        // The error says of what kind it is, and nothing of what is in the file.
        .map_err(|e| refused(key_file, format!("has no private key in PEM that can be read: {e}")))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| ConnectError::Address(format!("TLS cannot be set up: {e}")))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => {
                refused(key_file, format!("is not the key of the certificate in {}", certificate.display()))
            }
            other => refused(certificate, format!("cannot be used with {}: {other}", key_file.display())),
        })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Tls { connector: TlsConnector::from(Arc::new(config)), name })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let text = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.map_err(|e| refused(path, format!("is not PEM: {e}")))?;
    if certificates.is_empty() {
        return Err(refused(path, "has no certificate in PEM (-----BEGIN CERTIFICATE-----)".to_owned()));
    }
    Ok(certificates)
}

fn read(path: &Path) -> Result<Vec<u8>, ConnectError> {
    std::fs::read(path).map_err(|e| refused(path, format!("cannot be read: {e}")))
}

fn refused(path: &Path, why: String) -> ConnectError {
    ConnectError::File(path.to_owned(), why)
}
