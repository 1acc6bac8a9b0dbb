//! A provider in this process, the files of a vault, and the binary on them.

use std::path::PathBuf;

use obo_vault::clock::SystemClock;
use obo_vault::demo::provider::{DevProvider, Options};
use obo_vault::demo::stand::{Files, Settings, Upstream};
use obo_vault::domain::grant::GrantId;
use obo_vault::entropy::OsEntropy;
use obo_vault::proto;
use tempfile::TempDir;
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::process::Binary;

pub(crate) const TENANT: &str = "contoso";

pub(crate) struct World {
    pub(crate) provider: DevProvider,
    pub(crate) files: Files,
    binary: Option<Binary>,
    _directory: TempDir,
}

impl World {
    /// With a tenant and the binary serving.
    pub(crate) async fn new(settings: &Settings) -> Self {
        let provider = DevProvider::start(Options::default(), SystemClock::shared(), OsEntropy::shared());
        let provider = provider.await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let files = Files::create(directory.path(), &Upstream::of(&provider), settings, 0).unwrap();
        let binary = Some(Binary::start(&files).await);
        let world = Self { provider, files, binary, _directory: directory };
        let request = proto::CreateTenantRequest { tenant: TENANT.into() };
        world.client("operator").await.tenants.create_tenant(request).await.unwrap();
        world
    }

    pub(crate) fn binary(&self) -> &Binary {
        self.binary.as_ref().unwrap()
    }

    /// Hands the binary over, to be ended.
    pub(crate) fn take(&mut self) -> Binary {
        self.binary.take().unwrap()
    }

    pub(crate) async fn start(&mut self) {
        assert!(self.binary.is_none());
        self.binary = Some(Binary::start(&self.files).await);
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.files.directory().join(name)
    }

    /// Its length now; 0 when there is none.
    pub(crate) fn length(&self, name: &str) -> u64 {
        length(&self.file(name))
    }

    pub(crate) async fn client(&self, caller: &str) -> obo_vault::client::Client {
        self.binary().client(&self.files, caller).await
    }

    pub(crate) fn exchange_request(&self, user: &str) -> proto::ExchangeOnBehalfOfRequest {
        proto::ExchangeOnBehalfOfRequest {
            client: "portal".into(),
            user_access_token: self.provider.user_token(user, "api://vault"),
            scopes: vec!["mail.read".into()],
            ..Default::default()
        }
    }

    pub(crate) async fn exchange(&self, user: &str) -> Result<proto::Grant, Status> {
        let request = self.exchange_request(user);
        let answer = self.client("web").await.grants.exchange_on_behalf_of(request).await?;
        Ok(answer.into_inner().grant.unwrap())
    }

    pub(crate) async fn token(
        &self,
        request: proto::GetAccessTokenRequest,
    ) -> Result<proto::GetAccessTokenResponse, Status> {
        let answer = self.client("mail").await.tokens.get_access_token(request).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) async fn describe(&self, user: &str) -> Result<proto::Grant, Status> {
        describe(&mut self.client("auditor").await, user).await
    }
}

pub(crate) async fn describe(
    client: &mut obo_vault::client::Client,
    user: &str,
) -> Result<proto::Grant, Status> {
    let request =
        proto::DescribeGrantRequest { tenant: TENANT.into(), subject: user.into(), client: "portal".into() };
    let answer = client.grants.describe_grant(request).await?;
    Ok(answer.into_inner().grant.unwrap())
}

/// For the token that the enrolment brought, or one of the same kind.
pub(crate) fn usual(user: &str) -> proto::GetAccessTokenRequest {
    proto::GetAccessTokenRequest {
        tenant: TENANT.into(),
        subject: user.into(),
        client: "portal".into(),
        scopes: vec!["mail.read".into()],
        ..Default::default()
    }
}

/// For a token that is in nobody's memory, so that the refresh token is used.
pub(crate) fn fresh(user: &str) -> proto::GetAccessTokenRequest {
    let id: GrantId = GrantId(obo_vault::entropy::uuid(&*OsEntropy::shared()).unwrap());
    let claims_challenge = format!(r#"{{"access_token":{{"nonce":{{"value":"{id}"}}}}}}"#);
    proto::GetAccessTokenRequest { claims_challenge, ..usual(user) }
}

pub(crate) fn length(path: &std::path::Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// The stable reason of an error.
pub(crate) fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.unwrap_or_else(|| panic!("{status:?} has no ErrorInfo")).reason
}
