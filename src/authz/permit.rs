//! Authority as a value: a [`Permit`] says that the policy permits one caller
//! one action at one place.
//!
//! Service functions that touch a tenant's data ask for the permit of their
//! action, and only `authz` can make one (invariant 5). A service takes the
//! tenant, the client and the target from the permit, or compares them with what
//! it is about to touch.
//!
//! Each action has a marker type of the same name, so that a permit to describe
//! a grant does not pass where a permit to revoke it is asked for.

use std::fmt;
use std::sync::Arc;

use crate::authn::Caller;
use crate::domain::action::Action;
use crate::domain::id::TenantId;

use super::resource::{GrantsOfTenant, Named, OneGrant, OneTenant, Resource, TokenWanted, WholeVault};

/// The policy's word that a caller may do the action `A`. Cloning is cheap.
pub struct Permit<A: Permitted> {
    caller: Caller,
    resource: Arc<A::Resource>,
}

impl<A: Permitted> Permit<A> {
    pub(super) fn new(caller: Caller, resource: Arc<A::Resource>) -> Self {
        Self { caller, resource }
    }

    /// Who may.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// What they may do.
    #[must_use]
    pub fn action(&self) -> Action {
        A::ACTION
    }

    /// On what, as the policy judged it.
    #[must_use]
    pub fn resource(&self) -> &A::Resource {
        &self.resource
    }
}

impl<A: Permitted<Resource = OneTenant>> Permit<A> {
    /// In which tenant.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.resource.tenant
    }
}

impl Permit<RunRotation> {
    /// The permit of the scheduled job. Nobody asked for the run, so there is
    /// nobody for the policy to judge: the vault acts for itself, as its
    /// operator configured it to.
    pub(crate) fn for_schedule() -> Self {
        Self::new(Caller::system("system:rotation"), Arc::new(WholeVault))
    }
}

impl<A: Permitted> Clone for Permit<A> {
    fn clone(&self) -> Self {
        Self { caller: self.caller.clone(), resource: Arc::clone(&self.resource) }
    }
}

impl<A: Permitted> fmt::Debug for Permit<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Named { tenant, client, target } = self.resource.named();
        f.debug_struct("Permit")
            .field("action", &A::ACTION)
            .field("caller", &self.caller)
            .field("tenant", &tenant)
            .field("client", &client)
            .field("scopes", &target.map(|target| &target.scopes))
            .finish_non_exhaustive()
    }
}

/// An action as a type. Implemented by the markers of this module alone.
pub trait Permitted: sealed::Sealed + 'static {
    /// The action.
    const ACTION: Action;

    /// What its requests name.
    type Resource: Resource;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! markers {
    ($($name:ident: $resource:ident),+ $(,)?) => {
        $(
            #[doc = concat!("The action `", stringify!($name), "` as a type.")]
            pub enum $name {}

            impl sealed::Sealed for $name {}

            impl Permitted for $name {
                const ACTION: Action = Action::$name;

                type Resource = $resource;
            }
        )+

        #[cfg(test)]
        const MARKED: &[Action] = &[$($name::ACTION),+];
    };
}

markers!(
    GetAccessToken: TokenWanted,
    ExchangeOnBehalfOf: TokenWanted,
    ImportGrant: TokenWanted,
    DescribeGrant: OneGrant,
    ListGrants: GrantsOfTenant,
    RevokeGrant: OneGrant,
    CreateTenant: OneTenant,
    ListTenants: WholeVault,
    RotateTenantKey: OneTenant,
    DescribeTenantKeys: OneTenant,
    ScheduleTenantPurge: OneTenant,
    RestoreTenant: OneTenant,
    PurgeTenantNow: OneTenant,
    RunRotation: WholeVault,
    DescribeRotation: WholeVault,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_has_its_marker() {
        assert_eq!(MARKED, Action::ALL);
    }

    #[test]
    fn the_scheduled_job_acts_for_the_vault() {
        let permit = Permit::<RunRotation>::for_schedule();
        assert_eq!(permit.caller().id().as_str(), "system:rotation");
        assert_eq!(permit.resource(), &WholeVault);
        // Nobody with a certificate can be it.
        assert!(crate::authn::RESERVED_SCHEMES.iter().any(|scheme| {
            permit.caller().id().as_str().strip_prefix(scheme).is_some_and(|rest| rest.starts_with(':'))
        }));
    }
}
