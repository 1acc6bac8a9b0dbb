//! What can be checked before the vault's databases are touched.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::audit::{AuditLog, Durability};
use crate::authz::Authorizer;
use crate::clock::SharedClock;
use crate::config::{self, Config};
use crate::grpc::listen;
use crate::idp::Idp;
use crate::keyring::FileRootKey;

use super::{Ambient, StartError, because, providers, tls};

/// The parts that need no store.
pub(super) struct Foundations {
    pub(super) security: listen::Security,
    pub(super) authorizer: Arc<Authorizer>,
    pub(super) idp: Arc<Idp>,
    pub(super) audit: Arc<AuditLog>,
    pub(super) root: FileRootKey,
    /// Whether the audit log had entries before this start.
    pub(super) audit_has_entries: bool,
}

impl Foundations {
    pub(super) fn check(config: &Config, ambient: &Ambient) -> Result<Self, StartError> {
        // Looked at before it is opened, which makes it.
        let audit_has_entries = fs::metadata(&config.audit.file).is_ok_and(|file| file.len() > 0);
        Ok(Self {
            audit_has_entries,
            security: tls::security(&config.server.transport)?,
            authorizer: Arc::new(load_policy(&config.policy_file)?),
            idp: Arc::new(providers::build(config, &ambient.clock, &ambient.entropy)?),
            audit: open_audit(&config.audit, &ambient.clock)?,
            root: FileRootKey::load(&config.root_key_file).map_err(because("reading the root key"))?,
        })
    }
}

fn load_policy(path: &Path) -> Result<Authorizer, StartError> {
    let doing = || format!("loading the policy {}", path.display());
    let text = fs::read_to_string(path).map_err(because(doing()))?;
    Authorizer::load(&text).map_err(because(doing()))
}

pub(super) fn open_audit(audit: &config::Audit, clock: &SharedClock) -> Result<Arc<AuditLog>, StartError> {
    let durability = match audit.durability {
        config::Durability::Fsync => Durability::Fsync,
        config::Durability::Os => Durability::Os,
    };
    let log = AuditLog::open(&audit.file, durability, Arc::clone(clock));
    log.map(Arc::new).map_err(because(format!("opening the audit log {}", audit.file.display())))
}
