//! Signing keys (ES256), and the JWTs made and checked with them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A signing key with its public half.
pub(super) struct Signer {
    kid: String,
    private: EncodingKey,
    public: DecodingKey,
    x: String,
    y: String,
}

impl Signer {
    /// A new P-256 key.
    pub(super) fn generate() -> Result<Self, String> {
        Self::of(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| e.to_string())?)
    }

    /// The P-256 key of this PEM.
    pub(super) fn from_pem(pem: &str) -> Result<Self, String> {
        Self::of(&KeyPair::from_pem(pem).map_err(|e| e.to_string())?)
    }

    fn of(pair: &KeyPair) -> Result<Self, String> {
        // An uncompressed point (SEC 1 section 2.3.3): 4, then both coordinates.
        let point = pair.der_bytes();
        let (Some(x), Some(y)) = (point.get(1..33), point.get(33..65)) else {
            return Err("a P-256 public key has an unexpected form".to_owned());
        };
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let kid = URL_SAFE_NO_PAD.encode(&Sha256::digest(point)[..12]);
        let private = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).map_err(|e| e.to_string())?;
        let public = DecodingKey::from_ec_components(&x, &y).map_err(|e| e.to_string())?;
        Ok(Self { kid, private, public, x, y })
    }

    pub(super) fn kid(&self) -> &str {
        &self.kid
    }

    /// A JWT with these claims.
    pub(super) fn sign(&self, claims: &Value) -> String {
        self.sign_as(&self.kid, claims)
    }

    /// A JWT that names the key `kid`, whichever key signs it.
    #[expect(clippy::expect_used, reason = "signing JSON with a key made above cannot fail")]
    pub(super) fn sign_as(&self, kid: &str, claims: &Value) -> String {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.private).expect("a JSON object is signed")
    }

    /// The claims of a JWT that this key signed. Times are the caller's to
    /// check: the provider's clock may be moved by hand.
    pub(super) fn verify(&self, token: &str) -> Option<Value> {
        verify(token, &self.public, Algorithm::ES256)
    }

    /// The public half as a key set (RFC 7517).
    pub(super) fn jwks(&self) -> Value {
        json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256",
            "kid": self.kid, "x": self.x, "y": self.y,
        }] })
    }
}

/// The claims of a JWT whose signature this key explains; nothing else of it
/// is checked.
pub(super) fn verify(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Option<Value> {
    let mut signature_only = Validation::new(algorithm);
    signature_only.validate_exp = false;
    signature_only.validate_aud = false;
    signature_only.required_spec_claims.clear();
    jsonwebtoken::decode::<Value>(token, key, &signature_only).ok().map(|data| data.claims)
}
