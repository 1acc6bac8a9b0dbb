//! TLS from files: a server that asks every client for a certificate, and whose
//! files can be read anew while it serves.
//!
//! No session is resumed: a resumed one would bring back the identity of its
//! first handshake without asking whether it still holds.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::server::NoServerSessionStorage;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use crate::authn::{Authority, Caller, Names, Trust, Unidentified, Validity};
use crate::clock::{SharedClock, Timestamp};
use crate::config::{self, Callers, Transport};
use crate::grpc::listen::{Security, Tls};
use crate::metrics::Counters;

use super::{StartError, failed};

mod verifier;

use verifier::CallersVerifier;

/// From when on the end of a certificate is warned of.
const ENDS_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// How connections are secured; with TLS, what can be read anew.
pub(super) fn security(
    transport: &Transport,
    clock: &SharedClock,
    metrics: &Arc<Counters>,
) -> Result<(Security, Option<Arc<ServerTls>>), StartError> {
    match transport {
        Transport::PlainText { caller } => {
            tracing::warn!(caller.id = %caller, "serving plain text: everyone on this machine is this caller");
            Ok((Security::PlainText(Caller::plain_text(caller.clone())), None))
        }
        Transport::MutualTls { certificate_file, key_file, callers } => {
            let files = TlsFiles {
                certificate: certificate_file.clone(),
                key: key_file.clone(),
                callers: callers.clone(),
            };
            let tls = ServerTls::start(files, Arc::clone(clock), Arc::clone(metrics))?;
            Ok((Security::Tls(Arc::clone(&tls.live)), Some(Arc::new(tls))))
        }
    }
}

/// Where certificates and key are.
#[derive(Debug, Clone)]
struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
    callers: Vec<Callers>,
}

/// The server's certificate and the callers' authorities, as they were read
/// last and found usable.
pub struct ServerTls {
    files: TlsFiles,
    clock: SharedClock,
    metrics: Arc<Counters>,
    live: Arc<Tls>,
    /// Of the files' bytes.
    digest: Mutex<[u8; 32]>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ServerTls {
    fn start(files: TlsFiles, clock: SharedClock, metrics: Arc<Counters>) -> Result<Self, StartError> {
        let loaded = Loaded::read(&files, &clock, clock.now())?;
        metrics.server_certificate_ends(loaded.validity.until);
        let live = Arc::new(Tls::new(loaded.acceptor, loaded.trust));
        Ok(Self { files, clock, metrics, live, digest: Mutex::new(loaded.digest) })
    }

    /// What is read anew, as the log names it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        "TLS certificates"
    }

    /// The files it is read from.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let TlsFiles { certificate, key, callers } = &self.files;
        [certificate, key].into_iter().chain(callers.iter().map(|c| &c.ca_file)).cloned().collect()
    }

    /// Reads the files anew. From then on new connections get the new
    /// certificate, and calls on all connections are held against the new
    /// authorities. Whether anything has changed comes back.
    ///
    /// # Errors
    ///
    /// Why what is there now cannot be used; what was read before stays.
    pub fn reload(&self, now: Timestamp) -> Result<bool, String> {
        let mut digest = self.digest.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = Loaded::read(&self.files, &self.clock, now).map_err(|e| e.to_string())?;
        if loaded.digest == *digest {
            return Ok(false);
        }
        self.metrics.server_certificate_ends(loaded.validity.until);
        self.live.replace(loaded.acceptor, loaded.trust);
        *digest = loaded.digest;
        Ok(true)
    }
}

/// What the files hold, found usable.
struct Loaded {
    acceptor: TlsAcceptor,
    trust: Arc<Trust>,
    /// Of the server's certificate.
    validity: Validity,
    digest: [u8; 32],
}

impl Loaded {
    fn read(files: &TlsFiles, clock: &SharedClock, now: Timestamp) -> Result<Self, StartError> {
        let mut digest = Sha256::new();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (authorities, hints) = authorities(&files.callers, &mut digest, now)?;
        let algorithms = provider.signature_verification_algorithms;
        let trust = Arc::new(Trust::new(authorities, algorithms.all));

        let chain = certificates(&files.certificate, &mut digest)?;
        let validity = server_validity(&files.certificate, &chain, now)?;
        let key_text = read(&files.key, |path| config::read_secret(path).map(SecretText), &mut digest)?;
        let key = PrivateKeyDer::from_pem_slice(key_text.as_ref()).map_err(|e| {
            failed(reading(&files.key))(format!("there is no usable PEM private key in it: {e}"))
        })?;
        let verifier = CallersVerifier::new(Arc::clone(&trust), Arc::clone(clock), &hints, algorithms);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| failed("setting up TLS")(e.to_string()))?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(chain, key)
            .map_err(|e| {
                failed(reading(&files.certificate))(format!("with the key {}: {e}", files.key.display()))
            })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            trust,
            validity,
            digest: digest.finalize().into(),
        })
    }
}

/// The authorities of callers, and their names for the handshake.
fn authorities(
    callers: &[Callers],
    digest: &mut Sha256,
    now: Timestamp,
) -> Result<(Vec<Authority>, RootCertStore), StartError> {
    let mut store = RootCertStore::empty();
    let mut authorities = Vec::new();
    let mut any_valid = false;
    for Callers { key, ca_file, names } in callers {
        let roots = certificates(ca_file, digest)?;
        for root in &roots {
            store.add(root.clone()).map_err(|e| failed(reading(ca_file))(e.to_string()))?;
        }
        let authority = Authority::new(&roots, names.clone())
            .map_err(|n| failed(reading(ca_file))(format!("certificate {n} in it cannot be read")))?;
        if *names == Names::Any && authority.keys() > 1 {
            return Err(failed(reading(ca_file))(several(key, authority.keys())));
        }
        for validity in authority.validities() {
            match validity.check(now) {
                Ok(()) => any_valid = true,
                Err(why) => tracing::warn!(
                    file = %ca_file.display(), setting = key, %why, not_before = %validity.from,
                    not_after = %validity.until, "a CA of callers vouches for nobody now"
                ),
            }
        }
        authorities.push(authority);
    }
    if any_valid {
        Ok((authorities, store))
    } else {
        let files: Vec<_> = callers.iter().map(|c| c.ca_file.display().to_string()).collect();
        Err(failed(format!("reading {}", files.join(", ")))(
            "no CA in it is valid now, so nobody could connect: renew the CA".to_owned(),
        ))
    }
}

fn several(key: &str, keys: usize) -> String {
    format!(
        "{key} holds {keys} CAs, and each could name any caller, the operator too: in place of it, give each \
         a [[server.callers]] table with ca_file and the trust_domain or names that it may issue"
    )
}

/// A certificate that has expired secures nothing; one that ends soon is said.
fn server_validity(
    file: &Path,
    chain: &[CertificateDer<'_>],
    now: Timestamp,
) -> Result<Validity, StartError> {
    let mut first = None;
    for (number, certificate) in (1..).zip(chain) {
        let unusable = |what: String| failed(reading(file))(format!("certificate {number} in it {what}"));
        let validity = Validity::of(certificate).map_err(|_| unusable("cannot be read".to_owned()))?;
        match validity.check(now) {
            Err(Unidentified::NotYetValid) => tracing::warn!(
                file = %file.display(), number, not_before = %validity.from,
                "the server's certificate is not valid yet: callers refuse it until then; is the clock right?"
            ),
            Err(_) => return Err(unusable(format!("has expired on {}: renew it", validity.until))),
            Ok(()) if validity.until.since(now) < ENDS_SOON => tracing::warn!(
                file = %file.display(), number, not_after = %validity.until,
                "the server's certificate ends soon: renew it"
            ),
            Ok(()) => {}
        }
        first = first.or(Some(validity));
    }
    first.ok_or_else(|| failed(reading(file))("there is no PEM certificate in it".to_owned()))
}

fn certificates(path: &Path, digest: &mut Sha256) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let text = read(path, config::read_trusted, digest)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let certificates = certificates.map_err(|e| failed(reading(path))(e.to_string()))?;
    if certificates.is_empty() {
        return Err(failed(reading(path))("there is no PEM certificate in it".to_owned()));
    }
    Ok(certificates)
}

/// Reads by the same judgement as a start: who could have changed the file, or
/// read the key, counts each time.
fn read<T: AsRef<[u8]>>(
    path: &Path,
    how: impl FnOnce(&Path) -> Result<T, String>,
    digest: &mut Sha256,
) -> Result<T, StartError> {
    let text = how(path).map_err(failed(reading(path)))?;
    digest.update(text.as_ref().len().to_be_bytes());
    digest.update(text.as_ref());
    Ok(text)
}

/// Of a file with a key.
struct SecretText(Zeroizing<String>);

impl AsRef<[u8]> for SecretText {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

fn reading(path: &Path) -> String {
    format!("reading {}", path.display())
}

#[cfg(test)]
mod tests;
