//! What tells whether two stores belong together, and which is older.

use uuid::Uuid;

/// What a token store says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The vault it belongs to; `None` in a file that no vault has served from.
    pub vault: Option<Uuid>,
    /// Whether it has no tenant.
    pub is_empty: bool,
    /// Only ever grows, so that an older copy shows.
    pub counter: u64,
}

/// What a key store says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyStanding {
    /// The vault it belongs to; `None` in a file that no vault has served from.
    pub vault: Option<Uuid>,
    /// Whether it has no key and no tombstone.
    pub is_empty: bool,
    /// How far the token store had come when it was last noted.
    pub mark: Option<Mark>,
}

/// How far a token store had come, with the proof of who noted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The token store's counter.
    pub counter: u64,
    /// A keyed hash of it.
    pub proof: [u8; 32],
}
