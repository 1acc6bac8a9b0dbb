//! Which token requests a fault or a counter is for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fault::Fault;

/// The fields of a token request.
pub(super) type Form = BTreeMap<String, String>;

/// Fields of a token request that prove something and are shown to nobody.
const SECRETS: [&str; 5] = ["refresh_token", "client_secret", "client_assertion", "assertion", "token"];

/// Token requests that have all of what is named here; the default is every
/// request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matching {
    /// It carries `claims`, whatever they say.
    pub claims: bool,
    /// One of its scopes is this.
    pub scope: Option<String>,
    /// Its `resource` is this.
    pub resource: Option<String>,
}

impl Matching {
    pub(super) fn fits(&self, form: &Form) -> bool {
        let Self { claims, scope, resource } = self;
        let has_scope = |wanted: &String| {
            form.get("scope").is_some_and(|scopes| scopes.split_ascii_whitespace().any(|s| s == wanted))
        };
        (!claims || form.contains_key("claims"))
            && scope.as_ref().is_none_or(has_scope)
            && resource.as_ref().is_none_or(|wanted| form.get("resource") == Some(wanted))
    }
}

/// How many requests of a kind have come since it was made; clones count the
/// same.
#[derive(Debug, Clone, Default)]
pub struct Seen(Arc<AtomicU64>);

impl Seen {
    /// So many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// What is to happen to some requests, and what is counted of them.
#[derive(Debug, Default)]
pub(super) struct Watch {
    faults: Vec<(Matching, Fault, usize)>,
    counters: Vec<(Matching, Seen)>,
}

impl Watch {
    pub(super) fn fault(&mut self, matching: Matching, fault: Fault, times: usize) {
        self.faults.push((matching, fault, times));
    }

    pub(super) fn count(&mut self, matching: Matching) -> Seen {
        let seen = Seen::default();
        self.counters.push((matching, seen.clone()));
        seen
    }

    pub(super) fn forget_faults(&mut self) {
        self.faults.clear();
    }

    /// Counts the request, and says what goes wrong with it.
    pub(super) fn meet(&mut self, form: &Form) -> Option<Fault> {
        for (_, seen) in self.counters.iter().filter(|(matching, _)| matching.fits(form)) {
            seen.0.fetch_add(1, Ordering::SeqCst);
        }
        let (_, fault, times) =
            self.faults.iter_mut().find(|(matching, _, times)| *times > 0 && matching.fits(form))?;
        if *times != usize::MAX {
            *times -= 1;
        }
        Some(fault.clone())
    }
}

/// The fields that prove nothing.
pub(super) fn without_secrets(form: &Form) -> Form {
    form.iter()
        .filter(|(name, _)| !SECRETS.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
