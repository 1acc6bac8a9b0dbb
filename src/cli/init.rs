//! `obo-vault init`: a directory to start from. Whatever is there stays.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::domain::chain::error_chain;
use crate::keyring::FileRootKey;

use super::Exit;
use super::failure::CliFailure;
use super::output::{Record, Shown};

const CONFIGURATION: &str = include_str!("../../deploy/obo-vault.minimal.toml");
const POLICY: &str = include_str!("../../deploy/policy.minimal.cedar");

/// Makes a directory to start from.
#[derive(Debug, Args)]
pub struct Init {
    /// The directory; made when it is not there.
    #[arg(default_value = ".")]
    directory: PathBuf,
}

impl Init {
    pub(super) fn run(self) -> Result<Shown, CliFailure> {
        let directory = self.directory;
        make_directory(&directory)?;
        let root_key = directory.join("root.key");
        let key_made = if root_key.exists() { false } else { create_root_key(&root_key).map(|()| true)? };
        let records = vec![
            record(&root_key, key_made),
            record_file(&directory.join("obo-vault.toml"), CONFIGURATION)?,
            record_file(&directory.join("policy.cedar"), POLICY)?,
        ];
        Ok(Shown::Many { name: "files", records, beside: Vec::new(), columns: &[], empty: String::new() })
    }
}

fn create_root_key(path: &Path) -> Result<(), CliFailure> {
    FileRootKey::create(path).map_err(|e| CliFailure::new(Exit::Unexpected, error_chain(&e)))
}

fn make_directory(path: &Path) -> Result<(), CliFailure> {
    if path.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|e| cannot(path, &e))
}

fn record_file(path: &Path, text: &str) -> Result<Record, CliFailure> {
    let made = match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => {
            file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| cannot(path, &e))?;
            true
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => false,
        Err(e) => return Err(cannot(path, &e)),
    };
    Ok(record(path, made))
}

fn record(path: &Path, made: bool) -> Record {
    let result = if made { "made" } else { "kept" };
    vec![("file", path.display().to_string().into()), ("result", result.into())]
}

fn cannot(path: &Path, error: &std::io::Error) -> CliFailure {
    CliFailure::new(Exit::Unexpected, format!("{}: cannot be made: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_init_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("vault");
        let run = || Init { directory: directory.clone() }.run().unwrap();
        let files =
            || ["root.key", "obo-vault.toml", "policy.cedar"].map(|f| fs::read(directory.join(f)).unwrap());
        run();
        let first = files();
        let Shown::Many { records, .. } = run() else { panic!("not a list") };
        assert!(records.iter().all(|r| r[1].1 == "kept"), "{records:?}");
        assert_eq!(files(), first);
    }

    #[test]
    fn what_was_made_is_what_the_vault_reads() {
        let dir = tempfile::tempdir().unwrap();
        Init { directory: dir.path().into() }.run().unwrap();
        let environment = [("PORTAL_CLIENT_SECRET".to_owned(), "stand-in".to_owned())].into();
        crate::config::Config::load_with(&dir.path().join("obo-vault.toml"), &environment).unwrap();
        FileRootKey::load(&dir.path().join("root.key")).unwrap();
    }

    #[test]
    fn what_is_there_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("obo-vault.toml");
        assert_eq!(record_file(&file, "new").unwrap()[1].1, "made");
        fs::write(&file, "edited").unwrap();
        assert_eq!(record_file(&file, "new").unwrap()[1].1, "kept");
        assert_eq!(fs::read_to_string(&file).unwrap(), "edited");
    }
}
