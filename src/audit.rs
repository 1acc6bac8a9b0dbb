//! The audit log: JSON lines, each chained to the one before by SHA-256.
//!
//! In reading order:
//!
//! - this file: the [`AuditLog`] that services write to;
//! - [`entry`], `fields`: what an entry may say, and how it is written; it cannot
//!   hold a secret;
//! - [`chain`]: a line's bytes and its hash;
//! - `commit`, `batch`: how many callers share one write;
//! - `refusals`: calls that are refused, counted rather than repeated;
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
//!
//! An open file takes entries whether anybody can find it or not. So each write
//! checks that the file still has a name and the length it must have, before the
//! entry counts as written, and a [`look`](AuditLog::look) each second that its
//! path still names it. When not, the log is out of service until the file is
//! back or [`AuditLog::reopen`] goes on in a new one, whose first entry names the
//! last one of the old.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::SharedClock;
use crate::domain::failure::Failure;
use crate::domain::reason::Reason;

mod batch;
pub mod chain;
mod commit;
pub mod entry;
mod fields;
mod file;
mod refusals;
mod verify;
mod writer;

pub use batch::Ticket;
pub use chain::{Fault, Hash, Head};

pub use entry::{Entry, Kind};
pub use refusals::Spelling;
pub use verify::{Verified, VerifyError, verify, verify_all};

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

    /// Writes a refusal down, of which nothing was done and nothing leaves: in one
    /// short line, or, where its caller was refused so often for the same reason
    /// within 10 s, as one more in a line that they share. The entry has a
    /// caller, unless it is nobody's, and a reason.
    pub fn refused(&self, entry: Entry<'_>) -> Spelling {
        self.committer.append_refused(entry)
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

    /// Whether the log is in service, by the last write or look.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.committer.is_healthy()
    }

    /// Looks whether the path still names the file, and the file has all that
    /// was written. It may wait for the file system.
    ///
    /// # Errors
    ///
    /// Why the log is out of service, and what to do.
    pub fn look(&self) -> Result<(), String> {
        self.committer.look()
    }

    /// Goes on in the file that the path names now, where that is not the one
    /// that is written to. So the log is rotated: move the file away, and ask
    /// for this. What was appended before is still written to the old file; the
    /// new one begins with the event `audit_continued`, which names the last
    /// entry of the old. It waits for the file system.
    ///
    /// # Errors
    ///
    /// The file at the path is another's, or cannot be opened or written. The
    /// log is then as it was before.
    pub fn reopen(&self) -> Result<Reopened, AuditError> {
        self.committer.reopen()
    }
}

/// What a reopening did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reopened {
    /// The path names the file that is written to: nothing.
    Unchanged,
    /// It went on in a new file.
    New {
        /// The last entry of the old one.
        follows: Head,
    },
    /// It went on in a file that ends where the old one did.
    Continued,
}

impl fmt::Display for Reopened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchanged => f.write_str("the audit log is the file it was"),
            Self::New { follows: Head { seq, hash } } => {
                write!(f, "the audit log goes on in a new file, after entry {seq} with the hash {hash}")
            }
            Self::Continued => f.write_str("the audit log goes on in a file that ends where the old one did"),
        }
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
    /// The file at the path is not the one that was written to, and is not
    /// empty. Move it away.
    NotTheSame,
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
            Self::NotTheSame => f.write_str(
                "audit log: the file at its path does not end where the log does; move it away and try again",
            ),
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
            Self::Locked | Self::Broken(_) | Self::NotTheSame => None,
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

    /// What may happen to the file of a log that is open, from outside.
    type Accident = fn(&Path);

    fn append_to(path: &Path, text: &str) {
        use std::io::Write as _;
        fs::OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[tokio::test]
    async fn an_entry_of_a_file_that_is_gone_or_spoilt_is_refused_at_once() {
        let accidents: [(&str, Accident); 6] = [
            ("was removed", |path| fs::remove_file(path).unwrap()),
            ("was removed", |path| {
                fs::write(path.with_extension("new"), "").unwrap();
                fs::rename(path.with_extension("new"), path).unwrap();
            }),
            ("was removed", |path| {
                fs::rename(path, path.with_extension("1")).unwrap();
                fs::remove_file(path.with_extension("1")).unwrap();
            }),
            ("was cut short", |path| fs::write(path, "").unwrap()),
            ("was cut short", |path| {
                let length = fs::metadata(path).unwrap().len();
                fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length - 1).unwrap();
            }),
            ("was written to by another", |path| append_to(path, "x\n")),
        ];
        for durability in [Durability::Os, Durability::Fsync] {
            for (why, accident) in accidents {
                let (_directory, path) = directory();
                let log = open(&path, durability).unwrap();
                log.record(Entry::event("before")).await.unwrap();
                accident(&path);
                // No look has come between.
                assert_eq!(log.record(Entry::event("after")).await, Err(AuditUnavailable), "{why}");
                assert!(!log.is_healthy());
                let said = log.look().unwrap_err();
                assert!(said.contains("send SIGHUP"), "{said}");
                let found = fs::read_to_string(&path).unwrap_or_default();
                assert!(!found.contains("after"), "{why}: {found}");
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_was_moved_away_takes_entries_until_the_next_look() {
        let accidents: [Accident; 2] = [
            |path| fs::rename(path, path.with_extension("1")).unwrap(),
            |path| {
                fs::rename(path, path.with_extension("1")).unwrap();
                fs::write(path, "").unwrap();
            },
        ];
        for accident in accidents {
            let (_directory, path) = directory();
            let log = open(&path, Durability::Os).unwrap();
            accident(&path);
            let moved = path.with_extension("1");
            log.record(Entry::event("between")).await.unwrap();
            assert_eq!(actions(&moved), ["audit_opened", "between"], "what was answered is recorded");
            log.look().unwrap_err();
            assert_eq!(log.record(Entry::event("after")).await, Err(AuditUnavailable));
            // It comes back, and the log with it.
            fs::rename(&moved, &path).unwrap();
            log.record(Entry::event("again")).await.unwrap();
            log.look().unwrap();
            assert_eq!(actions(&path), ["audit_opened", "between", "entries_lost", "again"]);
        }
    }

    #[tokio::test]
    async fn a_log_without_callers_is_well_again_when_its_file_is() {
        let (_directory, path) = directory();
        let log = open(&path, Durability::Os).unwrap();
        let moved = path.with_extension("1");
        fs::rename(&path, &moved).unwrap();
        log.look().unwrap_err();
        fs::rename(&moved, &path).unwrap();
        log.look().unwrap();
        assert!(log.is_healthy());
        verify(&path, None).unwrap();
    }

    #[tokio::test]
    async fn a_log_is_rotated_without_a_gap() {
        for durability in [Durability::Os, Durability::Fsync] {
            let (_directory, path) = directory();
            let log = open(&path, durability).unwrap();
            assert_eq!(log.reopen().unwrap(), Reopened::Unchanged);
            log.record(Entry::event("before")).await.unwrap();
            let moved = path.with_extension("1");
            fs::rename(&path, &moved).unwrap();
            let appended = log.append(Entry::event("between")).unwrap();
            let Reopened::New { follows } = log.reopen().unwrap() else { panic!("no new file") };
            log.durable(appended).await.unwrap();
            log.record(Entry::event("after")).await.unwrap();
            log.look().unwrap();

            assert_eq!(actions(&moved), ["audit_opened", "before", "between"]);
            assert_eq!(actions(&path), ["audit_continued", "after"]);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let (old, new) = (verify(&moved, None).unwrap(), verify(&path, None).unwrap());
            assert_eq!((old.head, old.follows), (follows, None));
            assert_eq!(new.follows, Some(follows));
            let both = verify_all(&[&moved, &path], Some(old.head.hash)).unwrap();
            assert_eq!((both.entries, both.head, both.follows), (5, new.head, None));
            let error = verify_all(&[&path, &moved], None).unwrap_err().to_string();
            assert!(error.contains("chain of its own"), "{error}");
            // The end of the old one is vouched for by the new one.
            let old = fs::read_to_string(&moved).unwrap();
            let cut = old.trim_end().rfind('\n').unwrap() + 1;
            fs::write(&moved, &old[..cut]).unwrap();
            let error = verify_all(&[&moved, &path], None).unwrap_err().to_string();
            assert!(error.contains("the file before ends in"), "{error}");

            // And so it goes on after a restart.
            drop(log);
            drop(open(&path, durability).unwrap());
            assert_eq!(actions(&path), ["audit_continued", "after", "audit_opened"]);
        }
    }

    #[tokio::test]
    async fn a_lost_file_is_followed_by_one_that_says_so() {
        let accidents: [Accident; 2] =
            [|path| fs::remove_file(path).unwrap(), |path| fs::write(path, "").unwrap()];
        for accident in accidents {
            let (_directory, path) = directory();
            let log = open(&path, Durability::Os).unwrap();
            let head = verify(&path, None).unwrap().head;
            accident(&path);
            log.record(Entry::event("refused")).await.unwrap_err();
            assert_eq!(log.reopen().unwrap(), Reopened::New { follows: head });
            assert!(log.is_healthy());
            log.record(Entry::event("after")).await.unwrap();
            assert_eq!(actions(&path), ["audit_continued", "entries_lost", "after"]);
            assert_eq!(verify(&path, None).unwrap().follows, Some(head));
            // The lock went with it.
            assert!(matches!(open(&path, Durability::Os), Err(AuditError::Locked)));
        }
    }

    #[tokio::test]
    async fn a_copy_put_in_place_of_a_lost_file_is_continued() {
        let (_directory, path) = directory();
        let log = open(&path, Durability::Os).unwrap();
        let copy = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, copy).unwrap();
        log.look().unwrap_err();
        assert_eq!(log.reopen().unwrap(), Reopened::Continued);
        log.record(Entry::event("after")).await.unwrap();
        assert_eq!(actions(&path), ["audit_opened", "after"]);
        verify(&path, None).unwrap();
    }

    #[tokio::test]
    async fn what_another_put_at_the_path_is_left_alone() {
        let (_directory, path) = directory();
        let log = open(&path, Durability::Os).unwrap();
        let elsewhere = path.with_extension("other");
        // Longer, so that it is another also where both began in the same moment.
        drop(open(&elsewhere, Durability::Os).unwrap());
        drop(open(&elsewhere, Durability::Os).unwrap());
        let other = fs::read(&elsewhere).unwrap();
        let accidents: [&dyn Fn(); 3] = [
            &|| fs::write(&path, &other).unwrap(),
            &|| fs::write(&path, "no log at all\n").unwrap(),
            &|| append_to(&path, "x\n"),
        ];
        for (n, accident) in accidents.iter().enumerate() {
            if n < 2 {
                let _ = fs::remove_file(&path);
            }
            accident();
            let before = fs::read(&path).unwrap();
            log.reopen().unwrap_err();
            assert_eq!(fs::read(&path).unwrap(), before);
            assert_eq!(log.record(Entry::event("refused")).await, Err(AuditUnavailable));
        }
        fs::remove_file(&path).unwrap();
        log.reopen().unwrap();
        log.record(Entry::event("after")).await.unwrap();
        assert_eq!(actions(&path), ["audit_continued", "entries_lost", "after"]);
    }

    fn refusal(caller: &crate::domain::id::CallerId) -> Entry<'_> {
        Entry::new(Kind::Outcome, "r", "GetAccessToken").caller(caller).reason(Reason::NotPermitted)
    }

    /// The count of each line that stands for several refusals.
    fn counted(path: &Path) -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let counted = lines.filter(|line| line["action"] == "refusals_counted");
        counted.map(|line| line["count"].as_u64().unwrap()).collect()
    }

    #[tokio::test]
    async fn refusals_are_counted_at_the_end_of_their_interval_of_the_log_and_of_the_file() {
        let (_directory, path) = directory();
        let clock = Arc::new(crate::clock::ShiftedClock::new());
        let shared: SharedClock = clock.clone();
        let log = AuditLog::open(&path, Durability::Os, shared).unwrap();
        let flood = |caller: &str, times: u64| {
            let caller = crate::domain::id::CallerId::new(caller).unwrap();
            (0..times).filter(|_| log.refused(refusal(&caller)) == Spelling::InFull).count()
        };
        assert_eq!(flood("spiffe://acme/loud", 1000), 10);
        assert_eq!(flood("spiffe://acme/quiet", 3), 3, "a flood takes nobody else's lines");
        assert_eq!(counted(&path), [] as [u64; 0]);

        clock.advance(refusals::INTERVAL);
        // The log's thread sees it, although nobody calls.
        let seen = async {
            while counted(&path).is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), seen).await.unwrap();
        assert_eq!(counted(&path), [990]);
        assert_eq!(flood("spiffe://acme/loud", 11), 10);

        let moved = path.with_extension("1");
        fs::rename(&path, &moved).unwrap();
        log.reopen().unwrap();
        assert_eq!(counted(&moved), [990, 1]);
        assert_eq!(flood("spiffe://acme/loud", 12), 10);
        drop(log);
        assert_eq!(counted(&path), [2]);
        // All but the lines of the log itself and those three are refusals.
        assert_eq!(verify_all(&[&moved, &path], None).unwrap().entries, 2 + 3 + 10 + 3 + 10 + 10);
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
