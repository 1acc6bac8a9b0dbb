//! What a request of each action names, as far as a policy may judge it: one
//! type for all actions that name the same, so that the permit of an action
//! has what its service needs and nothing that may be missing.

use std::fmt;

use crate::domain::grant::GrantKey;
use crate::domain::id::{ClientId, SubjectId, TenantId};
use crate::domain::scope::Target;

/// The parts of a request that the policy judges and the audit log names.
#[derive(Debug, Clone, Copy, Default)]
pub struct Named<'a> {
    /// The tenant; `None` where the action belongs to the whole vault.
    pub tenant: Option<&'a TenantId>,
    /// The OAuth client.
    pub client: Option<&'a ClientId>,
    /// What a token is to be for, where one is asked for.
    pub target: Option<&'a Target>,
}

/// The type of what an action's requests name.
pub trait Resource: fmt::Debug + Send + Sync + 'static {
    /// Its parts.
    fn named(&self) -> Named<'_>;
}

/// A token is asked for, or a grant that tokens will come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenWanted {
    /// The user's tenant.
    pub tenant: TenantId,
    /// The OAuth client.
    pub client: ClientId,
    /// Scopes, resource and claims.
    pub target: Target,
}

/// One grant of a client; whose it is, no policy judges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneGrant {
    /// The user's tenant.
    pub tenant: TenantId,
    /// The OAuth client.
    pub client: ClientId,
}

/// The grants of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantsOfTenant {
    /// The tenant.
    pub tenant: TenantId,
    /// Those of this client alone.
    pub client: Option<ClientId>,
}

/// A tenant and its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneTenant {
    /// The tenant.
    pub tenant: TenantId,
}

/// What belongs to no tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WholeVault;

impl TokenWanted {
    /// The grant that the token comes from.
    #[must_use]
    pub fn grant_key(&self, subject: SubjectId) -> GrantKey {
        GrantKey { tenant: self.tenant.clone(), client: self.client.clone(), subject }
    }
}

impl OneGrant {
    /// The grant.
    #[must_use]
    pub fn grant_key(&self, subject: SubjectId) -> GrantKey {
        GrantKey { tenant: self.tenant.clone(), client: self.client.clone(), subject }
    }
}

impl Resource for TokenWanted {
    fn named(&self) -> Named<'_> {
        let Self { tenant, client, target } = self;
        Named { tenant: Some(tenant), client: Some(client), target: Some(target) }
    }
}

impl Resource for OneGrant {
    fn named(&self) -> Named<'_> {
        let Self { tenant, client } = self;
        Named { tenant: Some(tenant), client: Some(client), target: None }
    }
}

impl Resource for GrantsOfTenant {
    fn named(&self) -> Named<'_> {
        let Self { tenant, client } = self;
        Named { tenant: Some(tenant), client: client.as_ref(), target: None }
    }
}

impl Resource for OneTenant {
    fn named(&self) -> Named<'_> {
        Named { tenant: Some(&self.tenant), ..Named::default() }
    }
}

impl Resource for WholeVault {
    fn named(&self) -> Named<'_> {
        Named::default()
    }
}
