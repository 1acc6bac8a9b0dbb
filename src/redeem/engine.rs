//! Getting an access token: from memory while one lives long enough there,
//! otherwise by one flight per grant.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::audit::AuditLog;
use crate::clock::{SharedClock, Timestamp};
use crate::domain::failure::Failure;
use crate::domain::grant::GrantKey;
use crate::domain::profile::Profile;
use crate::domain::reason::Reason;
use crate::domain::scope::Target;
use crate::entropy::{self, SharedEntropy};
use crate::idp::Idp;
use crate::keyring::Keyring;
use crate::metrics::Counters;
use crate::store::Store;

use super::cache::{IssuedToken, Limits, TokenCache};
use super::flight::{Flights, GrantLocks};
use super::gate::{Gates, Pass};
use super::record::Origin;

/// How long a caller waits for a flight; the flight goes on.
const WAIT: Duration = Duration::from_secs(30);

/// How often a grant is refreshed whose provider names no idle lifetime.
const UNNAMED_IDLE: Duration = Duration::from_secs(7 * 86_400);

/// Most flights of one grant at once: they redeem one after the other.
const FLIGHTS_PER_GRANT: usize = 32;

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
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cache: Limits::default(),
            refresh_every: None,
            refresh_before_idle: Duration::from_secs(14 * 86_400),
            refresh_jitter: Duration::from_secs(6 * 3600),
        }
    }
}

/// What the engine works with.
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
    /// The deployment's random identity, which `jti`s are derived from.
    pub deployment: Uuid,
    /// What can be set.
    pub settings: Settings,
}

/// What a flight brings.
type Fetched = Result<Arc<IssuedToken>, Failure>;

/// The engine; clones share everything.
#[derive(Clone)]
pub struct Redeemer {
    pub(super) parts: Arc<Parts>,
    pub(super) cache: Arc<TokenCache>,
    pub(super) gates: Arc<Gates>,
    pub(super) locks: Arc<GrantLocks>,
    flights: Arc<Flights<(GrantKey, Target), Fetched>>,
    pub(super) tasks: TaskTracker,
}

impl std::fmt::Debug for Redeemer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redeemer").finish_non_exhaustive()
    }
}

/// An access token on its way to a caller. The pass keeps a purge waiting until
/// it is dropped, so it is held until the answer is made.
#[derive(Debug)]
pub struct Handed {
    /// The token.
    pub token: Arc<IssuedToken>,
    /// Whether it came from memory.
    pub from_cache: bool,
    /// Shows that the tenant is in service.
    pub pass: Pass,
}

impl Redeemer {
    /// An engine without tokens in memory.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            cache: Arc::new(TokenCache::new(parts.settings.cache)),
            parts: Arc::new(parts),
            gates: Arc::default(),
            locks: Arc::default(),
            flights: Arc::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// An access token that lives at least `min_life`, or as long as the
    /// provider gives.
    ///
    /// # Errors
    ///
    /// No such grant, the tenant out of service, the user must act, the
    /// provider or the vault's own files out of reach.
    pub async fn access_token(
        &self,
        key: &GrantKey,
        target: &Target,
        min_life: Duration,
        origin: &Origin,
    ) -> Result<Handed, Failure> {
        let now = self.parts.clock.now();
        if let Some(handed) = self.remembered_token(key, target, now.plus(min_life)) {
            if now >= handed.token.refresh_at && self.cache.negative(key, target, now).is_none() {
                self.start_flight(key, target, min_life, &self.ahead(origin));
            }
            self.parts.metrics.cache_hit();
            return Ok(handed);
        }
        self.parts.metrics.cache_miss();
        drop(self.gates.enter(&key.tenant, &*self.parts.store).await?);
        let fetched = match self.cache.negative(key, target, now) {
            Some(negative) => Err(negative),
            None => self.fly(key, target, min_life, origin).await,
        };
        match fetched {
            Ok(token) => {
                // A purge may have come while the flight was under way.
                let pass = self.gates.enter(&key.tenant, &*self.parts.store).await?;
                if pass.epoch != token.tenant_epoch {
                    return Err(Failure::new(Reason::StoreUnavailable, "the tenant changed during the call")
                        .retry_after(Duration::from_secs(1)));
                }
                Ok(Handed { token, from_cache: false, pass })
            }
            // Something is better than nothing while it lives, when the grant
            // itself is not known to be dead.
            Err(failure) if passes(failure.reason()) => {
                self.remembered_token(key, target, self.parts.clock.now()).ok_or(failure)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Tokens in memory, for those that must make them go.
    #[must_use]
    pub fn cache(&self) -> &TokenCache {
        &self.cache
    }

    /// The tenants' gates, for those that must close them.
    #[must_use]
    pub fn gates(&self) -> &Gates {
        &self.gates
    }

    /// Waits until nothing is under way any more, or `limit` has passed
    /// (rule 8). Returns whether everything has ended.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(limit, self.tasks.wait()).await.is_ok()
    }

    fn remembered_token(&self, key: &GrantKey, target: &Target, lives_until: Timestamp) -> Option<Handed> {
        let pass = self.gates.pass(&key.tenant)?;
        let token = self.cache.find(key, target)?;
        let good = token.tenant_epoch == pass.epoch && token.expires_at > lives_until;
        good.then_some(Handed { token, from_cache: true, pass })
    }

    async fn fly(
        &self,
        key: &GrantKey,
        target: &Target,
        min_life: Duration,
        origin: &Origin,
    ) -> Result<Arc<IssuedToken>, Failure> {
        if self.flights.count(|(grant, _)| grant == key) >= FLIGHTS_PER_GRANT {
            let why = "too many requests for one grant are under way";
            return Err(Failure::new(Reason::ProviderThrottled, why).retry_after(Duration::from_secs(1)));
        }
        let mut answer = self.start_flight(key, target, min_life, origin);
        let landed = tokio::time::timeout(WAIT, answer.wait_for(Option::is_some)).await;
        match landed {
            Ok(Ok(answer)) => answer.clone().unwrap_or_else(|| Err(lost())),
            Ok(Err(_)) => Err(lost()),
            Err(_) => Err(Failure::new(Reason::GrantInDoubt, "the provider has not answered yet")
                .retry_after(Duration::from_secs(5))),
        }
    }

    fn start_flight(
        &self,
        key: &GrantKey,
        target: &Target,
        min_life: Duration,
        origin: &Origin,
    ) -> tokio::sync::watch::Receiver<Option<Fetched>> {
        self.flights.start(&self.tasks, (key.clone(), target.clone()), || {
            let (this, key, target, origin) = (self.clone(), key.clone(), target.clone(), origin.clone());
            async move { this.fetch(&key, &target, min_life, &origin).await }
        })
    }

    /// One flight: the grant's lock, a second look into memory, an attempt.
    async fn fetch(
        &self,
        key: &GrantKey,
        target: &Target,
        min_life: Duration,
        origin: &Origin,
    ) -> Result<Arc<IssuedToken>, Failure> {
        let lock = self.locks.lock(key).await;
        let now = self.parts.clock.now();
        let epoch = self.gates.enter(&key.tenant, &*self.parts.store).await?.epoch;
        if let Some(token) = self.cache.find(key, target)
            && token.tenant_epoch == epoch
            && now < token.refresh_at
            // One that never lived as long as asked is the best there is.
            && (token.expires_at > now.plus(min_life) || token.life <= min_life)
        {
            return Ok(token);
        }
        let result = self.redeem(&lock, key, target, epoch, origin).await;
        if let Err(failure) = &result
            && remembered(failure.reason())
        {
            let holds_for = matches!(failure.reason(), Reason::ScopeNotGranted | Reason::ProviderRefused)
                .then(|| target.clone());
            self.cache.remember_negative(key, holds_for, failure, self.parts.clock.now());
        }
        result
    }

    /// Redeems a grant's token for the scopes of the grant, whatever is in
    /// memory: the rotation job's refresh.
    ///
    /// # Errors
    ///
    /// As [`Redeemer::access_token`].
    pub async fn refresh(&self, key: &GrantKey, origin: &Origin) -> Result<(), Failure> {
        let (this, key, origin) = (self.clone(), key.clone(), origin.clone());
        let task = self.tasks.spawn(async move {
            let lock = this.locks.lock(&key).await;
            let epoch = this.gates.enter(&key.tenant, &*this.parts.store).await?.epoch;
            this.redeem(&lock, &key, &Target::default(), epoch, &origin).await.map(drop)
        });
        task.await.unwrap_or_else(|_| Err(lost()))
    }

    /// When the job refreshes a grant next.
    pub(super) fn next_refresh_at(&self, profile: &Profile, now: Timestamp) -> Timestamp {
        let Settings { refresh_every, refresh_before_idle, refresh_jitter, .. } = &self.parts.settings;
        let span = match profile.idle_lifetime {
            // Never earlier than half of its idle life, however it is set.
            Some(idle) => idle.saturating_sub(*refresh_before_idle).max(idle / 2),
            None => UNNAMED_IDLE,
        };
        let span = refresh_every.map_or(span, |every| every.min(span));
        let jitter = (*refresh_jitter).min(span / 2);
        let early = entropy::between(&*self.parts.entropy, Duration::ZERO, jitter).unwrap_or_default();
        now.plus(span - early)
    }

    fn ahead(&self, origin: &Origin) -> Origin {
        Origin { request_id: format!("{}-ahead", origin.request_id), caller: origin.caller.clone() }
    }
}

pub(super) fn lost() -> Failure {
    Failure::new(Reason::Internal, "a task of the vault ended without an answer")
}

/// Whether a token that is still alive is handed out in spite of the failure.
fn passes(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::GrantInDoubt
            | Reason::ProviderThrottled
            | Reason::ProviderUnavailable
            | Reason::ProviderRejectedClient
            | Reason::ProviderRefused
            | Reason::StoreUnavailable
    )
}

/// Whether the failure is worth remembering for a moment: it would be the same
/// again, and asking again costs a provider or the store something.
fn remembered(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::GrantNotFound
            | Reason::GrantRevoked
            | Reason::GrantLost
            | Reason::GrantInDoubt
            | Reason::InteractionRequired
            | Reason::ScopeNotGranted
            | Reason::ProviderThrottled
            | Reason::ProviderUnavailable
            | Reason::ProviderRejectedClient
            | Reason::ProviderRefused
    )
}
