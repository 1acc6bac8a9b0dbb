#![cfg(feature = "demo")]

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};

use super::super::TrustDomain;
use super::*;

pub(crate) const NOW: Timestamp = Timestamp(1_800_000_000_000);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
/// Longer than any test looks.
pub(crate) const NO_LIMIT: (Timestamp, Timestamp) =
    (Timestamp(1_600_000_000_000), Timestamp(2_000_000_000_000));

/// An authority that makes certificates.
pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

fn params(name: &str, (from, until): (Timestamp, Timestamp)) -> CertificateParams {
    let time = |t: Timestamp| time::OffsetDateTime::from_unix_timestamp(t.unix_seconds()).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (time(from), time(until));
    params
}

fn authority(name: &str, validity: (Timestamp, Timestamp)) -> CertificateParams {
    let mut params = params(name, validity);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl Ca {
    pub(crate) fn new(name: &str, validity: (Timestamp, Timestamp)) -> Self {
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(authority(name, validity), key).unwrap())
    }

    /// An intermediate below this one.
    fn below(&self, name: &str, validity: (Timestamp, Timestamp)) -> Self {
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::signed_by(authority(name, validity), key, &self.0).unwrap())
    }

    fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub(crate) fn caller(&self, uri: &str, validity: (Timestamp, Timestamp)) -> CertificateDer<'static> {
        self.leaf(uri, validity, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn leaf(
        &self,
        uri: &str,
        validity: (Timestamp, Timestamp),
        usage: ExtendedKeyUsagePurpose,
    ) -> CertificateDer<'static> {
        let mut params = params("leaf", validity);
        params.extended_key_usages = vec![usage];
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.signed_by(&KeyPair::generate().unwrap(), &self.0).unwrap().der().clone()
    }
}

pub(crate) fn any() -> Names {
    Names::Any
}

fn domain(name: &str) -> Names {
    Names::Bound { domains: vec![TrustDomain::new(name).unwrap()], callers: Default::default() }
}

pub(crate) fn trust<const N: usize>(authorities: [(&Ca, Names); N]) -> Arc<Trust> {
    let authorities = authorities.map(|(ca, names)| Authority::new(&[ca.der()], names).unwrap());
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
    Arc::new(Trust::new(authorities.into(), algorithms))
}

fn who(trust: &Trust, chain: &[CertificateDer<'_>]) -> Result<String, Unidentified> {
    trust.verify(chain, NOW).map(|verified| verified.caller.id().to_string())
}

#[test]
fn an_authority_names_nobody_outside_its_bounds() {
    let (ours, partner) = (Ca::new("ours", NO_LIMIT), Ca::new("partner", NO_LIMIT));
    let trust = trust([(&ours, domain("example.org")), (&partner, domain("partner.example"))]);
    let operator = "spiffe://example.org/operator";
    assert_eq!(who(&trust, &[ours.caller(operator, NO_LIMIT)]), Ok(operator.into()));
    assert_eq!(who(&trust, &[partner.caller(operator, NO_LIMIT)]), Err(Unidentified::NotItsToName));
    let theirs = "spiffe://partner.example/sync";
    assert_eq!(who(&trust, &[partner.caller(theirs, NO_LIMIT)]), Ok(theirs.into()));
    let stranger = Ca::new("ours", NO_LIMIT);
    assert_eq!(who(&trust, &[stranger.caller(operator, NO_LIMIT)]), Err(Unidentified::Untrusted));
}

#[test]
fn an_authority_in_two_entries_may_name_what_either_allows() {
    let ca = Ca::new("ours", NO_LIMIT);
    let trust = trust([(&ca, domain("a.example")), (&ca, domain("b.example"))]);
    for name in ["spiffe://a.example/x", "spiffe://b.example/x"] {
        assert_eq!(who(&trust, &[ca.caller(name, NO_LIMIT)]), Ok(name.into()));
    }
    assert_eq!(who(&trust, &[ca.caller("spiffe://c.example/x", NO_LIMIT)]), Err(Unidentified::NotItsToName));
}

/// The root counts, not who signed the leaf, and not what else was presented.
#[test]
fn an_intermediate_speaks_for_its_root() {
    let (ours, partner) = (Ca::new("ours", NO_LIMIT), Ca::new("partner", NO_LIMIT));
    let trust = trust([(&ours, domain("example.org")), (&partner, domain("partner.example"))]);
    let below = partner.below("issuing", NO_LIMIT);
    let named = |name| [below.caller(name, NO_LIMIT), below.der(), ours.der()];
    assert_eq!(who(&trust, &named("spiffe://partner.example/a")), Ok("spiffe://partner.example/a".into()));
    assert_eq!(who(&trust, &named("spiffe://example.org/operator")), Err(Unidentified::NotItsToName));
}

#[test]
fn every_certificate_of_the_chain_has_to_be_valid_its_root_included() {
    let past = (NOW.minus(3 * HOUR), NOW.minus(HOUR));
    let future = (NOW.plus(HOUR), NOW.plus(3 * HOUR));
    let name = "spiffe://a/mail";
    for (validity, why) in [(past, Unidentified::Expired), (future, Unidentified::NotYetValid)] {
        let good = Ca::new("root", NO_LIMIT);
        assert_eq!(who(&trust([(&good, any())]), &[good.caller(name, validity)]), Err(why), "leaf");
        let below = good.below("issuing", validity);
        let chain = [below.caller(name, NO_LIMIT), below.der()];
        assert_eq!(who(&trust([(&good, any())]), &chain), Err(why), "intermediate");
        let root = Ca::new("root", validity);
        let refused = who(&trust([(&root, any())]), &[root.caller(name, NO_LIMIT)]);
        assert_eq!(refused, Err(Unidentified::Untrusted), "root");
    }
}

#[test]
fn what_is_proven_ends_with_the_first_certificate_that_ends() {
    let until = |n: u32| (NOW.minus(n * HOUR), NOW.plus(n * HOUR));
    for (root, issuing, leaf) in [(1, 2, 3), (3, 1, 2), (2, 3, 1)] {
        let root = Ca::new("root", until(root));
        let below = root.below("issuing", until(issuing));
        let chain = [below.caller("spiffe://a/mail", until(leaf)), below.der()];
        let Validity { from, until } = trust([(&root, any())]).verify(&chain, NOW).unwrap().validity;
        assert_eq!((from, until.unix_seconds()), (NOW.minus(HOUR), NOW.plus(HOUR).unix_seconds()));
    }
}

#[test]
fn the_last_second_of_a_validity_counts() {
    let ca = Ca::new("root", NO_LIMIT);
    let validity = Validity::of(&ca.caller("spiffe://a/mail", (NOW, NOW.plus(HOUR)))).unwrap();
    for (now, expected) in [
        (Timestamp(NOW.0 - 1), Err(Unidentified::NotYetValid)),
        (NOW, Ok(())),
        (Timestamp(NOW.plus(HOUR).0 + 999), Ok(())),
        (Timestamp(NOW.plus(HOUR).0 + 1000), Err(Unidentified::Expired)),
    ] {
        assert_eq!(validity.check(now), expected, "{now}");
    }
}

#[test]
fn a_certificate_for_servers_is_no_callers() {
    let ca = Ca::new("root", NO_LIMIT);
    let leaf = ca.leaf("spiffe://a/mail", NO_LIMIT, ExtendedKeyUsagePurpose::ServerAuth);
    assert_eq!(who(&trust([(&ca, any())]), &[leaf]), Err(Unidentified::WrongUsage));
}

#[test]
fn a_renewed_root_is_no_second_authority() {
    let (old, other) = (Ca::new("root", NO_LIMIT), Ca::new("root", NO_LIMIT));
    let renewed = authority("root", (NOW, NO_LIMIT.1)).self_signed(old.0.key()).unwrap().der().clone();
    let keys = |roots: &[CertificateDer<'_>]| Authority::new(roots, any()).unwrap().keys();
    assert_eq!(keys(&[old.der(), renewed.clone()]), 1);
    assert_eq!(keys(&[old.der(), renewed, other.der()]), 2, "the same name is not the same authority");
}
