//! The stand of one test.

use std::sync::Arc;
use std::time::Duration;

use obo_vault::app::Ambient;
use obo_vault::client::Client;
use obo_vault::clock::ShiftedClock;
use obo_vault::demo::provider::{DevProvider, Options};
use obo_vault::demo::stand::{Files, RunningVault, Settings, Upstream};
use obo_vault::entropy::OsEntropy;
use obo_vault::proto;
use tempfile::TempDir;
use tonic_types::StatusExt as _;

/// A provider, a vault and its callers. Dropping it stops both.
pub(crate) struct Stand {
    pub(crate) provider: DevProvider,
    pub(crate) clock: Arc<ShiftedClock>,
    pub(crate) files: Files,
    vault: Option<RunningVault>,
    _directory: TempDir,
}

impl Stand {
    pub(crate) async fn new() -> Self {
        Self::with(Options::default(), Settings::default()).await
    }

    pub(crate) async fn with(options: Options, settings: Settings) -> Self {
        let clock = Arc::new(ShiftedClock::new());
        let provider = DevProvider::start(options, clock.clone(), OsEntropy::shared()).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let files = Files::create(directory.path(), &Upstream::of(&provider), &settings, 0).unwrap();
        let mut stand = Self { provider, clock, files, vault: None, _directory: directory };
        stand.start().await;
        stand
    }

    pub(crate) fn ambient(&self) -> Ambient {
        Ambient { clock: self.clock.clone(), entropy: OsEntropy::shared() }
    }

    pub(crate) async fn start(&mut self) {
        self.vault = Some(RunningVault::start(&self.files, self.ambient()).await.unwrap());
    }

    pub(crate) async fn stop(&mut self) {
        self.vault.take().unwrap().stop().await.unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    pub(crate) async fn client(&self, caller: &str) -> Client {
        self.vault.as_ref().unwrap().client(&self.files, caller).await.unwrap()
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.vault.as_ref().unwrap().address()
    }

    pub(crate) fn advance(&self, span: Duration) {
        self.clock.advance(span);
    }

    /// Makes the provider's tenant in the vault.
    pub(crate) async fn tenant(&self) {
        let request = proto::CreateTenantRequest { tenant: TENANT.into() };
        self.client("operator").await.tenants.create_tenant(request).await.unwrap();
    }

    /// Takes a user's grant in, on behalf of the user.
    pub(crate) async fn grant(&self, user: &str) -> proto::Grant {
        let request = self.exchange_request(user);
        let answer = self.client("web").await.grants.exchange_on_behalf_of(request).await.unwrap();
        answer.into_inner().grant.unwrap()
    }

    pub(crate) fn exchange_request(&self, user: &str) -> proto::ExchangeOnBehalfOfRequest {
        proto::ExchangeOnBehalfOfRequest {
            client: "portal".into(),
            user_access_token: self.provider.user_token(user, "api://vault"),
            scopes: vec!["mail.read".into()],
            ..Default::default()
        }
    }

    pub(crate) async fn token(&self, user: &str) -> Result<proto::GetAccessTokenResponse, tonic::Status> {
        let answer = self.client("mail").await.tokens.get_access_token(token_request(user)).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) async fn describe(&self, user: &str) -> proto::Grant {
        let request = proto::DescribeGrantRequest {
            tenant: TENANT.into(),
            subject: user.into(),
            client: "portal".into(),
        };
        let answer = self.client("auditor").await.grants.describe_grant(request).await.unwrap();
        answer.into_inner().grant.unwrap()
    }
}

/// The tenant of the provider's users.
pub(crate) const TENANT: &str = "contoso";

/// An hour, and a bit: the access tokens of the provider have expired.
pub(crate) const TOKENS_EXPIRED: Duration = Duration::from_secs(3700);

pub(crate) fn token_request(user: &str) -> proto::GetAccessTokenRequest {
    proto::GetAccessTokenRequest {
        tenant: TENANT.into(),
        subject: user.into(),
        client: "portal".into(),
        scopes: vec!["mail.read".into()],
        ..Default::default()
    }
}

/// The stable reason of an error.
pub(crate) fn reason(status: &tonic::Status) -> String {
    let info = status.get_details_error_info();
    info.unwrap_or_else(|| panic!("{status:?} has no ErrorInfo")).reason
}
