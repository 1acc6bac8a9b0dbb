//! The files of a database: made private, locked, and looked at while they are
//! open.
//!
//! SQLite goes on in files that were removed, moved away, or covered by a
//! volume: commits succeed, and all of them are gone at the next start. For a
//! refresh token that means that the provider has rotated it into nothing. So
//! every commit asks here before and after.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::place::Place;

/// The files of one database, and of another that it is worth nothing without.
#[derive(Debug)]
pub(super) struct Files {
    main: Place,
    /// Longest that the main file was seen; it never becomes shorter, since
    /// nothing here vacuums.
    length: AtomicU64,
    /// The write-ahead log, its index, and the lock file.
    others: Vec<Place>,
    beside: Option<Arc<Self>>,
}

impl Files {
    /// The files as they are now that connections have them open.
    pub(super) fn find(path: &Path, beside: Option<Arc<Self>>) -> Result<Self, String> {
        let find = |path: &Path| Place::find(path).map_err(|e| format!("looking at {}: {e}", path.display()));
        let others = ["-wal", "-shm", LOCK].map(|suffix| find(&with_suffix(path, suffix)));
        let others = others.into_iter().collect::<Result<_, String>>()?;
        let length = fs::metadata(path).map_err(|e| format!("looking at {}: {e}", path.display()))?.len();
        Ok(Self { main: find(path)?, length: AtomicU64::new(length), others, beside })
    }

    /// Whether all of them are at their paths.
    ///
    /// # Errors
    ///
    /// Which is not, and what to do.
    pub(super) fn check(&self) -> Result<(), String> {
        let main = self.main.look().map_err(|displaced| format!("{displaced}; {BRING_BACK}"))?;
        if main.len() < self.length.fetch_max(main.len(), Ordering::Relaxed) {
            return Err(format!("{} was cut short; {BRING_BACK}", self.main.path().display()));
        }
        for other in &self.others {
            other.look().map_err(|displaced| format!("{displaced}; {RESTART}"))?;
        }
        self.beside.as_ref().map_or(Ok(()), |beside| beside.check())
    }
}

const BRING_BACK: &str = "do not restart the vault, bring the file back: \
    see \"A file of the vault is gone\" in OPERATIONS.md";

/// SQLite writes what its log holds into the main file when it is closed, also
/// where the log has no name any more.
const RESTART: &str = "restart the vault with SIGTERM, never with SIGKILL: \
    see \"A file of the vault is gone\" in OPERATIONS.md";

/// A second process on the same file would break the protocol of one node.
pub(super) fn lock(path: &Path) -> Result<File, String> {
    let path = with_suffix(path, LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| format!("cannot open the lock file {}: {e}", path.display()))?;
    file.try_lock().map_err(|_| "another process has this store open; stop it first".to_owned())?;
    Ok(file)
}

/// SQLite gives its log and index files the mode of the main file. One that was
/// put back from a backup with another mode is made private again.
pub(super) fn create_private(path: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode != 0o600 {
        tracing::warn!(file = %path.display(), mode = format!("{mode:o}"), "making a store's file private");
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// What the name of the lock file has behind that of the database.
pub(super) const LOCK: &str = ".lock";

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
