//! One attempt to redeem a refresh token, from commit 1 to the provider's
//! answer. Runs in a detached task under the grant's lock.

use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::clock::Timestamp;
use crate::domain::failure::{Failure, Interaction};
use crate::domain::grant::{Attempt, AttemptId, Grant, GrantKey, GrantState};
use crate::domain::profile::Profile;
use crate::domain::reason::Reason;
use crate::domain::scope::Target;
use crate::entropy;
use crate::idp::{Client, Exchange, Prepared, Proof, RawAnswer, Refusal, RefusalKind, SendOutcome, Verdict};
use crate::keyring::KeyringError;
use crate::seal::Place;
use crate::secret::{Plaintext, RefreshToken};
use crate::store::{Claim, SealedGrant};

use super::cache::IssuedToken;
use super::engine::Redeemer;
use super::failures::{claim_failure, doubtful, key_failure, outcome_of, refusal_failure};
use super::flight::GrantLock;
use super::gate::store_failure;
use super::record::{AttemptRecord, Origin};
use super::step::{self, Effect, Event, HARD_LIMIT, Refused, SEND_WITHIN, State, Transition, step};

/// How often a write that must not be lost is tried again: every now and then,
/// for ever (rule 6).
const RETRY: Duration = Duration::from_millis(500);

/// A claimed attempt and what is needed to go on with it.
pub(super) struct Flying {
    pub(super) grant: Grant,
    pub(super) attempt: Attempt,
    pub(super) client: Arc<Client>,
    pub(super) target: Target,
    pub(super) tenant_epoch: u64,
    pub(super) record: AttemptRecord,
}

impl Redeemer {
    /// Redeems the grant's token. The lock shows that nobody else in this
    /// process does; the claim makes sure of it across crashes.
    pub(super) async fn redeem(
        &self,
        _lock: &GrantLock,
        key: &GrantKey,
        target: &Target,
        tenant_epoch: u64,
        origin: &Origin,
    ) -> Result<Arc<IssuedToken>, Failure> {
        let parts = &self.parts;
        let client = parts.idp.client(&key.client).cloned();
        let client =
            client.ok_or_else(|| Failure::new(Reason::ClientNotFound, "the client is not configured"))?;
        let (sealed, opened) = self.read_grant(key).await?;
        if matches!(sealed.grant.state, GrantState::Sending(_)) {
            // Under the lock nobody else can be sending: the owner panicked, or
            // lost its commit's answer.
            self.adopt_orphan(sealed.grant.id).await?;
            return Err(
                Failure::new(Reason::GrantInDoubt, "an attempt was left behind").retry_after(step::BACK_OFF)
            );
        }
        check_scopes(&client, &sealed.grant, target)?;
        if let Some(wait) = self.doubt_waits(&sealed.grant) {
            let why = "in doubt, and not looked into while an access token lives";
            return Err(Failure::new(Reason::GrantInDoubt, why).retry_after(wait));
        }

        let id = AttemptId(
            entropy::uuid(&*parts.entropy).map_err(|e| Failure::new(Reason::Internal, e.to_string()))?,
        );
        let now = parts.clock.now();
        // A first, unfenced step tells whether there may be an attempt and in
        // which epoch, before the token is opened for it.
        let planned = claim(&sealed.grant, id, None, client.profile(), now)?;
        let token = opened?;
        let prepared = self.prepare(&client, &sealed.grant, &planned, &token, target, now)?;
        drop(token);
        let attempt = claim(&sealed.grant, id, prepared.fenced_at(), client.profile(), now)?;

        let record = AttemptRecord {
            action: "redeem",
            origin: origin.clone(),
            key: key.clone(),
            grant: sealed.grant.id,
            attempt: id,
        };
        record.intent(&parts.audit).await?;
        let grant = self.commit_1(&sealed, &attempt, client.profile()).await?;
        let flying = Flying { grant, attempt, client, target: target.clone(), tenant_epoch, record };

        let sent = self.send(&flying, prepared).await;
        let result = self.landed(&flying, sent).await;
        let (reason, note) = match &result {
            Ok(_) => (None, "renewed"),
            Err(failure) => (Some(failure.reason()), "not renewed"),
        };
        parts.metrics.redemption(outcome_of(reason));
        if let Err(failure) = &result {
            tracing::warn!(
                request.id = %origin.request_id, tenant.id = %key.tenant, client.id = %key.client,
                grant.id = %flying.grant.id, reason = failure.reason().as_str(), detail = failure.detail(),
                "redemption failed"
            );
        }
        flying.record.outcome(&parts.audit, reason, None, note).await?;
        result
    }

    /// The grant and its opened token. The rotation job may seal the token anew
    /// and destroy the old version between the two reads; then it is read again.
    async fn read_grant(
        &self,
        key: &GrantKey,
    ) -> Result<(SealedGrant, Result<RefreshToken, Failure>), Failure> {
        let mut tries = 0;
        loop {
            let found = self.parts.store.sealed_grant(key).await.map_err(|e| store_failure(&e))?;
            let sealed = found.ok_or_else(|| Failure::new(Reason::GrantNotFound, "no such grant"))?;
            let place = Place::of_token(&sealed.grant, sealed.grant.generation);
            match self.parts.keyring.open(&place, &sealed.sealed).await {
                Err(KeyringError::Destroyed(_)) if tries < 3 => tries += 1,
                Err(error) => return Ok((sealed, Err(key_failure(&error)))),
                Ok(plain) => return Ok((sealed, refresh_token(&plain))),
            }
        }
    }

    fn prepare(
        &self,
        client: &Client,
        grant: &Grant,
        attempt: &Attempt,
        token: &RefreshToken,
        target: &Target,
        now: Timestamp,
    ) -> Result<Prepared, Failure> {
        let jti = self.jti(grant, attempt);
        let proof = Proof { now, send_by: now.plus(SEND_WITHIN), jti };
        let exchange = Exchange::Refresh { token, target };
        client
            .prepare(&grant.key.tenant, exchange, proof)
            .map_err(|e| Failure::new(Reason::ProviderRejectedClient, e.to_string()))
    }

    /// `jti = HMAC(deployment, grant ‖ generation ‖ epoch ‖ the row's times)`
    /// (rule 4). Whoever claims the row as it stands makes the same one, so that
    /// a provider that remembers it refuses the second of two racing requests.
    /// An attempt that ended without a new generation has moved one of the
    /// times, so the next one is not taken for its repetition.
    fn jti(&self, grant: &Grant, attempt: &Attempt) -> String {
        let key = self.parts.deployment.as_bytes();
        // HMAC takes a key of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
        mac.update(b"obo-vault jti");
        mac.update(grant.id.0.as_bytes());
        mac.update(&grant.generation.0.to_be_bytes());
        mac.update(&attempt.epoch.0.to_be_bytes());
        mac.update(&grant.refreshed_at.0.to_be_bytes());
        mac.update(&grant.not_before.map_or(0, |t| t.0).to_be_bytes());
        let tag = mac.finalize().into_bytes();
        tag.iter().take(16).map(|b| format!("{b:02x}")).collect()
    }

    async fn commit_1(
        &self,
        sealed: &SealedGrant,
        attempt: &Attempt,
        profile: &Profile,
    ) -> Result<Grant, Failure> {
        let takes_over = match &sealed.grant.state {
            GrantState::InDoubt { attempt, .. } => Some(attempt.id),
            GrantState::Active
            | GrantState::Sending(_)
            | GrantState::Revoked
            | GrantState::Lost { .. }
            | GrantState::Reauth { .. } => None,
        };
        let claim = Claim {
            grant: sealed.grant.id,
            generation: sealed.grant.generation,
            takes_over,
            attempt: attempt.clone(),
        };
        match self.parts.store.claim(claim).await {
            Ok(Ok(claimed)) => Ok(claimed.grant),
            Ok(Err(_)) => Err(Failure::new(Reason::StoreUnavailable, "the grant changed before commit 1")
                .retry_after(Duration::from_secs(1))),
            // Whether the intent is on disk is not known when the commit's own
            // answer is lost. Nothing was sent, so it may be taken back; where
            // that fails too, it is found as an orphan.
            Err(error) => {
                let claimed = State {
                    generation: sealed.grant.generation,
                    grant: GrantState::Sending(attempt.clone()),
                    not_before: None,
                };
                let now = self.parts.clock.now();
                if let Ok(back) = step(&claimed, &Event::Unsent(attempt.id), profile, now) {
                    self.settle(sealed.grant.id, attempt.id, back.state.grant, back.state.not_before).await;
                }
                Err(store_failure(&error))
            }
        }
    }

    async fn send(&self, flying: &Flying, prepared: Prepared) -> SendOutcome {
        let clock = Arc::clone(&self.parts.clock);
        let commit_age = clock.now().since(flying.attempt.started_at);
        let send_by = clock.instant().plus(SEND_WITHIN.saturating_sub(commit_age));
        flying.client.send(prepared, move || clock.instant() < send_by, HARD_LIMIT).await
    }

    /// Takes the protocol's next step with what came of the request.
    async fn landed(&self, flying: &Flying, sent: SendOutcome) -> Result<Arc<IssuedToken>, Failure> {
        let id = flying.attempt.id;
        match sent {
            SendOutcome::NotSent { detail, .. } => {
                self.apply(flying, &Event::Unsent(id)).await;
                Err(Failure::new(Reason::ProviderUnavailable, detail).retry_after(step::BACK_OFF))
            }
            SendOutcome::Interrupted { detail } => {
                let state = self.apply(flying, &Event::Interrupted(id)).await;
                Err(doubtful(&state, self.parts.clock.now(), Reason::ProviderUnavailable, &detail))
            }
            SendOutcome::Answered(raw) => self.answered(flying, raw).await,
        }
    }

    async fn answered(&self, flying: &Flying, raw: RawAnswer) -> Result<Arc<IssuedToken>, Failure> {
        if (200..300).contains(&raw.status()) {
            self.journal(flying, &raw).await;
        }
        match flying.client.classify(&raw) {
            Verdict::Tokens(answer) => self.commit_2(flying, answer).await,
            Verdict::Refused(refusal) => self.refused(flying, refusal).await,
        }
    }

    pub(super) async fn refused<T>(&self, flying: &Flying, refusal: Refusal) -> Result<T, Failure> {
        let now = self.parts.clock.now();
        let event = Event::Refused(flying.attempt.id, facts(&refusal));
        let state = self.apply(flying, &event).await;
        Err(refusal_failure(&refusal, &state, now))
    }

    /// Steps, makes the new state durable, and does what else the step says.
    pub(super) async fn apply(&self, flying: &Flying, event: &Event) -> State {
        let now = self.parts.clock.now();
        let before = State {
            generation: flying.grant.generation,
            grant: GrantState::Sending(flying.attempt.clone()),
            not_before: None,
        };
        // Only claims are refused, and this is none.
        let Ok(Transition { state, effects }) = step(&before, event, flying.client.profile(), now) else {
            return before;
        };
        for effect in effects {
            match effect {
                Effect::Persist => {
                    self.settle_for_sure(flying, state.grant.clone(), state.not_before).await;
                }
                Effect::Alert(alert) => self.alert(flying, alert),
                Effect::Send | Effect::RevokeAnswer => {}
            }
        }
        if matches!(state.grant, GrantState::InDoubt { .. }) {
            self.parts.metrics.grant_in_doubt();
        }
        state
    }

    /// A state that cannot be written would leave the grant SENDING until a
    /// restart, so this goes on until the store is back.
    async fn settle_for_sure(&self, flying: &Flying, state: GrantState, not_before: Option<Timestamp>) {
        while !self.settle(flying.grant.id, flying.attempt.id, state.clone(), not_before).await {
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn settle(
        &self,
        grant: crate::domain::grant::GrantId,
        attempt: AttemptId,
        state: GrantState,
        not_before: Option<Timestamp>,
    ) -> bool {
        match self.parts.store.settle(grant, attempt, state, not_before).await {
            Ok(_) => true,
            Err(error) => {
                tracing::error!(grant.id = %grant, %error, "cannot settle an attempt, will try again");
                false
            }
        }
    }

    fn alert(&self, flying: &Flying, alert: step::Alert) {
        let (tenant, grant) = (&flying.grant.key.tenant, flying.grant.id);
        match alert {
            step::Alert::Lost(cause) => {
                self.parts.metrics.grant_lost();
                tracing::error!(
                    tenant.id = %tenant, grant.id = %grant, cause = cause.as_str(),
                    "refresh token lost: the user has to consent again"
                );
            }
            step::Alert::ClientRejected => {
                self.parts.metrics.client_rejected();
                tracing::error!(
                    tenant.id = %tenant, client.id = %flying.client.id(),
                    "the provider rejects the vault's client credentials: check the client's secret or key"
                );
            }
        }
    }

    pub(super) async fn pause() {
        tokio::time::sleep(RETRY).await;
    }
}

/// Asks the protocol for an attempt.
fn claim(
    grant: &Grant,
    id: AttemptId,
    fenced_at: Option<Timestamp>,
    profile: &Profile,
    now: Timestamp,
) -> Result<Attempt, Failure> {
    let before =
        State { generation: grant.generation, grant: grant.state.clone(), not_before: grant.not_before };
    let claimed = step(&before, &Event::Claim { attempt: id, fenced_at }, profile, now);
    match claimed.map(|t| t.state.grant) {
        Ok(GrantState::Sending(attempt)) => Ok(attempt),
        Ok(_) => Err(Failure::new(Reason::Internal, "a claim led to another state than SENDING")),
        Err(refusal) => Err(claim_failure(grant, refusal, now)),
    }
}

/// A token bound to its scopes and resource is not sent for others: the provider's refusal
/// might not prove it unused.
fn check_scopes(client: &Client, grant: &Grant, target: &Target) -> Result<(), Failure> {
    let resource = target.resource.is_none() || target.resource == grant.resource;
    let within = resource && grant.scopes.contains_all(&target.scopes.without_protocol_scopes());
    if client.profile().multi_resource || within {
        Ok(())
    } else {
        Err(Failure::new(Reason::ScopeNotGranted, "a scope or the resource is outside the grant"))
    }
}

pub(super) fn refresh_token(plain: &Plaintext) -> Result<RefreshToken, Failure> {
    String::from_utf8(plain.expose().to_vec())
        .map(RefreshToken::new)
        .map_err(|_| Failure::new(Reason::GrantUnreadable, "the opened token is not text"))
}

fn facts(refusal: &Refusal) -> Refused {
    let proves_unused = refusal.proves_unused;
    match &refusal.kind {
        RefusalKind::InvalidGrant => Refused::InvalidGrant,
        RefusalKind::InteractionRequired { claims, error, suberror } => {
            Refused::Interaction(Interaction { claims: claims.clone(), error, suberror }.into())
        }
        RefusalKind::ClientRejected => Refused::Client { proves_unused },
        // The fault is the request's, not the grant's: others need not wait.
        RefusalKind::ScopeRejected if proves_unused => {
            Refused::Other { proves_unused, retry_after: Some(Duration::ZERO) }
        }
        RefusalKind::ScopeRejected
        | RefusalKind::Throttled
        | RefusalKind::Unavailable
        | RefusalKind::Redirected
        | RefusalKind::Malformed
        | RefusalKind::Other => Refused::Other { proves_unused, retry_after: refusal.retry_after },
    }
}
