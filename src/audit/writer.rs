//! The one that chains entries and writes them.
//!
//! The chain moves on only when a write has succeeded. A failed batch therefore
//! leaves no gap: its callers are told, the file is cut back to its last good
//! length before anything else is written, and the next batch takes the numbers.

use std::io;

use crate::clock::SharedClock;

use super::Durability;
use super::chain::Head;
use super::entry::{Entry, Stamp};

/// The one that chains and writes.
pub(super) struct Writer {
    sink: Box<dyn Sink>,
    sync: bool,
    head: Head,
    /// Bytes of the file up to its last good line.
    length: u64,
    /// Whether there may be something after `length`.
    torn: bool,
    /// Entries that were lost and are not yet accounted for in the log.
    lost: u64,
    // Kept for their memory.
    taken: Vec<u8>,
    lines: Vec<u8>,
}

impl Writer {
    pub(super) fn new(sink: Box<dyn Sink>, head: Head, length: u64, durability: Durability) -> Self {
        let sync = durability == Durability::Fsync;
        Self { sink, sync, head, length, torn: false, lost: 0, taken: Vec::new(), lines: Vec::new() }
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

        let written = self.write_lines();
        if written.is_ok() {
            self.head = head;
            self.length += u64::try_from(self.lines.len()).unwrap_or(u64::MAX);
            self.lost = 0;
        } else {
            self.lost += entries;
            // Tried at once, so that the file is whole should the vault stop
            // now. If it fails, the next write tries again.
            self.torn = self.sink.cut(self.length).is_err();
        }
        written
    }

    fn write_lines(&mut self) -> io::Result<()> {
        if self.torn {
            self.sink.cut(self.length)?;
            self.torn = false;
        }
        self.sink.append(&self.lines)?;
        if self.sync {
            self.sink.sync()?;
        }
        Ok(())
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
    /// Cuts back to a length.
    fn cut(&mut self, length: u64) -> io::Result<()>;
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
