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
//! - one file per table: [`server`] with [`callers`] and `limits`, [`storage`] (store, root key, audit,
//!   policy, tenants), [`cache`], [`imports`], [`rotation`], `provider`, `client`,
//!   [`log`];
//! - [`fault`]: what is wrong with a configuration;
//! - `source` merges file and environment, `table` walks the result, `parse`
//!   checks single values, `file` checks the files they name.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

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
pub mod server;
mod source;
pub mod storage;
mod table;

pub use cache::Cache;
pub use callers::Callers;
pub use fault::{ConfigFaults, Fault};
pub use imports::Imports;
pub use log::{Log, LogFormat};
pub use rotation::Rotation;
pub use server::{Server, Transport};
pub use storage::{Audit, Durability, Store, Tenants};

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
        let entries = source::merge(path, environment)?;
        let faults = Faults::default();
        let base = path.parent().unwrap_or(Path::new(""));
        let root = Table::root(entries, base, environment, &faults);
        let config = read(root);
        faults.into_result(config)
    }
}

fn read(mut root: Table<'_>) -> Option<Config> {
    let server = root.section("server", server::read);
    let store = root.section("store", storage::read_store);
    let root_key_file = root.section("root_key", storage::read_root_key);
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
    let providers = root.named("providers", |name, table| {
        let name = parse::name(name).map_err(|what| table.fault("", what)).ok();
        let provider = provider::read(name, table)?;
        Some((provider.name.clone(), provider))
    });
    let clients = root.named("clients", |name, table| {
        let id = ClientId::new(name).map_err(|e| table.fault("", e.to_string())).ok();
        let client = client::read(id, table, &provider_names)?;
        Some((client.id.clone(), client))
    });
    root.finish();

    Some(Config {
        server: server?,
        store: store?,
        root_key_file: root_key_file?,
        audit: audit?,
        policy_file: policy_file?,
        tenants: tenants?,
        cache: cache?,
        imports: imports?,
        rotation: rotation?,
        providers,
        clients,
        log: log?,
    })
}

fn process_environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
