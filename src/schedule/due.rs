//! What is due: the one arithmetic that decides when the rotation job runs,
//! whoever asks. Pure; in whole seconds; a due time is given out once.
//!
//! A cron expression speaks of local time, and on two days of the year local
//! time is no clock: an hour is missing, or comes twice. The expression is
//! therefore searched on local time as it would be without these days, and each
//! time that it names is then turned into what happens:
//!
//! - a time that exists once: then;
//! - a time that comes twice: the first time, and the second time too only where
//!   the expression means every hour (an hour field of `*`);
//! - a time that does not exist: at the end of the gap, or not at all where the
//!   expression means every hour.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds};

use crate::clock::Timestamp;

/// How far from a change of the zone's offset local times are out of order.
const DISORDER: TimeDelta = TimeDelta::hours(3);
/// Most times looked at for one answer: every second of the disorder.
const MOST_LOOKED_AT: u32 = 50_000;
/// The longest gap there was in any zone is a day (Samoa, 2011).
const LONGEST_GAP: TimeDelta = TimeDelta::hours(25);
/// How far the wall clock may be set back and no due time comes again. What was
/// set back further was wrong before, and a schedule that waited for it to come
/// true again would stand still.
const LONGEST_SET_BACK: Duration = Duration::from_secs(25 * 3600);

/// The times that a cron expression names in a time zone.
#[derive(Debug, Clone)]
pub(super) struct Times {
    cron: Cron,
    zone: Tz,
    every_hour: bool,
}

impl Times {
    /// Reads an expression of six fields, seconds first.
    pub(super) fn new(expression: &str, zone: Tz) -> Result<Self, String> {
        let cron = CronParser::builder().seconds(Seconds::Required).build().parse(expression);
        let cron = cron.map_err(|error| error.to_string())?;
        let every_hour = expression.split_whitespace().nth(2) == Some("*");
        Ok(Self { cron, zone, every_hour })
    }

    /// The first one after `at`; `None` when the expression names none any more.
    pub(super) fn after(&self, at: Timestamp) -> Option<Timestamp> {
        let at = DateTime::<Utc>::from_timestamp(at.unix_seconds(), 0)?;
        let local = self.local(at);
        let offset = |at: DateTime<Utc>| self.zone.offset_from_utc_datetime(&at.naive_utc()).fix();
        let in_order =
            offset(at) == offset(at + DISORDER) && offset(at) == offset(at.checked_sub_signed(DISORDER)?);
        let disorder = if in_order { TimeDelta::zero() } else { DISORDER };
        let mut named = local.checked_sub_signed(disorder)?;
        let mut first: Option<DateTime<Utc>> = None;
        for _ in 0..MOST_LOOKED_AT {
            // Read as if it were UTC, where no time is missing or twice.
            named = self.cron.find_next_occurrence(&named.and_utc(), false).ok()?.naive_utc();
            let happens = self.happens(named).into_iter().flatten().filter(|then| *then > at);
            first = happens.chain(first).min();
            if first.is_some_and(|first| named >= self.local(first) + disorder) {
                break;
            }
        }
        first.map(|first| Timestamp(first.timestamp_millis()))
    }

    /// When the local time happens.
    fn happens(&self, local: NaiveDateTime) -> [Option<DateTime<Utc>>; 2] {
        let found = self.zone.from_local_datetime(&local);
        let (first, second) = (found.earliest(), found.latest());
        match (first, second) {
            (Some(first), Some(second)) if first != second && self.every_hour => {
                [Some(first.to_utc()), Some(second.to_utc())]
            }
            (Some(first), _) => [Some(first.to_utc()), None],
            (None, _) if self.every_hour => [None, None],
            (None, _) => [self.end_of_gap(local), None],
        }
    }

    fn end_of_gap(&self, local: NaiveDateTime) -> Option<DateTime<Utc>> {
        let last = local.checked_add_signed(LONGEST_GAP)?;
        let mut minute = local.with_second(0)?;
        while minute < last {
            minute = minute.checked_add_signed(TimeDelta::minutes(1))?;
            if let Some(there) = self.zone.from_local_datetime(&minute).earliest() {
                return Some(there.to_utc());
            }
        }
        None
    }

    fn local(&self, at: DateTime<Utc>) -> NaiveDateTime {
        at.with_timezone(&self.zone).naive_local()
    }
}

/// What is due, told once to whoever asks first.
#[derive(Debug)]
pub(super) struct Agenda {
    times: Times,
    /// All that was due until then has had its run, or was promised by nobody.
    served_until: Timestamp,
    /// The first due time after that.
    next: Option<Timestamp>,
}

impl Agenda {
    /// An agenda on which everything up to `served_until` is done.
    pub(super) fn new(times: Times, served_until: Timestamp) -> Self {
        let next = times.after(served_until);
        Self { times, served_until, next }
    }

    /// The next due time, which lies in the past when its run is overdue.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.next
    }

    /// Takes the due time that has been waiting for at least `patience`; those
    /// after it that have passed too are served by the same run.
    pub(super) fn take(&mut self, now: Timestamp, patience: Duration) -> Option<Due> {
        if self.served_until.since(now) > LONGEST_SET_BACK {
            *self = Self::new(self.times.clone(), now);
        }
        let at = self.next.filter(|next| *next <= now.minus(patience))?;
        let before = self.served_until;
        self.served_until = now;
        self.next = self.times.after(now);
        Some(Due { at, before })
    }

    /// Its run could not be started: it is due again.
    pub(super) fn give_back(&mut self, due: &Due) {
        (self.next, self.served_until) = (Some(due.at), due.before);
    }
}

/// A due time that was taken.
#[derive(Debug)]
pub(super) struct Due {
    /// When its run should start.
    pub(super) at: Timestamp,
    before: Timestamp,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp(DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis())
    }

    fn times(expression: &str, zone: Tz) -> Times {
        Times::new(expression, zone).unwrap()
    }

    /// All due times from `from` until `to`, as RFC 3339 with the zone's offset.
    fn all(expression: &str, zone: Tz, from: &str, to: &str) -> Vec<String> {
        let times = times(expression, zone);
        let (mut then, to, mut all) = (at(from), at(to), Vec::new());
        while let Some(next) = times.after(then).filter(|next| *next < to) {
            assert!(next > then, "{expression}: {next} is not after {then}");
            let local = DateTime::from_timestamp_millis(next.0).unwrap().with_timezone(&zone);
            all.push(local.format("%d %H:%M:%S%:z").to_string());
            then = next;
        }
        all
    }

    #[test]
    fn the_time_zone_is_the_configured_one() {
        let berlin = times("0 0 3 * * *", Tz::Europe__Berlin);
        assert_eq!(berlin.after(at("2026-07-01T12:00:00Z")), Some(at("2026-07-02T01:00:00Z")));
        assert_eq!(berlin.after(at("2026-12-01T12:00:00Z")), Some(at("2026-12-02T02:00:00Z")));
        assert_eq!(berlin.after(at("2026-12-02T02:00:00Z")), Some(at("2026-12-03T02:00:00Z")));
        assert_eq!(berlin.after(at("2026-12-02T01:59:59.999Z")), Some(at("2026-12-02T02:00:00Z")));
    }

    #[test]
    fn each_day_has_its_run_also_when_the_clocks_change() {
        let spring = ("2027-03-27T12:00:00Z", "2027-03-30T00:00:00Z");
        let autumn = ("2027-10-30T12:00:00Z", "2027-11-02T00:00:00Z");
        let berlin = Tz::Europe__Berlin;
        for (expression, (from, to), due) in [
            ("0 0 3 * * *", spring, ["28 03:00:00+02:00", "29 03:00:00+02:00"].as_slice()),
            ("0 0 3 * * *", autumn, &["31 03:00:00+01:00", "01 03:00:00+01:00"]),
            // Does not exist on one day: at the end of the gap. Exists twice on the
            // other: the first time.
            ("0 30 2 * * *", spring, &["28 03:00:00+02:00", "29 02:30:00+02:00"]),
            ("0 30 2 * * *", autumn, &["31 02:30:00+02:00", "01 02:30:00+01:00"]),
            ("15 0,30 2 * * *", spring, &["28 03:00:00+02:00", "29 02:00:15+02:00", "29 02:30:15+02:00"]),
            ("0 30 2,3 28 * *", spring, &["28 03:00:00+02:00", "28 03:30:00+02:00"]),
            ("0 0 2 * * SUN", autumn, &["31 02:00:00+02:00"]),
        ] {
            assert_eq!(all(expression, berlin, from, to), due, "{expression}");
        }
        let hourly = ("2027-10-30T22:30:00Z", "2027-10-31T03:30:00Z");
        assert_eq!(
            all("0 0 * * * *", berlin, hourly.0, hourly.1),
            [
                "31 01:00:00+02:00",
                "31 02:00:00+02:00",
                "31 02:00:00+01:00",
                "31 03:00:00+01:00",
                "31 04:00:00+01:00"
            ]
        );
        let hourly = ("2027-03-27T23:30:00Z", "2027-03-28T02:30:00Z");
        assert_eq!(
            all("0 0 * * * *", berlin, hourly.0, hourly.1),
            ["28 01:00:00+01:00", "28 03:00:00+02:00", "28 04:00:00+02:00"]
        );
    }

    #[test]
    fn other_zones_have_other_days_and_gaps() {
        let south = ("2027-10-02T00:00:00Z", "2027-10-03T12:00:00Z");
        // Half an hour is missing at two in the morning.
        assert_eq!(all("0 15 2 * * *", Tz::Australia__Lord_Howe, south.0, south.1), ["03 02:30:00+11:00"]);
        // At midnight, on the fourth of April.
        assert_eq!(
            all("0 30 0 * * *", Tz::Africa__Cairo, "2027-04-29T00:00:00Z", "2027-04-30T12:00:00Z"),
            ["30 01:00:00+03:00"]
        );
        assert_eq!(
            all("0 0 3 * * *", Tz::Asia__Kathmandu, "2027-03-27T00:00:00Z", "2027-03-28T12:00:00Z"),
            ["28 03:00:00+05:45"]
        );
    }

    /// A schedule whose timer and whose watch both ask, each at its own fraction of
    /// a second, for eight minutes: each due time once.
    #[test]
    fn a_due_time_is_taken_once_whoever_asks() {
        let start = at("2027-01-01T00:00:00.700Z");
        let mut agenda = Agenda::new(times("0 */2 * * * *", Tz::UTC), start);
        let mut taken = Vec::new();
        for step in 0..4800_u32 {
            let now = start.plus(Duration::from_millis(100) * step);
            if step % 10 == 3 {
                taken.extend(agenda.take(now, Duration::ZERO).map(|due| due.at));
            }
            if step % 200 == 7 {
                let overdue = agenda.take(now, Duration::from_secs(60));
                assert!(overdue.is_none(), "the watch found {overdue:?} while the timer works");
            }
        }
        let due = [2, 4, 6, 8].map(|minute| at(&format!("2027-01-01T00:0{minute}:00Z")));
        assert_eq!(taken, due);
    }

    #[test]
    fn where_the_timer_stops_the_watch_takes_what_is_due_and_once() {
        let start = at("2027-01-01T00:00:00Z");
        let mut agenda = Agenda::new(times("0 0 3 * * *", Tz::UTC), start);
        let patience = Duration::from_secs(60);
        assert!(agenda.take(at("2027-01-01T03:00:59Z"), patience).is_none());
        let due = agenda.take(at("2027-01-01T03:01:00Z"), patience).unwrap();
        assert_eq!(due.at, at("2027-01-01T03:00:00Z"));
        assert!(agenda.take(at("2027-01-01T03:01:01Z"), Duration::ZERO).is_none());
        // What could not be started is due again.
        agenda.give_back(&due);
        assert_eq!(agenda.next(), Some(at("2027-01-01T03:00:00Z")));
        assert!(agenda.take(at("2027-01-01T03:01:02Z"), Duration::ZERO).is_some());
        assert_eq!(agenda.next(), Some(at("2027-01-02T03:00:00Z")));
    }

    #[test]
    fn a_clock_that_is_set_brings_no_run_twice_and_loses_none() {
        let mut agenda = Agenda::new(times("0 0 3 * * *", Tz::UTC), at("2027-01-01T00:00:00Z"));
        assert!(agenda.take(at("2027-01-01T03:10:00Z"), Duration::ZERO).is_some());
        // Back an hour: the same due time passes once more.
        assert!(agenda.take(at("2027-01-01T03:00:00Z"), Duration::ZERO).is_none());
        // Ahead by days: one run for all that was due.
        assert!(agenda.take(at("2027-01-05T12:00:00Z"), Duration::ZERO).is_some());
        assert!(agenda.take(at("2027-01-05T12:00:01Z"), Duration::ZERO).is_none());
        // Back by days: the clock was wrong before, and the schedule goes on.
        assert!(agenda.take(at("2027-01-02T00:00:00Z"), Duration::ZERO).is_none());
        assert!(agenda.take(at("2027-01-02T03:00:00Z"), Duration::ZERO).is_some());
    }

    proptest! {
        /// Whenever it is asked, the next due time is later, on a whole second, and
        /// none lies between; in every zone and every season.
        #[test]
        fn nothing_is_due_between_now_and_the_next(
            millis in 1_700_000_000_000_i64..1_900_000_000_000,
            zone in prop::sample::select(vec![
                Tz::UTC, Tz::Europe__Berlin, Tz::America__New_York, Tz::Australia__Lord_Howe,
                Tz::Africa__Cairo, Tz::America__Santiago, Tz::Pacific__Apia,
            ]),
            expression in prop::sample::select(vec![
                "0 0 3 * * *", "0 30 2 * * *", "0 */2 * * * *", "0 15 * * * *", "0 0 */6 * * *",
            ]),
            part in 0.0..1.0_f64,
        ) {
            let times = times(expression, zone);
            let now = Timestamp(millis);
            let next = times.after(now).unwrap();
            prop_assert!(next > now && next.0 % 1000 == 0);
            // Two days at most, also over a gap.
            prop_assert!(next.since(now) <= Duration::from_secs(2 * 86_400));
            let between = now.plus(next.since(now).mul_f64(part));
            if between < next {
                prop_assert_eq!(times.after(between), Some(next));
            }
        }
    }
}
