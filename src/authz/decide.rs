//! One decision: the vault's words put into Cedar's, and the answer back.

#![expect(clippy::disallowed_types, reason = "this is a part of `authz`, the one home of Cedar")]

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    Authorizer, Context, Decision, Effect, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy,
    PolicySet, Request, RestrictedExpression, Schema,
};

use crate::domain::action::Action;
use crate::domain::id::{CallerId, ClientId};
use crate::domain::scope::Target;

use super::resource::Named;
use super::{Question, partial, policy};

/// Evaluates policies. Costs from tens of microseconds up to milliseconds,
/// growing with the number of policies, so nobody asks the same twice.
pub(super) struct Judge {
    cedar: Authorizer,
    schema: &'static Schema,
    policies: PolicySet,
    names: Names,
}

struct Names {
    caller: EntityTypeName,
    tenant: EntityTypeName,
    vault: EntityTypeName,
    action: EntityTypeName,
}

impl Judge {
    #[expect(clippy::expect_used, reason = "the names are constants and valid identifiers")]
    pub(super) fn new(policies: PolicySet) -> Self {
        let name = |word: &str| word.parse().expect("names of the schema are identifiers");
        let names = Names {
            caller: name("Caller"),
            tenant: name("Tenant"),
            vault: name("Vault"),
            action: name("Action"),
        };
        Self { cedar: Authorizer::new(), schema: policy::schema(), policies, names }
    }

    /// Whether the policies permit it. Whatever goes wrong, the answer is no.
    pub(super) fn permits(&self, question: &Question) -> bool {
        let evaluated = self.evaluate(question).unwrap_or_else(|what| {
            tracing::error!(
                caller = question.caller.as_str(),
                action = question.action.as_str(),
                what,
                "denied, since the request does not fit the policy schema"
            );
            false
        });
        if !evaluated {
            tracing::debug!(
                caller = question.caller.as_str(),
                action = question.action.as_str(),
                "denied by policy"
            );
        }
        evaluated
    }

    /// Whether the policies may permit the caller this action for some tenant:
    /// with this client and target where they are `known`, or else with any. No
    /// means no; yes means that it depends on what is left open.
    pub(super) fn might_permit(&self, caller: &CallerId, action: Action, known: Option<Named<'_>>) -> bool {
        let might = self.evaluate_partially(caller, action, known);
        might.unwrap_or_else(|what| {
            tracing::error!(
                caller = caller.as_str(),
                action = action.as_str(),
                what,
                "denied, since the request does not fit the policy schema"
            );
            false
        })
    }

    fn evaluate_partially(
        &self,
        caller: &CallerId,
        action: Action,
        known: Option<Named<'_>>,
    ) -> Result<bool, String> {
        let principal = uid(&self.names.caller, caller.as_str());
        let entities = [entity_with_id(principal.clone(), caller.as_str())?];
        let entities = Entities::from_entities(entities, Some(self.schema)).map_err(|e| e.to_string())?;
        let action = uid(&self.names.action, action.as_str());
        let mut request = Request::builder().principal(principal).action(action);
        if let Some(Named { tenant: _, client, target }) = known {
            let context = Context::from_pairs(context(client, target)).map_err(|e| e.to_string())?;
            request = request.context(context);
        }
        let response = self.cedar.is_authorized_partial(&request.build(), &self.policies, &entities);
        let permits = |policy: &Policy| policy.effect() == Effect::Permit;
        let certain = response.definitely_satisfied().any(|policy| permits(&policy));
        let possible =
            || response.nontrivial_residuals().any(|left| permits(&left) && partial::may_hold(&left));
        Ok(response.decision() != Some(Decision::Deny) && (certain || possible()))
    }

    fn evaluate(&self, question: &Question) -> Result<bool, String> {
        let caller = uid(&self.names.caller, question.caller.as_str());
        let action = uid(&self.names.action, question.action.as_str());
        let resource = match &question.tenant {
            Some(tenant) => uid(&self.names.tenant, tenant.as_str()),
            None => uid(&self.names.vault, "vault"),
        };

        let mut entities = vec![entity_with_id(caller.clone(), question.caller.as_str())?];
        if let Some(tenant) = &question.tenant {
            entities.push(entity_with_id(resource.clone(), tenant.as_str())?);
        } else {
            entities.push(Entity::new_no_attrs(resource.clone(), HashSet::new()));
        }
        let entities = Entities::from_entities(entities, Some(self.schema)).map_err(|e| e.to_string())?;
        let context = Context::from_pairs(context(question.client.as_ref(), question.target.as_ref()))
            .map_err(|e| e.to_string())?;
        let request =
            Request::new(caller, action, resource, context, Some(self.schema)).map_err(|e| e.to_string())?;

        let response = self.cedar.is_authorized(&request, &self.policies, &entities);
        // A policy that fails is skipped by Cedar, even one that forbids. Here
        // its failure denies.
        let errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
        if !errors.is_empty() {
            return Err(errors.join("; "));
        }
        Ok(response.decision() == Decision::Allow)
    }
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn entity_with_id(uid: EntityUid, id: &str) -> Result<Entity, String> {
    let attributes = HashMap::from([("id".to_owned(), RestrictedExpression::new_string(id.to_owned()))]);
    Entity::new(uid, attributes, HashSet::new()).map_err(|e| e.to_string())
}

/// What a policy may judge a request by besides caller, action and tenant; the
/// schema has the same per action.
fn context(client: Option<&ClientId>, target: Option<&Target>) -> Vec<(String, RestrictedExpression)> {
    let text = |s: &str| RestrictedExpression::new_string(s.to_owned());
    let mut pairs = Vec::new();
    if let Some(client) = client {
        pairs.push(("client".to_owned(), text(client.as_str())));
    }
    if let Some(Target { scopes, resource, claims }) = target {
        pairs.push(("scopes".to_owned(), RestrictedExpression::new_set(scopes.iter().map(text))));
        if let Some(resource) = resource {
            pairs.push(("resource".to_owned(), text(resource.as_str())));
        }
        if let Some(claims) = claims {
            pairs.push(("claims_challenge".to_owned(), text(claims.as_str())));
        }
    }
    pairs
}
