//! The vault under test: a real one with its files in a temporary directory, a
//! store that was filled beforehand, and a token endpoint that answers at once.
//!
//! Servers and callers have a runtime each, so that the time of the servers'
//! threads can be told from that of the callers'.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use futures_util::StreamExt as _;
use obo_vault::app::Ambient;
use obo_vault::client::Client;
use obo_vault::clock::{Clock as _, ShiftedClock};
use obo_vault::demo::stand::{Files, POLICY, RunningVault, Settings, Upstream};
use obo_vault::domain::grant::{AttemptId, Generation, GrantId, GrantKey, Lineage, Owner};
use obo_vault::domain::id::{ClientId, Issuer, SubjectId, TenantId};
use obo_vault::domain::key::KeyVersion;
use obo_vault::domain::scope::ScopeSet;
use obo_vault::entropy::{self, OsEntropy};
use obo_vault::keyring::{FileRootKey, Keyring};
use obo_vault::proto::GetAccessTokenRequest;
use obo_vault::seal::{Label, Place};
use obo_vault::store::sqlite::{SqliteKeyStore, SqliteStore};
use obo_vault::store::{Dates, Enrolment, EnrolmentCommit, EnrolmentKind, Renewed, Store as _};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Bytes of an access token; of a refresh token it is about the same.
pub(crate) const TOKEN_BYTES: usize = 1500;

/// Connections that callers use.
pub(crate) const CONNECTIONS: usize = 4;

const TENANT: &str = "contoso";
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// The threads of the callers have this name.
pub(crate) const CALLERS: &str = "callers";

/// A runtime whose threads have a name.
pub(crate) fn runtime(name: &str) -> Runtime {
    tokio::runtime::Builder::new_multi_thread().thread_name(name).enable_all().build().unwrap()
}

/// A vault that is not running yet, with grants in its store.
pub(crate) struct Bed {
    pub(crate) servers: Runtime,
    pub(crate) callers: Runtime,
    pub(crate) files: Files,
    pub(crate) directory: TempDir,
    pub(crate) clock: Arc<ShiftedClock>,
    /// Where the provider is.
    pub(crate) provider: String,
}

impl Bed {
    /// Writes the files and fills the store with `grants`.
    pub(crate) fn new(grants: usize, audit_durability: &'static str, policies: usize) -> Self {
        Self::with(grants, audit_durability, policies, |_| String::new())
    }

    /// The same with further tables of the configuration, which may name the
    /// provider's address.
    pub(crate) fn with(
        grants: usize,
        audit_durability: &'static str,
        policies: usize,
        more: impl FnOnce(&str) -> String,
    ) -> Self {
        let (servers, callers) = (runtime("servers"), runtime(CALLERS));
        let directory = tempfile::tempdir().unwrap();
        let endpoint = servers.block_on(token_endpoint());
        let upstream = Upstream {
            issuer: endpoint.clone(),
            token_endpoint: format!("{endpoint}/token"),
            jwks_uri: format!("{endpoint}/jwks"),
            revocation_endpoint: None,
            tenant_rule: "tenant_claim = \"tid\"".to_owned(),
            client_id: "vault".to_owned(),
            client_secret: "secret".to_owned(),
        };
        let settings = Settings {
            policy: policy(policies),
            audit_durability,
            more: format!("[rotation]\ncatch_up = false\n\n{}", more(&endpoint)),
            ..Settings::default()
        };
        let files = Files::create(directory.path(), &upstream, &settings, 0).unwrap();
        let bed = Self {
            servers,
            callers,
            files,
            directory,
            clock: Arc::new(ShiftedClock::new()),
            provider: endpoint,
        };
        bed.servers.block_on(bed.fill(&bed.provider, grants));
        bed
    }

    pub(crate) fn start(&self) -> RunningVault {
        let ambient = Ambient { clock: self.clock.clone(), entropy: OsEntropy::shared() };
        self.servers.block_on(RunningVault::start(&self.files, ambient)).unwrap()
    }

    pub(crate) fn stop(&self, vault: RunningVault) {
        self.servers.block_on(vault.stop()).unwrap();
    }

    /// Connections of the caller of that name.
    pub(crate) fn connect(&self, vault: &RunningVault, caller: &str, connections: usize) -> Vec<Client> {
        let connect = || self.callers.block_on(vault.client(&self.files, caller)).unwrap();
        (0..connections).map(|_| connect()).collect()
    }

    async fn fill(&self, issuer: &str, grants: usize) {
        let directory = self.directory.path();
        let store = SqliteStore::open(&directory.join("vault.db")).unwrap();
        let keys = SqliteKeyStore::open(&directory.join("keys.db")).unwrap();
        let root = FileRootKey::load(&directory.join("root.key")).unwrap();
        let entropy = OsEntropy::shared();
        let keyring = Keyring::new(
            Arc::new(root),
            Arc::new(keys),
            self.clock.clone(),
            entropy.clone(),
            obo_vault::keyring::Limits::default(),
        );
        let (tenant, version) = (TenantId::new(TENANT).unwrap(), KeyVersion::FIRST);
        keyring.create_version(&tenant, version).await.unwrap();
        store.create_tenant(&tenant, version, self.clock.now()).await.unwrap().unwrap();
        keyring.activate(&tenant, version).await.unwrap();

        let (store, keyring, now) = (&store, &keyring, self.clock.now());
        let make = |n| {
            let key = GrantKey {
                tenant: tenant.clone(),
                client: ClientId::new("portal").unwrap(),
                subject: SubjectId::new(&subject(n)).unwrap(),
            };
            let enrolment = Enrolment {
                lineage: Lineage(entropy::uuid(&*entropy).unwrap()),
                owner: Owner(entropy::uuid(&*entropy).unwrap()),
                kind: EnrolmentKind::OnBehalfOf,
                attempt: AttemptId(entropy::uuid(&*entropy).unwrap()),
                key,
                grant: GrantId(entropy::uuid(&*entropy).unwrap()),
                generation: Generation(1),
                issuer: Issuer::new(issuer).unwrap(),
                scopes: ScopeSet::new(["mail.read"]).unwrap(),
                resource: None,
                started_at: now,
            };
            async move {
                let label = Label::RefreshToken;
                let place = Place::new(
                    label,
                    enrolment.grant,
                    &enrolment.key,
                    &enrolment.issuer,
                    enrolment.generation,
                );
                let sealed = keyring.seal(version, &place, "r".repeat(TOKEN_BYTES).as_bytes()).await.unwrap();
                let renewed = Renewed { generation: enrolment.generation, key_version: version, sealed };
                store.begin_enrolment(&enrolment).await.unwrap().unwrap();
                let commit = EnrolmentCommit {
                    scopes: enrolment.scopes.clone(),
                    enrolment,
                    renewed,
                    at: now,
                    absolute_expires_at: None,
                    // The rotation job has nothing to refresh.
                    dates: Dates { idle_expires_at: None, next_refresh_at: now.plus(YEAR) },
                };
                store.commit_enrolment(commit).await.unwrap().unwrap();
            }
        };
        futures_util::stream::iter((0..grants).map(make)).buffer_unordered(256).collect::<Vec<()>>().await;
    }
}

/// Requests for the tokens of the first `grants`.
pub(crate) fn requests(grants: usize) -> Arc<[GetAccessTokenRequest]> {
    let request = |n| GetAccessTokenRequest {
        tenant: TENANT.to_owned(),
        subject: subject(n),
        client: "portal".to_owned(),
        scopes: vec!["mail.read".to_owned()],
        ..GetAccessTokenRequest::default()
    };
    (0..grants).map(request).collect()
}

fn subject(n: usize) -> String {
    format!("8d2c51c6-0000-4000-8000-{n:012}")
}

/// The policy of stands, filled up to `policies` with those of other callers.
fn policy(policies: usize) -> String {
    let others = policies.saturating_sub(POLICY.matches(';').count());
    let other = |n| {
        format!(
            "permit (principal == Caller::\"spiffe://stand/other-{n}\", action == Action::\"GetAccessToken\", \
             resource == Tenant::\"tenant-{n}\") when {{ context.client == \"portal\" }};\n"
        )
    };
    (0..others).map(other).fold(POLICY.to_owned(), |all, one| all + &one)
}

/// A token endpoint that answers at once, every time with a new refresh token.
/// Returns its address.
async fn token_endpoint() -> String {
    let issued = Arc::new(AtomicU64::new(0));
    let answer = move |_form: String| {
        let n = issued.fetch_add(1, Ordering::Relaxed);
        async move {
            let (access, refresh) = (format!("{n:0>TOKEN_BYTES$}"), format!("r{n:0>TOKEN_BYTES$}"));
            let body = format!(
                "{{\"token_type\":\"Bearer\",\"expires_in\":3600,\"scope\":\"mail.read\",\
                 \"access_token\":\"{access}\",\"refresh_token\":\"{refresh}\"}}"
            );
            ([("content-type", "application/json")], body)
        }
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    // Published keys of any tenant: none.
    let keys = || async { ([("content-type", "application/json")], "{\"keys\":[]}") };
    let router = Router::new().route("/token", post(answer)).fallback(keys);
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}
