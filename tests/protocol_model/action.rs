//! What may happen in a state of the world.

use obo_vault::domain::grant::{Attempt, GrantState};
use obo_vault::domain::protocol::bounds::{HARD_LIMIT, SEND_WITHIN};

use super::time::{NOW, TICK};
use super::{Answer, Doing, Replica, Request, Says, World, number};
use crate::design::{Design, Exclusion, Journal, Sleep};

/// How a provider refuses what a caller chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Refusing {
    /// With a word of its own, the token untouched.
    Untouched,
    /// With a word of its own, and the token is used all the same.
    Spent,
    /// It calls the token invalid, which it is not.
    CalledInvalid,
}

/// What may happen next. Numbers are replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Claim(usize),
    /// With scopes, a resource or claims that a caller chose.
    ClaimChoice(usize),
    Send(usize),
    /// No byte was written: too late, or no connection.
    DoNotSend(usize),
    Deliver(Request),
    /// Refused before the token is looked at.
    Throttle(Request),
    /// The token is spent, and the answer is a server error.
    Break(Request),
    /// The provider refuses what a caller chose.
    RefuseChoice(Request, Refusing),
    LoseRequest(Request),
    LoseAnswer(Answer),
    Receive(usize, Answer),
    GiveUp(usize),
    SendAgain(usize),
    /// The answer becomes durable.
    Record(usize),
    Commit(usize),
    /// A commit that happens, and whose acknowledgement is lost.
    CommitUnacknowledged(usize),
    /// The attempt's owner is taken for dead.
    OwnerDied,
    Crash(usize),
    Restart(usize),
    StoreFails,
    StoreReturns,
    /// The user consents anew, and an enrolment replaces the grant.
    Replace,
    Tick,
}

impl World {
    /// What may happen in this state.
    pub(crate) fn enabled(&self, design: &Design, actions: &mut Vec<Action>) {
        let bounds = design.bounds;
        let fault = self.spent.faults < bounds.faults;
        for (i, replica) in self.replicas.iter().enumerate() {
            if !replica.is_up {
                actions.push(Action::Restart(i));
                continue;
            }
            match &replica.doing {
                Doing::Nothing => {
                    if self.store_is_up && self.may_claim(design, replica) {
                        actions.push(Action::Claim(i));
                        if self.spent.choices < bounds.choices {
                            actions.push(Action::ClaimChoice(i));
                        }
                    }
                }
                Doing::Prepared(flight) => {
                    // A sleep between the look at the clock and the first byte
                    // makes both possible at any age.
                    actions.push(Action::Send(i));
                    if self.store_is_up && (fault || NOW >= flight.attempt.started_at.plus(SEND_WITHIN)) {
                        actions.push(Action::DoNotSend(i));
                    }
                }
                Doing::Waiting(flight) => {
                    let id = number(flight.attempt.id);
                    let on_its_way = self.requests.iter().any(|r| r.attempt == id)
                        || self.answers.iter().any(|a| a.attempt == id);
                    if (fault || !on_its_way) && design.retries {
                        actions.push(Action::SendAgain(i));
                    } else if (fault || !on_its_way) && self.store_is_up {
                        actions.push(Action::GiveUp(i));
                    }
                }
                Doing::Received(..) => {
                    let reachable = match design.journal {
                        Journal::Node => true,
                        Journal::None | Journal::Store => self.store_is_up,
                    };
                    if reachable {
                        actions.push(Action::Record(i));
                    }
                }
            }
            if replica.journal.is_some() && self.store_is_up {
                actions.push(Action::Commit(i));
                if self.spent.lost_acknowledgements < bounds.lost_acknowledgements {
                    actions.push(Action::CommitUnacknowledged(i));
                }
            }
            if self.spent.crashes < bounds.crashes {
                actions.push(Action::Crash(i));
            }
        }
        for request in &self.requests {
            actions.push(Action::Deliver(*request));
            if request.is_choice {
                for how in [Refusing::Untouched, Refusing::Spent, Refusing::CalledInvalid] {
                    actions.push(Action::RefuseChoice(*request, how));
                }
            }
            if fault {
                actions.extend([
                    Action::LoseRequest(*request),
                    Action::Throttle(*request),
                    Action::Break(*request),
                ]);
            }
        }
        for answer in &self.answers {
            let receiver = self.replicas.iter().position(|r| r.waits_for(answer.attempt));
            if let Some(i) = receiver.filter(|_| self.store_is_up || matches!(answer.says, Says::NewToken(_)))
            {
                actions.push(Action::Receive(i, *answer));
            }
            if fault {
                actions.push(Action::LoseAnswer(*answer));
            }
        }
        if self.store_is_up {
            if self.owner_may_be_dead(design) {
                actions.push(Action::OwnerDied);
            }
            if self.spent.enrolments < bounds.enrolments {
                actions.push(Action::Replace);
            }
            if self.spent.outages < bounds.outages {
                actions.push(Action::StoreFails);
            }
        } else {
            actions.push(Action::StoreReturns);
        }
        if self.time_may_pass(design) {
            actions.push(Action::Tick);
        }
    }

    fn may_claim(&self, design: &Design, replica: &Replica) -> bool {
        let bounds = design.bounds;
        let doubtful = matches!(self.row.grant, GrantState::InDoubt { .. });
        let journals_are_done = self.replicas.iter().all(|r| r.journal.is_none());
        replica.journal.is_none()
            && self.spent.attempts < bounds.attempts
            && self.stored_token.rotation < bounds.refreshes
            && (!doubtful || !design.awaits_journals || journals_are_done)
    }

    fn owner_may_be_dead(&self, design: &Design) -> bool {
        let GrantState::Sending(attempt) = &self.row.grant else { return false };
        let held = self.replicas.iter().any(|r| {
            let flies = r.flight().is_some_and(|flight| flight.attempt.id == attempt.id);
            r.is_up && (flies || r.journal.is_some_and(|kept| kept.of.attempt == attempt.id))
        });
        matches!(design.exclusion, Exclusion::Row | Exclusion::AdoptsLive)
            && (!held || attempt.started_at <= NOW.minus(TICK * 2))
    }

    /// A live process does what it has to before a probe is due, as far as the
    /// design counts on it: time stands still while it is about to be late.
    fn time_may_pass(&self, design: &Design) -> bool {
        let at_its_limit = |attempt: &Attempt| {
            let landed = attempt.started_at.plus(HARD_LIMIT);
            let limit = attempt.fenced_at.map_or(landed, |fenced| fenced.max(landed));
            NOW <= limit && limit < NOW.plus(TICK)
        };
        let awake = self.replicas.iter().filter(|r| r.is_up).all(|r| match &r.doing {
            Doing::Nothing => true,
            Doing::Prepared(f) => design.sleep != Sleep::Never || !at_its_limit(&f.attempt),
            Doing::Waiting(f) | Doing::Received(f, _) => {
                design.sleep == Sleep::Anywhere || !at_its_limit(&f.attempt)
            }
        });
        awake && (!design.packets_are_prompt || self.requests.is_empty())
    }
}
