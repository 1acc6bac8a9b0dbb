//! `[log]`: the log on standard error.

use tracing_subscriber::EnvFilter;

use super::parse;
use super::table::Table;

/// The log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// Which lines there are: a level, or directives of `tracing-subscriber`.
    pub level: String,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

pub(super) fn read(table: &mut Table<'_>) -> Option<Log> {
    let words = [("json", LogFormat::Json), ("text", LogFormat::Text)];
    Some(Log {
        format: table.or("format", LogFormat::Json, parse::word(&words)),
        level: table.or("level", "info".into(), parse::checked(directives)),
    })
}

/// A word alone must be a level: the filter would take a mistyped level for the
/// name of a module, and log nothing.
fn directives(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let fits = text.split(',').all(|directive| {
        let level = directive.rsplit('=').next().unwrap_or_default().trim();
        LEVELS.contains(&level)
    });
    if fits && EnvFilter::try_new(text).is_ok() {
        Ok(text.to_owned())
    } else {
        Err("must be a level (off, error, warn, info, debug, trace) or directives such as \
             info,obo_vault::redeem=debug"
            .into())
    }
}
