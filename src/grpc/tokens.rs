//! `TokenService`: access tokens out.

use std::sync::Arc;

use crate::authz::permit::GetAccessToken;
use crate::authz::resource::TokenWanted;
use crate::domain::failure::Failure;
use crate::domain::scope::ScopeSet;
use crate::pipeline::{Call, Kept, Pipeline, Worked, fields};
use crate::proto::token_service_server::TokenService as Api;
use crate::proto::{GetAccessTokenRequest, GetAccessTokenResponse};
use crate::redeem::cache::IssuedToken;
use crate::redeem::guard::Pass;
use crate::redeem::handed::Handed;
use crate::token::{Outcome, Request, TokenService};

use super::status::{Answer, answer};
use super::{context, convert};

/// The service over gRPC.
#[derive(Debug)]
pub struct Tokens {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) service: TokenService,
}

/// What a call holds until its answer is made.
struct Held {
    _pass: Option<Pass>,
    differs: Option<Arc<IssuedToken>>,
}

impl Kept for Held {
    fn granted(&self) -> Option<&ScopeSet> {
        self.differs.as_ref().map(|token| &token.scopes)
    }
}

#[tonic::async_trait]
impl Api for Tokens {
    async fn get_access_token(
        &self,
        request: tonic::Request<GetAccessTokenRequest>,
    ) -> Answer<GetAccessTokenResponse> {
        let context = context::of(&self.pipeline, &request);
        let convert = || wanted(request.into_inner());
        let answered = self.pipeline.call_quickly(context, convert, |permit, request, origin| async move {
            let Outcome { handed, differs } = self.service.access_token(&permit, request, &origin).await;
            let (result, pass) = match handed {
                Ok(Handed { token, expires_at, from_cache, pass }) => {
                    (Ok(convert::token_answer(&token, expires_at, from_cache)), Some(pass))
                }
                Err(failure) => (Err(failure), None),
            };
            Worked { result, kept: Held { _pass: pass, differs } }
        });
        answer(answered.await)
    }
}

fn wanted(request: GetAccessTokenRequest) -> Result<Call<GetAccessToken, Request>, Failure> {
    let GetAccessTokenRequest {
        tenant,
        subject,
        client,
        scopes,
        resource,
        min_remaining_life,
        claims_challenge,
    } = request;
    let subject = fields::subject_id(&subject)?;
    let wanted = TokenWanted {
        tenant: fields::tenant_id(&tenant)?,
        client: fields::client_id(&client)?,
        target: fields::target(&scopes, &resource, &claims_challenge)?,
    };
    let min_life = convert::min_life(min_remaining_life)?;
    Ok(Call::about(subject.clone(), wanted, Request { subject, min_life }))
}
