//! A provider with its connection and its keys; shared by its clients.

use super::keys::PublishedKeys;
use super::send::Http;
use super::spec::{ProviderSpec, fill};
use crate::domain::id::{Issuer, TenantId};

/// A form in which the provider's tokens come: who issues it, and the audiences
/// of which it must name one to be meant for the vault.
pub(super) struct TokenForm<'a> {
    pub(super) issuer: String,
    pub(super) audience: &'a [String],
}

/// A configured provider, ready for use.
pub(super) struct Provider {
    pub(super) spec: ProviderSpec,
    /// The issuer as configured, its placeholder in it.
    pub(super) issuer: Issuer,
    pub(super) http: Http,
    pub(super) keys: PublishedKeys,
}

impl Provider {
    /// Who issues the tenant's tokens, by the one name under which grants are
    /// kept, whatever form of token an enrolment began with. The start tried the
    /// longest tenant's name, so it is valid for all; what else stands here no
    /// token has.
    pub(super) fn issuer(&self, tenant: &TenantId) -> Issuer {
        Issuer::new(&fill(self.issuer.as_str(), tenant)).unwrap_or_else(|_| self.issuer.clone())
    }

    /// The forms in which the tenant's tokens come. An audience belongs to its
    /// form: Entra's v2.0 tokens name the API by its client id alone, and the
    /// name that stands in v1.0 tokens may be another application's elsewhere.
    pub(super) fn forms(&self, tenant: &TenantId) -> Vec<TokenForm<'_>> {
        let ProviderSpec { issuer, audience, other_issuers, other_audience, .. } = &self.spec;
        let form = |template: &str, audience| TokenForm { issuer: fill(template, tenant), audience };
        let others = other_issuers.iter().map(|other| form(other, other_audience.as_slice()));
        std::iter::once(form(issuer, audience.as_slice())).chain(others).collect()
    }
}
