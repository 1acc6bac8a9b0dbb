//! Getting an access token: from memory while one lives long enough there,
//! otherwise by one flight per grant; and the other ways in to the protocol.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::clock::Reading;
use crate::domain::failure::Failure;
use crate::domain::grant::{Grant, GrantKey, GrantState};
use crate::domain::id::{CallerId, SubjectId, TenantId};
use crate::domain::reason::Reason;
use crate::domain::scope::Target;
use crate::store::StoreError;

use super::attempt::{Attempts, Wish};
use super::cache::{IssuedToken, TokenCache};
use super::ending::{Endings, Renewal};
use super::enrolment::{Enrolled, Enrolments, Order, Outcome, Source};
use super::flight::{Flights, GrantLock, GrantLocks};
use super::guard::TenantGuards;
use super::handed::{Handed, passes};
use super::marks;
use super::memory::{Asked, Memory};
use super::parts::Parts;
use super::probes::Probes;
use super::record::Origin;
use super::recovery::{Recovered, Recovery};
use super::revocation::Revocations;
use super::sealer::Sealer;

/// How long a caller waits for a flight; the flight goes on.
pub const WAIT: Duration = Duration::from_secs(30);

/// Most flights of one caller for one grant at once: they redeem one after the
/// other.
pub const FLIGHTS_PER_CALLER: usize = 32;

/// What a flight brings.
type Fetched = Result<Arc<IssuedToken>, Failure>;

/// The engine; clones share everything.
#[derive(Clone)]
pub struct Redeemer {
    parts: Arc<Parts>,
    attempts: Attempts,
    enrolments: Enrolments,
    recovery: Recovery,
    revocations: Revocations,
    memory: Memory,
    guards: Arc<TenantGuards>,
    locks: GrantLocks,
    probes: Probes,
    flights: Arc<Flights<(GrantKey, Target, CallerId), Fetched>>,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Redeemer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redeemer").finish_non_exhaustive()
    }
}

impl Redeemer {
    /// An engine without tokens in memory.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let parts = Arc::new(parts);
        let sealer = Sealer::new(Arc::clone(&parts.store), Arc::clone(&parts.keyring));
        let revocations = Revocations::new(Arc::clone(&parts), sealer.clone());
        let endings = Endings::new(Arc::clone(&parts), sealer.clone(), revocations.clone());
        let enrolments = Enrolments::new(Arc::clone(&parts), sealer, revocations.clone());
        Self {
            memory: Memory::new(Arc::clone(&parts)),
            attempts: Attempts::new(Arc::clone(&parts), endings.clone()),
            recovery: Recovery::new(Arc::clone(&parts), endings, enrolments.clone()),
            enrolments,
            revocations,
            parts,
            guards: Arc::default(),
            locks: GrantLocks::default(),
            probes: Probes::default(),
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
        let now = self.parts.clock.both();
        if let Some(handed) = self.remembered_token(key, target, now, min_life) {
            if handed.token.refresh.has_passed(now)
                && self.memory.cache().negative(key, target, now.instant).is_none()
            {
                drop(self.start_flight(key, target, min_life, &self.ahead(origin)));
            }
            self.parts.metrics.cache_hit();
            return Ok(handed);
        }
        self.parts.metrics.cache_miss();
        match self.fly(key, target, min_life, origin).await {
            Ok(token) => {
                // A purge may have come while the flight was under way.
                let pass = self.guards.enter(&key.tenant, &*self.parts.store).await?;
                if pass.epoch != token.tenant_epoch {
                    return Err(Failure::new(Reason::StoreUnavailable, "the tenant changed during the call")
                        .retry_after(Duration::from_secs(1)));
                }
                let expires_at = token.expires.by_wall_clock(self.parts.clock.both());
                Ok(Handed { token, expires_at, from_cache: false, pass })
            }
            // Something is better than nothing while it lives, when the grant
            // itself is not known to be dead.
            Err(failure) if passes(failure.reason()) => {
                let now = self.parts.clock.both();
                self.remembered_token(key, target, now, Duration::ZERO).ok_or(failure)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Redeems a grant's token for the scopes of the grant, whatever is in
    /// memory: the rotation job's refresh.
    ///
    /// # Errors
    ///
    /// As [`Redeemer::access_token`].
    pub async fn refresh(&self, key: &GrantKey, origin: &Origin) -> Result<(), Failure> {
        let (this, key, origin) = (self.clone(), key.clone(), origin.clone());
        self.detached(async move {
            let lock = this.locks.lock(&key, &origin.caller).await;
            let epoch = this.guards.enter(&key.tenant, &*this.parts.store).await?.epoch;
            this.redeem(&lock, &key, &Target::default(), epoch, &origin).await.map(drop)
        })
        .await
    }

    /// Enrols a grant; returns it and whether it replaced one. Goes on when the
    /// caller leaves.
    ///
    /// # Errors
    ///
    /// The provider refuses, cannot be reached, or its answer proves nothing;
    /// the tenant is out of service; the vault's files cannot be written.
    pub async fn enrol(&self, order: Order) -> Result<(Grant, bool), Failure> {
        let this = self.clone();
        self.detached(async move { this.enrol_locked(order).await }).await
    }

    /// Ends a grant: out of memory, out of the store, and at the provider where
    /// it can be told. Returns whether the provider confirmed.
    ///
    /// # Errors
    ///
    /// No such grant, or the audit log cannot be written.
    pub async fn revoke(&self, key: &GrantKey, origin: &Origin) -> Result<bool, Failure> {
        let (this, key, origin) = (self.clone(), key.clone(), origin.clone());
        self.detached(async move {
            let lock = this.locks.lock(&key, &origin.caller).await;
            drop(this.guards.enter(&key.tenant, &*this.parts.store).await?);
            // A token that a caller has already been given lives on until it
            // expires.
            this.memory.cache().forget(&key);
            this.revocations.grant(&lock, &key, &origin).await
        })
        .await
    }

    /// Tells the providers that a tenant's refresh tokens are over, as far as they
    /// can be told within `limit`. Returns how many were confirmed.
    pub async fn revoke_tenant(&self, tenant: &TenantId, limit: Duration) -> u64 {
        self.revocations.tenant(tenant, limit).await
    }

    /// Finishes what a dead process left behind. Called once, before serving.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn recover(&self) -> Result<Recovered, StoreError> {
        if self.parts.settings.restore_unconfirmed {
            return Ok(Recovered::default());
        }
        self.recovery.recover(&self.guards).await
    }

    /// Whether anything is redeemed at all.
    ///
    /// # Errors
    ///
    /// The token store is an older copy, and no operator has confirmed it.
    pub fn check_confirmed(&self) -> Result<(), Failure> {
        self.parts.check_confirmed()
    }

    /// Begins to probe the unknown outcomes whose time has come, and gives up the
    /// imports whose time is over; returns how many probes were begun.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn probe_due(&self) -> Result<usize, StoreError> {
        if self.parts.settings.restore_unconfirmed {
            return Ok(0);
        }
        let due = self.recovery.due(self.memory.cache(), &self.probes).await?;
        let begun = due.len();
        for (grant, probing) in due {
            let this = self.clone();
            self.tasks.spawn(async move {
                // Each outcome is in the store, the audit and the log.
                let failed = this.probe(&grant.key).await.is_err();
                if failed && this.parts.store.grant(&grant.key).await.is_ok_and(|now| now == Some(grant)) {
                    probing.postpone(this.parts.clock.instant());
                }
            });
        }
        self.enrolments.sweep().await?;
        Ok(begun)
    }

    /// One probe. Whoever came first may have settled the outcome meanwhile: then
    /// nothing is left to ask.
    async fn probe(&self, key: &GrantKey) -> Result<(), Failure> {
        let origin = Origin::recovery();
        let lock = self.locks.lock(key, &origin.caller).await;
        let epoch = self.guards.enter(&key.tenant, &*self.parts.store).await?.epoch;
        let grant = self.parts.store.grant(key).await?;
        let is_open =
            |grant: Grant| matches!(grant.state, GrantState::Sending(_) | GrantState::InDoubt { .. });
        if !grant.is_some_and(is_open) {
            return Ok(());
        }
        self.redeem(&lock, key, &Target::default(), epoch, &origin).await.map(drop)
    }

    /// Tokens in memory, for those that must make them go.
    #[must_use]
    pub fn cache(&self) -> &TokenCache {
        self.memory.cache()
    }

    /// The tenants' guards, for those that must close them.
    #[must_use]
    pub fn guards(&self) -> &TenantGuards {
        &self.guards
    }

    /// Waits until nothing is under way any more, or `limit` has passed
    /// (rule 8). Returns whether everything has ended.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(limit, self.tasks.wait()).await.is_ok()
    }

    /// A task that goes on when its caller leaves (rule 3).
    async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        self.tasks.spawn(work).await.unwrap_or_else(|_| Err(lost()))
    }

    fn remembered_token(
        &self,
        key: &GrantKey,
        target: &Target,
        now: Reading,
        min_life: Duration,
    ) -> Option<Handed> {
        let pass = self.guards.pass(&key.tenant)?;
        let token = self.memory.cache().find(key, target)?;
        let good = token.tenant_epoch == pass.epoch && token.expires.left(now) > min_life;
        let expires_at = token.expires.by_wall_clock(now);
        good.then_some(Handed { token, expires_at, from_cache: true, pass })
    }

    async fn fly(
        &self,
        key: &GrantKey,
        target: &Target,
        min_life: Duration,
        origin: &Origin,
    ) -> Result<Arc<IssuedToken>, Failure> {
        let now = self.parts.clock.instant();
        // What is known to fail does not wait for the grant's lock. A tenant out
        // of service says so itself.
        if self.guards.pass(&key.tenant).is_some()
            && let Some(negative) = self.memory.cache().negative(key, target, now)
        {
            return Err(negative);
        }
        self.check_share(key, target, &origin.caller)?;
        let mut answer = self.start_flight(key, target, min_life, origin);
        let completed = tokio::time::timeout(WAIT, answer.wait_for(Option::is_some)).await;
        match completed {
            Ok(Ok(answer)) => answer.clone().unwrap_or_else(|| Err(lost())),
            Ok(Err(_)) => Err(lost()),
            Err(_) => Err(Failure::new(Reason::GrantInDoubt, "the provider has not answered yet")
                .retry_after(Duration::from_secs(5))),
        }
    }

    /// Each caller has its own places for a grant; nobody can take all of them.
    fn check_share(&self, key: &GrantKey, target: &Target, caller: &CallerId) -> Result<(), Failure> {
        let flight = (key.clone(), target.clone(), caller.clone());
        let mine = |(grant, _, who): &(GrantKey, Target, CallerId)| grant == key && who == caller;
        if !self.flights.has(&flight) && self.flights.count(mine) >= FLIGHTS_PER_CALLER {
            let why = "the caller has too many requests for one grant under way";
            return Err(Failure::new(Reason::TooManyInFlight, why).retry_after(Duration::from_secs(1)));
        }
        Ok(())
    }

    fn start_flight(
        &self,
        key: &GrantKey,
        target: &Target,
        min_life: Duration,
        origin: &Origin,
    ) -> watch::Receiver<Option<Fetched>> {
        let flight = (key.clone(), target.clone(), origin.caller.clone());
        self.flights.start(&self.tasks, flight, || {
            let (this, key, target, origin) = (self.clone(), key.clone(), target.clone(), origin.clone());
            async move { this.fetch(&key, &target, min_life, &origin).await }
        })
    }

    /// One flight: the caller's turn at the grant, a look into memory, where
    /// another's flight may have left what is wanted, and a redemption.
    async fn fetch(
        &self,
        key: &GrantKey,
        target: &Target,
        min_life: Duration,
        origin: &Origin,
    ) -> Result<Arc<IssuedToken>, Failure> {
        let lock = self.locks.lock(key, &origin.caller).await;
        let now = self.parts.clock.both();
        let epoch = self.guards.enter(&key.tenant, &*self.parts.store).await?.epoch;
        if let Some(token) = self.memory.cache().find(key, target)
            && token.tenant_epoch == epoch
            && !token.refresh.has_passed(now)
            // One that never lived as long as asked is the best there is.
            && (token.expires.left(now) > min_life || token.lifetime <= min_life)
        {
            return Ok(token);
        }
        if let Some(negative) = self.memory.cache().negative(key, target, now.instant) {
            return Err(negative);
        }
        if let Some(until) = self.memory.cache().refused_too_many(key, &origin.caller, now.instant) {
            let why = "the provider has refused too many targets of this caller";
            return Err(Failure::new(Reason::TooManyInFlight, why).retry_after(until.since(now.instant)));
        }
        self.redeem(&lock, key, target, epoch, origin).await
    }

    /// Redeems, and keeps the memory true to what came of it.
    async fn redeem(
        &self,
        lock: &GrantLock,
        key: &GrantKey,
        target: &Target,
        tenant_epoch: u64,
        origin: &Origin,
    ) -> Result<Arc<IssuedToken>, Failure> {
        let served_until = self.memory.cache().last_expiry(key, self.parts.clock.both());
        let redeemed = self.attempts.redeem(lock, &Wish { key, target, origin, served_until }).await;
        self.memory.keep(&Asked { key, target, caller: &origin.caller, tenant_epoch }, redeemed)
    }

    async fn enrol_locked(&self, order: Order) -> Result<(Grant, bool), Failure> {
        self.check_confirmed()?;
        // One import of a token at a time, whichever user it is said to be of.
        let _token_lock = match &order.source {
            Source::Assertion(_) => None,
            Source::Import(token) => {
                let GrantKey { tenant, client, .. } = &order.key;
                let mark = marks::import_mark(self.parts.deployment, tenant, client, token)?;
                let name: String = mark.0.iter().map(|b| format!("{b:02x}")).collect();
                let subject = SubjectId::new(&format!("import:{name}"));
                let subject = subject.map_err(|e| Failure::new(Reason::Internal, e.to_string()))?;
                let key = GrantKey { subject, ..order.key.clone() };
                Some(self.locks.lock(&key, &order.origin.caller).await)
            }
        };
        let (key, target, caller) = (order.key.clone(), order.target.clone(), order.origin.caller.clone());
        let lock = self.locks.lock(&key, &caller).await;
        let tenant_epoch = self.guards.enter(&key.tenant, &*self.parts.store).await?.epoch;
        let Enrolled { grant, replaced, answer, scopes } = match self.enrolments.enrol(&lock, order).await? {
            Outcome::Enrolled(enrolled) => *enrolled,
            Outcome::Known(grant) => return Ok((*grant, false)),
        };
        let renewal = Renewal { answer, scopes, generation: grant.generation };
        self.memory.enrolled(&Asked { key: &key, target: &target, caller: &caller, tenant_epoch }, renewal);
        Ok((grant, replaced))
    }

    fn ahead(&self, origin: &Origin) -> Origin {
        Origin { request_id: format!("{}-ahead", origin.request_id), caller: origin.caller.clone() }
    }
}

fn lost() -> Failure {
    Failure::new(Reason::Internal, "a task of the vault ended without an answer")
}
