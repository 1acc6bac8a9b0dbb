//! Whether the log is in service: what writes and looks say of its file, and
//! the way back where the file is another.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{PoisonError, TryLockError};

use crate::audit::{AuditError, Reopened};

use super::{Committer, Wanted};

impl Committer {
    /// Takes over what a write, or a look where nothing was to be written, says
    /// of the log.
    pub(super) fn tell(&self, found: &io::Result<()>) {
        match found {
            Ok(()) => {
                if !self.is_healthy() {
                    self.healthy.store(true, Ordering::Relaxed);
                    tracing::info!("the audit log can be written again");
                }
            }
            Err(error) => {
                *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = error.to_string();
                if self.healthy.swap(false, Ordering::Relaxed) {
                    tracing::error!(%error, "the audit log cannot be written; the vault hands out nothing");
                    // It may be asleep and has to start trying.
                    self.want(self.pending(), Wanted::WriteSoon);
                }
            }
        }
    }

    /// Looks at the file, unless somebody writes to it just now, and says why
    /// the log is out of service when it is.
    pub(in crate::audit) fn look(&self) -> Result<(), String> {
        let mut writer = match self.writer.try_lock() {
            Ok(writer) => writer,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return self.health(),
        };
        let looked = writer.look();
        // What could not be written is written before all is well.
        if looked.is_err() || !writer.has_losses() {
            self.tell(&looked);
        }
        drop(writer);
        // A caller that came meanwhile has found the writer taken.
        let pending = self.pending();
        if !pending.text.is_empty() {
            self.want(pending, Wanted::WriteNow);
        }
        self.health()
    }

    fn health(&self) -> Result<(), String> {
        if self.is_healthy() {
            return Ok(());
        }
        Err(self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Goes on in the file at the path, where that is another than the one that
    /// is written to. See [`crate::audit::AuditLog::reopen`].
    pub(in crate::audit) fn reopen(&self) -> Result<Reopened, AuditError> {
        let mut writer = self.writer();
        let reopened = if writer.look().is_ok() {
            Ok(Reopened::Unchanged)
        } else {
            // The old file keeps what was appended before, if it still can.
            self.end_interval(&mut self.pending(), true);
            writer.finish_moved();
            self.write_batch(&mut writer);
            writer.reopen(&self.clock)
        };
        if reopened.is_ok() {
            if !writer.has_losses() {
                self.tell(&Ok(()));
            }
            self.write_batch(&mut writer);
        }
        drop(writer);
        self.flush();
        reopened
    }
}
