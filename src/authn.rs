//! Who is calling: from the certificates of a connection to a [`Caller`].
//!
//! A caller has exactly one identity or is refused. It is read from the leaf
//! certificate's subject alternative names, and counts only where the authority
//! that issued it may name it ([`Trust`]), at the time of each call
//! ([`Credential`]).
//!
//! - one URI name is the identity, whatever else the certificate says; SPIFFE
//!   IDs must be in their canonical form, so that two spellings are never two
//!   callers;
//! - without a URI name, one DNS name is the identity `dns:<name>`;
//! - everything else is refused: to choose among several names would let the
//!   certificate's holder choose.
//!
//! Names that the vault gives itself start with a scheme no certificate may
//! claim ([`RESERVED_SCHEMES`]).
//!
//! In reading order: this file; [`names`]: whom an authority may name;
//! [`trust`]: a chain at a time; [`credential`]: a connection's chain, asked
//! again at every call.

use std::fmt;

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::domain::failure::Failure;
use crate::domain::id::CallerId;
use crate::domain::reason::Reason;

pub mod credential;
pub mod names;
pub mod trust;

pub use credential::{Credential, PresentTrust};
pub use names::{Names, TrustDomain};
pub use trust::{Authority, Trust, Validity, Verified};

/// Somebody whose identity has been established. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    id: CallerId,
}

impl Caller {
    /// The caller that everybody is who reaches a plain-text listener; the
    /// configuration names it, and allows such a listener on loopback only.
    #[must_use]
    pub fn plain_text(id: CallerId) -> Self {
        Self { id }
    }

    /// The vault itself, acting for one of its own jobs: `system:rotation`.
    #[must_use]
    #[expect(clippy::expect_used, reason = "the name is a constant of this program, not input")]
    pub fn system(name: &'static str) -> Self {
        Self { id: CallerId::new(name).expect("names of the vault's own jobs are valid") }
    }

    /// The identity, as policies and the audit log name it.
    #[must_use]
    pub fn id(&self) -> &CallerId {
        &self.id
    }
}

/// Reads whom a chain of certificates names, leaf first; whether anybody vouches
/// for it is not asked here.
///
/// # Errors
///
/// The certificate names nobody, or more than one.
pub fn identify(peer_certificates: &[CertificateDer<'_>]) -> Result<Caller, Unidentified> {
    let leaf = peer_certificates.first().ok_or(Unidentified::NoCertificate)?;
    let (rest, certificate) = X509Certificate::from_der(leaf).map_err(|_| Unidentified::Unreadable)?;
    if !rest.is_empty() {
        return Err(Unidentified::Unreadable);
    }
    let names = certificate.subject_alternative_name().map_err(|_| Unidentified::Unreadable)?;
    let names = names.as_ref().map_or(&[][..], |extension| &extension.value.general_names);
    identify_by_names(names)
}

/// Why a peer is nobody the vault knows by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unidentified {
    /// The peer presented no certificate.
    NoCertificate,
    /// The certificate or one of its names cannot be read.
    Unreadable,
    /// It has neither a URI nor a DNS name.
    NoName,
    /// It has more than one URI name.
    SeveralUris,
    /// It has no URI name and more than one DNS name.
    SeveralDnsNames,
    /// Its only name stands for many hosts.
    Wildcard,
    /// Its URI name is a SPIFFE ID in another than the canonical form.
    InvalidSpiffeId,
    /// Its name is no proper URI or host name, or too long.
    InvalidName,
    /// Its URI name has a scheme that the vault keeps for itself.
    ReservedName,
    /// A certificate of its chain has expired.
    Expired,
    /// A certificate of its chain is not valid yet.
    NotYetValid,
    /// It is not for the use by a client.
    WrongUsage,
    /// No authority of the configuration vouches for it, or its root is not
    /// valid now.
    Untrusted,
    /// The authority that vouches for it may not name this caller.
    NotItsToName,
}

impl fmt::Display for Unidentified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCertificate => "the peer presented no certificate",
            Self::Unreadable => "the peer's certificate cannot be read",
            Self::NoName => "the certificate has neither a URI nor a DNS name",
            Self::SeveralUris => "the certificate has more than one URI name",
            Self::SeveralDnsNames => "the certificate has more than one DNS name and no URI name",
            Self::Wildcard => "the certificate's only name is a wildcard",
            Self::InvalidSpiffeId => "the certificate's SPIFFE ID is not in canonical form",
            Self::InvalidName => "the certificate's name is no proper URI or host name",
            Self::ReservedName => "the certificate's URI name has a scheme kept for the vault",
            Self::Expired => "a certificate of the peer's chain has expired",
            Self::NotYetValid => "a certificate of the peer's chain is not valid yet",
            Self::WrongUsage => "the certificate is not for client authentication",
            Self::Untrusted => "no CA of the configuration, valid now, vouches for the certificate",
            Self::NotItsToName => {
                "the CA that issued the certificate may not name this caller (server.callers)"
            }
        })
    }
}

impl std::error::Error for Unidentified {}

impl From<Unidentified> for Failure {
    fn from(unidentified: Unidentified) -> Self {
        Self::new(Reason::CallerUnidentified, unidentified.to_string())
    }
}

/// Schemes of identities that do not come from a URI name. Without this list a
/// certificate with the URI name `dns:db.example` could pass for the one with
/// the DNS name, and `system:rotation` for the vault.
pub const RESERVED_SCHEMES: [&str; 3] = ["dns", "system", "plaintext"];

fn identify_by_names(names: &[GeneralName<'_>]) -> Result<Caller, Unidentified> {
    let mut uris = Vec::new();
    let mut hosts = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::DNSName(host) => hosts.push(*host),
            // An unreadable name could be a second identity.
            GeneralName::Invalid(..) => return Err(Unidentified::Unreadable),
            // These name people, addresses and directory entries. They neither
            // identify a service nor disturb a name that does.
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::IPAddress(_)
            | GeneralName::RegisteredID(_) => {}
        }
    }
    let id = match (uris.as_slice(), hosts.as_slice()) {
        ([uri], _) => check_uri(uri)?.to_owned(),
        ([_, _, ..], _) => return Err(Unidentified::SeveralUris),
        ([], [host]) => format!("dns:{}", check_host(host)?),
        ([], [_, _, ..]) => return Err(Unidentified::SeveralDnsNames),
        ([], []) => return Err(Unidentified::NoName),
    };
    CallerId::new(&id).map(|id| Caller { id }).map_err(|_| Unidentified::InvalidName)
}

fn check_uri(uri: &str) -> Result<&str, Unidentified> {
    let (scheme, rest) = uri.split_once(':').ok_or(Unidentified::InvalidName)?;
    let scheme_fits = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    if !scheme_fits || rest.is_empty() || !uri.bytes().all(|b| (0x21..=0x7e).contains(&b)) {
        return Err(Unidentified::InvalidName);
    }
    if RESERVED_SCHEMES.iter().any(|reserved| scheme.eq_ignore_ascii_case(reserved)) {
        return Err(Unidentified::ReservedName);
    }
    if scheme.eq_ignore_ascii_case("spiffe") && !is_spiffe_id(uri) {
        return Err(Unidentified::InvalidSpiffeId);
    }
    Ok(uri)
}

/// The canonical form of the SPIFFE ID standard, section 2, with a path: a bare
/// trust domain names no workload.
fn is_spiffe_id(uri: &str) -> bool {
    let Some((trust_domain, path)) = uri.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'))
    else {
        return false;
    };
    is_trust_domain(trust_domain)
        && path.split('/').all(|segment| {
            !matches!(segment, "" | "." | "..")
                && segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        })
}

fn is_trust_domain(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
}

/// Whether text is the identity of a caller in the form that policies and
/// `server.callers` name it.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<CallerId, Unidentified> {
    match name.strip_prefix("dns:") {
        Some(host) if check_host(host)? == host => {}
        Some(_) => return Err(Unidentified::InvalidName),
        None => drop(check_uri(name)?),
    }
    CallerId::new(name).map_err(|_| Unidentified::InvalidName)
}

fn check_host(host: &str) -> Result<String, Unidentified> {
    if host.contains('*') {
        return Err(Unidentified::Wildcard);
    }
    let fits = host.split('.').all(|label| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    });
    if fits { Ok(host.to_ascii_lowercase()) } else { Err(Unidentified::InvalidName) }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn uri(name: &str) -> Result<String, Unidentified> {
        identify_by_names(&[GeneralName::URI(name)]).map(|caller| caller.id().to_string())
    }

    #[test]
    fn a_spiffe_id_is_the_caller() {
        assert_eq!(uri("spiffe://acme.example/ns/mail"), Ok("spiffe://acme.example/ns/mail".to_owned()));
    }

    #[test]
    fn a_spiffe_id_has_one_spelling() {
        for bad in [
            "spiffe://",
            "spiffe:///mail",
            "spiffe://acme",
            "spiffe://acme/",
            "spiffe://acme/mail/",
            "spiffe://acme//mail",
            "spiffe://acme/../mail",
            "spiffe://acme/mail?admin",
            "spiffe://acme/mail#x",
            "spiffe://acme/m%61il",
            "spiffe://acme:443/mail",
            "spiffe://user@acme/mail",
            "spiffe://ACME/mail",
            "SPIFFE://acme/mail",
            "spiffe:acme/mail",
        ] {
            assert_eq!(uri(bad), Err(Unidentified::InvalidSpiffeId), "{bad:?}");
        }
    }

    #[test]
    fn no_certificate_passes_for_the_vault_or_for_a_host() {
        for bad in ["system:rotation", "dns:db.example", "DNS:db.example", "plaintext:local"] {
            assert_eq!(uri(bad), Err(Unidentified::ReservedName), "{bad:?}");
        }
    }

    #[test]
    fn other_uris_are_callers_when_they_are_uris() {
        assert_eq!(uri("https://mail.example/svc"), Ok("https://mail.example/svc".to_owned()));
        assert_eq!(uri("urn:example:mail"), Ok("urn:example:mail".to_owned()));
        for bad in ["mail", ":mail", "1a:b", "mail:", "urn:a b", "urn:\u{e9}"] {
            assert_eq!(uri(bad), Err(Unidentified::InvalidName), "{bad:?}");
        }
    }

    #[test]
    fn exactly_one_identity_or_refusal() {
        use GeneralName::{DNSName, IPAddress, RFC822Name, URI};
        let identify = |names: &[GeneralName<'_>]| {
            identify_by_names(names).map(|c| c.id().to_string()).map_err(|u| format!("{u:?}"))
        };
        let spiffe = "spiffe://acme/mail";
        assert_eq!(identify(&[DNSName("a.example"), URI(spiffe), DNSName("b.example")]), Ok(spiffe.into()));
        assert_eq!(identify(&[DNSName("Db.Example")]), Ok("dns:db.example".into()));
        assert_eq!(identify(&[URI(spiffe), URI(spiffe)]), Err("SeveralUris".into()));
        assert_eq!(identify(&[URI(spiffe), URI("urn:x:y")]), Err("SeveralUris".into()));
        assert_eq!(identify(&[URI("bad"), DNSName("a.example")]), Err("InvalidName".into()));
        assert_eq!(identify(&[DNSName("a.example"), DNSName("b.example")]), Err("SeveralDnsNames".into()));
        assert_eq!(identify(&[DNSName("*.example")]), Err("Wildcard".into()));
        assert_eq!(identify(&[DNSName("a..example")]), Err("InvalidName".into()));
        assert_eq!(
            identify(&[RFC822Name("root@a.example"), IPAddress(&[127, 0, 0, 1])]),
            Err("NoName".into())
        );
        let unreadable = GeneralName::Invalid(x509_parser::der_parser::asn1_rs::Tag(6), &[0xff]);
        assert_eq!(identify(&[unreadable, URI(spiffe)]), Err("Unreadable".into()));
    }

    #[cfg(feature = "demo")]
    #[test]
    fn the_leaf_of_a_real_chain_is_read() {
        let certificate = |names: Vec<rcgen::SanType>| {
            let mut params = rcgen::CertificateParams::default();
            params.subject_alt_names = names;
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().clone()
        };
        let spiffe = || rcgen::SanType::URI("spiffe://acme/mail".try_into().unwrap());
        let host = |name: &str| rcgen::SanType::DnsName(name.try_into().unwrap());

        let leaf = certificate(vec![host("mail.example"), spiffe()]);
        let issuer = certificate(vec![host("ca.example")]);
        let caller = identify(&[leaf.clone(), issuer]).unwrap();
        assert_eq!(caller.id().as_str(), "spiffe://acme/mail");

        assert_eq!(identify(&[]), Err(Unidentified::NoCertificate));
        assert_eq!(identify(&[certificate(vec![])]), Err(Unidentified::NoName));
        assert_eq!(identify(&[certificate(vec![spiffe(), spiffe()])]), Err(Unidentified::SeveralUris));
        let mut longer = leaf.to_vec();
        longer.push(0);
        assert_eq!(identify(&[longer.into()]), Err(Unidentified::Unreadable));
    }

    proptest! {
        #[test]
        fn bytes_that_are_no_certificate_are_refused_calmly(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(identify(&[bytes.into()]), Err(Unidentified::Unreadable));
        }
    }
}
