//! The world around `domain::protocol`: replicas that crash and sleep, a network
//! that loses, a provider that rotates and detects reuse, a store that fails.
//!
//! - `action`: what may happen in a state;
//! - `change`: what that changes, where the protocol decides;
//! - `provider`: rotation and the detection of reuse;
//! - `time`: why none of this needs a bound on time.

use std::collections::BTreeSet;

use obo_vault::clock::Timestamp;
use obo_vault::domain::grant::{Attempt, AttemptId, Epoch, Lineage};
use obo_vault::domain::protocol::{AttemptRef, State};
use uuid::Uuid;

use super::design::Design;

mod action;
mod change;
mod provider;
mod time;

pub(crate) use action::Action;

use provider::Provider;

/// One state of everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// The grant's row, as the protocol sees it.
    pub(crate) row: State,
    /// The refresh token in the row.
    pub(crate) stored_token: Token,
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

/// A refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Token {
    /// Which consent it descends from.
    pub(crate) family: u8,
    /// How often that family was rotated before.
    pub(crate) rotation: u8,
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
    Received(Flight, Token),
}

/// An attempt with the token it redeems.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Flight {
    attempt: Attempt,
    of: AttemptRef,
    token: Token,
    /// Whether a caller chose what it asks for.
    is_choice: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Kept {
    of: AttemptRef,
    new_token: Token,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Request {
    attempt: u8,
    token: Token,
    epoch: Epoch,
    expires: Option<Timestamp>,
    /// A request that the HTTP client has sent again.
    is_repeat: bool,
    /// Whether a caller chose what it asks for.
    is_choice: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Answer {
    attempt: u8,
    says: Says,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Says {
    NewToken(Token),
    InvalidGrant,
    InvalidClient,
    Throttled,
    Broken,
    ChoiceRefused,
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
    enrolments: u8,
    choices: u8,
    lost_acknowledgements: u8,
}

impl World {
    pub(crate) fn new(design: &Design) -> Self {
        let idle = Replica { is_up: true, doing: Doing::Nothing, journal: None };
        let mut provider = Provider::default();
        Self {
            row: State::enrolled(None, lineage(0)),
            stored_token: provider.begin_family(),
            provider,
            verdicts: Verdicts::default(),
            store_is_up: true,
            replicas: vec![idle; design.replicas],
            requests: BTreeSet::new(),
            answers: BTreeSet::new(),
            spent: Spent::default(),
        }
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
            is_choice: flight.is_choice,
        }
    }
}

fn lineage(n: u8) -> Lineage {
    Lineage(Uuid::from_u128(u128::from(n)))
}

/// Attempts are numbered in the order of their claims.
fn number(id: AttemptId) -> u8 {
    id.0.as_bytes()[15]
}
