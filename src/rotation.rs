//! The rotation job: new key versions where they are due, due grants refreshed
//! and sealed with the newest version, everything else re-sealed, versions
//! destroyed that nothing has named for all of their retention.
//!
//! One run at a time; a second start joins the first. A run's state is durable
//! after every batch, so that one that a crash interrupted goes on where it
//! stood: each step finds out from the store what is still to do.
//!
//! - [`plan`]: what is due, as pure functions;
//! - [`apply`]: the four steps, of which `retire` is the last;
//! - [`budget`]: how fast each provider is asked.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::audit::AuditLog;
use crate::authz::Permit;
use crate::authz::permit::{DescribeRotation, RunRotation};
use crate::clock::{SharedClock, Timestamp};
use crate::domain::failure::Failure;
use crate::domain::reason::Reason;
use crate::domain::rotation::{Counts, Phase, Run, RunOptions, Trigger};
use crate::entropy::{self, SharedEntropy};
use crate::idp::Idp;
use crate::keyring::Keyring;
use crate::metrics::Counters;
use crate::redeem::Redeemer;
use crate::shutdown::Shutdown;
use crate::store::Store;

pub mod apply;
pub mod budget;
pub mod plan;
mod retire;

/// What can be set.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Age at which a tenant's newest key version is replaced.
    pub key_max_age: Duration,
    /// Grants per batch.
    pub batch_size: u32,
    /// How long a key version is kept that nothing names any more.
    pub key_retention: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            key_max_age: Duration::from_secs(90 * 86_400),
            batch_size: 500,
            key_retention: Duration::from_secs(35 * 86_400),
        }
    }
}

/// What the job works with.
pub struct Parts {
    /// Refreshes grants.
    pub redeemer: Arc<Redeemer>,
    /// Tenants, grants, runs.
    pub store: Arc<dyn Store>,
    /// Seals and opens.
    pub keyring: Arc<Keyring>,
    /// The providers' budgets.
    pub idp: Arc<Idp>,
    /// Where what could not be opened is recorded.
    pub audit: Arc<AuditLog>,
    /// The time.
    pub clock: SharedClock,
    /// Randomness.
    pub entropy: SharedEntropy,
    /// Counters.
    pub metrics: Arc<Counters>,
    /// What can be set.
    pub settings: Settings,
}

/// The service; clones share everything.
#[derive(Clone)]
pub struct RotationService {
    pub(super) parts: Arc<Parts>,
    under_way: Arc<Mutex<Option<watch::Receiver<Run>>>>,
    schedule: Arc<Mutex<ScheduleState>>,
    starting: Arc<tokio::sync::Mutex<()>>,
    stopping: Shutdown,
    tasks: TaskTracker,
}

/// What the schedule says of itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScheduleState {
    /// When the next run starts.
    pub next_run: Option<Timestamp>,
    /// When the schedule was last seen alive.
    pub last_tick: Option<Timestamp>,
}

impl std::fmt::Debug for RotationService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RotationService").finish_non_exhaustive()
    }
}

impl RotationService {
    /// The service over its parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
            under_way: Arc::default(),
            schedule: Arc::default(),
            starting: Arc::default(),
            stopping: Shutdown::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Starts a run, or joins the one under way. The run goes on when the
    /// receiver is dropped.
    ///
    /// # Errors
    ///
    /// The store cannot be written, or it is an older copy that no operator has
    /// confirmed; nothing was begun.
    pub async fn start(
        &self,
        _permit: &Permit<RunRotation>,
        options: RunOptions,
        trigger: Trigger,
    ) -> Result<watch::Receiver<Run>, Failure> {
        // A version that an older token store does not name may be one that the
        // newest one does.
        self.parts.redeemer.check_confirmed()?;
        let _one_at_a_time = self.starting.lock().await;
        if let Some(running) = self.under_way() {
            return Ok(running);
        }
        let run = Run {
            id: entropy::uuid(&*self.parts.entropy)
                .map_err(|e| Failure::new(Reason::Internal, e.to_string()))?,
            phase: Phase::NewVersions,
            trigger,
            options,
            started_at: self.parts.clock.now(),
            ended_at: None,
            counts: Counts::default(),
        };
        self.parts.store.save_run(&run).await?;
        Ok(self.spawn(run))
    }

    /// Goes on with a run that a crash interrupted; `None` when there is none.
    ///
    /// # Errors
    ///
    /// The store cannot be read or written.
    pub async fn resume(
        &self,
        _permit: &Permit<RunRotation>,
    ) -> Result<Option<watch::Receiver<Run>>, Failure> {
        let _one_at_a_time = self.starting.lock().await;
        if self.under_way().is_some() || self.parts.redeemer.check_confirmed().is_err() {
            return Ok(None);
        }
        match self.newest().await? {
            Some(run) if run.ended_at.is_none() => {
                Ok(Some(self.spawn(Run { trigger: Trigger::Resume, ..run })))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// The newest run, when the next starts, and when the schedule last ticked.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub async fn describe(
        &self,
        _permit: &Permit<DescribeRotation>,
    ) -> Result<(Option<Run>, Option<Timestamp>, Option<Timestamp>), Failure> {
        let run = match self.under_way() {
            Some(running) => Some(running.borrow().clone()),
            None => self.newest().await?,
        };
        let schedule = *self.schedule.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((run, schedule.next_run, schedule.last_tick))
    }

    /// The newest run, for the schedule.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub async fn newest(&self) -> Result<Option<Run>, Failure> {
        Ok(self.parts.store.newest_run().await?)
    }

    /// Notes what the schedule says of itself.
    pub fn note_schedule(&self, change: impl FnOnce(&mut ScheduleState)) {
        change(&mut self.schedule.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Stops the run under way at the next place where it can: nothing new is
    /// sent to a provider. The run goes on at the next start.
    pub fn stop(&self) {
        self.stopping.trigger();
    }

    /// Waits for the run under way. It is durable at every batch, so who does
    /// not want to wait may go.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(limit, self.tasks.wait()).await.is_ok()
    }

    fn under_way(&self) -> Option<watch::Receiver<Run>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn spawn(&self, run: Run) -> watch::Receiver<Run> {
        let (sender, receiver) = watch::channel(run);
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) = Some(receiver.clone());
        let this = self.clone();
        self.tasks.spawn(async move {
            // Taken out also when the run panics.
            let _landing = Landing(Arc::clone(&this.under_way));
            apply::run(&this.parts, &sender, &this.stopping).await;
        });
        receiver
    }
}

struct Landing(Arc<Mutex<Option<watch::Receiver<Run>>>>);

impl Drop for Landing {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
