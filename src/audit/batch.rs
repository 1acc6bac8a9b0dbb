//! Entries that are written at once, and who waits for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

use super::AuditUnavailable;

/// Stands for an appended entry, to wait for it.
#[derive(Debug)]
#[must_use = "an entry vouches for nothing before it is durable"]
pub struct Ticket {
    pub(super) batch: Arc<Batch>,
}

impl Ticket {
    /// Whether the entry is durable by now.
    pub(super) fn is_written(&self) -> bool {
        self.batch.outcome() == Some(Ok(()))
    }
}

/// Entries that are written at once, and what became of them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    state: AtomicU8,
    pub(super) settled: Notify,
}

impl Batch {
    const WRITTEN: u8 = 1;
    const LOST: u8 = 2;

    pub(super) fn outcome(&self) -> Option<Result<(), AuditUnavailable>> {
        match self.state.load(Ordering::Acquire) {
            Self::WRITTEN => Some(Ok(())),
            Self::LOST => Some(Err(AuditUnavailable)),
            _ => None,
        }
    }

    pub(super) fn settle(&self, written: bool) {
        self.state.store(if written { Self::WRITTEN } else { Self::LOST }, Ordering::Release);
        self.settled.notify_waiters();
    }
}
