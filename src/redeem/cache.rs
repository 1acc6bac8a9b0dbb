//! Access tokens, in memory only (invariant 1), bounded in number and bytes.
//!
//! A token is shared only between requests for the same tenant, client,
//! subject, resource, scopes and claims. It is handed out only while its
//! tenant's [gate](super::gate) is as it was when the token was issued, so that
//! a purge takes effect on all of them at once.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use crate::clock::Timestamp;
use crate::domain::failure::Failure;
use crate::domain::grant::{Generation, GrantKey};
use crate::domain::id::TenantId;
use crate::domain::scope::{ScopeSet, Target};
use crate::secret::AccessToken;

/// Most targets remembered per grant; the oldest goes.
const TARGETS_PER_GRANT: usize = 32;

/// An access token whose grant's generation is durable (invariant I5).
#[derive(Debug)]
pub struct IssuedToken {
    /// The token.
    pub token: AccessToken,
    /// Its type, normally "Bearer".
    pub token_type: String,
    /// When it expires.
    pub expires_at: Timestamp,
    /// How long it lived when it was issued.
    pub life: Duration,
    /// From when on somebody who asks for it causes a refresh ahead.
    pub refresh_at: Timestamp,
    /// Scopes the provider granted.
    pub scopes: ScopeSet,
    /// The generation it came with.
    pub generation: Generation,
    /// The tenant's epoch it was issued in.
    pub tenant_epoch: u64,
}

/// How much is remembered.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most grants with tokens.
    pub max_tokens: u64,
    /// Most bytes of tokens.
    pub max_bytes: u64,
    /// Longest life of a negative answer.
    pub negative: Duration,
    /// Most negative answers.
    pub max_negative: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_tokens: 100_000,
            max_bytes: 256 * 1024 * 1024,
            negative: Duration::from_secs(5),
            max_negative: 10_000,
        }
    }
}

/// Tokens of one grant.
type Tokens = Arc<[(Target, Arc<IssuedToken>)]>;

/// A negative answer and how long it holds. `target` is `None` when it holds
/// for whatever is asked of the grant.
#[derive(Debug, Clone)]
struct Negative {
    target: Option<Target>,
    failure: Failure,
    until: Timestamp,
    /// When a retry makes sense; the answer may be forgotten before.
    retry_at: Option<Timestamp>,
}

/// The memory of access tokens and of negative answers.
#[derive(Debug)]
pub struct TokenCache {
    tokens: Cache<GrantKey, Tokens>,
    negatives: Cache<GrantKey, Arc<Negative>>,
    limits: Limits,
}

impl TokenCache {
    /// An empty cache.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        // One bound serves both: an entry weighs its bytes, and at least the
        // share of one entry.
        let least = (limits.max_bytes / limits.max_tokens.max(1)).max(1);
        let tokens = Cache::builder()
            .max_capacity(limits.max_bytes)
            .weigher(move |key, tokens| weight(key, tokens, least))
            .time_to_live(Duration::from_secs(24 * 3600))
            .build();
        let negatives =
            Cache::builder().max_capacity(limits.max_negative).time_to_live(limits.negative).build();
        Self { tokens, negatives, limits }
    }

    /// The token for a target, whatever life it has left.
    #[must_use]
    pub fn find(&self, key: &GrantKey, target: &Target) -> Option<Arc<IssuedToken>> {
        let tokens = self.tokens.get(key)?;
        tokens.iter().find(|(t, _)| t == target).map(|(_, token)| Arc::clone(token))
    }

    /// Remembers a token. The caller holds the grant's lock.
    pub fn insert(&self, key: &GrantKey, target: Target, token: Arc<IssuedToken>, now: Timestamp) {
        let known = self.tokens.get(key);
        let others = known
            .iter()
            .flat_map(|tokens| tokens.iter())
            .filter(|(t, token)| *t != target && token.expires_at > now);
        let mut tokens: Vec<_> = others.cloned().collect();
        if tokens.len() >= TARGETS_PER_GRANT {
            tokens.remove(0);
        }
        tokens.push((target, token));
        self.tokens.insert(key.clone(), tokens.into());
        self.negatives.invalidate(key);
    }

    /// When the last token of the grant expires.
    #[must_use]
    pub fn last_expiry(&self, key: &GrantKey) -> Option<Timestamp> {
        self.tokens.get(key)?.iter().map(|(_, token)| token.expires_at).max()
    }

    /// The negative answer that holds for a target.
    #[must_use]
    pub fn negative(&self, key: &GrantKey, target: &Target, now: Timestamp) -> Option<Failure> {
        let negative = self.negatives.get(key)?;
        let holds = now < negative.until && negative.target.as_ref().is_none_or(|t| t == target);
        holds.then(|| {
            let failure = negative.failure.clone();
            match negative.retry_at {
                Some(at) => failure.retry_after(at.since(now)),
                None => failure,
            }
        })
    }

    /// Remembers a negative answer, at most as long as the limits say.
    pub fn remember_negative(
        &self,
        key: &GrantKey,
        target: Option<Target>,
        failure: &Failure,
        now: Timestamp,
    ) {
        let span = failure.retry_delay().map_or(self.limits.negative, |d| d.min(self.limits.negative));
        if !span.is_zero() {
            let retry_at = failure.retry_delay().map(|delay| now.plus(delay));
            let negative = Negative { target, failure: failure.clone(), until: now.plus(span), retry_at };
            self.negatives.insert(key.clone(), Arc::new(negative));
        }
    }

    /// Forgets the negative answers of a grant.
    pub fn forget_negative(&self, key: &GrantKey) {
        self.negatives.invalidate(key);
    }

    /// Forgets everything of a grant.
    pub fn forget(&self, key: &GrantKey) {
        self.tokens.invalidate(key);
        self.negatives.invalidate(key);
    }

    /// Forgets everything of a tenant. The gate already keeps its tokens in;
    /// this frees their memory.
    pub fn forget_tenant(&self, tenant: &TenantId) {
        let keys: Vec<_> =
            self.tokens.iter().map(|(key, _)| key).filter(|key| key.tenant == *tenant).collect();
        for key in keys {
            self.forget(&key);
        }
    }

    /// Bytes held, about.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tokens.run_pending_tasks();
        self.tokens.weighted_size()
    }
}

fn weight(key: &GrantKey, tokens: &Tokens, least: u64) -> u32 {
    const OVERHEAD: usize = 200;
    let bytes: usize = tokens
        .iter()
        .map(|(target, token)| {
            let claims = target.claims.as_ref().map_or(0, |c| c.as_str().len());
            let scopes: usize = target.scopes.iter().chain(token.scopes.iter()).map(|s| s.len() + 32).sum();
            token.token.expose().len() + claims + scopes + OVERHEAD
        })
        .sum();
    let names = key.tenant.as_str().len() + key.client.as_str().len() + key.subject.as_str().len();
    let entries = least.saturating_mul(u64::try_from(tokens.len()).unwrap_or(u64::MAX));
    let weight = u64::try_from(bytes + names).unwrap_or(u64::MAX).max(entries);
    u32::try_from(weight).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{ClientId, SubjectId};
    use crate::domain::reason::Reason;
    use crate::domain::scope::Claims;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn key(subject: &str) -> GrantKey {
        GrantKey {
            tenant: TenantId::new("acme").unwrap(),
            client: ClientId::new("mail").unwrap(),
            subject: SubjectId::new(subject).unwrap(),
        }
    }

    fn token(text: &str) -> Arc<IssuedToken> {
        Arc::new(IssuedToken {
            token: AccessToken::new(text.to_owned()),
            token_type: "Bearer".into(),
            expires_at: NOW.plus(Duration::from_secs(3600)),
            life: Duration::from_secs(3600),
            refresh_at: NOW.plus(Duration::from_secs(1800)),
            scopes: ScopeSet::default(),
            generation: Generation(1),
            tenant_epoch: 1,
        })
    }

    fn target(scope: &str) -> Target {
        Target { scopes: ScopeSet::new([scope]).unwrap(), ..Target::default() }
    }

    #[test]
    fn a_token_is_shared_only_for_the_same_scopes_resource_and_claims() {
        let cache = TokenCache::new(Limits::default());
        cache.insert(&key("u"), target("a"), token("A"), NOW);
        cache.insert(&key("u"), target("b"), token("B"), NOW);
        let find = |t: &Target| cache.find(&key("u"), t).map(|t| t.token.expose().to_owned());
        assert_eq!(find(&target("a")).as_deref(), Some("A"));
        assert_eq!(find(&target("b")).as_deref(), Some("B"));
        assert_eq!(find(&Target::default()), None);
        let challenged = Target { claims: Some(Claims::new("{}").unwrap()), ..target("a") };
        assert_eq!(find(&challenged), None);
        assert!(cache.find(&key("v"), &target("a")).is_none());
    }

    #[test]
    fn memory_is_bounded_in_bytes() {
        let limits = Limits { max_tokens: 1000, max_bytes: 100_000, ..Limits::default() };
        let cache = TokenCache::new(limits);
        for n in 0..500 {
            cache.insert(&key(&format!("u{n}")), target("a"), token(&"x".repeat(2000)), NOW);
        }
        let (held, found) = (
            cache.bytes(),
            (0..500).filter(|n| cache.find(&key(&format!("u{n}")), &target("a")).is_some()).count(),
        );
        // Full, not empty: each token has 2,000 bytes and some more.
        assert!((50_000..=100_000).contains(&held), "{held} bytes are held");
        assert!((25..=50).contains(&found), "{found} tokens are held");
    }

    #[test]
    fn targets_of_one_grant_are_bounded() {
        let cache = TokenCache::new(Limits::default());
        for n in 0..100 {
            cache.insert(&key("u"), target(&format!("s{n}")), token("x"), NOW);
        }
        assert_eq!(cache.tokens.get(&key("u")).unwrap().len(), TARGETS_PER_GRANT);
        assert!(cache.find(&key("u"), &target("s99")).is_some());
    }

    #[test]
    fn a_negative_answer_ends_with_its_time_and_with_a_new_token() {
        let cache = TokenCache::new(Limits::default());
        let failure = Failure::new(Reason::GrantRevoked, "revoked");
        cache.remember_negative(&key("u"), None, &failure, NOW);
        assert!(cache.negative(&key("u"), &target("a"), NOW).is_some());
        assert!(cache.negative(&key("u"), &target("a"), NOW.plus(Duration::from_secs(5))).is_none());
        cache.insert(&key("u"), target("a"), token("A"), NOW);
        assert!(cache.negative(&key("u"), &target("a"), NOW).is_none());
    }

    #[test]
    fn a_negative_answer_for_one_target_does_not_hold_for_another() {
        let cache = TokenCache::new(Limits::default());
        let failure = Failure::new(Reason::ScopeNotGranted, "scope");
        cache.remember_negative(&key("u"), Some(target("a")), &failure, NOW);
        assert!(cache.negative(&key("u"), &target("a"), NOW).is_some());
        assert!(cache.negative(&key("u"), &target("b"), NOW).is_none());
    }

    #[test]
    fn a_tenant_is_forgotten_whole_and_alone() {
        let cache = TokenCache::new(Limits::default());
        let other = GrantKey { tenant: TenantId::new("other").unwrap(), ..key("u") };
        cache.insert(&key("u"), target("a"), token("A"), NOW);
        cache.insert(&other, target("a"), token("A"), NOW);
        cache.forget_tenant(&TenantId::new("acme").unwrap());
        assert!(cache.find(&key("u"), &target("a")).is_none());
        assert!(cache.find(&other, &target("a")).is_some());
    }
}
