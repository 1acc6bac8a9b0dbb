//! What only the SQLite back-end can be asked: whose files they are, whether an
//! acknowledged commit outlives the process, whether what was destroyed is gone
//! from the files. The contract of all back-ends is `store_contract`, and what
//! needs a look inside is tested beside the code.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use obo_vault::clock::Timestamp;
use obo_vault::domain::id::TenantId;
use obo_vault::domain::key::{KeyId, KeyVersion};
use obo_vault::entropy::{self, OsEntropy};
use obo_vault::store::sqlite::{SqliteKeyStore, SqliteStore};
use obo_vault::store::{KeyStore, Store};

const NOW: Timestamp = Timestamp(1_700_000_000_000);
/// Tells a child process of this test where to work.
const DIRECTORY: &str = "OBO_VAULT_TEST_DIRECTORY";

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

#[tokio::test]
async fn files_are_the_owners_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("vault.db")).unwrap();
    let keys = SqliteKeyStore::open(&directory.path().join("keys.db")).unwrap();
    store.create_tenant(&tenant("acme"), KeyVersion::FIRST, NOW).await.unwrap().unwrap();
    keys.insert(&tenant("acme"), KeyVersion::FIRST, KeyId([1; 16]), b"wrapped", NOW).await.unwrap();
    let mut names = Vec::new();
    for entry in directory.path().read_dir().unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{} has mode {mode:o}", entry.path().display());
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    let expected = ["keys.db", "keys.db-shm", "keys.db-wal", "keys.db.lock"].into_iter().chain([
        "vault.db",
        "vault.db-shm",
        "vault.db-wal",
        "vault.db.lock",
    ]);
    assert!(names.iter().eq(expected), "{names:?}");
}

#[test]
fn a_file_is_opened_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vault.db");
    let first = SqliteStore::open(&path).unwrap();
    let error = SqliteStore::open(&path).unwrap_err();
    assert!(error.to_string().contains("another process has this store open"), "{error}");
    let other_process = child("open_in_a_child", directory.path()).wait_with_output().unwrap();
    assert!(!other_process.status.success());
    drop(first);
    let other_process = child("open_in_a_child", directory.path()).wait_with_output().unwrap();
    assert!(other_process.status.success(), "{}", String::from_utf8_lossy(&other_process.stdout));
}

#[test]
#[ignore = "a_file_is_opened_once runs it in a process of its own"]
fn open_in_a_child() {
    let Some(directory) = directory_of_child() else { return };
    SqliteStore::open(&directory.join("vault.db")).unwrap();
}

/// Both stores, as a vault has them.
fn both(directory: &Path) -> (SqliteKeyStore, SqliteStore) {
    let keys = SqliteKeyStore::open(&directory.join("keys.db")).unwrap();
    let store = SqliteStore::open_beside(&directory.join("vault.db"), &keys).unwrap();
    (keys, store)
}

fn all_files() -> impl Iterator<Item = String> {
    let suffixes = ["", "-wal", "-shm", ".lock"];
    ["vault.db", "keys.db"].into_iter().flat_map(move |name| suffixes.map(|suffix| format!("{name}{suffix}")))
}

#[tokio::test]
async fn nothing_is_committed_while_a_file_of_either_store_is_away() {
    type Accident = fn(&Path);
    let accidents: [Accident; 3] = [
        |path| fs::remove_file(path).unwrap(),
        |path| {
            fs::rename(path, path.with_extension("aside")).unwrap();
            fs::write(path, "").unwrap();
        },
        |path| fs::rename(path.parent().unwrap(), path.parent().unwrap().with_extension("aside")).unwrap(),
    ];
    for file in all_files() {
        for accident in accidents {
            let above = tempfile::tempdir().unwrap();
            let directory = above.path().join("state");
            fs::create_dir(&directory).unwrap();
            let (keys, store) = both(&directory);
            store.check_writable().await.unwrap();
            accident(&directory.join(&file));
            let error = store.check_writable().await.unwrap_err().to_string();
            assert!(error.contains("OPERATIONS.md"), "{file}: {error}");
            store.create_tenant(&tenant("acme"), KeyVersion::FIRST, NOW).await.unwrap_err();
            if file.starts_with("keys") {
                let acme = tenant("acme");
                let key = keys.insert(&acme, KeyVersion::FIRST, KeyId([1; 16]), b"wrapped", NOW);
                key.await.unwrap_err();
                keys.erase_deleted().await.unwrap_err();
            }
        }
    }
}

#[tokio::test]
async fn a_store_whose_files_come_back_goes_on() {
    for file in all_files() {
        let directory = tempfile::tempdir().unwrap();
        let (_keys, store) = both(directory.path());
        let (path, aside) = (directory.path().join(&file), directory.path().join("aside"));
        fs::rename(&path, &aside).unwrap();
        store.create_tenant(&tenant("acme"), KeyVersion::FIRST, NOW).await.unwrap_err();
        fs::rename(&aside, &path).unwrap();
        store.create_tenant(&tenant("acme"), KeyVersion::FIRST, NOW).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_database_that_is_cut_short_takes_no_more() {
    for file in ["vault.db", "keys.db"] {
        let directory = tempfile::tempdir().unwrap();
        let (_keys, store) = both(directory.path());
        let path = directory.path().join(file);
        let length = fs::metadata(&path).unwrap().len();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
        let error = store.check_writable().await.unwrap_err().to_string();
        assert!(error.contains("cut short"), "{error}");
    }
}

/// What the procedure of the manual relies on: where only the write-ahead log is
/// gone, an orderly stop saves what is in it.
#[tokio::test]
async fn a_stop_saves_what_a_removed_log_holds() {
    let directory = tempfile::tempdir().unwrap();
    let (keys, store) = both(directory.path());
    store.create_tenant(&tenant("acme"), KeyVersion::FIRST, NOW).await.unwrap().unwrap();
    fs::remove_file(directory.path().join("vault.db-wal")).unwrap();
    store.create_tenant(&tenant("late"), KeyVersion::FIRST, NOW).await.unwrap_err();
    drop((keys, store));
    let (_keys, store) = both(directory.path());
    assert!(store.tenant(&tenant("acme")).await.unwrap().is_some());
}

/// Rounds of the test that kills; each kills at another moment.
const KILLS: usize = 4;

#[tokio::test]
async fn what_was_acknowledged_outlives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 1..=KILLS {
        let mut child = child("write_in_a_child", directory.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let written = lines
            .by_ref()
            .map(Result::unwrap)
            .filter_map(|line| line.strip_prefix("acknowledged ").map(str::to_owned));
        // In the middle of its writing, which would never end by itself.
        acknowledged.extend(written.take(37 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let rest = lines.map_while(Result::ok);
        acknowledged.extend(rest.filter_map(|line| line.strip_prefix("acknowledged ").map(str::to_owned)));
    }
    let store = SqliteStore::open(&directory.path().join("vault.db")).unwrap();
    let keys = SqliteKeyStore::open(&directory.path().join("keys.db")).unwrap();
    assert!(acknowledged.len() >= 37 * 10);
    for name in &acknowledged {
        assert!(store.tenant(&tenant(name)).await.unwrap().is_some(), "{name} is lost");
        let key = keys.key(&tenant(name), KeyVersion::FIRST).await.unwrap();
        assert!(key.is_some_and(|k| k.wrapped.is_some()), "the key of {name} is lost");
    }
}

#[tokio::test]
#[ignore = "what_was_acknowledged_outlives_a_kill runs it in a process of its own"]
async fn write_in_a_child() {
    let Some(directory) = directory_of_child() else { return };
    let store = Arc::new(SqliteStore::open(&directory.join("vault.db")).unwrap());
    let keys = Arc::new(SqliteKeyStore::open(&directory.join("keys.db")).unwrap());
    // Several at once, so that commits are shared.
    let writers = (0..8).map(|_| {
        let (store, keys) = (Arc::clone(&store), Arc::clone(&keys));
        tokio::spawn(async move {
            loop {
                let name = entropy::uuid(&OsEntropy).unwrap().to_string();
                let id = tenant(&name);
                keys.insert(&id, KeyVersion::FIRST, KeyId([1; 16]), &[7; 80], NOW).await.unwrap();
                store.create_tenant(&id, KeyVersion::FIRST, NOW).await.unwrap().unwrap();
                let mut out = std::io::stdout().lock();
                writeln!(out, "acknowledged {name}").unwrap();
                out.flush().unwrap();
            }
        })
    });
    futures_util::future::join_all(writers).await;
}

/// Runs one test of this file in a process of its own.
fn child(test: &str, directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a child process is told its directory by the test that starts it"
)]
fn directory_of_child() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY).map(PathBuf::from)
}

/// How many tenants the churn has.
const KEYS: usize = 300;

/// A wrapped key that can be found again in a file.
fn wrapped(n: usize) -> Vec<u8> {
    format!("<planted wrapped key {n:06}>").into_bytes().repeat(3)
}

/// How often the bytes occur in the key store's files.
fn occurrences(directory: &Path, needle: &[u8]) -> Vec<(String, usize)> {
    ["keys.db", "keys.db-wal", "keys.db-shm"]
        .into_iter()
        .map(|name| {
            let bytes = std::fs::read(directory.join(name)).unwrap_or_default();
            (name.to_owned(), bytes.windows(needle.len()).filter(|w| *w == needle).count())
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// A key store in which many keys came and went around those to be destroyed,
/// so that pages were split, rebuilt and freed.
async fn churned(directory: &Path) -> SqliteKeyStore {
    let keys = SqliteKeyStore::open(&directory.join("keys.db")).unwrap();
    let mut order: Vec<usize> = (0..KEYS).collect();
    // An order that is anything but sorted, the same in every run.
    order.sort_by_key(|n| (n * 7919) % KEYS);
    for n in order {
        let id = tenant(&format!("tenant-{n:04}-{}", "x".repeat(n % 90)));
        for version in 1..=2 {
            keys.insert(&id, KeyVersion(version), KeyId([1; 16]), &wrapped(n), NOW).await.unwrap();
            keys.activate(&id, KeyVersion(version)).await.unwrap();
            keys.reserve_seals(&id, KeyVersion(version), 1 << 20).await.unwrap();
        }
        if n % 5 == 0 {
            keys.destroy(&id, KeyVersion(1)).await.unwrap();
        }
        if n % 97 == 0 {
            keys.erase_deleted().await.unwrap();
        }
    }
    keys
}

async fn destroy_every_third(keys: &SqliteKeyStore) -> Vec<usize> {
    let destroyed: Vec<usize> = (0..KEYS).filter(|n| n % 3 == 0).collect();
    for n in &destroyed {
        let id = tenant(&format!("tenant-{n:04}-{}", "x".repeat(n % 90)));
        assert_eq!(keys.destroy_tenant(&id, NOW).await.unwrap(), 2);
    }
    destroyed
}

#[tokio::test(flavor = "multi_thread")]
async fn destroyed_keys_are_in_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let keys = churned(directory.path()).await;
    assert!(!occurrences(directory.path(), &wrapped(3)).is_empty(), "the test does not see the keys");
    let destroyed = destroy_every_third(&keys).await;
    assert!(keys.erase_deleted().await.unwrap());
    for n in destroyed {
        let found = occurrences(directory.path(), &wrapped(n));
        assert!(found.is_empty(), "key {n} is still in {found:?}");
    }
    assert!(!occurrences(directory.path(), &wrapped(4)).is_empty(), "a living key is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_holds_the_log_is_reported_and_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let keys = SqliteKeyStore::open(&directory.path().join("keys.db")).unwrap();
    keys.insert(&tenant("acme"), KeyVersion::FIRST, KeyId([1; 16]), &wrapped(1), NOW).await.unwrap();
    let reader = foreign_reader(&directory.path().join("keys.db"));
    keys.destroy_tenant(&tenant("acme"), NOW).await.unwrap();
    assert!(!keys.erase_deleted().await.unwrap(), "a log that is held was called erased");
    assert!(!occurrences(directory.path(), &wrapped(1)).is_empty());
    // Writing goes on meanwhile.
    keys.insert(&tenant("other"), KeyVersion::FIRST, KeyId([2; 16]), &wrapped(2), NOW).await.unwrap();
    drop(reader);
    assert!(keys.erase_deleted().await.unwrap());
    assert_eq!(occurrences(directory.path(), &wrapped(1)), []);
    assert!(!occurrences(directory.path(), &wrapped(2)).is_empty());
}

/// Reads the file as a backup would, and does not end.
#[expect(clippy::disallowed_types, reason = "a stranger at the file, as a backup is")]
fn foreign_reader(path: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.execute_batch("BEGIN").unwrap();
    let count: i64 = connection.query_row("SELECT count(*) FROM tenant_key", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1);
    connection
}
