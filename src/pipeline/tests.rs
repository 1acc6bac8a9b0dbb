use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};

use super::*;
use crate::audit::Durability;
use crate::authz::permit::{CreateTenant, ExchangeOnBehalfOf, GetAccessToken, RevokeGrant};
use crate::authz::resource::{OneGrant, OneTenant, TokenWanted};
use crate::clock::SystemClock;
use crate::domain::action::Action;
use crate::domain::id::{CallerId, ClientId, TenantId};

struct World {
    pipeline: Arc<Pipeline>,
    directory: tempfile::TempDir,
}

impl World {
    fn new(policy: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("audit.jsonl");
        let audit = AuditLog::open(&file, Durability::Os, SystemClock::shared()).unwrap();
        let authorizer = Arc::new(Authorizer::load(policy).unwrap());
        let pipeline = Pipeline::new(authorizer, Arc::new(audit), Arc::default(), "run".into());
        Self { pipeline: Arc::new(pipeline), directory }
    }

    fn context(&self, id: &str) -> RequestContext {
        let caller = Caller::plain_text(CallerId::new("spiffe://acme/mail").unwrap());
        self.pipeline.context(Ok(caller), Some(id))
    }

    fn nobody(&self, id: &str) -> RequestContext {
        let failure = Failure::new(Reason::CallerUnidentified, "no certificate and no token");
        self.pipeline.context(Err(failure), Some(id))
    }

    /// The kind, action and outcome of a request's entries, once all that was
    /// appended is in the file.
    async fn entries(&self, id: &str) -> Vec<Value> {
        self.pipeline.audit.record(Entry::event("end")).await.unwrap();
        let log = std::fs::read_to_string(self.directory.path().join("audit.jsonl")).unwrap();
        let entries = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let entries = entries.filter(|entry| entry["request_id"] == id);
        entries.map(|entry| json!([entry["kind"], entry["action"], entry["outcome"]])).collect()
    }
}

const ALL: &str = "permit(principal, action, resource);";

fn acme() -> OneTenant {
    OneTenant { tenant: TenantId::new("acme").unwrap() }
}

fn grant() -> OneGrant {
    OneGrant { tenant: acme().tenant, client: ClientId::new("mail").unwrap() }
}

fn wanted() -> TokenWanted {
    TokenWanted { tenant: acme().tenant, client: grant().client, target: Target::default() }
}

fn invalid() -> Failure {
    Failure::new(Reason::InvalidRequest, "a rule")
}

#[tokio::test]
async fn what_is_recorded_is_the_action_of_the_permit() {
    let world = World::new(ALL);
    let convert = || Ok(Call::<CreateTenant, _>::new(acme(), 7));
    let done = world.pipeline.call(world.context("a"), convert, |permit, seven, origin| async move {
        assert_eq!((permit.action(), permit.tenant().as_str()), (Action::CreateTenant, "acme"));
        assert_eq!(origin.request_id, "a");
        Ok(seven)
    });
    assert_eq!(done.await.unwrap(), 7);
    let expected = [json!(["request", "CreateTenant", null]), json!(["outcome", "CreateTenant", "OK"])];
    assert_eq!(world.entries("a").await, expected);

    let convert = || Ok(Call::<RevokeGrant, _>::new(grant(), ()));
    let failed = world.pipeline.call(world.context("b"), convert, |_permit, (), _origin| async {
        Err::<(), _>(Failure::new(Reason::GrantNotFound, "gone"))
    });
    let refused = failed.await.unwrap_err();
    assert_eq!((refused.failure().reason(), refused.request_id()), (Reason::GrantNotFound, "b"));
    let expected =
        [json!(["request", "RevokeGrant", null]), json!(["outcome", "RevokeGrant", "GRANT_NOT_FOUND"])];
    assert_eq!(world.entries("b").await, expected);
}

#[tokio::test]
async fn nobody_learns_nothing_and_makes_nothing_begin() {
    let world = World::new(ALL);
    let begun = AtomicBool::new(false);
    let convert = || {
        begun.store(true, Ordering::Relaxed);
        Err(invalid())
    };
    let refused = exchange(&world, world.nobody("a"), convert).await.unwrap_err();
    assert_eq!(refused.failure().reason(), Reason::CallerUnidentified);
    assert_eq!(world.entries("a").await, [json!(["outcome", "ExchangeOnBehalfOf", "CALLER_UNIDENTIFIED"])]);
    let convert = || {
        begun.store(true, Ordering::Relaxed);
        Err::<Call<GetAccessToken, ()>, _>(invalid())
    };
    let refused = quick(&world, world.nobody("b"), convert).await.unwrap_err();
    assert_eq!(refused.failure().reason(), Reason::CallerUnidentified);
    assert!(!begun.load(Ordering::Relaxed), "a stranger's request was looked at");
}

#[tokio::test]
async fn a_request_that_cannot_be_converted_is_recorded_under_its_action() {
    let world = World::new(ALL);
    let convert = || Err::<Call<GetAccessToken, ()>, _>(invalid());
    let refused = quick(&world, world.context("a"), convert).await.unwrap_err();
    assert_eq!(refused.failure().reason(), Reason::InvalidRequest);
    assert_eq!(world.entries("a").await, [json!(["outcome", "GetAccessToken", "INVALID_REQUEST"])]);
}

#[tokio::test]
async fn what_is_denied_is_recorded_and_not_done() {
    let world = World::new("");
    let done = Arc::new(AtomicBool::new(false));
    let (convert, doing) = (|| Ok(Call::<RevokeGrant, _>::new(grant(), ())), Arc::clone(&done));
    let denied = world.pipeline.call(world.context("a"), convert, |_permit, (), _origin| async move {
        doing.store(true, Ordering::Relaxed);
        Ok(())
    });
    assert_eq!(denied.await.unwrap_err().failure().reason(), Reason::NotPermitted);
    let denied = quick(&world, world.context("b"), || Ok(Call::new(wanted(), ()))).await.unwrap_err();
    assert_eq!(denied.failure().reason(), Reason::NotPermitted);
    assert!(!done.load(Ordering::Relaxed));
    for (id, action) in [("a", "RevokeGrant"), ("b", "GetAccessToken")] {
        assert_eq!(world.entries(id).await, [json!(["outcome", action, "NOT_PERMITTED"])]);
    }
}

#[tokio::test]
async fn who_may_nothing_learns_nothing_else() {
    let world = World::new("");
    let refused = quick(&world, world.context("a"), || Err(invalid())).await.unwrap_err();
    assert_eq!(refused.failure().reason(), Reason::NotPermitted, "not what is wrong with a field");
    let refused = exchange(&world, world.context("b"), || Err(invalid())).await.unwrap_err();
    assert_eq!(refused.failure().reason(), Reason::NotPermitted);
    let claiming = Claiming { client: grant().client, target: Target::default(), request: () };
    let refused = exchange(&world, world.context("c"), || Ok(claiming)).await.unwrap_err();
    assert_eq!(refused.failure().reason(), Reason::NotPermitted, "not what is wrong with its claims");
}

/// What a caller without rights sends, however much of it.
#[tokio::test]
async fn a_flood_of_denied_calls_costs_a_few_short_lines_and_takes_nobody_elses() {
    let world = World::new(r#"permit(principal == Caller::"spiffe://acme/mail", action, resource);"#);
    let scopes: Vec<String> = (0..64).map(|n| format!("{n:->490}")).collect();
    let target = || Target { scopes: ScopeSet::new(&scopes).unwrap(), ..Target::default() };
    let file = world.directory.path().join("audit.jsonl");
    let before = std::fs::metadata(&file).unwrap().len();
    let stranger = || Caller::plain_text(CallerId::new("spiffe://acme/stranger").unwrap());
    for n in 0..1000 {
        let context = world.pipeline.context(Ok(stranger()), Some(&format!("s-{n}")));
        let asked = || Ok(Call::new(TokenWanted { target: target(), ..wanted() }, ()));
        let denied = quick(&world, context, asked).await.unwrap_err();
        assert_eq!(denied.failure().reason(), Reason::NotPermitted);
        if n % 100 == 0 {
            let id = format!("own-{n}");
            let convert = || Ok(Call::<CreateTenant, _>::new(acme(), ()));
            let own = world.pipeline.call(world.context(&id), convert, |_, (), _| async { Ok(()) });
            own.await.unwrap();
            assert_eq!(world.entries(&id).await.len(), 2);
        }
    }
    let grown = std::fs::metadata(&file).unwrap().len() - before;
    assert!(grown < 30_000, "{grown} bytes for calls of 31,000 bytes each");
    assert_eq!(world.entries("s-9").await.len(), 1);
    assert_eq!(world.entries("s-10").await.len(), 0);
    let metrics = world.pipeline.metrics.render();
    let counted = "obo_vault_calls_total{action=\"GetAccessToken\",reason=\"NOT_PERMITTED\"} 1000";
    assert!(metrics.contains(counted), "{metrics}");
    drop(world.pipeline);
    let log = std::fs::read_to_string(&file).unwrap();
    assert!(log.contains(r#""count":990"#) && !log.contains("----"), "{log}");
    crate::audit::verify(&file, None).unwrap();
}

#[tokio::test]
async fn a_callers_request_id_is_taken_over_when_it_is_harmless() {
    let world = World::new(ALL);
    assert_eq!(world.context("req-7.of_mine").request_id, "req-7.of_mine");
    let ids = ["two words", "\"", "", &"x".repeat(65)].map(|id| world.context(id).request_id);
    assert_eq!(ids, ["run-0", "run-1", "run-2", "run-3"]);
}

struct Nothing;

impl Kept for Nothing {
    fn granted(&self) -> Option<&ScopeSet> {
        None
    }
}

/// An exchange whose claims are wrong and whose verification panics.
async fn exchange(
    world: &World,
    context: RequestContext,
    convert: impl FnOnce() -> Result<Claiming<()>, Failure> + Send,
) -> Result<(), Refused> {
    let claim = |_: &ClientId, (): &()| Err(Failure::new(Reason::ClientNotFound, "no such client"));
    let verify = |_permit: Permit<ExchangeOnBehalfOf>, ()| async { panic!("verified") };
    let work = |_permit, (), _origin| async { Ok(()) };
    world.pipeline.call_verified::<_, _, (), _, _, _>(context, convert, claim, verify, work).await
}

/// A call that panics when its work is begun.
async fn quick(
    world: &World,
    context: RequestContext,
    convert: impl FnOnce() -> Result<Call<GetAccessToken, ()>, Failure>,
) -> Result<(), Refused> {
    let work = |_permit, (), _origin| async { panic!("begun") };
    world.pipeline.call_quickly::<_, _, (), Nothing, _>(context, convert, work).await
}
