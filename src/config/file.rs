//! Files that settings name: there, readable, safe from others, and private
//! where they hold a secret ([`crate::file_access`] judges).

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::path::Path;

use crate::file_access::{self, AccessError, Kind};

/// Most bytes of a file that is read whole.
const MAX_BYTES: u64 = 256 * 1024;

/// Who besides its owner may read a file with a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Privacy {
    /// Nobody but a group of the vault's own: the root key.
    Owner,
    /// Its group, as orchestrators mount secrets.
    Group,
}

/// Checks that the file is there, can be read, and is changed by nobody else.
pub(super) fn check_readable(path: &Path) -> Result<(), String> {
    open(path, Kind::Trusted).map(drop)
}

/// Checks that the file can be read, but not by others.
pub(super) fn check_private(path: &Path, privacy: Privacy) -> Result<(), String> {
    let kind = match privacy {
        Privacy::Owner => Kind::RootKey,
        Privacy::Group => Kind::Secret,
    };
    open(path, kind).map(drop)
}

/// Reads a secret and drops the line end that editors put there.
pub(super) fn read_private(path: &Path) -> Result<String, String> {
    let mut text = read_as(path, Kind::Secret)?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    if text.starts_with('\u{feff}') {
        let what = "begins with a byte order mark, which is no part of a secret: save it without";
        return Err(format!("{} {what}", path.display()));
    }
    Ok(text)
}

/// Reads a file with something in it that is no secret.
pub(super) fn read(path: &Path) -> Result<String, String> {
    read_as(path, Kind::Trusted)
}

/// Checks that a file which the vault writes is safe, or can be made safely.
pub(super) fn check_written(path: &Path) -> Result<(), String> {
    match path.metadata() {
        Ok(metadata) if !metadata.is_file() => {
            return Err(format!(
                "{} is not a file; the vault writes a file of its own there",
                path.display()
            ));
        }
        Ok(_) => may_write(path)?,
        Err(_) => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let directory = parent.unwrap_or(Path::new("."));
            if !directory.is_dir() {
                return Err(format!("its directory {} is not there: make it", directory.display()));
            }
            may_write(directory)?;
        }
    }
    file_access::check_written(path).map_err(|exposed| exposed.to_string())
}

/// Asks the system, which also knows of read-only file systems.
fn may_write(path: &Path) -> Result<(), String> {
    use rustix::fs::{Access, AtFlags, CWD};

    rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).map_err(|error| {
        let process = file_access::Process::current();
        format!(
            "{} cannot be written by the vault ({process}): {}",
            path.display(),
            std::io::Error::from(error)
        )
    })
}

/// Says why a file is not used; its path is for the caller to name.
pub(super) fn explain(error: &AccessError) -> String {
    match error {
        AccessError::Io(error, None) => format!("cannot be read: {error}"),
        AccessError::Io(error, Some(advice)) => format!("cannot be read: {error}: {advice}"),
        AccessError::NotAFile => "is not a file".into(),
        AccessError::Exposed(exposed) => exposed.to_string(),
    }
}

fn read_as(path: &Path, kind: Kind) -> Result<String, String> {
    let (file, metadata) = open(path, kind)?;
    if metadata.len() > MAX_BYTES {
        return Err(format!("{} is longer than {MAX_BYTES} bytes", path.display()));
    }
    let mut text = String::new();
    file.take(MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
    if text.trim().is_empty() { Err(format!("{} is empty", path.display())) } else { Ok(text) }
}

fn open(path: &Path, kind: Kind) -> Result<(File, Metadata), String> {
    file_access::open(path, kind).map_err(|error| match &error {
        AccessError::Exposed(exposed) => exposed.to_string(),
        _ => format!("{} {}", path.display(), explain(&error)),
    })
}
