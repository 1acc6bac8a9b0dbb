//! The floors: what SQLite and the disk give without a vault.

#![expect(clippy::disallowed_types, reason = "the floor is SQLite itself")]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use obo_vault::clock::{Clock as _, SystemClock};
use rusqlite::Connection;

/// Opens a database with the settings the vault uses.
fn open(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    for (name, value) in [("journal_mode", "WAL"), ("synchronous", "FULL"), ("secure_delete", "ON")] {
        connection.pragma_update(None, name, value).unwrap();
    }
    connection
}

/// Durable commits per second, each of one row of `bytes`, one after the other.
pub(crate) fn commits_per_second(directory: &Path, commits: u32, bytes: usize) -> f64 {
    let connection = open(&directory.join("floor.db"));
    connection
        .execute_batch("CREATE TABLE IF NOT EXISTS row (id INTEGER PRIMARY KEY, value BLOB NOT NULL)")
        .unwrap();
    let mut insert = connection.prepare("INSERT INTO row (value) VALUES (?1)").unwrap();
    let value = vec![7_u8; bytes];
    per_second(commits, || {
        for _ in 0..commits {
            insert.execute([&value]).unwrap();
        }
    })
}

/// Rows per second of updating every sealed token of a copy of the store, in
/// transactions of `batch`.
pub(crate) fn updates_per_second(store: &Path, copy: &Path, batch: usize) -> f64 {
    open(store).execute("VACUUM INTO ?1", [copy.to_str()]).unwrap();
    let connection = open(copy);
    let mut select = connection.prepare("SELECT id, length(sealed) FROM grants ORDER BY id").unwrap();
    let rows: Vec<(Vec<u8>, usize)> =
        select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
    let mut update = connection
        .prepare("UPDATE grants SET sealed = ?2, key_version = key_version + 1 WHERE id = ?1")
        .unwrap();
    per_second(u32::try_from(rows.len()).unwrap(), || {
        for batch in rows.chunks(batch) {
            connection.execute_batch("BEGIN IMMEDIATE").unwrap();
            for (id, length) in batch {
                update.execute((id, vec![7_u8; *length])).unwrap();
            }
            connection.execute_batch("COMMIT").unwrap();
        }
    })
}

/// Milliseconds that a small append and its flush to the disk take.
pub(crate) fn flush_millis(directory: &Path) -> f64 {
    const FLUSHES: u32 = 200;
    let mut file = File::create(directory.join("floor.log")).unwrap();
    1e3 / per_second(FLUSHES, || {
        for _ in 0..FLUSHES {
            file.write_all(&[b'x'; 16 * 1024]).unwrap();
            file.sync_data().unwrap();
        }
    })
}

fn per_second(times: u32, work: impl FnOnce()) -> f64 {
    let clock = SystemClock::new();
    let start = clock.instant();
    work();
    f64::from(times) / clock.instant().since(start).as_secs_f64()
}
