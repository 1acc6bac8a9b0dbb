//! A copy of a fixture, the provider it belongs to, and a vault on it.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use obo_vault::app::{Ambient, App, StartError};
use obo_vault::client::{Address, Client};
use obo_vault::clock::{Clock, Instant, SystemClock, Timestamp};
use obo_vault::config::Config;
use obo_vault::demo::provider::{DevProvider, Options, SigningKeyPem};
use obo_vault::entropy::OsEntropy;
use obo_vault::proto;
use obo_vault::shutdown::Shutdown;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic_types::StatusExt as _;

use super::manifest::Manifest;

/// Where the fixture's configuration looks for its provider.
pub(crate) const NOWHERE: &str = "http://127.0.0.1:1";

/// The provider's signing key, beside the vault's files.
pub(crate) const PROVIDER_KEY: &str = "provider.key";

/// A clock that shows a time of the test's choice and goes on from there, so
/// that a deployment is opened in the moment in which it was left.
pub(crate) struct FixedStart {
    system: SystemClock,
    begun: Instant,
    start: AtomicI64,
}

impl FixedStart {
    pub(crate) fn at(start: i64) -> Self {
        let system = SystemClock::new();
        Self { begun: system.instant(), system, start: start.into() }
    }

    pub(crate) fn advance(&self, span: Duration) {
        self.start.fetch_add(i64::try_from(span.as_millis()).unwrap(), Ordering::SeqCst);
    }

    fn moved(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.start.load(Ordering::SeqCst)).unwrap())
    }
}

impl Clock for FixedStart {
    fn now(&self) -> Timestamp {
        Timestamp(0).plus(self.moved() + self.system.instant().since(self.begun))
    }

    fn instant(&self) -> Instant {
        self.system.instant().plus(self.moved())
    }
}

/// The options of the provider that fixtures belong to.
pub(crate) fn options(issuer: &str, signing_key: String) -> Options {
    Options {
        issuer: Some(issuer.to_owned()),
        signing_key_pem: Some(SigningKeyPem(signing_key)),
        refresh_token_bytes: 32,
        ..Options::default()
    }
}

/// A copy of a fixture that may be changed.
pub(crate) struct Deployment {
    pub(crate) manifest: Manifest,
    pub(crate) provider: DevProvider,
    clock: Arc<FixedStart>,
    directory: TempDir,
}

impl Deployment {
    pub(crate) async fn of(fixture: &Path) -> Self {
        let manifest = Manifest::read(fixture);
        let directory = tempfile::tempdir().unwrap();
        for entry in fixture.read_dir().unwrap() {
            let entry = entry.unwrap();
            let copy = directory.path().join(entry.file_name());
            fs::copy(entry.path(), &copy).unwrap();
            // What is checked in has lost its mode.
            fs::set_permissions(&copy, Permissions::from_mode(0o600)).unwrap();
        }
        let clock = Arc::new(FixedStart::at(manifest.died_at));
        let key = fs::read_to_string(directory.path().join(PROVIDER_KEY)).unwrap();
        let options = options(&manifest.issuer, key);
        let provider = DevProvider::start(options, clock.clone(), OsEntropy::shared()).await.unwrap();
        for kept in manifest.grants.iter().filter(|kept| !kept.refresh_token.is_empty()) {
            let scopes = ["mail.read", "offline_access"];
            assert!(provider.adopt_refresh_token("vault", &kept.subject, &scopes, &kept.refresh_token));
        }
        let config = directory.path().join("obo-vault.toml");
        let text = fs::read_to_string(&config).unwrap();
        assert!(text.contains(NOWHERE));
        fs::write(&config, text.replace(NOWHERE, &provider.base())).unwrap();
        Self { manifest, provider, clock, directory }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn advance(&self, span: Duration) {
        self.clock.advance(span);
    }

    pub(crate) async fn start(&self) -> Vault {
        Vault::start(self.directory.path(), self.clock.clone()).await
    }
}

/// A vault that runs on the files of a directory.
pub(crate) struct Vault {
    directory: PathBuf,
    endpoint: String,
    shutdown: Shutdown,
    running: JoinHandle<Result<(), StartError>>,
}

impl Vault {
    pub(crate) async fn start(directory: &Path, clock: Arc<FixedStart>) -> Self {
        // A vault that has stopped may need a moment to let go of its files.
        let app = eventually(async || {
            let config = Config::load(&directory.join("obo-vault.toml")).unwrap();
            let ambient = Ambient { clock: clock.clone(), entropy: OsEntropy::shared() };
            match App::build(config, ambient).await {
                Ok(app) => Some(app),
                Err(error) if error.why.contains("lock") => None,
                Err(error) => panic!("{error}"),
            }
        })
        .await;
        let endpoint = format!("https://{}", app.address().unwrap());
        let shutdown = Shutdown::new();
        let running = tokio::spawn(app.run(shutdown.clone()));
        Self { directory: directory.to_owned(), endpoint, shutdown, running }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.trigger();
        self.running.await.unwrap().unwrap();
    }

    /// The caller of that name.
    pub(crate) async fn caller(&self, name: &str) -> Client {
        let file = |name: String| Some(self.directory.join(name));
        let address = Address {
            endpoint: self.endpoint.clone(),
            ca_file: file("ca.pem".to_owned()),
            certificate_file: file(format!("{name}.pem")),
            key_file: file(format!("{name}.key")),
            server_name: Some("localhost".to_owned()),
        };
        Client::connect(&address).await.unwrap()
    }

    /// A tenant's grants by subject.
    pub(crate) async fn grants(&self, tenant: &str) -> BTreeMap<String, proto::Grant> {
        let request = proto::ListGrantsRequest { tenant: tenant.into(), ..Default::default() };
        let grants = self.caller("auditor").await.grants.list_grants(request).await.unwrap();
        grants.into_inner().grants.into_iter().map(|grant| (grant.subject.clone(), grant)).collect()
    }

    pub(crate) async fn token(
        &self,
        tenant: &str,
        user: &str,
    ) -> Result<proto::GetAccessTokenResponse, Status> {
        let request = proto::GetAccessTokenRequest {
            tenant: tenant.into(),
            subject: user.into(),
            client: "portal".into(),
            scopes: vec!["mail.read".into()],
            ..Default::default()
        };
        let answer = self.caller("mail").await.tokens.get_access_token(request).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) async fn tenants(&self) -> Vec<proto::Tenant> {
        let request = proto::ListTenantsRequest::default();
        let tenants = self.caller("auditor").await.tenants.list_tenants(request).await.unwrap();
        tenants.into_inner().tenants
    }

    pub(crate) async fn create_tenant(&self, tenant: &str) -> Result<(), Status> {
        let request = proto::CreateTenantRequest { tenant: tenant.into() };
        self.caller("operator").await.tenants.create_tenant(request).await.map(drop)
    }

    pub(crate) async fn restore(&self, tenant: &str) -> Result<(), Status> {
        let request = proto::RestoreTenantRequest { tenant: tenant.into() };
        self.caller("purger").await.tenants.restore_tenant(request).await.map(drop)
    }

    pub(crate) async fn keys(&self, tenant: &str) -> Vec<proto::KeyVersion> {
        let request = proto::DescribeTenantKeysRequest { tenant: tenant.into() };
        let keys = self.caller("auditor").await.tenants.describe_tenant_keys(request).await.unwrap();
        keys.into_inner().key_versions
    }

    pub(crate) async fn rotation(&self) -> proto::DescribeRotationResponse {
        let request = proto::DescribeRotationRequest {};
        self.caller("auditor").await.rotation.describe_rotation(request).await.unwrap().into_inner()
    }

    /// A run with new versions for all; its last report.
    pub(crate) async fn rotate(&self) -> proto::RotationRun {
        let request = proto::RunRotationRequest { force_new_versions: true, refresh_all: false };
        let run = self.caller("rotator").await.rotation.run_rotation(request).await.unwrap();
        let (mut reports, mut last) = (run.into_inner(), None);
        while let Some(report) = reports.message().await.unwrap() {
            last = report.run;
        }
        last.unwrap()
    }
}

/// What `condition` finds, asked again and again.
pub(crate) async fn eventually<T>(mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), found).await.unwrap_or_else(|_| panic!("it never came"))
}

/// The stable reason of an error.
pub(crate) fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.unwrap_or_else(|| panic!("{status:?} has no ErrorInfo")).reason
}
