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
use crate::metrics::Counters;

use super::{Ambient, StartError, because, providers, tls};

/// The parts that need no store.
pub(super) struct Foundations {
    pub(super) metrics: Arc<Counters>,
    pub(super) security: listen::Security,
    /// What can be read anew of it, where there is TLS.
    pub(super) tls: Option<Arc<tls::ServerTls>>,
    pub(super) authorizer: Arc<Authorizer>,
    pub(super) idp: Arc<Idp>,
    pub(super) audit: Arc<AuditLog>,
    pub(super) root: FileRootKey,
}

impl Foundations {
    pub(super) fn check(config: &Config, ambient: &Ambient) -> Result<Self, StartError> {
        let metrics = Arc::new(Counters::new());
        let (security, tls) = tls::security(&config.server.transport, &ambient.clock, &metrics)?;
        Ok(Self {
            metrics,
            security,
            tls,
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

fn open_audit(audit: &config::Audit, clock: &SharedClock) -> Result<Arc<AuditLog>, StartError> {
    let durability = match audit.durability {
        config::Durability::Fsync => Durability::Fsync,
        config::Durability::Os => Durability::Os,
    };
    let log = AuditLog::open(&audit.file, durability, Arc::clone(clock));
    log.map(Arc::new).map_err(because(format!("opening the audit log {}", audit.file.display())))
}
