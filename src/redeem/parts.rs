//! What the engine is built from, and what can be set.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::audit::AuditLog;
use crate::clock::{SharedClock, Timestamp};
use crate::domain::failure::Failure;
use crate::domain::grant::{AttemptId, Owner};
use crate::domain::profile::{IdleClock, Profile};
use crate::domain::reason::Reason;
use crate::entropy::{self, SharedEntropy};
use crate::idp::Idp;
use crate::keyring::Keyring;
use crate::metrics::Counters;
use crate::store::{Dates, Store};

use super::cache::Limits;

/// How often a grant is refreshed whose provider names no idle lifetime.
const UNNAMED_IDLE: Duration = Duration::from_secs(7 * 86_400);

/// What can be set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bounds of the token memory.
    pub cache: Limits,
    /// How often the job refreshes a grant, whatever its idle lifetime.
    pub refresh_every: Option<Duration>,
    /// How long before its idle end the job refreshes a grant.
    pub refresh_before_idle: Duration,
    /// Most that a refresh is moved ahead, at random, to spread the load.
    pub refresh_jitter: Duration,
    /// How long an import is held whose identity could not be understood.
    pub hold_imports: Duration,
    /// Whether the token store is an older copy and no operator has confirmed it:
    /// then nothing is redeemed.
    pub restore_unconfirmed: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cache: Limits::default(),
            refresh_every: None,
            refresh_before_idle: Duration::from_secs(14 * 86_400),
            refresh_jitter: Duration::from_secs(6 * 3600),
            hold_imports: Duration::from_secs(86_400),
            restore_unconfirmed: false,
        }
    }
}

/// What the engine works with.
#[derive(Clone)]
pub struct Parts {
    /// Tenants, grants, attempts.
    pub store: Arc<dyn Store>,
    /// Seals and opens.
    pub keyring: Arc<Keyring>,
    /// The providers.
    pub idp: Arc<Idp>,
    /// Where intents and outcomes are recorded.
    pub audit: Arc<AuditLog>,
    /// The time.
    pub clock: SharedClock,
    /// Randomness.
    pub entropy: SharedEntropy,
    /// Counters.
    pub metrics: Arc<Counters>,
    /// The deployment's random identity, which `jti`s and import marks are
    /// derived from.
    pub deployment: Uuid,
    /// This run of this process, random: the owner of its attempts.
    pub owner: Owner,
    /// What can be set.
    pub settings: Settings,
}

impl Parts {
    /// Nothing is redeemed from an older copy of the token store until an operator
    /// has confirmed it: its tokens may have been redeemed since.
    pub(super) fn check_confirmed(&self) -> Result<(), Failure> {
        if self.settings.restore_unconfirmed {
            let why = "the token store is older than the mark in the key store; stop the vault and put the newest \
                       one back, or confirm this one with `obo-vault store confirm-restore`";
            return Err(Failure::new(Reason::RestoreUnconfirmed, why));
        }
        Ok(())
    }

    /// A random identifier.
    pub(super) fn fresh_id(&self) -> Result<Uuid, Failure> {
        entropy::uuid(&*self.entropy).map_err(|e| Failure::new(Reason::Internal, e.to_string()))
    }

    /// A random attempt identifier.
    pub(super) fn fresh_attempt(&self) -> Result<AttemptId, Failure> {
        self.fresh_id().map(AttemptId)
    }

    /// The dates of a grant whose token was used now. `idle_expires_at` is the
    /// date of the token that stays, where none came: only what the provider
    /// counts moves it.
    pub(super) fn dates(
        &self,
        profile: &Profile,
        renewed: bool,
        idle_expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Dates {
        let starts_anew = renewed || profile.idle_clock == IdleClock::Use;
        let idle_expires_at = if starts_anew {
            profile.idle_lifetime.map(|lifetime| now.plus(lifetime))
        } else {
            idle_expires_at
        };
        Dates { idle_expires_at, next_refresh_at: self.next_refresh_at(profile, now) }
    }

    /// When the job refreshes a grant next.
    fn next_refresh_at(&self, profile: &Profile, now: Timestamp) -> Timestamp {
        let Settings { refresh_every, refresh_before_idle, refresh_jitter, .. } = &self.settings;
        let span = match profile.idle_lifetime {
            // Never earlier than half of its idle lifetime, however it is set.
            Some(idle) => idle.saturating_sub(*refresh_before_idle).max(idle / 2),
            None => UNNAMED_IDLE,
        };
        let span = refresh_every.map_or(span, |every| every.min(span));
        let jitter = (*refresh_jitter).min(span / 2);
        let early = entropy::between(&*self.entropy, Duration::ZERO, jitter).unwrap_or_default();
        now.plus(span - early)
    }
}
