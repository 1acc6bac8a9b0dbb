//! What the configuration says about providers and clients, and the checks
//! that need no key and no network.

use std::collections::BTreeSet;
use std::fmt;

use url::{Host, Url};

use crate::domain::id::{ClientId, Issuer, TenantId};
use crate::domain::profile::Profile;
use crate::secret::ClientSecret;

/// Stands for the tenant in a provider's addresses and issuer.
const TENANT: &str = "{tenant}";

/// One identity provider.
#[derive(Debug, Clone, PartialEq)]
pub struct ProviderSpec {
    /// Its name in the configuration.
    pub name: String,
    /// Who issues its tokens; may contain `{tenant}`. Grants are kept under it.
    pub issuer: String,
    /// Names under which the same provider issues tokens of another form, as
    /// Entra does with its v1.0 tokens; may contain `{tenant}`.
    pub other_issuers: Vec<String>,
    /// Where tokens are redeemed; may contain `{tenant}`.
    pub token_endpoint: String,
    /// Where tokens are revoked (RFC 7009), if anywhere; may contain `{tenant}`.
    pub revocation_endpoint: Option<String>,
    /// Where its keys are published; may contain `{tenant}`.
    pub jwks_uri: String,
    /// The audiences of which a user's token of `issuer` must name one.
    pub audience: Vec<String>,
    /// The same for a token of one of `other_issuers`.
    pub other_audience: Vec<String>,
    /// How a token tells its tenant.
    pub tenant: TenantRule,
    /// The claims that may name the user; the first that is there decides.
    pub subject_claims: Vec<String>,
    /// How it behaves.
    pub profile: Profile,
    /// Certificates (PEM) of the authorities to trust in place of the system's.
    pub ca_file_pem: Option<Vec<u8>>,
    /// What the rotation job may ask of it.
    pub budget: Budget,
}

/// How a token tells its tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantRule {
    /// By this claim.
    Claim(String),
    /// The provider serves one tenant.
    Fixed(TenantId),
}

/// What a provider may be asked for by the rotation job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Requests per second.
    pub requests_per_second: f64,
    /// Requests under way at once.
    pub concurrency: usize,
}

/// One OAuth client at a provider.
#[derive(Debug)]
pub struct ClientSpec {
    /// Its name in the configuration.
    pub id: ClientId,
    /// Its provider's name in the configuration.
    pub provider: String,
    /// Its name at the provider.
    pub client_id: String,
    /// How it proves itself.
    pub auth: ClientAuth,
    /// Whether it tells the provider that its callers can answer claims
    /// challenges (continuous access evaluation, `xms_cc` with `CP1`).
    pub declares_cp1: bool,
}

/// How a client proves itself.
#[derive(Debug)]
pub enum ClientAuth {
    /// Its secret in the body.
    SecretPost(ClientSecret),
    /// Its secret in the header.
    SecretBasic(ClientSecret),
    /// A signed assertion (RFC 7523). The only one that reaches the provider
    /// as a fence: it expires.
    PrivateKeyJwt {
        /// The private key, PEM; an EC key in PKCS#8.
        key_pem: ClientSecret,
        /// What it signs with.
        alg: SigningAlg,
        /// The `kid` of the assertion's header.
        key_id: Option<String>,
        /// The key's certificate, its issuers after it, PEM; gives `x5c` and
        /// `x5t#S256`.
        certificate_pem: Option<String>,
    },
}

/// What a client assertion is signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningAlg {
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

/// All that is wrong with the configuration of providers and clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdpConfigError(pub Vec<String>);

impl fmt::Display for IdpConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for IdpConfigError {}

impl ProviderSpec {
    pub(super) fn token_endpoint(&self, tenant: &TenantId) -> String {
        fill(&self.token_endpoint, tenant)
    }

    pub(super) fn revocation_endpoint(&self, tenant: &TenantId) -> Option<String> {
        self.revocation_endpoint.as_deref().map(|endpoint| fill(endpoint, tenant))
    }

    pub(super) fn jwks_uri(&self, tenant: &TenantId) -> String {
        fill(&self.jwks_uri, tenant)
    }

    /// Whether any of its addresses needs TLS. One on loopback without needs no
    /// certificate store, which a bare machine may lack.
    pub(super) fn uses_tls(&self) -> bool {
        self.endpoints().any(|(_, endpoint)| endpoint.starts_with("https:"))
    }

    fn endpoints(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let revocation = self.revocation_endpoint.as_deref().map(|e| ("revocation_endpoint", e));
        [("token_endpoint", self.token_endpoint.as_str()), ("jwks_uri", self.jwks_uri.as_str())]
            .into_iter()
            .chain(revocation)
    }
}

/// Every fault that can be seen without loading a key.
pub(super) fn faults(providers: &[&ProviderSpec], clients: &[&ClientSpec]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut names = BTreeSet::new();
    for provider in providers {
        let mut fault = |text: String| faults.push(format!("provider {:?}: {text}", provider.name));
        if !names.insert(provider.name.as_str()) {
            fault("is there twice".into());
        }
        for (key, endpoint) in provider.endpoints() {
            if let Err(why) = check_endpoint(endpoint) {
                fault(format!("{key} {why}"));
            }
        }
        let others = provider.other_issuers.iter().map(|other| ("other_issuers", other));
        for (key, issuer) in std::iter::once(("issuer", &provider.issuer)).chain(others) {
            if let Err(why) = check_issuer(issuer) {
                fault(format!("{key} {why}"));
            }
        }
        if provider.other_issuers.contains(&provider.issuer) {
            fault("other_issuers must not repeat issuer".into());
        }
        if matches!(&provider.tenant, TenantRule::Claim(claim) if claim.is_empty()) {
            fault("the tenant's claim must have a name".into());
        }
        if provider.subject_claims.is_empty() || provider.subject_claims.iter().any(String::is_empty) {
            fault("subject_claims must name at least one claim".into());
        }
        let Budget { requests_per_second, concurrency } = provider.budget;
        if !(requests_per_second.is_finite() && requests_per_second > 0.0) || concurrency == 0 {
            fault("budget must allow more than nothing".into());
        }
    }
    let mut ids = BTreeSet::new();
    for client in clients {
        let mut fault = |text: String| faults.push(format!("client {:?}: {text}", client.id.as_str()));
        if !ids.insert(&client.id) {
            fault("is there twice".into());
        }
        if !names.contains(client.provider.as_str()) {
            fault(format!("there is no provider {:?}", client.provider));
        }
        if client.client_id.is_empty() || client.client_id.chars().any(char::is_control) {
            fault("client_id must be there, without control characters".into());
        }
    }
    faults
}

/// Checks an address that secrets are sent to: https, or http on loopback, and
/// no part of a tenant's name decides where it leads.
///
/// # Errors
///
/// All that is wrong with it; the address itself is not in the text.
pub fn check_endpoint(template: &str) -> Result<(), String> {
    if template.replace(TENANT, "tenant").contains(['{', '}']) {
        return Err("must have no placeholder but {tenant}".into());
    }
    let with = |tenant: &str| Url::parse(&template.replace(TENANT, tenant));
    let url = with("tenant").map_err(|why| format!("must be a URL: {why}"))?;
    let loopback = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => return Err("must be a URL with a host".into()),
    };
    let mut faults = Vec::new();
    if !(url.scheme() == "https" || url.scheme() == "http" && loopback) {
        faults.push("must be https; http is allowed for a loopback host only");
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        faults.push("must be a URL without user, password and fragment");
    }
    if !with("another").is_ok_and(|other| other.host() == url.host() && other.port() == url.port()) {
        faults.push("must not have {tenant} in its host: the tenant would choose where secrets go");
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join(", and ")) }
}

/// Checks a provider's issuer: an address, and a name with the longest tenant's
/// name in it too.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_issuer(template: &str) -> Result<(), String> {
    check_endpoint(template)?;
    Issuer::new(&template.replace(TENANT, &"x".repeat(128))).map(drop).map_err(|why| why.to_string())
}

/// Puts the tenant where the placeholder stands.
pub(super) fn fill(template: &str, tenant: &TenantId) -> String {
    template.replace(TENANT, tenant.as_str())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{client, provider, ready};
    use super::*;

    use crate::clock::SystemClock;

    fn faults_of(change: impl FnOnce(&mut ProviderSpec)) -> Vec<String> {
        let mut spec = provider("https://login.example");
        change(&mut spec);
        faults(&[&spec], &[])
    }

    #[test]
    fn plain_text_is_for_loopback_only() {
        for good in [
            "https://login.example/{tenant}/token",
            "http://127.0.0.1:8080/t",
            "http://127.9.9.9/t",
            "http://[::1]:1/t",
            "http://localhost:1/t",
        ] {
            assert_eq!(check_endpoint(good), Ok(()), "{good}");
        }
        for bad in [
            "http://login.example/t",
            "http://localhost.example/t",
            "http://127.0.0.1.example/t",
            "http://10.0.0.1/t",
            "ftp://127.0.0.1/t",
            "https://user:pass@login.example/t",
            "https://login.example/t#f",
            "https://login.example:{tenant}/t",
            "login.example/t",
            "https:///",
            "https://login.example/{tenantid}/t",
        ] {
            assert!(check_endpoint(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn all_faults_of_an_address_are_named_and_none_of_its_text() {
        let faults = check_endpoint("http://user:hunter2@{tenant}.example/t#f").unwrap_err();
        for part in ["must be https", "without user", "must not have {tenant} in its host"] {
            assert!(faults.contains(part), "{part} is not in {faults}");
        }
        assert!(!faults.contains("hunter2"));
        let long = format!("https://login.example/{{tenant}}/{}", "x".repeat(120));
        assert!(
            check_endpoint(&long).is_ok() && check_issuer(&long).is_err(),
            "the longest tenant does not fit"
        );
    }

    #[test]
    fn a_tenant_cannot_choose_the_host_its_tokens_go_to() {
        for bad in ["https://{tenant}/t", "https://login.{tenant}/t", "https://{tenant}.example/t"] {
            assert!(check_endpoint(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn all_faults_are_named_at_once() {
        let faults = faults_of(|spec| {
            spec.token_endpoint = "http://login.example/token".into();
            spec.jwks_uri = "nonsense".into();
            spec.subject_claims.clear();
            spec.budget.requests_per_second = f64::NAN;
            spec.issuer = "x".repeat(256);
            spec.other_issuers = vec!["http://sts.example/{tenant}/".into(), spec.issuer.clone()];
        });
        assert_eq!(faults.len(), 8, "{faults:#?}");
        assert!(faults[0].contains("token_endpoint must be https"), "{}", faults[0]);
    }

    #[test]
    fn a_client_needs_its_provider_and_a_name_of_its_own() {
        let secret = || ClientAuth::SecretPost(ClientSecret::new("hunter2".into()));
        let stray = ClientSpec { provider: "q".into(), ..client(secret()) };
        let spec = provider("https://login.example");
        let faults = faults(&[&spec], &[&client(secret()), &stray]);
        assert_eq!(faults.len(), 2, "{faults:#?}");
        assert!(!format!("{faults:?}").contains("hunter2"));
    }

    #[test]
    fn the_longest_tenant_fits_the_issuer() {
        let tenant = TenantId::new(&"x".repeat(128)).unwrap();
        let auth = ClientAuth::SecretPost(ClientSecret::new("s".into()));
        let client = ready(provider("https://login.example"), client(auth), SystemClock::shared());
        assert!(client.issuer(&tenant).as_str().contains(tenant.as_str()));
    }
}
