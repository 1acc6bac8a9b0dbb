//! Whether credentials and authorities can be used now: before they come into
//! force, at the start and whenever their files change.

use sha2::{Digest as _, Sha256};
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

use super::proof::Credentials;
use super::spec::ClientAuth;
use crate::clock::Timestamp;

/// Loads a client's credentials for a trial; gives the end of its certificate.
///
/// # Errors
///
/// What is wrong with them; nothing of what they are.
pub fn check_credentials(
    auth: &ClientAuth,
    client_id: &str,
    now: Timestamp,
) -> Result<Option<Timestamp>, String> {
    Credentials::load(auth, client_id)?;
    match auth {
        ClientAuth::SecretPost(secret) | ClientAuth::SecretBasic(secret) => {
            if secret.expose().contains(char::is_control) {
                return Err("its secret has more than one line, or other control characters in it".into());
            }
            Ok(None)
        }
        ClientAuth::PrivateKeyJwt { certificate_pem: None, .. } => Ok(None),
        ClientAuth::PrivateKeyJwt { certificate_pem: Some(pem), .. } => {
            let terms = terms(pem.as_bytes()).ok_or("its certificate cannot be read")?;
            let Some(Term { from, to }) = terms.first() else {
                return Err("its certificate is empty".into());
            };
            if now < *from {
                Err(format!("its certificate is valid from {from} on only: correct the clock or the file"))
            } else if now > *to {
                Err(format!("its certificate has expired at {to}: renew it"))
            } else {
                Ok(Some(*to))
            }
        }
    }
}

/// Checks the authorities that a provider's certificate may come from; gives
/// what there is to say of some of them.
///
/// # Errors
///
/// When no certificate of an authority is there, or none that is valid now.
pub fn check_authorities(pem: &[u8], now: Timestamp) -> Result<Option<String>, String> {
    let terms = terms(pem).filter(|terms| !terms.is_empty());
    let terms = terms.ok_or("holds no certificate in PEM, or one that cannot be read")?;
    let all = terms.len();
    let valid = terms.iter().filter(|Term { from, to }| *from <= now && now <= *to).count();
    match valid {
        0 => Err("holds no certificate that is valid now: all have expired, or none has begun".into()),
        valid if valid < all => {
            Ok(Some(format!("{} of its {all} certificates are not valid now", all - valid)))
        }
        _ => Ok(None),
    }
}

impl ClientAuth {
    /// Tells credentials apart without showing them.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        let (secret, certificate) = match self {
            Self::SecretPost(secret) | Self::SecretBasic(secret) => (secret, None),
            Self::PrivateKeyJwt { key_pem, certificate_pem, .. } => (key_pem, certificate_pem.as_ref()),
        };
        let secret = Sha256::digest(secret.expose());
        let certificate = certificate.map(Sha256::digest).unwrap_or_default();
        Sha256::new().chain_update(secret).chain_update(certificate).finalize().into()
    }
}

/// From when to when a certificate is valid, both included.
struct Term {
    from: Timestamp,
    to: Timestamp,
}

/// The terms of all certificates of a PEM text; `None` where one cannot be read.
fn terms(pem: &[u8]) -> Option<Vec<Term>> {
    let mut terms = Vec::new();
    for block in Pem::iter_from_buffer(pem) {
        let block = block.ok()?;
        if block.label != "CERTIFICATE" && block.label != "TRUSTED CERTIFICATE" {
            continue;
        }
        let certificate: X509Certificate<'_> = block.parse_x509().ok()?;
        let validity = certificate.validity();
        let at = |seconds: i64| Timestamp(seconds.saturating_mul(1000));
        terms
            .push(Term { from: at(validity.not_before.timestamp()), to: at(validity.not_after.timestamp()) });
    }
    Some(terms)
}

#[cfg(test)]
mod tests {
    use super::super::testing::ec_key_pem;
    use super::*;
    use crate::idp::SigningAlg;
    use crate::secret::ClientSecret;

    /// 2026-01-01 to 2026-12-31.
    fn certificate(key: &rcgen::KeyPair) -> String {
        let mut parameters = rcgen::CertificateParams::new(["client.example".into()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2026, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2026, 12, 31);
        parameters.self_signed(key).unwrap().pem()
    }

    fn assertion(key_pem: String, certificate: String) -> ClientAuth {
        ClientAuth::PrivateKeyJwt {
            key_pem: ClientSecret::new(key_pem),
            alg: SigningAlg::Es256,
            key_id: None,
            certificate_pem: Some(certificate),
        }
    }

    const BEFORE: Timestamp = Timestamp(1_767_225_599_000);
    const WITHIN: Timestamp = Timestamp(1_780_000_000_000);
    const AFTER: Timestamp = Timestamp(1_798_675_201_000);

    #[test]
    fn a_certificate_counts_from_its_beginning_to_its_end() {
        let key = rcgen::KeyPair::generate().unwrap();
        let auth = assertion(key.serialize_pem(), certificate(&key));
        let end = check_credentials(&auth, "c", WITHIN).unwrap().unwrap();
        assert!(AFTER > end && AFTER.since(end) < std::time::Duration::from_secs(86_402), "{end}");
        assert!(check_credentials(&auth, "c", BEFORE).unwrap_err().contains("valid from"));
        assert!(
            check_credentials(&auth, "c", end.plus(std::time::Duration::from_secs(1)))
                .unwrap_err()
                .contains("expired")
        );
        let stranger = assertion(ec_key_pem(), certificate(&key));
        assert!(check_credentials(&stranger, "c", WITHIN).unwrap_err().contains("not the private key's"));
    }

    #[test]
    fn authorities_are_certificates_and_valid() {
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = certificate(&key);
        assert_eq!(check_authorities(pem.as_bytes(), WITHIN), Ok(None));
        assert!(check_authorities(pem.as_bytes(), AFTER).is_err());
        for bad in [key.serialize_pem(), "hunter2".into(), String::new(), pem.replace("MI", "@@")] {
            let fault = check_authorities(bad.as_bytes(), WITHIN).unwrap_err();
            assert!(!fault.contains("hunter2"), "{fault}");
        }
        let mut parameters = rcgen::CertificateParams::new(["old.example".into()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let old = parameters.self_signed(&key).unwrap().pem();
        let some = check_authorities((pem + &old).as_bytes(), WITHIN).unwrap().unwrap();
        assert_eq!(some, "1 of its 2 certificates are not valid now");
    }

    #[test]
    fn a_secret_is_one_line() {
        let secret = |text: &str| ClientAuth::SecretPost(ClientSecret::new(text.into()));
        assert_eq!(check_credentials(&secret("8Q~k x"), "c", WITHIN), Ok(None));
        for bad in ["a\nb", "a\tb", "a\0"] {
            let fault = check_credentials(&secret(bad), "c", WITHIN).unwrap_err();
            assert!(!fault.contains(bad), "{fault}");
        }
        assert_ne!(secret("a").fingerprint(), secret("b").fingerprint());
        assert_eq!(secret("a").fingerprint(), secret("a").fingerprint());
    }
}
