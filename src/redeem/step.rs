//! The redemption protocol as one pure function.
//!
//! [`step`] takes what is known of a grant's refresh token and what has just
//! happened, and says what is known now and what has to be done. Production
//! and `tests/protocol_model.rs` run this function and no other.
//!
//! ```text
//! ACTIVE(g) ──claim: commit 1──────────────────▶ SENDING(g)
//! SENDING   ──proven unused────────────────────▶ ACTIVE(g), or back to the doubt it follows
//! SENDING   ──answer durable: commit 2─────────▶ ACTIVE(g+1)
//! SENDING   ──any doubt after the first byte───▶ IN_DOUBT
//! IN_DOUBT  ──late answer of the same attempt──▶ ACTIVE(g+1)
//! IN_DOUBT  ──now > probe_after────────────────▶ SENDING(g, epoch + 1)
//! invalid_grant on a first use ─▶ REVOKED        after a doubt ─▶ LOST
//! interaction required ─▶ REAUTH                 intake ─▶ ACTIVE(g+1), from any state
//! ```

use std::time::Duration;

use crate::clock::Timestamp;
use crate::domain::failure::Interaction;
use crate::domain::grant::{Attempt, AttemptId, DoubtCause, Epoch, Generation, GrantState};
use crate::domain::profile::{Profile, Reuse};

/// How long an exchange may run, whatever its caller does (rule 3).
pub const HARD_LIMIT: Duration = Duration::from_secs(120);

/// How long after commit 1 the first byte may still be written (rule 3).
pub const SEND_WITHIN: Duration = Duration::from_secs(10);

/// What is added to the moment from which a forgotten request is harmless:
/// clocks differ.
pub const PROBE_MARGIN: Duration = Duration::from_secs(5);

/// Pause after a failure that leaves the token good.
pub const BACK_OFF: Duration = Duration::from_secs(5);

/// How soon a provider with a grace window is asked again.
const GRACE_PROBE_DELAY: Duration = Duration::from_secs(1);

/// What is known of a grant's refresh token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// Its number.
    pub generation: Generation,
    /// What is known of it.
    pub grant: GrantState,
    /// No attempt before then.
    pub not_before: Option<Timestamp>,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// Somebody wants to redeem the token.
    Claim {
        /// Identifier of the attempt that would be made.
        attempt: AttemptId,
        /// When its `client_assertion` is dead at the provider.
        fenced_at: Option<Timestamp>,
    },
    /// No request byte was written: DNS, connect or TLS failed, or it was too
    /// late to send.
    Unsent(AttemptId),
    /// The connection broke, or the hard limit passed, after the first byte.
    Interrupted(AttemptId),
    /// The process that owned the attempt is dead and left no answer.
    OwnerDied(AttemptId),
    /// The provider answered without tokens.
    Refused(AttemptId, Refused),
    /// The provider's answer with tokens is durable.
    Answered {
        /// The attempt it answers.
        attempt: AttemptId,
        /// Whether it has a new refresh token; without one the old one stays.
        renewed: bool,
    },
    /// An intake put a new token in the grant's place.
    Replaced,
}

/// What an answer without tokens says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The token is dead.
    InvalidGrant,
    /// The user has to act.
    Interaction(InteractionFacts),
    /// The vault's own credentials were rejected.
    Client {
        /// Whether the profile takes it for proof that the token is unused.
        proves_unused: bool,
    },
    /// Anything else: throttled, unavailable, a scope, a redirect, nonsense.
    Other {
        /// Whether the profile takes it for proof that the token is unused.
        proves_unused: bool,
        /// The pause the provider asked for.
        retry_after: Option<Duration>,
    },
}

/// What the user has to do, hashable for the model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InteractionFacts {
    /// What to pass on in the authorization request.
    pub claims: Option<crate::domain::scope::Claims>,
    /// The provider's `error`.
    pub error: &'static str,
    /// The provider's `suberror`.
    pub suberror: &'static str,
}

impl From<Interaction> for InteractionFacts {
    fn from(Interaction { claims, error, suberror }: Interaction) -> Self {
        Self { claims, error, suberror }
    }
}

/// What has to be done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Make the new state durable, by compare-and-swap on the state it came
    /// from.
    Persist,
    /// Send the request; only after `Persist` (invariant I11).
    Send,
    /// Tell an operator, once.
    Alert(Alert),
    /// The answer belongs to nobody any more: revoke the token it brought at
    /// the provider and never store it (invariant I9).
    RevokeAnswer,
}

/// What an operator is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alert {
    /// A token was lost; the user has to consent again.
    Lost(DoubtCause),
    /// The provider rejects the vault's own credentials.
    ClientRejected,
}

/// What is known and to be done after an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// What is known now.
    pub state: State,
    /// What has to be done, in order.
    pub effects: Vec<Effect>,
}

/// Why a claim is refused; nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Another attempt owns the token.
    Busy,
    /// Not before the moment named.
    NotYet(Timestamp),
    /// The token is dead: REVOKED, LOST or REAUTH.
    Dead,
}

/// Takes one step.
///
/// # Errors
///
/// A claim may be refused. No other event is: one that belongs to an attempt
/// that is no longer there leaves the state as it is.
pub fn step(state: &State, event: &Event, profile: &Profile, now: Timestamp) -> Result<Transition, Refusal> {
    Ok(match event {
        Event::Claim { attempt, fenced_at } => claim(state, *attempt, *fenced_at, profile, now)?,
        Event::Unsent(id) => on_attempt(state, *id, |a| proven_unused(state, a, None, now)),
        Event::Interrupted(id) => {
            on_attempt(state, *id, |a| doubt(state, a, DoubtCause::Interrupted, profile, now))
        }
        Event::OwnerDied(id) => {
            on_attempt(state, *id, |a| doubt(state, a, DoubtCause::OwnerDied, profile, now))
        }
        Event::Refused(id, refused) => {
            on_attempt(state, *id, |a| self::refused(state, a, refused, profile, now))
        }
        Event::Answered { attempt, renewed } => answered(state, *attempt, *renewed, profile),
        Event::Replaced => Transition {
            state: State { generation: state.generation.next(), grant: GrantState::Active, not_before: None },
            effects: vec![Effect::Persist],
        },
    })
}

fn claim(
    state: &State,
    id: AttemptId,
    fenced_at: Option<Timestamp>,
    profile: &Profile,
    now: Timestamp,
) -> Result<Transition, Refusal> {
    let (epoch, follows) = match &state.grant {
        GrantState::Active => match state.not_before {
            Some(until) if now < until => return Err(Refusal::NotYet(until)),
            Some(_) | None => (Epoch(0), None),
        },
        GrantState::InDoubt { probe_after, .. } if now <= *probe_after => {
            return Err(Refusal::NotYet(*probe_after));
        }
        GrantState::InDoubt { attempt, .. } if too_late_for_grace(attempt, profile, now) => {
            return Err(Refusal::NotYet(harmless_after(attempt)));
        }
        GrantState::InDoubt { attempt, cause, .. } => {
            (Epoch(attempt.epoch.0.saturating_add(1)), Some(*cause))
        }
        GrantState::Sending(_) => return Err(Refusal::Busy),
        GrantState::Revoked | GrantState::Lost { .. } | GrantState::Reauth { .. } => {
            return Err(Refusal::Dead);
        }
    };
    let attempt = Attempt { id, epoch, started_at: now, fenced_at, follows };
    Ok(moved(state, GrantState::Sending(attempt), None, [Effect::Persist, Effect::Send]))
}

fn refused(
    state: &State,
    attempt: &Attempt,
    refused: &Refused,
    profile: &Profile,
    now: Timestamp,
) -> Transition {
    match refused {
        Refused::InvalidGrant => match attempt.follows {
            None => moved(state, GrantState::Revoked, None, [Effect::Persist]),
            Some(cause) => moved(
                state,
                GrantState::Lost { cause },
                None,
                [Effect::Persist, Effect::Alert(Alert::Lost(cause))],
            ),
        },
        Refused::Interaction(InteractionFacts { claims, error, suberror }) => moved(
            state,
            GrantState::Reauth { claims: claims.clone(), error, suberror },
            None,
            [Effect::Persist],
        ),
        Refused::Client { proves_unused } => {
            let mut next = if *proves_unused {
                proven_unused(state, attempt, None, now)
            } else {
                doubt(state, attempt, DoubtCause::ClientRejected, profile, now)
            };
            next.effects.push(Effect::Alert(Alert::ClientRejected));
            next
        }
        Refused::Other { proves_unused: true, retry_after } => {
            proven_unused(state, attempt, *retry_after, now)
        }
        Refused::Other { proves_unused: false, retry_after } => {
            let mut next = doubt(state, attempt, DoubtCause::AmbiguousAnswer, profile, now);
            if let (GrantState::InDoubt { probe_after, .. }, Some(pause)) =
                (&mut next.state.grant, retry_after)
            {
                *probe_after = (*probe_after).max(now.plus(*pause));
            }
            next
        }
    }
}

/// The request is proven to have used nothing. That says nothing of the attempt
/// it followed: a doubt stays one.
fn proven_unused(state: &State, attempt: &Attempt, pause: Option<Duration>, now: Timestamp) -> Transition {
    let until = now.plus(pause.unwrap_or(BACK_OFF));
    match attempt.follows {
        None => moved(state, GrantState::Active, Some(until), [Effect::Persist]),
        Some(cause) => moved(
            state,
            GrantState::InDoubt { attempt: attempt.clone(), cause, probe_after: until },
            None,
            [Effect::Persist],
        ),
    }
}

fn doubt(
    state: &State,
    attempt: &Attempt,
    cause: DoubtCause,
    profile: &Profile,
    now: Timestamp,
) -> Transition {
    if profile.reuse == Reuse::Tolerated {
        // An old token stays valid there, so trying again costs nothing.
        return moved(state, GrantState::Active, Some(now.plus(BACK_OFF)), [Effect::Persist]);
    }
    let probe_after = probe_after(attempt, profile, now);
    let cause = attempt.follows.unwrap_or(cause);
    moved(
        state,
        GrantState::InDoubt { attempt: attempt.clone(), cause, probe_after },
        None,
        [Effect::Persist],
    )
}

/// From when on the token may be tried again (rule 7).
fn probe_after(attempt: &Attempt, profile: &Profile, now: Timestamp) -> Timestamp {
    match profile.reuse {
        Reuse::Grace { window } => {
            let early = now.plus(GRACE_PROBE_DELAY);
            if early < attempt.started_at.plus(window) { early } else { harmless_after(attempt) }
        }
        Reuse::Strict | Reuse::Tolerated => harmless_after(attempt),
    }
}

/// Until when a request of the attempt may still reach the provider and be
/// accepted there.
fn harmless_after(attempt: &Attempt) -> Timestamp {
    let landed = attempt.started_at.plus(HARD_LIMIT);
    attempt.fenced_at.map_or(landed, |fenced| fenced.max(landed)).plus(PROBE_MARGIN)
}

/// Whether an early probe was planned and its window has closed since.
fn too_late_for_grace(attempt: &Attempt, profile: &Profile, now: Timestamp) -> bool {
    match profile.reuse {
        Reuse::Grace { window } => now >= attempt.started_at.plus(window) && now <= harmless_after(attempt),
        Reuse::Strict | Reuse::Tolerated => false,
    }
}

fn answered(state: &State, id: AttemptId, renewed: bool, profile: &Profile) -> Transition {
    match &state.grant {
        GrantState::Sending(attempt) | GrantState::InDoubt { attempt, .. } if attempt.id == id => {
            let generation = if renewed { state.generation.next() } else { state.generation };
            // The request that was in doubt may still be under way. Redeemed
            // once more before it is harmless, the token would be two old when
            // that request arrives, and the grace window only covers one.
            let early_probe = matches!(profile.reuse, Reuse::Grace { .. }) && attempt.follows.is_some();
            let not_before = early_probe.then(|| harmless_after(attempt));
            Transition {
                state: State { generation, grant: GrantState::Active, not_before },
                effects: vec![Effect::Persist],
            }
        }
        GrantState::Active
        | GrantState::Sending(_)
        | GrantState::InDoubt { .. }
        | GrantState::Revoked
        | GrantState::Lost { .. }
        | GrantState::Reauth { .. } => {
            Transition { state: state.clone(), effects: vec![Effect::RevokeAnswer] }
        }
    }
}

/// Applies `then` when the attempt still owns the token; otherwise the event
/// comes too late and changes nothing.
fn on_attempt(state: &State, id: AttemptId, then: impl FnOnce(&Attempt) -> Transition) -> Transition {
    match &state.grant {
        GrantState::Sending(attempt) if attempt.id == id => then(attempt),
        GrantState::Active
        | GrantState::Sending(_)
        | GrantState::InDoubt { .. }
        | GrantState::Revoked
        | GrantState::Lost { .. }
        | GrantState::Reauth { .. } => Transition { state: state.clone(), effects: Vec::new() },
    }
}

fn moved<const N: usize>(
    state: &State,
    grant: GrantState,
    not_before: Option<Timestamp>,
    effects: [Effect; N],
) -> Transition {
    Transition { state: State { generation: state.generation, grant, not_before }, effects: effects.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn id(n: u128) -> AttemptId {
        AttemptId(Uuid::from_u128(n))
    }

    fn active() -> State {
        State { generation: Generation(7), grant: GrantState::Active, not_before: None }
    }

    fn run(state: &State, event: &Event, profile: &Profile, now: Timestamp) -> State {
        step(state, event, profile, now).unwrap().state
    }

    fn sending(n: u128, now: Timestamp) -> State {
        run(&active(), &Event::Claim { attempt: id(n), fenced_at: None }, &Profile::strict(), now)
    }

    #[test]
    fn nothing_is_sent_before_it_is_durable() {
        let claimed =
            step(&active(), &Event::Claim { attempt: id(1), fenced_at: None }, &Profile::strict(), NOW)
                .unwrap();
        assert_eq!(claimed.effects, [Effect::Persist, Effect::Send]);
    }

    #[test]
    fn one_attempt_owns_the_token() {
        let again = step(
            &sending(1, NOW),
            &Event::Claim { attempt: id(2), fenced_at: None },
            &Profile::strict(),
            NOW,
        );
        assert_eq!(again, Err(Refusal::Busy));
    }

    #[test]
    fn a_doubt_waits_for_the_fence_and_the_hard_limit() {
        let fenced = NOW.plus(Duration::from_secs(400));
        let claim = Event::Claim { attempt: id(1), fenced_at: Some(fenced) };
        let state = run(&active(), &claim, &Profile::strict(), NOW);
        let state = run(&state, &Event::Interrupted(id(1)), &Profile::strict(), NOW);
        let until = fenced.plus(PROBE_MARGIN);
        let probe = Event::Claim { attempt: id(2), fenced_at: None };
        assert_eq!(step(&state, &probe, &Profile::strict(), until), Err(Refusal::NotYet(until)));
        assert!(step(&state, &probe, &Profile::strict(), until.plus(Duration::from_millis(1))).is_ok());
    }

    #[test]
    fn a_grace_window_is_used_while_it_lasts() {
        let profile = Profile::grace(Duration::from_secs(30));
        let soon = run(&sending(1, NOW), &Event::Interrupted(id(1)), &profile, NOW);
        let late =
            run(&sending(1, NOW), &Event::Interrupted(id(1)), &profile, NOW.plus(Duration::from_secs(60)));
        let after = |s: &State| match s.grant {
            GrantState::InDoubt { probe_after, .. } => probe_after,
            _ => panic!("{s:?} is not in doubt"),
        };
        assert!(after(&soon) < NOW.plus(Duration::from_secs(30)));
        assert!(after(&late) > NOW.plus(HARD_LIMIT));
    }

    #[test]
    fn after_an_early_probe_the_next_attempt_waits_for_the_request_in_doubt() {
        let profile = Profile::grace(Duration::from_secs(30));
        let doubt = run(&sending(1, NOW), &Event::OwnerDied(id(1)), &profile, NOW);
        let soon = NOW.plus(Duration::from_secs(5));
        let probe = run(&doubt, &Event::Claim { attempt: id(2), fenced_at: None }, &profile, soon);
        let back = run(&probe, &Event::Answered { attempt: id(2), renewed: true }, &profile, soon);
        let until = soon.plus(HARD_LIMIT).plus(PROBE_MARGIN);
        assert_eq!(back.not_before, Some(until));
        let again = step(&back, &Event::Claim { attempt: id(3), fenced_at: None }, &profile, soon);
        assert_eq!(again, Err(Refusal::NotYet(until)));
    }

    #[test]
    fn an_early_probe_whose_window_has_closed_waits_like_any_other() {
        let profile = Profile::grace(Duration::from_secs(30));
        let doubt = run(&sending(1, NOW), &Event::OwnerDied(id(1)), &profile, NOW);
        let claim = Event::Claim { attempt: id(2), fenced_at: None };
        let closed = NOW.plus(Duration::from_secs(40));
        let harmless = NOW.plus(HARD_LIMIT).plus(PROBE_MARGIN);
        assert_eq!(step(&doubt, &claim, &profile, closed), Err(Refusal::NotYet(harmless)));
        assert!(step(&doubt, &claim, &profile, harmless.plus(Duration::from_millis(1))).is_ok());
    }

    #[test]
    fn a_refusal_after_a_doubt_is_a_loss_with_its_first_cause_and_one_alert() {
        let doubt = run(&sending(1, NOW), &Event::OwnerDied(id(1)), &Profile::strict(), NOW);
        let later = NOW.plus(Duration::from_secs(1000));
        let probe = run(&doubt, &Event::Claim { attempt: id(2), fenced_at: None }, &Profile::strict(), later);
        let lost =
            step(&probe, &Event::Refused(id(2), Refused::InvalidGrant), &Profile::strict(), later).unwrap();
        assert_eq!(lost.state.grant, GrantState::Lost { cause: DoubtCause::OwnerDied });
        assert_eq!(lost.effects, [Effect::Persist, Effect::Alert(Alert::Lost(DoubtCause::OwnerDied))]);
    }

    #[test]
    fn a_probe_that_was_not_sent_does_not_end_the_doubt() {
        let doubt = run(&sending(1, NOW), &Event::Interrupted(id(1)), &Profile::strict(), NOW);
        let later = NOW.plus(Duration::from_secs(1000));
        let probe = run(&doubt, &Event::Claim { attempt: id(2), fenced_at: None }, &Profile::strict(), later);
        let back = run(&probe, &Event::Unsent(id(2)), &Profile::strict(), later);
        assert!(matches!(back.grant, GrantState::InDoubt { cause: DoubtCause::Interrupted, .. }), "{back:?}");
    }

    #[test]
    fn a_late_answer_of_a_replaced_grant_is_revoked_and_not_kept() {
        let state = run(&sending(1, NOW), &Event::Replaced, &Profile::strict(), NOW);
        let late = step(&state, &Event::Answered { attempt: id(1), renewed: true }, &Profile::strict(), NOW)
            .unwrap();
        assert_eq!(late.state, state);
        assert_eq!(late.effects, [Effect::RevokeAnswer]);
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let attempt = (0..3_u128).prop_map(id);
        prop_oneof![
            attempt.clone().prop_map(|attempt| Event::Claim { attempt, fenced_at: None }),
            attempt.clone().prop_map(Event::Unsent),
            attempt.clone().prop_map(Event::Interrupted),
            attempt.clone().prop_map(Event::OwnerDied),
            (attempt.clone(), any::<bool>())
                .prop_map(|(attempt, renewed)| Event::Answered { attempt, renewed }),
            (attempt, 0..4_u8, any::<bool>()).prop_map(|(a, kind, proves_unused)| {
                let refused = match kind {
                    0 => Refused::InvalidGrant,
                    1 => Refused::Interaction(InteractionFacts { claims: None, error: "x", suberror: "" }),
                    2 => Refused::Client { proves_unused },
                    _ => Refused::Other { proves_unused, retry_after: None },
                };
                Event::Refused(a, refused)
            }),
            Just(Event::Replaced),
        ]
    }

    proptest! {
        #[test]
        fn a_generation_never_goes_back_and_a_strict_doubt_never_turns_active_by_itself(
            events in proptest::collection::vec((any_event(), 0..200_i64), 1..60)
        ) {
            let profile = Profile::strict();
            let (mut state, mut now) = (active(), NOW);
            for (event, seconds) in events {
                now = now.plus(Duration::from_secs(seconds.unsigned_abs()));
                let Ok(next) = step(&state, &event, &profile, now) else { continue };
                prop_assert!(next.state.generation >= state.generation);
                let was_in_doubt = matches!(&state.grant, GrantState::InDoubt { .. })
                    || matches!(&state.grant, GrantState::Sending(a) if a.follows.is_some());
                if was_in_doubt && next.state.grant == GrantState::Active {
                    let proven = matches!(event, Event::Answered { .. } | Event::Replaced);
                    prop_assert!(proven, "{state:?} became active by {event:?}");
                }
                state = next.state;
            }
        }
    }
}
