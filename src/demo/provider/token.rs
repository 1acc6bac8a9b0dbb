//! The token endpoint: what a request is answered with when nothing is made to
//! go wrong.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::client::audience_is;
use super::families::Refused;
use super::options::AccessTokenForm;
use super::refusal::Refusal;
use super::shared::Inner;

const ON_BEHALF_OF: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// Whether a redeemed refresh token is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotation {
    /// By a new one, always.
    Always,
    /// Not this time: the old one stays current.
    Never,
}

impl Inner {
    /// Answers a token request.
    pub(super) fn token_answer(
        &self,
        form: &BTreeMap<String, String>,
        authorization: Option<&str>,
        rotation: Rotation,
    ) -> Result<Map<String, Value>, Refusal> {
        let client = self.authenticate(form, authorization).inspect_err(|_| {
            self.state().stats.clients_refused += 1;
        })?;
        match form.get("grant_type").map(String::as_str) {
            Some("refresh_token") => self.refresh(&client, form, rotation),
            Some(ON_BEHALF_OF) => self.exchange_on_behalf_of(&client, form, rotation),
            Some(_) => Err(Refusal::new(400, "unsupported_grant_type", "only refresh and on-behalf-of")),
            None => Err(Refusal::new(400, "invalid_request", "there is no grant_type")),
        }
    }

    fn refresh(
        &self,
        client: &str,
        form: &BTreeMap<String, String>,
        rotation: Rotation,
    ) -> Result<Map<String, Value>, Refusal> {
        let refused = || Refusal {
            suberror: Some("bad_token"),
            ..Refusal::new(400, "invalid_grant", "the refresh token is unknown, used or revoked")
        };
        let token = form
            .get("refresh_token")
            .ok_or_else(|| Refusal::new(400, "invalid_request", "there is no refresh_token"))?;
        let presented = self.handle_of(token).ok_or_else(refused)?;
        let wanted = scopes_of(form);
        let new_handle = self.random_text(24);
        let now = self.clock.now();

        // Everything from the look at the token to its replacement happens
        // under one lock: two uses of one token cannot both be the first.
        let mut guard = self.state();
        let state = &mut *guard;
        let redeemable =
            state.families.present(presented, client, self.options.reuse, now).map_err(|why| {
                if why == Refused::Reused {
                    state.stats.reuse_detected += 1;
                    state.stats.families_revoked += 1;
                }
                refused()
            })?;
        let family = state.families.family(redeemable);
        if state.second_factor.contains(&family.user) {
            return Err(Refusal::second_factor());
        }
        let granted = rights(&family.scopes);
        let scopes = if rights(&wanted).is_empty() { granted.clone() } else { rights(&wanted) };
        if !self.options.multi_resource && !scopes.is_subset(&granted) {
            return Err(Refusal::new(400, "invalid_scope", "a scope was not granted"));
        }
        let user = family.user.clone();
        let openid =
            if wanted.is_empty() { family.scopes.contains("openid") } else { wanted.contains("openid") };
        let target_refused = !self.options.multi_resource
            && form.get("resource").is_some_and(|r| !granted.iter().any(|s| s.starts_with(r.as_str())));

        let handle = match rotation {
            Rotation::Always => Some(state.families.rotate(redeemable, &new_handle, now)),
            Rotation::Never => None,
        };
        if target_refused {
            // As measured at a certified provider: the token is used by now.
            return Err(Refusal::new(400, "invalid_target", "the resource was not granted"));
        }
        state.stats.refreshes += 1;
        drop(guard);
        Ok(self.success(client, &user, &scopes, form.get("resource"), openid, handle.as_deref()))
    }

    fn exchange_on_behalf_of(
        &self,
        client: &str,
        form: &BTreeMap<String, String>,
        rotation: Rotation,
    ) -> Result<Map<String, Value>, Refusal> {
        if form.get("requested_token_use").map(String::as_str) != Some("on_behalf_of") {
            return Err(Refusal::new(400, "invalid_request", "requested_token_use must be on_behalf_of"));
        }
        let assertion = form
            .get("assertion")
            .ok_or_else(|| Refusal::new(400, "invalid_request", "there is no assertion"))?;
        let user = self.check_user_assertion(assertion)?;
        let wanted = scopes_of(form);
        let scopes = rights(&wanted);
        if scopes.is_empty() {
            return Err(Refusal::new(400, "invalid_scope", "there is no scope of a resource"));
        }
        let offline = wanted.contains("offline_access") && rotation == Rotation::Always;
        let handle = offline.then(|| self.random_text(24));
        let openid = wanted.contains("openid");

        let mut state = self.state();
        if state.second_factor.contains(&user) {
            return Err(Refusal::second_factor());
        }
        if let Some(handle) = &handle {
            state.families.begin(client, &user, wanted, handle);
        }
        state.stats.obo_exchanges += 1;
        drop(state);
        Ok(self.success(client, &user, &scopes, form.get("resource"), openid, handle.as_deref()))
    }

    /// The user whose token this is: one of this provider's, for the vault's
    /// API, still alive.
    fn check_user_assertion(&self, assertion: &str) -> Result<String, Refusal> {
        let refused = |why| Refusal::new(400, "invalid_grant", why);
        let claims = self
            .signer
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .verify(assertion)
            .ok_or_else(|| refused("the assertion is not signed by this provider"))?;
        if claims["iss"].as_str() != Some(&self.issuer)
            || !audience_is(&claims, &[&self.options.api_audience])
        {
            return Err(refused("the assertion is for another audience"));
        }
        if claims["exp"].as_i64().is_none_or(|exp| exp <= self.clock.now().unix_seconds()) {
            return Err(refused("the assertion has expired"));
        }
        let user = claims["oid"].as_str().ok_or_else(|| refused("the assertion names no user"))?;
        if let Some(tenant) = claims["tid"].as_str() {
            self.state().tenants.insert(user.to_owned(), tenant.to_owned());
        }
        Ok(user.to_owned())
    }

    fn success(
        &self,
        client: &str,
        user: &str,
        scopes: &BTreeSet<String>,
        resource: Option<&String>,
        openid: bool,
        handle: Option<&str>,
    ) -> Map<String, Value> {
        let lifetime = self.options.access_token_lifetime.as_secs();
        let audience = resource.cloned().unwrap_or_else(|| resource_of(scopes));
        let consented = self.options.consented.iter();
        let consented = consented.filter(|scope| resource_named_by(scope).unwrap_or(NO_RESOURCE) == audience);
        let scopes: BTreeSet<&String> = scopes.iter().chain(consented).collect();
        let scope = scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ");
        let mut body = Map::new();
        body.insert("token_type".to_owned(), "Bearer".into());
        body.insert("expires_in".to_owned(), lifetime.into());
        body.insert("access_token".to_owned(), self.access_token(client, user, &scope, &audience).into());
        body.insert("scope".to_owned(), scope.into());
        if let Some(handle) = handle {
            body.insert("refresh_token".to_owned(), self.refresh_token(handle).into());
        }
        if openid {
            let id_token = self.sign(&self.claims_about(user, client));
            body.insert("id_token".to_owned(), id_token.into());
        }
        body
    }

    fn access_token(&self, client: &str, user: &str, scope: &str, audience: &str) -> String {
        match self.options.access_token {
            AccessTokenForm::Opaque { bytes } => self.random_text(bytes / 4 * 3),
            AccessTokenForm::Jwt => {
                let mut claims = self.claims_about(user, audience);
                claims["azp"] = client.into();
                claims["scp"] = scope.into();
                claims["jti"] = self.random_text(12).into();
                self.sign(&claims)
            }
        }
    }

    fn claims_about(&self, user: &str, audience: &str) -> Value {
        let now = self.clock.now();
        let tenant = self.state().tenants.get(user).cloned();
        json!({
            "iss": self.issuer,
            "aud": audience,
            "sub": user,
            "oid": user,
            "tid": tenant.unwrap_or_else(|| self.options.tenant.clone()),
            "iat": now.unix_seconds(),
            "exp": now.plus(self.options.access_token_lifetime).unix_seconds(),
        })
    }
}

fn scopes_of(form: &BTreeMap<String, String>) -> BTreeSet<String> {
    form.get("scope")
        .map(|list| list.split_ascii_whitespace().map(str::to_owned).collect())
        .unwrap_or_default()
}

/// The scopes that give a right at a resource.
fn rights(scopes: &BTreeSet<String>) -> BTreeSet<String> {
    let protocol = ["openid", "profile", "email", "offline_access"];
    scopes.iter().filter(|s| !protocol.contains(&s.as_str())).cloned().collect()
}

/// The resource of scopes that name none.
const NO_RESOURCE: &str = "https://resource.example";

/// The resource that scopes such as `https://graph.example/mail.read` name.
fn resource_of(scopes: &BTreeSet<String>) -> String {
    scopes.iter().find_map(|scope| resource_named_by(scope)).unwrap_or(NO_RESOURCE).to_owned()
}

fn resource_named_by(scope: &str) -> Option<&str> {
    scope.contains("://").then(|| scope.rsplit_once('/')).flatten().map(|(resource, _)| resource)
}
