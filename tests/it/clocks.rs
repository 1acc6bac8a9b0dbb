//! Clocks that are set, as an operator or a time server does: no lifetime gets
//! longer, and no wait ends that must not.

use std::time::Duration;

use obo_vault::clock::Clock as _;
use obo_vault::demo::provider::{Fault, Options};
use obo_vault::demo::stand::Settings;
use obo_vault::proto::{GetAccessTokenResponse, GrantState};

use crate::harness::{Stand, TOKENS_EXPIRED, eventually};
use crate::refusal::Refused as _;

const HOUR: Duration = Duration::from_secs(3600);

async fn stand(token_lifetime: Duration) -> Stand {
    let options = Options { access_token_lifetime: token_lifetime, ..Options::default() };
    let stand = Stand::with(options, Settings::default()).await;
    stand.tenant().await;
    stand.grant("ada").await;
    stand
}

fn expires(token: &GetAccessTokenResponse) -> i64 {
    token.expire_time.unwrap().seconds
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_not_brought_back_by_a_clock_that_is_set_back() {
    let stand = stand(Duration::from_secs(25)).await;
    let old = stand.token("ada").await.unwrap();
    stand.clock.set_wall_back(HOUR);
    // Still good, and its end is told by the clock as it goes now.
    let now = stand.clock.now().unix_seconds();
    let same = stand.token("ada").await.unwrap();
    if same.access_token == old.access_token {
        assert!(expires(&same) <= now + 26, "{} at {now}", expires(&same));
    }
    stand.advance(Duration::from_secs(30));
    let new = stand.token("ada").await.unwrap();
    assert!(!new.from_cache, "an expired token was handed out");
    assert_ne!(new.access_token, old.access_token);
    let now = stand.clock.now().unix_seconds();
    assert!((now..=now + 26).contains(&expires(&new)), "{} at {now}", expires(&new));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_ahead_costs_a_request_and_nothing_else() {
    let stand = stand(HOUR).await;
    let old = stand.token("ada").await.unwrap();
    assert!(old.from_cache);
    stand.clock.set_wall_ahead(2 * HOUR);
    let new = stand.token("ada").await.unwrap();
    assert!(!new.from_cache, "by the wall clock it has expired");
    // And back again: what was fetched meanwhile lives its hour and no longer.
    stand.clock.set_wall_back(2 * HOUR);
    assert!(stand.token("ada").await.unwrap().from_cache);
    stand.advance(HOUR + Duration::from_secs(1));
    assert!(!stand.token("ada").await.unwrap().from_cache);
    assert_eq!(stand.describe("ada").await.state(), GrantState::Active);
}

/// The request may still be on its way, whatever the clock says.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_leaps_ahead_ends_no_wait_for_an_unknown_outcome() {
    let stand = stand(HOUR).await;
    stand.advance(TOKENS_EXPIRED);
    stand.provider.script(Fault::CloseBeforeAnswer { consume: false }, 1);
    assert_eq!(stand.token("ada").await.refused().reason, "GRANT_IN_DOUBT");
    let asked = stand.provider.stats().token_requests;
    stand.clock.set_wall_ahead(HOUR);
    // What was remembered of the refusal is over, and the wait is not.
    stand.advance(Duration::from_secs(11));
    let refusal = stand.token("ada").await.refused();
    assert_eq!(refusal.reason, "GRANT_IN_DOUBT");
    assert!(refusal.retry.unwrap() <= Duration::from_secs(125), "{:?}", refusal.retry);
    assert_eq!(stand.provider.stats().token_requests, asked, "the token was sent again too early");
    stand.advance(Duration::from_secs(125));
    eventually("the outcome is known", async || stand.token("ada").await.ok()).await;
    assert_eq!(stand.describe("ada").await.state(), GrantState::Active);
}
