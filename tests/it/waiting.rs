//! A caller waits for a slow provider, but not for ever.

use std::time::Duration;

use obo_vault::demo::provider::Fault;
use obo_vault::proto::GrantState;
use tonic::Code;

use crate::field_kit::Kind;
use crate::harness::{Stand, TOKENS_EXPIRED};
use crate::refusal::Refused as _;

/// Past the time from which a request that nobody answered is harmless.
const HARMLESS: Duration = Duration::from_secs(130);

/// This takes the half minute that a caller waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_sent_away_after_a_while_and_the_redemption_goes_on() {
    let stand = Stand::new().await;
    stand.tenant().await;
    stand.grant("ada").await;
    stand.advance(TOKENS_EXPIRED);
    let gate = stand.hang();
    let refusal = stand.token("ada").await.refused();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unavailable, "GRANT_IN_DOUBT"));
    assert!(refusal.retry.is_some_and(|delay| delay.as_secs() <= 5), "{refusal:?}");
    assert_eq!(stand.describe("ada").await.state(), GrantState::Sending);

    // Who asks again meanwhile waits for the same exchange.
    let asking = stand.ask("ada").await;
    gate.release();
    asking.await.unwrap().unwrap();
    assert_eq!(stand.provider.stats().refreshes, 1);
    assert_eq!(stand.describe("ada").await.generation, 2);
}

/// One grant's provider that hangs is nobody else's affair.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_hangs_holds_no_other_up() {
    let stand = Kind::Strict.stand().await;
    stand.grant("bob").await;
    stand.advance(TOKENS_EXPIRED);
    let doubt = async |user| {
        stand.provider.script(Fault::CloseBeforeAnswer { consume: false }, 1);
        assert_eq!(stand.token(user).await.refused().reason, "GRANT_IN_DOUBT");
    };
    doubt("ada").await;
    let gate = stand.hang();
    stand.advance(HARMLESS);
    gate.reached(1).await;
    doubt("bob").await;
    stand.advance(HARMLESS);
    assert_eq!(stand.until("bob", GrantState::Active).await.generation, 2);
    assert_eq!(stand.describe("ada").await.state(), GrantState::Sending, "it still hangs");
    gate.release();
    assert_eq!(stand.until("ada", GrantState::Active).await.generation, 2);
}
