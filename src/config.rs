//! Settings: one TOML file, and the environment on top of it.
//!
//! [`Config::load`] reads both, checks everything, and gives either checked
//! values or every fault at once, each with its key's path. Unknown keys are
//! faults. Secrets come from files or environment variables, never from the
//! settings themselves.
//!
//! An environment variable names a key by its path with `__` between the parts:
//! `OBO_VAULT__SERVER__LISTEN` is `server.listen`. It wins over the file. Lists
//! are separated by commas there. Names of providers and clients are reached
//! that way only when they are written in lower case.
//!
//! deploy/obo-vault.production.toml explains each key. In reading order:
//!
//! - one file per table: [`server`] with [`callers`] and `limits`, [`storage`] (store, root
//!   key, keys, audit, policy, tenants), [`cache`], [`imports`], [`rotation`], `provider`, `client`,
//!   [`log`];
//! - [`fault`]: what is wrong with a configuration;
//! - `source` merges file and environment, `table` walks the result, `parse`
//!   checks single values, `file` checks the files they name;
//! - `sense` finds what is well-formed and cannot work, `same` settings that name
//!   one file;
//! - `settings`: which settings differ between two readings.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::domain::id::ClientId;
use crate::idp::{ClientSpec, ProviderSpec};

pub mod cache;
pub mod callers;
mod client;
pub mod fault;
mod file;
pub mod imports;
mod limits;
pub mod log;
mod parse;
mod provider;
pub mod rotation;
mod same;
mod sense;
pub mod server;
mod settings;
mod source;
pub mod storage;
mod table;

pub use cache::Cache;
pub use callers::Callers;
pub use client::ClientFiles;
pub use fault::{ConfigFaults, Fault};
pub use imports::Imports;
pub use log::{Log, LogFormat};
pub use rotation::Rotation;
pub use server::{Server, Transport};
pub use settings::Settings;
pub use storage::{Audit, Durability, Keys, Store, Tenants};

use table::{Faults, Table};

/// The checked settings of a vault.
#[derive(Debug)]
pub struct Config {
    /// The API.
    pub server: Server,
    /// The databases.
    pub store: Store,
    /// The file of the root key.
    pub root_key_file: std::path::PathBuf,
    /// The tenants' keys.
    pub keys: Keys,
    /// The audit log.
    pub audit: Audit,
    /// The file of the policy.
    pub policy_file: std::path::PathBuf,
    /// What may be done with tenants.
    pub tenants: Tenants,
    /// Access tokens in memory.
    pub cache: Cache,
    /// Refresh tokens from elsewhere.
    pub imports: Imports,
    /// The rotation job.
    pub rotation: Rotation,
    /// The identity providers by name.
    pub providers: BTreeMap<String, ProviderSpec>,
    /// The OAuth clients by name.
    pub clients: BTreeMap<ClientId, ClientSpec>,
    /// The log.
    pub log: Log,
    /// The file of the configuration itself.
    pub file: PathBuf,
    /// The files of the clients' credentials, where these are in files.
    pub client_files: BTreeMap<ClientId, ClientFiles>,
    /// The files of the providers' authorities, where they have their own.
    pub provider_ca_files: BTreeMap<String, PathBuf>,
    /// What works and is hardly meant.
    pub warnings: Vec<Fault>,
    /// All of it as it was read, to be compared with a later reading.
    pub settings: Settings,
}

/// Environment variables, as far as they are text.
pub type Environment = HashMap<String, String>;

impl Config {
    /// Reads the file and the process's environment.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with them.
    pub fn load(path: &Path) -> Result<Self, ConfigFaults> {
        Self::load_with(path, &process_environment())
    }

    /// Reads the file and the environment given.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with them.
    pub fn load_with(path: &Path, environment: &Environment) -> Result<Self, ConfigFaults> {
        Self::load_at(path, environment, SystemClock::new().now())
    }

    /// The same at a time, on which it depends whether a certificate is valid and
    /// a schedule has a next run.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with them.
    pub fn load_at(path: &Path, environment: &Environment, now: Timestamp) -> Result<Self, ConfigFaults> {
        let faults = Faults::default();
        let merged = source::merge(path, environment, &faults)?;
        faults.note_file("the configuration", path, same::Use::Alone);
        let settings = Settings::of(&merged.entries);
        let base = path.parent().unwrap_or(Path::new(""));
        let root = Table::root(merged.entries, base, environment, &merged.variables, &faults);
        let mut config = read(root, path, settings);
        for (setting, what) in same::faults(&faults.files()) {
            faults.add(setting, what);
        }
        if let Some(config) = &mut config {
            sense::check(config, now, &faults);
            config.warnings = faults.warnings();
        }
        faults.into_result(config)
    }
}

fn read(mut root: Table<'_>, path: &Path, settings: Settings) -> Option<Config> {
    let server = root.section("server", server::read);
    let store = root.section("store", storage::read_store);
    let root_key_file = root.section("root_key", storage::read_root_key);
    let keys = root.section("keys", storage::read_keys);
    let audit = root.section("audit", storage::read_audit);
    let policy_file = root.section("policy", storage::read_policy);
    let tenants = root.section("tenants", storage::read_tenants);
    let cache = root.section("cache", cache::read);
    let imports = root.section("imports", imports::read);
    let rotation = root.section("rotation", rotation::read);
    let log = root.section("log", log::read);

    // A client may name a provider that has faults of its own; only a name that
    // is not there at all is the client's fault.
    let provider_names = root.keys_of("providers");
    if provider_names.is_empty() {
        root.fault("providers", "there is none: say in [providers.<name>] where users' tokens come from");
    }
    let providers = root.named("providers", |name, table| {
        let name = parse::name(name).map_err(|what| table.fault("", what)).ok();
        let provider = provider::read(name, table)?;
        Some((provider.spec.name.clone(), provider))
    });
    if root.keys_of("clients").is_empty() {
        root.fault(
            "clients",
            "there is none: say in [clients.<name>] as which OAuth client the vault speaks",
        );
    }
    let clients = root.named("clients", |name, table| {
        let id = ClientId::new(name).map_err(|e| table.fault("", e.to_string())).ok();
        let client = client::read(id, table, &provider_names)?;
        Some((client.spec.id.clone(), client))
    });
    root.finish();

    let ca_file = |(name, read): (&String, &provider::Read)| Some((name.clone(), read.ca_file.clone()?));
    let provider_ca_files = providers.iter().filter_map(ca_file).collect();
    let files = |(id, read): (&ClientId, &client::Read)| Some((id.clone(), read.files.clone()?));
    let client_files = clients.iter().filter_map(files).collect();
    Some(Config {
        server: server?,
        store: store?,
        root_key_file: root_key_file?,
        keys: keys?,
        audit: audit?,
        policy_file: policy_file?,
        tenants: tenants?,
        cache: cache?,
        imports: imports?,
        rotation: rotation?,
        providers: providers.into_iter().map(|(name, read)| (name, read.spec)).collect(),
        clients: clients.into_iter().map(|(id, read)| (id, read.spec)).collect(),
        log: log?,
        file: path.into(),
        client_files,
        provider_ca_files,
        warnings: Vec::new(),
        settings,
    })
}

/// Reads a file that the vault trusts and that holds no secret.
///
/// # Errors
///
/// It cannot be read, is empty, or can be changed by others.
pub fn read_trusted(path: &Path) -> Result<String, String> {
    file::read(path)
}

/// Reads a file that holds a secret, without the line end that editors put there.
///
/// # Errors
///
/// It cannot be read, is empty, or can be read or changed by others.
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, String> {
    file::read_private(path).map(Zeroizing::new)
}

/// The environment of this process.
#[must_use]
pub fn process_environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
