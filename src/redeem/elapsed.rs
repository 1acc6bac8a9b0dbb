//! How long an unknown outcome is left alone: as long as its request may still
//! arrive, and at a strict provider as long as an access token is served.
//!
//! `probe_after` is on disk and so has the wall clock's time: one that leaps an
//! hour ahead would end the wait for a forgotten request at once. Where the
//! attempt was this process's own it knows better, by the clock that cannot be set.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Instant, Timestamp};
use crate::domain::grant::{AttemptId, Grant, GrantState};
use crate::domain::profile::Reuse;
use crate::domain::protocol::bounds::harmless_after;
use crate::idp::Client;

/// A strict provider is not asked about an unknown outcome while an access token
/// in memory lives at least this much longer.
const NEARLY_OVER: Duration = Duration::from_secs(300);
/// How long a claim is remembered: longer than any request stays dangerous.
const REMEMBERED_FOR: Duration = Duration::from_secs(2 * 3600);
/// From how many claims on the old ones are looked for.
const MANY: usize = 1024;

/// The claims that this process made; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnClaims {
    made: Arc<Mutex<Made>>,
}

#[derive(Debug, Default)]
struct Made {
    at: HashMap<AttemptId, Instant>,
    /// At how many the old ones go next.
    sweep_at: usize,
}

impl OwnClaims {
    /// A claim was made.
    pub(super) fn note(&self, attempt: AttemptId, at: Instant) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.at.insert(attempt, at);
        if made.at.len() >= made.sweep_at.max(MANY) {
            made.at.retain(|_, made| at.since(*made) < REMEMBERED_FOR);
            made.sweep_at = made.at.len() * 2;
        }
    }

    /// Its outcome is known.
    pub(super) fn forget(&self, attempt: AttemptId) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).at.remove(&attempt);
    }

    /// How long an unknown outcome has still to be left alone, whatever the wall
    /// clock says; zero where nothing is known of it but what is on disk.
    pub(super) fn wait(&self, state: &GrantState, now: Instant) -> Duration {
        let GrantState::InDoubt { attempt, cause, probe_after } = state else { return Duration::ZERO };
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner).at.get(&attempt.id).copied();
        let Some(made) = made.filter(|_| cause.may_be_under_way()) else { return Duration::ZERO };
        let due = harmless_after(attempt).min(*probe_after).since(attempt.started_at);
        due.saturating_sub(now.since(made))
    }
}

/// How long an unknown outcome has to wait for what is in memory.
pub(super) fn wait_for_served(
    client: &Client,
    grant: &Grant,
    served_until: Option<Timestamp>,
    now: Timestamp,
) -> Option<Duration> {
    let GrantState::InDoubt { cause, .. } = &grant.state else { return None };
    if client.profile().reuse != Reuse::Strict || !cause.may_be_under_way() {
        return None;
    }
    let wait = served_until?.minus(NEARLY_OVER).since(now);
    (!wait.is_zero()).then_some(wait)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::grant::{Asks, Attempt, Epoch, InDoubtCause, Owner};

    const SECOND: Duration = Duration::from_secs(1);

    fn attempt(n: u128) -> Attempt {
        Attempt {
            id: AttemptId(Uuid::from_u128(n)),
            epoch: Epoch(0),
            owner: Owner(Uuid::nil()),
            asks: Asks::Grant,
            started_at: Timestamp(1_000_000),
            in_use_since: Timestamp(1_000_000),
            fenced_at: None,
            follows: None,
            overtakes: None,
        }
    }

    fn unknown(attempt: Attempt, cause: InDoubtCause, after: Duration) -> GrantState {
        let probe_after = attempt.started_at.plus(after);
        GrantState::InDoubt { attempt, cause, probe_after }
    }

    #[test]
    fn an_unknown_outcome_waits_by_the_clock_that_cannot_be_set() {
        let (claims, made) = (OwnClaims::default(), Instant::ZERO.plus(SECOND * 1000));
        let state = unknown(attempt(1), InDoubtCause::Interrupted, SECOND * 125);
        assert_eq!(claims.wait(&state, made), Duration::ZERO, "another process made it");
        claims.note(attempt(1).id, made);
        assert_eq!(claims.wait(&state, made.plus(SECOND * 25)), SECOND * 100);
        assert_eq!(claims.wait(&state, made.plus(SECOND * 125)), Duration::ZERO);
        // A probe inside a grace window comes early, and a long pause is no danger.
        let early = unknown(attempt(1), InDoubtCause::Interrupted, SECOND);
        assert_eq!(claims.wait(&early, made.plus(SECOND)), Duration::ZERO);
        let late = unknown(attempt(1), InDoubtCause::Interrupted, SECOND * 9000);
        assert_eq!(claims.wait(&late, made.plus(SECOND * 125)), Duration::ZERO);
        // A refused choice leaves nothing under way.
        let refused = unknown(attempt(1), InDoubtCause::TargetRefused, SECOND * 60);
        assert_eq!(claims.wait(&refused, made), Duration::ZERO);
        claims.forget(attempt(1).id);
        assert_eq!(claims.wait(&state, made), Duration::ZERO);
    }

    #[test]
    fn what_is_remembered_is_bounded_by_what_is_recent() {
        let claims = OwnClaims::default();
        for n in 0..10_000_u32 {
            claims.note(attempt(n.into()).id, Instant::ZERO.plus(SECOND * 10 * n));
        }
        let held = claims.made.lock().unwrap().at.len();
        assert!(held <= 2 * MANY, "{held}");
    }
}
