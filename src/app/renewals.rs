//! What a running vault reloads, and how each is read again.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::audit::{AuditLog, Reopened};
use crate::authz::Authorizer;
use crate::clock::Timestamp;
use crate::config::{self, ClientFiles, Config, ConfigFaults, Environment, Settings};
use crate::domain::chain::error_chain;
use crate::idp::{Client, Idp};

use super::ServerTls;
use super::foundations::Foundations;
use super::reload::{Reloadable, Reloaded};

/// Everything that comes from a file of its own is listed here.
pub(super) fn all(config: &Config, foundations: &Foundations) -> Vec<Box<dyn Reloadable>> {
    let mut items: Vec<Box<dyn Reloadable>> = vec![
        // First: what the others record goes into the new file.
        Box::new(AuditFile { log: Arc::clone(&foundations.audit) }),
        Box::new(ConfigurationFile {
            file: config.file.clone(),
            environment: config::process_environment(),
            in_force: config.settings.clone(),
        }),
        Box::new(PolicyFile {
            file: config.policy_file.clone(),
            authorizer: Arc::clone(&foundations.authorizer),
        }),
    ];
    if let Some(tls) = &foundations.tls {
        items.push(Box::new(Arc::clone(tls)));
    }
    for (id, files) in &config.client_files {
        let (Some(client), Some(spec)) = (foundations.idp.client(id), config.clients.get(id)) else {
            continue;
        };
        items.push(Box::new(ClientCredentials {
            client: Arc::clone(client),
            files: files.clone(),
            in_force: Mutex::new(spec.auth.fingerprint()),
        }));
    }
    for (provider, file) in &config.provider_ca_files {
        let in_force = config.providers.get(provider).and_then(|spec| spec.ca_file_pem.clone());
        items.push(Box::new(Authorities {
            provider: provider.clone(),
            file: file.clone(),
            idp: Arc::clone(&foundations.idp),
            in_force: Mutex::new(in_force.unwrap_or_default()),
        }));
    }
    items
}

/// The audit log that was moved away goes on in a new file. It names no file to
/// look at: an operator who moves it says when he has done with it.
struct AuditFile {
    log: Arc<AuditLog>,
}

impl Reloadable for AuditFile {
    fn name(&self) -> &'static str {
        "the audit log"
    }

    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn reload(&self, _now: Timestamp) -> Result<Reloaded, String> {
        let reopened = self.log.reopen().map_err(|error| error_chain(&error))?;
        if reopened == Reopened::Unchanged {
            return Ok(Reloaded::Unchanged);
        }
        tracing::info!("{reopened}");
        Ok(Reloaded::Changed)
    }
}

/// Who the vault is, and whose callers it takes.
impl Reloadable for Arc<ServerTls> {
    fn name(&self) -> &'static str {
        ServerTls::name(self)
    }

    fn files(&self) -> Vec<PathBuf> {
        ServerTls::files(self)
    }

    fn reload(&self, now: Timestamp) -> Result<Reloaded, String> {
        ServerTls::reload(self, now).map(reloaded)
    }
}

/// Who may do what.
struct PolicyFile {
    file: PathBuf,
    authorizer: Arc<Authorizer>,
}

impl Reloadable for PolicyFile {
    fn name(&self) -> &'static str {
        "the policy"
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.file.clone()]
    }

    fn reload(&self, _now: Timestamp) -> Result<Reloaded, String> {
        let text = config::read_trusted(&self.file)?;
        self.authorizer.replace(&text).map(reloaded).map_err(|error| error.to_string())
    }
}

/// As whom a client speaks.
struct ClientCredentials {
    client: Arc<Client>,
    files: ClientFiles,
    in_force: Mutex<[u8; 32]>,
}

impl Reloadable for ClientCredentials {
    fn name(&self) -> &'static str {
        "a client's credentials"
    }

    fn files(&self) -> Vec<PathBuf> {
        self.files.paths()
    }

    fn reload(&self, now: Timestamp) -> Result<Reloaded, String> {
        let auth = self.files.read()?;
        let fingerprint = auth.fingerprint();
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        if *in_force == fingerprint {
            return Ok(Reloaded::Unchanged);
        }
        let renewed = self.client.renew_credentials(&auth, now);
        renewed.map_err(|why| format!("client {}: {why}", self.client.id()))?;
        *in_force = fingerprint;
        Ok(Reloaded::Changed)
    }
}

/// Whose certificates a provider may show.
struct Authorities {
    provider: String,
    file: PathBuf,
    idp: Arc<Idp>,
    in_force: Mutex<Vec<u8>>,
}

impl Reloadable for Authorities {
    fn name(&self) -> &'static str {
        "a provider's authorities"
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.file.clone()]
    }

    fn reload(&self, now: Timestamp) -> Result<Reloaded, String> {
        let pem = config::read_trusted(&self.file)?.into_bytes();
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        if *in_force == pem {
            return Ok(Reloaded::Unchanged);
        }
        let renewed = self.idp.renew_authorities(&self.provider, &pem, now);
        renewed.map_err(|why| format!("provider {}: {why}", self.provider))?;
        *in_force = pem;
        Ok(Reloaded::Changed)
    }
}

/// The configuration is not taken into force again; what it says now is
/// compared, so that nobody is surprised by the next start.
struct ConfigurationFile {
    file: PathBuf,
    environment: Environment,
    in_force: Settings,
}

impl Reloadable for ConfigurationFile {
    fn name(&self) -> &'static str {
        "the configuration"
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.file.clone()]
    }

    fn reload(&self, now: Timestamp) -> Result<Reloaded, String> {
        let read =
            Settings::read(&self.file, &self.environment).map_err(|faults| would_not_start(&faults))?;
        let changed = self.in_force.changed(&read);
        if !changed.is_empty() {
            let settings = changed.join(" ");
            tracing::warn!(settings, "these settings have changed and need a restart of the vault");
        }
        // One with which the vault would not start is a fault today, and not at
        // the next start.
        match Config::load_at(&self.file, &self.environment, now) {
            Ok(_) => Ok(Reloaded::Unchanged),
            Err(faults) => Err(would_not_start(&faults)),
        }
    }
}

fn would_not_start(faults: &ConfigFaults) -> String {
    let faults: Vec<String> = faults.faults().iter().map(ToString::to_string).collect();
    format!("the vault would not start with it: {}", faults.join("; "))
}

fn reloaded(changed: bool) -> Reloaded {
    if changed { Reloaded::Changed } else { Reloaded::Unchanged }
}
