//! The world around `redeem::step`: replicas that crash and sleep, a network
//! that loses, a provider that rotates and detects reuse, a store that fails.
//!
//! Time has no bound here. All moments are kept relative to [`NOW`]; a tick
//! makes everything older by [`TICK`], and what is older than two ticks stays
//! that old, past every deadline there is. So one tick after commit 1 a client
//! assertion still lives and it is too late to send; after two ticks the
//! assertion is dead, the hard limit has passed and a probe is due.

use std::collections::BTreeSet;
use std::time::Duration;

use obo_vault::clock::Timestamp;
use obo_vault::domain::grant::{Attempt, AttemptId, Epoch, Generation, GrantState};
use obo_vault::domain::profile::Reuse;
use obo_vault::redeem::step::{self, Alert, Effect, Event, Refused, SEND_WITHIN};
use uuid::Uuid;

use super::design::{Design, Exclusion, Journal, Sleep};

/// The present moment, always.
const NOW: Timestamp = Timestamp(1_000_000_000);

/// More than half the hard limit and less than a client assertion's life.
const TICK: Duration = Duration::from_secs(63);

/// How long after `send_by` a client assertion expires.
const ASSERTION_MARGIN: Duration = Duration::from_secs(5);

/// One state of everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// The grant's row, as `step` sees it.
    pub(crate) row: step::State,
    /// The refresh token in the row, as the provider counts them.
    pub(crate) stored_token: u8,
    /// The provider's side.
    pub(crate) provider: Provider,
    /// What has been seen that must not be, or has to be possible.
    pub(crate) verdicts: Verdicts,
    store_is_up: bool,
    replicas: Vec<Replica>,
    requests: BTreeSet<Request>,
    answers: BTreeSet<Answer>,
    spent: Spent,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Replica {
    is_up: bool,
    doing: Doing,
    /// A durable answer that is not committed yet. With [`Journal::Store`] it
    /// lies in the store.
    journal: Option<Kept>,
}

/// What a replica holds in its memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Doing {
    Nothing,
    /// Commit 1 is done; the request is not out.
    Prepared(Flight),
    /// The request is out.
    Waiting(Flight),
    /// The answer is in, and nowhere durable.
    Received(Flight, u8),
}

/// An attempt with the token it redeems.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Flight {
    attempt: Attempt,
    token: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Kept {
    attempt: AttemptId,
    new_token: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Request {
    attempt: u8,
    token: u8,
    epoch: Epoch,
    expires: Option<Timestamp>,
    /// A request that the HTTP client has sent again.
    is_repeat: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Answer {
    attempt: u8,
    says: Says,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Says {
    NewToken(u8),
    InvalidGrant,
    InvalidClient,
    Throttled,
    Broken,
}

/// The provider: which token is current, and whether the family lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Provider {
    current: u8,
    rotated_at: Timestamp,
    is_revoked: bool,
    used: BTreeSet<(u8, Epoch)>,
}

impl Provider {
    /// Whether this token would be accepted as the current one.
    pub(crate) fn accepts(&self, token: u8) -> bool {
        !self.is_revoked && token == self.current
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Verdicts {
    pub(crate) used_twice: bool,
    pub(crate) avoidable_loss: bool,
    pub(crate) went_back: bool,
    pub(crate) threw_live_token_away: bool,
    pub(crate) recovered: bool,
    pub(crate) alerts: u8,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Spent {
    attempts: u8,
    crashes: u8,
    faults: u8,
    outages: u8,
}

/// What may happen next. Numbers are replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Claim(usize),
    Send(usize),
    /// No byte was written: too late, or no connection.
    DoNotSend(usize),
    Deliver(Request),
    /// Refused before the token is looked at.
    Throttle(Request),
    /// The token is spent, and the answer is a server error.
    Break(Request),
    LoseRequest(Request),
    LoseAnswer(Answer),
    Receive(usize, Answer),
    GiveUp(usize),
    SendAgain(usize),
    /// The answer becomes durable.
    Record(usize),
    Commit(usize),
    /// The attempt's owner is taken for dead.
    OwnerDied,
    Crash(usize),
    Restart(usize),
    StoreFails,
    StoreReturns,
    Tick,
}

impl World {
    pub(crate) fn new(design: &Design) -> Self {
        let idle = Replica { is_up: true, doing: Doing::Nothing, journal: None };
        Self {
            row: step::State { generation: Generation(0), grant: GrantState::Active, not_before: None },
            stored_token: 0,
            provider: Provider { current: 0, rotated_at: oldest(), is_revoked: false, used: BTreeSet::new() },
            verdicts: Verdicts::default(),
            store_is_up: true,
            replicas: vec![idle; design.replicas],
            requests: BTreeSet::new(),
            answers: BTreeSet::new(),
            spent: Spent::default(),
        }
    }

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
            }
            if self.spent.crashes < bounds.crashes {
                actions.push(Action::Crash(i));
            }
        }
        for request in &self.requests {
            actions.push(Action::Deliver(*request));
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
            && self.stored_token < bounds.refreshes
            && (!doubtful || !design.awaits_journals || journals_are_done)
    }

    fn owner_may_be_dead(&self, design: &Design) -> bool {
        let GrantState::Sending(attempt) = &self.row.grant else { return false };
        let held = self.replicas.iter().any(|r| {
            let flies = r.flight().is_some_and(|flight| flight.attempt.id == attempt.id);
            r.is_up && (flies || r.journal.is_some_and(|kept| kept.attempt == attempt.id))
        });
        design.exclusion == Exclusion::Row && (!held || attempt.started_at == oldest())
    }

    /// A live process keeps its hard limit, as far as the design counts on it:
    /// time stands still while it is about to break it.
    fn time_may_pass(&self, design: &Design) -> bool {
        let at_its_limit = |attempt: &Attempt| attempt.started_at == NOW.minus(TICK);
        let awake = self.replicas.iter().filter(|r| r.is_up).all(|r| match &r.doing {
            Doing::Nothing => true,
            Doing::Prepared(f) => design.sleep != Sleep::Never || !at_its_limit(&f.attempt),
            Doing::Waiting(f) | Doing::Received(f, _) => {
                design.sleep == Sleep::Anywhere || !at_its_limit(&f.attempt)
            }
        });
        awake && (!design.packets_are_prompt || self.requests.is_empty())
    }

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

    /// The provider's side of a request.
    fn serve(&mut self, design: &Design, request: Request) -> Says {
        if request.expires.is_some_and(|expires| expires < NOW) {
            return Says::InvalidClient;
        }
        if self.provider.is_revoked {
            return Says::InvalidGrant;
        }
        if request.token == self.provider.current {
            self.verdicts.used_twice |= !self.provider.used.insert((request.token, request.epoch));
            self.provider.current += 1;
            self.provider.rotated_at = NOW;
            return Says::NewToken(self.provider.current);
        }
        if let Reuse::Grace { window } = design.profile.reuse {
            let previous = request.token + 1 == self.provider.current;
            if previous && NOW <= self.provider.rotated_at.plus(window) {
                return Says::NewToken(self.provider.current);
            }
        }
        self.verdicts.avoidable_loss |= self.newest_token_is_held();
        self.provider.is_revoked = true;
        Says::InvalidGrant
    }

    /// Whether the provider's newest token is in the store, in a journal, in a
    /// live process, or on its way to one.
    fn newest_token_is_held(&self) -> bool {
        let newest = self.provider.current;
        self.stored_token == newest
            || self.answers.iter().any(|a| a.says == Says::NewToken(newest))
            || self.replicas.iter().any(|r| {
                r.journal.is_some_and(|kept| kept.new_token == newest)
                    || matches!(r.doing, Doing::Received(_, token) if token == newest)
            })
    }

    /// A connection that breaks while something is on its way is a fault; a
    /// timeout when nothing comes any more is not.
    fn count_reset(&mut self, flight: &Flight) {
        let id = number(flight.attempt.id);
        if self.requests.iter().any(|r| r.attempt == id) || self.answers.iter().any(|a| a.attempt == id) {
            self.spent.faults += 1;
        }
    }

    fn grow_older(&mut self) {
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
        age(&mut self.provider.rotated_at);
    }
}

impl Replica {
    fn take(&mut self) -> Doing {
        std::mem::replace(&mut self.doing, Doing::Nothing)
    }

    fn flight(&self) -> Option<&Flight> {
        match &self.doing {
            Doing::Nothing => None,
            Doing::Prepared(flight) | Doing::Waiting(flight) | Doing::Received(flight, _) => Some(flight),
        }
    }

    fn waits_for(&self, attempt: u8) -> bool {
        matches!(&self.doing, Doing::Waiting(flight) if number(flight.attempt.id) == attempt)
    }
}

impl Request {
    fn of(flight: &Flight, is_repeat: bool) -> Self {
        Self {
            attempt: number(flight.attempt.id),
            token: flight.token,
            epoch: flight.attempt.epoch,
            expires: flight.attempt.fenced_at,
            is_repeat,
        }
    }
}

/// Attempts are numbered in the order of their claims.
fn number(id: AttemptId) -> u8 {
    id.0.as_bytes()[15]
}

fn oldest() -> Timestamp {
    NOW.minus(TICK * 2)
}

fn age_attempt(attempt: &mut Attempt) {
    age(&mut attempt.started_at);
    if let Some(fenced_at) = &mut attempt.fenced_at {
        age(fenced_at);
    }
}

fn age(moment: &mut Timestamp) {
    *moment = moment.minus(TICK).max(oldest());
}
