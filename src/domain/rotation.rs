//! A run of the rotation job, as the store keeps it.

use uuid::Uuid;

use crate::clock::Timestamp;

/// The step a run is at; a run takes them in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// New key versions where they are due.
    NewVersions,
    /// Due grants are refreshed.
    Refresh,
    /// All other sealed values are re-sealed.
    Reseal,
    /// Versions that nothing has named for all of their retention are destroyed.
    Retire,
    /// Ended.
    Done,
}

/// What started a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// The schedule.
    Schedule,
    /// A scheduled run was missed while the process was down.
    CatchUp,
    /// A run that a crash interrupted goes on.
    Resume,
    /// A caller asked for it.
    Request,
}

impl Trigger {
    /// The word on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::CatchUp => "catch-up",
            Self::Resume => "resume",
            Self::Request => "request",
        }
    }
}

/// What a run was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// A new key version for every active tenant, due or not.
    pub force_new_versions: bool,
    /// Every active grant is refreshed, due or not.
    pub refresh_all: bool,
}

/// One run and its counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its identifier.
    pub id: Uuid,
    /// The step it is at.
    pub phase: Phase,
    /// What started it.
    pub trigger: Trigger,
    /// What it was asked for.
    pub options: RunOptions,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Counts so far.
    pub counts: Counts,
}

/// Counts of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tenants that got a new key version.
    pub versions_created: u64,
    /// Grants due for a refresh.
    pub refresh_total: u64,
    /// Grants refreshed.
    pub refreshed: u64,
    /// Grants whose refresh failed.
    pub refresh_failed: u64,
    /// Sealed values under older versions when the step began.
    pub reseal_total: u64,
    /// Values re-sealed.
    pub resealed: u64,
    /// Values that could not be opened.
    pub reseal_failed: u64,
    /// Key versions destroyed.
    pub versions_destroyed: u64,
}
