//! Refusals of which nothing was done, counted rather than repeated: a caller
//! who floods the vault with what it may not do shall not fill its disk.
//!
//! For each caller and reason the first few of an interval have a line each, and
//! what follows has one together, with its number. The memory is bounded
//! whoever calls: beyond so many callers the rest are counted together.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Instant;
use crate::domain::id::CallerId;
use crate::domain::reason::Reason;

/// Lines that one caller has for one reason in an interval.
pub(super) const LINES: u64 = 10;
/// How long an interval is.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// Callers and reasons that are told apart in an interval.
const TOLD_APART: usize = 1024;

/// How a refusal was written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// As a line of its own.
    InFull,
    /// As one more of those that share a line.
    Counted,
}

/// The refusals of an interval.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// When its first one was.
    since: Option<Instant>,
    counts: HashMap<Key, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) by: By,
    pub(super) reason: Reason,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum By {
    Caller(CallerId),
    /// Whoever has no identity.
    Nobody,
    /// All beyond those that are told apart.
    Others,
}

impl Refusals {
    /// Counts one.
    pub(super) fn count(&mut self, caller: Option<&CallerId>, reason: Reason, now: Instant) -> Spelling {
        self.since.get_or_insert(now);
        let by = caller.map_or(By::Nobody, |caller| By::Caller(caller.clone()));
        let mut key = Key { by, reason };
        if self.counts.len() >= TOLD_APART && !self.counts.contains_key(&key) {
            key.by = By::Others;
        }
        let count = self.counts.entry(key).or_insert(0);
        *count = count.saturating_add(1);
        if *count <= LINES { Spelling::InFull } else { Spelling::Counted }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Whether the interval has ended.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now.since(since) >= INTERVAL)
    }

    /// Ends the interval: who was counted without a line, and how often.
    pub(super) fn end(&mut self) -> impl Iterator<Item = (Key, u64)> + use<> {
        self.since = None;
        let counts = std::mem::take(&mut self.counts).into_iter();
        counts.filter(|(_, count)| *count > LINES).map(|(key, count)| (key, count - LINES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    use crate::clock::{Clock as _, ShiftedClock};

    fn caller(n: usize) -> CallerId {
        CallerId::new(&format!("spiffe://acme/{n}")).unwrap()
    }

    #[test]
    fn an_interval_begins_with_its_first_refusal_and_ends() {
        let clock = ShiftedClock::new();
        let mut refusals = Refusals::default();
        assert!(!refusals.is_over(clock.instant()));
        refusals.count(None, Reason::CallerUnidentified, clock.instant());
        assert!(!refusals.is_over(clock.instant()));
        clock.advance(INTERVAL);
        assert!(refusals.is_over(clock.instant()));
        assert_eq!(refusals.end().count(), 0, "its one refusal has a line");
        assert!(refusals.is_empty() && !refusals.is_over(clock.instant()));
    }

    proptest! {
        /// Whoever calls how often: each refusal has a line or is counted, once,
        /// and one caller's flood takes no line from another.
        #[test]
        fn every_refusal_is_accounted_for(calls in prop::collection::vec((0usize..4, any::<bool>()), 0..300)) {
            let now = ShiftedClock::new().instant();
            let mut refusals = Refusals::default();
            let mut lines = HashMap::<_, u64>::new();
            let mut all = HashMap::<_, u64>::new();
            for (who, permitted) in calls {
                let reason = if permitted { Reason::InvalidRequest } else { Reason::NotPermitted };
                // The last is nobody.
                let id = (who < 3).then(|| caller(who));
                let spelling = refusals.count(id.as_ref(), reason, now);
                *all.entry((id.clone(), reason)).or_default() += 1;
                *lines.entry((id, reason)).or_default() += u64::from(spelling == Spelling::InFull);
            }
            for (key, lines) in &lines {
                prop_assert_eq!(*lines, all[key].min(LINES));
            }
            let counted: u64 = refusals.end().map(|(_, count)| count).sum();
            prop_assert_eq!(lines.values().sum::<u64>() + counted, all.values().sum::<u64>());
        }
    }

    #[test]
    fn any_number_of_callers_needs_no_more_memory_and_none_goes_uncounted() {
        let now = ShiftedClock::new().instant();
        let mut refusals = Refusals::default();
        let calls = 3 * TOLD_APART;
        let lines = (0..calls)
            .filter(|n| refusals.count(Some(&caller(*n)), Reason::NotPermitted, now) == Spelling::InFull)
            .count();
        assert_eq!(refusals.counts.len(), TOLD_APART + 1);
        let ended: Vec<(Key, u64)> = refusals.end().collect();
        assert_eq!(ended.len(), 1);
        assert_eq!(ended[0].0.by, By::Others);
        assert_eq!(u64::try_from(lines).unwrap() + ended[0].1, u64::try_from(calls).unwrap());
    }
}
