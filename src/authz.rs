//! Who may do what: from a [`Caller`] and a [`Resource`](resource::Resource) to a
//! [`Permit`].
//!
//! In reading order:
//!
//! - this file: the [`Authorizer`], which remembers decisions;
//! - [`permit`]: authority as a value, one type per action;
//! - [`resource`]: what the requests of an action name;
//! - `schema.cedarschema`: what a policy can speak of;
//! - `policy`: a policy file, read and checked;
//! - `decide`: one evaluation by Cedar;
//! - `partial`: what is left of it where a part of the request is not known yet.
//!
//! The default is to deny, and whatever goes wrong in a decision denies.

use std::sync::{Arc, PoisonError, RwLock};

use moka::sync::Cache;

use crate::authn::Caller;
use crate::domain::action::Action;
use crate::domain::failure::Failure;
use crate::domain::id::{CallerId, ClientId, TenantId};
use crate::domain::reason::Reason;
use crate::domain::scope::Target;

mod decide;
mod partial;
pub mod permit;
mod policy;
pub mod resource;

pub use permit::{Permit, Permitted};
pub use policy::{PolicyError, Remark, Summary};

use resource::{Named, Resource as _, TokenWanted};

/// Most bytes of remembered decisions, by a rough but never low estimate.
const REMEMBERED_BYTES: u64 = 32 * 1024 * 1024;

/// Most callers and actions that are remembered.
const REMEMBERED_CALLERS: u64 = 20_000;

/// Decides by the policy in force. A decision is made once and remembered,
/// since Cedar's time grows with the number of policies and a remembered
/// answer's does not.
pub struct Authorizer {
    in_force: RwLock<Arc<InForce>>,
}

/// A policy with the decisions it has made: another policy begins without any.
struct InForce {
    text: String,
    judge: decide::Judge,
    decisions: Cache<Question, bool>,
    /// Whether a caller may do an action at all, so that who may not costs the
    /// same whatever else it asks.
    at_all: Cache<(CallerId, Action), bool>,
}

impl InForce {
    fn load(policy_text: &str) -> Result<Self, PolicyError> {
        let checked = policy::check(policy_text)?;
        for warning in &checked.summary.warnings {
            tracing::warn!(%warning, "policy");
        }
        let decisions = Cache::builder()
            .max_capacity(REMEMBERED_BYTES)
            .weigher(|question: &Question, _| question.weight())
            .build();
        let at_all = Cache::builder().max_capacity(REMEMBERED_CALLERS).build();
        let judge = decide::Judge::new(checked.policies);
        Ok(Self { text: policy_text.to_owned(), judge, decisions, at_all })
    }

    fn permits(&self, question: &Question) -> bool {
        // There is no end of different claims, so that a caller could push out
        // everybody else's decisions with them.
        if question.target.as_ref().is_some_and(|target| target.claims.is_some()) {
            return self.judge.permits(question);
        }
        self.decisions.get(question).unwrap_or_else(|| {
            let permitted = self.judge.permits(question);
            self.decisions.insert(question.clone(), permitted);
            permitted
        })
    }
}

impl Authorizer {
    /// Takes a policy into force.
    ///
    /// # Errors
    ///
    /// All faults of the policy.
    pub fn load(policy_text: &str) -> Result<Self, PolicyError> {
        InForce::load(policy_text).map(|policy| Self { in_force: RwLock::new(Arc::new(policy)) })
    }

    /// Takes another policy into force, for all decisions from now on; says
    /// whether it is another.
    ///
    /// # Errors
    ///
    /// All faults of the policy; the old one stays in force.
    pub fn replace(&self, policy_text: &str) -> Result<bool, PolicyError> {
        if self.in_force().text == policy_text {
            return Ok(false);
        }
        let policy = Arc::new(InForce::load(policy_text)?);
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = policy;
        Ok(true)
    }

    fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.in_force.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the policy in force permits the caller the action `A` on anything
    /// at all. Who passes may still be denied where it asks.
    ///
    /// # Errors
    ///
    /// When it does not, whatever is asked for.
    pub fn permits_at_all<A: Permitted>(&self, caller: &Caller) -> Result<(), Denied> {
        let key = (caller.id().clone(), A::ACTION);
        let policy = self.in_force();
        let permitted = policy.at_all.get(&key).unwrap_or_else(|| {
            let permitted = policy.judge.might_permit(&key.0, key.1, None);
            policy.at_all.insert(key.clone(), permitted);
            permitted
        });
        if permitted { Ok(()) } else { Err(Denied { caller: key.0, action: key.1 }) }
    }

    /// Whether the policy in force permits the caller the action `A` with this
    /// client and target for any tenant. Who passes may still be denied for the
    /// tenant it comes with.
    ///
    /// # Errors
    ///
    /// When it does not, whichever tenant it is.
    pub fn permits_somewhere<A: Permitted<Resource = TokenWanted>>(
        &self,
        caller: &Caller,
        client: &ClientId,
        target: &Target,
    ) -> Result<(), Denied> {
        self.permits_at_all::<A>(caller)?;
        let named = Named { tenant: None, client: Some(client), target: Some(target) };
        if self.in_force().judge.might_permit(caller.id(), A::ACTION, Some(named)) {
            return Ok(());
        }
        Err(Denied { caller: caller.id().clone(), action: A::ACTION })
    }

    /// A permit for the caller to do the action `A`, if the policy in force
    /// permits it.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn permit<A: Permitted>(
        &self,
        caller: &Caller,
        resource: impl Into<Arc<A::Resource>>,
    ) -> Result<Permit<A>, Denied> {
        self.permits_at_all::<A>(caller)?;
        let resource = resource.into();
        let question = Question::new(caller, A::ACTION, resource.named());
        if self.permits(&question) {
            Ok(Permit::new(caller.clone(), resource))
        } else {
            Err(Denied { caller: question.caller, action: question.action })
        }
    }

    fn permits(&self, question: &Question) -> bool {
        self.in_force().permits(question)
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

/// All that a decision depends on, and so the key it is remembered by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    caller: CallerId,
    action: Action,
    tenant: Option<TenantId>,
    client: Option<ClientId>,
    target: Option<Target>,
}

impl Question {
    fn new(caller: &Caller, action: Action, named: Named<'_>) -> Self {
        let Named { tenant, client, target } = named;
        Self {
            caller: caller.id().clone(),
            action,
            tenant: tenant.cloned(),
            client: client.cloned(),
            target: target.cloned(),
        }
    }

    /// About how many bytes remembering it takes.
    fn weight(&self) -> u32 {
        /// The key and the cache's own records of it.
        const EACH: usize = 400;
        /// A scope's share of its tree node and allocation.
        const EACH_SCOPE: usize = 64;
        let target = self.target.as_ref().map_or(0, |Target { scopes, resource, claims }| {
            scopes.iter().map(|s| s.len() + EACH_SCOPE).sum::<usize>()
                + resource.as_ref().map_or(0, |r| r.as_str().len())
                + claims.as_ref().map_or(0, |c| c.as_str().len())
        });
        let bytes = EACH
            + self.caller.as_str().len()
            + self.tenant.as_ref().map_or(0, |t| t.as_str().len())
            + self.client.as_ref().map_or(0, |c| c.as_str().len())
            + target;
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::permit::{
        CreateTenant, ExchangeOnBehalfOf, GetAccessToken, ListGrants, ListTenants, RevokeGrant,
    };
    use super::resource::{GrantsOfTenant, OneGrant, OneTenant, WholeVault};
    use super::*;
    use crate::domain::scope::{Claims, Resource, ScopeSet};

    const ALL: &str = "permit(principal, action, resource);";

    fn caller() -> Caller {
        Caller::plain_text(CallerId::new("spiffe://acme/mail").unwrap())
    }

    fn wanted(tenant: &str, client: &str, scopes: &[&str]) -> TokenWanted {
        TokenWanted {
            tenant: TenantId::new(tenant).unwrap(),
            client: ClientId::new(client).unwrap(),
            target: Target { scopes: ScopeSet::new(scopes).unwrap(), ..Target::default() },
        }
    }

    fn challenged(claims: &str) -> TokenWanted {
        let mut wanted = wanted("acme", "mail", &["a"]);
        wanted.target.claims = Some(Claims::canonical(claims).unwrap());
        wanted
    }

    fn one_grant(tenant: &str, client: &str) -> OneGrant {
        OneGrant { tenant: TenantId::new(tenant).unwrap(), client: ClientId::new(client).unwrap() }
    }

    fn remembered(authorizer: &Authorizer) -> u64 {
        let policy = authorizer.in_force();
        policy.decisions.run_pending_tasks();
        policy.decisions.entry_count()
    }

    #[test]
    fn a_permit_says_who_may_do_it_where() {
        let authorizer = Authorizer::load(ALL).unwrap();
        for _ in 0..2 {
            let permit: Permit<GetAccessToken> =
                authorizer.permit(&caller(), wanted("acme", "mail", &["a"])).unwrap();
            assert_eq!(permit.caller(), &caller());
            assert_eq!(permit.resource(), &wanted("acme", "mail", &["a"]));
        }
    }

    #[test]
    fn without_a_policy_everything_is_denied() {
        let authorizer = Authorizer::load("").unwrap();
        let denied = authorizer.permit::<GetAccessToken>(&caller(), wanted("acme", "mail", &[])).unwrap_err();
        assert_eq!(Failure::from(denied).reason(), Reason::NotPermitted);
    }

    #[test]
    fn who_may_not_at_all_is_told_from_who_may_somewhere() {
        let authorizer = Authorizer::load(
            r#"permit(principal, action == Action::"ExchangeOnBehalfOf", resource == Tenant::"acme")
                   when { principal.id like "spiffe://acme/*" && context.client == "mail" };
               permit(principal, action in Action::"manage", resource) when { resource.id like "acme-*" };
               forbid(principal == Caller::"spiffe://acme/out", action, resource);
               forbid(principal, action in Action::"intake", resource) when { context has claims_challenge };"#,
        )
        .unwrap();
        let caller = |id: &str| Caller::plain_text(CallerId::new(id).unwrap());
        let (mail, other, out) =
            (caller("spiffe://acme/mail"), caller("spiffe://other/mail"), caller("spiffe://acme/out"));
        authorizer.permits_at_all::<ExchangeOnBehalfOf>(&mail).unwrap();
        // It depends on the tenant alone, and that is open.
        authorizer.permits_at_all::<CreateTenant>(&other).unwrap();
        authorizer.permits_at_all::<ExchangeOnBehalfOf>(&other).unwrap_err();
        authorizer.permits_at_all::<ExchangeOnBehalfOf>(&out).unwrap_err();
        authorizer.permits_at_all::<CreateTenant>(&out).unwrap_err();
        authorizer.permits_at_all::<GetAccessToken>(&mail).unwrap_err();

        let somewhere = |caller: &Caller, client: &str, target: &Target| {
            let client = ClientId::new(client).unwrap();
            authorizer.permits_somewhere::<ExchangeOnBehalfOf>(caller, &client, target).is_ok()
        };
        let plain = Target::default();
        let challenged = challenged(r#"{"a":1}"#).target;
        assert!(somewhere(&mail, "mail", &plain));
        assert!(!somewhere(&mail, "portal", &plain), "another client");
        assert!(!somewhere(&mail, "mail", &challenged), "forbidden");
        assert!(!somewhere(&other, "mail", &plain), "another caller");
    }

    /// Whatever is asked for is judged the same by both: who may not at all is
    /// denied everywhere.
    #[test]
    fn what_is_permitted_is_permitted_at_all() {
        let authorizer = Authorizer::load(include_str!("../deploy/policy.cedar")).unwrap();
        let callers = ["mail", "calendar", "web", "operator", "auditor", "nobody"];
        for caller in callers.map(|name| CallerId::new(&format!("spiffe://acme.example/{name}")).unwrap()) {
            for tenant in ["acme", "other"].map(|name| TenantId::new(name).unwrap()) {
                let at = |action, named| Question::new(&Caller::plain_text(caller.clone()), action, named);
                let wanted = wanted(tenant.as_str(), "mail", &["https://graph.example/Mail.Read"]);
                let one = OneTenant { tenant: tenant.clone() };
                for question in [
                    at(Action::GetAccessToken, wanted.named()),
                    at(Action::ExchangeOnBehalfOf, wanted.named()),
                    at(Action::CreateTenant, one.named()),
                    at(Action::PurgeTenantNow, one.named()),
                    at(Action::RunRotation, WholeVault.named()),
                ] {
                    let at_all = authorizer.in_force().judge.might_permit(&caller, question.action, None);
                    assert!(at_all || !authorizer.permits(&question), "{question:?}");
                }
            }
        }
    }

    #[test]
    fn each_part_of_the_question_is_part_of_what_is_remembered() {
        let authorizer = Authorizer::load(
            r#"permit(principal == Caller::"spiffe://acme/mail", action == Action::"GetAccessToken",
                      resource == Tenant::"acme")
               when { context.client == "mail" && context.scopes == ["a"] && !(context has resource) };"#,
        )
        .unwrap();
        let ok = |caller: &Caller, wanted: TokenWanted| {
            authorizer.permit::<GetAccessToken>(caller, wanted).is_ok()
        };
        let other = Caller::plain_text(CallerId::new("spiffe://acme/other").unwrap());
        let with_resource = || {
            let mut wanted = wanted("acme", "mail", &["a"]);
            wanted.target.resource = Some(Resource::new("https://graph.example").unwrap());
            wanted
        };
        for _ in 0..2 {
            assert!(ok(&caller(), wanted("acme", "mail", &["a"])));
            assert!(!ok(&other, wanted("acme", "mail", &["a"])));
            assert!(!ok(&caller(), wanted("umbrella", "mail", &["a"])));
            assert!(!ok(&caller(), wanted("acme", "calendar", &["a"])));
            assert!(!ok(&caller(), wanted("acme", "mail", &["a", "b"])));
            assert!(!ok(&caller(), wanted("acme", "mail", &[])));
            assert!(!ok(&caller(), with_resource()));
            assert!(authorizer.permit::<RevokeGrant>(&caller(), one_grant("acme", "mail")).is_err());
        }
    }

    #[test]
    fn a_policy_sees_whether_there_is_a_challenge_and_which() {
        let authorizer = Authorizer::load(
            r#"permit(principal, action in Action::"read", resource);
               permit(principal, action in Action::"intake", resource);
               forbid(principal, action in [Action::"GetAccessToken", Action::"ExchangeOnBehalfOf"], resource)
               when { context has claims_challenge }
               unless { context.claims_challenge like "*\"acrs\"*" };"#,
        )
        .unwrap();
        let ok = |wanted: TokenWanted| {
            let token = authorizer.permit::<GetAccessToken>(&caller(), wanted.clone()).is_ok();
            assert_eq!(authorizer.permit::<ExchangeOnBehalfOf>(&caller(), wanted).is_ok(), token);
            token
        };
        for _ in 0..2 {
            assert!(ok(wanted("acme", "mail", &["a"])));
            assert!(!ok(challenged(r#"{"access_token":{"nbf":null}}"#)));
            assert!(ok(challenged(r#"{"access_token":{"acrs":null}}"#)));
            assert!(!ok(challenged("{}")));
        }
    }

    #[test]
    fn ever_new_challenges_push_nothing_out() {
        let authorizer = Authorizer::load(ALL).unwrap();
        authorizer.permit::<GetAccessToken>(&caller(), wanted("acme", "mail", &["a"])).unwrap();
        for n in 0..50 {
            let challenge = challenged(&format!("{{\"a\":{n}}}"));
            authorizer.permit::<GetAccessToken>(&caller(), challenge).unwrap();
        }
        assert_eq!(remembered(&authorizer), 1);
    }

    #[test]
    fn a_decision_is_made_once_per_policy() {
        let authorizer = Authorizer::load(ALL).unwrap();
        for _ in 0..10 {
            authorizer.permit::<GetAccessToken>(&caller(), wanted("acme", "mail", &["a", "b"])).unwrap();
            authorizer.permit::<RevokeGrant>(&caller(), one_grant("acme", "mail")).unwrap();
        }
        assert_eq!(remembered(&authorizer), 2);
    }

    #[test]
    fn another_policy_decides_anew_and_a_bad_one_changes_nothing() {
        let authorizer = Authorizer::load(ALL).unwrap();
        let ok = || authorizer.permit::<GetAccessToken>(&caller(), wanted("acme", "mail", &["a"])).is_ok();
        assert!(ok());
        authorizer.replace("permit(").unwrap_err();
        assert!(ok());
        assert_eq!(authorizer.replace(ALL), Ok(false));
        assert_eq!(authorizer.replace(""), Ok(true));
        assert!(!ok(), "a remembered decision outlived its policy");
        assert_eq!(authorizer.replace(ALL), Ok(true));
        assert!(ok());
    }

    #[test]
    fn a_flood_of_questions_cannot_fill_the_memory() {
        let authorizer = Authorizer::load("").unwrap();
        let scope = "s".repeat(500);
        let scopes: Vec<String> = (0..64).map(|n| format!("{scope}{n}")).collect();
        let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
        let asked = wanted("acme", "mail", &scopes);
        let question = Question::new(&caller(), Action::GetAccessToken, asked.named());
        assert!(question.weight() > 32_000, "a question is weighed by its size");
        let flood = 3 * REMEMBERED_BYTES / u64::from(question.weight());
        for n in 0..flood {
            let tenant = TenantId::new(&n.to_string()).ok();
            authorizer.in_force().decisions.insert(Question { tenant, ..question.clone() }, false);
        }
        assert!(remembered(&authorizer) < flood / 2);
        assert!(authorizer.in_force().decisions.weighted_size() <= REMEMBERED_BYTES);
    }

    #[test]
    fn every_kind_of_resource_fits_the_schema() {
        let authorizer = Authorizer::load(ALL).unwrap();
        authorizer.permit::<ListTenants>(&caller(), WholeVault).unwrap();
        authorizer.permit::<GetAccessToken>(&caller(), wanted("acme", "mail", &[])).unwrap();
        authorizer.permit::<RevokeGrant>(&caller(), one_grant("acme", "mail")).unwrap();
        let tenant = TenantId::new("acme").unwrap();
        for client in [None, Some(ClientId::new("mail").unwrap())] {
            let resource = GrantsOfTenant { tenant: tenant.clone(), client };
            authorizer.permit::<ListGrants>(&caller(), resource).unwrap();
        }
        authorizer.permit::<CreateTenant>(&caller(), OneTenant { tenant }).unwrap();
    }

    #[test]
    fn a_question_that_does_not_fit_the_schema_is_denied() {
        let authorizer = Authorizer::load(ALL).unwrap();
        let question = Question::new(&caller(), Action::GetAccessToken, WholeVault.named());
        assert!(!authorizer.permits(&question));
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
        authorizer.permit::<GetAccessToken>(&caller(), wanted("acme", "mail", &[])).unwrap_err();
    }
}
