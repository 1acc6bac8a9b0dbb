//! `TenantService`: for operators.

use std::sync::Arc;

use crate::authz::Request as Resource;
use crate::domain::action::Action;
use crate::domain::failure::Failure;
use crate::domain::id::TenantId;
use crate::proto::tenant_service_server::TenantService as Api;
use crate::proto::{
    CreateTenantRequest, CreateTenantResponse, DescribeTenantKeysRequest, DescribeTenantKeysResponse,
    ListTenantsRequest, ListTenantsResponse, PurgeTenantNowRequest, PurgeTenantNowResponse,
    RestoreTenantRequest, RestoreTenantResponse, RotateTenantKeyRequest, RotateTenantKeyResponse,
    ScheduleTenantPurgeRequest, ScheduleTenantPurgeResponse,
};
use crate::tenant::{CensusLine, Purged, TenantService};

use crate::pipeline::{Door, Subject};

use super::convert;

use super::status::Status;

/// The service at the door.
#[derive(Debug)]
pub struct Tenants {
    pub(super) door: Arc<Door>,
    pub(super) service: TenantService,
}

#[tonic::async_trait]
impl Api for Tenants {
    async fn create_tenant(
        &self,
        request: tonic::Request<CreateTenantRequest>,
    ) -> Result<tonic::Response<CreateTenantResponse>, Status> {
        let visitor = self.door.visitor(&request);
        let CreateTenantRequest { tenant } = request.into_inner();
        let service = self.service.clone();
        self.door
            .call(visitor, at(&tenant), |permit, _origin| async move {
                let created = service.create(&permit).await?;
                Ok(CreateTenantResponse { tenant: Some(convert::tenant(created)) })
            })
            .await
    }

    async fn list_tenants(
        &self,
        request: tonic::Request<ListTenantsRequest>,
    ) -> Result<tonic::Response<ListTenantsResponse>, Status> {
        let visitor = self.door.visitor(&request);
        let (after, size) = match self.listing(request.into_inner()) {
            Ok(listing) => listing,
            Err(failure) => return Err(self.door.refuse_audited(&visitor, Action::ListTenants, &failure)),
        };
        let (service, door) = (self.service.clone(), Arc::clone(&self.door));
        self.door
            .call(visitor, Ok(Subject::default()), move |permit, _origin| async move {
                let (tenants, next) = service.list(&permit, after.as_ref(), size).await?;
                let next_page_token =
                    next.map_or_else(String::new, |next| door.pages.seal(&["tenants"], &[next.as_str()]));
                let tenants = tenants.into_iter().map(convert::tenant).collect();
                Ok(ListTenantsResponse { tenants, next_page_token })
            })
            .await
    }

    async fn rotate_tenant_key(
        &self,
        request: tonic::Request<RotateTenantKeyRequest>,
    ) -> Result<tonic::Response<RotateTenantKeyResponse>, Status> {
        let visitor = self.door.visitor(&request);
        let RotateTenantKeyRequest { tenant } = request.into_inner();
        let service = self.service.clone();
        self.door
            .call(visitor, at(&tenant), |permit, _origin| async move {
                let info = service.rotate_key(&permit).await?;
                let line = CensusLine { info, sealed_values: 0 };
                Ok(RotateTenantKeyResponse { key_version: Some(convert::key_version(line)) })
            })
            .await
    }

    async fn describe_tenant_keys(
        &self,
        request: tonic::Request<DescribeTenantKeysRequest>,
    ) -> Result<tonic::Response<DescribeTenantKeysResponse>, Status> {
        let visitor = self.door.visitor(&request);
        let DescribeTenantKeysRequest { tenant } = request.into_inner();
        let service = self.service.clone();
        self.door
            .call(visitor, at(&tenant), |permit, _origin| async move {
                let (tenant, census) = service.describe_keys(&permit).await?;
                let key_versions = census.into_iter().map(convert::key_version).collect();
                Ok(DescribeTenantKeysResponse { tenant: Some(convert::tenant(tenant)), key_versions })
            })
            .await
    }

    async fn schedule_tenant_purge(
        &self,
        request: tonic::Request<ScheduleTenantPurgeRequest>,
    ) -> Result<tonic::Response<ScheduleTenantPurgeResponse>, Status> {
        let visitor = self.door.visitor(&request);
        let ScheduleTenantPurgeRequest { tenant, window } = request.into_inner();
        let window = match convert::window(window) {
            Ok(window) => window,
            Err(failure) => {
                return Err(self.door.refuse_audited(&visitor, Action::ScheduleTenantPurge, &failure));
            }
        };
        let service = self.service.clone();
        self.door
            .call(visitor, at(&tenant), move |permit, _origin| async move {
                let tenant = service.schedule_purge(&permit, window).await?;
                Ok(ScheduleTenantPurgeResponse { tenant: Some(convert::tenant(tenant)) })
            })
            .await
    }

    async fn restore_tenant(
        &self,
        request: tonic::Request<RestoreTenantRequest>,
    ) -> Result<tonic::Response<RestoreTenantResponse>, Status> {
        let visitor = self.door.visitor(&request);
        let RestoreTenantRequest { tenant } = request.into_inner();
        let service = self.service.clone();
        self.door
            .call(visitor, at(&tenant), |permit, _origin| async move {
                let tenant = service.restore(&permit).await?;
                Ok(RestoreTenantResponse { tenant: Some(convert::tenant(tenant)) })
            })
            .await
    }

    async fn purge_tenant_now(
        &self,
        request: tonic::Request<PurgeTenantNowRequest>,
    ) -> Result<tonic::Response<PurgeTenantNowResponse>, Status> {
        let visitor = self.door.visitor(&request);
        let PurgeTenantNowRequest { tenant, confirm } = request.into_inner();
        let service = self.service.clone();
        self.door
            .call(visitor, at(&tenant), |permit, _origin| async move {
                let Purged { key_versions, grants, erased_at, trial_open_failed } =
                    service.purge_now(&permit, &confirm).await?;
                Ok(PurgeTenantNowResponse {
                    key_versions_destroyed: key_versions,
                    grants_deleted: grants,
                    live_erase_time: Some(convert::time(erased_at)),
                    trial_open_failed,
                })
            })
            .await
    }
}

impl Tenants {
    fn listing(&self, request: ListTenantsRequest) -> Result<(Option<TenantId>, u32), Failure> {
        let ListTenantsRequest { page_size, page_token } = request;
        let after = match page_token.as_str() {
            "" => None,
            token => match self.door.pages.open(&["tenants"], token)?.as_slice() {
                [tenant] => Some(convert::tenant_id(tenant)?),
                _ => return Err(convert::invalid_request("page_token")),
            },
        };
        Ok((after, convert::page_size(page_size)?))
    }
}

fn at(tenant: &str) -> Result<Subject, Failure> {
    let tenant = convert::tenant_id(tenant)?;
    Ok(Subject { resource: Resource { tenant: Some(tenant), ..Resource::default() }, subject: None })
}
