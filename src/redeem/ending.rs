//! How an attempt ends: a provider's answer made durable as it came, then parsed,
//! then commit 2; or the state that the protocol makes of anything else.
//!
//! Nothing here may drop a refresh token (invariant I7): whatever fails is tried
//! again until the token is durable, or the store says that it belongs to nobody
//! any more. Every end may be told twice.

use std::sync::Arc;

use crate::domain::failure::Failure;
use crate::domain::grant::{Asks, Attempt, Generation, Grant, GrantState};
use crate::domain::protocol::{Advanced, Alert, AttemptRef, End};
use crate::domain::reason::Reason;
use crate::domain::scope::ScopeSet;
use crate::idp::{Client, RawAnswer, Refusal, RefusalKind, SendOutcome, TokenAnswer, Verdict};
use crate::metrics::RedemptionOutcome;
use crate::seal::{Place, Sealed};
use crate::store::{Advance, AdvanceRefused, AnswerOf, Renewed, Settled};

use super::alerts;
use super::attempt::InFlight;
use super::failures::{gone_failure, not_sent, outcome_of, refusal_failure, target_failure, unknown_outcome};
use super::parts::Parts;
use super::record::{AttemptRecord, Origin};
use super::revocation::Revocations;
use super::sealer::{Sealer, TenantGone, pause};

/// Ends attempts.
#[derive(Clone)]
pub(super) struct Endings {
    parts: Arc<Parts>,
    sealer: Sealer,
    revocations: Revocations,
}

/// Tokens whose generation is durable (invariant I5).
#[derive(Debug)]
pub(super) struct Renewal {
    pub(super) answer: TokenAnswer,
    /// Scopes of the access token.
    pub(super) scopes: ScopeSet,
    pub(super) generation: Generation,
}

/// What one request came to.
pub(super) enum Ending {
    Renewed(Renewal),
    /// The provider refused the caller's choice.
    TargetRefused {
        failure: Failure,
        /// Whether the grant's own request has to tell the truth about it.
        own_next: bool,
    },
    Failed(Failure),
}

impl Ending {
    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Renewed(_) => None,
            Self::TargetRefused { failure, .. } | Self::Failed(failure) => Some(failure.reason()),
        }
    }
}

impl Endings {
    pub(super) fn new(parts: Arc<Parts>, sealer: Sealer, revocations: Revocations) -> Self {
        Self { parts, sealer, revocations }
    }

    /// Takes the protocol's next step with what came of the request, and records
    /// the outcome.
    ///
    /// # Errors
    ///
    /// When the outcome cannot be recorded: then nothing may be handed out.
    pub(super) async fn of(&self, in_flight: &InFlight, sent: SendOutcome) -> Result<Ending, Failure> {
        let ending = match sent {
            SendOutcome::NotSent { detail, overloaded } => {
                self.settle(in_flight, End::Unsent).await;
                Ending::Failed(not_sent(detail, overloaded))
            }
            SendOutcome::Interrupted { detail } => {
                let settled = self.settle(in_flight, End::Interrupted).await;
                let now = self.parts.clock.now();
                let failure = unknown_outcome(settled.as_ref(), now, Reason::ProviderUnavailable, &detail);
                // Where the grant stays as it was, nobody else waits for it.
                if in_flight.attempt.asks == Asks::Target && failure.reason() != Reason::GrantInDoubt {
                    Ending::TargetRefused { failure, own_next: false }
                } else {
                    Ending::Failed(failure)
                }
            }
            SendOutcome::Answered(raw) => {
                if (200..300).contains(&raw.status()) {
                    let place = Place::of_answer(&in_flight.grant, in_flight.grant.generation);
                    self.sealer.record(AnswerOf::Attempt(in_flight.attempt.id), &place, &raw).await;
                }
                self.of_answer(in_flight, &raw).await
            }
        };
        let reason = ending.reason();
        self.count(&ending);
        if let Ending::TargetRefused { failure, .. } | Ending::Failed(failure) = &ending {
            let InFlight { record, grant, .. } = in_flight;
            tracing::warn!(
                request.id = %record.origin.request_id, tenant.id = %grant.key.tenant,
                client.id = %grant.key.client, grant.id = %grant.id,
                own_request = (in_flight.attempt.asks == Asks::Grant),
                reason = failure.reason().as_str(), detail = failure.detail(), "redemption failed"
            );
        }
        let note = if reason.is_none() { "renewed" } else { "not renewed" };
        in_flight.record.outcome(&self.parts.audit, reason, None, note).await?;
        Ok(ending)
    }

    async fn of_answer(&self, in_flight: &InFlight, raw: &RawAnswer) -> Ending {
        match in_flight.client.classify(raw) {
            Verdict::Tokens(answer) => match self.commit(in_flight, answer).await {
                Ok(renewal) => Ending::Renewed(renewal),
                Err(failure) => Ending::Failed(failure),
            },
            Verdict::Refused(refusal) => self.refused(in_flight, &refusal).await,
        }
    }

    async fn refused(&self, in_flight: &InFlight, refusal: &Refusal) -> Ending {
        // Told by the answer and not by the state it leads to, which may have been
        // so before, or be told twice.
        if refusal.kind == RefusalKind::ClientRejected {
            alerts::client_rejected(&self.parts, &in_flight.client, refusal);
        }
        let settled = self.settle(in_flight, End::Refused(alerts::facts(refusal))).await;
        let now = self.parts.clock.now();
        if in_flight.attempt.asks == Asks::Grant {
            return Ending::Failed(refusal_failure(refusal, settled.as_ref(), now));
        }
        let asked_next = match settled.as_ref().map(|grant| &grant.state) {
            Some(GrantState::InDoubt { cause, .. }) if !cause.may_be_under_way() => true,
            // The grant stays as it is there, and whether it lives is not known
            // yet.
            Some(GrantState::Active) => refusal.kind == RefusalKind::InvalidGrant,
            _ => return Ending::Failed(refusal_failure(refusal, settled.as_ref(), now)),
        };
        Ending::TargetRefused { failure: target_failure(refusal), own_next: asked_next }
    }

    /// Commit 2. Seals and writes until the token is durable or orphaned.
    async fn commit(&self, in_flight: &InFlight, answer: TokenAnswer) -> Result<Renewal, Failure> {
        let InFlight { grant, client, .. } = in_flight;
        let now = self.parts.clock.now();
        let profile = client.profile();
        let is_renewed = answer.refresh_token.is_some();
        let generation = if is_renewed { grant.generation.next() } else { grant.generation };
        loop {
            let renewed = match self.sealed(in_flight, &answer, generation).await {
                Ok(renewed) => renewed,
                Err(TenantGone) => return self.orphaned(in_flight, &answer).await,
            };
            let advance = Advance {
                grant: grant.id,
                of: in_flight.reference(),
                end: End::Answered { renewed: is_renewed },
                renewed,
                dates: Some(self.parts.dates(profile, is_renewed, grant.idle_expires_at, now)),
                profile: profile.clone(),
                at: now,
            };
            match self.parts.store.advance(advance).await {
                Ok(Ok(Settled { outcome: Advanced::Moved { .. } | Advanced::Repeated, grant: stored })) => {
                    // An answer that names no scopes grants those asked for (RFC
                    // 6749 section 5.1).
                    let of_grant = || stored.map(|grant| grant.scopes).unwrap_or_default();
                    let asked = &in_flight.asked;
                    let as_asked = if asked.is_empty() { of_grant() } else { asked.clone() };
                    let scopes = answer.scopes.clone().unwrap_or(as_asked);
                    return Ok(Renewal { answer, scopes, generation });
                }
                Ok(Ok(Settled { outcome: Advanced::Late, .. })) => {
                    tracing::error!(grant.id = %grant.id, "an answer came when its attempt had lost the grant; it is dropped");
                    return Err(self.gone(in_flight).await);
                }
                Ok(Ok(Settled { outcome: Advanced::Orphaned, .. })) | Ok(Err(AdvanceRefused::TenantGone)) => {
                    return self.orphaned(in_flight, &answer).await;
                }
                Ok(Err(AdvanceRefused::KeyVersionMoved)) => {}
                Err(error) => {
                    tracing::error!(grant.id = %grant.id, %error, "cannot commit a new token, will try again");
                    pause().await;
                }
            }
        }
    }

    async fn sealed(
        &self,
        in_flight: &InFlight,
        answer: &TokenAnswer,
        generation: Generation,
    ) -> Result<Option<Renewed>, TenantGone> {
        let Some(token) = &answer.refresh_token else { return Ok(None) };
        let place = Place::of_token(&in_flight.grant, generation);
        let (key_version, sealed) = self.sealer.seal(&place, token.expose().as_bytes()).await?;
        Ok(Some(Renewed { generation, key_version, sealed }))
    }

    /// Invariant I9: a token that belongs to nobody is never stored, and revoked
    /// where that ends no more than the token.
    async fn orphaned<T>(&self, in_flight: &InFlight, answer: &TokenAnswer) -> Result<T, Failure> {
        let InFlight { client, grant, .. } = in_flight;
        self.revocations.orphan(client, &grant.key.tenant, &grant.issuer, answer).await;
        Err(self.gone(in_flight).await)
    }

    async fn gone(&self, in_flight: &InFlight) -> Failure {
        gone_failure(&*self.parts.store, &in_flight.grant.key.tenant).await
    }

    /// Makes the state durable that an end without tokens leads to, however long
    /// it takes, and tells who has to be told. Returns the grant as it is then.
    pub(super) async fn settle(&self, in_flight: &InFlight, end: End) -> Option<Grant> {
        let InFlight { grant, client, .. } = in_flight;
        let advance = self.ending(grant, in_flight.reference(), client, end);
        loop {
            match self.parts.store.advance(advance.clone()).await {
                Ok(Ok(settled)) => {
                    self.tell(in_flight, &settled);
                    return settled.grant;
                }
                // Only answers with tokens are refused.
                Ok(Err(AdvanceRefused::KeyVersionMoved | AdvanceRefused::TenantGone)) => return None,
                Err(error) => {
                    tracing::error!(grant.id = %grant.id, %error, "cannot settle an attempt, will try again");
                    pause().await;
                }
            }
        }
    }

    fn ending(&self, grant: &Grant, of: AttemptRef, client: &Client, end: End) -> Advance {
        Advance {
            grant: grant.id,
            of,
            end,
            renewed: None,
            dates: None,
            profile: client.profile().clone(),
            at: self.parts.clock.now(),
        }
    }

    /// Takes a claim back that nobody acknowledged: nothing was sent. Tried once;
    /// what is left behind is found as an orphan.
    pub(super) async fn take_back(&self, grant: &Grant, attempt: &Attempt, client: &Client) {
        let of = AttemptRef { attempt: attempt.id, lineage: grant.lineage, generation: grant.generation };
        let advance = self.ending(grant, of, client, End::Unsent);
        if let Err(error) = self.parts.store.advance(advance).await {
            tracing::error!(grant.id = %grant.id, %error, "cannot take back a claim");
        }
    }

    /// Finishes, or suspends, an attempt whose task is gone although the process
    /// is not. The caller holds the grant's lock, which proves it gone.
    pub(super) async fn adopt(&self, grant: &Grant, attempt: &Attempt, client: &Arc<Client>) {
        tracing::error!(grant.id = %grant.id, "an attempt was left behind by its task");
        let answer = match self.parts.store.open_attempts().await {
            Ok(open) => open.into_iter().find(|open| open.attempt.id == attempt.id).and_then(|o| o.answer),
            Err(error) => {
                tracing::error!(grant.id = %grant.id, %error, "cannot look for its answer");
                return;
            }
        };
        let record = recovery_record(grant, attempt);
        let in_flight = InFlight {
            grant: grant.clone(),
            attempt: attempt.clone(),
            client: Arc::clone(client),
            record,
            asked: ScopeSet::default(),
        };
        self.recover(&in_flight, answer).await;
    }

    /// Ends an attempt whose owner is gone: with its recorded answer, where there
    /// is one. Returns whether tokens were committed.
    pub(super) async fn recover(&self, in_flight: &InFlight, answer: Option<Sealed>) -> bool {
        let place = Place::of_answer(&in_flight.grant, in_flight.grant.generation);
        let raw = match answer {
            Some(sealed) => match self.sealer.open_answer(&place, &sealed).await {
                Ok(raw) => raw,
                // The answer is on disk and stays there until it can be opened.
                Err(_) => return false,
            },
            None => None,
        };
        let Some(raw) = raw else {
            if matches!(in_flight.grant.state, GrantState::Sending(_)) {
                self.settle(in_flight, End::OwnerDied(in_flight.attempt.owner)).await;
                self.parts.metrics.redemption(RedemptionOutcome::InDoubt);
            }
            return false;
        };
        let ending = self.of_answer(in_flight, &raw).await;
        self.count(&ending);
        let recorded = in_flight.record.outcome(&self.parts.audit, ending.reason(), None, "recovered").await;
        if let Err(failure) = recorded {
            tracing::error!(grant.id = %in_flight.grant.id, %failure, "a recovery could not be recorded");
        }
        matches!(ending, Ending::Renewed(_))
    }

    /// Counts a redemption, once: by the process that hears of its end.
    fn count(&self, ending: &Ending) {
        let outcome = match ending {
            // The caller is told of its choice; the grant goes on.
            Ending::TargetRefused { .. } => RedemptionOutcome::TargetRefused,
            Ending::Renewed(_) | Ending::Failed(_) => outcome_of(ending.reason()),
        };
        self.parts.metrics.redemption(outcome);
    }

    /// Alerts and counts, by what became of the grant and not by what was said to
    /// whoever asked. An end that had to be told twice is told to operators
    /// all the same.
    fn tell(&self, in_flight: &InFlight, settled: &Settled) {
        let state = settled.grant.as_ref().map(|grant| &grant.state);
        if matches!(state, Some(GrantState::InDoubt { cause, .. }) if cause.may_be_under_way()) {
            self.parts.metrics.grant_in_doubt();
        }
        if !matches!(settled.outcome, Advanced::Late | Advanced::Orphaned) {
            alerts::count(&self.parts, state);
        }
        let alert = match (&settled.outcome, state) {
            (Advanced::Moved { alert, .. }, _) => *alert,
            (Advanced::Repeated, Some(GrantState::Lost { cause })) => Some(Alert::Lost(*cause)),
            (Advanced::Repeated | Advanced::Late | Advanced::Orphaned, _) => None,
        };
        if let Some(alert) = alert {
            alerts::tell(&self.parts, &in_flight.grant, &in_flight.client, alert);
        }
    }
}

/// The entries of what is finished for an owner that is gone.
pub(super) fn recovery_record(grant: &Grant, attempt: &Attempt) -> AttemptRecord {
    AttemptRecord {
        action: "recover",
        origin: Origin::recovery(),
        key: grant.key.clone(),
        grant: grant.id,
        attempt: attempt.id,
    }
}
