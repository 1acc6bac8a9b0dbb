//! `[store]`, `[root_key]`, `[keys]`, `[audit]`, `[policy]`, `[tenants]`: what is
//! on disk.

use std::path::PathBuf;
use std::time::Duration;

use crate::authz;

use super::file::Privacy;
use super::parse;
use super::table::Table;

/// The databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The file of grants and sealed tokens.
    pub path: PathBuf,
    /// The file of wrapped tenant keys; kept out of the backups of the other.
    pub key_path: PathBuf,
}

/// The audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Its file.
    pub file: PathBuf,
    /// When an entry counts as written.
    pub durability: Durability,
}

/// When an audit entry counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When it is on the disk: survives a power cut.
    Fsync,
    /// When the operating system has it: survives a crash of the vault.
    Os,
}

/// The tenants' keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// How long a key version is kept that nothing names any more; no shorter than
    /// the life of the token store's backups, which may name it.
    pub retention: Duration,
}

/// What may be done with tenants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tenants {
    /// Whether the first exchange for an unknown tenant makes it.
    pub create_at_first_intake: bool,
    /// Where purges are protected: the least window in which each can be taken
    /// back.
    pub purge_protection: Option<Duration>,
}

pub(super) fn read_store(table: &mut Table<'_>) -> Option<Store> {
    let path = table.written_file("path", "vault.db");
    let key_path = table.written_file("key_path", "keys.db");
    Some(Store { path, key_path })
}

pub(super) fn read_root_key(table: &mut Table<'_>) -> Option<PathBuf> {
    if !table.has("file") {
        table.fault("file", "is required; `obo-vault init` makes one");
    }
    table.private_file("file", Privacy::Owner)
}

pub(super) fn read_keys(table: &mut Table<'_>) -> Option<Keys> {
    let default = Duration::from_secs(35 * 86_400);
    Some(Keys { retention: table.or("retention_days", default, parse::days(0..=3650)) })
}

pub(super) fn read_audit(table: &mut Table<'_>) -> Option<Audit> {
    let file = table.written_file("file", "audit.jsonl");
    let words = [("fsync", Durability::Fsync), ("os", Durability::Os)];
    let durability = table.or("durability", Durability::Fsync, parse::word(&words));
    Some(Audit { file, durability })
}

pub(super) fn read_policy(table: &mut Table<'_>) -> Option<PathBuf> {
    if !table.has("file") {
        table.fault("file", "is required; deploy/ has samples");
    }
    let (path, text) = table.own_text("file")?;
    match authz::check(&text) {
        Ok(summary) => {
            for warning in summary.warnings {
                table.warn("file", warning.to_string());
            }
        }
        Err(error) => {
            for fault in error.faults {
                table.fault("file", fault.to_string());
            }
        }
    }
    Some(path)
}

pub(super) fn read_tenants(table: &mut Table<'_>) -> Option<Tenants> {
    let a_day = Duration::from_secs(86_400);
    let least_window = table.or("least_purge_window_hours", a_day, parse::hours(1..=720));
    Some(Tenants {
        create_at_first_intake: table.or("create_at_first_intake", false, parse::flag),
        purge_protection: table.or("purge_protection", false, parse::flag).then_some(least_window),
    })
}
