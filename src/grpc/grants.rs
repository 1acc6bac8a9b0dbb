//! `GrantService`: refresh tokens in, never out.

use std::sync::Arc;

use crate::authz::Request as Resource;
use crate::authz::permit;
use crate::domain::action::Action;
use crate::domain::failure::Failure;
use crate::domain::grant::GrantKey;
use crate::domain::id::SubjectId;
use crate::domain::scope::Target;
use crate::grant::{GrantService, VerifiedAssertion};
use crate::proto::grant_service_server::GrantService as Api;
use crate::proto::{
    DescribeGrantRequest, DescribeGrantResponse, ExchangeOnBehalfOfRequest, ExchangeOnBehalfOfResponse,
    ImportGrantRequest, ImportGrantResponse, ListGrantsRequest, ListGrantsResponse, RevokeGrantRequest,
    RevokeGrantResponse,
};
use crate::secret::{RefreshToken, UnverifiedAssertion};
use crate::store::GrantCursor;
use crate::tenant::TenantService;

use super::convert;
use super::door::{Door, Subject};
use super::status::Status;

/// Largest user token taken, in bytes.
const LARGEST_ASSERTION: usize = 32 * 1024;
/// Largest refresh token taken, in bytes.
const LARGEST_IMPORT: usize = 16 * 1024;

/// The service at the door.
#[derive(Debug)]
pub struct Grants {
    pub(super) door: Arc<Door>,
    pub(super) service: GrantService,
    /// Makes tenants at their first intake, where the configuration allows it.
    pub(super) tenants: Option<TenantService>,
}

#[tonic::async_trait]
impl Api for Grants {
    async fn exchange_on_behalf_of(
        &self,
        request: tonic::Request<ExchangeOnBehalfOfRequest>,
    ) -> Result<tonic::Response<ExchangeOnBehalfOfResponse>, Status> {
        const ACTION: Action = Action::ExchangeOnBehalfOf;
        let visitor = self.door.visitor(&request);
        // The provider's keys are not fetched for somebody who is nobody.
        if let Err(failure) = &visitor.caller {
            return Err(self.door.refuse_audited(&visitor, ACTION, failure));
        }
        let (verified, target) = match self.verified(request.into_inner()).await {
            Ok(verified) => verified,
            Err(failure) => return Err(self.door.refuse_audited(&visitor, ACTION, &failure)),
        };
        let subject = Subject {
            resource: Resource {
                tenant: Some(verified.user.tenant.clone()),
                client: Some(verified.client.clone()),
                scopes: target.scopes.clone(),
                resource: target.resource.clone(),
            },
            subject: Some(verified.user.subject.clone()),
        };
        let (service, tenants) = (self.service.clone(), self.tenants.clone());
        self.door
            .call(
                visitor,
                Ok(subject),
                |permit: permit::Permit<permit::ExchangeOnBehalfOf>, origin| async move {
                    if let Some(tenants) = tenants {
                        tenants.ensure(&verified.user.tenant).await?;
                    }
                    let (grant, replaced) = service.exchange(&permit, verified, target, origin).await?;
                    Ok(ExchangeOnBehalfOfResponse { grant: Some(convert::grant(grant)), replaced })
                },
            )
            .await
    }

    async fn import_grant(
        &self,
        request: tonic::Request<ImportGrantRequest>,
    ) -> Result<tonic::Response<ImportGrantResponse>, Status> {
        let visitor = self.door.visitor(&request);
        let (key, token, target) = match import(request.into_inner()) {
            Ok(import) => import,
            Err(failure) => return Err(self.door.refuse_audited(&visitor, Action::ImportGrant, &failure)),
        };
        let service = self.service.clone();
        let subject = Subject {
            resource: Resource {
                tenant: Some(key.tenant),
                client: Some(key.client),
                scopes: target.scopes.clone(),
                resource: target.resource.clone(),
            },
            subject: Some(key.subject.clone()),
        };
        self.door
            .call(visitor, Ok(subject), |permit, origin| async move {
                let (grant, replaced) = service.import(&permit, key.subject, token, target, origin).await?;
                Ok(ImportGrantResponse { grant: Some(convert::grant(grant)), replaced })
            })
            .await
    }

    async fn describe_grant(
        &self,
        request: tonic::Request<DescribeGrantRequest>,
    ) -> Result<tonic::Response<DescribeGrantResponse>, Status> {
        let visitor = self.door.visitor(&request);
        let DescribeGrantRequest { tenant, subject, client } = request.into_inner();
        let (subject, user) = match one_grant(&tenant, &client, &subject) {
            Ok(found) => found,
            Err(failure) => return Err(self.door.refuse_audited(&visitor, Action::DescribeGrant, &failure)),
        };
        let service = self.service.clone();
        self.door
            .call(visitor, Ok(subject), |permit, _origin| async move {
                let grant = service.describe(&permit, user).await?;
                Ok(DescribeGrantResponse { grant: Some(convert::grant(grant)) })
            })
            .await
    }

    async fn list_grants(
        &self,
        request: tonic::Request<ListGrantsRequest>,
    ) -> Result<tonic::Response<ListGrantsResponse>, Status> {
        let visitor = self.door.visitor(&request);
        let (subject, listing) = match self.listing(request.into_inner()) {
            Ok(listing) => listing,
            Err(failure) => return Err(self.door.refuse_audited(&visitor, Action::ListGrants, &failure)),
        };
        let (service, door) = (self.service.clone(), Arc::clone(&self.door));
        self.door
            .call(visitor, Ok(subject), move |permit, _origin| async move {
                let (grants, next) = service.list(&permit, listing.after.as_ref(), listing.size).await?;
                let next_page_token = next.map_or_else(String::new, |next| {
                    door.pages.seal(
                        &["grants", &listing.tenant, &listing.client],
                        &[next.client.as_str(), next.subject.as_str()],
                    )
                });
                let grants = grants.into_iter().map(convert::grant).collect();
                Ok(ListGrantsResponse { grants, next_page_token })
            })
            .await
    }

    async fn revoke_grant(
        &self,
        request: tonic::Request<RevokeGrantRequest>,
    ) -> Result<tonic::Response<RevokeGrantResponse>, Status> {
        let visitor = self.door.visitor(&request);
        let RevokeGrantRequest { tenant, subject, client } = request.into_inner();
        let (subject, user) = match one_grant(&tenant, &client, &subject) {
            Ok(found) => found,
            Err(failure) => return Err(self.door.refuse_audited(&visitor, Action::RevokeGrant, &failure)),
        };
        let service = self.service.clone();
        self.door
            .call(visitor, Ok(subject), |permit, origin| async move {
                let revoked_at_provider = service.revoke(&permit, user, &origin).await?;
                Ok(RevokeGrantResponse { revoked_at_provider })
            })
            .await
    }
}

struct Listing {
    tenant: String,
    client: String,
    after: Option<GrantCursor>,
    size: u32,
}

impl Grants {
    async fn verified(
        &self,
        request: ExchangeOnBehalfOfRequest,
    ) -> Result<(VerifiedAssertion, Target), Failure> {
        let ExchangeOnBehalfOfRequest { client, user_access_token, scopes, resource, claims_challenge } =
            request;
        let assertion = UnverifiedAssertion::new(user_access_token);
        let target = convert::target(&scopes, &resource, &claims_challenge)?;
        let client = convert::client_id(&client)?;
        if target.scopes.is_empty() && target.resource.is_none() {
            return Err(convert::invalid_request("scopes or a resource must be named"));
        }
        if assertion.expose().is_empty() || assertion.expose().len() > LARGEST_ASSERTION {
            return Err(convert::invalid_request("user_access_token must be 1 byte to 32 KiB"));
        }
        Ok((self.service.verify(client, assertion).await?, target))
    }

    fn listing(&self, request: ListGrantsRequest) -> Result<(Subject, Listing), Failure> {
        let ListGrantsRequest { tenant, page_size, page_token, client } = request;
        let client_id = if client.is_empty() { None } else { Some(convert::client_id(&client)?) };
        let resource =
            Resource { tenant: Some(convert::tenant_id(&tenant)?), client: client_id, ..Resource::default() };
        let size = convert::page_size(page_size)?;
        let after = match page_token.as_str() {
            "" => None,
            token => match self.door.pages.open(&["grants", &tenant, &client], token)?.as_slice() {
                [client, subject] => Some(GrantCursor {
                    client: convert::client_id(client)?,
                    // The vault's own word, from a row.
                    subject: SubjectId::stored(subject).map_err(|e| convert::invalid(&e))?,
                }),
                _ => return Err(convert::invalid_request("page_token")),
            },
        };
        Ok((Subject { resource, subject: None }, Listing { tenant, client, after, size }))
    }
}

fn import(request: ImportGrantRequest) -> Result<(GrantKey, RefreshToken, Target), Failure> {
    let ImportGrantRequest { tenant, subject, client, imported_token, scopes, resource } = request;
    let pasted = RefreshToken::new(imported_token);
    let token = pasted.expose().trim();
    if token.is_empty()
        || token.len() > LARGEST_IMPORT
        || token.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        return Err(convert::invalid_request(
            "imported_token must be 1 byte to 16 KiB without white space inside",
        ));
    }
    let token = RefreshToken::new(token.to_owned());
    let key = GrantKey {
        tenant: convert::tenant_id(&tenant)?,
        client: convert::client_id(&client)?,
        subject: convert::subject_id(&subject)?,
    };
    Ok((key, token, convert::target(&scopes, &resource, "")?))
}

fn one_grant(tenant: &str, client: &str, subject: &str) -> Result<(Subject, SubjectId), Failure> {
    let user = convert::subject_id(subject)?;
    let resource = Resource {
        tenant: Some(convert::tenant_id(tenant)?),
        client: Some(convert::client_id(client)?),
        ..Resource::default()
    };
    Ok((Subject { resource, subject: Some(user.clone()) }, user))
}
