//! The question of a handshake: whose certificate is this, and may the authority
//! that issued it name that caller. Whoever has no usable name, or one that is
//! not its authority's to give, gets no connection.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::authn::{Trust, Unidentified};
use crate::clock::SharedClock;

pub(super) struct CallersVerifier {
    trust: Arc<Trust>,
    clock: SharedClock,
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl CallersVerifier {
    /// `roots` are named to clients, so that they choose a certificate.
    pub(super) fn new(
        trust: Arc<Trust>,
        clock: SharedClock,
        roots: &RootCertStore,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        Self { trust, clock, hints: roots.subjects(), algorithms }
    }
}

impl fmt::Debug for CallersVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallersVerifier").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for CallersVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _system_time: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain: Vec<_> = std::iter::once(end_entity).chain(intermediates).cloned().collect();
        match self.trust.verify(&chain, self.clock.now()) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(why) => Err(Error::InvalidCertificate(alert(why))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The alert that says most to the peer; the log gets the whole reason.
fn alert(why: Unidentified) -> CertificateError {
    match why {
        Unidentified::Expired => CertificateError::Expired,
        Unidentified::NotYetValid => CertificateError::NotValidYet,
        Unidentified::Untrusted => CertificateError::UnknownIssuer,
        Unidentified::WrongUsage => CertificateError::InvalidPurpose,
        Unidentified::NoCertificate
        | Unidentified::Unreadable
        | Unidentified::NoName
        | Unidentified::SeveralUris
        | Unidentified::SeveralDnsNames
        | Unidentified::Wildcard
        | Unidentified::InvalidSpiffeId
        | Unidentified::InvalidName
        | Unidentified::ReservedName
        | Unidentified::NotItsToName => CertificateError::Other(OtherError(Arc::new(Plainly(why)))),
    }
}

/// Rustls shows an error of another's by its `Debug`, which is for programmers.
struct Plainly(Unidentified);

impl fmt::Debug for Plainly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Plainly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::error::Error for Plainly {}
