//! Why the keyring refuses.

use std::fmt;
use std::time::Duration;

use crate::domain::failure::Failure;
use crate::domain::key::{KeyState, KeyVersion};
use crate::domain::reason::Reason;
use crate::entropy::EntropyUnavailable;
use crate::seal::{OpenError, SealError};
use crate::store::StoreError;

use super::cache::Tombstoned;

/// Why the keyring refused or failed.
#[derive(Debug, Clone)]
pub enum KeyringError {
    /// The tenant has no such version, or the envelope names a version that
    /// never was.
    NoSuchKey(KeyVersion),
    /// The tenant is being purged, or is gone.
    TenantGone,
    /// The version was destroyed; what it sealed is lost for good.
    Destroyed(KeyVersion),
    /// The version seals no more: read the tenant's newest one again and seal
    /// under that.
    Retired(KeyVersion, KeyState),
    /// The value was altered, moved, or is no envelope.
    Unreadable(OpenError),
    /// The value to seal is too long.
    TooLong(SealError),
    /// The version has made all its seals: rotate the tenant's key.
    Exhausted(KeyVersion),
    /// The root key failed or refused; the detail is for the log.
    RootKey(String),
    /// The mark in the key store was not made with this root key for this vault.
    MarkUnproven,
    /// The key store failed.
    Store(StoreError),
    /// The kernel gave no random bytes.
    Entropy(EntropyUnavailable),
}

impl fmt::Display for KeyringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchKey(version) => write!(f, "the tenant's key has no version {version}"),
            Self::TenantGone => f.write_str("the tenant is purged"),
            Self::Destroyed(version) => write!(f, "version {version} of the tenant's key was destroyed"),
            Self::Retired(version, state) => {
                write!(f, "version {version} of the tenant's key does not seal, it is {state:?}")
            }
            Self::Unreadable(_) => f.write_str("the value does not open"),
            Self::TooLong(_) => f.write_str("the value cannot be sealed"),
            Self::Exhausted(version) => {
                write!(f, "version {version} of the tenant's key has made all its seals")
            }
            Self::RootKey(detail) => write!(f, "root key: {detail}"),
            Self::MarkUnproven => {
                f.write_str("the mark in the key store was not made with this root key: put back the root key and the key store that belong together")
            }
            Self::Store(_) => f.write_str("the key store failed"),
            Self::Entropy(_) => f.write_str("no randomness"),
        }
    }
}

impl std::error::Error for KeyringError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(source) => Some(source),
            Self::TooLong(source) => Some(source),
            Self::Store(source) => Some(source),
            Self::Entropy(source) => Some(source),
            Self::NoSuchKey(_)
            | Self::TenantGone
            | Self::Destroyed(_)
            | Self::Retired(..)
            | Self::Exhausted(_)
            | Self::RootKey(_)
            | Self::MarkUnproven => None,
        }
    }
}

impl From<KeyringError> for Failure {
    fn from(error: KeyringError) -> Self {
        let reason = match &error {
            KeyringError::TenantGone => Reason::TenantPurged,
            KeyringError::Unreadable(_)
            | KeyringError::NoSuchKey(_)
            | KeyringError::Destroyed(_)
            | KeyringError::TooLong(_) => Reason::GrantUnreadable,
            KeyringError::Store(_) | KeyringError::Retired(..) => Reason::StoreUnavailable,
            KeyringError::Exhausted(_)
            | KeyringError::RootKey(_)
            | KeyringError::MarkUnproven
            | KeyringError::Entropy(_) => Reason::KeyUnavailable,
        };
        let failure = Self::because(reason, &error);
        match reason {
            Reason::StoreUnavailable | Reason::KeyUnavailable => failure.retry_after(Duration::from_secs(5)),
            _ => failure,
        }
    }
}

impl From<StoreError> for KeyringError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<EntropyUnavailable> for KeyringError {
    fn from(error: EntropyUnavailable) -> Self {
        Self::Entropy(error)
    }
}

impl From<Tombstoned> for KeyringError {
    fn from(Tombstoned: Tombstoned) -> Self {
        Self::TenantGone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_database_said_is_in_the_failure() {
        let full = StoreError { operation: "reserve seals", detail: "database or disk is full".into() };
        let failure = Failure::from(KeyringError::from(full));
        assert_eq!(failure.reason(), Reason::StoreUnavailable);
        assert!(failure.detail().contains("reserve seals: database or disk is full"), "{failure}");
    }

    #[test]
    fn why_a_value_does_not_open_is_in_the_failure() {
        let failure = Failure::from(KeyringError::Unreadable(OpenError::WrongKey));
        assert_eq!(failure.reason(), Reason::GrantUnreadable);
        assert!(failure.detail().contains(&OpenError::WrongKey.to_string()), "{failure}");
    }
}
