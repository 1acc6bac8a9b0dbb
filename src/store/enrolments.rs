//! What the store is told of enrolments, and what it answers: the same two commits
//! for a grant that the vault acquires.

use crate::clock::Timestamp;
use crate::domain::grant::{AttemptId, Generation, GrantId, GrantKey, Lineage, Owner};
use crate::domain::id::Issuer;
use crate::domain::scope::{Resource, ScopeSet};
use crate::seal::Sealed;

use super::attempts::{Dates, Renewed};

/// An enrolment: the durable intent to acquire a user's grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// Its identifier.
    pub attempt: AttemptId,
    /// The consent that it makes.
    pub lineage: Lineage,
    /// Who makes it.
    pub owner: Owner,
    /// What it begins with.
    pub kind: EnrolmentKind,
    /// The grant that will be made or replaced.
    pub key: GrantKey,
    /// The grant's identifier: the existing one, or a new one.
    pub grant: GrantId,
    /// The generation the new token will have.
    pub generation: Generation,
    /// Who issues it.
    pub issuer: Issuer,
    /// The scopes asked for.
    pub scopes: ScopeSet,
    /// The resource asked for.
    pub resource: Option<Resource>,
    /// When it began.
    pub started_at: Timestamp,
}

/// What an enrolment begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnrolmentKind {
    /// A user's verified access token, which says whose the grant is.
    OnBehalfOf,
    /// A refresh token from elsewhere. The provider's answer must prove whose it
    /// is; the mark finds the enrolment again when the same token is imported
    /// once more. `None`: from a version that made no marks.
    Import(Option<ImportMark>),
}

/// A keyed hash of an imported token, which tells nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportMark(pub [u8; 32]);

/// Where an enrolment is that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnrolmentStage {
    /// Its request is on its way, or may be.
    Sending,
    /// It may have used the imported token. From `probe_after` on the same import
    /// may be tried once more.
    InDoubt {
        /// When its request is harmless.
        probe_after: Timestamp,
    },
    /// Its answer is kept, sealed and unusable, until the identity in it can be
    /// understood.
    Held {
        /// When it is given up.
        until: Timestamp,
    },
}

/// Commit 2 of an enrolment.
#[derive(Debug, Clone)]
pub struct EnrolmentCommit {
    /// The enrolment; its grant, generation and issuer are those that the token
    /// is sealed for.
    pub enrolment: Enrolment,
    /// The new refresh token.
    pub renewed: Renewed,
    /// Scopes granted.
    pub scopes: ScopeSet,
    /// When the answer was taken.
    pub at: Timestamp,
    /// When the grant dies in any case.
    pub absolute_expires_at: Option<Timestamp>,
    /// Its dates.
    pub dates: Dates,
}

/// Why commit 2 of an enrolment, or its beginning, was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnrolmentRefused {
    /// The tenant's newest key version is another one now: seal again.
    KeyVersionMoved,
    /// The tenant is out of service or gone.
    TenantGone,
    /// The grant has moved on meanwhile: seal again for this place.
    PlaceMoved {
        /// The grant's identifier.
        grant: GrantId,
        /// The generation that the token gets.
        generation: Generation,
    },
    /// The enrolment is gone, and so is what it made: revoked or replaced.
    Orphaned,
}

/// An enrolment that has not ended.
#[derive(Debug, Clone)]
pub struct OpenEnrolment {
    /// The enrolment.
    pub enrolment: Enrolment,
    /// Where it is.
    pub stage: EnrolmentStage,
    /// The raw answer, when it became durable.
    pub answer: Option<Sealed>,
}
