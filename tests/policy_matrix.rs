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
use obo_vault::authz::{self, Authorizer, Request};
use obo_vault::domain::action::Action;
use obo_vault::domain::id::{CallerId, ClientId, TenantId};
use obo_vault::domain::scope::{Resource, ScopeSet};

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
    let rows: [(&str, Action, &str, Request); 16] = [
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
fn matrix(policy: &str, roles: &[(&str, &str, &Request)]) -> String {
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

/// Whether the policy permits the action, with as much of the request as the
/// door would hand on for it.
fn permits(authorizer: &Authorizer, action: Action, caller: &Caller, full: &Request) -> bool {
    let of_client = || full.clone();
    let of_tenant = || Request { tenant: full.tenant.clone(), ..Request::default() };
    let of_vault = Request::default;
    match action {
        Action::GetAccessToken => authorizer.permit::<GetAccessToken>(caller, of_client()).is_ok(),
        Action::ExchangeOnBehalfOf => authorizer.permit::<ExchangeOnBehalfOf>(caller, of_client()).is_ok(),
        Action::ImportGrant => authorizer.permit::<ImportGrant>(caller, of_client()).is_ok(),
        Action::DescribeGrant => authorizer.permit::<DescribeGrant>(caller, of_client()).is_ok(),
        Action::ListGrants => authorizer.permit::<ListGrants>(caller, of_tenant()).is_ok(),
        Action::RevokeGrant => authorizer.permit::<RevokeGrant>(caller, of_client()).is_ok(),
        Action::CreateTenant => authorizer.permit::<CreateTenant>(caller, of_tenant()).is_ok(),
        Action::ListTenants => authorizer.permit::<ListTenants>(caller, of_vault()).is_ok(),
        Action::RotateTenantKey => authorizer.permit::<RotateTenantKey>(caller, of_tenant()).is_ok(),
        Action::DescribeTenantKeys => authorizer.permit::<DescribeTenantKeys>(caller, of_tenant()).is_ok(),
        Action::ScheduleTenantPurge => authorizer.permit::<ScheduleTenantPurge>(caller, of_tenant()).is_ok(),
        Action::RestoreTenant => authorizer.permit::<RestoreTenant>(caller, of_tenant()).is_ok(),
        Action::PurgeTenantNow => authorizer.permit::<PurgeTenantNow>(caller, of_tenant()).is_ok(),
        Action::RunRotation => authorizer.permit::<RunRotation>(caller, of_vault()).is_ok(),
        Action::DescribeRotation => authorizer.permit::<DescribeRotation>(caller, of_vault()).is_ok(),
    }
}

fn ask(tenant: &str, client: &str, scopes: &[&str], resource: Option<&str>) -> Request {
    Request {
        tenant: Some(TenantId::new(tenant).unwrap()),
        client: Some(ClientId::new(client).unwrap()),
        scopes: ScopeSet::new(scopes).unwrap(),
        resource: resource.map(|uri| Resource::new(uri).unwrap()),
    }
}

fn caller(id: &str) -> Caller {
    Caller::plain_text(CallerId::new(id).unwrap())
}
