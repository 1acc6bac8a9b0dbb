//! `[rotation]`: the job that renews keys and tokens.

use std::time::Duration;

use chrono_tz::Tz;
use croner::parser::{CronParser, Seconds};

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
    CronParser::builder()
        .seconds(Seconds::Required)
        .build()
        .parse(expression)
        .map(|_| expression.to_owned())
        .map_err(|e| format!("must be a cron expression of 6 fields, seconds first: {e}"))
}

fn time_zone(name: &str) -> Result<Tz, String> {
    name.parse().map_err(|_| "must be a time zone of the IANA database, for example Europe/Berlin".into())
}
