//! One SQLite file: a writer thread that commits many operations at once, a few
//! readers, and the settings everything above relies on.
//!
//! Each operation is a closure over the open transaction. The writer takes
//! whatever waits, runs each in a savepoint of its own, and commits once, so
//! that many callers share one flush of the disk; an operation is answered
//! after that commit and never before (rule 2 and rule 6 of the protocol).

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use rusqlite::OpenFlags;
use rusqlite_migration::Migrations;
use tokio::sync::{Semaphore, oneshot};

use crate::store::StoreError;

use super::files::{self, Files};

#[expect(clippy::disallowed_types, reason = "the home of SQLite")]
pub(super) type Connection = rusqlite::Connection;

/// Most operations in one commit.
const BATCH: usize = 256;
/// Connections for reading.
const READERS: usize = 4;
/// How long a statement waits for a lock.
const BUSY: Duration = Duration::from_secs(5);
/// How often a TRUNCATE checkpoint is tried before it is reported as held up.
const TRUNCATE_TRIES: u32 = 5;
/// How long each of them waits for readers. All writes wait behind it, so that
/// a backup that reads for minutes must not be waited for here.
const TRUNCATE_BUSY: Duration = Duration::from_millis(200);

pub(super) struct Db {
    /// There until the drop.
    writer: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
    readers: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    /// Also for the database that is kept beside this one.
    files: Arc<Files>,
    _lock: File,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").finish_non_exhaustive()
    }
}

enum Job {
    Write(Box<dyn Write>),
    Truncate(oneshot::Sender<Result<bool, StoreError>>),
}

impl Db {
    /// Opens the file. Commits are refused when it, or a file of the database
    /// `beside` it, is not at its path any more.
    pub(super) fn open(
        path: &Path,
        migrations: &Migrations<'_>,
        beside: Option<&Self>,
    ) -> Result<Self, StoreError> {
        let failed = |detail: String| StoreError {
            operation: "open",
            detail: format!("{}: {detail}", path.display()),
        };
        let lock = files::lock(path).map_err(&failed)?;
        files::create_private(path).map_err(|e| failed(e.to_string()))?;
        let mut connection = connect(path, true).map_err(&failed)?;
        migrations.to_latest(&mut connection).map_err(|e| failed(e.to_string()))?;
        let readers =
            (0..READERS).map(|_| connect(path, false)).collect::<Result<Vec<_>, _>>().map_err(&failed)?;
        let beside = beside.map(|other| Arc::clone(&other.files));
        let files = Arc::new(Files::find(path, beside).map_err(&failed)?);

        let (writer, jobs) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("store-writer".into())
            .spawn({
                let files = Arc::clone(&files);
                move || write_loop(&connection, &files, &jobs)
            })
            .map_err(|e| failed(e.to_string()))?;
        Ok(Self {
            writer: Some(writer),
            thread: Some(thread),
            readers: Arc::new(Mutex::new(readers)),
            permits: Arc::new(Semaphore::new(READERS)),
            files,
            _lock: lock,
        })
    }

    /// Runs `operation` in a transaction; when this returns `Ok`, it is on disk.
    /// It goes on when the caller stops waiting.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        name: &'static str,
        operation: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = Typed { name, operation: Some(operation), result: None, reply };
        self.send(name, Job::Write(Box::new(job)))?;
        answer.await.map_err(|_| gone(name))?
    }

    /// Runs `query` over one snapshot.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        name: &'static str,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| gone(name))?;
        let readers = Arc::clone(&self.readers);
        let work = tokio::task::spawn_blocking(move || {
            let connection = readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(connection) = connection else { return Err(gone(name)) };
            let result = snapshot(&connection, query);
            readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop(permit);
            result.map_err(|e| failed(name, &e))
        });
        work.await.map_err(|e| StoreError { operation: name, detail: e.to_string() })?
    }

    /// Overwrites and truncates the write-ahead log. `false`: a reader held it.
    pub(super) async fn truncate_log(&self) -> Result<bool, StoreError> {
        const NAME: &str = "truncate log";
        let (reply, answer) = oneshot::channel();
        self.send(NAME, Job::Truncate(reply))?;
        answer.await.map_err(|_| gone(NAME))?
    }

    fn send(&self, name: &'static str, job: Job) -> Result<(), StoreError> {
        let writer = self.writer.as_ref().ok_or_else(|| gone(name))?;
        writer.send(job).map_err(|_| gone(name))
    }
}

/// The lock must not be free while the writer still commits: whoever takes it
/// next may count on a file at rest.
impl Drop for Db {
    fn drop(&mut self) {
        self.writer = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the writer was seen by whom it left without an answer.
            let _ = thread.join();
        }
    }
}

fn snapshot<T>(
    connection: &Connection,
    query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = connection.unchecked_transaction()?;
    let result = query(&transaction)?;
    transaction.finish()?;
    Ok(result)
}

fn gone(operation: &'static str) -> StoreError {
    StoreError { operation, detail: "the store's thread has ended".into() }
}

fn failed(operation: &'static str, error: &rusqlite::Error) -> StoreError {
    StoreError { operation, detail: error.to_string() }
}

/// Opens a connection and reads back every setting it depends on: a build of
/// SQLite that ignores one is refused here, not noticed after a power failure.
fn connect(path: &Path, writer: bool) -> Result<Connection, String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|e| e.to_string())?;
    connection.busy_timeout(BUSY).map_err(|e| e.to_string())?;
    connection.set_prepared_statement_cache_capacity(64);
    let settings: &[(&str, &str, &str)] = &[
        ("journal_mode", "WAL", "wal"),
        ("synchronous", "FULL", "2"),
        ("secure_delete", "ON", "1"),
        ("foreign_keys", "ON", "1"),
        ("temp_store", "MEMORY", "2"),
    ];
    for (name, value, expected) in settings {
        connection.pragma_update(None, name, value).map_err(|e| format!("setting {name}: {e}"))?;
        let read: String = connection
            .pragma_query_value(None, name, |row| {
                row.get::<_, i64>(0).map(|n| n.to_string()).or_else(|_| row.get::<_, String>(0))
            })
            .map_err(|e| format!("reading {name} back: {e}"))?;
        if read != *expected {
            return Err(format!("{name} is {read} and must be {expected}"));
        }
    }
    if !writer {
        connection.pragma_update(None, "query_only", "ON").map_err(|e| e.to_string())?;
    }
    Ok(connection)
}

/// An operation on its way through the writer.
trait Write: Send {
    /// Runs it in a savepoint; `false` when it failed.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Answers the caller after the commit.
    fn finish(self: Box<Self>, committed: Result<(), &str>);
}

struct Typed<T, F> {
    name: &'static str,
    operation: Option<F>,
    result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Write for Typed<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        let Some(operation) = self.operation.take() else { return false };
        let result = in_savepoint(connection, operation);
        let ran = result.is_ok();
        self.result = Some(result.map_err(|e| failed(self.name, &e)));
        ran
    }

    fn finish(self: Box<Self>, committed: Result<(), &str>) {
        let answer = match (self.result, committed) {
            (Some(Err(error)), _) => Err(error),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (Some(Ok(_)) | None, Err(why)) => {
                Err(StoreError { operation: self.name, detail: why.to_owned() })
            }
            (None, Ok(())) => Err(gone(self.name)),
        };
        // The caller may have stopped waiting; what it asked for is done.
        let _ = self.reply.send(answer);
    }
}

fn in_savepoint<T>(
    connection: &Connection,
    operation: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.execute_batch("SAVEPOINT operation")?;
    match operation(connection) {
        Ok(value) => {
            connection.execute_batch("RELEASE operation")?;
            Ok(value)
        }
        Err(error) => {
            // A full disk ends the whole transaction by itself; the writer sees
            // that and fails the batch.
            if !connection.is_autocommit() {
                connection.execute_batch("ROLLBACK TO operation; RELEASE operation")?;
            }
            Err(error)
        }
    }
}

fn write_loop(connection: &Connection, files: &Files, jobs: &mpsc::Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut next = Some(first);
        let mut batch: Vec<Box<dyn Write>> = Vec::new();
        while let Some(job) = next.take() {
            match job {
                Job::Write(write) => batch.push(write),
                Job::Truncate(reply) => {
                    commit_batch(connection, files, std::mem::take(&mut batch));
                    let _ = reply.send(truncate(connection, files));
                }
            }
            if batch.len() < BATCH {
                next = jobs.try_recv().ok();
            }
        }
        commit_batch(connection, files, batch);
    }
}

fn commit_batch(connection: &Connection, files: &Files, mut batch: Vec<Box<dyn Write>>) {
    if batch.is_empty() {
        return;
    }
    let begin = || connection.execute_batch("BEGIN IMMEDIATE").map_err(|e| e.to_string());
    let mut committed = files.check().and_then(|()| begin());
    if committed.is_ok() {
        for write in &mut batch {
            write.run(connection);
            if connection.is_autocommit() {
                committed = Err("the transaction was rolled back, the disk may be full".to_owned());
                break;
            }
        }
    }
    if committed.is_ok() {
        committed = connection.execute_batch("COMMIT").map_err(|e| e.to_string());
    }
    // What was committed into a file without a name is not durable.
    committed = committed.and_then(|()| files.check());
    if committed.is_err() && !connection.is_autocommit() {
        // A failed COMMIT leaves the transaction open.
        if let Err(error) = connection.execute_batch("ROLLBACK") {
            tracing::error!(%error, "store: cannot roll back");
        }
    }
    for write in batch {
        write.finish(committed.as_ref().copied().map_err(String::as_str));
    }
}

fn truncate(connection: &Connection, files: &Files) -> Result<bool, StoreError> {
    // What is at the path now would keep what was deleted.
    files.check().map_err(|detail| StoreError { operation: "truncate log", detail })?;
    let tried = connection.busy_timeout(TRUNCATE_BUSY).and_then(|()| checkpoint(connection));
    let restored = connection.busy_timeout(BUSY);
    tried.and_then(|truncated| restored.map(|()| truncated)).map_err(|e| failed("truncate log", &e))
}

fn checkpoint(connection: &Connection) -> rusqlite::Result<bool> {
    for _ in 0..TRUNCATE_TRIES {
        let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use rusqlite_migration::M;
    use tempfile::TempDir;

    use super::*;

    static TABLE: Migrations<'static> = Migrations::from_slice(STEPS);
    const STEPS: &[M<'static>] = &[M::up("CREATE TABLE row (n INTEGER PRIMARY KEY) STRICT;")];

    fn open() -> (TempDir, Arc<Db>) {
        let directory = tempfile::tempdir().unwrap();
        let db = Db::open(&directory.path().join("test.db"), &TABLE, None).unwrap();
        (directory, Arc::new(db))
    }

    fn insert(n: i64) -> impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static {
        move |c| c.execute("INSERT INTO row VALUES (?1)", [n]).map(drop)
    }

    async fn rows(db: &Db) -> Vec<i64> {
        db.read("rows", |c| c.prepare("SELECT n FROM row ORDER BY n")?.query_map([], |r| r.get(0))?.collect())
            .await
            .unwrap()
    }

    /// Holds the writer until the sender is dropped; what is written meanwhile
    /// shares one batch. The receiver hears when the writer has come to it.
    fn hold(db: &Db) -> (mpsc::Sender<()>, mpsc::Receiver<()>) {
        let (go, wait) = mpsc::channel::<()>();
        let (come, reached) = mpsc::channel();
        let (reply, _nobody) = oneshot::channel();
        let hold = move |_: &Connection| {
            let _ = come.send(());
            Ok(wait.recv().is_ok())
        };
        let job = Typed { name: "hold", operation: Some(hold), result: None, reply };
        db.writer.as_ref().unwrap().send(Job::Write(Box::new(job))).unwrap();
        (go, reached)
    }

    /// Sends a write on its way without waiting for it, and goes away.
    fn begin_and_leave(write: impl Future<Output = Result<(), StoreError>>) {
        assert!(pin!(write).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }

    #[tokio::test]
    async fn every_connection_has_the_settings() {
        fn settings(c: &Connection) -> rusqlite::Result<(String, [i64; 4])> {
            let number = |name: &str| c.pragma_query_value(None, name, |row| row.get(0));
            let numbers = ["synchronous", "secure_delete", "foreign_keys", "query_only"];
            let mut values = [0; 4];
            for (value, name) in values.iter_mut().zip(numbers) {
                *value = number(name)?;
            }
            Ok((c.pragma_query_value(None, "journal_mode", |row| row.get(0))?, values))
        }
        let (_directory, db) = open();
        assert_eq!(db.write("settings", settings).await.unwrap(), ("wal".to_owned(), [2, 1, 1, 0]));
        let readers = std::mem::take(&mut *db.readers.lock().unwrap());
        assert_eq!(readers.len(), READERS);
        for reader in &readers {
            assert_eq!(settings(reader).unwrap(), ("wal".to_owned(), [2, 1, 1, 1]));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_that_fails_does_not_take_its_neighbours_along() {
        let (_directory, db) = open();
        let (go, _) = hold(&db);
        let writes: Vec<_> = (1..=9)
            .map(|n| {
                let db = Arc::clone(&db);
                tokio::spawn(async move {
                    db.write("insert", move |c| {
                        insert(n)(c)?;
                        // Every third fails after it has written.
                        if n % 3 == 0 { Err(rusqlite::Error::InvalidQuery) } else { Ok(()) }
                    })
                    .await
                })
            })
            .collect();
        drop(go);
        for (n, write) in (1..).zip(writes) {
            assert_eq!(write.await.unwrap().is_ok(), n % 3 != 0, "write {n}");
        }
        assert_eq!(rows(&db).await, [1, 2, 4, 5, 7, 8]);
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_does_not_lose_its_write() {
        let (_directory, db) = open();
        let (go, _) = hold(&db);
        begin_and_leave(db.write("insert", insert(1)));
        begin_and_leave(db.write("insert", insert(2)));
        drop(go);
        db.write("insert", insert(3)).await.unwrap();
        assert_eq!(rows(&db).await, [1, 2, 3]);
    }

    #[tokio::test]
    async fn nothing_is_answered_before_its_commit() {
        let (_directory, db) = open();
        let (first, _) = hold(&db);
        let mut write = pin!(db.write("insert", insert(1)));
        assert!(write.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let (second, reached) = hold(&db);
        drop(first);
        reached.recv().unwrap();
        // The insert was run and its batch is not committed yet.
        assert!(write.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(rows(&db).await.is_empty());
        drop(second);
        write.await.unwrap();
        assert_eq!(rows(&db).await, [1]);
    }
}
