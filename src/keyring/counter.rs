//! How many seals a key version has left. Seals are reserved in the key store
//! in blocks before they are made, so that the durable number is never below
//! the true one: a crash wastes the rest of a block and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use crate::store::StoreError;

use super::MAX_SEALS;

/// The seals that this process may make with one key version.
pub(super) struct SealCounter {
    /// Reserved and not yet used.
    left: AtomicU64,
    /// Held by the one that reserves; whether the version is at its end.
    exhausted: Mutex<bool>,
}

/// Why there is no seal.
#[derive(Debug)]
pub(super) enum TakeError {
    /// The version has made all its seals.
    Exhausted,
    /// The reservation failed.
    Store(StoreError),
}

impl SealCounter {
    /// The counter of a version of which `reserved` seals may have been made,
    /// all of them by others or before.
    pub(super) fn new(reserved: u64) -> Self {
        Self { left: AtomicU64::new(0), exhausted: Mutex::new(reserved >= MAX_SEALS) }
    }

    /// Takes one seal, which must then be made at most once. Reserves a block
    /// of `block` where none is left; `reserve` adds it to the durable number
    /// and returns the new one. All who run out at once wait for one
    /// reservation and share it.
    pub(super) async fn take<R>(&self, block: u64, reserve: impl Fn() -> R) -> Result<(), TakeError>
    where
        R: Future<Output = Result<u64, StoreError>>,
    {
        loop {
            if self.take_left() {
                return Ok(());
            }
            let mut exhausted = self.exhausted.lock().await;
            if self.left.load(Ordering::SeqCst) > 0 {
                continue;
            }
            if *exhausted {
                return Err(TakeError::Exhausted);
            }
            // A caller that goes away here leaves a reservation nobody uses.
            let total = reserve().await.map_err(TakeError::Store)?;
            let granted = within_limit(total, block);
            *exhausted = granted < block;
            self.left.fetch_add(granted, Ordering::SeqCst);
        }
    }

    fn take_left(&self) -> bool {
        self.left.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

/// How much of a block that ends at `total` lies within [`MAX_SEALS`].
fn within_limit(total: u64, block: u64) -> u64 {
    let begin = total.saturating_sub(block);
    MAX_SEALS.saturating_sub(begin).min(block)
}
