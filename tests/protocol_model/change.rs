//! What an action changes. Whatever a replica decides, `domain::protocol` decides.

use std::time::Duration;

use obo_vault::domain::grant::{Asks, Attempt, AttemptId, Epoch, GrantState, InDoubtCause, Owner};
use obo_vault::domain::protocol::bounds::SEND_WITHIN;
use obo_vault::domain::protocol::{self, Advanced, Alert, AttemptRef, Claim, End, Refused, State};
use uuid::Uuid;

use super::action::{Action, Refusing};
use super::time::NOW;
use super::{Answer, Doing, Flight, Kept, Request, Says, World, lineage, number};
use crate::design::{Design, Exclusion, Journal};

/// How long after `send_by` a client assertion expires.
const ASSERTION_MARGIN: Duration = Duration::from_secs(5);

impl World {
    /// Lets it happen.
    pub(crate) fn apply(&mut self, design: &Design, action: &Action) {
        match *action {
            Action::Claim(i) => self.claim(design, i, false),
            Action::ClaimChoice(i) => self.claim(design, i, true),
            Action::Send(i) => {
                if let Doing::Prepared(flight) = self.replicas[i].doing.clone() {
                    self.requests.insert(Request::of(&flight, false));
                    self.replicas[i].doing = Doing::Waiting(flight);
                }
            }
            Action::DoNotSend(i) => {
                if let Doing::Prepared(flight) = self.replicas[i].take() {
                    if NOW < flight.attempt.started_at.plus(SEND_WITHIN) {
                        self.spent.faults += 1;
                    }
                    self.end(design, &flight, &End::Unsent);
                }
            }
            Action::Deliver(request) => {
                self.requests.remove(&request);
                let says = self.serve(design, request);
                self.answers.insert(Answer { attempt: request.attempt, says });
            }
            Action::Throttle(request) => {
                self.spent.faults += 1;
                self.requests.remove(&request);
                self.answers.insert(Answer { attempt: request.attempt, says: Says::Throttled });
            }
            Action::Break(request) => {
                self.spent.faults += 1;
                self.requests.remove(&request);
                self.serve(design, request);
                self.answers.insert(Answer { attempt: request.attempt, says: Says::Broken });
            }
            Action::RefuseChoice(request, how) => {
                self.requests.remove(&request);
                let says = self.refuse_choice(design, request, how);
                self.answers.insert(Answer { attempt: request.attempt, says });
            }
            Action::LoseRequest(request) => {
                self.spent.faults += 1;
                self.requests.remove(&request);
            }
            Action::LoseAnswer(answer) => {
                self.spent.faults += 1;
                self.answers.remove(&answer);
            }
            Action::Receive(i, answer) => self.receive(design, i, answer),
            Action::GiveUp(i) => {
                if let Doing::Waiting(flight) = self.replicas[i].take() {
                    self.count_reset(&flight);
                    self.end(design, &flight, &End::Interrupted);
                }
            }
            Action::SendAgain(i) => {
                if let Doing::Waiting(flight) = self.replicas[i].doing.clone() {
                    self.count_reset(&flight);
                    self.requests.insert(Request::of(&flight, true));
                }
            }
            Action::Record(i) => {
                if let Doing::Received(flight, new_token) = self.replicas[i].take() {
                    let kept = Kept { of: flight.of, new_token };
                    if design.journal == Journal::None {
                        self.commit(design, kept);
                    } else {
                        self.replicas[i].journal = Some(kept);
                    }
                }
            }
            Action::Commit(i) => {
                if let Some(kept) = self.replicas[i].journal.take() {
                    self.commit(design, kept);
                }
            }
            Action::CommitUnacknowledged(i) => {
                self.spent.lost_acknowledgements += 1;
                if let Some(kept) = self.replicas[i].journal {
                    self.commit(design, kept);
                }
            }
            Action::OwnerDied => {
                if let GrantState::Sending(attempt) = self.row.grant.clone() {
                    let (of, owner) = (self.reference(attempt.id), attempt.owner);
                    let flight = Flight { attempt, of, token: self.stored_token, is_choice: false };
                    self.end(design, &flight, &End::OwnerDied(owner));
                }
            }
            Action::Crash(i) => {
                self.spent.crashes += 1;
                self.replicas[i].is_up = false;
                self.replicas[i].doing = Doing::Nothing;
            }
            Action::Restart(i) => self.replicas[i].is_up = true,
            Action::StoreFails => {
                self.spent.outages += 1;
                self.store_is_up = false;
            }
            Action::StoreReturns => self.store_is_up = true,
            Action::Replace => {
                self.spent.enrolments += 1;
                let next = State::enrolled(Some(self.row.generation), lineage(self.spent.enrolments));
                self.verdicts.went_back |= next.generation <= self.row.generation;
                self.row = next;
                self.stored_token = self.provider.begin_family();
                self.verdicts.alerts = 0;
            }
            Action::Tick => self.grow_older(),
        }
        // Nobody waits for these any more; without this the same world would be
        // counted many times.
        let replicas = &self.replicas;
        self.answers.retain(|answer| replicas.iter().any(|r| r.waits_for(answer.attempt)));
    }

    fn claim(&mut self, design: &Design, i: usize, is_choice: bool) {
        let id = AttemptId(Uuid::from_u128(u128::from(self.spent.attempts)));
        let lifetime = SEND_WITHIN + ASSERTION_MARGIN + design.profile.assertion_tolerance;
        let claim = Claim {
            attempt: id,
            owner: Owner(Uuid::from_u128(u128::try_from(i).unwrap_or_default())),
            asks: if is_choice && design.knows_whose_request { Asks::Target } else { Asks::Grant },
            fenced_at: design.fenced.then(|| NOW.plus(lifetime)),
        };
        let seen = match (design.exclusion, &self.row.grant) {
            (Exclusion::TimeToLive, GrantState::Sending(a)) if a.started_at < NOW => {
                self.row_with(GrantState::Active)
            }
            (Exclusion::AdoptsLive, GrantState::Sending(attempt)) => {
                let (cause, probe_after) = (InDoubtCause::OwnerDied, NOW.minus(Duration::from_millis(1)));
                self.row_with(GrantState::InDoubt { attempt: attempt.clone(), cause, probe_after })
            }
            _ => self.row.clone(),
        };
        let Ok(next) = protocol::claim(&seen, &claim, &design.profile, NOW) else { return };
        let GrantState::Sending(attempt) = next.grant.clone() else { return };
        if design.exclusion != Exclusion::ProcessMutex {
            self.row = next;
        }
        self.spent.attempts += 1;
        self.spent.choices += u8::from(is_choice);
        let of = self.reference(id);
        self.replicas[i].doing = Doing::Prepared(Flight { attempt, of, token: self.stored_token, is_choice });
    }

    fn reference(&self, attempt: AttemptId) -> AttemptRef {
        AttemptRef { attempt, lineage: self.row.lineage, generation: self.row.generation }
    }

    /// Lets the protocol decide on what has become of an attempt.
    fn end(&mut self, design: &Design, flight: &Flight, end: &End) {
        let seen = match design.exclusion {
            Exclusion::Row | Exclusion::AdoptsLive => self.row.clone(),
            // Who has a lock of this kind never looks at the row again.
            Exclusion::ProcessMutex | Exclusion::TimeToLive => {
                self.row_with(GrantState::Sending(flight.attempt.clone()))
            }
        };
        if let Advanced::Moved { state, alert } =
            protocol::advance(&seen, &flight.of, end, &design.profile, NOW)
        {
            self.move_to(state, alert);
        }
    }

    fn move_to(&mut self, state: State, alert: Option<Alert>) {
        self.verdicts.went_back |= state.generation < self.row.generation;
        self.row = state;
        self.verdicts.alerts += u8::from(matches!(alert, Some(Alert::Lost(_))));
    }

    fn row_with(&self, grant: GrantState) -> State {
        State { grant, not_before: None, last_attempt: None, ..self.row.clone() }
    }

    fn commit(&mut self, design: &Design, kept: Kept) {
        let before = self.row.clone();
        let seen = match design.exclusion {
            Exclusion::Row | Exclusion::AdoptsLive => before.clone(),
            Exclusion::ProcessMutex | Exclusion::TimeToLive => {
                self.row_with(GrantState::Sending(owned_by(kept.of.attempt)))
            }
        };
        let end = End::Answered { renewed: true };
        match protocol::advance(&seen, &kept.of, &end, &design.profile, NOW) {
            Advanced::Moved { state, alert } => {
                self.move_to(state, alert);
                self.verdicts.went_back |= kept.new_token < self.stored_token;
                self.stored_token = kept.new_token;
                self.verdicts.recovered |= match &before.grant {
                    GrantState::Sending(attempt) => attempt.follows.is_some(),
                    GrantState::InDoubt { .. } => true,
                    _ => false,
                };
            }
            Advanced::Repeated if design.commits_repeat => {}
            Advanced::Late => {
                self.verdicts.threw_live_token_away |= self.provider.accepts(kept.new_token);
            }
            Advanced::Repeated | Advanced::Orphaned => {
                self.verdicts.threw_live_token_away |= self.provider.accepts(kept.new_token);
                self.provider.families[usize::from(kept.new_token.family)].is_revoked = true;
            }
        }
    }

    fn receive(&mut self, design: &Design, i: usize, answer: Answer) {
        self.answers.remove(&answer);
        let Doing::Waiting(flight) = self.replicas[i].take() else { return };
        let profile = &design.profile;
        let refused = |says| Refused { says, proves_unused: false, complete: true, retry_after: None };
        let refused = match answer.says {
            Says::NewToken(token) => {
                self.replicas[i].doing = Doing::Received(flight, token);
                return;
            }
            Says::InvalidGrant => refused(protocol::Says::InvalidGrant),
            Says::InvalidClient => Refused {
                proves_unused: profile.client_error_proves_unused,
                ..refused(protocol::Says::ClientRejected)
            },
            Says::Throttled => Refused {
                proves_unused: profile.throttle_proves_unused,
                complete: false,
                ..refused(protocol::Says::Outage)
            },
            Says::Broken => Refused { complete: false, ..refused(protocol::Says::Outage) },
            Says::ChoiceRefused => refused(protocol::Says::Nothing),
        };
        self.end(design, &flight, &End::Refused(refused));
    }

    fn refuse_choice(&mut self, design: &Design, request: Request, how: Refusing) -> Says {
        if request.expires.is_some_and(|expires| expires < NOW) {
            return Says::InvalidClient;
        }
        match how {
            Refusing::Untouched => Says::ChoiceRefused,
            Refusing::CalledInvalid => Says::InvalidGrant,
            Refusing::Spent => match self.serve(design, request) {
                Says::NewToken(_) => Says::ChoiceRefused,
                says => says,
            },
        }
    }

    /// A connection that breaks while something is on its way is a fault; a
    /// timeout when nothing comes any more is not.
    fn count_reset(&mut self, flight: &Flight) {
        let id = number(flight.attempt.id);
        if self.requests.iter().any(|r| r.attempt == id) || self.answers.iter().any(|a| a.attempt == id) {
            self.spent.faults += 1;
        }
    }
}

/// The attempt as who has a lock of this kind believes it to be in the row.
fn owned_by(id: AttemptId) -> Attempt {
    Attempt {
        id,
        epoch: Epoch(0),
        owner: Owner(Uuid::nil()),
        asks: Asks::Grant,
        started_at: NOW,
        in_use_since: NOW,
        fenced_at: None,
        follows: None,
        overtakes: None,
    }
}
