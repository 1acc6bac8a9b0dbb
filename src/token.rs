//! Get an access token: what internal services come for.
//!
//! Memory or redemption is the engine's business ([`crate::redeem`]); here is
//! what a request may ask for, and the order of permit, audit and answer.

use std::sync::Arc;
use std::time::Duration;

use crate::authz::Permit;
use crate::authz::permit::GetAccessToken;
use crate::domain::failure::Failure;
use crate::domain::grant::GrantKey;
use crate::domain::id::{ClientId, SubjectId, TenantId};
use crate::domain::reason::Reason;
use crate::domain::scope::Target;
use crate::redeem::engine::Handed;
use crate::redeem::gate::as_unknown_grant;
use crate::redeem::{Origin, Redeemer};

/// Most that a request may ask for.
pub const MAX_MIN_LIFE: Duration = Duration::from_secs(600);

/// A request for an access token, its fields checked.
#[derive(Debug)]
pub struct Request {
    /// The user.
    pub subject: SubjectId,
    /// What the token is for.
    pub target: Target,
    /// Least remaining life; `None` is the configured one.
    pub min_life: Option<Duration>,
}

/// The service.
#[derive(Debug, Clone)]
pub struct TokenService {
    redeemer: Arc<Redeemer>,
    usual_min_life: Duration,
}

impl TokenService {
    /// The service over an engine; `usual_min_life` is for requests that name
    /// none.
    #[must_use]
    pub fn new(redeemer: Arc<Redeemer>, usual_min_life: Duration) -> Self {
        Self { redeemer, usual_min_life }
    }

    /// An access token for the tenant and client of the permit. The caller
    /// holds what is returned until its answer is made.
    ///
    /// # Errors
    ///
    /// As [`Redeemer::access_token`].
    pub async fn access_token(
        &self,
        permit: &Permit<GetAccessToken>,
        request: Request,
        origin: &Origin,
    ) -> Result<Handed, Failure> {
        let Request { subject, target, min_life } = request;
        let (tenant, client) = permitted(permit.tenant(), permit.client())?;
        let key = GrantKey { tenant, client, subject };
        let min_life = min_life.unwrap_or(self.usual_min_life).min(MAX_MIN_LIFE);
        let handed = self.redeemer.access_token(&key, &target, min_life, origin).await;
        handed.map_err(as_unknown_grant)
    }
}

/// A permit for one grant names its tenant and its client.
fn permitted(tenant: Option<&TenantId>, client: Option<&ClientId>) -> Result<(TenantId, ClientId), Failure> {
    match (tenant, client) {
        (Some(tenant), Some(client)) => Ok((tenant.clone(), client.clone())),
        (None, _) | (_, None) => Err(Failure::new(Reason::Internal, "a permit without tenant or client")),
    }
}
