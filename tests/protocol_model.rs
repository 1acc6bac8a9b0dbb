//! The redemption protocol, model-checked: every order of events that a few
//! replicas, a strict provider, a network and a store can produce within small
//! bounds, with crashes, lost packets, an outage and frozen processes.
//!
//! What a replica knows and does is decided by `domain::protocol`, the functions
//! that production's store calls; the model adds only the world around them
//! (`world`). The
//! weaker designs that are found in the field (`design`) must fail here, each
//! with a shortest counterexample: they prove that the model can see.
//!
//! - `design`: the protocol, and the weaker designs, as settings of one model;
//! - `world`: what surrounds a replica.
//!
//! | invariant of docs/ARCHITECTURE.md | property |
//! |---|---|
//! | I1 | the provider uses each generation and epoch at most once |
//! | I2 | no family dies while its newest token is held |
//! | I3 | an active grant's token is the provider's current one |
//! | I4 | a generation never goes back |
//! | I6 | a loss has its cause and one alert |
//! | I7 | a live token is not thrown away |
//! | I3 | a grant that has ended is dead at the provider |

use obo_vault::domain::grant::GrantState;
use stateright::{Checker, HasDiscoveries, Model, Path, Property};

use design::Design;
use world::{Action, World};

#[path = "protocol_model/design.rs"]
mod design;
#[path = "protocol_model/world.rs"]
mod world;

const USED_ONCE: &str = "the provider uses each generation and epoch at most once";
const NO_AVOIDABLE_LOSS: &str = "no family dies while its newest token is held";
const ACTIVE_IS_CURRENT: &str = "an active grant's token is the provider's current one";
const NEVER_BACK: &str = "a generation never goes back";
const LOSS_IS_TOLD: &str = "a loss has its cause and one alert";
const NOTHING_THROWN_AWAY: &str = "a live token is not thrown away";
const ENDED_IS_DEAD: &str = "a grant that has ended is dead at the provider";
const ALL_DONE: &str = "every refresh succeeds";
const RECOVERED: &str = "an unknown outcome is resolved well";
const RESIDUAL_LOSS: &str = "a death at the wrong moment loses the token";

impl Model for Design {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.enabled(self, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.apply(self, &action);
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(USED_ONCE, |_, w: &World| !w.verdicts.used_twice),
            Property::always(NO_AVOIDABLE_LOSS, |_, w: &World| !w.verdicts.avoidable_loss),
            Property::always(ACTIVE_IS_CURRENT, |_, w: &World| {
                w.row.grant != GrantState::Active || w.provider.accepts(w.stored_token)
            }),
            Property::always(NEVER_BACK, |_, w: &World| !w.verdicts.went_back),
            Property::always(LOSS_IS_TOLD, |_, w: &World| {
                // Nobody else revokes anything here, so a refusal on a first
                // use would be a loss that is told as somebody else's doing.
                let lost = matches!(w.row.grant, GrantState::Lost { .. });
                w.row.grant != GrantState::Revoked && w.verdicts.alerts == u8::from(lost)
            }),
            Property::always(NOTHING_THROWN_AWAY, |_, w: &World| !w.verdicts.threw_live_token_away),
            Property::always(ENDED_IS_DEAD, |_, w: &World| {
                let ended = matches!(w.row.grant, GrantState::Revoked | GrantState::Lost { .. });
                !(ended && w.provider.accepts(w.stored_token))
            }),
            Property::sometimes(ALL_DONE, |d: &Design, w: &World| {
                w.row.grant == GrantState::Active && w.stored_token.rotation == d.bounds.refreshes
            }),
            Property::sometimes(RECOVERED, |_, w: &World| w.verdicts.recovered),
            Property::sometimes(RESIDUAL_LOSS, |_, w: &World| matches!(w.row.grant, GrantState::Lost { .. })),
        ]
    }
}

#[test]
fn the_protocol_holds_with_a_client_assertion() {
    must_hold(Design::protocol());
}

#[test]
fn the_protocol_holds_with_a_client_secret_where_processes_and_packets_are_prompt() {
    must_hold(Design::protocol_with_a_secret());
}

#[test]
fn the_protocol_holds_where_an_assertion_outlives_the_exchange() {
    must_hold(Design::protocol_with_a_tolerant_clock());
}

#[test]
fn the_protocol_holds_while_an_enrolment_replaces_the_grant() {
    must_hold(Design::protocol_with_an_enrolment());
}

#[test]
fn the_protocol_holds_with_the_answer_kept_in_the_store() {
    must_hold(Design::protocol_on_one_store());
}

#[test]
fn the_protocol_holds_where_the_provider_has_a_grace_window() {
    must_hold(Design::protocol_with_grace());
}

/// After an early probe the next attempt waits until the request in doubt is
/// harmless; without that wait, this fails.
#[test]
fn the_protocol_holds_where_a_late_packet_meets_a_grace_window() {
    must_hold(Design::protocol_with_grace_and_slow_packets());
}

#[test]
fn the_protocol_holds_where_acknowledgements_are_lost() {
    must_hold(Design::protocol_with_lost_acknowledgements());
}

#[test]
fn the_protocol_holds_where_callers_choose_what_is_refused() {
    must_hold(Design::protocol_with_choices());
}

#[test]
fn the_protocol_holds_where_choices_are_refused_in_a_grace_window() {
    must_hold(Design::protocol_with_choices_and_grace());
}

#[test]
fn a_commit_that_cannot_be_repeated_fails() {
    must_fail(&Design::commit_not_repeatable(), NOTHING_THROWN_AWAY);
}

#[test]
fn the_adoption_of_a_live_attempt_fails() {
    must_fail(&Design::live_attempt_adopted(), NO_AVOIDABLE_LOSS);
}

#[test]
fn a_refusal_of_a_choice_taken_for_the_grants_fails() {
    must_fail(&Design::refusal_of_a_choice_taken_for_the_grants(), ENDED_IS_DEAD);
}

#[test]
fn a_mutex_in_each_process_fails() {
    must_fail(&Design::mutex_in_each_process(), NO_AVOIDABLE_LOSS);
}

#[test]
fn a_lock_with_a_time_to_live_fails() {
    must_fail(&Design::lock_with_time_to_live(), NO_AVOIDABLE_LOSS);
}

#[test]
fn a_retry_on_timeout_fails() {
    must_fail(&Design::retry_on_timeout(), NO_AVOIDABLE_LOSS);
}

#[test]
fn an_intent_without_a_fence_fails() {
    must_fail(&Design::intent_without_a_fence(), NO_AVOIDABLE_LOSS);
}

#[test]
fn a_holder_that_sleeps_on_the_answer_fails() {
    must_fail(&Design::holder_sleeps_on_the_answer(), NO_AVOIDABLE_LOSS);
}

#[test]
fn a_sender_that_sleeps_before_an_unfenced_request_fails() {
    must_fail(&Design::sender_sleeps_before_an_unfenced_request(), NO_AVOIDABLE_LOSS);
}

#[test]
fn a_journal_that_nobody_awaits_fails() {
    must_fail(&Design::journal_not_awaited(), NO_AVOIDABLE_LOSS);
}

#[test]
fn a_grace_window_in_place_of_the_protocol_fails() {
    must_fail(&Design::grace_window_in_place_of_the_protocol(), NO_AVOIDABLE_LOSS);
}

/// Checks every reachable state, and that the model is not empty talk: the
/// good end, a recovery and the loss nobody can prevent are all reachable.
fn must_hold(design: Design) {
    let checker = design.checker().threads(THREADS).spawn_bfs().join();
    let mut found = checker.discoveries();
    let reached = [ALL_DONE, RECOVERED, RESIDUAL_LOSS].map(|end| (end, found.remove(end).is_some()));
    if let Some((property, path)) = found.into_iter().next() {
        panic!("broken: {property}\n{}", story(path));
    }
    for (end, reached) in reached {
        assert!(reached, "not reachable: {end}");
    }
    report(&format!(
        "holds over {} states, {} events deep",
        checker.unique_state_count(),
        checker.max_depth()
    ));
}

/// Finds a shortest counterexample: the checker's own first find is not always
/// one, so it looks a little deeper each time.
fn must_fail(design: &Design, property: &'static str) {
    for depth in 2..MOST_EVENTS {
        let finish = HasDiscoveries::AnyOf([property].into());
        let checker = design.clone().checker().threads(THREADS).target_max_depth(depth).finish_when(finish);
        if let Some(path) = checker.spawn_bfs().join().discovery(property) {
            report(&format!("broken: {property}\n{}", story(path)));
            return;
        }
    }
    panic!("the weaker design holds for {MOST_EVENTS} events: {property}");
}

#[expect(clippy::print_stdout, reason = "shown by `cargo test -- --nocapture` to who studies the model")]
fn report(text: &str) {
    println!("{text}");
}

fn story(path: Path<World, Action>) -> String {
    let mut events: Vec<String> = path.into_actions().iter().map(|action| format!("  {action:?}")).collect();
    events.push(format!("  ({} events)", events.len()));
    events.join("\n")
}

/// The tests themselves run beside each other.
const THREADS: usize = 1;

/// More than the longest counterexample takes.
const MOST_EVENTS: usize = 24;
