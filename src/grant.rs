//! Grants: take them in, look at them, end them.
//!
//! An enrolment by on-behalf-of begins with a user's token that nobody has checked
//! yet. The policy is asked about the tenant that it claims, and only with that
//! permit is it checked ([`GrantService::verify`]): what a stranger claims makes
//! the vault fetch nothing.

use std::sync::Arc;

use crate::authz::Permit;
use crate::authz::permit::{DescribeGrant, ExchangeOnBehalfOf, ImportGrant, ListGrants, RevokeGrant};
use crate::authz::resource::{GrantsOfTenant, TokenWanted};
use crate::domain::failure::Failure;
use crate::domain::grant::{Grant, GrantKey};
use crate::domain::id::{ClientId, SubjectId, TenantId};
use crate::domain::reason::Reason;
use crate::idp::{self, AssertionError, Idp, VerifiedUser};
use crate::redeem::enrolment::{Order, Source};
use crate::redeem::guard::as_unknown_grant;
use crate::redeem::{Origin, Redeemer};
use crate::secret::{RefreshToken, UnverifiedAssertion};
use crate::store::{GrantCursor, Store};

/// The service.
#[derive(Clone)]
pub struct GrantService {
    redeemer: Arc<Redeemer>,
    store: Arc<dyn Store>,
    idp: Arc<Idp>,
}

impl std::fmt::Debug for GrantService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrantService").finish_non_exhaustive()
    }
}

/// A user's token whose signature, issuer, audience and expiry were checked.
#[derive(Debug)]
pub struct VerifiedAssertion {
    /// The client it is exchanged at.
    pub client: ClientId,
    /// The tenant and subject its claims name.
    pub user: VerifiedUser,
    assertion: UnverifiedAssertion,
}

impl GrantService {
    /// The service over its parts.
    #[must_use]
    pub fn new(redeemer: Arc<Redeemer>, store: Arc<dyn Store>, idp: Arc<Idp>) -> Self {
        Self { redeemer, store, idp }
    }

    /// The tenant that a user's token claims. Nothing is fetched and nothing is
    /// verified: it says which question to ask the policy.
    ///
    /// # Errors
    ///
    /// The client is not configured, or the token is malformed or claims no
    /// tenant.
    pub fn claimed_tenant(
        &self,
        client: &ClientId,
        assertion: &UnverifiedAssertion,
    ) -> Result<TenantId, Failure> {
        self.client(client)?.claimed_tenant(assertion).map_err(assertion_failure)
    }

    /// Refuses a tenant that is not there, where none is made at an enrolment,
    /// so that a made-up one has nothing fetched.
    ///
    /// # Errors
    ///
    /// No such tenant, or the store cannot be read.
    pub async fn tenant_exists(&self, permit: &Permit<ExchangeOnBehalfOf>) -> Result<(), Failure> {
        let known = self.store.tenant(&permit.resource().tenant).await?;
        known.map(drop).ok_or_else(|| Failure::new(Reason::TenantNotFound, "no such tenant"))
    }

    /// Checks a user's token against the published keys of the client's
    /// provider, and that it is of the tenant it claimed when the permit was
    /// asked for: nothing is fetched for who has no permit.
    ///
    /// # Errors
    ///
    /// The client is not configured, or the token is malformed, expired, for
    /// another audience, or signed by somebody else.
    pub async fn verify(
        &self,
        permit: &Permit<ExchangeOnBehalfOf>,
        assertion: UnverifiedAssertion,
    ) -> Result<VerifiedAssertion, Failure> {
        let TokenWanted { tenant, client, target: _ } = permit.resource();
        let user = self
            .client(client)?
            .verify_assertion(permit.caller().id(), &assertion)
            .await
            .map_err(assertion_failure)?;
        if user.tenant != *tenant {
            return Err(Failure::new(
                Reason::AssertionRejected,
                "the token is of another tenant than it claimed",
            ));
        }
        Ok(VerifiedAssertion { client: client.clone(), user, assertion })
    }

    fn client(&self, client: &ClientId) -> Result<Arc<idp::Client>, Failure> {
        let at = self.idp.client(client).cloned();
        at.ok_or_else(|| Failure::new(Reason::ClientNotFound, "the client is not configured"))
    }

    /// Exchanges a verified token for a grant.
    ///
    /// # Errors
    ///
    /// As [`Redeemer::enrol`].
    pub async fn exchange(
        &self,
        permit: &Permit<ExchangeOnBehalfOf>,
        verified: VerifiedAssertion,
        origin: Origin,
    ) -> Result<(Grant, bool), Failure> {
        let VerifiedAssertion { client, user, assertion } = verified;
        let TokenWanted { tenant: permitted, client: at, target } = permit.resource();
        if (permitted, at) != (&user.tenant, &client) {
            return Err(Failure::new(Reason::Internal, "the permit is for another tenant or client"));
        }
        let key = GrantKey { tenant: user.tenant, client, subject: user.subject };
        let target = target.clone();
        self.redeemer.enrol(Order { key, source: Source::Assertion(assertion), target, origin }).await
    }

    /// Takes over an existing refresh token.
    ///
    /// # Errors
    ///
    /// As [`Redeemer::enrol`].
    pub async fn import(
        &self,
        permit: &Permit<ImportGrant>,
        subject: SubjectId,
        token: RefreshToken,
        origin: Origin,
    ) -> Result<(Grant, bool), Failure> {
        let key = permit.resource().grant_key(subject);
        // The enrolment that made it may still fail, and nothing of it is there then.
        if self.store.tenant(&key.tenant).await?.is_some_and(|tenant| tenant.is_pending()) {
            return Err(Failure::new(Reason::TenantNotFound, "no such tenant"));
        }
        let target = permit.resource().target.clone();
        self.redeemer.enrol(Order { key, source: Source::Import(token), target, origin }).await
    }

    /// What is known of a grant.
    ///
    /// # Errors
    ///
    /// No such grant, or the store cannot be read.
    pub async fn describe(
        &self,
        permit: &Permit<DescribeGrant>,
        subject: SubjectId,
    ) -> Result<Grant, Failure> {
        let key = permit.resource().grant_key(subject);
        let found = self.store.grant(&key).await?;
        found.ok_or_else(|| Failure::new(Reason::GrantNotFound, "no such grant"))
    }

    /// A page of a tenant's grants, and where the next begins.
    ///
    /// # Errors
    ///
    /// No such tenant, or the store cannot be read.
    pub async fn list(
        &self,
        permit: &Permit<ListGrants>,
        after: Option<&GrantCursor>,
        limit: u32,
    ) -> Result<(Vec<Grant>, Option<GrantCursor>), Failure> {
        let GrantsOfTenant { tenant, client } = permit.resource();
        let known = self.store.tenant(tenant).await?;
        if known.is_none_or(|tenant| tenant.is_pending()) {
            return Err(Failure::new(Reason::TenantNotFound, "no such tenant"));
        }
        let page = self.store.grants(tenant, client.as_ref(), after, limit.saturating_add(1)).await;
        let mut page = page?;
        let size = usize::try_from(limit).unwrap_or(usize::MAX);
        let next = (page.len() > size).then(|| {
            page.truncate(size);
            page.last().map(|grant| GrantCursor {
                client: grant.key.client.clone(),
                subject: grant.key.subject.clone(),
            })
        });
        Ok((page, next.flatten()))
    }

    /// Ends a grant; returns whether the provider confirmed.
    ///
    /// # Errors
    ///
    /// As [`Redeemer::revoke`].
    pub async fn revoke(
        &self,
        permit: &Permit<RevokeGrant>,
        subject: SubjectId,
        origin: &Origin,
    ) -> Result<bool, Failure> {
        let key = permit.resource().grant_key(subject);
        self.redeemer.revoke(&key, origin).await.map_err(as_unknown_grant)
    }
}

fn assertion_failure(error: AssertionError) -> Failure {
    match error {
        AssertionError::Malformed => {
            Failure::new(Reason::AssertionMalformed, "the user's token is not a signed JWT")
        }
        AssertionError::AlgorithmRefused(detail) => Failure::new(Reason::AssertionAlgorithmRefused, detail),
        AssertionError::KeyUnknown(detail) => Failure::new(Reason::AssertionKeyUnknown, detail),
        AssertionError::Rejected(detail) => Failure::new(Reason::AssertionRejected, detail),
        AssertionError::Expired => Failure::new(Reason::AssertionExpired, "the user's token has expired"),
        AssertionError::KeysUnavailable(fault) => {
            Failure::new(fault.reason(), fault.to_string()).retry_after(std::time::Duration::from_secs(5))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idp::KeysFault;

    #[test]
    fn every_refusal_of_a_users_token_says_what_happened() {
        let detail = || "detail".to_owned();
        let keys = |fault: fn(String) -> KeysFault| AssertionError::KeysUnavailable(fault(detail()));
        for (error, reason, retry) in [
            (AssertionError::Malformed, Reason::AssertionMalformed, false),
            (AssertionError::AlgorithmRefused(detail()), Reason::AssertionAlgorithmRefused, false),
            (AssertionError::KeyUnknown(detail()), Reason::AssertionKeyUnknown, false),
            (AssertionError::Rejected(detail()), Reason::AssertionRejected, false),
            (AssertionError::Expired, Reason::AssertionExpired, false),
            (keys(KeysFault::Unreachable), Reason::ProviderUnavailable, true),
            (keys(KeysFault::Unusable), Reason::ProviderKeysUnusable, true),
            (keys(KeysFault::Overloaded), Reason::VaultOverloaded, true),
        ] {
            let failure = assertion_failure(error);
            assert_eq!((failure.reason(), failure.retry_delay().is_some()), (reason, retry));
        }
    }
}
