//! Files that settings name: there, readable, and private where they hold a
//! secret.

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::path::Path;

/// Most bytes of a file that is read whole.
const MAX_BYTES: u64 = 256 * 1024;

/// Who besides its owner may read a file with a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Privacy {
    /// Nobody.
    Owner,
    /// Its group, as orchestrators mount secrets.
    Group,
}

/// Checks that the file is there and can be read.
pub(super) fn check_readable(path: &Path) -> Result<(), String> {
    open(path).map(drop)
}

/// Checks that the file can be read, but not by others.
pub(super) fn check_private(path: &Path, privacy: Privacy) -> Result<(), String> {
    let (_, metadata) = open(path)?;
    refuse_public(path, &metadata, privacy)
}

/// Reads a secret and drops the line end that editors put there.
pub(super) fn read_private(path: &Path) -> Result<String, String> {
    check_private(path, Privacy::Group)?;
    let mut text = read(path)?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}

/// Reads a file with something in it.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let (file, metadata) = open(path)?;
    if metadata.len() > MAX_BYTES {
        return Err(format!("{} is longer than {MAX_BYTES} bytes", path.display()));
    }
    let mut text = String::new();
    file.take(MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
    if text.trim().is_empty() { Err(format!("{} is empty", path.display())) } else { Ok(text) }
}

fn open(path: &Path) -> Result<(File, Metadata), String> {
    let cannot = |e: std::io::Error| format!("{} cannot be read: {e}", path.display());
    let file = File::open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(format!("{} is not a file", path.display())) }
}

#[cfg(unix)]
fn refuse_public(path: &Path, metadata: &Metadata, privacy: Privacy) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;

    let (others, who, fix) = match privacy {
        Privacy::Owner => (0o077, "others than its owner", "chmod 600"),
        Privacy::Group => (0o007, "everybody", "chmod o="),
    };
    if metadata.permissions().mode() & others == 0 {
        Ok(())
    } else {
        Err(format!("{0} can be read or changed by {who}: {fix} {0}", path.display()))
    }
}

#[cfg(not(unix))]
fn refuse_public(_path: &Path, _metadata: &Metadata, _privacy: Privacy) -> Result<(), String> {
    Ok(())
}
