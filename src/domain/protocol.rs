//! The redemption protocol as pure functions: what is known of a grant's refresh
//! token, and what that becomes.
//!
//! [`claim`] asks for the right to redeem the token and may be refused;
//! [`advance`] tells how an attempt ended and may not. Every back-end of the
//! store calls them inside its transaction, on the row as it is there, and
//! `tests/protocol_model.rs` checks these functions and no others.
//!
//! ```text
//! ACTIVE(g) ──claim: commit 1──────────────────▶ SENDING(g)
//! SENDING   ──proven unused────────────────────▶ ACTIVE(g), or back to the outcome it follows
//! SENDING   ──answer durable: commit 2─────────▶ ACTIVE(g+1)
//! SENDING   ──unknown after the first byte─────▶ IN_DOUBT
//! SENDING   ──a caller's choice refused────────▶ IN_DOUBT, the grant's own request follows at once
//! IN_DOUBT  ──late answer of the same attempt──▶ ACTIVE(g+1)
//! IN_DOUBT  ──now > probe_after────────────────▶ SENDING(g, epoch + 1)
//! invalid_grant on a first use ─▶ REVOKED        after an unknown outcome ─▶ LOST
//! interaction required ─▶ REAUTH                 enrolment ─▶ ACTIVE(g+1), from any state
//! ```
//!
//! Both may be repeated. An attempt that has ended is remembered, and to tell
//! its end again changes nothing; a commit whose acknowledgement was lost finds
//! its own lineage at its generation, or a later one, and is done.
//!
//! In reading order: this file, the states and what happens to them;
//! [`bounds`], the times; `claim`; `advance`.

use std::time::Duration;

use crate::clock::Timestamp;

use super::grant::{Asks, AttemptId, Generation, Grant, GrantState, InDoubtCause, Lineage, Owner};
use super::scope::Claims;

mod advance;
pub mod bounds;
mod claim;
#[cfg(test)]
mod tests;

pub use advance::advance;
pub use claim::claim;

/// What is known of a grant's refresh token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// Which consent it descends from.
    pub lineage: Lineage,
    /// Its number.
    pub generation: Generation,
    /// What is known of it.
    pub grant: GrantState,
    /// No attempt before then.
    pub not_before: Option<Timestamp>,
    /// The attempt that ended last.
    pub last_attempt: Option<AttemptId>,
    /// How many requests in a row were answered with nothing that helps.
    pub unhelpful: u32,
}

impl State {
    /// The state of a grant as the store keeps it.
    #[must_use]
    pub fn of(grant: &Grant) -> Self {
        Self {
            lineage: grant.lineage,
            generation: grant.generation,
            grant: grant.state.clone(),
            not_before: grant.not_before,
            last_attempt: grant.last_attempt,
            unhelpful: grant.unhelpful,
        }
    }

    /// The state that an enrolment makes: a new lineage, whatever was there.
    /// The generation never goes back (invariant I4).
    #[must_use]
    pub fn enrolled(before: Option<Generation>, lineage: Lineage) -> Self {
        Self {
            lineage,
            generation: before.map_or(Generation(1), Generation::next),
            grant: GrantState::Active,
            not_before: None,
            last_attempt: None,
            unhelpful: 0,
        }
    }
}

/// Somebody wants to redeem the token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    /// Identifier of the attempt that would be made.
    pub attempt: AttemptId,
    /// Who would make it.
    pub owner: Owner,
    /// Whose wishes its request carries.
    pub asks: Asks,
    /// When its `client_assertion` is dead at the provider.
    pub fenced_at: Option<Timestamp>,
}

/// Why a claim is refused; nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Another attempt owns the token.
    Busy,
    /// Not before the timestamp.
    NotYet(Timestamp),
    /// What the last request did is not known, so the grant's own request comes
    /// first: its answer is about the grant.
    OwnRequestFirst,
    /// The token is dead: REVOKED, LOST or REAUTH.
    Dead,
    /// This very attempt has ended.
    Over,
}

/// Which attempt an end is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttemptRef {
    /// Its identifier.
    pub attempt: AttemptId,
    /// The consent whose token it sent.
    pub lineage: Lineage,
    /// The generation it sent.
    pub generation: Generation,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum End {
    /// No request byte was written: DNS, connect or TLS failed, or it was too
    /// late to send.
    Unsent,
    /// The connection broke, or the exchange's end came, after the first byte.
    Interrupted,
    /// The owner named is proven gone and left no answer.
    OwnerDied(Owner),
    /// The provider answered without tokens.
    Refused(Refused),
    /// The provider's answer with tokens is durable.
    Answered {
        /// Whether it has a new refresh token; without one the old one stays.
        renewed: bool,
    },
}

/// What an answer without tokens says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Refused {
    /// What it says of the token.
    pub says: Says,
    /// Whether the profile takes it for proof that the token is unused.
    pub proves_unused: bool,
    /// Whether it is a whole error of the provider itself (4xx with a JSON
    /// `error`): then nothing of the request is under way any more.
    pub complete: bool,
    /// The pause the provider asked for.
    pub retry_after: Option<Duration>,
}

/// What an answer without tokens says of the token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Says {
    /// It is dead.
    InvalidGrant,
    /// The user has to act.
    Interaction {
        /// What to pass on in the authorization request.
        claims: Option<Claims>,
        /// The provider's `error`.
        error: &'static str,
        /// The provider's `suberror`.
        suberror: &'static str,
    },
    /// Nothing: the vault's own credentials were rejected.
    ClientRejected,
    /// Nothing: the provider asks for a pause, or has an outage.
    Outage,
    /// Nothing: a scope, a redirect, nonsense.
    Nothing,
}

/// What became of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advanced {
    /// It moved: write the new one.
    Moved {
        /// The new state.
        state: State,
        /// What an operator is told, once.
        alert: Option<Alert>,
    },
    /// It had moved already, by this very end or by a descendant of it.
    Repeated,
    /// The attempt no longer owns the token; nothing changes. An answer that
    /// comes so late is dropped, never revoked: its family may be the one that
    /// the grant lives on.
    Late,
    /// The answer belongs to a consent that was replaced (invariant I9): it must
    /// not be stored, and is revoked at the provider where that ends no more
    /// than the token.
    Orphaned,
}

/// What an operator is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alert {
    /// A token was lost; the user has to consent again.
    Lost(InDoubtCause),
    /// The provider rejects the vault's own credentials.
    ClientRejected,
    /// The provider answers again and again with nothing that helps.
    Unhelpful,
}
