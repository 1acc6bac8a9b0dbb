//! Authority as a value: a [`Permit`] says that the policy permits one caller
//! one action at one place.
//!
//! Service functions that touch a tenant's data ask for the permit of their
//! action, and only `authz` can make one (invariant 5). A service compares the
//! permit's tenant and client with what it is about to touch, or takes them
//! from it.
//!
//! Each action has a marker type of the same name, so that a permit to describe
//! a grant does not pass where a permit to revoke it is asked for.

use std::fmt;
use std::marker::PhantomData;

use crate::authn::Caller;
use crate::domain::action::Action;
use crate::domain::id::{ClientId, TenantId};

/// The policy's word that a caller may do the action `A`. Cloning is cheap.
pub struct Permit<A> {
    caller: Caller,
    tenant: Option<TenantId>,
    client: Option<ClientId>,
    // A permit is of an action but holds none: it is `Send` and `Sync` always.
    action: PhantomData<fn() -> A>,
}

impl<A: Permitted> Permit<A> {
    pub(super) fn new(caller: Caller, tenant: Option<TenantId>, client: Option<ClientId>) -> Self {
        Self { caller, tenant, client, action: PhantomData }
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

    /// In which tenant; `None` for an action that belongs to no tenant.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }

    /// With which OAuth client; `None` where the request named none.
    #[must_use]
    pub fn client(&self) -> Option<&ClientId> {
        self.client.as_ref()
    }
}

impl Permit<RunRotation> {
    /// The permit of the scheduled job. Nobody asked for the run, so there is
    /// nobody for the policy to judge: the vault acts for itself, as its
    /// operator configured it to.
    pub(crate) fn for_schedule() -> Self {
        Self::new(Caller::system("system:rotation"), None, None)
    }
}

impl<A> Clone for Permit<A> {
    fn clone(&self) -> Self {
        Self {
            caller: self.caller.clone(),
            tenant: self.tenant.clone(),
            client: self.client.clone(),
            action: PhantomData,
        }
    }
}

impl<A: Permitted> fmt::Debug for Permit<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("action", &A::ACTION)
            .field("caller", &self.caller)
            .field("tenant", &self.tenant)
            .field("client", &self.client)
            .finish()
    }
}

/// An action as a type. Implemented by the markers of this module alone.
pub trait Permitted: sealed::Sealed {
    /// The action.
    const ACTION: Action;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! markers {
    ($($name:ident),+ $(,)?) => {
        $(
            #[doc = concat!("The action `", stringify!($name), "` as a type.")]
            pub enum $name {}

            impl sealed::Sealed for $name {}

            impl Permitted for $name {
                const ACTION: Action = Action::$name;
            }
        )+

        #[cfg(test)]
        const MARKED: &[Action] = &[$($name::ACTION),+];
    };
}

markers!(
    GetAccessToken,
    ExchangeOnBehalfOf,
    ImportGrant,
    DescribeGrant,
    ListGrants,
    RevokeGrant,
    CreateTenant,
    ListTenants,
    RotateTenantKey,
    DescribeTenantKeys,
    ScheduleTenantPurge,
    RestoreTenant,
    PurgeTenantNow,
    RunRotation,
    DescribeRotation,
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
        assert_eq!((permit.tenant(), permit.client()), (None, None));
        // Nobody with a certificate can be it.
        assert!(crate::authn::RESERVED_SCHEMES.iter().any(|scheme| {
            permit.caller().id().as_str().strip_prefix(scheme).is_some_and(|rest| rest.starts_with(':'))
        }));
    }
}
