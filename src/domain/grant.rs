//! A grant, its states, and an attempt to redeem its refresh token.

use std::fmt;

use uuid::Uuid;

use crate::clock::Timestamp;

use super::id::{ClientId, Issuer, SubjectId, TenantId};
use super::key::KeyVersion;
use super::scope::{Claims, ScopeSet};

/// What a grant is found by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantKey {
    /// The tenant.
    pub tenant: TenantId,
    /// The OAuth client.
    pub client: ClientId,
    /// The user.
    pub subject: SubjectId,
}

/// Identifier of a grant; outlives its renewals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantId(pub Uuid);

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifier of one attempt at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptId(pub Uuid);

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One consent of a user: from the enrolment that made or replaced the grant to
/// the one that replaces it. All tokens of a lineage descend from one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lineage(pub Uuid);

/// Who made an attempt: one run of one process. An attempt is given up for its
/// owner only on proof that this owner is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(pub Uuid);

/// Whose wishes a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Asks {
    /// The grant's own request: its scopes, no claims. What the provider says to
    /// it is said about the grant.
    Grant,
    /// Scopes, a resource or claims that a caller chose. What the provider says
    /// to it may be said about that choice alone.
    Target,
}

/// Number of a grant's refresh token; never goes back (invariant I4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// How often a generation was taken over after an unknown outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u32);

/// Why the outcome of an attempt is unknown. Stable codes, shown to operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InDoubtCause {
    /// The connection broke or timed out after the first byte.
    Interrupted,
    /// The process died while the request was out.
    OwnerDied,
    /// The provider's answer does not prove the token unused.
    AmbiguousAnswer,
    /// The provider rejected the client's own credentials.
    ClientRejected,
    /// The provider refused what a caller had chosen, in a whole error of its
    /// own; the refusal may have used the token. Nothing is under way.
    TargetRefused,
    /// The same, and the refusal called the token itself invalid.
    TargetCalledInvalid,
}

impl InDoubtCause {
    /// The stable word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interrupted => "interrupted",
            Self::OwnerDied => "owner_died",
            Self::AmbiguousAnswer => "ambiguous_answer",
            Self::ClientRejected => "client_rejected",
            Self::TargetRefused => "target_refused",
            Self::TargetCalledInvalid => "target_called_invalid",
        }
    }

    /// Whether a request may still be on its way. After a whole error of the
    /// provider none is.
    #[must_use]
    pub fn may_be_under_way(self) -> bool {
        match self {
            Self::Interrupted | Self::OwnerDied | Self::AmbiguousAnswer | Self::ClientRejected => true,
            Self::TargetRefused | Self::TargetCalledInvalid => false,
        }
    }

    /// The cause a stable word stands for.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [
            Self::Interrupted,
            Self::OwnerDied,
            Self::AmbiguousAnswer,
            Self::ClientRejected,
            Self::TargetRefused,
            Self::TargetCalledInvalid,
        ]
        .into_iter()
        .find(|c| c.as_str() == word)
    }
}

/// One attempt to redeem a refresh token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// Its identifier; commit 2 compares it.
    pub id: AttemptId,
    /// How often this generation was taken over.
    pub epoch: Epoch,
    /// Who made it.
    pub owner: Owner,
    /// Whose wishes its request carries.
    pub asks: Asks,
    /// When commit 1 was made.
    pub started_at: Timestamp,
    /// Since when the token may have been used: the first of the attempts whose
    /// outcomes are unknown, or this one. A grace window counts from it.
    pub in_use_since: Timestamp,
    /// When the `client_assertion` it carries stops being valid at the
    /// provider, tolerance included. `None`: it carries a client secret, which
    /// does not fence.
    pub fenced_at: Option<Timestamp>,
    /// The unknown outcome this attempt follows. While there is one, nothing but
    /// an answer of the provider resolves it.
    pub follows: Option<InDoubtCause>,
    /// Until when a request before it may still reach the provider and be taken
    /// there: this one was made earlier, within a grace window.
    pub overtakes: Option<Timestamp>,
}

/// What the vault knows of the grant's newest refresh token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GrantState {
    /// It is the provider's current one.
    Active,
    /// It is on its way to the provider, or may be.
    Sending(Attempt),
    /// It may have been used.
    InDoubt {
        /// The attempt whose outcome is unknown.
        attempt: Attempt,
        /// Why.
        cause: InDoubtCause,
        /// From when on anyone may try again.
        probe_after: Timestamp,
    },
    /// The provider refused it on its first use.
    Revoked,
    /// The provider refused it after an unknown outcome; the cause is that one's.
    Lost {
        /// What led to the loss.
        cause: InDoubtCause,
    },
    /// The provider wants the user to act.
    Reauth {
        /// What to pass on in the authorization request.
        claims: Option<Claims>,
        /// The provider's `error`, as far as the vault knows the word.
        error: &'static str,
        /// The provider's `suberror`, as far as the vault knows the word.
        suberror: &'static str,
    },
}

/// A grant as the store keeps it; the sealed token stays in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its identifier.
    pub id: GrantId,
    /// What it is found by.
    pub key: GrantKey,
    /// Who issued it.
    pub issuer: Issuer,
    /// Which consent its tokens descend from.
    pub lineage: Lineage,
    /// What is known of its newest refresh token.
    pub state: GrantState,
    /// Number of that token.
    pub generation: Generation,
    /// The attempt that ended last, so that its end may be told twice.
    pub last_attempt: Option<AttemptId>,
    /// How many requests in a row the provider has answered with nothing that
    /// says anything of the grant.
    pub unhelpful: u32,
    /// Version of the tenant's key that seals it.
    pub key_version: KeyVersion,
    /// Scopes the provider granted.
    pub scopes: ScopeSet,
    /// Scopes the enrolment asked for. The user agreed to these, so they may be
    /// asked for as long as the grant lives, however the provider spells what it
    /// granted.
    pub asked: ScopeSet,
    /// The resource that the enrolment asked for, when it did.
    pub resource: Option<super::scope::Resource>,
    /// When it was first enrolled.
    pub created_at: Timestamp,
    /// When the token was last replaced or used.
    pub refreshed_at: Timestamp,
    /// When the token dies of not being used, as its provider counts.
    pub idle_expires_at: Option<Timestamp>,
    /// When the grant dies in any case.
    pub absolute_expires_at: Option<Timestamp>,
    /// When the rotation job refreshes it.
    pub next_refresh_at: Timestamp,
    /// No attempt before then: the provider asked for a pause.
    pub not_before: Option<Timestamp>,
}
