//! Taking a grant in: the same protocol for a token the vault does not have
//! yet. The old grant, if there is one, stays as it is until the new token is
//! durable.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::failure::Failure;
use crate::domain::grant::{AttemptId, Generation, Grant, GrantId, GrantKey, GrantState};
use crate::domain::reason::Reason;
use crate::domain::scope::Target;
use crate::entropy;
use crate::idp::{Client, Exchange, IdentityError, Proof, RawAnswer, SendOutcome, TokenAnswer, Verdict};
use crate::seal::{Label, Place};
use crate::secret::{RefreshToken, UnverifiedAssertion};
use crate::store::{CommitRefused, Intake, IntakeCommit, Renewed};

use super::answer::{Ledger, Nobodys};
use super::engine::{Redeemer, lost};
use super::failures::refusal_failure;
use super::gate::store_failure;
use super::record::{AttemptRecord, Origin};
use super::step::{self, Event, HARD_LIMIT, SEND_WITHIN, State, step};

/// How long an import waits for the provider's keys before it is left to the
/// next start.
const IDENTITY_TRIES: u32 = 10;

/// What is taken in.
#[derive(Debug)]
pub enum Source {
    /// A user's access token, verified by the caller of the engine.
    Assertion(UnverifiedAssertion),
    /// An existing refresh token; the provider's answer must prove the subject.
    Import(RefreshToken),
}

/// An intake as the grant service orders it.
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

impl Redeemer {
    /// Takes a grant in; returns it and whether it replaced one. Goes on when
    /// the caller leaves.
    ///
    /// # Errors
    ///
    /// The provider refuses, cannot be reached, or its answer proves nothing;
    /// the tenant is out of service; the vault's files cannot be written.
    pub async fn take_in(&self, order: Order) -> Result<(Grant, bool), Failure> {
        let this = self.clone();
        let task = self.tasks.spawn(async move { this.take_in_locked(order).await });
        task.await.unwrap_or_else(|_| Err(lost()))
    }

    async fn take_in_locked(&self, order: Order) -> Result<(Grant, bool), Failure> {
        let Order { key, source, target, origin } = order;
        let parts = &self.parts;
        let client = parts.idp.client(&key.client).cloned();
        let client =
            client.ok_or_else(|| Failure::new(Reason::ClientNotFound, "the client is not configured"))?;
        let _lock = self.locks.lock(&key).await;
        let tenant_epoch = self.gates.enter(&key.tenant, &*parts.store).await?.epoch;
        let intake = self.plan(&client, &key, &source, &target).await?;
        let now = parts.clock.now();

        let exchange = match &source {
            Source::Assertion(assertion) => Exchange::OnBehalfOf { assertion, target: &target },
            Source::Import(token) => Exchange::Refresh { token, target: &target },
        };
        let proof = Proof { now, send_by: now.plus(SEND_WITHIN), jti: intake.attempt.to_string() };
        let prepared = client
            .prepare(&key.tenant, exchange, proof)
            .map_err(|e| Failure::new(Reason::ProviderRejectedClient, e.to_string()))?;

        let action = if intake.prove_identity { "import" } else { "exchange" };
        let record =
            AttemptRecord { action, origin, key: key.clone(), grant: intake.grant, attempt: intake.attempt };
        record.intent(&parts.audit).await?;
        match parts.store.begin_intake(&intake).await.map_err(|e| store_failure(&e))? {
            Ok(()) => {}
            Err(CommitRefused::TenantGone) => return Err(self.gone_failure(&key).await),
            Err(CommitRefused::KeyVersionMoved | CommitRefused::Superseded) => {
                return Err(Failure::new(Reason::StoreUnavailable, "the grant changed before the intake")
                    .retry_after(Duration::from_secs(1)));
            }
        }

        let send_by = parts.clock.instant().plus(SEND_WITHIN);
        let clock = Arc::clone(&parts.clock);
        let sent = client.send(prepared, move || clock.instant() < send_by, HARD_LIMIT).await;
        let imported = match source {
            Source::Assertion(_) => None,
            Source::Import(token) => Some(token),
        };
        let result = self.intake_landed(&client, &intake, sent, imported, &target, tenant_epoch).await;
        let (reason, version, note) = match &result {
            Ok((grant, _)) => (None, Some(grant.key_version), "kept"),
            Err(failure) => (Some(failure.reason()), None, "not kept"),
        };
        record.outcome(&parts.audit, reason, version, note).await?;
        result
    }

    async fn plan(
        &self,
        client: &Client,
        key: &GrantKey,
        source: &Source,
        target: &Target,
    ) -> Result<Intake, Failure> {
        let internal = |e: entropy::EntropyUnavailable| Failure::new(Reason::Internal, e.to_string());
        let existing = self.parts.store.grant(key).await.map_err(|e| store_failure(&e))?;
        let now = self.parts.clock.now();
        let (grant, generation) = match existing {
            None => (GrantId(entropy::uuid(&*self.parts.entropy).map_err(internal)?), Generation(1)),
            Some(grant) => {
                let before = State { generation: grant.generation, grant: grant.state, not_before: None };
                // Only claims are refused.
                let replaced = step(&before, &Event::Replaced, client.profile(), now);
                (grant.id, replaced.map_or(before.generation.next(), |t| t.state.generation))
            }
        };
        Ok(Intake {
            attempt: AttemptId(entropy::uuid(&*self.parts.entropy).map_err(internal)?),
            key: key.clone(),
            grant,
            generation,
            issuer: client.issuer(&key.tenant),
            prove_identity: matches!(source, Source::Import(_)),
            scopes: target.scopes.clone(),
            resource: target.resource.clone(),
            started_at: now,
        })
    }

    async fn intake_landed(
        &self,
        client: &Client,
        intake: &Intake,
        sent: SendOutcome,
        imported: Option<RefreshToken>,
        target: &Target,
        tenant_epoch: u64,
    ) -> Result<(Grant, bool), Failure> {
        let raw = match sent {
            SendOutcome::Answered(raw) => raw,
            SendOutcome::Interrupted { detail } if intake.prove_identity => {
                self.abandon(intake).await;
                // No delay: to try the same token again may cost the user's consent.
                return Err(Failure::new(Reason::GrantInDoubt, detail));
            }
            SendOutcome::NotSent { detail, .. } | SendOutcome::Interrupted { detail } => {
                self.abandon(intake).await;
                return Err(Failure::new(Reason::ProviderUnavailable, detail).retry_after(step::BACK_OFF));
            }
        };
        if (200..300).contains(&raw.status()) {
            self.journal_intake(intake, &raw).await;
        }
        match client.classify(&raw) {
            Verdict::Refused(refusal) => {
                self.abandon(intake).await;
                let now = self.parts.clock.now();
                let state =
                    State { generation: intake.generation, grant: GrantState::Revoked, not_before: None };
                let failure = refusal_failure(&refusal, &state, now);
                // What a refused assertion is to its caller.
                Err(match failure.reason() {
                    Reason::GrantRevoked if !intake.prove_identity => {
                        Failure::new(Reason::AssertionRejected, failure.detail().to_owned())
                    }
                    _ if intake.prove_identity && !refusal.proves_unused => failure.without_retry(),
                    _ => failure,
                })
            }
            Verdict::Tokens(mut answer) => {
                if answer.refresh_token.is_none() {
                    // A provider that does not rotate: the imported one stays.
                    answer.refresh_token = imported;
                }
                self.keep(client, intake, answer, target, tenant_epoch).await
            }
        }
    }

    async fn journal_intake(&self, intake: &Intake, raw: &RawAnswer) {
        let place = intake_place(Label::ProviderAnswer, intake);
        self.journal_in(Ledger::Intakes, intake.attempt, &place, raw).await;
    }

    /// From the parsed answer to the durable grant; also what recovery does
    /// with an answer it finds.
    pub(super) async fn keep(
        &self,
        client: &Client,
        intake: &Intake,
        answer: TokenAnswer,
        target: &Target,
        tenant_epoch: u64,
    ) -> Result<(Grant, bool), Failure> {
        if answer.refresh_token.is_none() {
            self.abandon(intake).await;
            return Err(Failure::new(Reason::NoRefreshToken, "the provider issued no refresh token"));
        }
        if intake.prove_identity
            && let Err(failure) = self.prove(client, intake, &answer).await
        {
            if failure.reason() != Reason::ProviderUnavailable {
                self.disown(client, &intake.key.tenant, &answer).await;
                self.abandon(intake).await;
            }
            return Err(failure);
        }
        let now = self.parts.clock.now();
        let profile = client.profile();
        let place = intake_place(Label::RefreshToken, intake);
        let scopes = answer.scopes.clone().unwrap_or_else(|| intake.scopes.without_protocol_scopes());
        loop {
            let token = answer.refresh_token.as_ref().map_or("", RefreshToken::expose);
            let Ok((key_version, sealed)) = self.seal_for_sure(&place, token.as_bytes()).await else {
                return self.nobody_takes(client, intake, &answer).await;
            };
            let commit = IntakeCommit {
                intake: intake.clone(),
                renewed: Renewed { generation: intake.generation, key_version, sealed },
                scopes: scopes.clone(),
                at: now,
                idle_expires_at: profile.idle_lifetime.map(|life| now.plus(life)),
                absolute_expires_at: profile.absolute_lifetime.map(|life| now.plus(life)),
                next_refresh_at: self.next_refresh_at(profile, now),
            };
            match self.parts.store.commit_intake(commit).await {
                Ok(Ok((grant, replaced))) => {
                    self.cache.forget(&intake.key);
                    // An access token is welcome here, not needed.
                    let kept =
                        self.remember(&intake.key, target, answer, scopes, grant.generation, tenant_epoch);
                    // For the scopes of the grant, unless more than those was asked.
                    if let Ok(token) = kept
                        && target.resource.is_none()
                        && target.claims.is_none()
                    {
                        self.cache.insert(&intake.key, Target::default(), token, now);
                    }
                    return Ok((grant, replaced));
                }
                Ok(Err(CommitRefused::KeyVersionMoved)) => {}
                Ok(Err(CommitRefused::TenantGone | CommitRefused::Superseded)) => {
                    return self.nobody_takes(client, intake, &answer).await;
                }
                Err(error) => {
                    tracing::error!(grant.id = %intake.grant, %error, "cannot commit a new grant, will try again");
                    Self::pause().await;
                }
            }
        }
    }

    async fn nobody_takes<T>(
        &self,
        client: &Client,
        intake: &Intake,
        answer: &TokenAnswer,
    ) -> Result<T, Failure> {
        self.disown(client, &intake.key.tenant, answer).await;
        self.abandon(intake).await;
        Err(self.gone_failure(&intake.key).await)
    }

    /// Whether the provider's answer says that the token is the subject's.
    async fn prove(&self, client: &Client, intake: &Intake, answer: &TokenAnswer) -> Result<(), Failure> {
        let mut tries = 0;
        let user = loop {
            match client.identify(answer, &intake.key.tenant).await {
                Ok(user) => break user,
                Err(IdentityError::Unproven(detail)) => {
                    return Err(Failure::new(Reason::IdentityUnproven, detail));
                }
                Err(IdentityError::KeysUnavailable(fault)) => {
                    tries += 1;
                    if tries >= IDENTITY_TRIES {
                        // Kept until the next start; to try the token again would spend it.
                        return Err(Failure::new(Reason::ProviderUnavailable, fault.to_string()));
                    }
                    // Longer than the provider's keys are remembered as missing.
                    tokio::time::sleep(Duration::from_millis(1200)).await;
                }
            }
        };
        if user.tenant == intake.key.tenant && user.subject == intake.key.subject {
            Ok(())
        } else {
            Err(Failure::new(Reason::IdentityMismatch, "the token belongs to another user"))
        }
    }

    pub(super) async fn abandon(&self, intake: &Intake) {
        if let Err(error) = self.parts.store.abandon_intake(intake.attempt).await {
            // Found and abandoned at the next start.
            tracing::warn!(%error, "cannot forget an intake");
        }
    }
}

pub(super) fn intake_place(label: Label, intake: &Intake) -> Place {
    Place::new(label, intake.grant, &intake.key, &intake.issuer, intake.generation)
}

impl From<Nobodys> for Failure {
    fn from(_: Nobodys) -> Self {
        Self::new(Reason::TenantPurged, "the tenant was purged meanwhile")
    }
}
