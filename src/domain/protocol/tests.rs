use proptest::prelude::*;
use uuid::Uuid;

use super::bounds::{BACK_OFF, HARD_LIMIT, LONGEST_PAUSE, PROBE_MARGIN, UNHELPFUL_ALERT};
use super::*;
use crate::domain::grant::Attempt;
use crate::domain::profile::Profile;

const NOW: Timestamp = Timestamp(1_000_000_000);
const LATER: Timestamp = Timestamp(1_001_000_000);

fn id(n: u128) -> AttemptId {
    AttemptId(Uuid::from_u128(n))
}

fn owner(n: u128) -> Owner {
    Owner(Uuid::from_u128(n))
}

fn lineage(n: u128) -> Lineage {
    Lineage(Uuid::from_u128(n))
}

fn active() -> State {
    State { generation: Generation(7), ..State::enrolled(None, lineage(1)) }
}

fn asking(n: u128, asks: Asks) -> Claim {
    Claim { attempt: id(n), owner: owner(1), asks, fenced_at: None }
}

fn own(n: u128) -> Claim {
    asking(n, Asks::Grant)
}

fn claimed(state: &State, wish: &Claim, profile: &Profile, now: Timestamp) -> State {
    claim(state, wish, profile, now).unwrap()
}

fn of(state: &State, n: u128) -> AttemptRef {
    AttemptRef { attempt: id(n), lineage: state.lineage, generation: state.generation }
}

fn moved(state: &State, n: u128, end: &End, profile: &Profile, now: Timestamp) -> (State, Option<Alert>) {
    match advance(state, &of(state, n), end, profile, now) {
        Advanced::Moved { state, alert } => (state, alert),
        other => panic!("{state:?} by {end:?}: {other:?}"),
    }
}

fn sending(n: u128, asks: Asks) -> State {
    claimed(&active(), &asking(n, asks), &Profile::strict(), NOW)
}

fn in_doubt(profile: &Profile) -> State {
    moved(&sending(1, Asks::Grant), 1, &End::Interrupted, profile, NOW).0
}

fn refused(says: Says) -> End {
    End::Refused(Refused { says, proves_unused: false, complete: true, retry_after: None })
}

fn interaction() -> Says {
    Says::Interaction { claims: None, error: "interaction_required", suberror: "" }
}

fn probe_time(state: &State) -> Timestamp {
    match state.grant {
        GrantState::InDoubt { probe_after, .. } => probe_after,
        _ => panic!("{state:?} is not IN_DOUBT"),
    }
}

#[test]
fn one_attempt_owns_the_token() {
    let sending = sending(1, Asks::Grant);
    assert_eq!(claim(&sending, &own(2), &Profile::strict(), NOW), Err(Refusal::Busy));
    let late = advance(&sending, &of(&sending, 2), &End::Unsent, &Profile::strict(), NOW);
    assert_eq!(late, Advanced::Late);
}

#[test]
fn a_claim_told_twice_is_one_claim() {
    let sending = sending(1, Asks::Grant);
    assert_eq!(claim(&sending, &own(1), &Profile::strict(), LATER), Ok(sending.clone()));
    let (back, _) = moved(&sending, 1, &End::Unsent, &Profile::strict(), NOW);
    assert_eq!(claim(&back, &own(1), &Profile::strict(), LATER), Err(Refusal::Over));
}

#[test]
fn an_end_told_twice_is_one_end() {
    let profile = Profile::strict();
    for end in [
        End::Unsent,
        End::Interrupted,
        refused(Says::InvalidGrant),
        refused(interaction()),
        End::Answered { renewed: true },
        End::Answered { renewed: false },
    ] {
        let sending = sending(1, Asks::Grant);
        let (after, _) = moved(&sending, 1, &end, &profile, NOW);
        let again = advance(&after, &of(&sending, 1), &end, &profile, LATER);
        assert_eq!(again, Advanced::Repeated, "{end:?}");
    }
}

#[test]
fn a_commit_told_again_after_others_came_is_done_and_never_orphaned() {
    let profile = Profile::strict();
    let first = of(&active(), 1);
    let mut state = moved(&sending(1, Asks::Grant), 1, &End::Answered { renewed: true }, &profile, NOW).0;
    for n in 2..5 {
        state = claimed(&state, &own(n), &profile, LATER);
        let again = advance(&state, &first, &End::Answered { renewed: true }, &profile, LATER);
        assert_eq!(again, Advanced::Repeated, "while {n} is sending");
        state = moved(&state, n, &End::Answered { renewed: true }, &profile, LATER).0;
        let again = advance(&state, &first, &End::Answered { renewed: true }, &profile, LATER);
        assert_eq!(again, Advanced::Repeated);
    }
}

#[test]
fn a_late_answer_of_a_replaced_grant_is_orphaned() {
    let sending = sending(1, Asks::Grant);
    let replaced = State::enrolled(Some(sending.generation), lineage(2));
    let late =
        advance(&replaced, &of(&sending, 1), &End::Answered { renewed: true }, &Profile::strict(), NOW);
    assert_eq!(late, Advanced::Orphaned);
    let late = advance(&replaced, &of(&sending, 1), &End::Interrupted, &Profile::strict(), NOW);
    assert_eq!(late, Advanced::Late);
}

/// What came so late is dropped: to revoke it might end the family that the
/// grant lives on.
#[test]
fn a_late_answer_of_the_same_lineage_is_never_orphaned() {
    let profile = Profile::strict();
    let doubt = in_doubt(&profile);
    let probe = claimed(&doubt, &own(2), &profile, LATER);
    let lost = moved(&probe, 2, &refused(Says::InvalidGrant), &profile, LATER).0;
    for state in [probe, lost] {
        let late = advance(&state, &of(&state, 1), &End::Answered { renewed: true }, &profile, LATER);
        assert_eq!(late, Advanced::Late, "{state:?}");
    }
}

#[test]
fn an_attempt_is_given_up_only_for_the_owner_that_is_gone() {
    let sending = sending(1, Asks::Grant);
    let profile = Profile::strict();
    let live = advance(&sending, &of(&sending, 1), &End::OwnerDied(owner(2)), &profile, NOW);
    assert_eq!(live, Advanced::Late);
    let (state, _) = moved(&sending, 1, &End::OwnerDied(owner(1)), &profile, NOW);
    assert!(matches!(state.grant, GrantState::InDoubt { cause: InDoubtCause::OwnerDied, .. }));
}

#[test]
fn an_unknown_outcome_waits_for_the_fence_and_the_hard_limit() {
    let fenced = NOW.plus(Duration::from_secs(400));
    let profile = Profile::strict();
    let sent = claimed(&active(), &Claim { fenced_at: Some(fenced), ..own(1) }, &profile, NOW);
    let (state, _) = moved(&sent, 1, &End::Interrupted, &profile, NOW);
    let until = fenced.plus(PROBE_MARGIN);
    assert_eq!(claim(&state, &own(2), &profile, until), Err(Refusal::NotYet(until)));
    assert!(claim(&state, &own(2), &profile, until.plus(Duration::from_millis(1))).is_ok());
}

#[test]
fn a_grace_window_is_used_while_it_lasts() {
    let profile = Profile::grace(Duration::from_secs(30));
    let soon = in_doubt(&profile);
    let late = moved(&sending(1, Asks::Grant), 1, &End::Interrupted, &profile, NOW.plus(BACK_OFF * 12)).0;
    assert!(probe_time(&soon) < NOW.plus(Duration::from_secs(30)));
    assert!(probe_time(&late) > NOW.plus(HARD_LIMIT));
}

#[test]
fn after_an_early_probe_the_next_attempt_waits_for_the_request_before_it() {
    let profile = Profile::grace(Duration::from_secs(30));
    let soon = NOW.plus(Duration::from_secs(5));
    let probe = claimed(&in_doubt(&profile), &own(2), &profile, soon);
    let (back, _) = moved(&probe, 2, &End::Answered { renewed: true }, &profile, soon);
    let until = NOW.plus(HARD_LIMIT).plus(PROBE_MARGIN);
    assert_eq!(back.not_before, Some(until));
    assert_eq!(claim(&back, &own(3), &profile, soon), Err(Refusal::NotYet(until)));
}

#[test]
fn a_probe_that_comes_when_all_before_it_is_harmless_holds_up_nobody() {
    let profile = Profile::grace(Duration::from_secs(30));
    let late = NOW.plus(HARD_LIMIT).plus(PROBE_MARGIN).plus(Duration::from_secs(1));
    let probe = claimed(&in_doubt(&profile), &own(2), &profile, late);
    let (back, _) = moved(&probe, 2, &End::Answered { renewed: true }, &profile, late);
    assert_eq!(back.not_before, None);
}

#[test]
fn an_early_probe_whose_window_has_closed_waits_like_any_other() {
    let profile = Profile::grace(Duration::from_secs(30));
    let doubt = in_doubt(&profile);
    let harmless = NOW.plus(HARD_LIMIT).plus(PROBE_MARGIN);
    let closed = NOW.plus(Duration::from_secs(40));
    assert_eq!(claim(&doubt, &own(2), &profile, closed), Err(Refusal::NotYet(harmless)));
    assert!(claim(&doubt, &own(2), &profile, harmless.plus(Duration::from_millis(1))).is_ok());
}

/// The provider counts from the first use, however many probes have failed since.
#[test]
fn a_grace_window_counts_from_the_first_request() {
    let profile = Profile::grace(Duration::from_secs(30));
    let at = |seconds| NOW.plus(Duration::from_secs(seconds));
    for end in [End::Unsent, End::Interrupted] {
        let probe = claimed(&in_doubt(&profile), &own(2), &profile, at(20));
        let (state, _) = moved(&probe, 2, &end, &profile, at(23));
        assert!(claim(&state, &own(3), &profile, at(29)).is_ok(), "{end:?}: it is still open");
        let harmless = at(20).plus(HARD_LIMIT).plus(PROBE_MARGIN);
        assert_eq!(claim(&state, &own(3), &profile, at(45)), Err(Refusal::NotYet(harmless)), "{end:?}");
    }
}

#[test]
fn a_refusal_after_an_unknown_outcome_is_a_loss_with_its_first_cause_and_one_alert() {
    let profile = Profile::strict();
    let probe = claimed(&in_doubt(&profile), &own(2), &profile, LATER);
    let (again, _) = moved(&probe, 2, &End::OwnerDied(owner(1)), &profile, LATER);
    let much_later = LATER.plus(LONGEST_PAUSE);
    let probe = claimed(&again, &own(3), &profile, much_later);
    let (lost, alert) = moved(&probe, 3, &refused(Says::InvalidGrant), &profile, much_later);
    assert_eq!(lost.grant, GrantState::Lost { cause: InDoubtCause::Interrupted });
    assert_eq!(alert, Some(Alert::Lost(InDoubtCause::Interrupted)));
}

#[test]
fn a_probe_that_was_not_sent_does_not_end_the_unknown_outcome() {
    let profile = Profile::strict();
    let probe = claimed(&in_doubt(&profile), &own(2), &profile, LATER);
    let (back, _) = moved(&probe, 2, &End::Unsent, &profile, LATER);
    assert!(matches!(back.grant, GrantState::InDoubt { cause: InDoubtCause::Interrupted, .. }), "{back:?}");
}

#[test]
fn a_refused_choice_leaves_a_tolerant_grant_as_it_was() {
    let profile = Profile::tolerant();
    for says in [Says::InvalidGrant, interaction(), Says::Nothing, Says::Outage, Says::ClientRejected] {
        let sent = claimed(&active(), &asking(1, Asks::Target), &profile, NOW);
        let (state, _) = moved(&sent, 1, &refused(says.clone()), &profile, NOW);
        assert_eq!((&state.grant, state.not_before), (&GrantState::Active, None), "{says:?}");
        assert_eq!(state.unhelpful, 0, "{says:?}");
    }
    let sent = claimed(&active(), &asking(1, Asks::Target), &profile, NOW);
    assert_eq!(moved(&sent, 1, &End::Interrupted, &profile, NOW).0.not_before, None);
}

/// Nobody waits 125 s for one caller's choice, and the grant ends only by what
/// the provider says of the grant.
#[test]
fn after_a_refused_choice_the_grants_own_request_follows_at_once() {
    for profile in [Profile::strict(), Profile::grace(Duration::from_secs(30))] {
        for says in [Says::InvalidGrant, interaction(), Says::Nothing, Says::Outage, Says::ClientRejected] {
            let (state, alert) = moved(&sending(1, Asks::Target), 1, &refused(says.clone()), &profile, NOW);
            assert_eq!(alert, None, "{says:?}");
            let choice = claim(&state, &asking(2, Asks::Target), &profile, NOW);
            assert_eq!(choice, Err(Refusal::OwnRequestFirst), "{says:?}");
            let sent = claimed(&state, &own(2), &profile, NOW);
            let (good, _) = moved(&sent, 2, &End::Answered { renewed: true }, &profile, NOW);
            assert_eq!((good.grant, good.not_before), (GrantState::Active, None), "{says:?}");
            let (dead, _) = moved(&sent, 2, &refused(Says::InvalidGrant), &profile, NOW);
            let expected = match says {
                // It called the token dead, and the grant's own request agrees.
                Says::InvalidGrant => GrantState::Revoked,
                _ => GrantState::Lost { cause: InDoubtCause::TargetRefused },
            };
            assert_eq!(dead.grant, expected, "{says:?}");
        }
    }
}

#[test]
fn a_pause_asked_for_with_a_refused_choice_is_kept_for_a_while_and_no_longer() {
    let longest = HARD_LIMIT.as_secs();
    // A refusal is no outage, whatever pause is named beside it.
    let cases = [
        (Says::Outage, 17, 17),
        (Says::Outage, 3600, longest),
        (Says::Nothing, 17, 0),
        (interaction(), 17, 0),
    ];
    for (says, asked, kept) in cases {
        let retry_after = Some(Duration::from_secs(asked));
        let end = End::Refused(Refused { says, proves_unused: false, complete: true, retry_after });
        let (state, _) = moved(&sending(1, Asks::Target), 1, &end, &Profile::strict(), NOW);
        assert_eq!(probe_time(&state), NOW.plus(Duration::from_secs(kept)));
        assert!(matches!(state.grant, GrantState::InDoubt { cause: InDoubtCause::TargetRefused, .. }));
    }
}

#[test]
fn an_answer_that_may_not_be_the_providers_is_an_unknown_outcome_for_a_choice_too() {
    let broken = Refused { says: Says::Nothing, proves_unused: false, complete: false, retry_after: None };
    let (state, _) = moved(&sending(1, Asks::Target), 1, &End::Refused(broken), &Profile::strict(), NOW);
    assert!(matches!(state.grant, GrantState::InDoubt { cause: InDoubtCause::AmbiguousAnswer, .. }));
    assert_eq!(probe_time(&state), NOW.plus(HARD_LIMIT).plus(PROBE_MARGIN));
}

#[test]
fn an_unhelpful_provider_is_asked_after_growing_pauses_and_told_of_once() {
    for profile in [Profile::strict(), Profile::tolerant()] {
        let (mut state, mut now, mut alerts, mut asked) = (active(), NOW, 0, 0);
        let end = now.plus(Duration::from_secs(7 * 86_400));
        while now < end {
            asked += 1;
            let sent = claimed(&state, &own(asked), &profile, now);
            let nothing =
                Refused { says: Says::Nothing, proves_unused: false, complete: false, retry_after: None };
            let (next, alert) = moved(&sent, asked, &End::Refused(nothing), &profile, now);
            alerts += usize::from(alert == Some(Alert::Unhelpful));
            assert_eq!(next.unhelpful, u32::try_from(asked).unwrap());
            now = match next.grant {
                GrantState::InDoubt { probe_after, .. } => probe_after.plus(Duration::from_millis(1)),
                _ => next.not_before.unwrap(),
            };
            state = next;
        }
        assert_eq!(alerts, 1);
        assert!((UNHELPFUL_ALERT.into()..70).contains(&asked), "asked {asked} times in a week");
        let sent = claimed(&state, &own(0), &profile, now);
        let (good, _) = moved(&sent, 0, &End::Answered { renewed: true }, &profile, now);
        assert_eq!(good.unhelpful, 0);
    }
}

fn any_end() -> impl Strategy<Value = End> {
    let says = prop_oneof![
        Just(Says::InvalidGrant),
        Just(interaction()),
        Just(Says::ClientRejected),
        Just(Says::Outage),
        Just(Says::Nothing),
    ];
    prop_oneof![
        Just(End::Unsent),
        Just(End::Interrupted),
        (0..3_u128).prop_map(|n| End::OwnerDied(owner(n))),
        any::<bool>().prop_map(|renewed| End::Answered { renewed }),
        (says, any::<bool>(), any::<bool>(), proptest::option::of(0..9_u64)).prop_map(
            |(says, proves_unused, complete, pause)| {
                let retry_after = pause.map(Duration::from_secs);
                End::Refused(Refused { says, proves_unused, complete, retry_after })
            }
        ),
    ]
}

#[derive(Debug, Clone)]
enum Event {
    Claim(u128, Asks),
    End(u128, End),
    Enrol(u128),
}

fn any_event() -> impl Strategy<Value = Event> {
    let asks = prop_oneof![Just(Asks::Grant), Just(Asks::Target)];
    prop_oneof![
        (0..6_u128, asks).prop_map(|(n, asks)| Event::Claim(n, asks)),
        (0..6_u128, any_end()).prop_map(|(n, end)| Event::End(n, end)),
        (2..9_u128).prop_map(Event::Enrol),
    ]
}

fn follows_one(state: &State) -> bool {
    match &state.grant {
        GrantState::InDoubt { .. } => true,
        GrantState::Sending(Attempt { follows, .. }) => follows.is_some(),
        GrantState::Active | GrantState::Revoked | GrantState::Lost { .. } | GrantState::Reauth { .. } => {
            false
        }
    }
}

proptest! {
    #[test]
    fn a_generation_never_goes_back_and_an_unknown_outcome_never_turns_active_by_itself(
        events in proptest::collection::vec((any_event(), 0..200_i64), 1..60)
    ) {
        let profile = Profile::strict();
        let (mut state, mut now) = (active(), NOW);
        for (event, seconds) in events {
            now = now.plus(Duration::from_secs(seconds.unsigned_abs()));
            let (next, proven) = match &event {
                Event::Claim(n, asks) => match claim(&state, &asking(*n, *asks), &profile, now) {
                    Ok(next) => (next, false),
                    Err(_) => continue,
                },
                Event::End(n, end) => match advance(&state, &of(&state, *n), end, &profile, now) {
                    Advanced::Moved { state, .. } => (state, matches!(end, End::Answered { .. })),
                    Advanced::Repeated | Advanced::Late | Advanced::Orphaned => continue,
                },
                Event::Enrol(n) => (State::enrolled(Some(state.generation), lineage(*n)), true),
            };
            prop_assert!(next.generation >= state.generation);
            if follows_one(&state) && next.grant == GrantState::Active {
                prop_assert!(proven, "{state:?} became active by {event:?}");
            }
            state = next;
        }
    }

    /// A choice alone ends no grant, whatever is answered and however often.
    #[test]
    fn no_answer_to_a_callers_choice_ends_a_grant(
        ends in proptest::collection::vec(any_end(), 1..20), tolerant in any::<bool>()
    ) {
        let profile = if tolerant { Profile::tolerant() } else { Profile::strict() };
        for end in ends {
            let sent = claimed(&active(), &asking(1, Asks::Target), &profile, NOW);
            if let Advanced::Moved { state, .. } = advance(&sent, &of(&sent, 1), &end, &profile, NOW) {
                let lives = matches!(state.grant, GrantState::Active | GrantState::InDoubt { .. });
                prop_assert!(lives, "{end:?} led to {state:?}");
            }
        }
    }
}
