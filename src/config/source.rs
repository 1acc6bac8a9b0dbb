//! Merges the file and the environment into one tree of values.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use ::config::{ConfigError, File, FileFormat, Value, ValueKind};

use super::Environment;
use super::fault::ConfigFaults;
use super::file::explain;
use super::table::Faults;
use crate::file_access::{self, AccessError, Kind};

/// What the names of the vault's environment variables begin with.
pub(super) const PREFIX: &str = "OBO_VAULT";
const SEPARATOR: &str = "__";

/// Variables with that beginning that are no settings: the command line's.
const OF_THE_COMMAND_LINE: [&str; 8] =
    ["CONFIG", "ENDPOINT", "CA", "CERT", "KEY", "SERVER_NAME", "OUTPUT", "TIMEOUT"];

/// The values, and which of them an environment variable has set.
pub(super) struct Merged {
    pub(super) entries: BTreeMap<String, Value>,
    /// The variable by the path of the key it sets.
    pub(super) variables: BTreeMap<String, String>,
}

/// Reads the file and lays the environment over it. A variable without a value
/// counts as absent.
pub(super) fn merge(path: &Path, environment: &Environment, faults: &Faults) -> Result<Merged, ConfigFaults> {
    let name = path.display().to_string();
    let text = read(path, &name, faults)?;
    let given: Environment = environment
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    for name in given.keys().filter(|name| is_lost(name, &given)) {
        faults.warn(
            name,
            "is not a variable the vault knows, so it has no effect; a setting's has two underscores between \
             its parts, for example OBO_VAULT__SERVER__LISTEN",
        );
    }
    let variables = given.keys().filter_map(|name| Some((path_of(name)?, name.clone()))).collect();
    let source = ::config::Environment::with_prefix(PREFIX)
        .prefix_separator(SEPARATOR)
        .separator(SEPARATOR)
        .source(Some(given.into_iter().collect()));
    ::config::Config::builder()
        .add_source(File::from_str(&text, FileFormat::Toml))
        .add_source(source)
        .build()
        .and_then(|merged| merged.cache.into_table())
        .map(|table| Merged { entries: table.into_iter().collect(), variables })
        .map_err(|e| ConfigFaults::one(&name, explain_toml(&e)))
}

/// A file that others can change is a fault among the others: it is read all the
/// same, so that they are named with it.
fn read(path: &Path, name: &str, faults: &Faults) -> Result<String, ConfigFaults> {
    let opened = match file_access::open(path, Kind::Trusted) {
        Ok((file, _)) => Ok(file),
        Err(AccessError::Exposed(exposed)) => {
            faults.add(name, exposed.to_string());
            std::fs::File::open(path).map_err(|error| AccessError::Io(error, None))
        }
        Err(error) => Err(error),
    };
    let mut text = String::new();
    opened
        .and_then(|mut file| file.read_to_string(&mut text).map_err(|error| AccessError::Io(error, None)))
        .map_err(|error| ConfigFaults::one(name, explain(&error)))?;
    Ok(text)
}

/// The path of the key that a variable sets.
fn path_of(variable: &str) -> Option<String> {
    let lower = variable.to_lowercase();
    let path = lower.strip_prefix(&PREFIX.to_lowercase())?.strip_prefix(SEPARATOR)?;
    Some(path.split(SEPARATOR).collect::<Vec<_>>().join("."))
}

/// Whether somebody may have meant the variable for the vault, in vain. What
/// Kubernetes sets for a service of the vault's name was not meant for it.
fn is_lost(variable: &str, environment: &Environment) -> bool {
    let Some(rest) = variable.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('_')) else {
        return false;
    };
    let names_an_address = environment.get(variable).is_some_and(|value| value.contains("://"));
    let of_a_service = rest.ends_with("SERVICE_HOST")
        || rest.contains("SERVICE_PORT")
        || (rest == "PORT" || rest.ends_with("_PORT")) && names_an_address
        || rest.split("PORT_").nth(1).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    !(rest.starts_with('_') || OF_THE_COMMAND_LINE.contains(&rest) || of_a_service)
}

/// Says where a file is no TOML. The parser's own text shows the line, which may
/// be the one with a secret in it: only its position and its last words are used.
fn explain_toml(error: &ConfigError) -> String {
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

/// Whether all of the value was.
pub(super) fn is_of_variables(value: &Value) -> bool {
    match &value.kind {
        ValueKind::Table(table) => !table.is_empty() && table.values().all(is_of_variables),
        _ => is_variable(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_for_the_vault_in_vain_is_told_from_what_was_not() {
        let lost = |name: &str, value: &str| {
            is_lost(name, &[(name.to_owned(), value.to_owned())].into_iter().collect())
        };
        for name in ["OBO_VAULT_LISTEN", "OBO_VAULT_SERVER_LISTEN", "OBO_VAULT_PURGE_PROTECTION"] {
            assert!(lost(name, "x"), "{name}");
        }
        assert!(lost("OBO_VAULT_PORT", "8443"));
        for (name, value) in [
            ("OBO_VAULT_ENDPOINT", "https://v:1"),
            ("OBO_VAULT__SERVER__LISTEN", "127.0.0.1:1"),
            ("OBO_VAULT_SERVICE_HOST", "10.0.0.1"),
            ("OBO_VAULT_SERVICE_PORT", "8443"),
            ("OBO_VAULT_SERVICE_PORT_GRPC", "8443"),
            ("OBO_VAULT_PORT", "tcp://10.0.0.1:8443"),
            ("OBO_VAULT_PORT_8443_TCP_ADDR", "10.0.0.1"),
            ("OBO_VAULT_METRICS_SERVICE_HOST", "10.0.0.1"),
            ("OBO_VAULT_METRICS_PORT_9464_TCP", "tcp://10.0.0.1:9464"),
            ("OBO_VAULTS", "x"),
            ("PATH", "/bin"),
        ] {
            assert!(!lost(name, value), "{name}");
        }
    }

    #[test]
    fn a_variable_names_its_key() {
        assert_eq!(path_of("OBO_VAULT__SERVER__LISTEN").as_deref(), Some("server.listen"));
        assert_eq!(path_of("OBO_VAULT_ENDPOINT"), None);
    }
}
