//! `TokenService`: access tokens out.

use std::sync::Arc;

use crate::authz::Request as Resource;
use crate::domain::action::Action;
use crate::domain::failure::Failure;
use crate::proto::token_service_server::TokenService as Api;
use crate::proto::{GetAccessTokenRequest, GetAccessTokenResponse};
use crate::redeem::engine::Handed;
use crate::token::{Request, TokenService};

use crate::pipeline::{Door, Subject};

use super::convert;

use super::status::Status;

/// The service at the door.
#[derive(Debug)]
pub struct Tokens {
    pub(super) door: Arc<Door>,
    pub(super) service: TokenService,
}

#[tonic::async_trait]
impl Api for Tokens {
    async fn get_access_token(
        &self,
        request: tonic::Request<GetAccessTokenRequest>,
    ) -> Result<tonic::Response<GetAccessTokenResponse>, Status> {
        let visitor = self.door.visitor(&request);
        let (subject, request) = match wanted(request.into_inner()) {
            Ok(wanted) => wanted,
            Err(failure) => return Err(self.door.refuse_audited(&visitor, Action::GetAccessToken, &failure)),
        };
        self.door
            .quick_call(visitor, Ok(subject), |permit, origin| async move {
                let Handed { token, from_cache, pass } =
                    self.service.access_token(&permit, request, &origin).await?;
                Ok((convert::token_answer(&token, from_cache), pass))
            })
            .await
    }
}

fn wanted(request: GetAccessTokenRequest) -> Result<(Subject, Request), Failure> {
    let GetAccessTokenRequest {
        tenant,
        subject,
        client,
        scopes,
        resource,
        min_remaining_life,
        claims_challenge,
    } = request;
    let target = convert::target(&scopes, &resource, &claims_challenge)?;
    let subject = convert::subject_id(&subject)?;
    let resource = Resource {
        tenant: Some(convert::tenant_id(&tenant)?),
        client: Some(convert::client_id(&client)?),
        scopes: target.scopes.clone(),
        resource: target.resource.clone(),
    };
    let min_life = convert::min_life(min_remaining_life)?;
    Ok((Subject { resource, subject: Some(subject.clone()) }, Request { subject, target, min_life }))
}
