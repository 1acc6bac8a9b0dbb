//! What can be checked before the vault's databases are touched.

use std::fs::{self, File};
use std::io::{self, Read as _};
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

use super::{Ambient, StartError, because, failed, providers, tls};

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
    /// Whether the audit log had entries before this start.
    pub(super) audit_has_entries: bool,
}

impl Foundations {
    /// Checks all of them, so that what is wrong is said at once; the audit log,
    /// which is written to, is opened last and where nothing else is wrong.
    pub(super) fn check(config: &Config, ambient: &Ambient) -> Result<Self, StartError> {
        // Looked at before it is opened, which makes it.
        let audit_has_entries = fs::metadata(&config.audit.file).is_ok_and(|file| file.len() > 0);
        let metrics = Arc::new(Counters::new());
        let security = tls::security(&config.server.transport, &ambient.clock, &metrics);
        let authorizer = load_policy(&config.policy_file);
        let idp = providers::build(config, &ambient.clock, &ambient.entropy);
        let root = load_root_key(&config.root_key_file);
        match (security, authorizer, idp, root) {
            (Ok((security, tls)), Ok(authorizer), Ok(idp), Ok(root)) => Ok(Self {
                audit_has_entries,
                metrics,
                security,
                tls,
                authorizer: Arc::new(authorizer),
                idp: Arc::new(idp),
                audit: open_audit(&config.audit, &ambient.clock)?,
                root,
            }),
            (security, authorizer, idp, root) => {
                let errors = [security.err(), authorizer.err(), idp.err(), root.err()];
                Err(StartError::all(errors.into_iter().flatten()))
            }
        }
    }
}

/// Everything that [`Foundations::check`] would refuse, and what else shows
/// without writing: the audit log and the stores are looked at and not opened.
pub(super) fn faults(config: &Config, ambient: &Ambient) -> Vec<StartError> {
    let audit = &config.audit.file;
    let looks = [
        tls::security(&config.server.transport, &ambient.clock, &Arc::default()).err(),
        load_policy(&config.policy_file).err(),
        providers::build(config, &ambient.clock, &ambient.entropy).err(),
        load_root_key(&config.root_key_file).err(),
        AuditLog::check(audit).map_err(because(format!("reading the audit log {}", audit.display()))).err(),
        look_at_store(&config.store.path).err(),
        look_at_store(&config.store.key_path).err(),
    ];
    looks.into_iter().flatten().collect()
}

fn load_root_key(path: &Path) -> Result<FileRootKey, StartError> {
    FileRootKey::load(path).map_err(because("reading the root key"))
}

/// Whether a file that is there is a database. It is not opened: that would make
/// files beside it.
fn look_at_store(path: &Path) -> Result<(), StartError> {
    const MAGIC: &[u8] = b"SQLite format 3\0";
    let doing = || format!("reading the store {}", path.display());
    let mut start = Vec::new();
    let read = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.and_then(|file| file.take(16).read_to_end(&mut start)),
    };
    read.map_err(because(doing()))?;
    if start.is_empty() || start == MAGIC {
        Ok(())
    } else {
        Err(failed(doing())(
            "it is no SQLite database: name another file, or restore it from its backup".into(),
        ))
    }
}

fn load_policy(path: &Path) -> Result<Authorizer, StartError> {
    let doing = || format!("loading the policy {}", path.display());
    let text = config::read_trusted(path).map_err(failed(doing()))?;
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
