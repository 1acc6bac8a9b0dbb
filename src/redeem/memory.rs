//! What the memory of access tokens learns from a redemption. It never hides a
//! refusal that will come, and what is proven dead leaves it at once.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Reading;
use crate::domain::failure::Failure;
use crate::domain::grant::GrantKey;
use crate::domain::id::CallerId;
use crate::domain::profile::Reuse;
use crate::domain::reason::Reason;
use crate::domain::scope::Target;
use crate::entropy;
use crate::idp::TokenAnswer;

use super::attempt::{About, Redeemed};
use super::cache::{IssuedToken, TokenCache};
use super::ending::Renewal;
use super::parts::Parts;

/// Lifetime of an access token whose answer names none (RFC 6749 section 5.1 only
/// recommends it).
const UNNAMED_LIFETIME: Duration = Duration::from_secs(300);

/// Longest lifetime that the memory counts on.
const LONGEST_REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// Keeps a [`TokenCache`] true.
#[derive(Clone)]
pub(super) struct Memory {
    cache: Arc<TokenCache>,
    parts: Arc<Parts>,
}

/// What was asked for, and by whom.
pub(super) struct Asked<'a> {
    pub(super) key: &'a GrantKey,
    pub(super) target: &'a Target,
    pub(super) caller: &'a CallerId,
    /// The tenant's epoch in which it was asked.
    pub(super) tenant_epoch: u64,
}

impl Memory {
    pub(super) fn new(parts: Arc<Parts>) -> Self {
        Self { cache: Arc::new(TokenCache::new(parts.settings.cache)), parts }
    }

    pub(super) fn cache(&self) -> &TokenCache {
        &self.cache
    }

    /// Takes in what became of a redemption, and hands on the token it brought.
    pub(super) fn keep(&self, asked: &Asked<'_>, redeemed: Redeemed) -> Result<Arc<IssuedToken>, Failure> {
        let Redeemed { result, own, about } = redeemed;
        if let Some(own) = own {
            // An access token is welcome here, not needed.
            let _ = self.remember(&Asked { target: &Target::default(), ..*asked }, own);
        }
        let result = result.and_then(|renewal| self.remember(asked, renewal));
        if let Err(failure) = &result {
            match &about {
                About::Grant => self.failed(asked, failure),
                About::Target => self.refused(asked, failure),
                About::Both(refused) => {
                    self.refused(asked, refused);
                    self.failed(asked, failure);
                }
            }
        }
        result
    }

    /// A grant was made or replaced: what was known of it is over.
    pub(super) fn enrolled(&self, asked: &Asked<'_>, renewal: Renewal) {
        let Asked { key, target, caller, .. } = *asked;
        self.cache.forget(key);
        // An access token is welcome here, not needed.
        if let Ok(token) = self.remember(asked, renewal)
            && target.resource.is_none()
            && target.claims.is_none()
        {
            // For the scopes of the grant, unless more than those was asked.
            self.cache.insert(key, Target::default(), caller, token, self.parts.clock.both());
        }
    }

    /// What the provider says to a choice binds that choice, also when the grant
    /// itself could not be asked after it.
    fn refused(&self, asked: &Asked<'_>, failure: &Failure) {
        let Asked { key, target, caller, .. } = *asked;
        let costs_a_request = self.minds_a_second_use(key);
        self.cache.remember_refused(
            key,
            target,
            caller,
            failure,
            costs_a_request,
            self.parts.clock.instant(),
        );
    }

    fn failed(&self, asked: &Asked<'_>, failure: &Failure) {
        let Asked { key, target, caller, .. } = *asked;
        let (reason, now) = (failure.reason(), self.parts.clock.instant());
        if matches!(reason, Reason::GrantRevoked | Reason::GrantLost | Reason::IssuerChanged) {
            // Proven dead: what is left in memory goes with it.
            self.cache.forget(key);
        }
        if reason == Reason::ScopeNotGranted {
            self.cache.remember_refused(key, target, caller, failure, false, now);
        } else if remembered(reason) {
            self.cache.remember_negative(key, failure, now);
        }
    }

    fn minds_a_second_use(&self, key: &GrantKey) -> bool {
        self.parts.idp.client(&key.client).is_some_and(|client| client.profile().reuse != Reuse::Tolerated)
    }

    /// Puts the access token into memory; its grant's generation is durable
    /// (invariant I5).
    fn remember(&self, asked: &Asked<'_>, renewal: Renewal) -> Result<Arc<IssuedToken>, Failure> {
        let now = self.parts.clock.both();
        self.cache.forget_negative(asked.key);
        let issued = Arc::new(self.issued(renewal, asked.tenant_epoch, now)?);
        self.cache.insert(asked.key, asked.target.clone(), asked.caller, Arc::clone(&issued), now);
        Ok(issued)
    }

    fn issued(&self, renewal: Renewal, tenant_epoch: u64, now: Reading) -> Result<IssuedToken, Failure> {
        let Renewal { answer, scopes, generation } = renewal;
        let TokenAnswer { access_token, token_type, expires_in, .. } = answer;
        let token = access_token.filter(|token| !token.expose().is_empty()).ok_or_else(|| {
            // What there was of a refresh token is durable; the next request brings
            // an access token.
            Failure::new(Reason::NoAccessToken, "the provider's answer has no access token")
                .retry_after(Duration::from_secs(1))
        })?;
        let lifetime = expires_in.unwrap_or(UNNAMED_LIFETIME).min(LONGEST_REMEMBERED);
        // Refreshed ahead at 50 to 70 % of its lifetime (rule 1).
        let ahead = entropy::between(&*self.parts.entropy, lifetime.mul_f64(0.5), lifetime.mul_f64(0.7));
        Ok(IssuedToken {
            token,
            token_type,
            expires: now.deadline(lifetime),
            lifetime,
            refresh: now.deadline(ahead.unwrap_or(lifetime / 2)),
            scopes,
            generation,
            tenant_epoch,
        })
    }
}

/// Whether the failure is worth remembering for a moment: it would be the same
/// again, and asking again costs a provider or the store something.
fn remembered(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::GrantNotFound
            | Reason::GrantRevoked
            | Reason::GrantLost
            | Reason::GrantInDoubt
            | Reason::IssuerChanged
            | Reason::InteractionRequired
            | Reason::ProviderThrottled
            | Reason::ProviderUnavailable
            | Reason::ProviderBackOff
            | Reason::ProviderRejectedClient
            | Reason::ProviderRefused
    )
}
