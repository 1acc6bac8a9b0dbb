//! `[rotation]`: the job that renews keys and tokens.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds};

use crate::clock::Timestamp;

use super::parse;
use super::table::Table;

/// The rotation job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// When it runs: a cron expression that begins with seconds.
    pub schedule: String,
    /// The time zone of the expression.
    pub time_zone: Tz,
    /// A tenant's key gets a new version when its newest is older than this.
    pub key_max_age: Duration,
    /// A grant is refreshed when its token dies of not being used within this;
    /// never earlier than half of its idle lifetime.
    pub refresh_before_idle: Duration,
    /// A grant is also refreshed when its token is older than this.
    pub refresh_every: Option<Duration>,
    /// Whether a run missed while the process was down is made up at start.
    pub catch_up: bool,
    /// How many grants one transaction seals anew.
    pub batch_size: u32,
    /// Over which span the due dates of grants are spread.
    pub jitter: Duration,
}

impl Rotation {
    /// When it runs next after a time; `None`: never.
    #[must_use]
    pub fn next_run(&self, after: Timestamp) -> Option<Timestamp> {
        // In whole seconds: what is below them the parser would carry along.
        let after = DateTime::<Utc>::from_timestamp(after.unix_seconds(), 0)?.with_timezone(&self.time_zone);
        let next = parser(&self.schedule).ok()?.find_next_occurrence(&after, false).ok()?;
        Some(Timestamp(next.timestamp_millis()))
    }

    /// The longest pause between the next runs; `None` where it does not go on
    /// running. A few dozen are enough to see a week, or the months of a year.
    #[must_use]
    pub fn longest_pause(&self, now: Timestamp) -> Option<Duration> {
        const RUNS: usize = 60;
        let mut at = self.next_run(now)?;
        let mut longest = Duration::ZERO;
        for _ in 0..RUNS {
            let next = self.next_run(at)?;
            longest = longest.max(next.since(at));
            at = next;
        }
        Some(longest)
    }
}

pub(super) fn read(table: &mut Table<'_>) -> Option<Rotation> {
    const DAY: u64 = 86_400;
    Some(Rotation {
        schedule: table.or("schedule", "0 0 3 * * *".into(), parse::checked(cron)),
        time_zone: table.or("time_zone", Tz::UTC, parse::checked(time_zone)),
        key_max_age: table.or("key_max_age_days", Duration::from_secs(90 * DAY), parse::days(1..=3650)),
        refresh_before_idle: table.or(
            "refresh_before_idle_days",
            Duration::from_secs(14 * DAY),
            parse::days(1..=365),
        ),
        refresh_every: table.optional("refresh_every_hours", parse::hours(1..=8760)),
        catch_up: table.or("catch_up", true, parse::flag),
        batch_size: table.or("batch_size", 500, parse::whole(1..=10_000)),
        jitter: table.or("jitter_seconds", Duration::from_secs(3600), parse::seconds(0..=604_800)),
    })
}

/// Checks the expression with the parser and the settings that the scheduler
/// itself uses, so that nothing accepted here is refused there.
fn cron(expression: &str) -> Result<String, String> {
    parser(expression).map(|_| expression.to_owned())
}

fn parser(expression: &str) -> Result<Cron, String> {
    CronParser::builder()
        .seconds(Seconds::Required)
        .build()
        .parse(expression)
        .map_err(|e| format!("must be a cron expression of 6 fields, seconds first: {e}"))
}

fn time_zone(name: &str) -> Result<Tz, String> {
    name.parse().map_err(|_| "must be a time zone of the IANA database, for example Europe/Berlin".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotation(schedule: &str) -> Rotation {
        Rotation {
            schedule: schedule.into(),
            time_zone: Tz::UTC,
            key_max_age: Duration::ZERO,
            refresh_before_idle: Duration::ZERO,
            refresh_every: None,
            catch_up: true,
            batch_size: 1,
            jitter: Duration::ZERO,
        }
    }

    #[test]
    fn the_next_run_and_the_longest_pause_are_those_of_the_calendar() {
        // 2026-01-01, a Thursday.
        let now = Timestamp(1_767_225_600_000);
        let day = Duration::from_secs(86_400);
        for within_the_second in [0, 1, 999] {
            let asked = now.plus(Duration::from_millis(within_the_second));
            let three = now.plus(Duration::from_secs(3 * 3600));
            assert_eq!(rotation("0 0 3 * * *").next_run(asked), Some(three));
        }
        assert_eq!(rotation("0 0 3 * * *").longest_pause(now), Some(day));
        assert_eq!(rotation("0 0 3 * * MON-FRI").longest_pause(now), Some(3 * day));
        assert_eq!(rotation("0 0 3 1 * *").longest_pause(now), Some(31 * day));
        for never in ["0 0 3 30 2 *", "0 0 3 31 4 *", "0 0 3 * * * 2020"] {
            assert_eq!(rotation(never).next_run(now), None, "{never}");
        }
    }
}
