//! A certificate authority for one stand: a server certificate for loopback and
//! one client certificate per caller.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::clock::Timestamp;

/// The authority and where it writes.
pub struct Pki {
    directory: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate or a key could not be made or written.
#[derive(Debug)]
pub struct PkiError(String);

impl fmt::Display for PkiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a development certificate cannot be made: {}", self.0)
    }
}

impl std::error::Error for PkiError {}

impl From<rcgen::Error> for PkiError {
    fn from(error: rcgen::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<std::io::Error> for PkiError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// The private key, PEM, mode 0600.
    pub key: PathBuf,
}

impl fmt::Debug for Pki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pki").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Pki {
    /// A new authority; its certificate is `ca.pem` in the directory.
    ///
    /// # Errors
    ///
    /// The directory cannot be written.
    pub fn new(directory: &Path) -> Result<Self, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "obo-vault development authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::write(directory.join("ca.pem"), issuer.pem())?;
        Ok(Self { directory: directory.to_owned(), issuer })
    }

    /// The authority's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// A server certificate for loopback.
    ///
    /// # Errors
    ///
    /// The directory cannot be written.
    pub fn server(&self) -> Result<Pair, PkiError> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(&params, "server")
    }

    /// A client certificate with these names; `file` names its files.
    ///
    /// # Errors
    ///
    /// A name cannot be in a certificate, or the directory cannot be written.
    pub fn client(&self, file: &str, names: &[SanType]) -> Result<Pair, PkiError> {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = names.to_vec();
        self.issue(&params, file)
    }

    /// A client certificate with one URI that ends at this time.
    ///
    /// # Errors
    ///
    /// As [`Pki::client`], or the time is none a certificate can hold.
    pub fn caller_until(&self, file: &str, uri: &str, until: Timestamp) -> Result<Pair, PkiError> {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.not_after = time::OffsetDateTime::from_unix_timestamp(until.unix_seconds())
            .map_err(|e| PkiError(e.to_string()))?;
        self.issue(&params, file)
    }

    /// A client certificate with one URI, usually a SPIFFE id.
    ///
    /// # Errors
    ///
    /// As [`Pki::client`].
    pub fn caller(&self, file: &str, uri: &str) -> Result<Pair, PkiError> {
        self.client(file, &[SanType::URI(uri.try_into()?)])
    }

    fn issue(&self, params: &CertificateParams, file: &str) -> Result<Pair, PkiError> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let pair = Pair {
            certificate: self.directory.join(format!("{file}.pem")),
            key: self.directory.join(format!("{file}.key")),
        };
        fs::write(&pair.certificate, certificate.pem())?;
        let mut private =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&pair.key)?;
        private.write_all(key.serialize_pem().as_bytes())?;
        Ok(pair)
    }
}
