//! The development identity provider: a real HTTP server on loopback that
//! behaves as the strictest providers do. It rotates the refresh token on
//! every use and revokes the whole family when it sees an old one again
//! (RFC 9700 section 4.14.2), so whatever loses a token here loses it there.
//!
//! [`DevProvider`] starts it and is the hand on its levers; faults are queued
//! with [`DevProvider::script`] and met by the next token requests, or wait
//! for requests of a kind ([`DevProvider::fault_when`]).
//!
//! In reading order:
//!
//! - `options`: how it is set up;
//! - `fault`, `matching`: what can go wrong on demand, and for which requests;
//! - `token`: the token endpoint: what a request is answered with;
//! - `shared`: what the requests and the levers share;
//! - `refusal`: how it says no;
//! - `families`: refresh tokens, their rotation and the detection of reuse;
//! - `registry`, `client`: the clients, and which of them is asking;
//! - `signer`: signing keys, and the JWTs made and checked with them;
//! - `http`: routes, and how an answer goes out, whole or in pieces;
//! - `line`: a connection that can be cut.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::SharedClock;
use crate::entropy::SharedEntropy;

mod client;
mod families;
mod fault;
mod http;
mod line;
mod matching;
mod options;
mod refusal;
mod registry;
mod shared;
mod signer;
#[cfg(test)]
mod tests;
mod token;

pub use fault::{Fault, Gate};
pub use matching::{Matching, Seen};
pub use options::{AccessTokenForm, DevClientAuth, Options, SigningKeyPem, UserClaims};
pub use shared::Stats;

use shared::Inner;
use signer::Signer;

/// A running development provider. It stops when it is dropped.
pub struct DevProvider {
    inner: Arc<Inner>,
    server: JoinHandle<()>,
    _stop_on_drop: DropGuard,
}

/// Why the provider could not start.
#[derive(Debug)]
pub enum StartError {
    /// No port on loopback could be had.
    Listen(std::io::Error),
    /// A key could not be made, or a client's key could not be read.
    Key(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(_) => f.write_str("no port on loopback could be had"),
            Self::Key(detail) => write!(f, "a key cannot be used: {detail}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen(e) => Some(e),
            Self::Key(_) => None,
        }
    }
}

impl DevProvider {
    /// Starts a provider on a free port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// No port, no signing key, or a client's public key that cannot be read.
    pub async fn start(
        options: Options,
        clock: SharedClock,
        entropy: SharedEntropy,
    ) -> Result<Self, StartError> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(StartError::Listen)?;
        let address = listener.local_addr().map_err(StartError::Listen)?;
        let clients = registry::Registry::new(&options).map_err(StartError::Key)?;
        let base = format!("http://{address}");
        let signer = match &options.signing_key_pem {
            None => Signer::generate(),
            Some(SigningKeyPem(pem)) => Signer::from_pem(pem),
        };
        let inner = Arc::new(Inner {
            issuer: options.issuer.clone().unwrap_or_else(|| base.clone()),
            base,
            clients,
            signer: RwLock::new(signer.map_err(StartError::Key)?),
            stranger: Signer::generate().map_err(StartError::Key)?,
            padding: "x".repeat(options.refresh_token_bytes),
            options,
            clock,
            entropy,
            state: Mutex::default(),
            stop: CancellationToken::new(),
        });
        let server = tokio::spawn(http::serve(listener, Arc::clone(&inner)));
        Ok(Self { _stop_on_drop: inner.stop.clone().drop_guard(), inner, server })
    }

    /// The issuer; unless the options say otherwise also the base of every
    /// address.
    #[must_use]
    pub fn issuer(&self) -> String {
        self.inner.issuer.clone()
    }

    /// The base of every address.
    #[must_use]
    pub fn base(&self) -> String {
        self.inner.base.clone()
    }

    /// Where tokens are asked for.
    #[must_use]
    pub fn token_endpoint(&self) -> String {
        self.inner.token_endpoint()
    }

    /// Where the signing keys are published.
    #[must_use]
    pub fn jwks_uri(&self) -> String {
        format!("{}/jwks", self.inner.base)
    }

    /// Where refresh tokens are revoked (RFC 7009).
    #[must_use]
    pub fn revocation_endpoint(&self) -> String {
        format!("{}/revoke", self.inner.base)
    }

    /// The access token with which `user` calls the API named `audience`: what
    /// a front end hands to the vault for an on-behalf-of exchange.
    #[must_use]
    pub fn user_token(&self, user: &str, audience: &str) -> String {
        self.user_token_with(user, UserClaims { audience: audience.to_owned(), ..UserClaims::default() })
    }

    /// The same with claims of the test's choice: expired, from another
    /// issuer, signed by a stranger and so on.
    #[must_use]
    pub fn user_token_with(&self, user: &str, claims: UserClaims) -> String {
        self.inner.user_token(user, claims)
    }

    /// Queues `fault` for the next `times` token requests, behind those that
    /// are queued already.
    pub fn script(&self, fault: Fault, times: usize) {
        self.inner.state().faults.extend(std::iter::repeat_n(fault, times));
    }

    /// Makes `fault` happen to the next `times` token requests that match, and
    /// to no other; `usize::MAX` is always. Such a fault goes before those that
    /// are queued, and leaves them where they are.
    pub fn fault_when(&self, matching: Matching, fault: Fault, times: usize) {
        self.inner.state().watch.fault(matching, fault, times);
    }

    /// Counts the token requests that match from now on.
    #[must_use]
    pub fn count_when(&self, matching: Matching) -> Seen {
        self.inner.state().watch.count(matching)
    }

    /// Forgets all faults that no request has met.
    pub fn clear_script(&self) {
        let mut state = self.inner.state();
        state.faults.clear();
        state.watch.forget_faults();
    }

    /// Makes the provider ask `user` for a second factor, or no longer.
    pub fn require_mfa(&self, user: &str, required: bool) {
        let mut state = self.inner.state();
        if required {
            state.second_factor.insert(user.to_owned());
        } else {
            state.second_factor.remove(user);
        }
    }

    /// Makes the address of the signing keys answer 503, or no longer.
    pub fn withhold_jwks(&self, withheld: bool) {
        self.inner.state().jwks_withheld = withheld;
    }

    /// Signs with a new key from now on and publishes no other.
    ///
    /// # Errors
    ///
    /// The key could not be made.
    pub fn rotate_signing_key(&self) -> Result<(), StartError> {
        let signer = Signer::generate().map_err(StartError::Key)?;
        *self.inner.signer.write().unwrap_or_else(PoisonError::into_inner) = signer;
        Ok(())
    }

    /// What it has seen so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.state().stats
    }

    /// The form of the newest token request, secrets and all.
    #[must_use]
    pub fn last_token_request(&self) -> BTreeMap<String, String> {
        self.inner.state().last_form.clone()
    }

    /// The fields of the newest request that redeemed a refresh token, without
    /// those that prove something: what was asked for.
    #[must_use]
    pub fn last_refresh(&self) -> BTreeMap<String, String> {
        matching::without_secrets(&self.inner.state().last_refresh)
    }

    /// A new refresh token of `user` for `client_id`, the first of its family.
    #[must_use]
    pub fn mint_refresh_token(&self, client_id: &str, user: &str, scopes: &[&str]) -> String {
        let handle = self.inner.random_text(24);
        let scopes = scopes.iter().map(|&s| s.to_owned()).collect();
        self.inner.state().families.begin(client_id, user, scopes, &handle);
        self.inner.refresh_token(&handle)
    }

    /// Makes a refresh token that a provider with the same options issued
    /// earlier the first of a new family. Returns whether it has the form of one.
    #[must_use]
    pub fn adopt_refresh_token(&self, client_id: &str, user: &str, scopes: &[&str], token: &str) -> bool {
        let Some(handle) = self.inner.handle_of(token) else { return false };
        let scopes = scopes.iter().map(|&s| s.to_owned()).collect();
        self.inner.state().families.begin(client_id, user, scopes, handle);
        true
    }

    /// Revokes every family of `user`, as an administrator would.
    pub fn revoke_user(&self, user: &str) {
        let mut state = self.inner.state();
        let revoked = state.families.revoke_user(user);
        state.stats.families_revoked += revoked;
    }

    /// Whether the newest family of `user` is alive.
    #[must_use]
    pub fn family_alive(&self, user: &str) -> bool {
        self.inner.state().families.newest_of(user, None).is_some_and(|f| f.alive)
    }

    /// The refresh token that the newest family of `user` at `client_id` would
    /// accept now; `None` when that family is revoked or there is none.
    #[must_use]
    pub fn current_refresh_token(&self, user: &str, client_id: &str) -> Option<String> {
        let state = self.inner.state();
        let family = state.families.newest_of(user, Some(client_id)).filter(|f| f.alive)?;
        Some(self.inner.refresh_token(family.current_handle()))
    }

    /// Closes the port and every connection, held requests included.
    pub async fn stop(self) {
        self.inner.stop.cancel();
        // The server task ends on the signal; it has nothing else to report.
        let _ = self.server.await;
    }
}

impl fmt::Debug for DevProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevProvider").field("issuer", &self.inner.issuer).finish_non_exhaustive()
    }
}
