//! `GrantService`: refresh tokens in, never out.

use std::sync::Arc;

use crate::authz::Permit;
use crate::authz::permit::{
    DescribeGrant, ExchangeOnBehalfOf, ImportGrant, ListGrants, Permitted, RevokeGrant,
};
use crate::authz::resource::{GrantsOfTenant, OneGrant, TokenWanted};
use crate::domain::failure::Failure;
use crate::domain::id::{ClientId, SubjectId};
use crate::grant::{GrantService, VerifiedAssertion};
use crate::pipeline::{Call, Claiming, Pipeline, fields};
use crate::proto::grant_service_server::GrantService as Api;
use crate::proto::{
    DescribeGrantRequest, DescribeGrantResponse, ExchangeOnBehalfOfRequest, ExchangeOnBehalfOfResponse,
    ImportGrantRequest, ImportGrantResponse, ListGrantsRequest, ListGrantsResponse, RevokeGrantRequest,
    RevokeGrantResponse,
};
use crate::secret::{RefreshToken, UnverifiedAssertion};
use crate::store::GrantCursor;
use crate::tenant::TenantService;

use super::page::Pages;
use super::status::{Answer, answer};
use super::{context, convert};

/// The service over gRPC.
#[derive(Debug)]
pub struct Grants {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) pages: Pages,
    pub(super) service: GrantService,
    /// Makes tenants at the first enrolment of one of their users, where the
    /// configuration allows it.
    pub(super) tenants: Option<TenantService>,
}

#[tonic::async_trait]
impl Api for Grants {
    async fn exchange_on_behalf_of(
        &self,
        request: tonic::Request<ExchangeOnBehalfOfRequest>,
    ) -> Answer<ExchangeOnBehalfOfResponse> {
        let context = context::of(&self.pipeline, &request);
        let (service, tenants) = (self.service.clone(), self.tenants.clone());
        let convert = || exchange(request.into_inner());
        let claim = |client: &ClientId, assertion: &UnverifiedAssertion| {
            self.service.claimed_tenant(client, assertion)
        };
        let verify = |permit, assertion| self.verified(permit, assertion);
        let exchanged = self.pipeline.call_verified(
            context,
            convert,
            claim,
            verify,
            |permit, verified, origin| async move {
                let tenant = permit.resource().tenant.clone();
                let exchange = service.exchange(&permit, verified, origin);
                let (grant, replaced) = match tenants {
                    Some(tenants) => tenants.enrolling(&tenant, exchange).await?,
                    None => exchange.await?,
                };
                Ok(ExchangeOnBehalfOfResponse { grant: Some(convert::grant(grant)), replaced })
            },
        );
        answer(exchanged.await)
    }

    async fn import_grant(&self, request: tonic::Request<ImportGrantRequest>) -> Answer<ImportGrantResponse> {
        let context = context::of(&self.pipeline, &request);
        let service = self.service.clone();
        let convert = || import(request.into_inner());
        let imported = self.pipeline.call(context, convert, |permit, (subject, token), origin| async move {
            let (grant, replaced) = service.import(&permit, subject, token, origin).await?;
            Ok(ImportGrantResponse { grant: Some(convert::grant(grant)), replaced })
        });
        answer(imported.await)
    }

    async fn describe_grant(
        &self,
        request: tonic::Request<DescribeGrantRequest>,
    ) -> Answer<DescribeGrantResponse> {
        let context = context::of(&self.pipeline, &request);
        let service = self.service.clone();
        let convert = || {
            let DescribeGrantRequest { tenant, subject, client } = request.into_inner();
            one_grant::<DescribeGrant>(&tenant, &client, &subject)
        };
        let described = self.pipeline.call(context, convert, |permit, user, _origin| async move {
            let grant = service.describe(&permit, user).await?;
            Ok(DescribeGrantResponse { grant: Some(convert::grant(grant)) })
        });
        answer(described.await)
    }

    async fn list_grants(&self, request: tonic::Request<ListGrantsRequest>) -> Answer<ListGrantsResponse> {
        let context = context::of(&self.pipeline, &request);
        let (service, pages) = (self.service.clone(), self.pages.clone());
        let convert = || self.listing(request.into_inner());
        let listed = self.pipeline.call(context, convert, move |permit, listing, _origin| async move {
            let (grants, next) = service.list(&permit, listing.after.as_ref(), listing.size).await?;
            let next_page_token = next.map_or_else(String::new, |next| {
                pages.seal(
                    &["grants", &listing.tenant, &listing.client],
                    &[next.client.as_str(), next.subject.as_str()],
                )
            });
            let grants = grants.into_iter().map(convert::grant).collect();
            Ok(ListGrantsResponse { grants, next_page_token })
        });
        answer(listed.await)
    }

    async fn revoke_grant(&self, request: tonic::Request<RevokeGrantRequest>) -> Answer<RevokeGrantResponse> {
        let context = context::of(&self.pipeline, &request);
        let service = self.service.clone();
        let convert = || {
            let RevokeGrantRequest { tenant, subject, client } = request.into_inner();
            one_grant::<RevokeGrant>(&tenant, &client, &subject)
        };
        let revoked = self.pipeline.call(context, convert, |permit, user, origin| async move {
            let revoked_at_provider = service.revoke(&permit, user, &origin).await?;
            Ok(RevokeGrantResponse { revoked_at_provider })
        });
        answer(revoked.await)
    }
}

struct Listing {
    tenant: String,
    client: String,
    after: Option<GrantCursor>,
    size: u32,
}

impl Grants {
    /// Checks the user's token: it says whose the grant will be.
    async fn verified(
        &self,
        permit: Permit<ExchangeOnBehalfOf>,
        assertion: UnverifiedAssertion,
    ) -> Result<(SubjectId, VerifiedAssertion), Failure> {
        if self.tenants.is_none() {
            self.service.tenant_exists(&permit).await?;
        }
        let verified = self.service.verify(&permit, assertion).await?;
        Ok((verified.user.subject.clone(), verified))
    }

    fn listing(&self, request: ListGrantsRequest) -> Result<Call<ListGrants, Listing>, Failure> {
        let ListGrantsRequest { tenant, page_size, page_token, client } = request;
        let resource = GrantsOfTenant {
            tenant: fields::tenant_id(&tenant)?,
            client: if client.is_empty() { None } else { Some(fields::client_id(&client)?) },
        };
        let size = fields::page_size(page_size)?;
        let after = match page_token.as_str() {
            "" => None,
            token => match self.pages.open(&["grants", &tenant, &client], token)?.as_slice() {
                [client, subject] => Some(GrantCursor {
                    client: fields::client_id(client)?,
                    // The vault's own word, from a row.
                    subject: SubjectId::stored(subject).map_err(|e| fields::invalid(&e))?,
                }),
                _ => return Err(fields::invalid_request("page_token")),
            },
        };
        Ok(Call::new(resource, Listing { tenant, client, after, size }))
    }
}

fn exchange(request: ExchangeOnBehalfOfRequest) -> Result<Claiming<UnverifiedAssertion>, Failure> {
    let ExchangeOnBehalfOfRequest { client, user_access_token, scopes, resource, claims_challenge } = request;
    let assertion = fields::assertion(user_access_token)?;
    let target = fields::target(&scopes, &resource, &claims_challenge)?;
    let client = fields::client_id(&client)?;
    if target.scopes.is_empty() && target.resource.is_none() {
        return Err(fields::invalid_request("scopes or a resource must be named"));
    }
    Ok(Claiming { client, target, request: assertion })
}

fn import(request: ImportGrantRequest) -> Result<Call<ImportGrant, (SubjectId, RefreshToken)>, Failure> {
    let ImportGrantRequest { tenant, subject, client, imported_token, scopes, resource } = request;
    let token = fields::imported_token(imported_token)?;
    let subject = fields::subject_id(&subject)?;
    let wanted = TokenWanted {
        tenant: fields::tenant_id(&tenant)?,
        client: fields::client_id(&client)?,
        target: fields::target(&scopes, &resource, "")?,
    };
    Ok(Call::about(subject.clone(), wanted, (subject, token)))
}

fn one_grant<A: Permitted<Resource = OneGrant>>(
    tenant: &str,
    client: &str,
    subject: &str,
) -> Result<Call<A, SubjectId>, Failure> {
    let user = fields::subject_id(subject)?;
    let grant = OneGrant { tenant: fields::tenant_id(tenant)?, client: fields::client_id(client)? };
    Ok(Call::about(user.clone(), grant, user))
}
