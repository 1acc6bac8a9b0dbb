//! The stand of one test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use obo_vault::app::{Ambient, Stores};
use obo_vault::client::Client;
use obo_vault::clock::{Clock as _, ShiftedClock};
use obo_vault::config;
use obo_vault::demo::provider::{DevProvider, Options};
use obo_vault::demo::stand::{Files, RunningVault, Settings, SetupError, Upstream};
use obo_vault::entropy::OsEntropy;
use obo_vault::proto;
use tempfile::TempDir;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_types::StatusExt as _;

use crate::faulty_store::Faults;
use crate::log;

/// A provider, a vault and its callers. Dropping it stops both.
pub(crate) struct Stand {
    pub(crate) provider: DevProvider,
    pub(crate) clock: Arc<ShiftedClock>,
    pub(crate) files: Files,
    /// What goes wrong between the vault and its databases.
    pub(crate) faults: Faults,
    expects_reuse: AtomicBool,
    vault: Option<RunningVault>,
    _directory: TempDir,
}

impl Stand {
    pub(crate) async fn new() -> Self {
        Self::with(Options::default(), Settings::default()).await
    }

    pub(crate) async fn with(options: Options, settings: Settings) -> Self {
        let mut stand = Self::unstarted(options, settings, |_| ()).await;
        stand.start().await;
        stand
    }

    /// A stand whose vault has its files but does not run yet; `redirect` may
    /// change where the vault looks for its provider.
    pub(crate) async fn unstarted(
        options: Options,
        settings: Settings,
        redirect: impl FnOnce(&mut Upstream),
    ) -> Self {
        log::capture();
        let clock = Arc::new(ShiftedClock::new());
        let provider = DevProvider::start(options, clock.clone(), OsEntropy::shared()).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut upstream = Upstream::of(&provider);
        redirect(&mut upstream);
        let files = Files::create(directory.path(), &upstream, &settings, 0).unwrap();
        Self {
            provider,
            clock,
            files,
            faults: Faults::default(),
            expects_reuse: AtomicBool::new(false),
            vault: None,
            _directory: directory,
        }
    }

    pub(crate) fn ambient(&self) -> Ambient {
        Ambient { clock: self.clock.clone(), entropy: OsEntropy::shared() }
    }

    pub(crate) async fn start(&mut self) {
        self.try_start().await.unwrap();
    }

    pub(crate) async fn try_start(&mut self) -> Result<(), SetupError> {
        let faulty = |settings: &config::Store| Ok(self.faults.before(Stores::open(settings)?));
        self.vault = Some(RunningVault::start_over(&self.files, self.ambient(), faulty).await?);
        Ok(())
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

    /// A bare connection of the caller of that name.
    pub(crate) async fn channel(&self, caller: &str) -> Channel {
        self.try_channel(caller).await.unwrap()
    }

    pub(crate) async fn try_channel(&self, caller: &str) -> Result<Channel, tonic::transport::Error> {
        self.try_channel_trusting(caller, &self.files.pki().ca()).await
    }

    pub(crate) async fn try_channel_trusting(
        &self,
        caller: &str,
        ca: &std::path::Path,
    ) -> Result<Channel, tonic::transport::Error> {
        let file = |name: String| std::fs::read(self.files.directory().join(name)).unwrap();
        let identity = Identity::from_pem(file(format!("{caller}.pem")), file(format!("{caller}.key")));
        self.endpoint("https", Some(identity), ca).connect().await
    }

    /// One of somebody without a certificate.
    pub(crate) async fn anonymous_channel(&self, scheme: &str) -> Result<Channel, tonic::transport::Error> {
        self.endpoint(scheme, None, &self.files.pki().ca()).connect().await
    }

    fn endpoint(&self, scheme: &str, identity: Option<Identity>, ca: &std::path::Path) -> Endpoint {
        let endpoint = Endpoint::from_shared(format!("{scheme}://{}", self.address())).unwrap();
        if scheme == "http" {
            return endpoint;
        }
        let ca = Certificate::from_pem(std::fs::read(ca).unwrap());
        let tls = ClientTlsConfig::new().ca_certificate(ca).domain_name("localhost");
        let tls = match identity {
            Some(identity) => tls.identity(identity),
            None => tls,
        };
        endpoint.tls_config(tls).unwrap()
    }

    /// The vault reads its certificates anew.
    pub(crate) fn reload_tls(&self) -> Result<bool, String> {
        self.vault.as_ref().unwrap().tls().unwrap().reload(self.clock.now())
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.vault.as_ref().unwrap().address()
    }

    pub(crate) fn advance(&self, span: Duration) {
        self.clock.advance(span);
    }

    /// The test makes the provider see an old refresh token again, as a probe of
    /// a token that was used does.
    pub(crate) fn expect_reuse(&self) {
        self.expects_reuse.store(true, Ordering::SeqCst);
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

    pub(crate) async fn exchange(
        &self,
        request: proto::ExchangeOnBehalfOfRequest,
    ) -> Result<proto::ExchangeOnBehalfOfResponse, tonic::Status> {
        let answer = self.client("web").await.grants.exchange_on_behalf_of(request).await;
        answer.map(tonic::Response::into_inner)
    }

    /// An access token for the target that `change` makes of the usual one.
    pub(crate) async fn token_with(
        &self,
        user: &str,
        change: impl FnOnce(&mut proto::GetAccessTokenRequest),
    ) -> Result<proto::GetAccessTokenResponse, tonic::Status> {
        let mut request = token_request(user);
        change(&mut request);
        let answer = self.client("mail").await.tokens.get_access_token(request).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) async fn token(&self, user: &str) -> Result<proto::GetAccessTokenResponse, tonic::Status> {
        let answer = self.client("mail").await.tokens.get_access_token(token_request(user)).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) async fn describe(&self, user: &str) -> proto::Grant {
        self.try_describe(user).await.unwrap()
    }

    pub(crate) async fn try_describe(&self, user: &str) -> Result<proto::Grant, tonic::Status> {
        let request = proto::DescribeGrantRequest {
            tenant: TENANT.into(),
            subject: user.into(),
            client: "portal".into(),
        };
        let answer = self.client("auditor").await.grants.describe_grant(request).await;
        answer.map(|answer| answer.into_inner().grant.unwrap())
    }

    /// Waits until the grant is in the state.
    pub(crate) async fn until(&self, user: &str, state: proto::GrantState) -> proto::Grant {
        eventually(&format!("{user}'s grant is {state:?}"), async || {
            let grant = self.describe(user).await;
            (grant.state() == state).then_some(grant)
        })
        .await
    }
}

/// Whatever a test is about: an old refresh token that is used again costs a
/// user's consent.
impl Drop for Stand {
    fn drop(&mut self) {
        if !std::thread::panicking() && !self.expects_reuse.load(Ordering::SeqCst) {
            assert_eq!(self.provider.stats().reuse_detected, 0, "the vault used an old refresh token");
        }
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

/// What `condition` finds, asked again for ten seconds at most.
pub(crate) async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..400 {
        if let Some(found) = condition().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("waited in vain: {what}");
}

/// The stable reason of an error.
pub(crate) fn reason(status: &tonic::Status) -> String {
    let info = status.get_details_error_info();
    info.unwrap_or_else(|| panic!("{status:?} has no ErrorInfo")).reason
}
