//! Time without a bound. All moments are kept relative to [`NOW`]; a tick makes
//! everything older by [`TICK`], and what is older than three ticks stays that
//! old, past every deadline there is. So one tick after commit 1 it is too late
//! to send and a client assertion still lives; after two ticks the hard limit
//! has passed, and the assertion too where the provider's tolerance is the usual
//! one; after three ticks it has passed in any case.

use std::time::Duration;

use obo_vault::clock::Timestamp;
use obo_vault::domain::grant::{Attempt, GrantState};

use super::{Doing, World};

/// The present moment, always.
pub(super) const NOW: Timestamp = Timestamp(1_000_000_000);

/// More than half the hard limit and less than a client assertion's life.
pub(super) const TICK: Duration = Duration::from_secs(63);

impl World {
    /// A tick passes.
    pub(super) fn grow_older(&mut self) {
        match &mut self.row.grant {
            GrantState::Sending(attempt) => age_attempt(attempt),
            GrantState::InDoubt { attempt, probe_after, .. } => {
                age_attempt(attempt);
                age(probe_after);
            }
            GrantState::Active
            | GrantState::Revoked
            | GrantState::Lost { .. }
            | GrantState::Reauth { .. } => {}
        }
        if let Some(until) = &mut self.row.not_before {
            age(until);
        }
        for replica in &mut self.replicas {
            match &mut replica.doing {
                Doing::Nothing => {}
                Doing::Prepared(f) | Doing::Waiting(f) | Doing::Received(f, _) => age_attempt(&mut f.attempt),
            }
        }
        self.requests = std::mem::take(&mut self.requests)
            .into_iter()
            .map(|mut request| {
                request.expires.iter_mut().for_each(age);
                request
            })
            .collect();
        for family in &mut self.provider.families {
            age(&mut family.rotated_at);
        }
    }
}

/// As long ago as anything gets.
pub(super) fn oldest() -> Timestamp {
    NOW.minus(TICK * 3)
}

fn age_attempt(attempt: &mut Attempt) {
    age(&mut attempt.started_at);
    age(&mut attempt.in_use_since);
    if let Some(fenced_at) = &mut attempt.fenced_at {
        age(fenced_at);
    }
    if let Some(overtakes) = &mut attempt.overtakes {
        age(overtakes);
    }
}

fn age(moment: &mut Timestamp) {
    *moment = moment.minus(TICK).max(oldest());
}
