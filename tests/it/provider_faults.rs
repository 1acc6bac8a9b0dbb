//! A provider that fails: what the caller is told, that no token is lost that
//! need not be, and that a lost one is called lost.
//!
//! At a strict provider most failures leave an unknown outcome, which the vault resolves by
//! itself once a forgotten request can do no harm.

use std::time::Duration;

use obo_vault::demo::provider::{Fault, Options};
use obo_vault::demo::stand::Settings;
use obo_vault::domain::profile::Reuse;
use obo_vault::proto::GrantState;
use tonic::Code;

use crate::harness::{Stand, TOKENS_EXPIRED, eventually};
use crate::refusal::{Refusal, Refused as _};
use crate::relay::Relay;

/// Past every pause that follows a failure.
const BACKED_OFF: Duration = Duration::from_secs(11);

/// Past the moment from which an unknown outcome may be probed.
const PROBE_IS_DUE: Duration = Duration::from_secs(130);

const GRACE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_tokens_is_an_unknown_outcome_that_is_resolved_when_nothing_was_used() {
    let faults = [
        Fault::EmptyBody400,
        Fault::Html { status: 200, consumes: false },
        Fault::Html { status: 500, consumes: false },
        Fault::Redirect,
        Fault::CloseBeforeAnswer { consume: false },
        Fault::error(400, "invalid_request"),
        Fault::error(401, "invalid_client"),
        Fault::error(500, "invalid_grant"),
        Fault::throttled(None),
    ];
    let (stand, users) = expired(Stand::new().await, faults.len()).await;
    for (user, fault) in users.iter().zip(&faults) {
        stand.provider.script(fault.clone(), 1);
        let refusal = stand.token(user).await.refused();
        let expected = if matches!(fault, Fault::Status { status: 429, .. }) {
            "PROVIDER_THROTTLED"
        } else {
            "GRANT_IN_DOUBT"
        };
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unavailable, expected), "{fault:?}");
        assert!(refusal.retry.is_some(), "{fault:?}");
        assert_eq!(stand.describe(user).await.state(), GrantState::InDoubt, "{fault:?}");
    }
    assert_eq!(stand.provider.stats().redirects_followed, 0);

    stand.advance(PROBE_IS_DUE);
    for (user, fault) in users.iter().zip(&faults) {
        let grant = stand.until(user, GrantState::Active).await;
        assert_eq!(grant.generation, 2, "{fault:?}");
        stand.token(user).await.unwrap();
        assert!(stand.provider.family_alive(user), "{fault:?}");
    }
    assert_eq!(stand.provider.stats().reuse_detected, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_an_unknown_outcome_until_the_provider_has_been_asked_in_good_time() {
    let (stand, _) = expired(Stand::new().await, 1).await;
    stand.expect_reuse();
    stand.provider.script(Fault::CloseBeforeAnswer { consume: true }, 1);
    let asked = stand.provider.stats().token_requests + 1;
    let first = stand.token("user-0").await.refused();
    assert_in_doubt(&first, 120..=130);

    // Nobody asks the provider before it is safe, however often a token is
    // wanted; what was remembered of the refusal is long forgotten.
    stand.advance(Duration::from_secs(100));
    for _ in 0..3 {
        assert_in_doubt(&stand.token("user-0").await.refused(), 20..=30);
    }
    let grant = stand.describe("user-0").await;
    assert_eq!((grant.state(), grant.cause.as_str()), (GrantState::InDoubt, "interrupted"));
    assert!(grant.probe_after_time.is_some());
    assert_eq!(stand.provider.stats().token_requests, asked);

    // The vault asks by itself. The provider takes it for a theft.
    stand.advance(Duration::from_secs(30));
    let grant = stand.until("user-0", GrantState::Lost).await;
    assert_eq!((grant.cause.as_str(), grant.generation), ("interrupted", 1));
    let stats = stand.provider.stats();
    assert_eq!((stats.token_requests, stats.reuse_detected), (asked + 1, 1));

    let refusal = stand.token("user-0").await.refused();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "GRANT_LOST"));
    assert_eq!(refusal.retry, None);
    stand.advance(TOKENS_EXPIRED);
    assert_eq!(stand.token("user-0").await.refused().reason, "GRANT_LOST");
    assert_eq!(stand.provider.stats().token_requests, asked + 1, "a dead grant is not tried again");

    assert_eq!(stand.grant("user-0").await.generation, 2);
    assert!(stand.token("user-0").await.unwrap().from_cache);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_spoiled_answer_that_used_the_token_ends_as_lost_at_a_strict_provider() {
    let faults = [
        Fault::HalfBody { consume: true },
        Fault::Html { status: 200, consumes: true },
        Fault::Html { status: 500, consumes: true },
    ];
    let (stand, users) = expired(Stand::new().await, faults.len()).await;
    stand.expect_reuse();
    for (user, fault) in users.iter().zip(&faults) {
        stand.provider.script(fault.clone(), 1);
        assert_in_doubt(&stand.token(user).await.refused(), 120..=130);
    }
    stand.advance(PROBE_IS_DUE);
    for user in &users {
        stand.until(user, GrantState::Lost).await;
        assert_eq!(stand.token(user).await.refused().reason, "GRANT_LOST");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grace_window_brings_a_lost_token_back() {
    let options = Options { reuse: Reuse::Grace { window: GRACE }, ..Options::default() };
    let profile = "profile = \"grace\"\ngrace_seconds = 30\nmulti_resource = true".to_owned();
    let stand = Stand::with(options, Settings { profile, ..Settings::default() }).await;
    let faults = [
        Fault::CloseBeforeAnswer { consume: true },
        Fault::HalfBody { consume: true },
        Fault::Html { status: 500, consumes: true },
    ];
    let (stand, users) = expired(stand, faults.len()).await;
    for (user, fault) in users.iter().zip(&faults) {
        stand.provider.script(fault.clone(), 1);
        // A second later it may be tried again, within the window.
        assert_in_doubt(&stand.token(user).await.refused(), 0..=1);
    }
    for user in &users {
        assert_eq!(stand.until(user, GrantState::Active).await.generation, 2);
        // What the probe brought is served, once the refusal is forgotten.
        eventually("a token again", async || stand.token_with(user, |r| r.scopes.clear()).await.ok()).await;
    }
    // The next redemption waits until the forgotten request cannot come any more.
    stand.advance(PROBE_IS_DUE);
    for user in &users {
        assert!(!stand.token(user).await.unwrap().from_cache);
        assert!(stand.provider.family_alive(user));
    }
    assert_eq!(stand.provider.stats().reuse_detected, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_tolerant_provider_the_next_try_just_works() {
    let options = Options { reuse: Reuse::Tolerated, ..Options::default() };
    let settings = Settings { profile: "profile = \"tolerant\"".into(), ..Settings::default() };
    let faults = [
        (Fault::CloseBeforeAnswer { consume: true }, "PROVIDER_UNAVAILABLE"),
        (Fault::HalfBody { consume: true }, "PROVIDER_UNAVAILABLE"),
        (Fault::Html { status: 500, consumes: true }, "PROVIDER_UNAVAILABLE"),
        (Fault::EmptyBody400, "PROVIDER_REFUSED"),
        (Fault::error(401, "invalid_client"), "PROVIDER_REJECTED_CLIENT"),
        (Fault::throttled(None), "PROVIDER_THROTTLED"),
    ];
    let (stand, users) = expired(Stand::with(options, settings).await, faults.len()).await;
    for (user, (fault, reason)) in users.iter().zip(&faults) {
        stand.provider.script(fault.clone(), 1);
        assert_eq!(stand.token(user).await.refused().reason, *reason, "{fault:?}");
        assert_eq!(stand.describe(user).await.state(), GrantState::Active, "{fault:?}");
    }
    stand.advance(BACKED_OFF);
    for user in &users {
        assert!(!stand.token(user).await.unwrap().from_cache);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pause_a_provider_asks_for_is_kept() {
    let profile = "profile = \"strict\"\nthrottle_proves_unused = true\nmulti_resource = true".to_owned();
    let stand = Stand::with(Options::default(), Settings { profile, ..Settings::default() }).await;
    let (stand, users) = expired(stand, 3).await;
    let unavailable = Fault::Status {
        status: 503,
        error: None,
        suberror: None,
        claims: None,
        retry_after: Some(60),
        body: None,
        content_type: None,
        consumes: false,
    };
    let faults = [(Fault::throttled(Some(60)), 60), (unavailable, 60), (Fault::throttled(None), 5)];
    for (user, (fault, pause)) in users.iter().zip(&faults) {
        stand.provider.script(fault.clone(), 1);
        let refusal = stand.token(user).await.refused();
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unavailable, "PROVIDER_THROTTLED"));
        assert_eq!(refusal.retry, Some(Duration::from_secs(*pause)));
        assert_eq!(stand.describe(user).await.state(), GrantState::Active);
    }
    let asked = stand.provider.stats().token_requests;
    stand.advance(Duration::from_secs(30));
    for user in &users[..2] {
        let refusal = stand.token(user).await.refused();
        assert_eq!(refusal.code, Code::Unavailable);
        let left = refusal.retry.unwrap().as_secs();
        assert!((20..=30).contains(&left), "{left} of 60 seconds are left");
    }
    assert_eq!(stand.provider.stats().token_requests, asked);
    assert!(!stand.token(&users[2]).await.unwrap().from_cache, "its own pause was shorter");
    stand.advance(Duration::from_secs(31));
    for user in &users[..2] {
        stand.token(user).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_down_costs_nothing() {
    let mut relay = None;
    let mut stand = Stand::unstarted(Options::default(), Settings::default(), |_| ()).await;
    let config = std::fs::read_to_string(stand.files.config()).unwrap();
    let to = stand.provider.issuer().replace("http://", "");
    let line = relay.insert(Relay::up_to(&to).await);
    let through = format!("token_endpoint = \"http://{}/token\"", line.address());
    let direct = format!("token_endpoint = \"{}\"", stand.provider.token_endpoint());
    assert!(config.contains(&direct));
    std::fs::write(stand.files.config(), config.replace(&direct, &through)).unwrap();
    stand.start().await;
    let (stand, users) = expired(stand, 1).await;
    let user = &users[0];

    line.down().await;
    let asked = stand.provider.stats().token_requests;
    for _ in 0..2 {
        let refusal = stand.token(user).await.refused();
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unavailable, "PROVIDER_UNAVAILABLE"));
        assert!(refusal.retry.is_some());
    }
    let grant = stand.describe(user).await;
    assert_eq!(
        (grant.state(), grant.generation),
        (GrantState::Active, 1),
        "no byte was sent, so no unknown outcome"
    );

    line.up().await;
    assert_eq!(stand.token(user).await.refused().reason, "PROVIDER_UNAVAILABLE", "it backs off");
    assert_eq!(stand.provider.stats().token_requests, asked);
    stand.advance(BACKED_OFF);
    assert!(!stand.token(user).await.unwrap().from_cache);
    assert_eq!(stand.describe(user).await.generation, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_without_a_refresh_token_keeps_the_one_there_is() {
    let (stand, _) = expired(Stand::new().await, 1).await;
    for fault in [Fault::NoRefreshToken, Fault::NullRefreshToken, Fault::EmptyRefreshToken] {
        stand.provider.script(fault.clone(), 1);
        assert!(!stand.token("user-0").await.unwrap().from_cache);
        let grant = stand.describe("user-0").await;
        assert_eq!((grant.state(), grant.generation), (GrantState::Active, 1), "{fault:?}");
        stand.advance(TOKENS_EXPIRED);
    }
    stand.token("user-0").await.unwrap();
    assert_eq!(stand.describe("user-0").await.generation, 2);
    assert_eq!(stand.provider.stats().reuse_detected, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_that_cannot_be_read_is_no_reason_to_lose_the_refresh_token() {
    let faults = [
        (Fault::ExpiresInText, 3590..=3605),
        (Fault::ExpiresInFloat, 3590..=3605),
        // Five minutes are taken for granted where the answer says nothing.
        (Fault::ExpiresInGarbage, 290..=305),
        (Fault::ExpiresInMissing, 290..=305),
        (Fault::OddScopeOrder, 3590..=3605),
    ];
    let (stand, users) = expired(Stand::new().await, faults.len()).await;
    for (user, (fault, life)) in users.iter().zip(faults) {
        stand.provider.script(fault.clone(), 1);
        let before = seconds_now(&stand);
        let answer = stand.token(user).await.unwrap();
        let lives = answer.expire_time.unwrap().seconds - before;
        assert!(life.contains(&lives), "{fault:?}: {lives} s");
        assert_eq!(stand.describe(user).await.generation, 2, "{fault:?}");
    }
    stand.advance(TOKENS_EXPIRED);
    for user in &users {
        stand.token(user).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_without_a_usable_access_token_still_renews_the_grant() {
    // The oversized one breaks off after its refresh token.
    let faults = [Fault::NoAccessToken, Fault::OversizedBody];
    let (stand, users) = expired(Stand::new().await, faults.len()).await;
    for (user, fault) in users.iter().zip(&faults) {
        stand.provider.script(fault.clone(), 1);
        let refusal = stand.token(user).await.refused();
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::Unavailable, "NO_ACCESS_TOKEN"),
            "{fault:?}"
        );
        assert!(refusal.retry.is_some(), "{fault:?}");
        let grant = stand.describe(user).await;
        assert_eq!((grant.state(), grant.generation), (GrantState::Active, 2), "{fault:?}");
        stand.token(user).await.unwrap();
        assert!(stand.provider.family_alive(user), "{fault:?}");
    }
    assert_eq!(stand.provider.stats().reuse_detected, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_token_is_handed_out_while_its_grant_is_in_doubt() {
    let stand = Stand::new().await;
    stand.expect_reuse();
    stand.tenant().await;
    stand.grant("ada").await;
    let living = stand.token("ada").await.unwrap();
    stand.advance(Duration::from_secs(2600));
    stand.provider.script(Fault::CloseBeforeAnswer { consume: true }, 1);
    assert!(stand.token("ada").await.unwrap().from_cache, "this asks for a refresh ahead");
    stand.until("ada", GrantState::InDoubt).await;
    let asked = stand.provider.stats().token_requests;

    // Also when a longer lifetime is wanted than it has; and nobody probes
    // meanwhile, since that might take the token away from those who use it.
    stand.advance(Duration::from_secs(500));
    for _ in 0..2 {
        let ten_minutes = prost_types::Duration { seconds: 600, nanos: 0 };
        let answer = stand.token_with("ada", |r| r.min_remaining_life = Some(ten_minutes)).await.unwrap();
        assert!(answer.from_cache);
        assert_eq!(answer.access_token, living.access_token);
    }
    let other = stand.token_with("ada", |r| r.scopes = vec!["files.read".into()]).await.refused();
    assert_in_doubt(&other, 150..=200);
    assert_eq!(stand.provider.stats().token_requests, asked);

    // It is nearly over.
    stand.advance(Duration::from_secs(250));
    stand.until("ada", GrantState::Lost).await;
    // Proven dead, it leaves memory at once.
    assert_eq!(stand.token("ada").await.refused().reason, "GRANT_LOST");
}

/// A user's answer is in doubt, for about so many seconds.
#[track_caller]
fn assert_in_doubt(refusal: &Refusal, seconds: std::ops::RangeInclusive<u64>) {
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unavailable, "GRANT_IN_DOUBT"));
    let retry = refusal.retry.unwrap();
    assert!(seconds.contains(&retry.as_secs()), "{retry:?}");
}

/// Grants of so many users whose access tokens have expired.
async fn expired(stand: Stand, users: usize) -> (Stand, Vec<String>) {
    stand.tenant().await;
    let users: Vec<String> = (0..users).map(|number| format!("user-{number}")).collect();
    for user in &users {
        stand.grant(user).await;
    }
    stand.advance(TOKENS_EXPIRED);
    (stand, users)
}

fn seconds_now(stand: &Stand) -> i64 {
    use obo_vault::clock::Clock as _;
    stand.clock.now().unix_seconds()
}
