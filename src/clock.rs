//! The only place that reads the time (invariant 7). Everything else is given
//! a [`Clock`], or the time itself.
//!
//! There are two clocks. The wall clock says what the time is, and anybody may set
//! it; the monotonic clock says how much time has passed, and nobody can. What is
//! written to disk has the wall clock's time, for no other outlives a process.
//! What ends within a process ends by the monotonic clock; what others were told
//! of by the wall clock, as the end of an access token, ends by the one that comes
//! first ([`Deadline`]).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// A timestamp: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// This time and `span` more; saturates.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This time and `span` less; saturates.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long from `earlier` to this time; zero when it is not later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Whole seconds since 1970, as tokens carry them.
    #[must_use]
    pub fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

/// RFC 3339 in UTC with milliseconds.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match chrono::DateTime::from_timestamp_millis(self.0) {
            Some(t) => write!(f, "{}", t.format("%Y-%m-%dT%H:%M:%S%.3fZ")),
            None => write!(f, "{}ms", self.0),
        }
    }
}

/// A reading of a clock that never goes back and is not set, and goes on while
/// the machine is suspended where the system has such a clock; for deadlines within
/// one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    /// The earliest reading there is.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// This reading and `span` more.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }

    /// This reading and `span` less; never before the earliest one.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span))
    }

    /// How long from `earlier` to this reading; zero when it is not later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// The monotonic clock.
    fn instant(&self) -> Instant;
    /// Both clocks.
    fn both(&self) -> Reading {
        Reading { now: self.now(), instant: self.instant() }
    }
}

/// Both clocks, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock.
    pub now: Timestamp,
    /// The monotonic clock.
    pub instant: Instant,
}

impl Reading {
    /// This reading and `span` more.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self { now: self.now.plus(span), instant: self.instant.plus(span) }
    }

    /// The deadline `span` from this reading.
    #[must_use]
    pub fn deadline(self, span: Duration) -> Deadline {
        Deadline(self.plus(span))
    }
}

/// An end on both clocks; it has come when either says so. A clock that is set
/// back brings nothing back that has ended, and one that is set ahead ends what it
/// says has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(Reading);

impl Deadline {
    /// Whether it has passed at `at`.
    #[must_use]
    pub fn has_passed(self, at: Reading) -> bool {
        at.now >= self.0.now || at.instant >= self.0.instant
    }

    /// How long from `at` until then; zero when it has passed.
    #[must_use]
    pub fn left(self, at: Reading) -> Duration {
        self.0.now.since(at.now).min(self.0.instant.since(at.instant))
    }

    /// When it comes by the wall clock as that goes at `at`.
    #[must_use]
    pub fn by_wall_clock(self, at: Reading) -> Timestamp {
        self.0.now.min(at.now.plus(self.left(at)))
    }
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    #[cfg(not(target_os = "linux"))]
    start: std::time::Instant,
}

impl SystemClock {
    /// The machine's clocks.
    #[must_use]
    #[cfg_attr(
        not(target_os = "linux"),
        expect(clippy::disallowed_methods, reason = "the one home of the ambient clock")
    )]
    pub fn new() -> Self {
        Self {
            #[cfg(not(target_os = "linux"))]
            start: std::time::Instant::now(),
        }
    }

    /// The machine's clocks, shared.
    #[must_use]
    pub fn shared() -> SharedClock {
        Arc::new(Self::new())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one home of the ambient clock")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// The time since the machine started, suspension included: a token does not
    /// live longer for having slept.
    #[cfg(target_os = "linux")]
    fn instant(&self) -> Instant {
        use rustix::time::{ClockId, clock_gettime};

        let since = clock_gettime(ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(since.tv_sec), u32::try_from(since.tv_nsec));
        Instant(Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default()))
    }

    #[cfg(not(target_os = "linux"))]
    fn instant(&self) -> Instant {
        Instant(self.start.elapsed())
    }
}

/// A clock that tests and the demonstration move by hand, on top of the machine's
/// own. Time that passes moves both readings; the wall can be set alone.
#[derive(Debug, Default)]
pub struct ShiftedClock {
    system: SystemClock,
    shift_millis: AtomicI64,
    wall_set_millis: AtomicI64,
}

impl ShiftedClock {
    /// A clock that shows the machine's time until it is moved.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the clock ahead.
    pub fn advance(&self, span: Duration) {
        self.shift_millis.fetch_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Sets the wall clock ahead, as an operator or a time server does: no time
    /// passes.
    pub fn set_wall_ahead(&self, span: Duration) {
        self.wall_set_millis.fetch_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Sets the wall clock back.
    pub fn set_wall_back(&self, span: Duration) {
        self.wall_set_millis.fetch_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    fn shift(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.shift_millis.load(Ordering::SeqCst)).unwrap_or(0))
    }
}

impl Clock for ShiftedClock {
    fn now(&self) -> Timestamp {
        let Timestamp(passed) = self.system.now().plus(self.shift());
        Timestamp(passed.saturating_add(self.wall_set_millis.load(Ordering::SeqCst)))
    }

    fn instant(&self) -> Instant {
        self.system.instant().plus(self.shift())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_as_rfc_3339() {
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Timestamp(1_700_000_000_123).to_string(), "2023-11-14T22:13:20.123Z");
    }

    #[test]
    fn a_deadline_comes_by_the_clock_that_is_first_there() {
        let clock = ShiftedClock::new();
        let deadline = clock.both().deadline(Duration::from_secs(60));
        clock.advance(Duration::from_secs(30));
        assert!(!deadline.has_passed(clock.both()));
        assert!(deadline.left(clock.both()) <= Duration::from_secs(30));
        // Set back: what is left is what has not passed, and the wall's time for
        // it is the wall's own.
        clock.set_wall_back(Duration::from_secs(3600));
        let (now, end) = (clock.both(), deadline.by_wall_clock(clock.both()));
        assert!(deadline.left(now) <= Duration::from_secs(30));
        assert!(end <= now.now.plus(Duration::from_secs(30)));
        clock.advance(Duration::from_secs(30));
        assert!(deadline.has_passed(clock.both()));
        assert_eq!(deadline.left(clock.both()), Duration::ZERO);
        // Set ahead: it has passed by the wall.
        let deadline = clock.both().deadline(Duration::from_secs(60));
        clock.set_wall_ahead(Duration::from_secs(61));
        assert!(deadline.has_passed(clock.both()));
    }

    #[test]
    fn setting_the_wall_leaves_the_monotonic_clock_alone() {
        let clock = ShiftedClock::new();
        let before = clock.both();
        clock.set_wall_ahead(Duration::from_secs(7200));
        clock.set_wall_back(Duration::from_secs(3600));
        let after = clock.both();
        assert!(after.now.since(before.now) >= Duration::from_secs(3600));
        assert!(after.instant.since(before.instant) < Duration::from_secs(60));
        clock.advance(Duration::from_secs(60));
        assert!(clock.instant().since(before.instant) >= Duration::from_secs(60));
    }

    /// The time since the machine started, and not that of the process.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_monotonic_clock_is_that_of_the_machine() {
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        let up: f64 = text.split(' ').next().unwrap().parse().unwrap();
        let Instant(since) = SystemClock::new().instant();
        assert!((since.as_secs_f64() - up).abs() < 5.0, "{since:?} against {up}");
    }

    #[test]
    fn a_span_to_the_past_is_zero() {
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
        assert_eq!(Timestamp(9).since(Timestamp(5)), Duration::from_millis(4));
    }
}
