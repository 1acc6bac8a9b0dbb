//! The one that chains entries and writes them.
//!
//! The chain moves on only when a write has succeeded. A failed batch therefore
//! leaves no gap: its callers are told, the file is cut back to its last good
//! length before anything else is written, and the next batch takes the numbers.

use std::io;

use crate::clock::SharedClock;

use super::chain::Head;
use super::entry::{Entry, Stamp};
use super::{AuditError, Durability, Reopened};

/// The one that chains and writes.
pub(super) struct Writer {
    sink: Box<dyn Sink>,
    sync: bool,
    head: Head,
    /// Bytes of the file up to its last good line.
    length: u64,
    /// Whether there may be something after `length`.
    torn: bool,
    /// Whether the last look found another file, or none, at the path.
    displaced: bool,
    /// Entries that were lost and are not yet accounted for in the log.
    lost: u64,
    // Kept for their memory.
    taken: Vec<u8>,
    lines: Vec<u8>,
}

impl Writer {
    pub(super) fn new(sink: Box<dyn Sink>, head: Head, length: u64, durability: Durability) -> Self {
        let sync = durability == Durability::Fsync;
        Self {
            sink,
            sync,
            head,
            length,
            torn: false,
            displaced: false,
            lost: 0,
            taken: Vec::new(),
            lines: Vec::new(),
        }
    }

    /// Takes entries over, each with a line end after it, and leaves an empty
    /// buffer.
    pub(super) fn take(&mut self, entries: &mut Vec<u8>) {
        std::mem::swap(entries, &mut self.taken);
    }

    /// Whether the log still has to say that entries were lost.
    pub(super) fn has_losses(&self) -> bool {
        self.lost > 0
    }

    /// Writes the entries that were taken, all or none.
    pub(super) fn write(&mut self, clock: &SharedClock) -> io::Result<()> {
        self.lines.clear();
        let mut head = self.head;
        if self.has_losses() {
            let mut event = Vec::new();
            Entry::event("entries_lost").count(self.lost).write(
                &mut event,
                &mut Stamp::default(),
                clock.now(),
            );
            head = head.extend(&mut self.lines, &event);
        }
        let mut entries = 0;
        for entry in self.taken.split(|b| *b == b'\n').filter(|entry| !entry.is_empty()) {
            head = head.extend(&mut self.lines, entry);
            entries += 1;
        }
        self.taken.clear();

        // What is refused here has not touched the file.
        let written = self.make_ready().and_then(|()| self.write_lines());
        if written.is_ok() {
            self.head = head;
            self.length = self.grown_length();
            self.lost = 0;
        } else {
            self.lost += entries;
        }
        written
    }

    fn grown_length(&self) -> u64 {
        self.length.saturating_add(u64::try_from(self.lines.len()).unwrap_or(u64::MAX))
    }

    /// Whether a write may begin.
    fn make_ready(&mut self) -> io::Result<()> {
        if self.displaced {
            self.sink.check_place()?;
            self.displaced = false;
        }
        if self.torn {
            self.sink.cut(self.length)?;
            self.torn = false;
        }
        self.sink.check_intact(self.length)
    }

    fn write_lines(&mut self) -> io::Result<()> {
        let written = self
            .sink
            .append(&self.lines)
            .and_then(|()| if self.sync { self.sink.sync() } else { Ok(()) })
            // The file may have lost its name meanwhile: then nothing was
            // recorded, and who waits for it must not be answered.
            .and_then(|()| self.sink.check_intact(self.grown_length()));
        if written.is_err() {
            // Tried at once, so that the file is whole should the vault stop
            // now. If it fails, the next write tries again.
            self.torn = self.sink.cut(self.length).is_err();
        }
        written
    }

    /// Looks whether the file is still at its path and as long as it must be.
    /// One that was only moved away still takes entries, and has them, until a
    /// look has seen that.
    pub(super) fn look(&mut self) -> io::Result<()> {
        let at_its_path = self.sink.check_place();
        self.displaced = at_its_path.is_err();
        at_its_path?;
        if self.torn { Ok(()) } else { self.sink.check_intact(self.length) }
    }

    /// Lets one more write go into a file that was moved away: whoever moved it
    /// asks for a new one now, and has what was appended before in the old.
    pub(super) fn finish_moved(&mut self) {
        self.displaced = false;
    }

    /// Goes on in the file that is at the path now, or a new one, whose first
    /// entry then names the last one of the file before.
    pub(super) fn reopen(&mut self, clock: &SharedClock) -> Result<Reopened, AuditError> {
        let Successor { mut sink, continued } = self.sink.successor(self.head)?;
        if self.torn {
            // Best effort: what is cut off here was promised to nobody.
            let _ = self.sink.cut(self.length);
        }
        self.finish();
        let follows = self.head;
        if let Some(length) = continued {
            self.length = length;
        } else {
            let mut link = Vec::new();
            Entry::event("audit_continued").follows(follows).write(
                &mut link,
                &mut Stamp::default(),
                clock.now(),
            );
            let mut line = Vec::new();
            let head = Head::EMPTY.extend(&mut line, &link);
            let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
            let linked =
                sink.append(&line).and_then(|()| sink.sync()).and_then(|()| sink.check_intact(length));
            if let Err(source) = linked {
                let _ = sink.cut(0);
                return Err(AuditError::Io { doing: "writing the first entry of a new file", source });
            }
            (self.head, self.length) = (head, length);
        }
        (self.sink, self.torn, self.displaced) = (sink, false, false);
        Ok(if continued.is_some() { Reopened::Continued } else { Reopened::New { follows } })
    }

    /// Leaves everything on the disk, whatever durable meant before.
    pub(super) fn finish(&mut self) {
        if let Err(error) = self.sink.sync() {
            tracing::error!(%error, "the end of the audit log may not be on the disk");
        }
    }
}

/// Where lines go.
pub(super) trait Sink: Send {
    /// Adds the bytes at the end. After an error any part of them may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when the disk has everything.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts back to a length; what is shorter stays as it is.
    fn cut(&mut self, length: u64) -> io::Result<()>;
    /// Whether what was written, up to this length, has a name and is all there
    /// is.
    fn check_intact(&self, length: u64) -> io::Result<()>;
    /// Whether it is where the log is looked for.
    fn check_place(&self) -> io::Result<()>;
    /// What to go on in, where the log is looked for. `head` is the end so far.
    fn successor(&self, head: Head) -> Result<Successor, AuditError>;
}

/// Where a log goes on.
pub(super) struct Successor {
    pub(super) sink: Box<dyn Sink>,
    /// The length, where it ends in the very entry that the log ends in;
    /// `None`: it is empty.
    pub(super) continued: Option<u64>,
}

/// A disk for the tests of this module and of `commit`.
#[cfg(test)]
pub(super) mod fake {
    use super::*;

    use std::sync::{Arc, Condvar, Mutex, MutexGuard};
    use std::time::Duration;

    use crate::audit::AuditLog;
    use crate::audit::commit::Committer;
    use crate::clock::SystemClock;

    /// A disk that fills up, breaks and hangs when told to.
    #[derive(Clone, Default)]
    pub(in crate::audit) struct Disk(Arc<(Mutex<DiskState>, Condvar)>);

    #[derive(Default)]
    pub(in crate::audit) struct DiskState {
        pub(in crate::audit) bytes: Vec<u8>,
        pub(in crate::audit) full_at: Option<usize>,
        pub(in crate::audit) sync_fails: bool,
        pub(in crate::audit) cut_fails: bool,
        pub(in crate::audit) hangs: bool,
        pub(in crate::audit) writes: usize,
    }

    impl Disk {
        pub(in crate::audit) fn set(&self, change: impl FnOnce(&mut DiskState)) {
            change(&mut self.0.0.lock().unwrap());
            self.0.1.notify_all();
        }

        pub(in crate::audit) fn get<T>(&self, look: impl FnOnce(&DiskState) -> T) -> T {
            look(&self.0.0.lock().unwrap())
        }

        pub(in crate::audit) fn wait_until(
            &self,
            condition: impl Fn(&DiskState) -> bool,
        ) -> MutexGuard<'_, DiskState> {
            let patience = Duration::from_secs(60);
            let (state, waited) = self
                .0
                .1
                .wait_timeout_while(self.0.0.lock().unwrap(), patience, |state| !condition(state))
                .unwrap();
            assert!(!waited.timed_out(), "the disk never came to that");
            state
        }

        pub(in crate::audit) fn log(&self, durability: Durability) -> AuditLog {
            let sink = Box::new(self.clone());
            let clock = SystemClock::shared();
            AuditLog::start(Committer::new(sink, Head::EMPTY, 0, durability, clock)).unwrap()
        }

        /// The actions of all lines, having checked the chain.
        pub(in crate::audit) fn actions(&self) -> Vec<String> {
            let bytes = self.get(|state| state.bytes.clone());
            let mut head = Head::EMPTY;
            let lines = bytes.split_inclusive(|b| *b == b'\n').map(|line| {
                head = head.follow(line.strip_suffix(b"\n").unwrap()).unwrap();
                let line: serde_json::Value = serde_json::from_slice(line).unwrap();
                let count = line["count"].as_u64().map_or(String::new(), |n| format!(" {n}"));
                format!("{}{count}", line["action"].as_str().unwrap())
            });
            lines.collect()
        }
    }

    impl Sink for Disk {
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.set(|state| state.writes += 1);
            let mut state = self.wait_until(|state| !state.hangs);
            let room = state.full_at.map_or(usize::MAX, |full| full - state.bytes.len());
            state.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
            self.0.1.notify_all();
            if bytes.len() <= room { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
        }

        fn sync(&mut self) -> io::Result<()> {
            if self.get(|state| state.sync_fails) { Err(io::Error::other("sync")) } else { Ok(()) }
        }

        fn cut(&mut self, length: u64) -> io::Result<()> {
            if self.get(|state| state.cut_fails) {
                return Err(io::Error::other("cut"));
            }
            self.set(|state| state.bytes.truncate(usize::try_from(length).unwrap()));
            Ok(())
        }

        fn check_intact(&self, length: u64) -> io::Result<()> {
            assert_eq!(self.get(|state| state.bytes.len()), usize::try_from(length).unwrap());
            Ok(())
        }

        fn check_place(&self) -> io::Result<()> {
            Ok(())
        }

        fn successor(&self, _head: Head) -> Result<Successor, AuditError> {
            Err(AuditError::NotTheSame)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fake::Disk;
    use super::*;

    use crate::audit::AuditUnavailable;

    #[tokio::test]
    async fn a_full_disk_refuses_and_recovers_without_a_gap() {
        for durability in [Durability::Os, Durability::Fsync] {
            let disk = Disk::default();
            let log = disk.log(durability);
            log.record(Entry::event("first")).await.unwrap();
            let good = disk.get(|state| state.bytes.len());

            disk.set(|state| state.full_at = Some(good + 40));
            for _ in 0..3 {
                assert_eq!(log.record(Entry::event("refused")).await, Err(AuditUnavailable));
                assert!(!log.is_healthy());
            }
            assert_eq!(disk.actions(), ["first"], "no part of a refused entry stays");

            disk.set(|state| state.full_at = None);
            log.record(Entry::event("second")).await.unwrap();
            assert!(log.is_healthy());
            assert_eq!(disk.actions(), ["first", "entries_lost 3", "second"]);
        }
    }

    #[tokio::test]
    async fn what_did_not_reach_the_disk_is_not_in_the_log() {
        let disk = Disk::default();
        let log = disk.log(Durability::Fsync);
        log.record(Entry::event("first")).await.unwrap();
        disk.set(|state| state.sync_fails = true);
        log.record(Entry::event("refused")).await.unwrap_err();
        assert_eq!(disk.actions(), ["first"]);
        disk.set(|state| state.sync_fails = false);
        log.record(Entry::event("second")).await.unwrap();
        assert_eq!(disk.actions(), ["first", "entries_lost 1", "second"]);
    }

    #[tokio::test]
    async fn nothing_is_written_behind_a_torn_line() {
        let disk = Disk::default();
        let log = disk.log(Durability::Os);
        log.record(Entry::event("first")).await.unwrap();
        let good = disk.get(|state| state.bytes.len());
        disk.set(|state| {
            state.full_at = Some(good + 40);
            state.cut_fails = true;
        });
        log.record(Entry::event("refused")).await.unwrap_err();
        disk.set(|state| state.full_at = None);
        log.record(Entry::event("refused")).await.unwrap_err();
        assert_eq!(disk.get(|state| state.bytes.len()), good + 40, "the torn line is still there");
        disk.set(|state| state.cut_fails = false);
        log.record(Entry::event("second")).await.unwrap();
        assert_eq!(disk.actions(), ["first", "entries_lost 2", "second"]);
    }
}
