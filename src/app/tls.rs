//! TLS from files: a server that asks every client for a certificate.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::authn::Caller;
use crate::config::Transport;
use crate::grpc::listen::Security;

use super::{StartError, failed};

/// How connections are secured.
pub(super) fn security(transport: &Transport) -> Result<Security, StartError> {
    match transport {
        Transport::PlainText { caller } => {
            tracing::warn!(caller.id = %caller, "serving plain text: everyone on this machine is this caller");
            Ok(Security::PlainText(Caller::plain_text(caller.clone())))
        }
        Transport::MutualTls { certificate_file, key_file, client_ca_file } => {
            let server = server(certificate_file, key_file, client_ca_file)?;
            Ok(Security::Tls(TlsAcceptor::from(Arc::new(server))))
        }
    }
}

fn server(certificate: &Path, key: &Path, client_ca: &Path) -> Result<ServerConfig, StartError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for ca in certificates(client_ca)? {
        roots.add(ca).map_err(|e| failed(reading(client_ca))(e.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|e| failed(reading(client_ca))(e.to_string()))?;
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|e| failed(reading(key))(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed("setting up TLS")(e.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(certificate)?, key_der)
        .map_err(|e| failed(reading(certificate))(e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let text = fs::read(path).map_err(|e| failed(reading(path))(e.to_string()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.map_err(|e| failed(reading(path))(e.to_string()))?;
    if certificates.is_empty() {
        return Err(failed(reading(path))("there is no PEM certificate in it".to_owned()));
    }
    Ok(certificates)
}

fn reading(path: &Path) -> String {
    format!("reading {}", path.display())
}
