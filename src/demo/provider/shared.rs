//! What the requests and the levers share.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;
use crate::entropy::SharedEntropy;

use super::families::Families;
use super::fault::Fault;
use super::matching::{Form, Watch};
use super::options::{Options, UserClaims};
use super::registry::Registry;
use super::signer::Signer;

/// What the requests share.
pub(super) struct Inner {
    pub(super) options: Options,
    pub(super) clock: SharedClock,
    pub(super) entropy: SharedEntropy,
    pub(super) issuer: String,
    pub(super) base: String,
    pub(super) clients: Registry,
    pub(super) signer: RwLock<Signer>,
    /// Signs what must not be accepted.
    pub(super) stranger: Signer,
    pub(super) padding: String,
    pub(super) state: Mutex<State>,
    pub(super) stop: CancellationToken,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) families: Families,
    pub(super) faults: VecDeque<Fault>,
    pub(super) stats: Stats,
    pub(super) second_factor: HashSet<String>,
    /// The `tid` of users, from the tokens they were exchanged with.
    pub(super) tenants: HashMap<String, String>,
    pub(super) jwks_withheld: bool,
    /// `jti` of client assertions, by client.
    pub(super) seen_assertions: HashSet<(String, String)>,
    pub(super) watch: Watch,
    pub(super) under_way: u64,
    pub(super) last_form: Form,
    /// The newest one that redeems a refresh token.
    pub(super) last_refresh: Form,
}

impl Inner {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sign(&self, claims: &serde_json::Value) -> String {
        self.signer.read().unwrap_or_else(PoisonError::into_inner).sign(claims)
    }

    pub(super) fn token_endpoint(&self) -> String {
        format!("{}/token", self.base)
    }

    /// The refresh token with this handle, filled up to a realistic size.
    pub(super) fn refresh_token(&self, handle: &str) -> String {
        format!("dev-rt.{handle}.{}", self.padding)
    }

    /// The handle of a refresh token; `None` when a single byte is wrong.
    pub(super) fn handle_of<'t>(&self, token: &'t str) -> Option<&'t str> {
        token.strip_prefix("dev-rt.")?.strip_suffix(self.padding.as_str())?.strip_suffix('.')
    }

    /// `bytes` random bytes as text.
    #[expect(clippy::expect_used, reason = "a development server may die with the kernel's randomness")]
    pub(super) fn random_text(&self, bytes: usize) -> String {
        let mut raw = vec![0; bytes];
        self.entropy.fill(&mut raw).expect("the kernel gives random bytes");
        URL_SAFE_NO_PAD.encode(raw)
    }

    pub(super) fn user_token(&self, user: &str, claims: UserClaims) -> String {
        let now = self.clock.now().unix_seconds();
        let tenant = claims.tenant.unwrap_or_else(|| self.options.tenant.clone());
        let mut body = serde_json::json!({
            "iss": claims.issuer.unwrap_or_else(|| self.issuer.clone()),
            "aud": claims.audience,
            "sub": user,
            "oid": user,
            "tid": tenant,
            "iat": now,
            "nbf": now,
            "exp": now + claims.expires_in_seconds,
            "ver": "2.0",
        });
        if let Some(body) = body.as_object_mut() {
            for (name, value) in claims.extra {
                body.insert(name, value);
            }
            for name in &claims.without {
                body.remove(name);
            }
        }
        if claims.signed_by_stranger { self.stranger.sign_as(&self.kid(), &body) } else { self.sign(&body) }
    }

    pub(super) fn kid(&self) -> String {
        self.signer.read().unwrap_or_else(PoisonError::into_inner).kid().to_owned()
    }
}

/// What the provider has seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests to the token endpoint, faulty ones included.
    pub token_requests: u64,
    /// Refresh tokens redeemed with success.
    pub refreshes: u64,
    /// On-behalf-of exchanges with success.
    pub obo_exchanges: u64,
    /// Old refresh tokens that were seen again and not tolerated.
    pub reuse_detected: u64,
    /// Families revoked, by reuse, by request or by hand.
    pub families_revoked: u64,
    /// Revocation requests that named a known refresh token.
    pub revocations: u64,
    /// Token requests whose client could not be authenticated.
    pub clients_refused: u64,
    /// Most token requests that were under way at the same time.
    pub most_at_once: u64,
    /// Requests for the signing keys.
    pub jwks_requests: u64,
    /// Requests that followed a redirect of the token endpoint.
    pub redirects_followed: u64,
}
