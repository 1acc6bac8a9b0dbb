//! A provider with its connection and its keys; shared by its clients.

use super::keys::PublishedKeys;
use super::send::Http;
use super::spec::{ProviderSpec, fill};
use crate::domain::id::{Issuer, TenantId};

/// A configured provider, ready for use.
pub(super) struct Provider {
    pub(super) spec: ProviderSpec,
    /// The issuer as configured, its placeholder in it.
    pub(super) issuer: Issuer,
    pub(super) http: Http,
    pub(super) keys: PublishedKeys,
}

impl Provider {
    /// Who issues the tenant's tokens. The start tried the longest tenant's
    /// name, so it is valid for all; what else stands here no token has.
    pub(super) fn issuer(&self, tenant: &TenantId) -> Issuer {
        Issuer::new(&fill(self.issuer.as_str(), tenant)).unwrap_or_else(|_| self.issuer.clone())
    }
}
