//! A provider's answer: made durable as it came, then parsed, then commit 2.
//!
//! Nothing here may drop a refresh token (invariant I7): whatever fails is
//! tried again until the token is durable, or the store says that it belongs to
//! nobody any more.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::domain::failure::Failure;
use crate::domain::grant::{AttemptId, Generation, GrantKey};
use crate::domain::id::TenantId;
use crate::domain::key::KeyVersion;
use crate::domain::reason::Reason;
use crate::domain::scope::{ScopeSet, Target};
use crate::domain::tenant::TenantState;
use crate::entropy;
use crate::idp::{Client, RawAnswer, TokenAnswer};
use crate::keyring::KeyringError;
use crate::seal::{Place, Sealed};
use crate::secret::AccessToken;
use crate::store::{Commit, CommitRefused, Renewed};

use super::attempt::Flying;
use super::cache::IssuedToken;
use super::engine::Redeemer;
use super::step::{Event, State, step};

/// Life of an access token whose answer names none (RFC 6749 section 5.1 only
/// recommends it).
const UNNAMED_LIFE: Duration = Duration::from_secs(300);

/// Longest life that is believed.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Where an answer is recorded.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ledger {
    Attempts,
    Intakes,
}

/// The tenant is gone, or the attempt owns the grant no longer.
pub(super) struct Nobodys;

impl Redeemer {
    /// Rule 5: the raw answer is durable before it is parsed.
    pub(super) async fn journal(&self, flying: &Flying, raw: &RawAnswer) {
        let place = Place::of_answer(&flying.grant, flying.grant.generation);
        self.journal_in(Ledger::Attempts, flying.attempt.id, &place, raw).await;
    }

    /// Seals and records until the answer is on disk, or belongs to nobody.
    pub(super) async fn journal_in(
        &self,
        ledger: Ledger,
        attempt: AttemptId,
        place: &Place,
        raw: &RawAnswer,
    ) {
        let bytes = raw.without_access_token().to_bytes();
        let mut refused_under = None;
        loop {
            let Ok((version, sealed)) = self.seal_for_sure(place, bytes.expose()).await else { return };
            if refused_under == Some(version) {
                // Not for its version, so the attempt is gone; commit 2 finds
                // out the same.
                return;
            }
            let store = &self.parts.store;
            let recorded = match ledger {
                Ledger::Attempts => store.record_answer(attempt, version, &sealed).await,
                Ledger::Intakes => store.record_intake_answer(attempt, version, &sealed).await,
            };
            match recorded {
                Ok(true) => return,
                Ok(false) => refused_under = Some(version),
                Err(error) => {
                    tracing::error!(grant.id = %place.grant, %error, "cannot record an answer, will try again");
                    Self::pause().await;
                }
            }
        }
    }

    /// Commit 2, then the memory.
    pub(super) async fn commit_2(
        &self,
        flying: &Flying,
        answer: TokenAnswer,
    ) -> Result<Arc<IssuedToken>, Failure> {
        let now = self.parts.clock.now();
        let profile = flying.client.profile();
        let before = State {
            generation: flying.grant.generation,
            grant: crate::domain::grant::GrantState::Sending(flying.attempt.clone()),
            not_before: None,
        };
        let event = Event::Answered { attempt: flying.attempt.id, renewed: answer.refresh_token.is_some() };
        // Only claims are refused.
        let after = step(&before, &event, profile, now).map_or(before, |t| t.state);
        let generation = after.generation;

        loop {
            let renewed = match &answer.refresh_token {
                None => None,
                Some(token) => {
                    let place = Place::of_token(&flying.grant, generation);
                    match self.seal_for_sure(&place, token.expose().as_bytes()).await {
                        Ok((key_version, sealed)) => Some(Renewed { generation, key_version, sealed }),
                        Err(Nobodys) => return self.nobodys(flying, &answer).await,
                    }
                }
            };
            let commit = Commit {
                grant: flying.grant.id,
                attempt: flying.attempt.id,
                renewed,
                scopes: None,
                at: now,
                idle_expires_at: profile.idle_lifetime.map(|life| now.plus(life)),
                next_refresh_at: self.next_refresh_at(profile, now),
                not_before: after.not_before,
            };
            match self.parts.store.commit(commit).await {
                Ok(Ok(grant)) => {
                    let scopes = answer.scopes.clone().unwrap_or(grant.scopes);
                    return self.remember(
                        &flying.grant.key,
                        &flying.target,
                        answer,
                        scopes,
                        generation,
                        flying.tenant_epoch,
                    );
                }
                Ok(Err(CommitRefused::KeyVersionMoved)) => {}
                Ok(Err(CommitRefused::TenantGone | CommitRefused::Superseded)) => {
                    return self.nobodys(flying, &answer).await;
                }
                Err(error) => {
                    tracing::error!(grant.id = %flying.grant.id, %error, "cannot commit a new token, will try again");
                    Self::pause().await;
                }
            }
        }
    }

    /// Invariant I9: a token that belongs to nobody is revoked at the provider
    /// and never stored.
    async fn nobodys<T>(&self, flying: &Flying, answer: &TokenAnswer) -> Result<T, Failure> {
        self.disown(&flying.client, &flying.grant.key.tenant, answer).await;
        Err(self.gone_failure(&flying.grant.key).await)
    }

    pub(super) async fn disown(&self, client: &Client, tenant: &TenantId, answer: &TokenAnswer) {
        if let Some(token) = &answer.refresh_token {
            let revoked = client.revoke(tenant, token).await;
            tracing::warn!(tenant.id = %tenant, revoked, "an answer came too late and was not kept");
        }
    }

    pub(super) async fn gone_failure(&self, key: &GrantKey) -> Failure {
        match self.gates.enter(&key.tenant, &*self.parts.store).await {
            Err(failure) => failure,
            Ok(_) => Failure::new(Reason::GrantNotFound, "the grant was revoked or replaced meanwhile"),
        }
    }

    /// Seals under the tenant's newest version, trying until it succeeds or the
    /// tenant is gone.
    pub(super) async fn seal_for_sure(
        &self,
        place: &Place,
        plain: &[u8],
    ) -> Result<(KeyVersion, Sealed), Nobodys> {
        loop {
            let version = match self.parts.store.tenant(&place.tenant).await {
                Ok(None) => return Err(Nobodys),
                Ok(Some(tenant)) => match tenant.state {
                    TenantState::Pending { active_version }
                    | TenantState::Active { active_version }
                    | TenantState::PurgeScheduled { active_version, .. } => Some(active_version),
                    TenantState::Purging | TenantState::Purged { .. } => return Err(Nobodys),
                },
                Err(error) => {
                    tracing::error!(tenant.id = %place.tenant, %error, "cannot read the tenant, will try again");
                    None
                }
            };
            if let Some(version) = version {
                match self.parts.keyring.seal(version, place, plain).await {
                    Ok(sealed) => return Ok((version, sealed)),
                    Err(KeyringError::TenantGone) => return Err(Nobodys),
                    // The version moved between the two reads: read again.
                    Err(KeyringError::Retired(..)) => continue,
                    Err(error) => {
                        tracing::error!(tenant.id = %place.tenant, %error, "cannot seal a token, will try again");
                    }
                }
            }
            Self::pause().await;
        }
    }

    /// Puts the access token into memory; its grant's generation is durable
    /// (invariant I5).
    pub(super) fn remember(
        &self,
        key: &GrantKey,
        target: &Target,
        answer: TokenAnswer,
        scopes: ScopeSet,
        generation: Generation,
        tenant_epoch: u64,
    ) -> Result<Arc<IssuedToken>, Failure> {
        let now = self.parts.clock.now();
        self.cache.forget_negative(key);
        let TokenAnswer { access_token, token_type, expires_in, refresh_token: _, scopes: _, id_token: _ } =
            answer;
        let token = access_token.filter(|token| !token.expose().is_empty()).ok_or_else(|| {
            Failure::new(Reason::NoAccessToken, "the provider's answer has no access token")
        })?;
        let issued =
            Arc::new(self.issued(token, token_type, expires_in, scopes, generation, tenant_epoch, now));
        self.cache.insert(key, target.clone(), Arc::clone(&issued), now);
        Ok(issued)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one value, named at both ends")]
    fn issued(
        &self,
        token: AccessToken,
        token_type: String,
        expires_in: Option<Duration>,
        scopes: ScopeSet,
        generation: Generation,
        tenant_epoch: u64,
        now: Timestamp,
    ) -> IssuedToken {
        let life = expires_in.unwrap_or(UNNAMED_LIFE).min(LONGEST_LIFE);
        // Refreshed ahead at 50 to 70 % of its life (rule 1).
        let ahead = entropy::between(&*self.parts.entropy, life.mul_f64(0.5), life.mul_f64(0.7));
        IssuedToken {
            token,
            token_type,
            expires_at: now.plus(life),
            life,
            refresh_at: now.plus(ahead.unwrap_or(life / 2)),
            scopes,
            generation,
            tenant_epoch,
        }
    }
}
