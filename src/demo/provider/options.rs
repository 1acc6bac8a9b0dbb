//! How a development provider is set up, and the claims of its users' tokens.

use std::fmt;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use crate::domain::profile::Reuse;

/// Set-up of a development provider.
#[derive(Debug, Clone)]
pub struct Options {
    /// The issuer, where it is not the provider's own address.
    pub issuer: Option<String>,
    /// The private key it signs with at first (PEM), where it is not a new one.
    pub signing_key_pem: Option<SigningKeyPem>,
    /// The clients it knows, by `client_id`.
    pub clients: Vec<(String, DevClientAuth)>,
    /// The `tid` of its users.
    pub tenant: String,
    /// The audience an on-behalf-of assertion must have: the vault's API.
    pub api_audience: String,
    /// How long its access tokens live.
    pub access_token_lifetime: Duration,
    /// What its access tokens look like.
    pub access_token: AccessTokenForm,
    /// How many bytes of padding a refresh token carries; real ones are long.
    pub refresh_token_bytes: usize,
    /// What it does with an old refresh token.
    pub reuse: Reuse,
    /// Scopes that every user has agreed to. An answer names those of its
    /// resource beside what was asked for, as Entra's do.
    pub consented: Vec<String>,
    /// Whether one refresh token gives access tokens for any resource.
    pub multi_resource: bool,
    /// How long past its `exp` a `client_assertion` is accepted.
    pub assertion_tolerance: Duration,
    /// Whether a `client_assertion` is accepted only once by its `jti`.
    pub client_jti_check: bool,
}

/// A strict provider with one client, `vault`, whose secret is
/// `development-secret`.
impl Default for Options {
    fn default() -> Self {
        Self {
            issuer: None,
            signing_key_pem: None,
            clients: vec![("vault".to_owned(), DevClientAuth::Secret("development-secret".to_owned()))],
            tenant: "contoso".to_owned(),
            api_audience: "api://vault".to_owned(),
            access_token_lifetime: Duration::from_secs(3600),
            access_token: AccessTokenForm::Jwt,
            refresh_token_bytes: 1024,
            reuse: Reuse::Strict,
            consented: Vec::new(),
            multi_resource: true,
            assertion_tolerance: Duration::from_secs(15),
            client_jti_check: true,
        }
    }
}

/// A private signing key of a development provider, PEM.
#[derive(Clone)]
pub struct SigningKeyPem(pub String);

impl fmt::Debug for SigningKeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKeyPem(redacted)")
    }
}

/// How a client proves who it is.
#[derive(Clone)]
pub enum DevClientAuth {
    /// `client_secret_post` or `client_secret_basic` with this secret.
    Secret(String),
    /// `private_key_jwt`, checked with this public key (PEM).
    PublicKeyPem(String, Algorithm),
}

impl fmt::Debug for DevClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(_) => f.write_str("Secret(redacted)"),
            Self::PublicKeyPem(_, algorithm) => write!(f, "PublicKeyPem({algorithm:?})"),
        }
    }
}

/// What access tokens look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessTokenForm {
    /// A signed JWT.
    Jwt,
    /// A random string of about this many bytes; cheap, for load.
    Opaque {
        /// Its length.
        bytes: usize,
    },
}

/// The claims of a user's token that a test may choose.
#[derive(Debug, Clone)]
pub struct UserClaims {
    /// `aud`.
    pub audience: String,
    /// Seconds from now to `exp`; negative: expired that long ago.
    pub expires_in_seconds: i64,
    /// `tid`; `None`: the provider's.
    pub tenant: Option<String>,
    /// `iss`; `None`: the provider.
    pub issuer: Option<String>,
    /// Signed with a key that the provider does not publish, under the name of
    /// one it does.
    pub signed_by_stranger: bool,
    /// Further claims, or other values for those there are.
    pub extra: Map<String, Value>,
    /// Claims left out.
    pub without: Vec<String>,
}

/// A token for `api://vault` that lives an hour.
impl Default for UserClaims {
    fn default() -> Self {
        Self {
            audience: "api://vault".to_owned(),
            expires_in_seconds: 3600,
            tenant: None,
            issuer: None,
            signed_by_stranger: false,
            extra: Map::new(),
            without: Vec::new(),
        }
    }
}
