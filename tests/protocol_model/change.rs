//! What an action changes. Whatever a replica decides, `redeem::step` decides.

use std::time::Duration;

use obo_vault::domain::grant::{Attempt, AttemptId, Epoch, GrantState};
use obo_vault::redeem::step::{self, Alert, Effect, Event, Refused, SEND_WITHIN};
use uuid::Uuid;

use super::action::Action;
use super::time::NOW;
use super::{Answer, Doing, Flight, Kept, Request, Says, World, number};
use crate::design::{Design, Exclusion, Journal};

/// How long after `send_by` a client assertion expires.
const ASSERTION_MARGIN: Duration = Duration::from_secs(5);

impl World {
    /// Lets it happen.
    pub(crate) fn apply(&mut self, design: &Design, action: &Action) {
        match *action {
            Action::Claim(i) => self.claim(design, i),
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
                    self.take_step(design, &flight, &Event::Unsent(flight.attempt.id));
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
                    self.take_step(design, &flight, &Event::Interrupted(flight.attempt.id));
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
                    let kept = Kept { attempt: flight.attempt.id, new_token };
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
            Action::OwnerDied => {
                if let GrantState::Sending(attempt) = self.row.grant.clone() {
                    let flight = Flight { attempt, token: self.stored_token };
                    self.take_step(design, &flight, &Event::OwnerDied(flight.attempt.id));
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
                self.spent.intakes += 1;
                if let Ok(next) = step::step(&self.row, &Event::Replaced, &design.profile, NOW) {
                    self.verdicts.went_back |= next.state.generation <= self.row.generation;
                    self.row = next.state;
                    self.stored_token = self.provider.begin_family();
                    self.verdicts.alerts = 0;
                }
            }
            Action::Tick => self.grow_older(),
        }
        // Nobody waits for these any more; without this the same world would be
        // counted many times.
        let replicas = &self.replicas;
        self.answers.retain(|answer| replicas.iter().any(|r| r.waits_for(answer.attempt)));
    }

    fn claim(&mut self, design: &Design, i: usize) {
        let id = AttemptId(Uuid::from_u128(u128::from(self.spent.attempts)));
        let life = SEND_WITHIN + ASSERTION_MARGIN + design.profile.assertion_tolerance;
        let event = Event::Claim { attempt: id, fenced_at: design.fenced.then(|| NOW.plus(life)) };
        let seen = match (design.exclusion, &self.row.grant) {
            (Exclusion::TimeToLive, GrantState::Sending(a)) if a.started_at < NOW => {
                self.row_with(GrantState::Active)
            }
            _ => self.row.clone(),
        };
        let Ok(next) = step::step(&seen, &event, &design.profile, NOW) else { return };
        for effect in &next.effects {
            match effect {
                Effect::Persist if design.exclusion == Exclusion::ProcessMutex => {}
                Effect::Persist => self.row = next.state.clone(),
                Effect::Send => {
                    if let GrantState::Sending(attempt) = &next.state.grant {
                        self.spent.attempts += 1;
                        let flight = Flight { attempt: attempt.clone(), token: self.stored_token };
                        self.replicas[i].doing = Doing::Prepared(flight);
                    }
                }
                Effect::Alert(_) | Effect::RevokeAnswer => {}
            }
        }
    }

    /// Lets `step` decide on what has become of an attempt.
    fn take_step(&mut self, design: &Design, flight: &Flight, event: &Event) {
        let seen = match design.exclusion {
            Exclusion::Row => self.row.clone(),
            // Who has a lock of this kind never looks at the row again.
            Exclusion::ProcessMutex | Exclusion::TimeToLive => {
                self.row_with(GrantState::Sending(flight.attempt.clone()))
            }
        };
        let Ok(next) = step::step(&seen, event, &design.profile, NOW) else { return };
        for effect in &next.effects {
            match effect {
                Effect::Persist => {
                    self.verdicts.went_back |= next.state.generation < self.row.generation;
                    self.row = next.state.clone();
                }
                Effect::Alert(Alert::Lost(_)) => self.verdicts.alerts += 1,
                Effect::Alert(Alert::ClientRejected) | Effect::Send | Effect::RevokeAnswer => {}
            }
        }
    }

    fn row_with(&self, grant: GrantState) -> step::State {
        step::State { grant, not_before: None, ..self.row.clone() }
    }

    fn commit(&mut self, design: &Design, kept: Kept) {
        let before = self.row.clone();
        let attempt =
            Attempt { id: kept.attempt, epoch: Epoch(0), started_at: NOW, fenced_at: None, follows: None };
        let flight = Flight { attempt, token: self.stored_token };
        self.take_step(design, &flight, &Event::Answered { attempt: kept.attempt, renewed: true });
        if self.row == before {
            self.verdicts.threw_live_token_away |= self.provider.accepts(kept.new_token);
            self.provider.families[usize::from(kept.new_token.family)].is_revoked = true;
        } else {
            self.verdicts.went_back |= kept.new_token < self.stored_token;
            self.stored_token = kept.new_token;
            self.verdicts.recovered |= match &before.grant {
                GrantState::Sending(attempt) => attempt.follows.is_some(),
                GrantState::InDoubt { .. } => true,
                _ => false,
            };
        }
    }

    fn receive(&mut self, design: &Design, i: usize, answer: Answer) {
        self.answers.remove(&answer);
        let Doing::Waiting(flight) = self.replicas[i].take() else { return };
        let profile = &design.profile;
        let refused = match answer.says {
            Says::NewToken(token) => {
                self.replicas[i].doing = Doing::Received(flight, token);
                return;
            }
            Says::InvalidGrant => Refused::InvalidGrant,
            Says::InvalidClient => Refused::Client { proves_unused: profile.client_error_proves_unused },
            Says::Throttled => {
                Refused::Other { proves_unused: profile.throttle_proves_unused, retry_after: None }
            }
            Says::Broken => Refused::Other { proves_unused: false, retry_after: None },
        };
        self.take_step(design, &flight, &Event::Refused(flight.attempt.id, refused));
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
