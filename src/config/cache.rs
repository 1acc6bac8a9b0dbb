//! `[cache]`: access tokens in memory.

use std::time::Duration;

use super::parse;
use super::table::Table;

/// Bounds of what is kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    /// Most access tokens.
    pub max_tokens: u64,
    /// Most bytes of access tokens.
    pub max_bytes: u64,
    /// Least remaining lifetime of a token where the caller asks for none.
    pub min_remaining: Duration,
    /// How long a refusal by the provider is remembered; zero: not at all.
    pub negative: Duration,
    /// Most refusals remembered.
    pub max_negative: u64,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            max_tokens: 100_000,
            max_bytes: 256 * 1024 * 1024,
            min_remaining: Duration::from_secs(60),
            negative: Duration::from_secs(10),
            max_negative: 10_000,
        }
    }
}

pub(super) fn read(table: &mut Table<'_>) -> Option<Cache> {
    let usual = Cache::default();
    Some(Cache {
        max_tokens: table.or("max_tokens", usual.max_tokens, parse::whole(1..=100_000_000)),
        max_bytes: table.or("max_bytes", usual.max_bytes, parse::whole(1_048_576..=1_099_511_627_776)),
        min_remaining: table.or("min_remaining_seconds", usual.min_remaining, parse::seconds(1..=600)),
        negative: table.or("negative_seconds", usual.negative, parse::seconds(0..=300)),
        max_negative: table.or("max_negative", usual.max_negative, parse::whole(1..=10_000_000)),
    })
}
