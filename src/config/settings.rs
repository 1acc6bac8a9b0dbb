//! Which settings differ between two readings of a configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use ::config::{Value, ValueKind};
use sha2::{Digest as _, Sha256};

use super::table::Faults;
use super::{ConfigFaults, Environment, source};

/// All settings as they were read, a hash in place of each value: what is set in
/// the wrong place may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings(BTreeMap<String, [u8; 32]>);

impl Settings {
    /// What a file and the environment say, whether it is right or not.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn read(path: &Path, environment: &Environment) -> Result<Self, ConfigFaults> {
        source::merge(path, environment, &Faults::default()).map(|merged| Self::of(&merged.entries))
    }

    pub(super) fn of(entries: &BTreeMap<String, Value>) -> Self {
        let mut settings = BTreeMap::new();
        for (key, value) in entries {
            flatten(key, value, &mut settings);
        }
        Self(settings)
    }

    /// The paths of the keys that differ.
    #[must_use]
    pub fn changed(&self, now: &Self) -> Vec<String> {
        let mut keys: Vec<&String> = self.0.keys().chain(now.0.keys()).collect();
        keys.sort();
        keys.dedup();
        keys.into_iter().filter(|key| self.0.get(*key) != now.0.get(*key)).cloned().collect()
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Settings").field(&self.0.len()).finish()
    }
}

fn flatten(path: &str, value: &Value, into: &mut BTreeMap<String, [u8; 32]>) {
    match &value.kind {
        ValueKind::Table(table) => {
            for (key, value) in table {
                flatten(&format!("{path}.{key}"), value, into);
            }
        }
        kind => {
            into.insert(path.to_owned(), Sha256::digest(format!("{kind:?}")).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(entries: &[(&str, &str)]) -> Settings {
        let server: ::config::Map<String, Value> =
            entries.iter().map(|(key, value)| ((*key).to_owned(), Value::new(None, *value))).collect();
        Settings::of(&[("server".to_owned(), Value::new(None, server))].into())
    }

    #[test]
    fn what_differs_is_named_and_its_value_not_shown() {
        let before = settings(&[("listen", "hunter2"), ("drain", "1"), ("gone", "x")]);
        let after = settings(&[("listen", "hunter3"), ("drain", "1"), ("new", "y")]);
        assert_eq!(before.changed(&after), ["server.gone", "server.listen", "server.new"]);
        assert_eq!(before.changed(&before), [""; 0]);
        assert!(!format!("{before:?}").contains("hunter2"));
    }
}
