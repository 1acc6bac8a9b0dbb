//! `[imports]`: refresh tokens that come from elsewhere.

use std::time::Duration;

use super::parse;
use super::table::Table;

/// What happens to imports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imports {
    /// How long an import is held whose identity could not be understood, until
    /// the same import finishes it.
    pub hold: Duration,
}

pub(super) fn read(table: &mut Table<'_>) -> Option<Imports> {
    let a_day = Duration::from_secs(86_400);
    Some(Imports { hold: table.or("hold_seconds", a_day, parse::seconds(60..=2_592_000)) })
}
