//! Group commit: how many callers share one write.
//!
//! An append formats its entry into a shared buffer under a short lock. Whoever
//! writes takes the whole buffer, chains its entries, writes them at once, and
//! settles their [`Batch`]; meanwhile the next batch fills.
//!
//! Who writes depends on what durable means:
//!
//! - `Os`: the waiting caller itself, if nobody is writing just then. To hand a
//!   few hundred bytes to the operating system takes less time than to wake
//!   another thread for it;
//! - `Fsync`: the log's own thread, since a disk is slow and a caller's thread
//!   has other calls to serve.
//!
//! The log's thread also writes entries that nobody waits for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use crate::clock::SharedClock;
use crate::domain::id::CallerId;

use super::batch::{Batch, Ticket};
use super::chain::Head;
use super::entry::{Entry, Stamp};
use super::refusals::{By, Key, Refusals, Spelling};
use super::writer::{Sink, Writer};
use super::{AuditUnavailable, Durability};

mod health;

/// Most bytes that wait to be written. When the writer hangs, callers are
/// refused before memory runs out.
const MAX_PENDING_BYTES: usize = 8 * 1024 * 1024;

/// How long an entry that nobody waits for may stay in memory.
const LINGER: Duration = Duration::from_millis(100);

/// How often a log that could not be written tries by itself. Without this, a
/// vault that is taken out of service for its log would never come back.
const PROBE: Duration = Duration::from_secs(1);

/// How many batches a caller writes before it lets the log's thread go on, so
/// that no call pays for an endless stream of others.
const ROUNDS: usize = 4;

/// The event that says how many calls were refused without a line each.
const REFUSALS_COUNTED: &str = "refusals_counted";

pub(super) struct Committer {
    clock: SharedClock,
    durability: Durability,
    pending: Mutex<Pending>,
    wake: Condvar,
    // Locked before `pending` where both are.
    writer: Mutex<Writer>,
    healthy: AtomicBool,
    /// Why not, when it is not.
    fault: Mutex<String>,
}

/// Entries that wait to be written, each with a line end after it.
struct Pending {
    text: Vec<u8>,
    batch: Arc<Batch>,
    stamp: Stamp,
    wanted: Wanted,
    refusals: Refusals,
}

impl Pending {
    fn is_full(&self) -> bool {
        self.text.len() >= MAX_PENDING_BYTES
    }
}

/// What the log's thread is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    Nothing,
    WriteSoon,
    WriteNow,
    Stop,
}

impl Committer {
    pub(super) fn new(
        sink: Box<dyn Sink>,
        head: Head,
        length: u64,
        durability: Durability,
        clock: SharedClock,
    ) -> Self {
        let pending = Pending {
            text: Vec::new(),
            batch: Arc::default(),
            stamp: Stamp::default(),
            wanted: Wanted::Nothing,
            refusals: Refusals::default(),
        };
        let writer = Writer::new(sink, head, length, durability);
        Self {
            clock,
            durability,
            pending: Mutex::new(pending),
            wake: Condvar::new(),
            writer: Mutex::new(writer),
            healthy: AtomicBool::new(true),
            fault: Mutex::default(),
        }
    }

    pub(super) fn append(&self, entry: Entry<'_>) -> Result<Ticket, AuditUnavailable> {
        let mut pending = self.pending();
        if pending.is_full() {
            return Err(AuditUnavailable);
        }
        self.put(&mut pending, entry);
        let batch = Arc::clone(&pending.batch);
        self.want(pending, Wanted::WriteSoon);
        Ok(Ticket { batch })
    }

    /// Writes a refusal down, or counts it. Nothing was done and nothing leaves,
    /// so nobody waits for it.
    pub(super) fn append_refused(&self, entry: Entry<'_>) -> Spelling {
        let Some((caller, reason)) = entry.refusal() else { return Spelling::InFull };
        let mut pending = self.pending();
        self.end_interval(&mut pending, false);
        let spelling = pending.refusals.count(caller, reason, self.clock.instant());
        if spelling == Spelling::InFull && !pending.is_full() {
            self.put(&mut pending, entry.brief());
            self.want(pending, Wanted::WriteSoon);
        }
        spelling
    }

    fn put(&self, pending: &mut Pending, entry: Entry<'_>) {
        entry.write(&mut pending.text, &mut pending.stamp, self.clock.now());
        pending.text.push(b'\n');
    }

    /// Says how many refusals of an interval had no line, once it is over or at
    /// once. There are few enough of these lines to go over the bound.
    fn end_interval(&self, pending: &mut Pending, at_once: bool) {
        if !at_once && !pending.refusals.is_over(self.clock.instant()) {
            return;
        }
        for (Key { by, reason }, count) in pending.refusals.end() {
            let (caller, note) = match &by {
                By::Caller(caller) => (Some(caller), None),
                By::Nobody => (None, Some("no_identity")),
                By::Others => (None, Some("several_callers")),
            };
            tracing::warn!(
                caller.id = caller.map_or("unidentified", CallerId::as_str),
                reason = reason.as_str(),
                count,
                "more calls were refused like those before"
            );
            self.put(
                pending,
                Entry::event(REFUSALS_COUNTED).caller(caller).reason(reason).count(count).note(note).brief(),
            );
        }
    }

    pub(super) async fn durable(&self, ticket: &Ticket) -> Result<(), AuditUnavailable> {
        let batch = &ticket.batch;
        if let Some(outcome) = batch.outcome() {
            return outcome;
        }
        match self.durability {
            Durability::Os => self.write_unless_another_does(),
            Durability::Fsync => self.want(self.pending(), Wanted::WriteNow),
        }
        // Made before the second look, so that a batch settled in between still
        // wakes it.
        let settled = batch.settled.notified();
        match batch.outcome() {
            Some(outcome) => outcome,
            None => {
                settled.await;
                batch.outcome().unwrap_or(Err(AuditUnavailable))
            }
        }
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// The work of the log's thread: writes when wanted, until stopped.
    pub(super) fn run(&self) {
        loop {
            let pending = self.pending();
            let mut pending = if self.is_healthy() && pending.refusals.is_empty() {
                self.wake
                    .wait_while(pending, |pending| pending.wanted == Wanted::Nothing)
                    .unwrap_or_else(PoisonError::into_inner)
            } else {
                self.wait(pending, Wanted::Nothing, PROBE)
            };
            if pending.wanted == Wanted::WriteSoon {
                pending = self.wait(pending, Wanted::WriteSoon, LINGER);
            }
            let stop = pending.wanted == Wanted::Stop;
            self.end_interval(&mut pending, stop);
            if !stop {
                pending.wanted = Wanted::Nothing;
            }
            drop(pending);
            self.flush();
            if stop {
                self.writer().finish();
                return;
            }
        }
    }

    fn wait<'a>(
        &self,
        pending: MutexGuard<'a, Pending>,
        while_it_wants: Wanted,
        at_most: Duration,
    ) -> MutexGuard<'a, Pending> {
        self.wake
            .wait_timeout_while(pending, at_most, |pending| pending.wanted == while_it_wants)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    /// Stops the log's thread when it has written everything.
    pub(super) fn close(&self) {
        self.want(self.pending(), Wanted::Stop);
    }

    /// Writes all that waits. For threads that may block.
    pub(super) fn flush(&self) {
        loop {
            self.write_batch(&mut self.writer());
            // A caller that came while this thread wrote has found the writer
            // taken and relies on this look.
            if self.pending().text.is_empty() {
                return;
            }
        }
    }

    fn write_unless_another_does(&self) {
        for _ in 0..ROUNDS {
            let mut writer = match self.writer.try_lock() {
                Ok(writer) => writer,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            self.write_batch(&mut writer);
            drop(writer);
            // See `flush`.
            if self.pending().text.is_empty() {
                return;
            }
        }
        self.want(self.pending(), Wanted::WriteNow);
    }

    /// Writes what waits at this moment.
    fn write_batch(&self, writer: &mut Writer) {
        let batch = {
            let mut pending = self.pending();
            if pending.text.is_empty() && !writer.has_losses() {
                drop(pending);
                if !self.is_healthy() {
                    self.tell(&writer.look());
                }
                return;
            }
            writer.take(&mut pending.text);
            std::mem::take(&mut pending.batch)
        };
        let written = writer.write(&self.clock);
        self.tell(&written);
        batch.settle(written.is_ok());
    }

    /// Wakes the log's thread, unless it knows of something as urgent.
    fn want(&self, mut pending: MutexGuard<'_, Pending>, wanted: Wanted) {
        if pending.wanted < wanted {
            pending.wanted = wanted;
            self.wake.notify_one();
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::audit::Kind;
    use crate::audit::writer::fake::Disk;
    use crate::domain::reason::Reason;

    #[tokio::test]
    async fn a_log_recovers_although_nobody_calls() {
        let disk = Disk::default();
        let log = disk.log(Durability::Os);
        disk.set(|state| state.full_at = Some(0));
        log.record(Entry::event("refused")).await.unwrap_err();
        disk.set(|state| state.full_at = None);
        drop(disk.wait_until(|state| !state.bytes.is_empty()));
        assert_eq!(disk.actions(), ["entries_lost 1"]);
        drop(log);
    }

    #[tokio::test]
    async fn a_ticket_speaks_for_its_own_entry() {
        let disk = Disk::default();
        let log = disk.log(Durability::Os);
        disk.set(|state| state.full_at = Some(0));
        let lost = log.append(Entry::new(Kind::Request, "r", "lost")).unwrap();
        log.committer.flush();
        disk.set(|state| state.full_at = None);
        let kept = log.append(Entry::new(Kind::Outcome, "r", "kept")).unwrap();
        assert_eq!(log.durable(kept).await, Ok(()));
        assert_eq!(log.durable(lost).await, Err(AuditUnavailable));
    }

    #[tokio::test]
    async fn those_who_wait_at_once_share_a_write() {
        for durability in [Durability::Os, Durability::Fsync] {
            let disk = Disk::default();
            let log = disk.log(durability);
            disk.set(|state| state.hangs = true);
            let mut tickets = vec![log.append(Entry::event("x")).unwrap()];
            // The log's thread takes the first entry and hangs with it.
            drop(disk.wait_until(|state| state.writes == 1));
            tickets.extend((0..64).map(|_| log.append(Entry::event("x")).unwrap()));
            disk.set(|state| state.hangs = false);
            for ticket in tickets {
                log.durable(ticket).await.unwrap();
            }
            assert_eq!(disk.get(|state| state.writes), 2);
            assert_eq!(disk.actions().len(), 65);
        }
    }

    #[tokio::test]
    async fn an_entry_is_written_though_its_caller_went_away() {
        let disk = Disk::default();
        let log = disk.log(Durability::Fsync);
        disk.set(|state| state.hangs = true);
        let mut waiting = Box::pin(log.record(Entry::event("x")));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(waiting);
        disk.set(|state| state.hangs = false);
        drop(disk.wait_until(|state| !state.bytes.is_empty()));
        assert_eq!(disk.actions(), ["x"]);
    }

    /// So a flood of denied calls holds nobody up at the disk.
    #[tokio::test]
    async fn a_refusal_waits_for_no_disk_and_a_flood_of_them_takes_no_memory() {
        let disk = Disk::default();
        let log = disk.log(Durability::Fsync);
        disk.set(|state| state.hangs = true);
        let id = CallerId::new("spiffe://acme/mail").unwrap();
        for _ in 0..10_000 {
            log.refused(Entry::new(Kind::Outcome, "r", "x").caller(&id).reason(Reason::NotPermitted));
        }
        assert!(log.committer.pending().text.len() < 10_000);
        disk.set(|state| state.hangs = false);
        drop(log);
        let expected = ["x"; 10].into_iter().chain(["refusals_counted 9990"]);
        assert!(disk.actions().iter().eq(expected), "{:?}", disk.actions());
    }

    #[tokio::test]
    async fn a_hung_disk_refuses_before_memory_runs_out() {
        let disk = Disk::default();
        let log = disk.log(Durability::Fsync);
        disk.set(|state| state.hangs = true);
        let name = "n".repeat(200);
        let id = CallerId::new(&name).unwrap();
        let mut taken = 0;
        while log.append(Entry::event("x").caller(&id)).is_ok() {
            taken += 1;
            assert!(taken * name.len() < 3 * MAX_PENDING_BYTES, "the log takes entries for ever");
        }
        disk.set(|state| state.hangs = false);
        drop(log);
        assert_eq!(disk.actions().len(), taken, "what was taken is written");
    }
}
