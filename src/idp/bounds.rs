//! How often something may be done: so many times at once, and then one more
//! after each pause. Pure; what it cost in vain can be given back.

use std::time::Duration;

use crate::clock::Instant;

/// A rate with its burst.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    /// How many in a row.
    pub(super) burst: u32,
    /// After how long there is one more.
    pub(super) every: Duration,
}

/// What is left of a rate. A new one is full.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Allowance {
    /// When it will be full again; the past when it is.
    full_at: Option<Instant>,
}

impl Allowance {
    /// Takes one, if there is one.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        if full_at.plus(rate.every).since(now) > rate.every.saturating_mul(rate.burst) {
            return false;
        }
        self.full_at = Some(full_at.plus(rate.every));
        true
    }

    /// Gives one back: it served its purpose.
    pub(super) fn give_back(&mut self, rate: Rate) {
        self.full_at = self.full_at.map(|at| at.minus(rate.every));
    }

    /// How long until there is one.
    pub(super) fn wait(&self, rate: Rate, now: Instant) -> Duration {
        let Some(full_at) = self.full_at else { return Duration::ZERO };
        full_at.plus(rate.every).since(now).saturating_sub(rate.every.saturating_mul(rate.burst))
    }

    /// Whether all of it is there, so that it need not be remembered.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { burst: 3, every: Duration::from_secs(10) };

    #[test]
    fn a_burst_is_had_at_once_and_then_one_after_each_pause() {
        let (mut allowance, mut now) = (Allowance::default(), Instant::ZERO);
        for _ in 0..3 {
            assert!(allowance.take(RATE, now));
        }
        assert!(!allowance.take(RATE, now));
        assert_eq!(allowance.wait(RATE, now), Duration::from_secs(10));
        now = now.plus(Duration::from_secs(10));
        assert!(allowance.take(RATE, now));
        assert!(!allowance.take(RATE, now));
        allowance.give_back(RATE);
        assert!(allowance.take(RATE, now), "what was given back is there again");
        assert!(!allowance.is_full(now.plus(Duration::from_secs(29))));
        assert!(allowance.is_full(now.plus(Duration::from_secs(30))));
    }

    proptest! {
        /// However it is asked, over any span no more than the burst and one for each
        /// pause are had.
        #[test]
        fn no_more_is_had_than_the_rate_says(steps in prop::collection::vec(0..30_000_u64, 1..200)) {
            let (mut allowance, mut now, mut had) = (Allowance::default(), Instant::ZERO, Vec::new());
            for step in steps {
                now = now.plus(Duration::from_millis(step));
                let wait = allowance.wait(RATE, now);
                let taken = allowance.take(RATE, now);
                prop_assert_eq!(taken, wait.is_zero());
                if taken {
                    had.push(now);
                }
            }
            for (n, first) in had.iter().enumerate() {
                for (m, last) in had.iter().enumerate().skip(n) {
                    let allowed = u64::from(RATE.burst) + last.since(*first).as_secs() / RATE.every.as_secs();
                    prop_assert!((m - n + 1) as u64 <= allowed);
                }
            }
        }
    }
}
