//! The end of a token: at the provider, where it can be told (RFC 7009), and in
//! the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::domain::failure::Failure;
use crate::domain::grant::{GrantId, GrantKey};
use crate::domain::id::{Issuer, TenantId};
use crate::domain::reason::Reason;
use crate::idp::{Client, TokenAnswer};
use crate::seal::Place;
use crate::secret::RefreshToken;
use crate::store::{EnrolmentStage, SealedGrant};

use super::attempt::check_issuer;
use super::enrolment::enrolment_record;
use super::flight::GrantLock;
use super::parts::Parts;
use super::record::{AttemptRecord, Origin};
use super::sealer::{Sealer, pause};

/// How many tokens of a purged tenant are revoked at the provider at once.
const REVOKED_AT_ONCE: u32 = 16;

/// Revokes.
#[derive(Clone)]
pub(super) struct Revocations {
    parts: Arc<Parts>,
    sealer: Sealer,
}

impl Revocations {
    pub(super) fn new(parts: Arc<Parts>, sealer: Sealer) -> Self {
        Self { parts, sealer }
    }

    /// An answer that belongs to nobody: its token is revoked, and dropped where
    /// revoking it would end the user's whole consent.
    pub(super) async fn orphan(
        &self,
        client: &Client,
        tenant: &TenantId,
        issuer: &Issuer,
        answer: &TokenAnswer,
    ) {
        let Some(token) = &answer.refresh_token else { return };
        // It goes nowhere but to its issuer, not even to be revoked.
        let may_be_told = client.issuer(tenant) == *issuer && !client.profile().revocation_ends_consent;
        let revoked = may_be_told && client.revoke(tenant, token).await;
        tracing::warn!(tenant.id = %tenant, revoked, "an answer came too late and was not kept");
    }

    /// Ends a grant in the store and at the provider. The caller holds its lock.
    /// Returns whether the provider confirmed.
    pub(super) async fn grant(
        &self,
        _lock: &GrantLock,
        key: &GrantKey,
        origin: &Origin,
    ) -> Result<bool, Failure> {
        let Some(sealed) = self.parts.store.sealed_grant(key).await? else {
            return self.held(key, origin).await.map(|()| false);
        };
        // A token that cannot be opened is deleted all the same.
        let token = self.opened(&sealed).await;
        let record = AttemptRecord {
            action: "revoke",
            origin: origin.clone(),
            key: key.clone(),
            grant: sealed.grant.id,
            attempt: self.parts.fresh_attempt()?,
        };
        record.intent(&self.parts.audit).await?;
        self.delete(sealed.grant.id).await;
        let revoked = match token {
            Some((client, token)) => client.revoke(&key.tenant, &token).await,
            None => false,
        };
        let note = if revoked { "revoked at provider" } else { "forgotten" };
        record.outcome(&self.parts.audit, None, None, note).await?;
        Ok(revoked)
    }

    /// Forgets the imports of a user that are held, where they have led to no grant
    /// yet. Their tokens are not proven to be that user's, so no provider is told.
    async fn held(&self, key: &GrantKey, origin: &Origin) -> Result<(), Failure> {
        let open = self.parts.store.open_enrolments().await?.into_iter();
        let held: Vec<_> = open
            .filter(|open| open.enrolment.key == *key && matches!(open.stage, EnrolmentStage::Held { .. }))
            .map(|open| open.enrolment)
            .collect();
        if held.is_empty() {
            return Err(Failure::new(Reason::GrantNotFound, "no such grant"));
        }
        for enrolment in held {
            let record = enrolment_record(&enrolment, "revoke", origin.clone());
            record.intent(&self.parts.audit).await?;
            self.parts.store.abandon_enrolment(enrolment.attempt).await?;
            record.outcome(&self.parts.audit, None, None, "held import forgotten").await?;
        }
        Ok(())
    }

    /// Goes on until the store is back: whether a delete has happened is not known
    /// when its acknowledgement is lost, and the provider is told after it.
    async fn delete(&self, grant: GrantId) {
        while let Err(error) = self.parts.store.delete_grant(grant).await {
            tracing::error!(grant.id = %grant, %error, "cannot delete a grant, will try again");
            pause().await;
        }
    }

    /// Tells the providers that a tenant's refresh tokens are over, as far as they
    /// can be told within `limit`. Best effort: what is not done then is left, for
    /// the tenant's keys are about to be destroyed. Returns how many were
    /// confirmed.
    pub(super) async fn tenant(&self, tenant: &TenantId, limit: Duration) -> u64 {
        let confirmed = AtomicU64::new(0);
        let all = async {
            let mut after = None;
            loop {
                let page = self.parts.store.sealed_grants(tenant, after, REVOKED_AT_ONCE).await;
                let Ok(page) = page else { return };
                let Some(last) = page.last() else { return };
                after = Some(last.grant.id);
                let outcomes = futures_util::future::join_all(page.iter().map(|g| self.one(g))).await;
                let done = outcomes.into_iter().filter(|revoked| *revoked).count();
                confirmed.fetch_add(u64::try_from(done).unwrap_or(0), Ordering::Relaxed);
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!(tenant.id = %tenant, "not all tokens of a purged tenant could be revoked at the provider");
        }
        confirmed.into_inner()
    }

    async fn one(&self, sealed: &SealedGrant) -> bool {
        match self.opened(sealed).await {
            Some((client, token)) => client.revoke(&sealed.grant.key.tenant, &token).await,
            None => false,
        }
    }

    /// The token and where it may be told of: nowhere but at its issuer.
    async fn opened(&self, sealed: &SealedGrant) -> Option<(Arc<Client>, RefreshToken)> {
        let grant = &sealed.grant;
        let client = self.parts.idp.client(&grant.key.client)?;
        if !client.can_revoke() || check_issuer(client, grant).is_err() {
            return None;
        }
        let place = Place::of_token(grant, grant.generation);
        let plain = self.sealer.open(&place, &sealed.sealed).await.ok()?;
        Some((Arc::clone(client), RefreshToken::from_plain(&plain)?))
    }
}
