//! What is in a fixture: written when it is made, read by the tests.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// The fixture's table of contents, `contents.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// When the process died: milliseconds since 1970.
    pub(crate) died_at: i64,
    /// Entries of the audit log.
    pub(crate) audit_entries: u64,
    /// The hash of the last one.
    pub(crate) audit_head: String,
    /// The newest run of the rotation job.
    pub(crate) run: String,
    /// The issuer of all tokens.
    pub(crate) issuer: String,
    /// What is kept of each user.
    pub(crate) grants: Vec<Kept>,
}

/// What is kept of one user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) tenant: String,
    pub(crate) subject: String,
    /// The grant's state on disk; empty for an enrolment under way.
    pub(crate) state: String,
    /// Whether the provider's answer is on disk with it.
    pub(crate) answered: bool,
    /// The generation on disk, of an enrolment the one it will have.
    pub(crate) generation: u64,
    pub(crate) key_version: u32,
    /// The refresh token that the provider accepts; empty when there is none.
    pub(crate) refresh_token: String,
}

const FILE: &str = "contents.json";

impl Manifest {
    pub(crate) fn is_in(directory: &Path) -> bool {
        directory.join(FILE).is_file()
    }

    pub(crate) fn read(directory: &Path) -> Self {
        serde_json::from_slice(&std::fs::read(directory.join(FILE)).unwrap()).unwrap()
    }

    pub(crate) fn write(&self, directory: &Path) {
        let text = serde_json::to_string_pretty(self).unwrap();
        std::fs::write(directory.join(FILE), text + "\n").unwrap();
    }
}
