//! Who may do what: from a [`Caller`] and a [`Request`] to a [`Permit`].
//!
//! In reading order:
//!
//! - this file: the [`Authorizer`], which remembers decisions;
//! - [`permit`]: authority as a value, one type per action;
//! - `schema.cedarschema`: what a policy can speak of;
//! - `policy`: a policy file, read and checked;
//! - `decide`: one evaluation by Cedar.
//!
//! The default is to deny, and whatever goes wrong in a decision denies.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use moka::sync::Cache;

use crate::authn::Caller;
use crate::domain::action::Action;
use crate::domain::failure::Failure;
use crate::domain::id::{CallerId, ClientId, TenantId};
use crate::domain::reason::Reason;
use crate::domain::scope::{Resource, ScopeSet};

mod decide;
pub mod permit;
mod policy;

pub use permit::{Permit, Permitted};
pub use policy::{PolicyError, Remark, Summary};

/// Decides by the policy in force. A decision is made once per policy and
/// remembered, since Cedar's time grows with the number of policies and a
/// remembered answer's does not.
pub struct Authorizer {
    current: ArcSwap<Generation>,
    // Held while a policy is replaced, so that numbers are given out once.
    replacing: Mutex<()>,
}

impl Authorizer {
    /// Takes a policy into force.
    ///
    /// # Errors
    ///
    /// All faults of the policy.
    pub fn load(policy_text: &str) -> Result<Self, PolicyError> {
        let first = Generation::new(1, policy_text)?;
        Ok(Self { current: ArcSwap::from_pointee(first), replacing: Mutex::new(()) })
    }

    /// A permit for the caller to do the action `A`, if the policy in force
    /// permits it.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn permit<A: Permitted>(&self, caller: &Caller, request: Request) -> Result<Permit<A>, Denied> {
        let question = Question::new(caller, A::ACTION, request);
        if self.current.load().permits(&question) {
            Ok(Permit::new(caller.clone(), question.tenant, question.client))
        } else {
            Err(Denied { caller: question.caller, action: question.action })
        }
    }

    /// Number of the policy in force: 1 at start, one more with each
    /// replacement.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.current.load().number
    }

    /// Puts another policy in force. Every call that asks for a permit from now
    /// on is judged by it: the decisions made under the old policy go with it.
    ///
    /// # Errors
    ///
    /// All faults of the new policy; the old one stays in force.
    pub fn replace(&self, policy_text: &str) -> Result<(), PolicyError> {
        let _guard = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Generation::new(self.generation() + 1, policy_text)?;
        self.current.store(Arc::new(next));
        Ok(())
    }
}

/// Checks a policy file without taking it into force.
///
/// # Errors
///
/// All faults of the policy.
pub fn check(policy_text: &str) -> Result<Summary, PolicyError> {
    policy::check(policy_text).map(|checked| checked.summary)
}

/// What is asked for, as far as a policy may judge it.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The tenant; `None` only for ListTenants, RunRotation, DescribeRotation.
    pub tenant: Option<TenantId>,
    /// The OAuth client, for the actions on grants and tokens.
    pub client: Option<ClientId>,
    /// The scopes asked for, where a token is.
    pub scopes: ScopeSet,
    /// The resource asked for, where a token is.
    pub resource: Option<Resource>,
}

/// The policy does not permit it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    caller: CallerId,
    action: Action,
}

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the policy does not permit {} to {}", self.action.as_str(), self.caller)
    }
}

impl std::error::Error for Denied {}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        Self::new(Reason::NotPermitted, denied.to_string())
    }
}

/// Most bytes of remembered decisions, by a rough but never low estimate.
const REMEMBERED_BYTES: u64 = 32 * 1024 * 1024;

/// A policy and the decisions made under it.
struct Generation {
    number: u64,
    judge: decide::Judge,
    decisions: Cache<Question, bool>,
}

impl Generation {
    fn new(number: u64, policy_text: &str) -> Result<Self, PolicyError> {
        let checked = policy::check(policy_text)?;
        for warning in &checked.summary.warnings {
            tracing::warn!(policy.generation = number, %warning, "policy");
        }
        let decisions = Cache::builder()
            .max_capacity(REMEMBERED_BYTES)
            .weigher(|question: &Question, _| question.weight())
            .build();
        Ok(Self { number, judge: decide::Judge::new(checked.policies), decisions })
    }

    fn permits(&self, question: &Question) -> bool {
        self.decisions.get(question).unwrap_or_else(|| {
            let permitted = self.judge.permits(question);
            self.decisions.insert(question.clone(), permitted);
            permitted
        })
    }
}

/// All that a decision depends on, and so the key it is remembered by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    caller: CallerId,
    action: Action,
    tenant: Option<TenantId>,
    client: Option<ClientId>,
    scopes: ScopeSet,
    resource: Option<Resource>,
}

impl Question {
    fn new(caller: &Caller, action: Action, request: Request) -> Self {
        let Request { tenant, client, scopes, resource } = request;
        let caller = caller.id().clone();
        if decide::asks_for_a_token(action) {
            Self { caller, action, tenant, client, scopes, resource }
        } else {
            Self { caller, action, tenant, client, scopes: ScopeSet::default(), resource: None }
        }
    }

    /// About how many bytes remembering it takes.
    fn weight(&self) -> u32 {
        /// The key and the cache's own records of it.
        const EACH: usize = 400;
        /// A scope's share of its tree node and allocation.
        const EACH_SCOPE: usize = 64;
        let bytes = EACH
            + self.caller.as_str().len()
            + self.tenant.as_ref().map_or(0, |t| t.as_str().len())
            + self.client.as_ref().map_or(0, |c| c.as_str().len())
            + self.scopes.iter().map(|s| s.len() + EACH_SCOPE).sum::<usize>()
            + self.resource.as_ref().map_or(0, |r| r.as_str().len());
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::permit::{GetAccessToken, ListGrants, ListTenants, RevokeGrant};
    use super::*;

    const ALL: &str = "permit(principal, action, resource);";

    fn caller() -> Caller {
        Caller::plain_text(CallerId::new("spiffe://acme/mail").unwrap())
    }

    fn request(tenant: &str, client: &str, scopes: &[&str]) -> Request {
        Request {
            tenant: Some(TenantId::new(tenant).unwrap()),
            client: Some(ClientId::new(client).unwrap()),
            scopes: ScopeSet::new(scopes).unwrap(),
            resource: None,
        }
    }

    #[test]
    fn a_permit_says_who_may_do_it_where() {
        let authorizer = Authorizer::load(ALL).unwrap();
        for _ in 0..2 {
            let permit: Permit<GetAccessToken> =
                authorizer.permit(&caller(), request("acme", "mail", &["a"])).unwrap();
            assert_eq!(permit.caller(), &caller());
            assert_eq!(permit.tenant().map(TenantId::as_str), Some("acme"));
            assert_eq!(permit.client().map(ClientId::as_str), Some("mail"));
        }
    }

    #[test]
    fn without_a_policy_everything_is_denied() {
        let authorizer = Authorizer::load("").unwrap();
        let denied =
            authorizer.permit::<GetAccessToken>(&caller(), request("acme", "mail", &[])).unwrap_err();
        assert_eq!(Failure::from(denied).reason(), Reason::NotPermitted);
    }

    #[test]
    fn each_part_of_the_question_is_part_of_what_is_remembered() {
        let authorizer = Authorizer::load(
            r#"permit(principal == Caller::"spiffe://acme/mail", action == Action::"GetAccessToken",
                      resource == Tenant::"acme")
               when { context.client == "mail" && context.scopes == ["a"] && !(context has resource) };"#,
        )
        .unwrap();
        let ok =
            |caller: &Caller, request: Request| authorizer.permit::<GetAccessToken>(caller, request).is_ok();
        let other = Caller::plain_text(CallerId::new("spiffe://acme/other").unwrap());
        let with_resource = || Request {
            resource: Some(Resource::new("https://graph.example").unwrap()),
            ..request("acme", "mail", &["a"])
        };
        for _ in 0..2 {
            assert!(ok(&caller(), request("acme", "mail", &["a"])));
            assert!(!ok(&other, request("acme", "mail", &["a"])));
            assert!(!ok(&caller(), request("umbrella", "mail", &["a"])));
            assert!(!ok(&caller(), request("acme", "calendar", &["a"])));
            assert!(!ok(&caller(), request("acme", "mail", &["a", "b"])));
            assert!(!ok(&caller(), request("acme", "mail", &[])));
            assert!(!ok(&caller(), with_resource()));
            assert!(authorizer.permit::<RevokeGrant>(&caller(), request("acme", "mail", &["a"])).is_err());
        }
    }

    #[test]
    fn a_new_policy_judges_the_next_call() {
        let authorizer = Authorizer::load(ALL).unwrap();
        let ok = || authorizer.permit::<GetAccessToken>(&caller(), request("acme", "mail", &[])).is_ok();
        assert!(ok());
        authorizer.replace("").unwrap();
        assert!(!ok());
        authorizer.replace(ALL).unwrap();
        assert!(ok());
        assert_eq!(authorizer.generation(), 3);

        authorizer.replace("permit(nobody);").unwrap_err();
        assert!(ok(), "a faulty policy must not take the good one's place");
        assert_eq!(authorizer.generation(), 3);
    }

    #[test]
    fn a_decision_is_made_once_per_policy() {
        let authorizer = Authorizer::load(ALL).unwrap();
        for _ in 0..10 {
            authorizer.permit::<GetAccessToken>(&caller(), request("acme", "mail", &["a", "b"])).unwrap();
            // Scopes are no part of this question.
            authorizer.permit::<RevokeGrant>(&caller(), request("acme", "mail", &[])).unwrap();
            authorizer.permit::<RevokeGrant>(&caller(), request("acme", "mail", &["a"])).unwrap();
        }
        let generation = authorizer.current.load();
        generation.decisions.run_pending_tasks();
        assert_eq!(generation.decisions.entry_count(), 2);
    }

    #[test]
    fn a_flood_of_questions_cannot_fill_the_memory() {
        let authorizer = Authorizer::load("").unwrap();
        let generation = authorizer.current.load();
        let scope = "s".repeat(500);
        let scopes: Vec<String> = (0..64).map(|n| format!("{scope}{n}")).collect();
        let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
        let asked = request("acme", "mail", &scopes);
        let question = Question::new(&caller(), Action::GetAccessToken, asked);
        assert!(question.weight() > 32_000, "a question is weighed by its size");
        let flood = 3 * REMEMBERED_BYTES / u64::from(question.weight());
        for n in 0..flood {
            let tenant = TenantId::new(&n.to_string()).ok();
            generation.decisions.insert(Question { tenant, ..question.clone() }, false);
        }
        generation.decisions.run_pending_tasks();
        assert!(generation.decisions.weighted_size() <= REMEMBERED_BYTES);
        assert!(generation.decisions.entry_count() < flood / 2);
    }

    #[test]
    fn a_request_that_does_not_fit_the_schema_is_denied() {
        let authorizer = Authorizer::load(ALL).unwrap();
        let none = Request::default;
        authorizer.permit::<ListTenants>(&caller(), none()).unwrap();
        authorizer.permit::<ListTenants>(&caller(), request("acme", "mail", &[])).unwrap_err();
        authorizer.permit::<GetAccessToken>(&caller(), none()).unwrap_err();
        let no_client = || Request { client: None, ..request("acme", "mail", &[]) };
        authorizer.permit::<ListGrants>(&caller(), no_client()).unwrap();
        authorizer.permit::<RevokeGrant>(&caller(), no_client()).unwrap_err();
    }

    #[test]
    fn a_policy_that_fails_denies() {
        // Cedar skips a failing `forbid`, which would permit. The overflow is
        // not the validator's to find.
        let authorizer = Authorizer::load(
            r"permit(principal, action, resource);
              forbid(principal, action, resource) when { 9223372036854775807 + 1 > 0 };",
        )
        .unwrap();
        authorizer.permit::<GetAccessToken>(&caller(), request("acme", "mail", &[])).unwrap_err();
    }
}
