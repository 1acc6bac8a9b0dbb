//! From a chain of certificates to the caller that one of the configured
//! authorities vouches for.
//!
//! A chain is verified against each authority's own roots, and the caller that
//! its leaf names counts only where that authority may name it: the root that
//! verified decides, whatever intermediates were presented on the way. The time
//! is that of the vault's clock, and the roots themselves have to be valid too,
//! which path building by itself does not ask.

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::clock::Timestamp;

use super::{Caller, Names, Unidentified, identify};

/// The signature algorithms of the process's one cryptographic provider.
pub type Algorithms = &'static [&'static dyn SignatureVerificationAlgorithm];

/// Who vouches for callers.
#[derive(Debug)]
pub struct Trust {
    authorities: Vec<Authority>,
    algorithms: Algorithms,
}

/// One entry of the configuration: roots, and whom they may name.
#[derive(Debug)]
pub struct Authority {
    roots: Vec<Root>,
    names: Names,
}

/// A certificate that is trusted because the configuration names it.
#[derive(Debug)]
struct Root {
    anchor: TrustAnchor<'static>,
    validity: Validity,
}

/// The time a certificate, or a whole chain, is valid. Both ends are included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub from: Timestamp,
    /// Not after.
    pub until: Timestamp,
}

/// A caller that an authority vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Who it is.
    pub caller: Caller,
    /// When every certificate of the chain is valid, its root included.
    pub validity: Validity,
}

impl Validity {
    /// The validity of a certificate.
    ///
    /// # Errors
    ///
    /// The certificate cannot be read.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, Unidentified> {
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| Unidentified::Unreadable)?;
        let validity = certificate.validity();
        // The last second counts in full, as it does for path building.
        let millis = |seconds: i64, more: i64| Timestamp(seconds.saturating_mul(1000).saturating_add(more));
        Ok(Self {
            from: millis(validity.not_before.timestamp(), 0),
            until: millis(validity.not_after.timestamp(), 999),
        })
    }

    /// # Errors
    ///
    /// The time is before or after it.
    pub fn check(self, now: Timestamp) -> Result<(), Unidentified> {
        if now < self.from {
            Err(Unidentified::NotYetValid)
        } else if now > self.until {
            Err(Unidentified::Expired)
        } else {
            Ok(())
        }
    }

    fn and(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), until: self.until.min(other.until) }
    }
}

impl Authority {
    /// An authority with these root certificates.
    ///
    /// # Errors
    ///
    /// The number of the certificate, from 1, that cannot be used as a root.
    pub fn new(roots: &[CertificateDer<'_>], names: Names) -> Result<Self, usize> {
        let roots = roots.iter().enumerate().map(|(index, root)| Root::of(root).ok_or(index + 1));
        Ok(Self { roots: roots.collect::<Result<_, _>>()?, names })
    }

    /// How many different keys its roots have: a root that was only renewed is
    /// no second authority.
    #[must_use]
    pub fn keys(&self) -> usize {
        let keys: std::collections::BTreeSet<_> =
            self.roots.iter().map(|root| root.anchor.subject_public_key_info.as_ref()).collect();
        keys.len()
    }

    /// The validity of its roots, in the order of the file.
    pub fn validities(&self) -> impl Iterator<Item = Validity> + '_ {
        self.roots.iter().map(|root| root.validity)
    }

    /// The time for which the chain holds; only roots that are valid now count.
    fn verify(
        &self,
        leaf: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        algorithms: Algorithms,
        now: Timestamp,
    ) -> Result<Validity, Unidentified> {
        let valid = self.roots.iter().filter(|root| root.validity.check(now).is_ok());
        let anchors: Vec<_> = valid.map(|root| root.anchor.clone()).collect();
        let seconds = u64::try_from(now.unix_seconds()).unwrap_or(0);
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let usage = KeyUsage::client_auth();
        let path = leaf
            .verify_for_usage(algorithms, &anchors, intermediates, time, usage, None, None)
            .map_err(|error| unverified(&error))?;
        self.validity_of(&path)
    }

    fn validity_of(&self, path: &VerifiedPath<'_>) -> Result<Validity, Unidentified> {
        // A root may have been renewed under its old key: the later one holds.
        let root = self
            .roots
            .iter()
            .filter(|root| {
                root.anchor.subject == path.anchor().subject
                    && root.anchor.subject_public_key_info == path.anchor().subject_public_key_info
            })
            .map(|root| root.validity)
            .max_by_key(|validity| validity.until)
            .ok_or(Unidentified::Untrusted)?;
        path.intermediate_certificates()
            .try_fold(root, |validity, certificate| Ok(validity.and(Validity::of(&certificate.der())?)))
    }
}

impl Root {
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let validity = Validity::of(certificate).ok()?;
        let anchor = anchor_from_trusted_cert(certificate).ok()?.to_owned();
        Some(Self { anchor, validity })
    }
}

impl Trust {
    /// These authorities, each for its own names.
    #[must_use]
    pub fn new(authorities: Vec<Authority>, algorithms: Algorithms) -> Self {
        Self { authorities, algorithms }
    }

    /// The caller that the chain, leaf first, proves at this time.
    ///
    /// # Errors
    ///
    /// Its leaf names nobody or more than one, no authority vouches for it now,
    /// or the one that does may not name this caller.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<Verified, Unidentified> {
        let caller = identify(chain)?;
        let (leaf, intermediates) = chain.split_first().ok_or(Unidentified::NoCertificate)?;
        let own = Validity::of(leaf)?;
        own.check(now)?;
        let leaf = EndEntityCert::try_from(leaf).map_err(|_| Unidentified::Unreadable)?;
        let mut refused = Unidentified::Untrusted;
        for authority in &self.authorities {
            match authority.verify(&leaf, intermediates, self.algorithms, now) {
                Ok(validity) if authority.names.include(caller.id()) => {
                    return Ok(Verified { caller, validity: own.and(validity) });
                }
                // That somebody vouches for it says more than that others do not.
                Ok(_) => refused = Unidentified::NotItsToName,
                Err(why) if refused == Unidentified::Untrusted => refused = why,
                Err(_) => {}
            }
        }
        Err(refused)
    }
}

fn unverified(error: &webpki::Error) -> Unidentified {
    match error {
        webpki::Error::CertExpired { .. } => Unidentified::Expired,
        webpki::Error::CertNotValidYet { .. } => Unidentified::NotYetValid,
        webpki::Error::RequiredEkuNotFoundContext(_) => Unidentified::WrongUsage,
        webpki::Error::BadDer => Unidentified::Unreadable,
        _ => Unidentified::Untrusted,
    }
}

#[cfg(test)]
pub(super) mod tests;
