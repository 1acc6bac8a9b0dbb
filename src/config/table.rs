//! Walks one table of the settings: each key is taken out, checked, and what is
//! left at the end is unknown.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ::config::{Value, ValueKind};

use super::fault::{ConfigFaults, Fault};
use super::file::{self, Privacy};
use super::{Environment, parse};

/// A table being read. Readers take every key they know before they give up on
/// one that is missing, so that all faults are found in one pass.
pub(super) struct Table<'a> {
    path: String,
    entries: BTreeMap<String, Value>,
    context: Context<'a>,
}

#[derive(Clone, Copy)]
struct Context<'a> {
    base: &'a Path,
    environment: &'a Environment,
    faults: &'a Faults,
}

/// The faults found so far.
#[derive(Default)]
pub(super) struct Faults(RefCell<Vec<Fault>>);

impl Faults {
    /// The value when nothing is wrong.
    pub(super) fn into_result<T>(self, value: Option<T>) -> Result<T, ConfigFaults> {
        let faults = self.0.into_inner();
        match value {
            Some(value) if faults.is_empty() => Ok(value),
            None if faults.is_empty() => {
                Err(ConfigFaults::one("(configuration)", "cannot be read, for a reason nobody recorded"))
            }
            _ => Err(ConfigFaults::all(faults)),
        }
    }
}

impl<'a> Table<'a> {
    /// The top table; relative paths in it are relative to `base`.
    pub(super) fn root(
        entries: BTreeMap<String, Value>,
        base: &'a Path,
        environment: &'a Environment,
        faults: &'a Faults,
    ) -> Self {
        Self { path: String::new(), entries, context: Context { base, environment, faults } }
    }

    /// The value of a key that may be left out.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        check: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.entries.remove(key)?;
        check(&value).map_err(|what| self.fault(key, what)).ok()
    }

    /// The value of a key that must be there.
    pub(super) fn required<T>(
        &mut self,
        key: &str,
        check: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<T> {
        if !self.has(key) {
            self.fault(key, "is required");
        }
        self.optional(key, check)
    }

    /// The value of a key, or `default` when it is left out.
    pub(super) fn or<T>(&mut self, key: &str, default: T, check: impl Fn(&Value) -> Result<T, String>) -> T {
        self.optional(key, check).unwrap_or(default)
    }

    /// A path; a relative one is relative to the configuration file.
    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        let base = self.context.base;
        self.optional(key, |v| parse::text(v).map(|text| base.join(text)))
    }

    /// A path, or `default` when it is left out.
    pub(super) fn path_or(&mut self, key: &str, default: &str) -> PathBuf {
        let base = self.context.base;
        self.path(key).unwrap_or_else(|| base.join(default))
    }

    /// A path to a file that is there.
    pub(super) fn file(&mut self, key: &str) -> Option<PathBuf> {
        let path = self.path(key)?;
        file::check_readable(&path).map_err(|what| self.fault(key, what)).ok().map(|()| path)
    }

    /// A path to a file that is there and private.
    pub(super) fn private_file(&mut self, key: &str, privacy: Privacy) -> Option<PathBuf> {
        let path = self.path(key)?;
        file::check_private(&path, privacy).map_err(|what| self.fault(key, what)).ok().map(|()| path)
    }

    /// The text of a file that is no secret.
    pub(super) fn public_text(&mut self, key: &str) -> Option<String> {
        let path = self.path(key)?;
        file::read(&path).map_err(|what| self.fault(key, what)).ok()
    }

    /// The text of a file that others cannot read, its last line end dropped.
    pub(super) fn private_text(&mut self, key: &str) -> Option<String> {
        let path = self.path(key)?;
        file::read_private(&path).map_err(|what| self.fault(key, what)).ok()
    }

    /// The text of the environment variable that the key names.
    pub(super) fn variable(&mut self, key: &str) -> Option<String> {
        let name = self.optional(key, parse::text)?;
        match self.context.environment.get(&name) {
            Some(value) if !value.is_empty() => Some(value.trim_end_matches(['\r', '\n']).to_owned()),
            _ => {
                self.fault(key, "names an environment variable that is not set");
                None
            }
        }
    }

    /// Reads a table within this one; left out, it is an empty one.
    pub(super) fn section<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Table<'_>) -> Option<T>,
    ) -> Option<T> {
        let entries = self.table_entries(key);
        let mut table = Table { path: self.path_of(key), entries, context: self.context };
        let value = read(&mut table);
        table.finish();
        value
    }

    /// Reads each table within the table `key`; those with faults are left out.
    pub(super) fn named<K: Ord, T>(
        &mut self,
        key: &str,
        read: impl Fn(&str, &mut Table<'_>) -> Option<(K, T)>,
    ) -> BTreeMap<K, T> {
        let entries = self.table_entries(key);
        let names: Vec<String> = entries.keys().cloned().collect();
        let mut parent = Table { path: self.path_of(key), entries, context: self.context };
        names.iter().filter_map(|name| parent.section(name, |table| read(name, table))).collect()
    }

    /// Reads each table of the list `key`; those with faults are left out.
    pub(super) fn each<T>(&mut self, key: &str, read: impl Fn(&mut Table<'_>, usize) -> Option<T>) -> Vec<T> {
        let items = match self.entries.remove(key).map(|v| v.kind) {
            None => return Vec::new(),
            Some(ValueKind::Array(items)) if !items.is_empty() => items,
            Some(_) => {
                self.fault(key, format!("must be tables, [[{}]], at least one", self.path_of(key)));
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{}[{index}]", self.path_of(key));
            let ValueKind::Table(entries) = item.kind else {
                self.fault(key, format!("must be tables, [[{}]]", self.path_of(key)));
                continue;
            };
            let entries = entries.into_iter().collect();
            let mut table = Table { path, entries, context: self.context };
            found.extend(read(&mut table, index));
            table.finish();
        }
        found
    }

    /// The keys of the table `key`, which stays.
    pub(super) fn keys_of(&self, key: &str) -> Vec<String> {
        match self.entries.get(key).map(|v| &v.kind) {
            Some(ValueKind::Table(table)) => table.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// Whether the key is there and not taken yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Drops a key with its fault.
    pub(super) fn refuse(&mut self, key: &str, what: impl Into<String>) {
        if self.entries.remove(key).is_some() {
            self.fault(key, what);
        }
    }

    /// Records a fault of a key, or of the table when `key` is empty.
    pub(super) fn fault(&self, key: &str, what: impl Into<String>) {
        self.context.faults.0.borrow_mut().push(Fault { path: self.path_of(key), what: what.into() });
    }

    /// Everything left is unknown.
    pub(super) fn finish(self) {
        for key in self.entries.keys() {
            self.fault(key, "is not a key the vault knows");
        }
    }

    fn table_entries(&mut self, key: &str) -> BTreeMap<String, Value> {
        match self.entries.remove(key).map(|v| v.kind) {
            None => BTreeMap::new(),
            Some(ValueKind::Table(table)) => table.into_iter().collect(),
            Some(_) => {
                self.fault(key, "must be a table");
                BTreeMap::new()
            }
        }
    }

    fn path_of(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            ("", key) => key.to_owned(),
            (path, "") => path.to_owned(),
            (path, key) => format!("{path}.{key}"),
        }
    }
}
