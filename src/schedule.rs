//! When the rotation job runs: a cron expression with a time zone.
//!
//! tokio-cron-scheduler, whose only user this module is, is the timer: it ticks
//! every second, and what is due then `due` says, once. Its own arithmetic is
//! not asked, since it and ours were an hour apart on the days when clocks change
//! (mvniekerk/tokio-cron-scheduler#107).
//!
//! Its repeated jobs are known to stop silently
//! (mvniekerk/tokio-cron-scheduler#113), so only cron jobs are used, and a watch
//! of our own looks whether they fire: when a run is overdue, the watch says so
//! and starts it. The same agenda makes up at start for a run that was missed
//! while the process was down.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono_tz::Tz;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_cron_scheduler::{Job, JobSchedulerError};

use crate::authz::Permit;
use crate::authz::permit::RunRotation;
use crate::clock::{SharedClock, Timestamp};
use crate::domain::failure::Failure;
use crate::domain::rotation::{RunOptions, Trigger};
use crate::metrics::Counters;
use crate::rotation::RotationService;
use crate::shutdown::Shutdown;

mod due;

use due::{Agenda, Times};

/// How late a run may be before the watch starts it.
const TOLERANCE: Duration = Duration::from_secs(60);
/// How often the watch looks.
const WATCH: Duration = Duration::from_secs(20);
/// The timer: every second.
const TIMER: &str = "* * * * * *";
/// The scheduler's heartbeat: every ten seconds.
const HEARTBEAT: &str = "*/10 * * * * *";

/// When the job runs.
#[derive(Debug, Clone)]
pub struct Timetable {
    /// The cron expression; six fields, seconds first.
    pub expression: String,
    /// Its time zone.
    pub time_zone: Tz,
    /// Whether a run missed while the process was down is made up at start.
    pub catch_up: bool,
}

/// The schedule cannot be set up.
#[derive(Debug)]
pub enum ScheduleError {
    /// The expression cannot be read.
    Expression(String),
    /// The scheduler failed.
    Scheduler(JobSchedulerError),
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expression(why) => write!(f, "the cron expression cannot be read: {why}"),
            Self::Scheduler(error) => write!(f, "the scheduler failed: {error}"),
        }
    }
}

impl std::error::Error for ScheduleError {}

impl From<JobSchedulerError> for ScheduleError {
    fn from(error: JobSchedulerError) -> Self {
        Self::Scheduler(error)
    }
}

/// Resumes an interrupted run, sets the jobs up, and watches them until the
/// shutdown. The task ends when the scheduler has stopped.
///
/// # Errors
///
/// The expression or the scheduler.
pub async fn start(
    timetable: Timetable,
    rotation: RotationService,
    clock: SharedClock,
    metrics: Arc<Counters>,
    shutdown: Shutdown,
) -> Result<JoinHandle<()>, ScheduleError> {
    let times = Times::new(&timetable.expression, timetable.time_zone).map_err(ScheduleError::Expression)?;
    let permit = Permit::<RunRotation>::for_schedule();
    match rotation.resume(&permit).await {
        Ok(Some(_)) => tracing::info!("an interrupted rotation goes on"),
        Ok(None) => {}
        Err(failure) => tracing::error!(%failure, "cannot look for an interrupted rotation"),
    }

    let job = Arc::new(ScheduledJob { agenda: Mutex::new(None), times, rotation, clock, metrics, permit });
    job.begin(timetable.catch_up).await;
    let scheduler = scheduler(&job).await?;
    Ok(tokio::spawn(async move {
        let mut scheduler = scheduler;
        loop {
            tokio::select! {
                () = shutdown.triggered() => break,
                () = tokio::time::sleep(WATCH) => {}
            }
            job.watch(timetable.catch_up).await;
        }
        if let Err(error) = scheduler.shutdown().await {
            tracing::warn!(%error, "the scheduler did not stop cleanly");
        }
    }))
}

/// Sets the timer and the heartbeat up.
#[expect(clippy::disallowed_types, reason = "the home of the scheduler")]
async fn scheduler(job: &Arc<ScheduledJob>) -> Result<tokio_cron_scheduler::JobScheduler, ScheduleError> {
    let scheduler = tokio_cron_scheduler::JobScheduler::new().await?;
    // The jobs outlive the scheduler for a moment; they must not keep the vault's
    // files open.
    let timer = Arc::downgrade(job);
    let timer = Job::new_async(TIMER, move |_, _| {
        let job = timer.upgrade();
        Box::pin(async move {
            if let Some(job) = job {
                job.tick().await;
            }
        })
    })?;
    scheduler.add(timer).await?;
    let heart = Arc::downgrade(job);
    let beat = Job::new_async(HEARTBEAT, move |_, _| {
        if let Some(job) = heart.upgrade() {
            job.beat();
        }
        Box::pin(std::future::ready(()))
    })?;
    scheduler.add(beat).await?;
    scheduler.start().await?;
    Ok(scheduler)
}

/// The rotation job with its agenda, which the timer and the watch share.
struct ScheduledJob {
    /// Held while a run is started, so that a due time has one run whoever looks.
    /// `None` until it is known which run was the last.
    agenda: Mutex<Option<Agenda>>,
    times: Times,
    rotation: RotationService,
    clock: SharedClock,
    metrics: Arc<Counters>,
    permit: Permit<RunRotation>,
}

impl ScheduledJob {
    /// Finds out what was done before this process, and makes up for what was
    /// missed since.
    async fn begin(&self, catch_up: bool) {
        let mut agenda = self.agenda.lock().await;
        match self.served_until(catch_up).await {
            Ok(served_until) => {
                let agenda = agenda.insert(Agenda::new(self.times.clone(), served_until));
                let missed = self.start_due(agenda, Duration::ZERO, Trigger::CatchUp).await;
                if let Some(due) = missed {
                    tracing::warn!(%due, "a rotation was missed while the vault was down; starting it now");
                }
                self.note(agenda);
            }
            Err(failure) => {
                tracing::error!(%failure, "cannot look for missed rotations; trying again soon");
            }
        }
    }

    /// A run serves all that was due until its end: what came due while it was
    /// under way joined it. A vault that never ran the job has missed none before
    /// its first start, for nobody promised one.
    async fn served_until(&self, catch_up: bool) -> Result<Timestamp, Failure> {
        let now = self.clock.now();
        if !catch_up {
            return Ok(now);
        }
        let newest = self.rotation.newest().await?;
        Ok(newest.map_or(now, |run| run.ended_at.unwrap_or(run.started_at)))
    }

    /// The timer's look, each second.
    async fn tick(&self) {
        // Who holds it looks in our place.
        let Ok(mut agenda) = self.agenda.try_lock() else { return };
        let Some(agenda) = agenda.as_mut() else { return };
        self.start_due(agenda, Duration::ZERO, Trigger::Schedule).await;
        self.note(agenda);
    }

    /// The watch's look: what is overdue the timer has missed.
    async fn watch(&self, catch_up: bool) {
        if self.agenda.lock().await.is_none() {
            return self.begin(catch_up).await;
        }
        let mut agenda = self.agenda.lock().await;
        let Some(agenda) = agenda.as_mut() else { return };
        if let Some(due) = self.start_due(agenda, TOLERANCE, Trigger::CatchUp).await {
            tracing::error!(%due, "a scheduled rotation did not start in time; it is started now");
        }
        self.note(agenda);
    }

    /// Starts the run that has been due for `patience`; what was due then.
    async fn start_due(
        &self,
        agenda: &mut Agenda,
        patience: Duration,
        trigger: Trigger,
    ) -> Option<Timestamp> {
        let due = agenda.take(self.clock.now(), patience)?;
        match self.rotation.start(&self.permit, RunOptions::default(), trigger).await {
            Ok(_) => Some(due.at),
            Err(failure) => {
                tracing::error!(due = %due.at, %failure, "a scheduled rotation could not start; trying again soon");
                agenda.give_back(&due);
                None
            }
        }
    }

    fn note(&self, agenda: &Agenda) {
        self.rotation.note_schedule(|state| state.next_run = agenda.next());
    }

    fn beat(&self) {
        let now = self.clock.now();
        self.metrics.scheduler_tick(now);
        self.rotation.note_schedule(|state| state.last_tick = Some(now));
    }
}
