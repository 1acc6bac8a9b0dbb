//! Get an access token: what internal services come for.
//!
//! Memory or redemption is the engine's business ([`crate::redeem`]); here is
//! what a request may ask for, and that a token with more scopes than the
//! policy permits its caller does not leave.

use std::sync::Arc;
use std::time::Duration;

use crate::authz::permit::GetAccessToken;
use crate::authz::resource::TokenWanted;
use crate::authz::{Authorizer, Permit};
use crate::domain::failure::Failure;
use crate::domain::id::SubjectId;
use crate::domain::reason::Reason;
use crate::domain::scope::{ScopeSet, Target};
use crate::idp::Idp;
use crate::redeem::cache::IssuedToken;
use crate::redeem::guard::as_unknown_grant;
use crate::redeem::handed::Handed;
use crate::redeem::{Origin, Redeemer};

/// Most that a request may ask for.
pub const MAX_MIN_LIFE: Duration = Duration::from_secs(600);

/// A request for an access token, its fields checked. Tenant, client and target
/// are in its permit.
#[derive(Debug)]
pub struct Request {
    /// The user.
    pub subject: SubjectId,
    /// Least remaining lifetime; `None` is the configured one.
    pub min_life: Option<Duration>,
}

/// What became of a request.
#[derive(Debug)]
pub struct Outcome {
    /// The token on its way to its caller, or why there is none.
    pub handed: Result<Handed, Failure>,
    /// The token, where its scopes are not those asked for: for the audit log,
    /// whether it is handed out or held back.
    pub differs: Option<Arc<IssuedToken>>,
}

/// The service.
#[derive(Clone)]
pub struct TokenService {
    redeemer: Arc<Redeemer>,
    authorizer: Arc<Authorizer>,
    idp: Arc<Idp>,
    usual_min_life: Duration,
}

impl std::fmt::Debug for TokenService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenService").finish_non_exhaustive()
    }
}

impl TokenService {
    /// The service over its parts; `usual_min_life` is for requests that name
    /// none.
    #[must_use]
    pub fn new(
        redeemer: Arc<Redeemer>,
        authorizer: Arc<Authorizer>,
        idp: Arc<Idp>,
        usual_min_life: Duration,
    ) -> Self {
        Self { redeemer, authorizer, idp, usual_min_life }
    }

    /// An access token for the tenant, client and target of the permit. The
    /// caller holds what is returned until its answer is made.
    ///
    /// Fails as [`Redeemer::access_token`] does, and with
    /// [`Reason::GrantedScopesNotPermitted`] where the token has more than its
    /// caller may have.
    pub async fn access_token(
        &self,
        permit: &Permit<GetAccessToken>,
        request: Request,
        origin: &Origin,
    ) -> Outcome {
        let Request { subject, min_life } = request;
        let wanted = permit.resource();
        let key = wanted.grant_key(subject);
        let min_life = min_life.unwrap_or(self.usual_min_life).min(MAX_MIN_LIFE);
        let handed = self.redeemer.access_token(&key, &wanted.target, min_life, origin).await;
        match handed {
            Ok(handed) => self.within_rights(permit, handed),
            Err(failure) => Outcome { handed: Err(as_unknown_grant(failure)), differs: None },
        }
    }

    /// The policy has judged what was asked for; here it judges what came.
    fn within_rights(&self, permit: &Permit<GetAccessToken>, handed: Handed) -> Outcome {
        let granted = &handed.token.scopes;
        let comparison = compare(&permit.resource().target.scopes, granted);
        if comparison == Comparison::Same {
            return Outcome { handed: Ok(handed), differs: None };
        }
        let differs = Some(Arc::clone(&handed.token));
        if comparison == Comparison::More && !self.may_have(permit, granted) {
            let why = "the token has scopes that the policy does not permit its caller";
            let failure = Failure::new(Reason::GrantedScopesNotPermitted, why);
            return Outcome { handed: Err(failure), differs };
        }
        Outcome { handed: Ok(handed), differs }
    }

    /// Whether the caller may have a token with these scopes. Where a provider
    /// puts all consented scopes into every token, the policy could only say no
    /// to all: there the resource is the border between callers.
    fn may_have(&self, permit: &Permit<GetAccessToken>, granted: &ScopeSet) -> bool {
        let TokenWanted { tenant, client, target } = permit.resource();
        let profile = self.idp.client(client).map(|client| client.profile());
        if profile.is_some_and(|profile| profile.grants_all_consented) {
            return true;
        }
        let target = Target { scopes: granted.without_protocol_scopes(), ..target.clone() };
        let wanted = TokenWanted { tenant: tenant.clone(), client: client.clone(), target };
        self.authorizer.permit::<GetAccessToken>(permit.caller(), wanted).is_ok()
    }
}

/// How the rights of a token compare with those asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Same,
    Less,
    More,
}

/// Compares without allocating: this is in the way of every token from memory.
/// No scopes asked stands for all of the grant, so that whatever came is more
/// than the policy has seen.
fn compare(asked: &ScopeSet, granted: &ScopeSet) -> Comparison {
    match (asked.covers(granted), granted.covers(asked)) {
        (true, true) => Comparison::Same,
        (true, false) => Comparison::Less,
        (false, _) => Comparison::More,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_compared_with_what_was_asked() {
        let set = |list: &str| ScopeSet::parse_lenient(list).0;
        for (asked, granted, expected) in [
            ("a", "a", Comparison::Same),
            ("a openid", "a", Comparison::Same),
            ("a", "a openid offline_access", Comparison::Same),
            ("a b", "a", Comparison::Less),
            ("a b", "", Comparison::Less),
            ("a", "a b", Comparison::More),
            ("a", "b", Comparison::More),
            ("", "a", Comparison::More),
            ("", "openid", Comparison::Same),
            ("x/.default", "x/a x/b", Comparison::More),
        ] {
            assert_eq!(compare(&set(asked), &set(granted)), expected, "{asked:?}: {granted:?}");
        }
    }
}
