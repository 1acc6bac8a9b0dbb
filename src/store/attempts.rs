//! What the store is told of attempts, and what it answers: the two commits of a
//! redemption.

use crate::clock::Timestamp;
use crate::domain::grant::{Attempt, AttemptId, Epoch, Generation, Grant, GrantId, Lineage};
use crate::domain::key::KeyVersion;
use crate::domain::profile::Profile;
use crate::domain::protocol::{self, Advanced, AttemptRef, End, Refusal};
use crate::seal::Sealed;

/// Commit 1 of a redemption: the durable intent to send. The store asks
/// [`protocol::claim`] in its transaction; what the caller saw before is compared
/// first, since its request was made from it.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The grant.
    pub grant: GrantId,
    /// The consent whose token will be sent.
    pub lineage: Lineage,
    /// The generation that will be sent.
    pub generation: Generation,
    /// The epoch that the request was prepared for.
    pub epoch: Epoch,
    /// What is asked of the protocol.
    pub claim: protocol::Claim,
    /// How the provider behaves.
    pub profile: Profile,
    /// When.
    pub at: Timestamp,
}

/// Why a claim was refused; nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimRefused {
    /// The grant is not as the caller saw it, or is gone: read again.
    Changed,
    /// The tenant is out of service.
    OutOfService,
    /// The protocol refuses it.
    Protocol(Refusal),
}

/// The end of an attempt. The store asks [`protocol::advance`] in its
/// transaction and writes what it says. Commit 2 is the end with tokens.
#[derive(Debug, Clone)]
pub struct Advance {
    /// The grant.
    pub grant: GrantId,
    /// Which attempt ended.
    pub of: AttemptRef,
    /// How.
    pub end: End,
    /// The new refresh token, where the end brought one.
    pub renewed: Option<Renewed>,
    /// What else an answer with tokens changes.
    pub dates: Option<Dates>,
    /// How the provider behaves.
    pub profile: Profile,
    /// When.
    pub at: Timestamp,
}

/// The dates of a grant whose token was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dates {
    /// When the token dies of not being used.
    pub idle_expires_at: Option<Timestamp>,
    /// When the rotation job refreshes the grant.
    pub next_refresh_at: Timestamp,
}

/// A new refresh token.
#[derive(Debug, Clone)]
pub struct Renewed {
    /// Its generation: the old one + 1.
    pub generation: Generation,
    /// The key version it is sealed under; must be the tenant's newest
    /// (invariants 4 and I8), checked in the same transaction.
    pub key_version: KeyVersion,
    /// The sealed token.
    pub sealed: Sealed,
}

/// What the end of an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// What became of the state.
    pub outcome: Advanced,
    /// The grant as it is now; `None`: it is gone.
    pub grant: Option<Grant>,
}

/// Why the end of an attempt could not be written as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdvanceRefused {
    /// The tenant's newest key version is another one now: seal again.
    KeyVersionMoved,
    /// The tenant was purged after the claim (invariant I9). One whose purge is
    /// scheduled still takes the answer, or a restore would find a used token.
    TenantGone,
}

/// Whose answer is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerOf {
    /// A redemption's.
    Attempt(AttemptId),
    /// An enrolment's.
    Enrolment(AttemptId),
}

/// An attempt that has not ended.
#[derive(Debug, Clone)]
pub struct OpenAttempt {
    /// The grant, SENDING or IN_DOUBT.
    pub grant: Grant,
    /// The attempt.
    pub attempt: Attempt,
    /// The raw answer, when it became durable before the owner died.
    pub answer: Option<Sealed>,
}
