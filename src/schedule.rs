//! When the rotation job runs: a cron expression with a time zone, on
//! tokio-cron-scheduler, whose only user this module is.
//!
//! That scheduler's repeated jobs are known to stop silently
//! (mvniekerk/tokio-cron-scheduler#113), so only cron jobs are used, and a watch
//! of our own looks whether they fire: when a run should have started and has
//! not, the watch says so and starts it. The same rule makes up at start for a
//! run that was missed while the process was down.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use tokio::task::JoinHandle;
use tokio_cron_scheduler::{Job, JobSchedulerError};

use crate::authz::Permit;
use crate::authz::permit::RunRotation;
use crate::clock::{SharedClock, Timestamp};
use crate::domain::rotation::{RunOptions, Trigger};
use crate::metrics::Counters;
use crate::rotation::RotationService;
use crate::shutdown::Shutdown;

/// How late a run may be before the watch starts it.
const TOLERANCE: Duration = Duration::from_secs(60);
/// How often the watch looks.
const WATCH: Duration = Duration::from_secs(20);
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
    let cron = parse(&timetable.expression)?;
    let permit = Arc::new(Permit::<RunRotation>::for_schedule());
    match rotation.resume(&permit).await {
        Ok(Some(_)) => tracing::info!("an interrupted rotation goes on"),
        Ok(None) => {}
        Err(failure) => tracing::error!(%failure, "cannot look for an interrupted rotation"),
    }

    let rotation = Arc::new(rotation);
    let scheduler = scheduler(&timetable, &rotation, &clock, &metrics, &permit).await?;
    Ok(tokio::spawn(async move {
        let mut scheduler = scheduler;
        let mut watch = Watch {
            cron,
            time_zone: timetable.time_zone,
            expect_after: if timetable.catch_up { Timestamp(i64::MIN) } else { clock.now() },
        };
        loop {
            watch.look(&rotation, &permit, clock.now()).await;
            tokio::select! {
                () = shutdown.triggered() => break,
                () = tokio::time::sleep(WATCH) => {}
            }
        }
        if let Err(error) = scheduler.shutdown().await {
            tracing::warn!(%error, "the scheduler did not stop cleanly");
        }
    }))
}

#[expect(clippy::disallowed_types, reason = "the home of the scheduler")]
async fn scheduler(
    timetable: &Timetable,
    rotation: &Arc<RotationService>,
    clock: &SharedClock,
    metrics: &Arc<Counters>,
    permit: &Arc<Permit<RunRotation>>,
) -> Result<tokio_cron_scheduler::JobScheduler, ScheduleError> {
    let scheduler = tokio_cron_scheduler::JobScheduler::new().await?;
    // The jobs outlive the scheduler for a moment; they must not keep the vault's
    // files open.
    let (job_rotation, job_permit) = (Arc::downgrade(rotation), Arc::clone(permit));
    let run = Job::new_async_tz(timetable.expression.as_str(), timetable.time_zone, move |_, _| {
        let (rotation, permit) = (job_rotation.upgrade(), Arc::clone(&job_permit));
        Box::pin(async move {
            let Some(rotation) = rotation else { return };
            if let Err(failure) = rotation.start(&permit, RunOptions::default(), Trigger::Schedule).await {
                tracing::error!(%failure, "a scheduled rotation could not start; the watch will try again");
            }
        })
    })?;
    scheduler.add(run).await?;
    let beat_rotation = Arc::downgrade(rotation);
    let (beat_clock, beat_metrics) = (Arc::clone(clock), Arc::clone(metrics));
    let beat = Job::new_async(HEARTBEAT, move |_, _| {
        let now = beat_clock.now();
        beat_metrics.scheduler_tick(now);
        if let Some(rotation) = beat_rotation.upgrade() {
            rotation.note_schedule(|state| state.last_tick = Some(now));
        }
        Box::pin(std::future::ready(()))
    })?;
    scheduler.add(beat).await?;
    scheduler.start().await?;
    Ok(scheduler)
}

struct Watch {
    cron: Cron,
    time_zone: Tz,
    /// Runs due before then are not missed: nobody promised them.
    expect_after: Timestamp,
}

impl Watch {
    async fn look(&mut self, rotation: &RotationService, permit: &Permit<RunRotation>, now: Timestamp) {
        let next = self.next_after(now);
        rotation.note_schedule(|state| state.next_run = next);
        let newest = match rotation.newest().await {
            Ok(newest) => newest.map(|run| run.started_at),
            Err(failure) => {
                tracing::error!(%failure, "cannot look for missed rotations");
                return;
            }
        };
        // A vault that never ran the job has missed none before its first start.
        let Some(known) = newest else {
            self.expect_after = self.expect_after.max(now);
            return;
        };
        let Some(due) = self.latest_before(now.minus(TOLERANCE)) else { return };
        if due > known && due >= self.expect_after {
            tracing::error!(due = %due, "a scheduled rotation did not start; starting it now");
            if let Err(failure) = rotation.start(permit, RunOptions::default(), Trigger::CatchUp).await {
                tracing::error!(%failure, "a missed rotation could not start; trying again soon");
            }
        }
    }

    fn next_after(&self, now: Timestamp) -> Option<Timestamp> {
        let next = self.cron.find_next_occurrence(&self.local(now)?, false).ok()?;
        Some(Timestamp(next.timestamp_millis()))
    }

    fn latest_before(&self, now: Timestamp) -> Option<Timestamp> {
        let latest = self.cron.find_previous_occurrence(&self.local(now)?, true).ok()?;
        Some(Timestamp(latest.timestamp_millis()))
    }

    fn local(&self, at: Timestamp) -> Option<DateTime<Tz>> {
        DateTime::<Utc>::from_timestamp_millis(at.0).map(|at| at.with_timezone(&self.time_zone))
    }
}

fn parse(expression: &str) -> Result<Cron, ScheduleError> {
    CronParser::builder()
        .seconds(Seconds::Required)
        .build()
        .parse(expression)
        .map_err(|e| ScheduleError::Expression(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(expression: &str, zone: Tz) -> Watch {
        Watch { cron: parse(expression).unwrap(), time_zone: zone, expect_after: Timestamp(0) }
    }

    fn at(text: &str) -> Timestamp {
        Timestamp(DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis())
    }

    #[test]
    fn the_time_zone_is_the_configured_one() {
        let berlin = watch("0 0 3 * * *", Tz::Europe__Berlin);
        assert_eq!(berlin.next_after(at("2026-07-01T12:00:00Z")), Some(at("2026-07-02T01:00:00Z")));
        assert_eq!(berlin.next_after(at("2026-12-01T12:00:00Z")), Some(at("2026-12-02T02:00:00Z")));
        assert_eq!(berlin.latest_before(at("2026-07-01T12:00:00Z")), Some(at("2026-07-01T01:00:00Z")));
    }
}
