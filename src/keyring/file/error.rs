//! Why a root key file is not made or not taken.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::file_access::Exposed;

use super::PREFIX;

/// Why a root key file was not made or not taken. Each text says what to do.
#[derive(Debug)]
pub enum RootKeyError {
    /// There is a file already; it is never overwritten.
    Exists(PathBuf),
    /// There is no such file.
    Missing(PathBuf),
    /// Others may read, write or exchange it.
    Exposed(Exposed),
    /// It is not a regular file.
    NotAFile(PathBuf),
    /// It does not hold a root key; the text says in which respect.
    Malformed(PathBuf, &'static str),
    /// It cannot be opened; with what to do, where that is known.
    Unreadable(PathBuf, io::Error, Option<String>),
    /// It cannot be read or written.
    Io(PathBuf, io::Error),
    /// The kernel gave no random bytes.
    Entropy,
}

impl fmt::Display for RootKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(path) => write!(
                f,
                "root key file {path} exists and is not overwritten, since every tenant key would be lost; \
                 use it, or name another file",
                path = path.display()
            ),
            Self::Missing(path) => write!(
                f,
                "root key file {path} is missing; restore it from its backup, or for a new vault make it with \
                 `obo-vault init`",
                path = path.display()
            ),
            Self::Exposed(exposed) => write!(f, "root key file {exposed}"),
            Self::Unreadable(path, _, advice) => {
                write!(f, "root key file {} cannot be opened", path.display())?;
                advice.as_ref().map_or(Ok(()), |advice| write!(f, ": {advice}"))
            }
            Self::NotAFile(path) => {
                write!(
                    f,
                    "root key {path} is not a regular file; name the file itself",
                    path = path.display()
                )
            }
            Self::Malformed(path, what) => write!(
                f,
                "root key file {path} {what}; it must be one line, `{PREFIX}` and 32 bytes in base64; restore it \
                 from its backup",
                path = path.display()
            ),
            Self::Io(path, _) => write!(f, "root key file {} cannot be used", path.display()),
            Self::Entropy => f.write_str("the kernel gave no random bytes for the root key"),
        }
    }
}

impl std::error::Error for RootKeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, source) | Self::Unreadable(_, source, _) => Some(source),
            Self::Exists(_)
            | Self::Missing(_)
            | Self::Exposed(_)
            | Self::NotAFile(_)
            | Self::Malformed(..)
            | Self::Entropy => None,
        }
    }
}
