//! What a dead process left behind, and doubts whose time has come; and the end
//! of a grant.
//!
//! On one node the owner of every attempt found at start is dead: the store's
//! file is locked by this process alone. An attempt with a durable answer is
//! finished; one without is in doubt until its request is harmless (rule 7).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::authn::Caller;
use crate::domain::failure::Failure;
use crate::domain::grant::{AttemptId, Grant, GrantId, GrantKey, GrantState};
use crate::domain::id::TenantId;
use crate::domain::profile::Reuse;
use crate::domain::reason::Reason;
use crate::domain::scope::Target;
use crate::entropy;
use crate::idp::{RawAnswer, Verdict};
use crate::keyring::KeyringError;
use crate::seal::{Label, Place, Sealed};
use crate::store::{OpenAttempt, OpenIntake, SealedGrant, StoreError};

use super::attempt::{Flying, refresh_token};
use super::engine::{Redeemer, lost};
use super::gate::store_failure;
use super::intake::intake_place;
use super::record::{AttemptRecord, Origin};
use super::step::{Event, HARD_LIMIT};

/// Most doubts looked into at once, of those looked at.
const PROBES: usize = 64;
const LOOKED_AT: u32 = 4096;
/// A doubt at a strict provider is left alone while an access token in memory
/// lives at least this much longer.
const NEARLY_OVER: Duration = Duration::from_secs(300);

/// How many tokens of a purged tenant are revoked at the provider at once.
const REVOKED_AT_ONCE: u32 = 16;
/// Age at which a sending attempt cannot have a task any more.
const ORPHANED: Duration = Duration::from_secs(HARD_LIMIT.as_secs() + 60);

/// What was found at start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Attempts and intakes whose durable answer was committed.
    pub finished: u32,
    /// Attempts that are in doubt.
    pub in_doubt: u32,
    /// Intakes that led to nothing.
    pub abandoned: u32,
}

impl Redeemer {
    /// Finishes what a dead process left behind. Called once, before serving.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn recover(&self) -> Result<Recovered, StoreError> {
        let mut recovered = Recovered::default();
        for open in self.parts.store.open_attempts().await? {
            if self.recover_attempt(open).await {
                recovered.finished += 1;
            } else {
                recovered.in_doubt += 1;
            }
        }
        for open in self.parts.store.open_intakes().await? {
            if self.recover_intake(open).await {
                recovered.finished += 1;
            } else {
                recovered.abandoned += 1;
            }
        }
        Ok(recovered)
    }

    /// Finishes, or puts in doubt, an attempt whose task is gone although the
    /// process is not. The caller holds the grant's lock.
    pub(super) async fn adopt_orphan(&self, grant: GrantId) -> Result<(), Failure> {
        let open = self.parts.store.open_attempts().await.map_err(|e| store_failure(&e))?;
        if let Some(open) = open.into_iter().find(|open| open.grant.id == grant) {
            tracing::error!(grant.id = %grant, "an attempt was left behind by its task");
            self.recover_attempt(open).await;
        }
        Ok(())
    }

    async fn recover_attempt(&self, open: OpenAttempt) -> bool {
        let OpenAttempt { grant, attempt, answer } = open;
        let Some(client) = self.parts.idp.client(&grant.key.client).cloned() else {
            tracing::error!(client.id = %grant.key.client, grant.id = %grant.id,
                "an attempt is open for a client that is not configured; put the client back");
            return false;
        };
        let origin = system_origin();
        let flying = Flying {
            record: AttemptRecord {
                action: "recover",
                origin,
                key: grant.key.clone(),
                grant: grant.id,
                attempt: attempt.id,
            },
            // What was issued before the start is in nobody's memory.
            tenant_epoch: 0,
            target: Target::default(),
            client,
            grant,
            attempt,
        };
        let place = Place::of_answer(&flying.grant, flying.grant.generation);
        let raw = match answer {
            Some(sealed) => match self.open_answer(&place, &sealed).await {
                Ok(raw) => raw,
                // The answer is on disk and stays there until it can be opened.
                Err(_) => return false,
            },
            None => None,
        };
        match raw.map(|raw| flying.client.classify(&raw)) {
            Some(Verdict::Tokens(answer)) => {
                let committed = self.commit_2(&flying, answer).await;
                let reason = committed.as_ref().err().map(Failure::reason);
                self.recovered(&flying.record, reason).await;
                // The memory of this process starts empty: epoch 0 is never served.
                self.cache.forget(&flying.grant.key);
                committed.is_ok() || matches!(committed, Err(f) if f.reason() == Reason::NoAccessToken)
            }
            Some(Verdict::Refused(refusal)) => {
                let _: Result<(), Failure> = self.refused(&flying, refusal).await;
                false
            }
            None => {
                if matches!(flying.grant.state, GrantState::Sending(_)) {
                    self.apply(&flying, &Event::OwnerDied(flying.attempt.id)).await;
                }
                false
            }
        }
    }

    async fn recover_intake(&self, open: OpenIntake) -> bool {
        let OpenIntake { intake, answer } = open;
        let client = self.parts.idp.client(&intake.key.client).cloned();
        let place = intake_place(Label::ProviderAnswer, &intake);
        let raw = match answer {
            Some(sealed) => match self.open_answer(&place, &sealed).await {
                Ok(raw) => raw,
                Err(_) => return false,
            },
            None => None,
        };
        let Some(raw) = raw else {
            self.abandon(&intake).await;
            return false;
        };
        let Some(client) = client else {
            tracing::error!(client.id = %intake.key.client, grant.id = %intake.grant,
                "an intake is open for a client that is not configured; put the client back");
            return false;
        };
        let Verdict::Tokens(answer) = client.classify(&raw) else {
            self.abandon(&intake).await;
            return false;
        };
        let kept = self.keep(&client, &intake, answer, &Target::default(), 0).await;
        let record = AttemptRecord {
            action: "recover",
            origin: system_origin(),
            key: intake.key.clone(),
            grant: intake.grant,
            attempt: intake.attempt,
        };
        self.recovered(&record, kept.as_ref().err().map(Failure::reason)).await;
        self.cache.forget(&intake.key);
        kept.is_ok()
    }

    /// The intent was recorded by the process that died; here is the outcome.
    async fn recovered(&self, record: &AttemptRecord, reason: Option<Reason>) {
        if let Err(failure) = record.outcome(&self.parts.audit, reason, None, "recovered").await {
            tracing::error!(grant.id = %record.grant, %failure, "a recovery could not be recorded");
        }
    }

    /// A recorded answer; `None` when it can never be opened. Any other fault
    /// may be mended, and must not cost the token in it.
    async fn open_answer(&self, place: &Place, sealed: &Sealed) -> Result<Option<RawAnswer>, KeyringError> {
        match self.parts.keyring.open(place, sealed).await {
            Ok(plain) => Ok(RawAnswer::from_bytes(&plain)),
            Err(error) => {
                tracing::error!(tenant.id = %place.tenant, grant.id = %place.grant, %error, "cannot open a recorded answer");
                match error {
                    KeyringError::Unreadable(_) | KeyringError::Destroyed(_) | KeyringError::TenantGone => {
                        Ok(None)
                    }
                    error => Err(error),
                }
            }
        }
    }

    /// Looks into the doubts whose time has come; returns how many.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn probe_due(&self) -> Result<usize, StoreError> {
        let now = self.parts.clock.now();
        let due = self.parts.store.due_probes(now, now.minus(ORPHANED), LOOKED_AT).await?;
        let due: Vec<Grant> = due.into_iter().filter(|grant| self.may_probe(grant)).take(PROBES).collect();
        let origin = system_origin();
        let probes = due.iter().map(|grant| self.refresh(&grant.key, &origin));
        // Each outcome is in the store, the audit and the log.
        let outcomes = futures_util::future::join_all(probes).await;
        Ok(outcomes.len())
    }

    fn may_probe(&self, grant: &Grant) -> bool {
        self.parts.idp.client(&grant.key.client).is_some() && self.doubt_waits(grant).is_none()
    }

    /// How long a doubt is left alone: at a strict provider a probe may revoke
    /// what callers still use.
    pub(super) fn doubt_waits(&self, grant: &Grant) -> Option<Duration> {
        let client = self.parts.idp.client(&grant.key.client)?;
        let in_doubt = matches!(grant.state, GrantState::InDoubt { .. });
        if !in_doubt || client.profile().reuse != Reuse::Strict {
            return None;
        }
        let now = self.parts.clock.now();
        let wait = self.cache.last_expiry(&grant.key)?.minus(NEARLY_OVER).since(now);
        (!wait.is_zero()).then_some(wait)
    }

    /// Ends a grant: out of memory, out of the store, and at the provider where
    /// it can be told. Returns whether the provider confirmed.
    ///
    /// # Errors
    ///
    /// No such grant, or the store or the audit log cannot be written.
    pub async fn revoke(&self, key: &GrantKey, origin: &Origin) -> Result<bool, Failure> {
        let (this, key, origin) = (self.clone(), key.clone(), origin.clone());
        let task = self.tasks.spawn(async move { this.revoke_locked(&key, &origin).await });
        task.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Tells the providers that a tenant's refresh tokens are over (RFC 7009), as
    /// far as they can be told within `limit`. Best effort: what is not done
    /// then is left, for the tenant's keys are about to be destroyed. Returns how
    /// many were confirmed.
    pub async fn revoke_tenant(&self, tenant: &TenantId, limit: Duration) -> u64 {
        let confirmed = AtomicU64::new(0);
        let all = async {
            let mut after = None;
            loop {
                let page = self.parts.store.sealed_grants(tenant, after, REVOKED_AT_ONCE).await;
                let Ok(page) = page else { return };
                let Some(last) = page.last() else { return };
                after = Some(last.grant.id);
                let revocations = page.iter().map(|sealed| self.revoke_one(sealed));
                let outcomes = futures_util::future::join_all(revocations).await;
                let done = outcomes.into_iter().filter(|revoked| *revoked).count();
                confirmed.fetch_add(u64::try_from(done).unwrap_or(0), Ordering::Relaxed);
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!(tenant.id = %tenant, "not all tokens of a purged tenant could be revoked at the provider");
        }
        confirmed.into_inner()
    }

    async fn revoke_one(&self, sealed: &SealedGrant) -> bool {
        let key = &sealed.grant.key;
        let Some(client) = self.parts.idp.client(&key.client) else { return false };
        if !client.can_revoke() {
            return false;
        }
        let place = Place::of_token(&sealed.grant, sealed.grant.generation);
        let opened = self.parts.keyring.open(&place, &sealed.sealed).await.ok();
        match opened.and_then(|plain| refresh_token(&plain).ok()) {
            Some(token) => client.revoke(&key.tenant, &token).await,
            None => false,
        }
    }

    async fn revoke_locked(&self, key: &GrantKey, origin: &Origin) -> Result<bool, Failure> {
        let _lock = self.locks.lock(key).await;
        drop(self.gates.enter(&key.tenant, &*self.parts.store).await?);
        let found = self.parts.store.sealed_grant(key).await.map_err(|e| store_failure(&e))?;
        let sealed = found.ok_or_else(|| Failure::new(Reason::GrantNotFound, "no such grant"))?;
        let place = Place::of_token(&sealed.grant, sealed.grant.generation);
        // A token that cannot be opened is deleted all the same.
        let opened = self.parts.keyring.open(&place, &sealed.sealed).await.ok();
        let token = opened.and_then(|plain| refresh_token(&plain).ok());

        let id =
            entropy::uuid(&*self.parts.entropy).map_err(|e| Failure::new(Reason::Internal, e.to_string()))?;
        let record = AttemptRecord {
            action: "revoke",
            origin: origin.clone(),
            key: key.clone(),
            grant: sealed.grant.id,
            attempt: AttemptId(id),
        };
        record.intent(&self.parts.audit).await?;
        self.parts.store.delete_grant(sealed.grant.id).await.map_err(|e| store_failure(&e))?;
        // A token that a caller has already been given lives on until it expires.
        self.cache.forget(key);
        let revoked = match (self.parts.idp.client(&key.client), token) {
            (Some(client), Some(token)) => client.revoke(&key.tenant, &token).await,
            (None, _) | (_, None) => false,
        };
        record
            .outcome(&self.parts.audit, None, None, if revoked { "revoked at provider" } else { "forgotten" })
            .await?;
        Ok(revoked)
    }
}

fn system_origin() -> Origin {
    Origin { request_id: "recovery".to_owned(), caller: Caller::system("system:recovery").id().clone() }
}
