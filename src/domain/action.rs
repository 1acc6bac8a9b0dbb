//! What a caller may ask for. Each RPC is one action; the policy speaks of
//! them by these names.

/// An action a policy permits or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// `TokenService.GetAccessToken`
    GetAccessToken,
    /// `GrantService.ExchangeOnBehalfOf`
    ExchangeOnBehalfOf,
    /// `GrantService.ImportGrant`
    ImportGrant,
    /// `GrantService.DescribeGrant`
    DescribeGrant,
    /// `GrantService.ListGrants`
    ListGrants,
    /// `GrantService.RevokeGrant`
    RevokeGrant,
    /// `TenantService.CreateTenant`
    CreateTenant,
    /// `TenantService.ListTenants`
    ListTenants,
    /// `TenantService.RotateTenantKey`
    RotateTenantKey,
    /// `TenantService.DescribeTenantKeys`
    DescribeTenantKeys,
    /// `TenantService.ScheduleTenantPurge`
    ScheduleTenantPurge,
    /// `TenantService.RestoreTenant`
    RestoreTenant,
    /// `TenantService.PurgeTenantNow`
    PurgeTenantNow,
    /// `RotationService.RunRotation`
    RunRotation,
    /// `RotationService.DescribeRotation`
    DescribeRotation,
}

impl Action {
    /// All actions, in the order of the API.
    pub const ALL: [Self; 15] = [
        Self::GetAccessToken,
        Self::ExchangeOnBehalfOf,
        Self::ImportGrant,
        Self::DescribeGrant,
        Self::ListGrants,
        Self::RevokeGrant,
        Self::CreateTenant,
        Self::ListTenants,
        Self::RotateTenantKey,
        Self::DescribeTenantKeys,
        Self::ScheduleTenantPurge,
        Self::RestoreTenant,
        Self::PurgeTenantNow,
        Self::RunRotation,
        Self::DescribeRotation,
    ];

    /// The name of the RPC, which is also the action's name in policies.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GetAccessToken => "GetAccessToken",
            Self::ExchangeOnBehalfOf => "ExchangeOnBehalfOf",
            Self::ImportGrant => "ImportGrant",
            Self::DescribeGrant => "DescribeGrant",
            Self::ListGrants => "ListGrants",
            Self::RevokeGrant => "RevokeGrant",
            Self::CreateTenant => "CreateTenant",
            Self::ListTenants => "ListTenants",
            Self::RotateTenantKey => "RotateTenantKey",
            Self::DescribeTenantKeys => "DescribeTenantKeys",
            Self::ScheduleTenantPurge => "ScheduleTenantPurge",
            Self::RestoreTenant => "RestoreTenant",
            Self::PurgeTenantNow => "PurgeTenantNow",
            Self::RunRotation => "RunRotation",
            Self::DescribeRotation => "DescribeRotation",
        }
    }
}
