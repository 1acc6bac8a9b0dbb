//! Everything that talks to an identity provider: its token endpoint, its
//! revocation endpoint and its published keys.
//!
//! Redeeming a refresh token cannot be undone, so the work is cut where it can
//! be controlled: [`Client::prepare`] builds the whole request without I/O,
//! [`Client::send`] makes one POST and says honestly what became of it, and
//! [`Client::classify`] reads the answer once it is durable. None of them
//! retries; that is for the caller's protocol to decide.
//!
//! In reading order:
//!
//! - `spec`: what the configuration says, and the checks on it;
//! - `wire`: the request: its fields, their order, the claims;
//! - `proof`: how a client proves itself;
//! - `send`: one POST and no more; `presend`: the deadline check before its first byte;
//! - `body`, `coding`, `form`: what of an answer arrived, and what it reads as;
//! - `fields`: the fields of a JSON object, as far as it is one;
//! - `answer`: the raw answer, and reading tokens out of it;
//! - `classify`: what an answer proves;
//! - `keys`: the provider's published keys; `jwks`: a set of them as it comes;
//!   `places`, `bounds`: what strangers can make of them; `provider`: what its
//!   clients share;
//! - `validity`: credentials and authorities before they come into force;
//! - `token`: a user's token taken apart, and of what kind it is;
//! - `assertion`: whose token is this.

mod answer;
mod assertion;
mod body;
mod bounds;
mod classify;
mod coding;
#[cfg(test)]
mod entra;
mod fields;
mod form;
mod jwks;
mod keys;
mod places;
mod presend;
mod proof;
mod provider;
mod send;
mod spec;
#[cfg(test)]
mod testing;
mod token;
mod validity;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::clock::{SharedClock, Timestamp};
use crate::domain::id::{CallerId, ClientId, Issuer, TenantId};
use crate::domain::profile::Profile;
use crate::entropy::{self, SharedEntropy};
use crate::secret::{RefreshToken, UnverifiedAssertion};

pub use answer::{MOST_ANSWER_BYTES, RawAnswer, TokenAnswer};
pub use assertion::{AssertionError, IdentityError, VerifiedUser};
pub use classify::{Refusal, RefusalKind, Verdict, classify};
pub use keys::KeysFault;
pub use proof::{PrepareError, Proof};
pub use send::SendOutcome;
pub use spec::{
    Budget, ClientAuth, ClientSpec, IdpConfigError, ProviderSpec, SigningAlg, TenantRule, check_endpoint,
    check_issuer,
};
pub use validity::{check_authorities, check_credentials};
pub use wire::{Exchange, Prepared};

use keys::PublishedKeys;
use proof::Credentials;
use provider::Provider;
use send::Http;

/// How long a revocation may take; it is a courtesy and never blocks a purge.
const REVOCATION_LIMIT: Duration = Duration::from_secs(5);

/// The configured OAuth clients at their providers.
#[derive(Debug)]
pub struct Idp {
    clients: BTreeMap<ClientId, Arc<Client>>,
}

impl Idp {
    /// Checks the whole configuration and loads all credentials.
    ///
    /// # Errors
    ///
    /// Every fault there is, not only the first.
    pub fn new<'a>(
        providers: impl IntoIterator<Item = &'a ProviderSpec>,
        clients: impl IntoIterator<Item = &'a ClientSpec>,
        clock: &SharedClock,
        entropy: &SharedEntropy,
    ) -> Result<Self, IdpConfigError> {
        let providers: Vec<_> = providers.into_iter().collect();
        let clients: Vec<_> = clients.into_iter().collect();
        let mut faults = spec::faults(&providers, &clients);
        let mut by_name = BTreeMap::new();
        for spec in providers {
            match (Http::new(spec.ca_file_pem.as_deref(), spec.uses_tls()), Issuer::new(&spec.issuer)) {
                (Err(fault), _) => faults.push(format!("provider {:?}: {fault}", spec.name)),
                // `spec::faults` has named it.
                (Ok(_), Err(_)) => {}
                (Ok(http), Ok(issuer)) => {
                    let keys = PublishedKeys::new(&spec.name, clock.clone());
                    let provider = Provider { spec: spec.clone(), issuer, http, keys };
                    by_name.insert(spec.name.as_str(), Arc::new(provider));
                }
            }
        }
        let mut by_id = BTreeMap::new();
        for ClientSpec { id, provider, client_id, auth, declares_cp1 } in clients {
            match (Credentials::load(auth, client_id), by_name.get(provider.as_str())) {
                (Err(fault), _) => faults.push(format!("client {:?}: {fault}", id.as_str())),
                // `spec::faults` has named a provider that is not there.
                (Ok(_), None) => {}
                (Ok(credentials), Some(provider)) => {
                    let client = Client {
                        id: id.clone(),
                        client_id: client_id.clone(),
                        credentials: RwLock::new(Arc::new(credentials)),
                        declares_cp1: *declares_cp1,
                        provider: Arc::clone(provider),
                        clock: clock.clone(),
                        entropy: entropy.clone(),
                    };
                    by_id.insert(id.clone(), Arc::new(client));
                }
            }
        }
        if faults.is_empty() { Ok(Self { clients: by_id }) } else { Err(IdpConfigError(faults)) }
    }

    /// The client of that name.
    #[must_use]
    pub fn client(&self, id: &ClientId) -> Option<&Arc<Client>> {
        self.clients.get(id)
    }

    /// Takes other authorities of a provider into force, for connections from
    /// now on.
    ///
    /// # Errors
    ///
    /// When they cannot be used, or no client has such a provider; the old ones
    /// stay.
    pub fn renew_authorities(&self, provider: &str, pem: &[u8], now: Timestamp) -> Result<(), String> {
        check_authorities(pem, now)?;
        let provider = self.clients.values().find(|client| client.provider_name() == provider);
        let provider = &provider.ok_or("belongs to a provider without clients")?.provider;
        provider.http.renew(Some(pem), provider.spec.uses_tls())
    }

    /// All clients, by name.
    pub fn clients(&self) -> impl Iterator<Item = &Arc<Client>> {
        self.clients.values()
    }
}

/// A configured OAuth client at its provider.
pub struct Client {
    id: ClientId,
    client_id: String,
    /// Exchanged as a whole when their files change.
    credentials: RwLock<Arc<Credentials>>,
    declares_cp1: bool,
    provider: Arc<Provider>,
    clock: SharedClock,
    entropy: SharedEntropy,
}

impl Client {
    /// Its name in the configuration.
    #[must_use]
    pub fn id(&self) -> &ClientId {
        &self.id
    }

    /// Takes other credentials of the same kind into force, for requests that are
    /// built from now on.
    ///
    /// # Errors
    ///
    /// When they cannot be used; the old ones stay.
    pub fn renew_credentials(&self, auth: &ClientAuth, now: Timestamp) -> Result<(), String> {
        check_credentials(auth, &self.client_id, now)?;
        let credentials = Arc::new(Credentials::load(auth, &self.client_id)?);
        *self.credentials.write().unwrap_or_else(PoisonError::into_inner) = credentials;
        Ok(())
    }

    fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.credentials.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How its provider behaves.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.provider.spec.profile
    }

    /// Its provider's name in the configuration.
    #[must_use]
    pub fn provider_name(&self) -> &str {
        &self.provider.spec.name
    }

    /// What its provider can be asked for by the rotation job.
    #[must_use]
    pub fn budget(&self) -> Budget {
        self.provider.spec.budget
    }

    /// Who issues the tenant's tokens.
    #[must_use]
    pub fn issuer(&self, tenant: &TenantId) -> Issuer {
        self.provider.issuer(tenant)
    }

    /// When the provider stops accepting a request that may be sent until
    /// `send_by`, tolerance included. `None`: never.
    #[must_use]
    pub fn fenced_at(&self, send_by: Timestamp) -> Option<Timestamp> {
        self.credentials().fenced_at(send_by, self.profile().assertion_tolerance)
    }

    /// Builds the whole request. No I/O.
    ///
    /// # Errors
    ///
    /// When the client's key does not sign, the claims are not JSON, or the
    /// kernel gives no random bytes. Nothing is sent in any of these cases.
    pub fn prepare(
        &self,
        tenant: &TenantId,
        exchange: Exchange<'_>,
        proof: Proof,
    ) -> Result<Prepared, PrepareError> {
        let endpoint = self.provider.spec.token_endpoint(tenant);
        let proven = self.credentials().prove(
            &self.client_id,
            &endpoint,
            proof,
            self.profile().assertion_tolerance,
        )?;
        let request_id = entropy::uuid(self.entropy.as_ref()).map_err(|_| PrepareError::NoEntropy)?;
        let habits = wire::Habits {
            declares_cp1: self.declares_cp1,
            protocol_scopes_in_refresh: self.profile().protocol_scopes_in_refresh,
        };
        wire::token_request(&endpoint, &self.client_id, habits, exchange, proven, request_id)
    }

    /// Makes one POST: no retry, no redirect, no proxy, and not more than
    /// `limit` for all of it. `still_in_time` is asked when the connection
    /// stands and no byte of the request is written; if it says no, none is.
    ///
    /// Run this in a task of its own: when the future is dropped the answer is
    /// lost.
    pub async fn send(
        &self,
        prepared: Prepared,
        still_in_time: impl FnOnce() -> bool + Send,
        limit: Duration,
    ) -> SendOutcome {
        self.provider.http.post(prepared, still_in_time, limit, self.clock.as_ref()).await
    }

    /// What an answer proves at this client's provider. Pure.
    #[must_use]
    pub fn classify(&self, answer: &RawAnswer) -> Verdict {
        classify(self.profile(), answer)
    }

    /// The tenant that a user's token claims, unverified: what to ask the policy
    /// about before anything is fetched for it.
    ///
    /// # Errors
    ///
    /// When it is no signed JWT, or claims no tenant that can be used.
    pub fn claimed_tenant(&self, assertion: &UnverifiedAssertion) -> Result<TenantId, AssertionError> {
        assertion::claimed_tenant(&self.provider, assertion)
    }

    /// Checks a user's access token that `caller` handed in, and says whose it is.
    /// What it makes the vault fetch in vain counts against the caller.
    ///
    /// # Errors
    ///
    /// When it is not a user's access token, not from the provider, not meant
    /// for the vault, not valid now, or there are no keys to check it with.
    pub async fn verify_assertion(
        &self,
        caller: &CallerId,
        assertion: &UnverifiedAssertion,
    ) -> Result<VerifiedUser, AssertionError> {
        assertion::verify(&self.provider, &self.client_id, caller, assertion, self.clock.now()).await
    }

    /// Says whose tokens an answer holds, by its ID token, or else by its
    /// access token where that is one the vault can check.
    ///
    /// # Errors
    ///
    /// When neither proves a user of `expected_tenant`.
    pub async fn identify(
        &self,
        answer: &TokenAnswer,
        expected_tenant: &TenantId,
    ) -> Result<VerifiedUser, IdentityError> {
        assertion::identify(&self.provider, &self.client_id, answer, expected_tenant, self.clock.now()).await
    }

    /// Whether the provider has a revocation endpoint.
    #[must_use]
    pub fn can_revoke(&self) -> bool {
        self.provider.spec.revocation_endpoint.is_some()
    }

    /// Asks the provider to revoke a refresh token (RFC 7009), once and for
    /// 5 seconds at most. True when the provider said yes; what else it said is
    /// logged.
    pub async fn revoke(&self, tenant: &TenantId, token: &RefreshToken) -> bool {
        let Some(endpoint) = self.provider.spec.revocation_endpoint(tenant) else { return false };
        let Err(why) = self.try_revoke(&endpoint, tenant, token).await else { return true };
        tracing::warn!(
            tenant.id = %tenant, client.id = %self.id, provider = self.provider_name(), detail = why,
            "the provider has not confirmed a revocation"
        );
        false
    }

    async fn try_revoke(
        &self,
        endpoint: &str,
        tenant: &TenantId,
        token: &RefreshToken,
    ) -> Result<(), String> {
        let request_id = entropy::uuid(self.entropy.as_ref()).map_err(|error| error.to_string())?;
        let now = self.clock.now();
        let proof = Proof { now, send_by: now.plus(REVOCATION_LIMIT), jti: request_id.to_string() };
        // RFC 7523 section 3 wants the token endpoint as the audience, here too.
        let audience = self.provider.spec.token_endpoint(tenant);
        let prepared = self
            .credentials()
            .prove(&self.client_id, &audience, proof, self.profile().assertion_tolerance)
            .and_then(|proven| wire::revocation_request(endpoint, &self.client_id, token, proven, request_id))
            .map_err(|error| error.to_string())?;
        match self.send(prepared, || true, REVOCATION_LIMIT).await {
            SendOutcome::Answered(answer) if (200..300).contains(&answer.status()) => Ok(()),
            SendOutcome::Answered(answer) => {
                Err(classify::error_detail(answer.status(), answer.text().as_bytes()))
            }
            SendOutcome::NotSent { detail, .. } | SendOutcome::Interrupted { detail } => Err(detail),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("id", &self.id)
            .field("provider", &self.provider.spec.name)
            .field("credentials", &self.credentials())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{client, post_client, provider, ready, tenant};
    use super::*;
    use crate::clock::SystemClock;
    use crate::entropy::OsEntropy;
    use crate::secret::ClientSecret;

    fn new(providers: &[ProviderSpec], clients: &[ClientSpec]) -> Result<Idp, IdpConfigError> {
        Idp::new(providers, clients, &SystemClock::shared(), &OsEntropy::shared())
    }

    #[test]
    fn faults_of_addresses_certificates_and_keys_are_named_together() {
        let mut spec = provider("http://login.example");
        spec.ca_file_pem = Some(b"hunter2".to_vec());
        let empty = client(ClientAuth::SecretPost(ClientSecret::new(String::new())));
        let key_pem = ClientSecret::new("hunter2".into());
        let alg = SigningAlg::Ps256;
        let auth = ClientAuth::PrivateKeyJwt { key_pem, alg, key_id: None, certificate_pem: None };
        let other = ClientSpec { id: ClientId::new("other").unwrap(), ..client(auth) };
        let error = new(&[spec], &[empty, other]).unwrap_err();
        let text = error.to_string();
        for part in [
            "provider \"p\": issuer must be https",
            "provider \"p\": token_endpoint must be https",
            "provider \"p\": revocation_endpoint must be https",
            "provider \"p\": jwks_uri must be https",
            "provider \"p\": its CA file holds no certificate",
            "client \"mail\": its secret is empty",
            "client \"other\": its private key is not one for PS256",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(error.0.len(), 7, "{text}");
        assert!(!text.contains("hunter2"));
    }

    #[test]
    fn clients_are_found_by_name() {
        let second = ClientSpec { id: ClientId::new("files").unwrap(), ..post_client() };
        let idp = new(&[provider("https://login.example")], &[post_client(), second]).unwrap();
        assert_eq!(idp.clients().map(|c| c.id().as_str()).collect::<Vec<_>>(), ["files", "mail"]);
        let mail = idp.client(&ClientId::new("mail").unwrap()).unwrap();
        assert_eq!(mail.provider_name(), "p");
        assert_eq!(mail.issuer(&tenant()).as_str(), "https://login.example/t1/v2.0");
        assert!(idp.client(&ClientId::new("mai").unwrap()).is_none());
        assert!(!format!("{idp:?}").contains("s3cr"));
    }

    #[test]
    fn credentials_are_renewed_or_the_old_ones_stay() {
        let client = ready(provider("https://login.example"), post_client(), SystemClock::shared());
        let sent = || {
            let token = RefreshToken::new("r".into());
            let target = crate::domain::scope::Target::default();
            let proof = Proof { now: Timestamp(0), send_by: Timestamp(0), jti: "j".into() };
            let exchange = Exchange::Refresh { token: &token, target: &target };
            client.prepare(&tenant(), exchange, proof).unwrap().body.to_string()
        };
        assert!(sent().contains("s3cr"));
        let secret = |text: &str| ClientAuth::SecretPost(ClientSecret::new(text.into()));
        for bad in ["", "two\nlines"] {
            client.renew_credentials(&secret(bad), Timestamp(0)).unwrap_err();
            assert!(sent().contains("s3cr"));
        }
        client.renew_credentials(&secret("fresh"), Timestamp(0)).unwrap();
        assert!(sent().contains("fresh"));
    }

    /// The exchange has to run in a task of its own.
    #[tokio::test]
    async fn an_exchange_can_outlive_its_caller() {
        let client = ready(provider("http://127.0.0.1:1"), post_client(), SystemClock::shared());
        let outcome = tokio::spawn(async move {
            let token = RefreshToken::new("r".into());
            let target = crate::domain::scope::Target::default();
            let now = client.clock.now();
            let proof = Proof { now, send_by: now, jti: "j".into() };
            let prepared =
                client.prepare(&tenant(), Exchange::Refresh { token: &token, target: &target }, proof)?;
            Ok::<_, PrepareError>(client.send(prepared, || false, REVOCATION_LIMIT).await)
        });
        assert!(matches!(outcome.await.unwrap().unwrap(), SendOutcome::NotSent { .. }));
    }
}
