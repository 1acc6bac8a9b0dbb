//! Attempts to redeem a refresh token, from the claim to what the provider
//! answered. Runs in a detached task under the grant's lock, and knows nothing of
//! the memory of access tokens.
//!
//! A caller may choose scopes, a resource or claims. What the provider says to
//! such a request may be said about the choice alone, so it never ends the grant:
//! where it leaves a question open, the grant's own request follows at once and
//! tells the truth (docs/REFRESH.md, "Whose request it was").

use std::sync::Arc;

use crate::clock::{Instant, Timestamp};
use crate::domain::failure::Failure;
use crate::domain::grant::{Asks, Attempt, Grant, GrantKey, GrantState};
use crate::domain::protocol::bounds::{BACK_OFF, HARD_LIMIT, SEND_WITHIN};
use crate::domain::protocol::{self, AttemptRef, State};
use crate::domain::reason::Reason;
use crate::domain::scope::{ScopeSet, Target};
use crate::idp::{Client, Exchange, Prepared, Proof, SendOutcome};
use crate::keyring::KeyringError;
use crate::seal::Place;
use crate::secret::RefreshToken;
use crate::store::{Claim, ClaimRefused, SealedGrant};

use super::elapsed::{OwnClaims, wait_for_served};
use super::ending::{Ending, Endings, Renewal};
use super::failures::claim_failure;
use super::flight::GrantLock;
use super::marks;
use super::parts::Parts;
use super::record::{AttemptRecord, Origin};
use super::target::{as_sent, check_within, is_own};

/// A caller's choice, the grant's own request after it, and the choice once more.
const MOST_REQUESTS: u32 = 3;

/// Makes attempts.
#[derive(Clone)]
pub(super) struct Attempts {
    parts: Arc<Parts>,
    endings: Endings,
    claims: OwnClaims,
}

/// What somebody wants of a grant.
pub(super) struct Wish<'a> {
    pub(super) key: &'a GrantKey,
    pub(super) target: &'a Target,
    pub(super) origin: &'a Origin,
    /// Until when access tokens of the grant are in memory.
    pub(super) served_until: Option<Timestamp>,
}

/// What became of a wish.
pub(super) struct Redeemed {
    pub(super) result: Result<Renewal, Failure>,
    /// What the grant's own request brought, where it had to be made besides.
    pub(super) own: Option<Renewal>,
    /// Whose the failure is.
    pub(super) about: About,
}

/// What a failure is about.
pub(super) enum About {
    /// The grant, or what it takes to redeem it.
    Grant,
    /// The target alone.
    Target,
    /// The grant; and the target was refused before that, for this reason.
    Both(Failure),
}

impl About {
    fn after(refused: Option<Failure>) -> Self {
        refused.map_or(Self::Grant, Self::Both)
    }
}

/// A claimed attempt and what is needed to go on with it.
pub(super) struct InFlight {
    pub(super) grant: Grant,
    pub(super) attempt: Attempt,
    pub(super) client: Arc<Client>,
    pub(super) record: AttemptRecord,
    /// The scopes that were sent; empty: those of the grant.
    pub(super) asked: ScopeSet,
}

impl InFlight {
    pub(super) fn reference(&self) -> AttemptRef {
        AttemptRef {
            attempt: self.attempt.id,
            lineage: self.grant.lineage,
            generation: self.grant.generation,
        }
    }
}

/// A request that may be made.
struct Planned {
    sealed: SealedGrant,
    client: Arc<Client>,
    target: Target,
    claim: protocol::Claim,
    /// The attempt that the claim will make.
    attempt: Attempt,
    /// Whether its answer is what the wish asks for.
    serves_wish: bool,
    claimed_at: Instant,
}

impl Attempts {
    pub(super) fn new(parts: Arc<Parts>, endings: Endings) -> Self {
        Self { parts, endings, claims: OwnClaims::default() }
    }

    /// Redeems the grant's token for a wish. The lock shows that nobody else in
    /// this process does; the claim makes sure of it across crashes.
    pub(super) async fn redeem(&self, _lock: &GrantLock, wish: &Wish<'_>) -> Redeemed {
        let (mut own, mut refused) = (None, None);
        for _ in 0..MOST_REQUESTS {
            let planned = match self.plan(wish, refused.is_some()).await {
                Ok(planned) => planned,
                Err(failure) => {
                    return Redeemed { result: Err(failure), own, about: About::after(refused) };
                }
            };
            let serves_wish = planned.serves_wish;
            let ending = match self.make(wish, planned).await {
                Ok(ending) => ending,
                Err(failure) => Ending::Failed(failure),
            };
            match (ending, refused.take()) {
                (Ending::Renewed(renewal), Some(failure)) => {
                    return Redeemed { result: Err(failure), own: Some(renewal), about: About::Target };
                }
                (Ending::Renewed(renewal), None) if serves_wish => {
                    return Redeemed { result: Ok(renewal), own, about: About::Grant };
                }
                (Ending::Renewed(renewal), None) => own = Some(renewal),
                (Ending::TargetRefused { failure, own_next: true }, _) => refused = Some(failure),
                (Ending::TargetRefused { failure, own_next: false }, _) => {
                    return Redeemed { result: Err(failure), own, about: About::Target };
                }
                (Ending::Failed(failure), refused) => {
                    return Redeemed { result: Err(failure), own, about: About::after(refused) };
                }
            }
        }
        let failure = Failure::new(Reason::GrantInDoubt, "the grant's own request has not settled it");
        Redeemed { result: Err(failure.retry_after(BACK_OFF)), own, about: About::after(refused) }
    }

    /// Decides which request comes next, before anything is opened or written.
    async fn plan(&self, wish: &Wish<'_>, own_request: bool) -> Result<Planned, Failure> {
        let parts = &self.parts;
        parts.check_confirmed()?;
        let client = parts.idp.client(&wish.key.client).cloned();
        let client =
            client.ok_or_else(|| Failure::new(Reason::ClientNotFound, "the client is not configured"))?;
        let found = parts.store.sealed_grant(wish.key).await?;
        let sealed = found.ok_or_else(|| Failure::new(Reason::GrantNotFound, "no such grant"))?;
        let grant = &sealed.grant;
        check_issuer(&client, grant)?;
        if let GrantState::Sending(attempt) = &grant.state {
            // Under the lock nobody else can be sending: the owner panicked, or
            // lost its commit's answer.
            self.endings.adopt(grant, attempt, &client).await;
            return Err(
                Failure::new(Reason::GrantInDoubt, "an attempt was left behind").retry_after(BACK_OFF)
            );
        }
        check_within(grant, client.profile(), wish.target)?;
        self.check_wait(&client, grant, wish.served_until)?;

        let unknown = matches!(grant.state, GrantState::InDoubt { .. });
        let is_own = is_own(grant, wish.target);
        let asks = if own_request || unknown || is_own { Asks::Grant } else { Asks::Target };
        let target = if is_own || asks == Asks::Target { wish.target } else { &Target::default() };
        let (now, claimed_at) = (parts.clock.now(), parts.clock.instant());
        let claim = protocol::Claim {
            attempt: parts.fresh_attempt()?,
            owner: parts.owner,
            asks,
            fenced_at: client.fenced_at(now.plus(SEND_WITHIN)),
        };
        let claimed = protocol::claim(&State::of(grant), &claim, client.profile(), now);
        let attempt = match claimed.map(|state| state.grant) {
            Ok(GrantState::Sending(attempt)) => attempt,
            Ok(_) => return Err(Failure::new(Reason::Internal, "a claim led to another state than SENDING")),
            Err(refusal) => return Err(claim_failure(grant, refusal, now)),
        };
        let serves_wish = is_own && !own_request || asks == Asks::Target;
        let target = as_sent(grant, client.profile(), target);
        Ok(Planned { sealed, client, target, claim, attempt, serves_wish, claimed_at })
    }

    /// How long an unknown outcome is left alone: at a strict provider a probe may
    /// revoke what callers still use. A refused choice leaves nothing under way,
    /// and nobody waits for it.
    fn check_wait(
        &self,
        client: &Client,
        grant: &Grant,
        served_until: Option<Timestamp>,
    ) -> Result<(), Failure> {
        let unasked = self.claims.wait(&grant.state, self.parts.clock.instant());
        if !unasked.is_zero() {
            let why = "the request of an unknown outcome may still arrive, however the clock was set";
            return Err(Failure::new(Reason::GrantInDoubt, why).retry_after(unasked));
        }
        match wait_for_served(client, grant, served_until, self.parts.clock.now()) {
            None => Ok(()),
            Some(wait) => Err(Failure::new(
                Reason::GrantInDoubt,
                "an unknown outcome is not probed while an access token lives",
            )
            .retry_after(wait)),
        }
    }

    /// Opens, claims, sends, and tells how it ended.
    async fn make(&self, wish: &Wish<'_>, planned: Planned) -> Result<Ending, Failure> {
        let (planned, token) = self.open(wish, planned).await?;
        let prepared = self.prepare(&planned, &token)?;
        drop(token);
        let record = AttemptRecord {
            action: "redeem",
            origin: wish.origin.clone(),
            key: wish.key.clone(),
            grant: planned.sealed.grant.id,
            attempt: planned.attempt.id,
        };
        record.intent(&self.parts.audit).await?;
        let grant = self.claim(&planned).await?;
        let Planned { client, attempt, claimed_at, target, .. } = planned;
        let id = attempt.id;
        self.claims.note(id, claimed_at);
        let in_flight = InFlight { grant, attempt, client, record, asked: target.scopes };
        let sent = self.send(&in_flight, prepared, claimed_at).await;
        let ending = self.endings.of(&in_flight, sent).await?;
        if matches!(ending, Ending::Renewed(_)) {
            self.claims.forget(id);
        }
        Ok(ending)
    }

    /// The opened token. The rotation job may seal it anew and destroy the old
    /// version between two reads; then it is read again.
    async fn open(&self, wish: &Wish<'_>, mut planned: Planned) -> Result<(Planned, RefreshToken), Failure> {
        let mut tries = 0;
        loop {
            let place = Place::of_token(&planned.sealed.grant, planned.sealed.grant.generation);
            match self.parts.keyring.open(&place, &planned.sealed.sealed).await {
                Err(KeyringError::Destroyed(_)) if tries < 3 => {
                    tries += 1;
                    let found = self.parts.store.sealed_grant(wish.key).await?;
                    planned.sealed =
                        found.ok_or_else(|| Failure::new(Reason::GrantNotFound, "no such grant"))?;
                }
                Err(error) => return Err(error.into()),
                Ok(plain) => {
                    return RefreshToken::from_plain(&plain).map(|token| (planned, token)).ok_or_else(|| {
                        Failure::new(Reason::GrantUnreadable, "the opened token is not text")
                    });
                }
            }
        }
    }

    fn prepare(&self, planned: &Planned, token: &RefreshToken) -> Result<Prepared, Failure> {
        let grant = &planned.sealed.grant;
        let now = planned.attempt.started_at;
        let jti = marks::jti(self.parts.deployment, grant, planned.attempt.epoch)?;
        let proof = Proof { now, send_by: now.plus(SEND_WITHIN), jti };
        let exchange = Exchange::Refresh { token, target: &planned.target };
        planned
            .client
            .prepare(&grant.key.tenant, exchange, proof)
            .map_err(|e| Failure::new(Reason::ProviderRejectedClient, e.to_string()))
    }

    /// Commit 1. It may be told twice, so a lost acknowledgement is asked for
    /// once more; where that fails too, the claim is taken back: nothing was
    /// sent.
    async fn claim(&self, planned: &Planned) -> Result<Grant, Failure> {
        let Planned { sealed: SealedGrant { grant, .. }, client, claim, attempt, .. } = planned;
        let claim = Claim {
            grant: grant.id,
            lineage: grant.lineage,
            generation: grant.generation,
            epoch: attempt.epoch,
            claim: claim.clone(),
            profile: client.profile().clone(),
            at: attempt.started_at,
        };
        let mut claimed = self.parts.store.claim(claim.clone()).await;
        if claimed.is_err() {
            claimed = self.parts.store.claim(claim).await;
        }
        match claimed {
            Ok(Ok(claimed)) => Ok(claimed.grant),
            Ok(Err(ClaimRefused::Protocol(refusal))) => {
                Err(claim_failure(grant, refusal, attempt.started_at))
            }
            Ok(Err(ClaimRefused::Changed | ClaimRefused::OutOfService)) => {
                Err(Failure::new(Reason::StoreUnavailable, "the grant changed before commit 1")
                    .retry_after(std::time::Duration::from_secs(1)))
            }
            Err(error) => {
                self.endings.take_back(grant, attempt, client).await;
                Err(error.into())
            }
        }
    }

    /// One POST. All of the exchange ends within the hard limit of its claim, and
    /// nothing is sent later than `SEND_WITHIN` after it.
    async fn send(&self, in_flight: &InFlight, prepared: Prepared, claimed_at: Instant) -> SendOutcome {
        let clock = Arc::clone(&self.parts.clock);
        let send_by = claimed_at.plus(SEND_WITHIN);
        let left = HARD_LIMIT.saturating_sub(clock.instant().since(claimed_at));
        in_flight.client.send(prepared, move || clock.instant() < send_by, left).await
    }
}

/// A token goes only to the issuer it came from.
pub(super) fn check_issuer(client: &Client, grant: &Grant) -> Result<(), Failure> {
    if client.issuer(&grant.key.tenant) == grant.issuer {
        Ok(())
    } else {
        Err(Failure::new(
            Reason::IssuerChanged,
            format!("the grant is of {}, its client's provider is another now", grant.issuer),
        ))
    }
}
