//! Why a root key file is not made or not taken.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::PREFIX;

/// Why a root key file was not made or not taken. Each text says what to do.
#[derive(Debug)]
pub enum RootKeyError {
    /// There is a file already; it is never overwritten.
    Exists(PathBuf),
    /// There is no such file.
    Missing(PathBuf),
    /// Others than the owner may read or write it.
    TooOpen(PathBuf, u32),
    /// It belongs to another user, who could exchange it.
    ForeignOwner(PathBuf, u32),
    /// It is not a regular file.
    NotAFile(PathBuf),
    /// It does not hold a root key; the text says in which respect.
    Malformed(PathBuf, &'static str),
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
            Self::TooOpen(path, mode) => write!(
                f,
                "root key file {path} has mode {mode:04o}, others than its owner may use it; run `chmod 600 {path}` \
                 and consider whether the key has been seen",
                path = path.display()
            ),
            Self::ForeignOwner(path, owner) => write!(
                f,
                "root key file {path} belongs to user {owner}, who could exchange it; run `chown` to give it to \
                 the user that runs the vault, or to root",
                path = path.display()
            ),
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
            Self::Io(_, source) => Some(source),
            Self::Exists(_)
            | Self::Missing(_)
            | Self::TooOpen(..)
            | Self::ForeignOwner(..)
            | Self::NotAFile(_)
            | Self::Malformed(..)
            | Self::Entropy => None,
        }
    }
}
