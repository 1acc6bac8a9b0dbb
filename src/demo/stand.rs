//! A stand: a development provider, a vault with its files in one directory, and
//! callers with certificates. The demonstration, the tests and the benchmarks
//! use the same one.
//!
//! The vault is configured by real files, so that it can also be served by the
//! binary (`obo-vault serve --config …`) and be killed.

use std::fmt;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::Datelike as _;
use tokio::task::JoinHandle;

use crate::app::{Ambient, App, ServerTls, StartError, Stores};
use crate::client::{Address, Client};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::{self, Config};
use crate::keyring::FileRootKey;
use crate::shutdown::Shutdown;

use super::pki::Pki;
use super::provider::DevProvider;

/// The files a running vault has locked.
const LOCKS: [&str; 3] = ["audit.jsonl", "vault.db.lock", "keys.db.lock"];

/// Longest time in which a vault that has stopped closes its files.
const CLOSING: Duration = Duration::from_secs(10);

/// The policy of stands: one caller per role, named
/// `spiffe://stand/<role>`. Readers and intake may work in any tenant; of the
/// readers, `mail` alone may send claims challenges.
pub const POLICY: &str = r#"
permit (principal == Caller::"spiffe://stand/mail", action == Action::"GetAccessToken", resource)
    when { context.client == "portal" };
permit (principal == Caller::"spiffe://stand/files", action == Action::"GetAccessToken", resource)
    when { context.client == "portal" };
forbid (principal, action == Action::"GetAccessToken", resource)
    when { context has claims_challenge } unless { principal == Caller::"spiffe://stand/mail" };
permit (principal == Caller::"spiffe://stand/web", action in Action::"intake", resource);
permit (principal == Caller::"spiffe://stand/operator", action in Action::"manage", resource);
permit (principal == Caller::"spiffe://stand/auditor", action in Action::"inspect", resource);
permit (principal == Caller::"spiffe://stand/rotator", action in Action::"rotate", resource);
permit (principal == Caller::"spiffe://stand/purger", action in Action::"purge", resource);
"#;

/// The roles of [`POLICY`].
pub const ROLES: [&str; 7] = ["mail", "files", "web", "operator", "auditor", "rotator", "purger"];

/// What a stand is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The policy.
    pub policy: String,
    /// `strict`, `grace` or `tolerant`, and further keys of the provider's
    /// table, as TOML lines.
    pub profile: String,
    /// Further TOML, whole tables. Where they say nothing of the rotation's
    /// schedule, the next run is about a year away.
    pub more: String,
    /// Further TOML keys of `[server]`.
    pub server: String,
    /// "fsync" or "os".
    pub audit_durability: &'static str,
    /// How many days a key version is kept that nothing names any more.
    pub key_retention_days: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: POLICY.to_owned(),
            profile: "profile = \"strict\"\nmulti_resource = true".to_owned(),
            more: String::new(),
            server: "reflection = true".to_owned(),
            audit_durability: "fsync",
            key_retention_days: 0,
        }
    }
}

/// Where a stand's provider is.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// The issuer.
    pub issuer: String,
    /// The token endpoint.
    pub token_endpoint: String,
    /// The keys.
    pub jwks_uri: String,
    /// The revocation endpoint.
    pub revocation_endpoint: Option<String>,
    /// `tenant_claim = "tid"` or `tenant = "…"`, a TOML line.
    pub tenant_rule: String,
    /// The vault's `client_id` there.
    pub client_id: String,
    /// Its secret.
    pub client_secret: String,
}

impl Upstream {
    /// A development provider with its default client.
    #[must_use]
    pub fn of(provider: &DevProvider) -> Self {
        Self {
            issuer: provider.issuer(),
            token_endpoint: provider.token_endpoint(),
            jwks_uri: provider.jwks_uri(),
            revocation_endpoint: Some(provider.revocation_endpoint()),
            tenant_rule: "tenant_claim = \"tid\"".to_owned(),
            client_id: "vault".to_owned(),
            client_secret: "development-secret".to_owned(),
        }
    }
}

/// The files of a vault in one directory.
#[derive(Debug)]
pub struct Files {
    directory: PathBuf,
    pki: Pki,
}

/// A stand could not be set up.
#[derive(Debug)]
pub struct SetupError(String);

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SetupError {}

fn setup(error: impl fmt::Display) -> SetupError {
    SetupError(error.to_string())
}

impl Files {
    /// Writes certificates, root key, policy and configuration. The vault will
    /// listen on `port` of loopback; 0 is a free one.
    ///
    /// # Errors
    ///
    /// The directory cannot be written.
    pub fn create(
        directory: &Path,
        upstream: &Upstream,
        settings: &Settings,
        port: u16,
    ) -> Result<Self, SetupError> {
        let pki = Pki::new(directory).map_err(setup)?;
        let server = pki.server().map_err(setup)?;
        for role in ROLES {
            pki.caller(role, &format!("spiffe://stand/{role}")).map_err(setup)?;
        }
        FileRootKey::create(&directory.join("root.key")).map_err(setup)?;
        fs::write(directory.join("policy.cedar"), &settings.policy).map_err(setup)?;
        private(&directory.join("client.secret"), &upstream.client_secret).map_err(setup)?;

        let Settings { profile, more, server: server_keys, audit_durability, key_retention_days, policy: _ } =
            settings;
        let Upstream {
            issuer,
            token_endpoint,
            jwks_uri,
            revocation_endpoint,
            tenant_rule,
            client_id,
            client_secret: _,
        } = upstream;
        let mut toml = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\n{server_keys}\n\n\
             [server.tls]\ncertificate_file = {:?}\nkey_file = {:?}\nclient_ca_file = {:?}\n\n\
             [store]\npath = \"vault.db\"\nkey_path = \"keys.db\"\n\n\
             [root_key]\nfile = \"root.key\"\n\n\
             [keys]\nretention_days = {key_retention_days}\n\n[audit]\nfile = \"audit.jsonl\"\ndurability = \"{audit_durability}\"\n\n\
             [policy]\nfile = \"policy.cedar\"\n\n\
             [providers.dev]\nissuer = \"{issuer}\"\ntoken_endpoint = \"{token_endpoint}\"\njwks_uri = \"{jwks_uri}\"\n\
             audience = [\"api://vault\"]\n{tenant_rule}\n{profile}\n",
            server.certificate,
            server.key,
            pki.ca(),
        );
        if let Some(revocation) = revocation_endpoint {
            let _ = writeln!(toml, "revocation_endpoint = \"{revocation}\"");
        }
        let _ = write!(
            toml,
            "\n[clients.portal]\nprovider = \"dev\"\nclient_id = \"{client_id}\"\nauth = \"secret_post\"\n\
             client_secret_file = \"client.secret\"\n\n{}\n",
            scheduled(more, SystemClock::new().now()),
        );
        fs::write(directory.join("obo-vault.toml"), toml).map_err(setup)?;
        Ok(Self { directory: directory.to_owned(), pki })
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.directory.join("obo-vault.toml")
    }

    /// The certificate authority, for further callers.
    #[must_use]
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// How the caller of that name reaches a vault.
    #[must_use]
    pub fn address(&self, vault: SocketAddr, caller: &str) -> Address {
        Address {
            endpoint: format!("https://{vault}"),
            ca_file: Some(self.pki.ca()),
            certificate_file: Some(self.directory.join(format!("{caller}.pem"))),
            key_file: Some(self.directory.join(format!("{caller}.key"))),
            server_name: Some("localhost".to_owned()),
        }
    }
}

/// A vault running in this process.
#[derive(Debug)]
pub struct RunningVault {
    address: SocketAddr,
    directory: PathBuf,
    shutdown: Shutdown,
    tls: Option<Arc<ServerTls>>,
    task: JoinHandle<Result<(), StartError>>,
}

impl RunningVault {
    /// Starts the vault of the files.
    ///
    /// # Errors
    ///
    /// Its configuration is refused or it cannot start.
    pub async fn start(files: &Files, ambient: Ambient) -> Result<Self, SetupError> {
        Self::start_over(files, ambient, Stores::open).await
    }

    /// The same over stores of the caller's choice.
    ///
    /// # Errors
    ///
    /// As [`RunningVault::start`].
    pub async fn start_over(
        files: &Files,
        ambient: Ambient,
        open: impl FnOnce(&config::Store) -> Result<Stores, StartError>,
    ) -> Result<Self, SetupError> {
        let config = Config::load(&files.config()).map_err(setup)?;
        let app = App::build_over(config, ambient, open).await.map_err(setup)?;
        let address = app.address().map_err(setup)?;
        let (shutdown, tls) = (Shutdown::new(), app.tls());
        let task = tokio::spawn(app.run(shutdown.clone()));
        Ok(Self { address, directory: files.directory().to_owned(), shutdown, tls, task })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its certificates, to be read anew; none where it serves plain text.
    #[must_use]
    pub fn tls(&self) -> Option<&ServerTls> {
        self.tls.as_deref()
    }

    /// A client of the caller of that name.
    ///
    /// # Errors
    ///
    /// The caller has no certificate, or the vault cannot be reached.
    pub async fn client(&self, files: &Files, caller: &str) -> Result<Client, SetupError> {
        Client::connect(&files.address(self.address, caller)).await.map_err(setup)
    }

    /// Stops it and waits until its files are closed.
    ///
    /// # Errors
    ///
    /// It did not stop cleanly.
    pub async fn stop(self) -> Result<(), SetupError> {
        self.shutdown.trigger();
        self.task.await.map_err(setup)?.map_err(setup)?;
        // A connection's task may hold the files a moment longer than the server.
        let closed = async {
            while !LOCKS.iter().all(|lock| is_free(&self.directory.join(lock))) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(CLOSING, closed).await.map_err(|_| setup("the vault has left a file open"))
    }
}

/// Whether nobody holds the lock any more.
fn is_free(lock: &Path) -> bool {
    fs::File::open(lock).is_ok_and(|file| file.try_lock().is_ok())
}

fn private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// The further tables with a schedule of the rotation. A stand's clock is moved by
/// days, and what it is moved over is due: a run that nobody asked for would come
/// between those that a test or the demonstration asks for.
fn scheduled(more: &str, now: Timestamp) -> String {
    const TABLE: &str = "[rotation]\n";
    if more.contains("\nschedule = ") {
        return more.to_owned();
    }
    // Past in every time zone, and a day that every month has.
    let past = now.minus(Duration::from_secs(4 * 86_400));
    let past = chrono::DateTime::from_timestamp_millis(past.0).unwrap_or_default();
    let (day, month) = (past.day().min(28), past.month());
    let schedule = format!("schedule = \"0 0 3 {day} {month} *\"\n");
    if more.contains(TABLE) {
        more.replacen(TABLE, &format!("{TABLE}{schedule}"), 1)
    } else {
        format!("{more}\n{TABLE}{schedule}")
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use croner::parser::{CronParser, Seconds};

    use super::*;

    #[test]
    fn the_next_run_of_a_stand_is_about_a_year_away() {
        for day in 0..1500 {
            let now = Timestamp(1_790_000_000_000).plus(Duration::from_secs(86_400) * day);
            let toml = scheduled("[rotation]\nkey_max_age_days = 2\n", now);
            let schedule = toml.lines().find_map(|line| line.strip_prefix("schedule = ")).unwrap();
            let cron = CronParser::builder().seconds(Seconds::Required).build();
            let cron = cron.parse(schedule.trim_matches('"')).unwrap();
            let from = chrono::DateTime::<Utc>::from_timestamp_millis(now.0).unwrap();
            let next = cron.find_next_occurrence(&from, false).unwrap();
            assert!((next - from).num_days() > 350, "{schedule} at {from}");
            assert_eq!(toml.matches("[rotation]").count(), 1);
        }
    }

    #[test]
    fn a_schedule_of_the_tests_own_stays() {
        let own = "[rotation]\nschedule = \"*/2 * * * * *\"\n";
        assert_eq!(scheduled(own, Timestamp(0)), own);
        assert!(scheduled("[tenants]\npurge_protection = true", Timestamp(0)).contains("\n[rotation]\n"));
    }
}
