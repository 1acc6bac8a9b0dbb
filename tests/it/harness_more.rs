//! More of the stand: operators, the rotation job, and the vault's own files
//! while it is stopped.

use std::path::{Path, PathBuf};
use std::time::Duration;

use obo_vault::client::Client;
use obo_vault::demo::provider::{Fault, Gate};
use obo_vault::domain::id::TenantId;
use obo_vault::proto;
use obo_vault::store::sqlite::{SqliteKeyStore, SqliteStore};
use obo_vault::store::{KeyStore as _, StoreError};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Stand, TENANT, token_request};

/// Longest that a test waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again and again until `look` finds what the test waits for.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("{what} never came"))
}

/// A request for a token on its way, in a task of its own.
pub(crate) type Asking = tokio::task::JoinHandle<Result<proto::GetAccessTokenResponse, tonic::Status>>;

impl Stand {
    pub(crate) async fn create(&self, tenant: &str) -> Result<proto::Tenant, tonic::Status> {
        let request = proto::CreateTenantRequest { tenant: tenant.into() };
        let answer = self.client("operator").await.tenants.create_tenant(request).await?;
        Ok(answer.into_inner().tenant.unwrap())
    }

    pub(crate) async fn tenants(&self, page_size: u32, page_token: &str) -> (Vec<proto::Tenant>, String) {
        let request = proto::ListTenantsRequest { page_size, page_token: page_token.into() };
        let page = self.client("auditor").await.tenants.list_tenants(request).await.unwrap().into_inner();
        (page.tenants, page.next_page_token)
    }

    /// The provider's tenant, as a listing shows it.
    pub(crate) async fn contoso(&self) -> proto::Tenant {
        let (tenants, _) = self.tenants(0, "").await;
        tenants.into_iter().find(|t| t.tenant == TENANT).unwrap()
    }

    pub(crate) async fn rotate_key(&self) -> Result<proto::KeyVersion, tonic::Status> {
        let request = proto::RotateTenantKeyRequest { tenant: TENANT.into() };
        let answer = self.client("rotator").await.tenants.rotate_tenant_key(request).await?;
        Ok(answer.into_inner().key_version.unwrap())
    }

    /// The usage: version, state, sealed values.
    pub(crate) async fn usage(&self) -> Vec<(u32, proto::KeyState, u64)> {
        let request = proto::DescribeTenantKeysRequest { tenant: TENANT.into() };
        let answer = self.client("auditor").await.tenants.describe_tenant_keys(request).await.unwrap();
        let versions = answer.into_inner().key_versions;
        versions.iter().map(|v| (v.version, v.state(), v.sealed_values)).collect()
    }

    pub(crate) async fn schedule_purge(&self, window: Duration) -> proto::Tenant {
        self.try_schedule_purge(window).await.unwrap()
    }

    pub(crate) async fn try_schedule_purge(&self, window: Duration) -> Result<proto::Tenant, tonic::Status> {
        let window = Some(window.try_into().unwrap());
        let request = proto::ScheduleTenantPurgeRequest { tenant: TENANT.into(), window };
        let answer = self.client("purger").await.tenants.schedule_tenant_purge(request).await?;
        Ok(answer.into_inner().tenant.unwrap())
    }

    pub(crate) async fn restore(&self) -> Result<proto::Tenant, tonic::Status> {
        let request = proto::RestoreTenantRequest { tenant: TENANT.into() };
        let answer = self.client("purger").await.tenants.restore_tenant(request).await?;
        Ok(answer.into_inner().tenant.unwrap())
    }

    pub(crate) async fn purge_now(
        &self,
        confirm: &str,
    ) -> Result<proto::PurgeTenantNowResponse, tonic::Status> {
        let request = proto::PurgeTenantNowRequest { tenant: TENANT.into(), confirm: confirm.into() };
        let answer = self.client("purger").await.tenants.purge_tenant_now(request).await;
        answer.map(tonic::Response::into_inner)
    }

    /// The provider takes the next request, and answers it when the gate is
    /// released.
    pub(crate) fn hang(&self) -> Gate {
        let gate = Gate::new();
        self.provider.script(Fault::Hang { consume: true, gate: gate.clone() }, 1);
        gate
    }

    /// Asks for a user's token without waiting for it.
    pub(crate) async fn ask(&self, user: &str) -> Asking {
        let (mut client, request) = (self.client("mail").await, token_request(user));
        tokio::spawn(
            async move { client.tokens.get_access_token(request).await.map(tonic::Response::into_inner) },
        )
    }

    /// Starts a rotation run, or joins one.
    pub(crate) async fn start_rotation(
        &self,
        force_new_versions: bool,
        refresh_all: bool,
    ) -> tonic::Streaming<proto::RunRotationResponse> {
        start_rotation(self.client("rotator").await, force_new_versions, refresh_all).await
    }

    /// Runs the rotation to its end; returns all reports.
    pub(crate) async fn rotate(
        &self,
        force_new_versions: bool,
        refresh_all: bool,
    ) -> Vec<proto::RotationRun> {
        let mut stream = self.start_rotation(force_new_versions, refresh_all).await;
        let mut reports = Vec::new();
        while let Some(report) = stream.message().await.unwrap() {
            reports.push(report.run.unwrap());
        }
        let last = reports.last().unwrap();
        assert_eq!(last.phase(), proto::RotationPhase::Done);
        assert!(last.end_time.is_some());
        reports
    }

    pub(crate) async fn rotation(&self) -> proto::DescribeRotationResponse {
        let request = proto::DescribeRotationRequest {};
        self.client("auditor").await.rotation.describe_rotation(request).await.unwrap().into_inner()
    }

    /// The newest run, once it has ended and `fits`.
    pub(crate) async fn ended_run(&self, fits: impl Fn(&proto::RotationRun) -> bool) -> proto::RotationRun {
        eventually("the end of the run", async || {
            self.rotation().await.run.filter(|run| run.phase() == proto::RotationPhase::Done && fits(run))
        })
        .await
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.directory().join(name)
    }

    /// The token store, while the vault is stopped.
    pub(crate) async fn token_store(&self) -> SqliteStore {
        opened(|| SqliteStore::open(&self.file("vault.db"))).await
    }

    /// The wrapped keys of the provider's tenant, while the vault is stopped.
    pub(crate) async fn wrapped_keys(&self) -> Vec<Vec<u8>> {
        let keys = opened(|| SqliteKeyStore::open(&self.file("keys.db"))).await;
        let keys = keys.keys(&TenantId::new(TENANT).unwrap()).await.unwrap();
        keys.into_iter().filter_map(|key| key.wrapped).collect()
    }

    /// The sealed refresh tokens of all grants, while the vault is stopped.
    pub(crate) fn sealed_tokens(&self) -> Vec<Vec<u8>> {
        let database = self.database();
        let mut statement = database.prepare("SELECT sealed FROM grants").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    /// The token store's file as a stranger opens it, while the vault is stopped.
    #[expect(clippy::disallowed_types, reason = "a stranger at the file")]
    pub(crate) fn database(&self) -> rusqlite::Connection {
        self.reader("vault.db")
    }

    /// One of the vault's databases as a stranger reads it, also while the vault
    /// runs.
    #[expect(clippy::disallowed_types, reason = "a stranger at the file")]
    pub(crate) fn reader(&self, name: &str) -> rusqlite::Connection {
        rusqlite::Connection::open(self.file(name)).unwrap()
    }

    /// Which of the vault's files hold the bytes.
    pub(crate) fn files_with(&self, needle: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        for entry in self.files.directory().read_dir().unwrap() {
            let entry = entry.unwrap();
            // A log goes when its last connection is closed.
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            if bytes.windows(needle.len()).any(|window| window == needle) {
                found.push(entry.file_name().into_string().unwrap());
            }
        }
        found
    }

    /// Lines of the audit log that have this text.
    pub(crate) fn audited(&self, text: &str) -> usize {
        let log = std::fs::read_to_string(self.file("audit.jsonl")).unwrap();
        log.lines().filter(|line| line.contains(text)).count()
    }
}

pub(crate) async fn start_rotation(
    mut client: Client,
    force_new_versions: bool,
    refresh_all: bool,
) -> tonic::Streaming<proto::RunRotationResponse> {
    let request = proto::RunRotationRequest { force_new_versions, refresh_all };
    client.rotation.run_rotation(request).await.unwrap().into_inner()
}

/// A vault that has stopped may need a moment to let go of its files.
async fn opened<T>(open: impl Fn() -> Result<T, StoreError>) -> T {
    eventually("the end of the lock", async || open().ok()).await
}

impl Stand {
    /// Whether the caller of that name gets a connection on which it is answered
    /// anything, health to begin with.
    pub(crate) async fn is_let_in(&self, caller: &str) -> bool {
        answers(self.try_channel(caller).await).await
    }

    /// The same for one that trusts the server of this authority.
    pub(crate) async fn is_let_in_trusting(&self, caller: &str, ca: &Path) -> bool {
        answers(self.try_channel_trusting(caller, ca).await).await
    }
}

async fn answers(channel: Result<Channel, tonic::transport::Error>) -> bool {
    let Ok(channel) = channel else { return false };
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.is_ok()
}
