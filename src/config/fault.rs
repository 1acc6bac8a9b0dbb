//! What is wrong with a configuration, all of it at once.

use std::fmt;

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Path of the key, for example `providers.entra.token_endpoint`; the name of
    /// the environment variable where one has set it.
    pub path: String,
    /// What is wrong and what to do. Never shows the value: it may be a secret
    /// in the wrong place.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

/// All faults of a configuration, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFaults {
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

impl ConfigFaults {
    /// One fault.
    pub(super) fn one(path: impl Into<String>, what: impl Into<String>) -> Self {
        Self { faults: vec![Fault { path: path.into(), what: what.into() }], warnings: Vec::new() }
    }

    /// Several faults; at least one.
    pub(super) fn all(faults: Vec<Fault>, warnings: Vec<Fault>) -> Self {
        Self { faults, warnings }
    }

    /// The faults in the order in which they were found.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// What works and is hardly meant.
    #[must_use]
    pub fn warnings(&self) -> &[Fault] {
        &self.warnings
    }
}

/// One fault per line.
impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigFaults {}
