//! Settings that name the same file by whatever path.
//!
//! A file that the vault writes, its root key, its policy and its configuration
//! are each named for one purpose. Certificates, keys and secrets may share a
//! file: one PEM file can hold a chain and its key, and be named by several.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What a setting's file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// The vault writes it, and files beside it with names made from its own.
    Written,
    /// It is read for one purpose.
    Alone,
    /// It is read, and others of this kind may be in it.
    Shared,
}

/// A file that a setting names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) setting: String,
    pub(super) path: PathBuf,
    pub(super) used: Use,
}

/// What is beside a database or an audit log: SQLite's own files and the lock.
const BESIDE: [&str; 4] = ["-wal", "-shm", "-journal", ".lock"];

/// For each setting that names a file of an earlier one: the two, and what to
/// do.
pub(super) fn faults(named: &[Named]) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    for (n, later) in named.iter().enumerate() {
        for earlier in &named[..n] {
            if earlier.used == Use::Shared && later.used == Use::Shared {
                continue;
            }
            if is_same(&earlier.path, &later.path) {
                let what = format!("is the same file as {}: each needs a file of its own", earlier.setting);
                faults.push((later.setting.clone(), what));
            } else if let Some((owner, other)) = beside(earlier, later) {
                let what = format!("is a file that the vault keeps beside {}: choose another", owner.setting);
                faults.push((other.setting.clone(), what));
            }
        }
    }
    faults
}

/// The one of the two that is a file which the vault keeps beside the other.
fn beside<'a>(a: &'a Named, b: &'a Named) -> Option<(&'a Named, &'a Named)> {
    [(a, b), (b, a)].into_iter().find(|(owner, other)| {
        owner.used == Use::Written
            && BESIDE.iter().any(|end| {
                let mut path = owner.path.clone().into_os_string();
                path.push(end);
                is_same(Path::new(&path), &other.path)
            })
    })
}

/// Whether two paths lead to one file: by inode where both are there, and else
/// by directory and name.
fn is_same(a: &Path, b: &Path) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        (Err(_), Err(_)) => resolved(a) == resolved(b),
        _ => false,
    }
}

/// A path to a file that is not there yet, its directory resolved.
fn resolved(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = fs::canonicalize(parent.unwrap_or(Path::new(".")));
    match (directory, path.file_name()) {
        (Ok(directory), Some(name)) => directory.join(name),
        _ => path.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn named(setting: &str, path: PathBuf, used: Use) -> Named {
        Named { setting: setting.into(), path, used }
    }

    #[test]
    fn one_file_by_whatever_path_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("there"), "").unwrap();
        fs::hard_link(at("there"), at("hard")).unwrap();
        symlink("there", at("link")).unwrap();
        symlink(".", at("here")).unwrap();
        for (a, b) in [
            ("there", "there"),
            ("there", "hard"),
            ("there", "link"),
            ("there", "here/there"),
            ("new", "here/new"),
            ("new", "here/here/./new"),
        ] {
            let pair = [named("a", at(a), Use::Written), named("b", at(b), Use::Alone)];
            assert_eq!(faults(&pair).len(), 1, "{a} {b}");
        }
        let apart = [named("a", at("there"), Use::Written), named("b", at("new"), Use::Written)];
        assert_eq!(faults(&apart), []);
    }

    #[test]
    fn what_the_vault_keeps_beside_a_file_is_no_other_setting() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for end in BESIDE {
            let store = named("store.path", at("vault.db"), Use::Written);
            let audit = named("audit.file", at(&format!("vault.db{end}")), Use::Written);
            for pair in [[store.clone(), audit.clone()], [audit, store]] {
                let found = faults(&pair);
                assert_eq!(found.len(), 1, "{end}");
                assert_eq!(found[0].0, "audit.file");
            }
        }
    }

    #[test]
    fn certificates_and_keys_may_share_a_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let pem = dir.path().join("all.pem");
        fs::write(&pem, "").unwrap();
        let of = |used| named("x", pem.clone(), used);
        assert_eq!(faults(&[of(Use::Shared), of(Use::Shared)]), []);
        for other in [Use::Written, Use::Alone] {
            assert_eq!(faults(&[of(Use::Shared), of(other)]).len(), 1);
            assert_eq!(faults(&[of(other), of(other)]).len(), 1);
        }
    }
}
