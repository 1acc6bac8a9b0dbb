//! `TenantService`: for operators.

use std::sync::Arc;

use crate::authz::permit::{
    CreateTenant, DescribeTenantKeys, ListTenants, Permitted, PurgeTenantNow, RestoreTenant, RotateTenantKey,
    ScheduleTenantPurge,
};
use crate::authz::resource::{OneTenant, WholeVault};
use crate::domain::failure::Failure;
use crate::domain::id::TenantId;
use crate::pipeline::{Call, Pipeline, fields};
use crate::proto::tenant_service_server::TenantService as Api;
use crate::proto::{
    CreateTenantRequest, CreateTenantResponse, DescribeTenantKeysRequest, DescribeTenantKeysResponse,
    ListTenantsRequest, ListTenantsResponse, PurgeTenantNowRequest, PurgeTenantNowResponse,
    RestoreTenantRequest, RestoreTenantResponse, RotateTenantKeyRequest, RotateTenantKeyResponse,
    ScheduleTenantPurgeRequest, ScheduleTenantPurgeResponse,
};
use crate::tenant::{Purged, TenantService, UsageLine};

use super::page::Pages;
use super::status::{Answer, answer};
use super::{context, convert};

/// The service over gRPC.
#[derive(Debug)]
pub struct Tenants {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) pages: Pages,
    pub(super) service: TenantService,
}

#[tonic::async_trait]
impl Api for Tenants {
    async fn create_tenant(
        &self,
        request: tonic::Request<CreateTenantRequest>,
    ) -> Answer<CreateTenantResponse> {
        let context = context::of(&self.pipeline, &request);
        let service = self.service.clone();
        let convert = || {
            let CreateTenantRequest { tenant } = request.into_inner();
            at::<CreateTenant, _>(&tenant, ())
        };
        let created = self.pipeline.call(context, convert, |permit, (), _origin| async move {
            let created = service.create(&permit).await?;
            Ok(CreateTenantResponse { tenant: Some(convert::tenant(created)) })
        });
        answer(created.await)
    }

    async fn list_tenants(&self, request: tonic::Request<ListTenantsRequest>) -> Answer<ListTenantsResponse> {
        let context = context::of(&self.pipeline, &request);
        let (service, pages) = (self.service.clone(), self.pages.clone());
        let convert = || self.listing(request.into_inner());
        let listed = self.pipeline.call(context, convert, move |permit, (after, size), _origin| async move {
            let (tenants, next) = service.list(&permit, after.as_ref(), size).await?;
            let next_page_token =
                next.map_or_else(String::new, |next| pages.seal(&["tenants"], &[next.as_str()]));
            let tenants = tenants.into_iter().map(convert::tenant).collect();
            Ok(ListTenantsResponse { tenants, next_page_token })
        });
        answer(listed.await)
    }

    async fn rotate_tenant_key(
        &self,
        request: tonic::Request<RotateTenantKeyRequest>,
    ) -> Answer<RotateTenantKeyResponse> {
        let context = context::of(&self.pipeline, &request);
        let service = self.service.clone();
        let convert = || {
            let RotateTenantKeyRequest { tenant } = request.into_inner();
            at::<RotateTenantKey, _>(&tenant, ())
        };
        let rotated = self.pipeline.call(context, convert, |permit, (), _origin| async move {
            let info = service.rotate_key(&permit).await?;
            let line = UsageLine { info, sealed_values: 0 };
            Ok(RotateTenantKeyResponse { key_version: Some(convert::key_version(line)) })
        });
        answer(rotated.await)
    }

    async fn describe_tenant_keys(
        &self,
        request: tonic::Request<DescribeTenantKeysRequest>,
    ) -> Answer<DescribeTenantKeysResponse> {
        let context = context::of(&self.pipeline, &request);
        let service = self.service.clone();
        let convert = || {
            let DescribeTenantKeysRequest { tenant } = request.into_inner();
            at::<DescribeTenantKeys, _>(&tenant, ())
        };
        let described = self.pipeline.call(context, convert, |permit, (), _origin| async move {
            let (tenant, usage) = service.describe_keys(&permit).await?;
            let key_versions = usage.into_iter().map(convert::key_version).collect();
            Ok(DescribeTenantKeysResponse { tenant: Some(convert::tenant(tenant)), key_versions })
        });
        answer(described.await)
    }

    async fn schedule_tenant_purge(
        &self,
        request: tonic::Request<ScheduleTenantPurgeRequest>,
    ) -> Answer<ScheduleTenantPurgeResponse> {
        let context = context::of(&self.pipeline, &request);
        let service = self.service.clone();
        let convert = || {
            let ScheduleTenantPurgeRequest { tenant, window } = request.into_inner();
            at::<ScheduleTenantPurge, _>(&tenant, convert::window(window)?)
        };
        let scheduled = self.pipeline.call(context, convert, |permit, window, _origin| async move {
            let tenant = service.schedule_purge(&permit, window).await?;
            Ok(ScheduleTenantPurgeResponse { tenant: Some(convert::tenant(tenant)) })
        });
        answer(scheduled.await)
    }

    async fn restore_tenant(
        &self,
        request: tonic::Request<RestoreTenantRequest>,
    ) -> Answer<RestoreTenantResponse> {
        let context = context::of(&self.pipeline, &request);
        let service = self.service.clone();
        let convert = || {
            let RestoreTenantRequest { tenant } = request.into_inner();
            at::<RestoreTenant, _>(&tenant, ())
        };
        let restored = self.pipeline.call(context, convert, |permit, (), _origin| async move {
            let tenant = service.restore(&permit).await?;
            Ok(RestoreTenantResponse { tenant: Some(convert::tenant(tenant)) })
        });
        answer(restored.await)
    }

    async fn purge_tenant_now(
        &self,
        request: tonic::Request<PurgeTenantNowRequest>,
    ) -> Answer<PurgeTenantNowResponse> {
        let context = context::of(&self.pipeline, &request);
        let service = self.service.clone();
        let convert = || {
            let PurgeTenantNowRequest { tenant, confirm } = request.into_inner();
            at::<PurgeTenantNow, _>(&tenant, confirm)
        };
        let purged = self.pipeline.call(context, convert, |permit, confirm, _origin| async move {
            let Purged { key_versions, grants, erased_at, trial_open_failed, already } =
                service.purge_now(&permit, &confirm).await?;
            Ok(PurgeTenantNowResponse {
                key_versions_destroyed: key_versions,
                grants_deleted: grants,
                live_erase_time: Some(convert::time(erased_at)),
                trial_open_failed,
                already_purged: already,
            })
        });
        answer(purged.await)
    }
}

impl Tenants {
    fn listing(
        &self,
        request: ListTenantsRequest,
    ) -> Result<Call<ListTenants, (Option<TenantId>, u32)>, Failure> {
        let ListTenantsRequest { page_size, page_token } = request;
        let after = match page_token.as_str() {
            "" => None,
            token => match self.pages.open(&["tenants"], token)?.as_slice() {
                [tenant] => Some(fields::tenant_id(tenant)?),
                _ => return Err(fields::invalid_request("page_token")),
            },
        };
        Ok(Call::new(WholeVault, (after, fields::page_size(page_size)?)))
    }
}

fn at<A: Permitted<Resource = OneTenant>, R>(tenant: &str, request: R) -> Result<Call<A, R>, Failure> {
    Ok(Call::new(OneTenant { tenant: fields::tenant_id(tenant)? }, request))
}
