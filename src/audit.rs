//! The audit log: JSON lines, each chained to the one before by SHA-256.
//!
//! In reading order:
//!
//! - this file: the [`AuditLog`] that services write to;
//! - [`entry`]: what an entry may say; it cannot hold a secret;
//! - [`chain`]: a line's bytes and its hash;
//! - `commit`: how many callers share one write;
//! - `writer`: one write, and what a failed one leaves behind: nothing;
//! - `file`: the file, opened, continued and repaired;
//! - [`verify`](verify()): the check that nothing was edited, removed or moved.
//!
//! A service appends an entry for the request before it does anything and one
//! for the outcome before anything secret leaves, and waits until they are
//! durable. When they cannot be written, the service does nothing and hands out
//! nothing.
//!
//! A file continues when the vault starts again. A crash can leave a line
//! without its end; that line was promised to nobody, so it is cut off, and the
//! event `tail_repaired` says how many bytes it had. After a write failed, its
//! callers have been told so, the file is cut back to its last good line, and
//! the log tries again by itself; the event `entries_lost` then says how many
//! entries are missing.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::SharedClock;
use crate::domain::failure::Failure;
use crate::domain::reason::Reason;

pub mod chain;
mod commit;
pub mod entry;
mod file;
mod verify;
mod writer;

pub use chain::{Fault, Hash, Head};
pub use commit::Ticket;
pub use entry::{Entry, Kind};
pub use verify::{Verified, VerifyError, verify};

use commit::Committer;

/// When an entry counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When the disk has it: it survives a power cut.
    Fsync,
    /// When the operating system has it: it survives a crash of the vault.
    Os,
}

/// The audit log of a running vault.
pub struct AuditLog {
    committer: Arc<Committer>,
    thread: Option<JoinHandle<()>>,
}

impl AuditLog {
    /// Opens the log, continuing the file if there is one, and records that it
    /// was opened.
    ///
    /// # Errors
    ///
    /// The file cannot be opened or written, another process writes to it, or
    /// it does not end in an unbroken entry.
    pub fn open(path: &Path, durability: Durability, clock: SharedClock) -> Result<Self, AuditError> {
        let file::Opened { sink, head, length, cut_bytes } = file::open(path)?;
        let committer = Committer::new(Box::new(sink), head, length, durability, clock);
        let log = Self::start(committer)?;
        let mut first = vec![Entry::event("audit_opened")];
        if cut_bytes > 0 {
            first.push(Entry::event("tail_repaired").count(cut_bytes));
        }
        let tickets = first.into_iter().map(|entry| log.append(entry)).collect::<Result<Vec<Ticket>, _>>();
        log.committer.flush();
        match tickets {
            Ok(tickets) if tickets.iter().all(Ticket::is_written) => Ok(log),
            _ => Err(AuditError::unwritable()),
        }
    }

    /// Whether the file could be continued, as far as that shows without writing
    /// to it. One that is not there can be.
    ///
    /// # Errors
    ///
    /// It cannot be read, or does not end in an unbroken entry.
    pub fn check(path: &Path) -> Result<(), AuditError> {
        file::check(path)
    }

    fn start(committer: Committer) -> Result<Self, AuditError> {
        let committer = Arc::new(committer);
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn({
                let committer = Arc::clone(&committer);
                move || committer.run()
            })
            .map_err(|source| AuditError::Io { doing: "starting its thread", source })?;
        Ok(Self { committer, thread: Some(thread) })
    }

    /// Appends an entry and does not wait. It is written soon, in the order of
    /// the appends; [`durable`](Self::durable) waits for it.
    ///
    /// # Errors
    ///
    /// The log is so far behind that it takes no more entries.
    pub fn append(&self, entry: Entry<'_>) -> Result<Ticket, AuditUnavailable> {
        self.committer.append(entry)
    }

    /// Waits until the ticket's entry is durable. A ticket speaks for its own
    /// entry alone: an earlier one may have been lost although this one is not.
    ///
    /// Dropping the future loses nothing: the entry is written all the same.
    ///
    /// # Errors
    ///
    /// The entry could not be written and never will be.
    pub async fn durable(&self, ticket: Ticket) -> Result<(), AuditUnavailable> {
        self.committer.durable(&ticket).await
    }

    /// Appends an entry and waits until it is durable.
    ///
    /// # Errors
    ///
    /// The entry is not in the log and never will be.
    pub async fn record(&self, entry: Entry<'_>) -> Result<(), AuditUnavailable> {
        let ticket = self.append(entry)?;
        self.durable(ticket).await
    }

    /// Whether the last write succeeded.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.committer.is_healthy()
    }
}

/// Writes what was appended, however the log comes to its end.
impl Drop for AuditLog {
    fn drop(&mut self) {
        self.committer.close();
        if let Some(thread) = self.thread.take() {
            // A panic over there has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// The audit log could not take an entry. What the entry was to vouch for must
/// not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditUnavailable;

impl fmt::Display for AuditUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the audit log cannot be written")
    }
}

impl std::error::Error for AuditUnavailable {}

impl From<AuditUnavailable> for Failure {
    fn from(unavailable: AuditUnavailable) -> Self {
        Self::because(Reason::AuditUnavailable, &unavailable).retry_after(Duration::from_secs(5))
    }
}

/// Why the log could not be opened.
#[derive(Debug)]
pub enum AuditError {
    /// Another process, or another log of this one, writes to the file.
    Locked,
    /// The file does not end in an entry that can be continued. Verify it, move
    /// it away and start a new one.
    Broken(Fault),
    /// The file system refused something.
    Io {
        /// What the vault was doing.
        doing: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

impl AuditError {
    fn unwritable() -> Self {
        // The first write's error went to the log, with its detail.
        Self::Io {
            doing: "writing its first entry",
            source: io::Error::other("see the error before this one"),
        }
    }
}

impl fmt::Display for AuditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked => f.write_str("audit log: another process writes to it"),
            Self::Broken(fault) => write!(f, "audit log: cannot be continued: its end {fault}"),
            Self::Io { doing, source } => write!(f, "audit log: {doing}: {source}"),
        }
    }
}

impl std::error::Error for AuditError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // The text has it already.
            Self::Io { source, .. } => source.get_ref().map(|inner| inner as _),
            Self::Locked | Self::Broken(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use proptest::prelude::*;

    use crate::clock::SystemClock;

    fn open(path: &Path, durability: Durability) -> Result<AuditLog, AuditError> {
        AuditLog::open(path, durability, SystemClock::shared())
    }

    fn directory() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        (directory, path)
    }

    fn actions(path: &Path) -> Vec<String> {
        let line = |l: &str| serde_json::from_str::<serde_json::Value>(l).unwrap();
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|l| line(l)["action"].as_str().unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn a_durable_entry_is_in_the_file() {
        for durability in [Durability::Os, Durability::Fsync] {
            let (_directory, path) = directory();
            let log = open(&path, durability).unwrap();
            log.record(Entry::new(Kind::Request, "r1", "GetAccessToken")).await.unwrap();
            assert_eq!(actions(&path), ["audit_opened", "GetAccessToken"]);
            assert_eq!(verify(&path, None).unwrap().entries, 2);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[tokio::test]
    async fn a_log_goes_on_where_it_ended() {
        let (_directory, path) = directory();
        let mut known = None;
        for run in 1..=3 {
            let log = open(&path, Durability::Os).unwrap();
            log.record(Entry::event("run")).await.unwrap();
            drop(log);
            let verified = verify(&path, known).unwrap();
            assert_eq!(verified.entries, 2 * run);
            known = Some(verified.head.hash);
        }
    }

    #[tokio::test]
    async fn what_was_appended_is_written_before_the_log_is_gone() {
        let (_directory, path) = directory();
        let log = open(&path, Durability::Os).unwrap();
        let _nobody_waits = log.append(Entry::event("last_words")).unwrap();
        drop(log);
        assert_eq!(actions(&path), ["audit_opened", "last_words"]);
    }

    #[tokio::test]
    async fn two_writers_cannot_have_one_file() {
        let (_directory, path) = directory();
        let log = open(&path, Durability::Os).unwrap();
        assert!(matches!(open(&path, Durability::Os), Err(AuditError::Locked)));
        drop(log);
        open(&path, Durability::Os).unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn concurrent_callers_make_one_chain() {
        for durability in [Durability::Os, Durability::Fsync] {
            let (_directory, path) = directory();
            let log = Arc::new(open(&path, durability).unwrap());
            let tasks = (0..16).map(|_| {
                let log = Arc::clone(&log);
                tokio::spawn(async move {
                    for _ in 0..50 {
                        let asked = log.append(Entry::new(Kind::Request, "r", "x")).unwrap();
                        let told = log.append(Entry::new(Kind::Outcome, "r", "x")).unwrap();
                        log.durable(told).await.unwrap();
                        log.durable(asked).await.unwrap();
                    }
                })
            });
            for task in tasks.collect::<Vec<_>>() {
                task.await.unwrap();
            }
            assert_eq!(verify(&path, None).unwrap().entries, 1 + 16 * 50 * 2);
        }
    }

    #[tokio::test]
    async fn a_broken_end_is_not_built_upon() {
        let (_directory, path) = directory();
        drop(open(&path, Durability::Os).unwrap());
        let text = fs::read_to_string(&path).unwrap().replace("audit_opened", "audit_closed");
        fs::write(&path, &text).unwrap();
        assert!(matches!(open(&path, Durability::Os), Err(AuditError::Broken(Fault::Changed))));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn a_file_that_is_no_audit_log_is_left_alone() {
        for foreign in ["root key without line end", "[server]\nlisten = 1\n", "\n"] {
            let (_directory, path) = directory();
            fs::write(&path, foreign).unwrap();
            assert!(matches!(open(&path, Durability::Os), Err(AuditError::Broken(_))), "{foreign:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
        }
    }

    #[test]
    fn a_place_that_cannot_be_written_is_refused_at_start() {
        let (directory, _) = directory();
        assert!(matches!(open(directory.path(), Durability::Os), Err(AuditError::Io { .. })));
        assert!(matches!(
            open(&directory.path().join("no/such"), Durability::Os),
            Err(AuditError::Io { .. })
        ));
        // Opens, and then has no room.
        let full = open(Path::new("/dev/full"), Durability::Os);
        assert!(matches!(full, Err(AuditError::Io { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_torn_end_is_cut_off_and_said(at in any::<prop::sample::Index>(), zeros in 0usize..5000) {
            let (_directory, path) = directory();
            let log = open(&path, Durability::Os).unwrap();
            for _ in 0..3 {
                let _nobody_waits = log.append(Entry::event("before")).unwrap();
            }
            drop(log);
            let whole = fs::read(&path).unwrap();
            let torn = &whole[..at.index(whole.len())];
            let kept = torn.iter().filter(|b| **b == b'\n').count();
            let kept_bytes = torn.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
            // After a power cut the file may have its new length, but not the
            // bytes.
            let torn = [torn, &vec![0; if torn.len() < 9 { 0 } else { zeros }]].concat();
            fs::write(&path, &torn).unwrap();

            drop(open(&path, Durability::Os).unwrap());
            let cut = torn.len() - kept_bytes;
            let events = if cut == 0 { 1 } else { 2 };
            prop_assert_eq!(verify(&path, None).unwrap().entries, u64::try_from(kept + events).unwrap());
            if cut > 0 {
                let text = fs::read_to_string(&path).unwrap();
                let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
                prop_assert_eq!(&last["action"], "tail_repaired");
                prop_assert_eq!(last["count"].as_u64(), u64::try_from(cut).ok());
            }
        }
    }
}
