//! Enrolling a grant: the same protocol for a token that the vault does not have
//! yet. The old grant, if there is one, stays as it is until the new token is
//! durable.
//!
//! An import redeems its token before it is known whose it is. What the vault
//! fails to understand then is no evidence against the user: the new token is
//! held, sealed and unusable (`held`), and the same import finishes it once the
//! fault is fixed. Only a token that is proven to be somebody else's is revoked.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::domain::failure::Failure;
use crate::domain::grant::{Grant, GrantId, GrantKey, Lineage};
use crate::domain::profile::Reuse;
use crate::domain::protocol::State;
use crate::domain::protocol::bounds::{BACK_OFF, HARD_LIMIT, PROBE_MARGIN, SEND_WITHIN};
use crate::domain::reason::Reason;
use crate::domain::scope::{ScopeSet, Target};
use crate::idp::{
    Client, Exchange, Proof, RawAnswer, Refusal, RefusalKind, SendOutcome, TokenAnswer, Verdict,
};
use crate::seal::{Label, Place};
use crate::secret::{RefreshToken, UnverifiedAssertion};
use crate::store::{AnswerOf, Enrolment, EnrolmentKind, EnrolmentRefused, EnrolmentStage};

use super::alerts;
use super::failures::{not_sent, refusal_failure};
use super::flight::GrantLock;
use super::marks;
use super::parts::Parts;
use super::record::{AttemptRecord, Origin};
use super::revocation::Revocations;
use super::sealer::{Sealer, pause};

/// What an enrolment begins with.
#[derive(Debug)]
pub enum Source {
    /// A user's access token, verified by the caller of the engine.
    Assertion(UnverifiedAssertion),
    /// An existing refresh token; the provider's answer must prove the subject.
    Import(RefreshToken),
}

/// An enrolment as the grant service orders it.
#[derive(Debug)]
pub struct Order {
    /// The grant to make or replace.
    pub key: GrantKey,
    /// Where the token comes from.
    pub source: Source,
    /// What to ask for.
    pub target: Target,
    /// On whose behalf.
    pub origin: Origin,
}

/// A grant that is kept now.
pub(super) struct Enrolled {
    pub(super) grant: Grant,
    pub(super) replaced: bool,
    pub(super) answer: TokenAnswer,
    /// Scopes of the access token.
    pub(super) scopes: ScopeSet,
}

/// What an order came to.
pub(super) enum Outcome {
    Enrolled(Box<Enrolled>),
    /// The same import has made this grant before; its token is used up, so that it
    /// is not sent once more.
    Known(Box<Grant>),
}

/// Enrols grants.
#[derive(Clone)]
pub(super) struct Enrolments {
    pub(super) parts: Arc<Parts>,
    pub(super) sealer: Sealer,
    pub(super) revocations: Revocations,
}

impl Enrolments {
    pub(super) fn new(parts: Arc<Parts>, sealer: Sealer, revocations: Revocations) -> Self {
        Self { parts, sealer, revocations }
    }

    /// Enrols a grant. The caller holds its lock and, for an import, that of the
    /// imported token.
    pub(super) async fn enrol(&self, _lock: &GrantLock, order: Order) -> Result<Outcome, Failure> {
        let Order { key, source, target, origin } = order;
        let parts = &self.parts;
        let client = parts.idp.client(&key.client).cloned();
        let client =
            client.ok_or_else(|| Failure::new(Reason::ClientNotFound, "the client is not configured"))?;
        let kind = self.kind(&key, &source)?;
        // Whether the request before this one may be what used the token.
        let mut follows = false;
        if let (EnrolmentKind::Import(Some(mark)), Source::Import(token)) = (&kind, &source) {
            while let Some(open) = parts.store.open_import(&key.tenant, &key.client, *mark).await? {
                let resumed = self.resume(&client, open, &key, token, &target, &origin).await;
                match resumed.map_err(|failure| lost(failure, follows))? {
                    Some(enrolled) => return Ok(Outcome::Enrolled(Box::new(enrolled))),
                    None => follows = true,
                }
            }
            if let Some(grant) = self.finished(&client, &key, *mark).await? {
                return Ok(Outcome::Known(Box::new(grant)));
            }
        }
        let enrolment = self.plan(&client, key, kind, &target).await?;
        let enrolled = self.exchange(&client, enrolment, source, &target, origin).await;
        let enrolled = enrolled.map_err(|failure| lost(failure, follows))?;
        Ok(Outcome::Enrolled(Box::new(enrolled)))
    }

    pub(super) async fn exchange(
        &self,
        client: &Arc<Client>,
        enrolment: Enrolment,
        source: Source,
        target: &Target,
        origin: Origin,
    ) -> Result<Enrolled, Failure> {
        let parts = &self.parts;
        let (now, begun_at) = (enrolment.started_at, parts.clock.instant());
        let exchange = match &source {
            Source::Assertion(assertion) => Exchange::OnBehalfOf { assertion, target },
            Source::Import(token) => Exchange::Refresh { token, target },
        };
        let proof = Proof { now, send_by: now.plus(SEND_WITHIN), jti: enrolment.attempt.to_string() };
        let prepared = client
            .prepare(&enrolment.key.tenant, exchange, proof)
            .map_err(|e| Failure::new(Reason::ProviderRejectedClient, e.to_string()))?;
        let record = enrolment_record(&enrolment, action(enrolment.kind), origin);
        record.intent(&parts.audit).await?;
        self.begin(&enrolment).await?;

        let clock = Arc::clone(&parts.clock);
        let send_by = begun_at.plus(SEND_WITHIN);
        let left = HARD_LIMIT.saturating_sub(clock.instant().since(begun_at));
        let sent = client.send(prepared, move || clock.instant() < send_by, left).await;
        let imported = match source {
            Source::Assertion(_) => None,
            Source::Import(token) => Some(token),
        };
        let result = self.ended(client, &enrolment, sent, imported).await;
        self.record_outcome(&record, &result).await?;
        result
    }

    pub(super) async fn record_outcome(
        &self,
        record: &AttemptRecord,
        result: &Result<Enrolled, Failure>,
    ) -> Result<(), Failure> {
        let (reason, version, note) = match result {
            Ok(enrolled) => (None, Some(enrolled.grant.key_version), "kept"),
            Err(failure) => (Some(failure.reason()), None, "not kept"),
        };
        record.outcome(&self.parts.audit, reason, version, note).await
    }

    fn kind(&self, key: &GrantKey, source: &Source) -> Result<EnrolmentKind, Failure> {
        Ok(match source {
            Source::Assertion(_) => EnrolmentKind::OnBehalfOf,
            Source::Import(token) => {
                let deployment = self.parts.deployment;
                let mark = marks::import_mark(deployment, &key.tenant, &key.client, token)?;
                EnrolmentKind::Import(Some(mark))
            }
        })
    }

    pub(super) async fn plan(
        &self,
        client: &Client,
        key: GrantKey,
        kind: EnrolmentKind,
        target: &Target,
    ) -> Result<Enrolment, Failure> {
        let existing = self.parts.store.grant(&key).await?;
        let lineage = Lineage(self.parts.fresh_id()?);
        let generation = State::enrolled(existing.as_ref().map(|grant| grant.generation), lineage).generation;
        let grant = match existing {
            Some(grant) => grant.id,
            None => GrantId(self.parts.fresh_id()?),
        };
        Ok(Enrolment {
            attempt: self.parts.fresh_attempt()?,
            lineage,
            owner: self.parts.owner,
            kind,
            issuer: client.issuer(&key.tenant),
            key,
            grant,
            generation,
            scopes: target.scopes.without_protocol_scopes(),
            resource: target.resource.clone(),
            started_at: self.parts.clock.now(),
        })
    }

    async fn begin(&self, enrolment: &Enrolment) -> Result<(), Failure> {
        let mut begun = self.parts.store.begin_enrolment(enrolment).await;
        if begun.is_err() {
            // It may be told twice.
            begun = self.parts.store.begin_enrolment(enrolment).await;
        }
        match begun? {
            Ok(()) => Ok(()),
            Err(EnrolmentRefused::TenantGone) => Err(Failure::new(
                Reason::StoreUnavailable,
                "the tenant went out of service before the enrolment",
            )
            .retry_after(Duration::from_secs(1))),
            Err(
                EnrolmentRefused::KeyVersionMoved
                | EnrolmentRefused::PlaceMoved { .. }
                | EnrolmentRefused::Orphaned,
            ) => Err(Failure::new(Reason::StoreUnavailable, "the grant changed before the enrolment")
                .retry_after(Duration::from_secs(1))),
        }
    }

    async fn ended(
        &self,
        client: &Arc<Client>,
        enrolment: &Enrolment,
        sent: SendOutcome,
        imported: Option<RefreshToken>,
    ) -> Result<Enrolled, Failure> {
        let raw = match sent {
            SendOutcome::Answered(raw) => raw,
            SendOutcome::Interrupted { detail } => {
                return Err(self.unknown(client, enrolment, detail).await);
            }
            SendOutcome::NotSent { detail, overloaded } => {
                self.abandon(enrolment).await;
                return Err(not_sent(detail, overloaded));
            }
        };
        if (200..300).contains(&raw.status()) {
            self.record(enrolment, &raw).await;
        }
        match client.classify(&raw) {
            Verdict::Refused(refusal) => Err(self.refused(client, enrolment, &refusal).await),
            Verdict::Tokens(mut answer) => {
                if answer.refresh_token.is_none() {
                    // A provider that does not rotate: the imported one stays.
                    answer.refresh_token = imported;
                }
                self.keep(client, enrolment, answer).await
            }
        }
    }

    async fn record(&self, enrolment: &Enrolment, raw: &RawAnswer) {
        let place = enrolment_place(Label::ProviderAnswer, enrolment);
        self.sealer.record(AnswerOf::Enrolment(enrolment.attempt), &place, raw).await;
    }

    /// The request may have been received. A user's assertion can be exchanged
    /// again; an imported token may be used up by now, and to try it again at once
    /// may cost the user's consent.
    async fn unknown(&self, client: &Client, enrolment: &Enrolment, detail: String) -> Failure {
        let import = matches!(enrolment.kind, EnrolmentKind::Import(_));
        if !import || client.profile().reuse == Reuse::Tolerated {
            self.abandon(enrolment).await;
            return Failure::new(Reason::ProviderUnavailable, detail).retry_after(BACK_OFF);
        }
        let probe_after = self.suspend(client, enrolment).await;
        Failure::new(Reason::GrantInDoubt, detail).retry_after(probe_after.since(self.parts.clock.now()))
    }

    /// Leaves an import open until its request is harmless; the same import finds
    /// it. Returns when that is.
    pub(super) async fn suspend(&self, client: &Client, enrolment: &Enrolment) -> Timestamp {
        let send_by = enrolment.started_at.plus(SEND_WITHIN);
        let ended = enrolment.started_at.plus(HARD_LIMIT);
        let probe_after =
            client.fenced_at(send_by).map_or(ended, |fenced| fenced.max(ended)).plus(PROBE_MARGIN);
        self.set_stage(enrolment, EnrolmentStage::InDoubt { probe_after }).await;
        probe_after
    }

    async fn refused(&self, client: &Client, enrolment: &Enrolment, refusal: &Refusal) -> Failure {
        if refusal.kind == RefusalKind::ClientRejected {
            alerts::client_rejected(&self.parts, client, refusal);
        }
        let import = matches!(enrolment.kind, EnrolmentKind::Import(_));
        if import && !refusal.complete && !refusal.proves_unused {
            // Not the provider's own word: the token may be used up or on its way.
            return self.unknown(client, enrolment, refusal.detail.clone()).await;
        }
        self.abandon(enrolment).await;
        let failure = refusal_failure(refusal, None, self.parts.clock.now());
        // What a refused assertion is to its caller.
        match failure.reason() {
            Reason::GrantRevoked if !import => {
                Failure::new(Reason::AssertionRefusedByProvider, failure.detail().to_owned())
            }
            _ if import && !refusal.proves_unused => failure.without_retry(),
            _ => failure,
        }
    }

    pub(super) async fn abandon(&self, enrolment: &Enrolment) {
        if let Err(error) = self.parts.store.abandon_enrolment(enrolment.attempt).await {
            // Found and abandoned at the next start.
            tracing::warn!(%error, "cannot forget an enrolment");
        }
    }

    /// Goes on until it is written: what an import may have used up must be found
    /// by the next one.
    pub(super) async fn set_stage(&self, enrolment: &Enrolment, stage: EnrolmentStage) {
        while let Err(error) = self.parts.store.suspend_enrolment(enrolment.attempt, stage).await {
            tracing::error!(grant.id = %enrolment.grant, %error, "cannot suspend an enrolment, will try again");
            pause().await;
        }
    }
}

pub(super) fn enrolment_place(label: Label, enrolment: &Enrolment) -> Place {
    Place::new(label, enrolment.grant, &enrolment.key, &enrolment.issuer, enrolment.generation)
}

pub(super) fn enrolment_record(enrolment: &Enrolment, action: &'static str, origin: Origin) -> AttemptRecord {
    AttemptRecord {
        action,
        origin,
        key: enrolment.key.clone(),
        grant: enrolment.grant,
        attempt: enrolment.attempt,
    }
}

/// A token that is dead after a request with an unknown outcome was lost by the
/// vault, not revoked by the provider.
fn lost(failure: Failure, follows: bool) -> Failure {
    match failure.reason() {
        Reason::GrantRevoked if follows => Failure::new(Reason::GrantLost, failure.detail().to_owned()),
        _ => failure,
    }
}

fn action(kind: EnrolmentKind) -> &'static str {
    match kind {
        EnrolmentKind::OnBehalfOf => "exchange",
        EnrolmentKind::Import(_) => "import",
    }
}
