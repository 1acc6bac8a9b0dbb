//! How an attempt ended, and what that proves (docs/REFRESH.md, "What an answer
//! proves").

use std::time::Duration;

use crate::clock::Timestamp;
use crate::domain::grant::{Attempt, GrantState, InDoubtCause};
use crate::domain::profile::{Profile, Reuse};

use super::bounds::{
    BACK_OFF, HARD_LIMIT, LONGEST_OUTAGE_PAUSE, LONGEST_PAUSE, UNHELPFUL_ALERT, binds_target_alone, growing,
    probe_after, probe_pause,
};
use super::{Advanced, Alert, AttemptRef, End, Refused, Says, State};

/// What the state becomes when an attempt has ended. Nothing is refused, and the
/// same end may be told any number of times.
#[must_use]
pub fn advance(state: &State, of: &AttemptRef, end: &End, profile: &Profile, now: Timestamp) -> Advanced {
    if state.lineage != of.lineage {
        return match end {
            End::Answered { .. } => Advanced::Orphaned,
            End::Unsent | End::Interrupted | End::OwnerDied(_) | End::Refused(_) => Advanced::Late,
        };
    }
    if state.last_attempt == Some(of.attempt) {
        return Advanced::Repeated;
    }
    if let End::Answered { renewed } = end {
        return answered(state, of, *renewed);
    }
    match &state.grant {
        GrantState::Sending(attempt) if attempt.id == of.attempt => {
            Ended { state, attempt, profile, now }.without_tokens(end)
        }
        GrantState::InDoubt { attempt, .. } if attempt.id == of.attempt => Advanced::Repeated,
        GrantState::Active
        | GrantState::Sending(_)
        | GrantState::InDoubt { .. }
        | GrantState::Revoked
        | GrantState::Lost { .. }
        | GrantState::Reauth { .. } => Advanced::Late,
    }
}

fn answered(state: &State, of: &AttemptRef, renewed: bool) -> Advanced {
    let generation = if renewed { of.generation.next() } else { of.generation };
    match &state.grant {
        GrantState::Sending(attempt) | GrantState::InDoubt { attempt, .. } if attempt.id == of.attempt => {
            Advanced::Moved {
                state: State {
                    generation,
                    grant: GrantState::Active,
                    not_before: attempt.overtakes,
                    last_attempt: Some(attempt.id),
                    unhelpful: 0,
                    lineage: state.lineage,
                },
                alert: None,
            }
        }
        // Whoever came after: what this answer brought is durable, or a
        // descendant of it is.
        GrantState::Active
        | GrantState::Sending(_)
        | GrantState::InDoubt { .. }
        | GrantState::Revoked
        | GrantState::Lost { .. }
        | GrantState::Reauth { .. } => {
            if state.generation >= generation {
                Advanced::Repeated
            } else {
                Advanced::Late
            }
        }
    }
}

/// An attempt that owns the token and brought none.
struct Ended<'a> {
    state: &'a State,
    attempt: &'a Attempt,
    profile: &'a Profile,
    now: Timestamp,
}

impl Ended<'_> {
    fn without_tokens(&self, end: &End) -> Advanced {
        match end {
            End::Unsent => self.unused(Some(BACK_OFF), self.state.unhelpful, None),
            End::Interrupted => self.unknown(InDoubtCause::Interrupted, Silence::Outage, None),
            End::OwnerDied(owner) if *owner == self.attempt.owner => {
                self.unknown(InDoubtCause::OwnerDied, Silence::Outage, None)
            }
            // Nothing is proven of the owner that holds it now.
            End::OwnerDied(_) | End::Answered { .. } => Advanced::Late,
            End::Refused(refused) => self.refused(refused),
        }
    }

    fn refused(&self, refused: &Refused) -> Advanced {
        if binds_target_alone(self.attempt) {
            return self.target_refused(refused);
        }
        match &refused.says {
            Says::InvalidGrant => self.dead(),
            Says::Interaction { claims, error, suberror } => {
                self.ended(GrantState::Reauth { claims: claims.clone(), error, suberror }, None)
            }
            Says::ClientRejected => self.silent(refused, Silence::Outage, InDoubtCause::ClientRejected),
            Says::Outage => self.silent(refused, Silence::Outage, InDoubtCause::AmbiguousAnswer),
            Says::Nothing => self.silent(refused, Silence::Unhelpful, InDoubtCause::AmbiguousAnswer),
        }
    }

    /// A refusal of what a caller chose. It never ends the grant.
    fn target_refused(&self, refused: &Refused) -> Advanced {
        let unhelpful = self.state.unhelpful;
        // Nobody else waits for one caller's choice; a pause that the provider
        // asks for on its own behalf is kept all the same.
        let pause = refused.retry_after.filter(|_| refused.says == Says::Outage);
        if refused.proves_unused || self.profile.reuse == Reuse::Tolerated {
            let alert = (refused.says == Says::ClientRejected).then_some(Alert::ClientRejected);
            return self.unused(pause, unhelpful, alert);
        }
        if !refused.complete {
            // Not the provider's own word.
            return self.unknown(InDoubtCause::AmbiguousAnswer, Silence::Outage, refused.retry_after);
        }
        let cause = match refused.says {
            Says::InvalidGrant => InDoubtCause::TargetCalledInvalid,
            Says::Interaction { .. } | Says::ClientRejected | Says::Outage | Says::Nothing => {
                InDoubtCause::TargetRefused
            }
        };
        let grant = GrantState::InDoubt {
            attempt: self.attempt.clone(),
            cause,
            probe_after: self.now.plus(pause.unwrap_or_default().min(HARD_LIMIT)),
        };
        self.moved(grant, None, unhelpful, None)
    }

    /// The provider calls the token dead, asked for the grant itself. After an
    /// unknown outcome the vault lost it; a refusal that had called it dead
    /// already is no unknown outcome.
    fn dead(&self) -> Advanced {
        match self.attempt.follows {
            None | Some(InDoubtCause::TargetCalledInvalid) => self.ended(GrantState::Revoked, None),
            Some(cause) => self.ended(GrantState::Lost { cause }, Some(Alert::Lost(cause))),
        }
    }

    /// An answer that says nothing of the token.
    fn silent(&self, refused: &Refused, silence: Silence, cause: InDoubtCause) -> Advanced {
        let loud = (cause == InDoubtCause::ClientRejected).then_some(Alert::ClientRejected);
        if refused.proves_unused {
            let unhelpful = silence.count(self.state.unhelpful);
            let pause = refused.retry_after.unwrap_or_else(|| silence.pause(unhelpful));
            self.unused(Some(pause), unhelpful, loud.or(silence.alert(unhelpful)))
        } else {
            let mut advanced = self.unknown(cause, silence, refused.retry_after);
            if let (Advanced::Moved { alert, .. }, Some(loud)) = (&mut advanced, loud) {
                *alert = Some(loud);
            }
            advanced
        }
    }

    /// The request is proven to have used nothing. That says nothing of the
    /// attempt it followed: an outcome that was unknown stays so.
    fn unused(&self, pause: Option<Duration>, unhelpful: u32, alert: Option<Alert>) -> Advanced {
        match self.attempt.follows {
            None => {
                let until = pause.filter(|p| !p.is_zero()).map(|p| self.now.plus(p));
                self.moved(GrantState::Active, until, unhelpful, alert)
            }
            Some(cause) => {
                let probe_after = self.now.plus(pause.unwrap_or(BACK_OFF));
                let grant = GrantState::InDoubt { attempt: self.attempt.clone(), cause, probe_after };
                self.moved(grant, None, unhelpful, alert)
            }
        }
    }

    fn unknown(&self, cause: InDoubtCause, silence: Silence, retry_after: Option<Duration>) -> Advanced {
        if self.profile.reuse == Reuse::Tolerated {
            // An old token stays valid there, so trying again costs nothing.
            if binds_target_alone(self.attempt) {
                return self.unused(retry_after, self.state.unhelpful, None);
            }
            let unhelpful = silence.count(self.state.unhelpful);
            let pause = retry_after.unwrap_or_else(|| silence.pause(unhelpful));
            return self.unused(Some(pause), unhelpful, silence.alert(unhelpful));
        }
        let unhelpful = silence.count(self.state.unhelpful);
        let pause = probe_pause(self.attempt.epoch.0, silence.longest()).max(retry_after.unwrap_or_default());
        let mut probe_after = probe_after(self.attempt, pause, self.profile, self.now);
        if let Some(asked) = retry_after {
            probe_after = probe_after.max(self.now.plus(asked));
        }
        // The first outcome that may have a request under way is the one to tell
        // of in the end.
        let cause = self.attempt.follows.filter(|first| first.may_be_under_way()).unwrap_or(cause);
        let grant = GrantState::InDoubt { attempt: self.attempt.clone(), cause, probe_after };
        self.moved(grant, None, unhelpful, silence.alert(unhelpful))
    }

    fn ended(&self, grant: GrantState, alert: Option<Alert>) -> Advanced {
        self.moved(grant, None, 0, alert)
    }

    fn moved(
        &self,
        grant: GrantState,
        not_before: Option<Timestamp>,
        unhelpful: u32,
        alert: Option<Alert>,
    ) -> Advanced {
        let stays_open = matches!(grant, GrantState::InDoubt { .. });
        let state = State {
            lineage: self.state.lineage,
            generation: self.state.generation,
            grant,
            not_before,
            last_attempt: if stays_open { self.state.last_attempt } else { Some(self.attempt.id) },
            unhelpful,
        };
        Advanced::Moved { state, alert }
    }
}

/// A kind of ending that says nothing of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Silence {
    /// Out of reach, failing, throttling: that passes.
    Outage,
    /// An answer that would be the same again.
    Unhelpful,
}

impl Silence {
    /// Outages are told by other means, and end by themselves.
    fn count(self, before: u32) -> u32 {
        match self {
            Self::Outage => before,
            Self::Unhelpful => before.saturating_add(1),
        }
    }

    fn pause(self, unhelpful: u32) -> Duration {
        match self {
            Self::Outage => BACK_OFF,
            Self::Unhelpful => growing(BACK_OFF, unhelpful, LONGEST_PAUSE),
        }
    }

    fn longest(self) -> Duration {
        match self {
            Self::Outage => LONGEST_OUTAGE_PAUSE,
            Self::Unhelpful => LONGEST_PAUSE,
        }
    }

    fn alert(self, unhelpful: u32) -> Option<Alert> {
        (self == Self::Unhelpful && unhelpful == UNHELPFUL_ALERT).then_some(Alert::Unhelpful)
    }
}
