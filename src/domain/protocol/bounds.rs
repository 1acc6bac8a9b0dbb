//! The protocol's times (docs/REFRESH.md, "Bounds").

use std::time::Duration;

use crate::clock::Timestamp;
use crate::domain::grant::{Asks, Attempt, InDoubtCause};
use crate::domain::profile::{Profile, Reuse};

/// How long an exchange may run, counted from its claim, whatever its caller
/// does (rule 3).
pub const HARD_LIMIT: Duration = Duration::from_secs(120);

/// How long after the claim the first byte may still be written (rule 3).
pub const SEND_WITHIN: Duration = Duration::from_secs(10);

/// What is added to the time from which a forgotten request is harmless: clocks
/// differ.
pub const PROBE_MARGIN: Duration = Duration::from_secs(5);

/// Pause after a failure that leaves the token good.
pub const BACK_OFF: Duration = Duration::from_secs(5);

/// Longest pause while a provider answers nothing that helps.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(4 * 3600);

/// Longest pause while a provider cannot be reached, fails, or rejects the
/// vault's credentials: somebody repairs that, and then it must go on soon.
pub const LONGEST_OUTAGE_PAUSE: Duration = Duration::from_secs(15 * 60);

/// How many unhelpful answers in a row are an alert, and a state of their own in
/// the listings.
pub const UNHELPFUL_ALERT: u32 = 3;

/// How soon a provider with a grace window is asked again.
const GRACE_PROBE_DELAY: Duration = Duration::from_secs(1);

/// Until when a request of the attempt may still reach the provider and be
/// accepted there.
#[must_use]
pub fn harmless_after(attempt: &Attempt) -> Timestamp {
    let ended = attempt.started_at.plus(HARD_LIMIT);
    attempt.fenced_at.map_or(ended, |fenced| fenced.max(ended)).plus(PROBE_MARGIN)
}

/// From when on the token may be tried again (rule 7), at a provider that minds
/// a second use.
pub(super) fn probe_after(
    attempt: &Attempt,
    pause: Duration,
    profile: &Profile,
    now: Timestamp,
) -> Timestamp {
    match profile.reuse {
        Reuse::Grace { window } => {
            let early = now.plus(GRACE_PROBE_DELAY);
            if early < attempt.in_use_since.plus(window) { early } else { paused(attempt, pause, now) }
        }
        Reuse::Strict | Reuse::Tolerated => paused(attempt, pause, now),
    }
}

/// The first probe comes as soon as the request is harmless; each that learns
/// nothing doubles the pause before the next.
fn paused(attempt: &Attempt, pause: Duration, now: Timestamp) -> Timestamp {
    let harmless = harmless_after(attempt);
    if attempt.epoch.0 == 0 { harmless } else { harmless.max(now.plus(pause)) }
}

/// The pause after the `unhelpful`-th answer in a row that says nothing: `first`,
/// doubled each time, `longest` at most.
pub(super) fn growing(first: Duration, unhelpful: u32, longest: Duration) -> Duration {
    let doublings = unhelpful.saturating_sub(1).min(16);
    first.saturating_mul(1 << doublings).min(longest)
}

/// The pause before the next probe.
pub(super) fn probe_pause(unhelpful: u32, longest: Duration) -> Duration {
    growing(HARD_LIMIT + PROBE_MARGIN, unhelpful, longest)
}

/// Whether an early probe was planned and its window has closed since.
pub(super) fn too_late_for_grace(
    attempt: &Attempt,
    cause: InDoubtCause,
    profile: &Profile,
    now: Timestamp,
) -> bool {
    match profile.reuse {
        Reuse::Grace { window } => {
            cause.may_be_under_way()
                && now >= attempt.in_use_since.plus(window)
                && now <= harmless_after(attempt)
        }
        Reuse::Strict | Reuse::Tolerated => false,
    }
}

/// Until when a request before an attempt that is made now may still be taken.
/// Redeemed once more before then, the token would be two old when it arrives,
/// and a grace window covers one.
pub(super) fn overtaken(attempt: &Attempt, cause: InDoubtCause, now: Timestamp) -> Option<Timestamp> {
    let own = Some(harmless_after(attempt)).filter(|_| cause.may_be_under_way());
    own.max(attempt.overtakes).filter(|until| *until >= now)
}

/// Whether a refusal binds what a caller chose, and not the grant.
pub(super) fn binds_target_alone(attempt: &Attempt) -> bool {
    attempt.asks == Asks::Target
}
