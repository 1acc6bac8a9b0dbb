//! Walks one table of the settings: each key is taken out, checked, and what is
//! left at the end is unknown.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ::config::{Value, ValueKind};

use super::fault::{ConfigFaults, Fault};
use super::file::{self, Privacy};
use super::same::{Named, Use};
use super::source::is_of_variables;
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
    /// Which environment variable has set the key of this path.
    variables: &'a BTreeMap<String, String>,
    faults: &'a Faults,
}

/// What was found so far.
#[derive(Default)]
pub(super) struct Faults {
    faults: RefCell<Vec<Fault>>,
    warnings: RefCell<Vec<Fault>>,
    files: RefCell<Vec<Named>>,
}

impl Faults {
    /// Records a fault.
    pub(super) fn add(&self, path: impl Into<String>, what: impl Into<String>) {
        self.faults.borrow_mut().push(Fault { path: path.into(), what: what.into() });
    }

    /// Records what works and is hardly meant.
    pub(super) fn warn(&self, path: impl Into<String>, what: impl Into<String>) {
        self.warnings.borrow_mut().push(Fault { path: path.into(), what: what.into() });
    }

    /// Records that a setting names a file.
    pub(super) fn note_file(&self, setting: impl Into<String>, path: &Path, used: Use) {
        self.files.borrow_mut().push(Named { setting: setting.into(), path: path.into(), used });
    }

    /// The files that settings name.
    pub(super) fn files(&self) -> Vec<Named> {
        self.files.borrow().clone()
    }

    /// What works and is hardly meant.
    pub(super) fn warnings(&self) -> Vec<Fault> {
        self.warnings.borrow().clone()
    }

    /// The value when nothing is wrong.
    pub(super) fn into_result<T>(self, value: Option<T>) -> Result<T, ConfigFaults> {
        let faults = self.faults.into_inner();
        match value {
            Some(value) if faults.is_empty() => Ok(value),
            None if faults.is_empty() => {
                Err(ConfigFaults::one("(configuration)", "cannot be read, for a reason nobody recorded"))
            }
            _ => Err(ConfigFaults::all(faults, self.warnings.into_inner())),
        }
    }
}

impl<'a> Table<'a> {
    /// The top table; relative paths in it are relative to `base`.
    pub(super) fn root(
        entries: BTreeMap<String, Value>,
        base: &'a Path,
        environment: &'a Environment,
        variables: &'a BTreeMap<String, String>,
        faults: &'a Faults,
    ) -> Self {
        Self { path: String::new(), entries, context: Context { base, environment, variables, faults } }
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

    /// A path, if the key is there; the key stays.
    pub(super) fn peek_path(&self, key: &str) -> Option<PathBuf> {
        let text = parse::text(self.entries.get(key)?).ok()?;
        Some(self.context.base.join(text))
    }

    /// A path to a file that the vault writes, or `default` when it is left out.
    pub(super) fn written_file(&mut self, key: &str, default: &str) -> PathBuf {
        let base = self.context.base;
        let path = self.path(key).unwrap_or_else(|| base.join(default));
        self.note_file(key, &path, Use::Written);
        if let Err(what) = file::check_written(&path) {
            self.fault(key, what);
        }
        path
    }

    /// A path to a file that is there.
    pub(super) fn file(&mut self, key: &str) -> Option<PathBuf> {
        let path = self.path(key)?;
        self.note_file(key, &path, Use::Shared);
        file::check_readable(&path).map_err(|what| self.fault(key, what)).ok().map(|()| path)
    }

    /// A path to a file that is there and private.
    pub(super) fn private_file(&mut self, key: &str, privacy: Privacy) -> Option<PathBuf> {
        let path = self.path(key)?;
        let used = match privacy {
            Privacy::Owner => Use::Alone,
            Privacy::Group => Use::Shared,
        };
        self.note_file(key, &path, used);
        file::check_private(&path, privacy).map_err(|what| self.fault(key, what)).ok().map(|()| path)
    }

    /// The path and text of a file that is no secret and named for one purpose
    /// alone.
    pub(super) fn own_text(&mut self, key: &str) -> Option<(PathBuf, String)> {
        let path = self.path(key)?;
        self.note_file(key, &path, Use::Alone);
        file::read(&path).map_err(|what| self.fault(key, what)).ok().map(|text| (path, text))
    }

    /// The text of a file that is no secret.
    pub(super) fn public_text(&mut self, key: &str) -> Option<String> {
        let path = self.path(key)?;
        self.note_file(key, &path, Use::Shared);
        file::read(&path).map_err(|what| self.fault(key, what)).ok()
    }

    /// The text of a file that others cannot read, its last line end dropped.
    pub(super) fn private_text(&mut self, key: &str) -> Option<String> {
        let path = self.path(key)?;
        self.note_file(key, &path, Use::Shared);
        file::read_private(&path).map_err(|what| self.fault(key, what)).ok()
    }

    /// The text of the environment variable that the key names.
    pub(super) fn variable(&mut self, key: &str) -> Option<String> {
        let name = self.optional(key, parse::text)?;
        match self.context.environment.get(&name) {
            Some(value) if !value.is_empty() => Some(value.trim_end_matches(['\r', '\n']).to_owned()),
            _ => {
                let named = match parse::shown_variable(&name) {
                    Some(name) => format!("the environment variable {name}, which is not set or empty"),
                    None => {
                        "an environment variable that is not set; its name is not shown here, since it may \
                             be the secret itself"
                            .to_owned()
                    }
                };
                self.fault(key, format!("names {named}"));
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

    /// Records a fault of a key, or of the table when `key` is empty. One that an
    /// environment variable has set is named by the variable.
    pub(super) fn fault(&self, key: &str, what: impl Into<String>) {
        self.context.faults.add(self.name_of(key), what);
    }

    /// Records what works and is hardly meant.
    pub(super) fn warn(&self, key: &str, what: impl Into<String>) {
        self.context.faults.warn(self.name_of(key), what);
    }

    /// Everything left is unknown.
    pub(super) fn finish(self) {
        for (key, value) in &self.entries {
            let path = self.path_of(key);
            let below = format!("{path}.");
            let of_variables = self.context.variables.iter();
            for (set, variable) in of_variables.filter(|(set, _)| **set == path || set.starts_with(&below)) {
                let what = format!("sets {set}, which is not a key the vault knows");
                self.context.faults.add(variable, what);
            }
            if !is_of_variables(value) {
                self.context.faults.add(path, "is not a key the vault knows");
            }
        }
    }

    fn note_file(&self, key: &str, path: &Path, used: Use) {
        self.context.faults.note_file(self.name_of(key), path, used);
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

    fn name_of(&self, key: &str) -> String {
        let path = self.path_of(key);
        match self.context.variables.get(&path) {
            Some(variable) => format!("{variable} ({path})"),
            None => path,
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
