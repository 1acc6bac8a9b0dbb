//! Makes the fixture of the present version; see the README in `tests/fixtures`.
//!
//! Everything is done through the API of a running vault. The process "dies" in
//! that its files are copied while it has redemptions and enrolments under way:
//! what a `kill -9` leaves behind is what is in the files at that moment.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use obo_vault::audit;
use obo_vault::clock::Clock as _;
use obo_vault::demo::provider::{DevProvider, Fault, Gate, UserClaims};
use obo_vault::demo::stand::{Files, Settings, Upstream};
use obo_vault::entropy::OsEntropy;
use obo_vault::proto;

use super::deployment::{FixedStart, NOWHERE, PROVIDER_KEY, Vault, eventually, options, reason};
use super::manifest::{Kept, Manifest};

/// 2026-01-01T00:00:00Z.
const BEGUN: i64 = 1_767_225_600_000;
const ISSUER: &str = "https://login.example/fixture";
const TOKENS_EXPIRED: Duration = Duration::from_secs(3700);
const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// Commit 2 fails while this is there, as it would without space on the disk.
const HOLD_COMMITS: &str = "
    CREATE TRIGGER held_commit BEFORE UPDATE OF generation ON grants WHEN NEW.generation > OLD.generation
        BEGIN SELECT RAISE(ABORT, 'held'); END;
    CREATE TRIGGER held_enrolment BEFORE INSERT ON grants BEGIN SELECT RAISE(ABORT, 'held'); END;";
const RELEASE_COMMITS: &str = "DROP TRIGGER held_commit; DROP TRIGGER held_enrolment;";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes the fixture of a version: once, when it is released"]
async fn make_the_fixture_of_this_version() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let (major, minor) = (env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"));
    let target = home.join(format!("v{major}.{minor}"));
    let maker = Maker::new().await;
    let vault = maker.start().await;
    maker.tenants(&vault).await;
    let run = maker.settled_grants(&vault).await;
    vault.stop().await;
    maker.sql("vault.db", HOLD_COMMITS);
    let vault = maker.start().await;
    maker.leave_under_way(&vault).await;
    maker.copy_to(&target);
    maker.describe(&target, run).write(&target);
}

struct Maker {
    provider: DevProvider,
    clock: Arc<FixedStart>,
    directory: tempfile::TempDir,
}

impl Maker {
    async fn new() -> Self {
        let clock = Arc::new(FixedStart::at(BEGUN));
        let directory = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
        fs::write(directory.path().join(PROVIDER_KEY), &key).unwrap();
        let provider = DevProvider::start(options(ISSUER, key), clock.clone(), OsEntropy::shared());
        let provider = provider.await.unwrap();
        let settings = Settings { server: String::new(), ..Settings::default() };
        Files::create(directory.path(), &Upstream::of(&provider), &settings, 0).unwrap();
        Self { provider, clock, directory }
    }

    async fn start(&self) -> Vault {
        Vault::start(self.directory.path(), self.clock.clone()).await
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// One that stays, one whose purge is scheduled, one that was purged.
    async fn tenants(&self, vault: &Vault) {
        for (tenant, user) in [("initech", "peter"), ("fabrikam", "dora"), ("contoso", "v1")] {
            vault.create_tenant(tenant).await.unwrap();
            enrol(vault, self.exchange(tenant, user)).await.unwrap();
        }
        let mut purger = vault.caller("purger").await;
        let request = proto::PurgeTenantNowRequest { tenant: "initech".into(), confirm: "initech".into() };
        purger.tenants.purge_tenant_now(request).await.unwrap();
        let request = proto::ScheduleTenantPurgeRequest {
            tenant: "fabrikam".into(),
            window: Some(MONTH.try_into().unwrap()),
        };
        purger.tenants.schedule_tenant_purge(request).await.unwrap();
    }

    /// A run of the rotation, grants under three versions, and one in each of the
    /// states that do not need a process to die. Returns the run.
    async fn settled_grants(&self, vault: &Vault) -> String {
        let request = proto::RunRotationRequest { force_new_versions: false, refresh_all: false };
        let mut reports =
            vault.caller("rotator").await.rotation.run_rotation(request).await.unwrap().into_inner();
        while reports.message().await.unwrap().is_some() {}
        let run = vault.rotation().await.run.unwrap().run_id;

        for user in ["v2", "v3"] {
            let request = proto::RotateTenantKeyRequest { tenant: "contoso".into() };
            vault.caller("rotator").await.tenants.rotate_tenant_key(request).await.unwrap();
            enrol(vault, self.exchange("contoso", user)).await.unwrap();
        }
        for user in ["revoked", "lost", "reauth", "in-doubt", "sending", "answered"] {
            enrol(vault, self.exchange("contoso", user)).await.unwrap();
        }
        self.clock.advance(TOKENS_EXPIRED);
        self.provider.revoke_user("revoked");
        refused(vault, "revoked", "GRANT_REVOKED").await;
        self.provider.script(Fault::CloseBeforeAnswer { consume: true }, 1);
        refused(vault, "lost", "GRANT_IN_DOUBT").await;
        self.clock.advance(Duration::from_secs(200));
        eventually(async || {
            (vault.grants("contoso").await["lost"].state() == proto::GrantState::Lost).then_some(())
        })
        .await;
        self.provider.require_mfa("reauth", true);
        refused(vault, "reauth", "INTERACTION_REQUIRED").await;
        self.provider.script(Fault::CloseBeforeAnswer { consume: false }, 1);
        refused(vault, "in-doubt", "GRANT_IN_DOUBT").await;
        run
    }

    /// Redemptions and enrolments that are neither answered nor committed when
    /// this returns. They stay so until the process ends.
    async fn leave_under_way(&self, vault: &Vault) {
        let gate = Gate::new();
        let hang = || self.provider.script(Fault::Hang { consume: false, gate: gate.clone() }, 1);
        let (request, import) =
            (self.exchange("contoso", "exchange-answered"), self.import("import-answered"));
        let (mut web, mut mail) = (vault.caller("web").await, vault.caller("mail").await);
        tokio::spawn(async move { drop(web.grants.exchange_on_behalf_of(request).await) });
        let mut web = vault.caller("web").await;
        tokio::spawn(async move { drop(web.grants.import_grant(import).await) });
        tokio::spawn(async move { drop(mail.tokens.get_access_token(usual("answered")).await) });
        eventually(async || {
            let answers =
                "SELECT (SELECT count(answer) FROM attempt) + (SELECT count(answer) FROM enrolment)";
            (self.number("vault.db", answers) == 3).then_some(())
        })
        .await;

        hang();
        let mut mail = vault.caller("mail").await;
        tokio::spawn(async move { drop(mail.tokens.get_access_token(usual("sending")).await) });
        gate.reached(1).await;
        hang();
        let (request, mut web) = (self.exchange("contoso", "exchange-open"), vault.caller("web").await);
        tokio::spawn(async move { drop(web.grants.exchange_on_behalf_of(request).await) });
        gate.reached(2).await;
        hang();
        let (import, mut web) = (self.import("import-open"), vault.caller("web").await);
        tokio::spawn(async move { drop(web.grants.import_grant(import).await) });
        gate.reached(3).await;
    }

    fn copy_to(&self, target: &Path) {
        if target.exists() {
            fs::remove_dir_all(target).unwrap();
        }
        fs::create_dir_all(target).unwrap();
        // The log is not begun anew under a reader, so that a copy of the file
        // and then of the log is whole.
        let readers = ["vault.db", "keys.db"].map(|name| {
            let reader = open(&self.file(name));
            reader.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;").unwrap();
            reader
        });
        let mut names: Vec<_> =
            self.directory.path().read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            let text = name.to_str().unwrap();
            if !text.ends_with("-shm") && !text.ends_with(".lock") {
                fs::copy(self.directory.path().join(text), target.join(text)).unwrap();
            }
        }
        drop(readers);
        for (name, sql) in [("vault.db", RELEASE_COMMITS), ("keys.db", "")] {
            let database = open(&target.join(name));
            database.execute_batch(sql).unwrap();
            database.execute_batch("PRAGMA wal_checkpoint(TRUNCATE);").unwrap();
        }
        let config = target.join("obo-vault.toml");
        let text = fs::read_to_string(&config).unwrap();
        let text = text.replace(&format!("{}/", self.directory.path().display()), "");
        fs::write(&config, text.replace(&self.provider.base(), NOWHERE)).unwrap();
    }

    fn describe(&self, target: &Path, run: String) -> Manifest {
        let verified = audit::verify(&target.join("audit.jsonl"), None).unwrap();
        let database = open(&target.join("vault.db"));
        let sql = "
            SELECT g.tenant, g.subject, g.status, a.answer IS NOT NULL, g.generation, g.key_version
                FROM grants g LEFT JOIN attempt a ON a.grant_id = g.id
            UNION ALL
            SELECT tenant, subject, '', answer IS NOT NULL, generation, coalesce(answer_version, 0) FROM enrolment
            ORDER BY 1, 2";
        let mut statement = database.prepare(sql).unwrap();
        let grants = statement.query_map([], |row| {
            let subject: String = row.get(1)?;
            let refresh_token = self.provider.current_refresh_token(&subject, "vault").unwrap_or_default();
            Ok(Kept {
                tenant: row.get(0)?,
                subject,
                state: row.get(2)?,
                answered: row.get(3)?,
                generation: row.get(4)?,
                key_version: row.get(5)?,
                refresh_token,
            })
        });
        Manifest {
            died_at: self.clock.now().0,
            audit_entries: verified.entries,
            audit_head: verified.head.hash.to_string(),
            run,
            issuer: ISSUER.to_owned(),
            grants: grants.unwrap().map(Result::unwrap).collect(),
        }
    }

    fn exchange(&self, tenant: &str, user: &str) -> proto::ExchangeOnBehalfOfRequest {
        let claims = UserClaims { tenant: Some(tenant.to_owned()), ..UserClaims::default() };
        proto::ExchangeOnBehalfOfRequest {
            client: "portal".into(),
            user_access_token: self.provider.user_token_with(user, claims),
            scopes: vec!["mail.read".into()],
            ..Default::default()
        }
    }

    fn import(&self, user: &str) -> proto::ImportGrantRequest {
        let scopes = ["mail.read", "offline_access", "openid"];
        proto::ImportGrantRequest {
            tenant: "contoso".into(),
            subject: user.into(),
            client: "portal".into(),
            imported_token: self.provider.mint_refresh_token("vault", user, &scopes),
            ..Default::default()
        }
    }

    fn sql(&self, name: &str, sql: &str) {
        open(&self.file(name)).execute_batch(sql).unwrap();
    }

    fn number(&self, name: &str, sql: &str) -> i64 {
        open(&self.file(name)).query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

async fn enrol(vault: &Vault, request: proto::ExchangeOnBehalfOfRequest) -> Result<(), tonic::Status> {
    vault.caller("web").await.grants.exchange_on_behalf_of(request).await.map(drop)
}

async fn refused(vault: &Vault, user: &str, expected: &str) {
    let status = vault.token("contoso", user).await.unwrap_err();
    assert_eq!(reason(&status), expected, "{user}");
}

fn usual(user: &str) -> proto::GetAccessTokenRequest {
    proto::GetAccessTokenRequest {
        tenant: "contoso".into(),
        subject: user.into(),
        client: "portal".into(),
        scopes: vec!["mail.read".into()],
        ..Default::default()
    }
}

#[expect(clippy::disallowed_types, reason = "a stranger at the file")]
fn open(path: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(path).unwrap()
}
