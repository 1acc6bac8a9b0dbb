//! Merges the file and the environment into one tree of values.

use std::collections::BTreeMap;
use std::path::Path;

use ::config::{ConfigError, File, FileFormat, Value};

use super::Environment;
use super::fault::ConfigFaults;

/// What the names of the vault's environment variables begin with.
pub(super) const PREFIX: &str = "OBO_VAULT";
const SEPARATOR: &str = "__";

/// Reads the file and lays the environment over it.
pub(super) fn merge(path: &Path, environment: &Environment) -> Result<BTreeMap<String, Value>, ConfigFaults> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|e| ConfigFaults::one(&name, format!("cannot be read: {e}")))?;
    let variables = ::config::Environment::with_prefix(PREFIX)
        .prefix_separator(SEPARATOR)
        .separator(SEPARATOR)
        .source(Some(environment.clone().into_iter().collect()));
    ::config::Config::builder()
        .add_source(File::from_str(&text, FileFormat::Toml))
        .add_source(variables)
        .build()
        .and_then(|merged| merged.cache.into_table())
        .map(|table| table.into_iter().collect())
        .map_err(|e| ConfigFaults::one(&name, explain(&e)))
}

/// Says where a file is no TOML. The parser's own text shows the line, which may
/// be the one with a secret in it: only its position and its last words are used.
fn explain(error: &ConfigError) -> String {
    let text = match error {
        ConfigError::FileParse { cause, .. } => cause.to_string(),
        _ => return "cannot be merged with the environment".into(),
    };
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let position = lines.next().unwrap_or("not TOML");
    let reason = lines.next_back().filter(|l| !l.contains('|')).unwrap_or("not TOML");
    format!("{position}: {reason}")
}

/// Whether the value was set by an environment variable, where everything is
/// text.
pub(super) fn is_variable(value: &Value) -> bool {
    value.origin() == Some("the environment")
}
