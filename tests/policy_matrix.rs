//! Who may what under the sample policies, as text that a reviewer reads. A
//! change of a policy, of the schema or of an action shows up here as a diff of
//! `tests/snapshots/`.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::fmt::Write as _;

use obo_vault::authn::Caller;
use obo_vault::authz::permit::{
    CreateTenant, DescribeGrant, DescribeRotation, DescribeTenantKeys, ExchangeOnBehalfOf, GetAccessToken,
    ImportGrant, ListGrants, ListTenants, PurgeTenantNow, RestoreTenant, RevokeGrant, RotateTenantKey,
    RunRotation, ScheduleTenantPurge,
};
use obo_vault::authz::resource::{GrantsOfTenant, OneGrant, OneTenant, TokenWanted, WholeVault};
use obo_vault::authz::{self, Authorizer};
use obo_vault::domain::action::Action;
use obo_vault::domain::id::{CallerId, ClientId, TenantId};
use obo_vault::domain::scope::{Claims, Resource, ScopeSet, Target};

const PRODUCTION: &str = include_str!("../deploy/policy.cedar");
const MINIMAL: &str = include_str!("../deploy/policy.minimal.cedar");

#[test]
fn production_roles_by_action() {
    let mail = ask("acme", "mail", &["https://graph.example/Mail.Read"], None);
    let calendar = ask("acme", "calendar", &[], Some("https://calendar.example"));
    let table = matrix(
        PRODUCTION,
        &[
            ("mail", "spiffe://acme.example/mail", &mail),
            ("calendar", "spiffe://acme.example/calendar", &calendar),
            ("web", "spiffe://acme.example/web/portal", &mail),
            ("migration", "spiffe://acme.example/migration", &mail),
            ("manager", "spiffe://ops.example/manager", &mail),
            ("rotator", "spiffe://ops.example/rotator", &mail),
            ("purger", "spiffe://ops.example/purger", &mail),
            ("auditor", "spiffe://ops.example/auditor", &mail),
            ("stranger", "spiffe://elsewhere.example/mail", &mail),
        ],
    );
    insta::assert_snapshot!("production_roles_by_action", table);
}

#[test]
fn production_borders() {
    let authorizer = Authorizer::load(PRODUCTION).unwrap();
    let read = "https://graph.example/Mail.Read";
    let send = "https://graph.example/Mail.Send";
    let calendar = Some("https://calendar.example");
    let events = "https://calendar.example/Events.Read";
    let rows: [(&str, Action, &str, TokenWanted); 24] = [
        ("own tenant, client, scope", Action::GetAccessToken, "mail", ask("acme", "mail", &[read], None)),
        ("both scopes", Action::GetAccessToken, "mail", ask("acme", "mail", &[read, send], None)),
        ("another tenant", Action::GetAccessToken, "mail", ask("umbrella", "mail", &[read], None)),
        ("another case of the tenant", Action::GetAccessToken, "mail", ask("Acme", "mail", &[read], None)),
        ("another client", Action::GetAccessToken, "mail", ask("acme", "calendar", &[read], None)),
        ("another scope", Action::GetAccessToken, "mail", ask("acme", "mail", &["Files.Read"], None)),
        (
            "one scope too many",
            Action::GetAccessToken,
            "mail",
            ask("acme", "mail", &[read, "Files.Read"], None),
        ),
        ("all scopes of the grant", Action::GetAccessToken, "mail", ask("acme", "mail", &[], None)),
        ("own resource", Action::GetAccessToken, "calendar", ask("acme", "calendar", &[], calendar)),
        ("no resource", Action::GetAccessToken, "calendar", ask("acme", "calendar", &[], None)),
        (
            "own scope, a resource beside it",
            Action::GetAccessToken,
            "mail",
            ask("acme", "mail", &[read], calendar),
        ),
        (
            "own scope, challenged",
            Action::GetAccessToken,
            "mail",
            challenged(ask("acme", "mail", &[read], None)),
        ),
        (
            "own resource, its scope",
            Action::GetAccessToken,
            "calendar",
            ask("acme", "calendar", &[events], calendar),
        ),
        (
            "own resource, a scope beside it",
            Action::GetAccessToken,
            "calendar",
            ask("acme", "calendar", &[read], calendar),
        ),
        (
            "own resource, one scope too many",
            Action::GetAccessToken,
            "calendar",
            ask("acme", "calendar", &[events, "Files.ReadWrite.All"], calendar),
        ),
        (
            "own resource, challenged",
            Action::GetAccessToken,
            "calendar",
            challenged(ask("acme", "calendar", &[], calendar)),
        ),
        (
            "intake, challenged",
            Action::ExchangeOnBehalfOf,
            "web/portal",
            challenged(ask("acme", "mail", &[], None)),
        ),
        (
            "its scope without the resource",
            Action::GetAccessToken,
            "calendar",
            ask("acme", "calendar", &[events], None),
        ),
        (
            "another resource",
            Action::GetAccessToken,
            "calendar",
            ask("acme", "calendar", &[], Some("https://graph.example")),
        ),
        ("intake, own tenant", Action::ExchangeOnBehalfOf, "web/portal", ask("acme", "mail", &[], None)),
        (
            "intake, another tenant",
            Action::ExchangeOnBehalfOf,
            "web/portal",
            ask("umbrella", "mail", &[], None),
        ),
        (
            "intake, another client",
            Action::ExchangeOnBehalfOf,
            "web/portal",
            ask("acme", "payroll", &[], None),
        ),
        ("intake, no web front end", Action::ExchangeOnBehalfOf, "web", ask("acme", "mail", &[], None)),
        ("import, another tenant", Action::ImportGrant, "migration", ask("umbrella", "mail", &[], None)),
    ];
    let mut text = String::new();
    for (what, action, service, request) in &rows {
        let caller = caller(&format!("spiffe://acme.example/{service}"));
        let verdict = if permits(&authorizer, *action, &caller, request) { "yes" } else { "no" };
        writeln!(text, "{verdict:<4} {service:<11} {:<19} {what}", action.as_str()).unwrap();
    }
    insta::assert_snapshot!("production_borders", text);
}

#[test]
fn minimal_roles_by_action() {
    let request = ask("acme", "mail", &["a"], None);
    let table = matrix(
        MINIMAL,
        &[
            ("app", "spiffe://example.org/app", &request),
            ("operator", "spiffe://example.org/operator", &request),
            ("stranger", "spiffe://example.org/other", &request),
        ],
    );
    insta::assert_snapshot!("minimal_roles_by_action", table);
}

#[test]
fn minimal_borders() {
    let authorizer = Authorizer::load(MINIMAL).unwrap();
    let plain = || ask("acme", "mail", &["a"], None);
    for (id, wanted, expected) in [
        ("spiffe://example.org/app", plain(), true),
        ("spiffe://example.org/app", challenged(plain()), true),
        ("spiffe://example.org/other", challenged(plain()), false),
    ] {
        assert_eq!(permits(&authorizer, Action::GetAccessToken, &caller(id), &wanted), expected, "{id}");
    }
    // Whoever else is permitted to read is not therefore permitted to challenge.
    let more = format!(
        "{MINIMAL}\npermit (principal == Caller::\"spiffe://example.org/other\", action in Action::\"read\", resource);"
    );
    let authorizer = Authorizer::load(&more).unwrap();
    let other = caller("spiffe://example.org/other");
    assert!(permits(&authorizer, Action::GetAccessToken, &other, &plain()));
    assert!(!permits(&authorizer, Action::GetAccessToken, &other, &challenged(plain())));
}

#[test]
fn sample_policies_pass_the_check_without_warnings() {
    for (name, text) in [("policy.cedar", PRODUCTION), ("policy.minimal.cedar", MINIMAL)] {
        let summary = authz::check(text).unwrap();
        assert!(summary.policies > 0, "{name}");
        assert!(summary.warnings.is_empty(), "{name}: {:?}", summary.warnings);
    }
}

#[test]
fn the_schema_beside_the_samples_is_the_one_in_force() {
    assert_eq!(
        include_str!("../deploy/policy.schema.cedarschema"),
        include_str!("../src/authz/schema.cedarschema"),
        "copy src/authz/schema.cedarschema to deploy/policy.schema.cedarschema"
    );
}

/// One line per action, one column per role; each role asks its own request.
fn matrix(policy: &str, roles: &[(&str, &str, &TokenWanted)]) -> String {
    let authorizer = Authorizer::load(policy).unwrap();
    let mut text = format!("{:<20}", "");
    for (role, _, _) in roles {
        write!(text, " {role:<9}").unwrap();
    }
    for action in Action::ALL {
        write!(text, "\n{:<20}", action.as_str()).unwrap();
        for (_, id, request) in roles {
            let cell = if permits(&authorizer, action, &caller(id), request) { "yes" } else { "-" };
            write!(text, " {cell:<9}").unwrap();
        }
    }
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Whether the policy permits the action, with as much of what is wanted as
/// requests of that action name.
fn permits(authorizer: &Authorizer, action: Action, caller: &Caller, full: &TokenWanted) -> bool {
    let wanted = || full.clone();
    let grant = || OneGrant { tenant: full.tenant.clone(), client: full.client.clone() };
    let grants = || GrantsOfTenant { tenant: full.tenant.clone(), client: None };
    let tenant = || OneTenant { tenant: full.tenant.clone() };
    match action {
        Action::GetAccessToken => authorizer.permit::<GetAccessToken>(caller, wanted()).is_ok(),
        Action::ExchangeOnBehalfOf => authorizer.permit::<ExchangeOnBehalfOf>(caller, wanted()).is_ok(),
        Action::ImportGrant => authorizer.permit::<ImportGrant>(caller, wanted()).is_ok(),
        Action::DescribeGrant => authorizer.permit::<DescribeGrant>(caller, grant()).is_ok(),
        Action::ListGrants => authorizer.permit::<ListGrants>(caller, grants()).is_ok(),
        Action::RevokeGrant => authorizer.permit::<RevokeGrant>(caller, grant()).is_ok(),
        Action::CreateTenant => authorizer.permit::<CreateTenant>(caller, tenant()).is_ok(),
        Action::ListTenants => authorizer.permit::<ListTenants>(caller, WholeVault).is_ok(),
        Action::RotateTenantKey => authorizer.permit::<RotateTenantKey>(caller, tenant()).is_ok(),
        Action::DescribeTenantKeys => authorizer.permit::<DescribeTenantKeys>(caller, tenant()).is_ok(),
        Action::ScheduleTenantPurge => authorizer.permit::<ScheduleTenantPurge>(caller, tenant()).is_ok(),
        Action::RestoreTenant => authorizer.permit::<RestoreTenant>(caller, tenant()).is_ok(),
        Action::PurgeTenantNow => authorizer.permit::<PurgeTenantNow>(caller, tenant()).is_ok(),
        Action::RunRotation => authorizer.permit::<RunRotation>(caller, WholeVault).is_ok(),
        Action::DescribeRotation => authorizer.permit::<DescribeRotation>(caller, WholeVault).is_ok(),
    }
}

fn ask(tenant: &str, client: &str, scopes: &[&str], resource: Option<&str>) -> TokenWanted {
    TokenWanted {
        tenant: TenantId::new(tenant).unwrap(),
        client: ClientId::new(client).unwrap(),
        target: Target {
            scopes: ScopeSet::new(scopes).unwrap(),
            resource: resource.map(|uri| Resource::new(uri).unwrap()),
            claims: None,
        },
    }
}

fn challenged(mut wanted: TokenWanted) -> TokenWanted {
    wanted.target.claims = Some(Claims::canonical(r#"{"access_token":{"acrs":null}}"#).unwrap());
    wanted
}

fn caller(id: &str) -> Caller {
    Caller::plain_text(CallerId::new(id).unwrap())
}
