//! Versions of a tenant's key and their states (NIST SP 800-57 part 1,
//! section 7).

use std::fmt;

use crate::clock::Timestamp;

/// Number of a version of a tenant's key, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyVersion(pub u32);

impl KeyVersion {
    /// The first version of every tenant.
    pub const FIRST: Self = Self(1);

    /// The version after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Random identifier of a key, in every envelope it sealed. Not a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 16]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// Where a key version is in its life cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyState {
    /// Made, not yet in use.
    PreActive,
    /// Seals and opens; exactly one per tenant.
    Active,
    /// Opens only.
    Deactivated,
    /// Overwritten and deleted.
    Destroyed,
    /// Opens only; its values are re-sealed first.
    Compromised,
}

impl KeyState {
    /// Whether values sealed under the version may be opened.
    #[must_use]
    pub fn opens(self) -> bool {
        matches!(self, Self::Active | Self::Deactivated | Self::Compromised)
    }
}

/// What is known of a key version besides its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyVersionInfo {
    /// Its number.
    pub version: KeyVersion,
    /// Its identifier.
    pub key_id: KeyId,
    /// Where it is in its life cycle.
    pub state: KeyState,
    /// When it was made.
    pub created_at: Timestamp,
    /// Upper bound of the seals made with it.
    pub seals_reserved: u64,
    /// Since when nothing is known to name it, as the rotation job last found it.
    pub unused_since: Option<Timestamp>,
}
