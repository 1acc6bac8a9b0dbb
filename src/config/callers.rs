//! `[[server.callers]]`: which authority may name which callers.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::authn::{Names, TrustDomain, check_name};
use crate::domain::id::CallerId;

use super::parse;
use super::table::Table;

/// One file of authorities, and whom they may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callers {
    /// The key that names the file.
    pub key: String,
    /// Their certificates, PEM.
    pub ca_file: PathBuf,
    /// Whom they may name.
    pub names: Names,
}

/// The entries of `[[server.callers]]`.
pub(super) fn read(table: &mut Table<'_>, index: usize) -> Option<Callers> {
    if !table.has("ca_file") {
        table.fault("ca_file", "is required");
    }
    let ca_file = table.file("ca_file");
    let names = read_names(table);
    Some(Callers { key: format!("server.callers[{index}].ca_file"), ca_file: ca_file?, names: names? })
}

fn read_names(table: &mut Table<'_>) -> Option<Names> {
    if !table.has("trust_domain") && !table.has("names") {
        table.fault("", "needs trust_domain, or names, or both: whom this CA may name");
    }
    let domain = table.optional("trust_domain", parse::checked(TrustDomain::new));
    let path = table.optional("path_prefix", parse::text);
    let listed = table.or("names", Vec::new(), parse::list);
    let domain = match (domain, path) {
        (Some(domain), Some(path)) => {
            domain.below(&path).map_err(|e| table.fault("path_prefix", e.to_string())).ok()
        }
        (None, Some(_)) => {
            table.fault("path_prefix", "is a part of trust_domain, which is missing");
            None
        }
        (domain, None) => domain,
    };
    let callers: Option<BTreeSet<CallerId>> = listed.iter().map(|name| check_name(name).ok()).collect();
    let Some(callers) = callers else {
        table.fault("names", "must be callers as policies name them: one URI each, or dns: and a host");
        return None;
    };
    (domain.is_some() || !callers.is_empty())
        .then(|| Names::Bound { domains: domain.into_iter().collect(), callers })
}
