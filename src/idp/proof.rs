//! How a client proves itself at the token endpoint: a secret in the body, a
//! secret in the header, or a signed assertion.
//!
//! The assertion (RFC 7523) is the fence of the refresh protocol: it is made
//! for one request and its `exp` lies 5 seconds after the latest time that
//! request may be sent, so that a copy which turns up later is refused by the
//! provider before it looks at the refresh token.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, crypto};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::spec::{ClientAuth, SigningAlg};
use crate::clock::Timestamp;
use crate::secret::ClientSecret;

/// How long an assertion outlives the latest time its request may be sent.
const ASSERTION_SLACK: Duration = Duration::from_secs(5);

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What a proof is made from; it is good for one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The time.
    pub now: Timestamp,
    /// The last moment the request may be sent.
    pub send_by: Timestamp,
    /// The assertion's identifier. The same for two requests of which the
    /// provider is to take one.
    pub jti: String,
}

/// Why a request could not be built. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrepareError {
    /// The client's key did not sign.
    NotSigned,
    /// The claims are not a JSON object.
    ClaimsNotJson,
    /// The endpoint is not a URL.
    EndpointNotUrl,
    /// The kernel gave no random bytes.
    NoEntropy,
}

impl fmt::Display for PrepareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSigned => "the client's key did not sign its assertion",
            Self::ClaimsNotJson => "the claims challenge is not a JSON object",
            Self::EndpointNotUrl => "the provider's endpoint is not a URL",
            Self::NoEntropy => "the kernel gave no random bytes",
        })
    }
}

impl std::error::Error for PrepareError {}

/// A client's credentials, loaded and tried.
pub(super) enum Credentials {
    Post(ClientSecret),
    /// The value of the `authorization` header.
    Basic(Zeroizing<String>),
    Assertion(Box<Signer>),
}

/// What goes into the request.
pub(super) struct Proven {
    pub(super) fields: Vec<(&'static str, Zeroizing<String>)>,
    pub(super) authorization: Option<Zeroizing<String>>,
    pub(super) fenced_at: Option<Timestamp>,
}

impl Credentials {
    /// Loads them. The text of an error holds nothing of the secret.
    pub(super) fn load(auth: &ClientAuth, client_id: &str) -> Result<Self, String> {
        match auth {
            ClientAuth::SecretPost(secret) => {
                given(secret)?;
                // The configuration keeps its own until it is dropped.
                Ok(Self::Post(ClientSecret::new(secret.expose().to_owned())))
            }
            ClientAuth::SecretBasic(secret) => {
                given(secret)?;
                // RFC 6749 section 2.3.1: both are form-encoded first.
                let most = 3 * (client_id.len() + secret.expose().len()) + 1;
                let mut pair = Zeroizing::new(String::with_capacity(most));
                form_encode(client_id, &mut pair);
                pair.push(':');
                form_encode(secret.expose(), &mut pair);
                let coded = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
                Ok(Self::Basic(Zeroizing::new(format!("Basic {}", *coded))))
            }
            ClientAuth::PrivateKeyJwt { key_pem, alg, key_id, certificate_pem } => {
                Signer::load(key_pem, *alg, key_id.clone(), certificate_pem.as_deref())
                    .map(|signer| Self::Assertion(Box::new(signer)))
            }
        }
    }

    pub(super) fn fences(&self) -> bool {
        matches!(self, Self::Assertion(_))
    }

    /// When the provider stops accepting what is sent until `send_by`.
    pub(super) fn fenced_at(&self, send_by: Timestamp, tolerance: Duration) -> Option<Timestamp> {
        self.fences().then(|| Timestamp(expiry(send_by).saturating_mul(1000)).plus(tolerance))
    }

    /// Proves the client to `audience`, the token endpoint.
    pub(super) fn prove(
        &self,
        client_id: &str,
        audience: &str,
        proof: Proof,
        tolerance: Duration,
    ) -> Result<Proven, PrepareError> {
        match self {
            Self::Post(secret) => Ok(Proven {
                fields: vec![("client_secret", Zeroizing::new(secret.expose().to_owned()))],
                authorization: None,
                fenced_at: None,
            }),
            Self::Basic(header) => {
                Ok(Proven { fields: Vec::new(), authorization: Some(header.clone()), fenced_at: None })
            }
            Self::Assertion(signer) => {
                let exp = expiry(proof.send_by);
                let claims = AssertionClaims {
                    aud: audience,
                    iss: client_id,
                    sub: client_id,
                    exp,
                    iat: proof.now.unix_seconds(),
                    jti: proof.jti,
                };
                let assertion = signer.sign(&claims).ok_or(PrepareError::NotSigned)?;
                Ok(Proven {
                    fields: vec![
                        ("client_assertion", assertion),
                        ("client_assertion_type", Zeroizing::new(ASSERTION_TYPE.to_owned())),
                    ],
                    authorization: None,
                    fenced_at: self.fenced_at(proof.send_by, tolerance),
                })
            }
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Post(_) => "Post(redacted)",
            Self::Basic(_) => "Basic(redacted)",
            Self::Assertion(_) => "Assertion(redacted)",
        })
    }
}

/// The `exp` of an assertion whose request may be sent until `send_by`.
fn expiry(send_by: Timestamp) -> i64 {
    send_by.plus(ASSERTION_SLACK).unix_seconds()
}

/// Appends a value in the form of application/x-www-form-urlencoded: a plus for
/// a space, and as it is only what RFC 3986 section 2.3 leaves unreserved.
/// Browsers encode `~` and leave `*`; secrets of Entra have a `~`, and servers
/// that decode too little take it only as it is.
pub(super) fn form_encode(value: &str, into: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value.bytes() {
        match byte {
            b' ' => into.push('+'),
            b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                into.push(char::from(byte));
            }
            _ => {
                let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                into.extend(['%', char::from(digits[0]), char::from(digits[1])]);
            }
        }
    }
}

fn given(secret: &ClientSecret) -> Result<(), String> {
    if secret.expose().is_empty() { Err("its secret is empty".into()) } else { Ok(()) }
}

#[derive(Serialize)]
struct AssertionClaims<'a> {
    aud: &'a str,
    iss: &'a str,
    sub: &'a str,
    exp: i64,
    iat: i64,
    jti: String,
}

/// A private key with the header its assertions have.
pub(super) struct Signer {
    key: EncodingKey,
    header: Header,
}

impl Signer {
    fn load(
        key_pem: &ClientSecret,
        alg: SigningAlg,
        key_id: Option<String>,
        certificate_pem: Option<&str>,
    ) -> Result<Self, String> {
        let pem = key_pem.expose().as_bytes();
        let (algorithm, key) = match alg {
            SigningAlg::Ps256 => (Algorithm::PS256, EncodingKey::from_rsa_pem(pem)),
            SigningAlg::Rs256 => (Algorithm::RS256, EncodingKey::from_rsa_pem(pem)),
            SigningAlg::Es256 => (Algorithm::ES256, EncodingKey::from_ec_pem(pem)),
        };
        let unfit = || format!("its private key is not one for {algorithm:?} in PEM (EC: PKCS#8)");
        let key = key.map_err(|_| unfit())?;
        let mut header = Header::new(algorithm);
        header.kid = key_id;
        // A key that does not sign is better found now than at the first use.
        let signature = crypto::sign(b"trial", &key, algorithm).map_err(|_| unfit())?;
        if let Some(pem) = certificate_pem {
            let chain = chain(pem).ok_or("its certificate cannot be read")?;
            let leaf = chain.first().ok_or("its certificate is empty")?;
            let public = public_key(leaf, algorithm).ok_or("its certificate cannot be read")?;
            if !crypto::verify(&signature, b"trial", &public, algorithm).unwrap_or(false) {
                return Err("its certificate is not the private key's".into());
            }
            header.x5t_s256 = Some(URL_SAFE_NO_PAD.encode(Sha256::digest(leaf)));
            header.x5c = Some(chain.iter().map(|der| STANDARD.encode(der)).collect());
        }
        Ok(Self { key, header })
    }

    fn sign(&self, claims: &AssertionClaims<'_>) -> Option<Zeroizing<String>> {
        jsonwebtoken::encode(&self.header, claims, &self.key).ok().map(Zeroizing::new)
    }
}

/// The certificates (DER) in a PEM text.
fn chain(pem: &str) -> Option<Vec<Vec<u8>>> {
    x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes())
        .map(|block| block.ok().filter(|b| b.label == "CERTIFICATE").map(|b| b.contents))
        .collect()
}

fn public_key(certificate: &[u8], algorithm: Algorithm) -> Option<DecodingKey> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let bits = &certificate.public_key().subject_public_key.data;
    Some(match algorithm {
        Algorithm::ES256 => DecodingKey::from_ec_der(bits),
        _ => DecodingKey::from_rsa_der(bits),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::testing::{RsaKey, ec_key_pem};
    use super::*;

    const PROOF: fn() -> Proof = || Proof {
        now: Timestamp(1_700_000_000_000),
        send_by: Timestamp(1_700_000_030_000),
        jti: "jti-1".into(),
    };
    const TOLERANCE: Duration = Duration::from_secs(60);

    fn load(
        key_pem: String,
        alg: SigningAlg,
        certificate_pem: Option<String>,
    ) -> Result<Credentials, String> {
        let key_pem = ClientSecret::new(key_pem);
        let auth = ClientAuth::PrivateKeyJwt { key_pem, alg, key_id: Some("k1".into()), certificate_pem };
        Credentials::load(&auth, "client 1")
    }

    fn assertion_of(proven: &Proven) -> (Value, Value) {
        let (name, assertion) = &proven.fields[0];
        assert_eq!(*name, "client_assertion");
        let part = |n| URL_SAFE_NO_PAD.decode(assertion.split('.').nth(n).unwrap()).unwrap();
        (serde_json::from_slice(&part(0)).unwrap(), serde_json::from_slice(&part(1)).unwrap())
    }

    #[test]
    fn an_assertion_is_for_one_request_at_one_endpoint() {
        let rsa = RsaKey::generate();
        for (pem, alg, name) in [
            (rsa.private_pem(), SigningAlg::Ps256, "PS256"),
            (rsa.private_pem(), SigningAlg::Rs256, "RS256"),
            (ec_key_pem(), SigningAlg::Es256, "ES256"),
        ] {
            let credentials = load(pem, alg, None).unwrap();
            let proven =
                credentials.prove("client 1", "https://p.example/token", PROOF(), TOLERANCE).unwrap();
            let (header, claims) = assertion_of(&proven);
            assert_eq!(
                (&header["alg"], &header["typ"], &header["kid"]),
                (&name.into(), &"JWT".into(), &"k1".into())
            );
            assert_eq!(claims["aud"], "https://p.example/token");
            assert_eq!((&claims["iss"], &claims["sub"]), (&"client 1".into(), &"client 1".into()));
            assert_eq!((&claims["iat"], &claims["exp"]), (&1_700_000_000.into(), &1_700_000_035.into()));
            assert_eq!(claims["jti"], "jti-1");
            assert_eq!(*proven.fields[1].1, ASSERTION_TYPE);
            assert_eq!(proven.fenced_at, Some(Timestamp(1_700_000_095_000)), "exp and the tolerance");
        }
    }

    #[test]
    fn an_assertion_verifies_under_its_public_key() {
        let rsa = RsaKey::generate();
        let credentials = load(rsa.private_pem(), SigningAlg::Ps256, None).unwrap();
        let proven = credentials.prove("c", "https://p.example/token", PROOF(), TOLERANCE).unwrap();
        let (message, signature) = proven.fields[0].1.rsplit_once('.').unwrap();
        let public = DecodingKey::from_jwk(&rsa.jwk()).unwrap();
        assert!(crypto::verify(signature, message.as_bytes(), &public, Algorithm::PS256).unwrap());
    }

    #[test]
    fn only_an_assertion_fences() {
        let secret = || ClientSecret::new("hunter2".into());
        for auth in [ClientAuth::SecretPost(secret()), ClientAuth::SecretBasic(secret())] {
            let credentials = Credentials::load(&auth, "c").unwrap();
            let proven = credentials.prove("c", "https://p.example/token", PROOF(), TOLERANCE).unwrap();
            assert_eq!(proven.fenced_at, None);
            assert!(!format!("{credentials:?}").contains("hunter2"));
        }
    }

    #[test]
    fn both_parts_of_a_basic_header_are_form_encoded() {
        let auth = ClientAuth::SecretBasic(ClientSecret::new("p:ss wörd+/".into()));
        let Ok(Credentials::Basic(header)) = Credentials::load(&auth, "client:1") else {
            panic!("not basic")
        };
        let coded = header.strip_prefix("Basic ").unwrap();
        let pair = String::from_utf8(STANDARD.decode(coded).unwrap()).unwrap();
        assert_eq!(pair, "client%3A1:p%3Ass+w%C3%B6rd%2B%2F");
    }

    #[test]
    fn a_key_that_cannot_sign_is_found_at_the_start() {
        let rsa = RsaKey::generate().private_pem();
        for (pem, alg) in [
            ("nonsense".to_owned(), SigningAlg::Ps256),
            (ec_key_pem(), SigningAlg::Rs256),
            (rsa.clone(), SigningAlg::Es256),
            (rsa.lines().take(5).collect::<Vec<_>>().join("\n"), SigningAlg::Ps256),
        ] {
            let fault = load(pem, alg, None).map(|_| ()).unwrap_err();
            assert!(fault.contains("private key is not one for"), "{fault}");
            assert!(!fault.contains(rsa.lines().nth(1).unwrap()));
        }
        let empty = ClientAuth::SecretPost(ClientSecret::new(String::new()));
        assert!(Credentials::load(&empty, "c").is_err());
    }

    #[cfg(feature = "demo")]
    #[test]
    fn a_certificate_is_sent_along_and_must_be_the_keys() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(["client.example".into()]).unwrap().self_signed(&key).unwrap();
        let credentials = load(key.serialize_pem(), SigningAlg::Es256, Some(certificate.pem())).unwrap();
        let proven = credentials.prove("c", "https://p.example/token", PROOF(), TOLERANCE).unwrap();
        let (header, _) = assertion_of(&proven);
        assert_eq!(header["x5t#S256"], URL_SAFE_NO_PAD.encode(Sha256::digest(certificate.der())));
        assert_eq!(header["x5c"][0], STANDARD.encode(certificate.der()));

        let stranger = load(ec_key_pem(), SigningAlg::Es256, Some(certificate.pem())).map(|_| ());
        assert_eq!(stranger, Err("its certificate is not the private key's".into()));
        assert!(load(key.serialize_pem(), SigningAlg::Es256, Some("nonsense".into())).is_err());
    }
}
