//! `kill -9` during a redemption, many times, at every moment that differs. The
//! grant then works or says that it is in doubt, and when the doubt is over it
//! works or says that it is lost, with the cause.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use obo_vault::app::Ambient;
use obo_vault::clock::ShiftedClock;
use obo_vault::demo::provider::{Fault, Gate};
use obo_vault::demo::stand::{RunningVault, Settings};
use obo_vault::entropy::OsEntropy;
use obo_vault::proto::{self, Grant, GrantState};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::process::PATIENCE;
use crate::world::{TENANT, World, describe, fresh, length, reason, usual};

/// When the process dies.
#[derive(Debug, Clone)]
enum Moment {
    /// The provider has the request and has not looked at it.
    Unspent,
    /// The provider has used the token and not answered.
    Spent,
    /// A file of the vault has grown this often since the call began.
    Grown(&'static str, u32),
    /// The provider has been asked.
    Asked,
    /// The provider has made its answer.
    Answered,
}

/// What each moment left behind, by user.
type Doubts = BTreeMap<String, Moment>;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_redemption_is_never_silently_broken() {
    let mut world = World::new(&Settings::default()).await;
    world.exchange("bystander").await.unwrap();
    let mut doubts = Doubts::new();
    for (round, moment) in moments().into_iter().enumerate() {
        let user = format!("user-{round}");
        world.exchange(&user).await.unwrap();
        let answered = killed(&mut world, &user, &moment).await;
        world.start().await;

        world.token(usual("bystander")).await.unwrap();
        let grant = world.describe(&user).await.unwrap();
        match grant.state() {
            GrantState::Active => {
                assert!(!matches!(moment, Moment::Unspent | Moment::Spent), "{moment:?}: {grant:?}");
                world.token(usual(&user)).await.unwrap_or_else(|e| panic!("{moment:?}: {grant:?}: {e}"));
            }
            GrantState::InDoubt => {
                assert!(!answered, "{moment:?}: a token was handed out before its generation was durable");
                says_so(&world, &grant).await;
                doubts.insert(user, moment);
            }
            _ => panic!("{moment:?}: {grant:?}"),
        }
    }
    assert_eq!(world.provider.stats().reuse_detected, 0, "the vault used an old refresh token");
    world.take().stop().await;
    resolved(&world, &doubts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_enrolment_leaves_what_was_there() {
    let mut world = World::new(&Settings::default()).await;
    world.exchange("ada").await.unwrap();
    for moment in
        [Moment::Spent, Moment::Grown("vault.db-wal", 1), Moment::Answered, Moment::Grown("vault.db-wal", 2)]
    {
        for user in ["ada", "new"] {
            let request = world.exchange_request(user);
            let mut client = world.client("web").await;
            let call = async move { client.grants.exchange_on_behalf_of(request).await.is_ok() };
            killed_while(&mut world, &moment, call).await;
            world.start().await;
        }
        world.token(usual("ada")).await.unwrap_or_else(|e| panic!("{moment:?}: {e}"));
        match world.describe("new").await {
            Ok(_) => drop(world.token(usual("new")).await.unwrap()),
            Err(status) => assert_eq!(reason(&status), "GRANT_NOT_FOUND", "{moment:?}"),
        }
    }
    assert!(!world.exchange("ada").await.unwrap().grant_id.is_empty());
    world.exchange("new").await.unwrap();
    world.token(usual("new")).await.unwrap();
    assert_eq!(world.provider.stats().reuse_detected, 0);
    world.take().stop().await;
}

/// Its caller asks again: the vault sends nothing that may be taken for a theft.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_import_is_found_by_its_callers_retry() {
    let mut world = World::new(&Settings::default()).await;
    let moments =
        [Moment::Unspent, Moment::Spent, Moment::Answered, Moment::Grown("vault.db-wal", 2), Moment::Asked];
    for (round, moment) in moments.into_iter().enumerate() {
        let user = format!("user-{round}");
        // Only an ID token is kept beside a refresh token.
        let scopes = ["mail.read", "offline_access", "openid"];
        let request = proto::ImportGrantRequest {
            tenant: TENANT.into(),
            subject: user.clone(),
            client: "portal".into(),
            imported_token: world.provider.mint_refresh_token("vault", &user, &scopes),
            ..Default::default()
        };
        let (mut client, first) = (world.client("web").await, request.clone());
        let call = async move { client.grants.import_grant(first).await.is_ok() };
        killed_while(&mut world, &moment, call).await;
        world.start().await;

        let asked = world.provider.stats().token_requests;
        for _ in 0..2 {
            match world.client("web").await.grants.import_grant(request.clone()).await {
                Ok(_) => {
                    assert!(!matches!(moment, Moment::Unspent | Moment::Spent), "{moment:?}");
                    world.token(usual(&user)).await.unwrap();
                }
                Err(refused) => {
                    assert_eq!(reason(&refused), "GRANT_IN_DOUBT", "{moment:?}");
                    let retry = refused.get_details_retry_info().and_then(|info| info.retry_delay).unwrap();
                    assert!(retry > Duration::from_secs(60), "{moment:?}: {retry:?}");
                    assert_eq!(world.provider.stats().token_requests, asked, "{moment:?}");
                }
            }
        }
        assert!(world.provider.family_alive(&user), "{moment:?}");
        assert_eq!(world.provider.stats().reuse_detected, 0, "{moment:?}");
    }
    assert_eq!(world.provider.stats().revocations, 0);
    world.take().stop().await;
}

fn moments() -> Vec<Moment> {
    let mut moments = Vec::new();
    for _ in 0..3 {
        moments.extend([Moment::Unspent, Moment::Spent, Moment::Asked, Moment::Answered]);
        moments.extend((1..=4).map(|times| Moment::Grown("vault.db-wal", times)));
        moments.extend((1..=3).map(|times| Moment::Grown("audit.jsonl", times)));
    }
    assert!(moments.len() >= 30);
    moments
}

/// Kills the vault at that moment of a redemption; whether the caller had the
/// token by then.
async fn killed(world: &mut World, user: &str, moment: &Moment) -> bool {
    let (mut client, request) = (world.client("mail").await, fresh(user));
    let call = async move { client.tokens.get_access_token(request).await.is_ok() };
    killed_while(world, moment, call).await
}

async fn killed_while(
    world: &mut World,
    moment: &Moment,
    call: impl Future<Output = bool> + Send + 'static,
) -> bool {
    let gate = Gate::new();
    match moment {
        Moment::Unspent => world.provider.script(Fault::Hang { consume: false, gate: gate.clone() }, 1),
        Moment::Spent => world.provider.script(Fault::Hang { consume: true, gate: gate.clone() }, 1),
        Moment::Grown(..) | Moment::Asked | Moment::Answered => {}
    }
    let before = world.provider.stats();
    let path = match moment {
        Moment::Grown(name, _) => world.file(name),
        Moment::Unspent | Moment::Spent | Moment::Asked | Moment::Answered => PathBuf::new(),
    };
    let mut seen = length(&path);
    let mut call = tokio::spawn(call);
    let come = async {
        match moment {
            Moment::Unspent | Moment::Spent => gate.reached(1).await,
            Moment::Asked => until(|| world.provider.stats().token_requests > before.token_requests).await,
            Moment::Answered => {
                until(|| {
                    let now = world.provider.stats();
                    (now.refreshes, now.obo_exchanges) != (before.refreshes, before.obo_exchanges)
                })
                .await;
            }
            Moment::Grown(_, times) => {
                for _ in 0..*times {
                    until(|| length(&path) != seen).await;
                    seen = length(&path);
                }
            }
        }
    };
    let early = tokio::select! {
        () = come => None,
        answered = &mut call => Some(answered.unwrap()),
    };
    world.take().kill();
    world.provider.clear_script();
    match early {
        Some(answered) => answered,
        None => call.await.unwrap(),
    }
}

/// A grant in doubt names the cause, and its callers are told when to come
/// again.
async fn says_so(world: &World, grant: &Grant) {
    assert_eq!(grant.cause, "owner_died");
    assert!(grant.probe_after_time.is_some());
    let refused = world.token(usual(&grant.subject)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::Unavailable, "GRANT_IN_DOUBT".to_owned()));
    let retry = refused.get_details_retry_info().and_then(|info| info.retry_delay).unwrap();
    assert!(retry > Duration::from_secs(60), "{retry:?} is before the hard limit of the lost request");
}

/// Opens the files in this process, where the clock can be moved, and looks how
/// the outcomes are known.
async fn resolved(world: &World, doubts: &Doubts) {
    let clock = Arc::new(ShiftedClock::new());
    clock.advance(Duration::from_secs(600));
    let ambient = Ambient { clock, entropy: OsEntropy::shared() };
    let vault = RunningVault::start(&world.files, ambient).await.unwrap();
    let mut auditor = vault.client(&world.files, "auditor").await.unwrap();
    let mut mail = vault.client(&world.files, "mail").await.unwrap();
    let mut lost = 0;
    for (user, moment) in doubts {
        let grant = tokio::time::timeout(PATIENCE, settled(&mut auditor, user)).await.unwrap();
        match grant.state() {
            GrantState::Active => {
                assert!(!matches!(moment, Moment::Spent), "{moment:?}: {grant:?}");
                mail.tokens.get_access_token(usual(user)).await.unwrap();
                assert!(world.provider.family_alive(user), "{moment:?}");
            }
            GrantState::Lost => {
                assert!(!matches!(moment, Moment::Unspent), "{moment:?}: {grant:?}");
                assert_eq!(grant.cause, "owner_died");
                let refused = mail.tokens.get_access_token(usual(user)).await.unwrap_err();
                assert_eq!(reason(&refused), "GRANT_LOST");
                lost += 1;
            }
            _ => panic!("{moment:?}: {grant:?}"),
        }
    }
    // Only where the answer was lost did a probe meet the detection of reuse.
    assert_eq!(world.provider.stats().reuse_detected, lost);
    assert!(lost >= 3 && doubts.len() >= 6, "the rounds did not meet their moments: {doubts:?}");
    vault.stop().await.unwrap();
}

async fn settled(auditor: &mut obo_vault::client::Client, user: &str) -> Grant {
    loop {
        let grant = describe(auditor, user).await.unwrap();
        if !matches!(grant.state(), GrantState::InDoubt | GrantState::Sending) {
            return grant;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until(come: impl Fn() -> bool) {
    while !come() {
        tokio::task::yield_now().await;
    }
}
