//! The end of a process: one signal that everything waits for.
//!
//! Whoever serves stops taking work when it is [`Shutdown::triggered`] and ends
//! what is under way; exchanges with a provider are ended, never dropped (rule
//! 8 of the refresh protocol).

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The signal; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A signal that has not been given.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the signal. It cannot be taken back.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// Whether the signal was given.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits for the signal; returns at once when it was given before.
    pub async fn triggered(&self) {
        self.0.cancelled().await;
    }

    /// Gives the signal when the process is asked to end, by SIGTERM or SIGINT;
    /// returns then, or when the signal was given otherwise. From the first
    /// poll on, neither ends the process by itself.
    ///
    /// # Errors
    ///
    /// When the handlers cannot be set.
    pub async fn wait_for_signal(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = self.triggered() => return Ok(()),
        };
        tracing::info!(signal = name, "shutting down");
        self.trigger();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_hears_the_signal_early_and_late() {
        let shutdown = Shutdown::new();
        let early = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.triggered().await }
        });
        assert!(!shutdown.is_triggered());
        shutdown.clone().trigger();
        early.await.unwrap();
        shutdown.triggered().await;
        shutdown.wait_for_signal().await.unwrap();
        assert!(shutdown.is_triggered());
    }
}
