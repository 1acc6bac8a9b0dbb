//! Field reports about the callers' side: what one caller chooses is no evidence
//! about the grant and holds nobody else up (docs/FIELD-REPORTS.md).

use std::time::Duration;

use obo_vault::demo::provider::{Fault, Gate, Matching};
use obo_vault::proto::GrantState;
use tonic::Code;

use crate::faulty_store::{Hold, StoreFault};
use crate::field_kit::{KINDS, Kind, Meter, alerts, says, with_claims, with_scope};
use crate::harness::{TOKENS_EXPIRED, eventually};
use crate::refusal::Refused as _;

/// Past the time from which a token is refreshed ahead, while it still lives.
const NEARLY_OVER: Duration = Duration::from_secs(2600);

const CHALLENGE: &str = r#"{"access_token":{"acrs":{"essential":true,"values":["c1"]}}}"#;
const ANSWERED: &str = r#"{"access_token":{"capolids":{"essential":true,"values":["p"]}}}"#;
const FILES: &str = "https://files.example/.default";

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_that_needs_the_user_concerns_that_request_alone() {
    let wants_the_user = Fault::Status {
        status: 400,
        error: Some("interaction_required".into()),
        suberror: Some("basic_action".into()),
        claims: Some(ANSWERED.into()),
        retry_after: None,
        body: None,
        content_type: None,
        consumes: false,
    };
    for kind in KINDS {
        let stand = kind.stand().await;
        stand.advance(TOKENS_EXPIRED);
        stand.provider.fault_when(with_claims(), wants_the_user.clone(), usize::MAX);
        let challenged = async || stand.token_with("ada", |r| r.claims_challenge = CHALLENGE.into()).await;
        let refusal = challenged().await.refused();
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::FailedPrecondition, "INTERACTION_REQUIRED"),
            "{kind:?}"
        );
        assert_eq!(refusal.interaction.unwrap().claims, ANSWERED, "{kind:?}");

        // Everybody else goes on, at once.
        stand.token("ada").await.unwrap();
        stand.token_as("files", "ada", |r| r.scopes = vec!["files.read".into()]).await.unwrap();
        assert_eq!(stand.describe("ada").await.state(), GrantState::Active, "{kind:?}");
        let asked = stand.token_requests();
        assert_eq!(challenged().await.refused().reason, "INTERACTION_REQUIRED", "{kind:?}");
        assert_eq!(stand.token_requests(), asked, "{kind:?}: it is remembered");
        assert!(stand.token("ada").await.unwrap().from_cache, "{kind:?}");
        assert!(stand.provider.family_alive("ada"), "{kind:?}");
        assert_eq!(stand.provider.stats().reuse_detected, 0, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_without_consent_takes_no_other_resource_with_it() {
    let stand = Kind::Tolerant.stand().await;
    let foreign = async || stand.token_with("ada", |r| r.scopes = vec![FILES.into()]).await.refused();
    stand.advance(TOKENS_EXPIRED);
    stand.provider.fault_when(
        with_scope(FILES),
        says(400, "invalid_grant", Some("consent_required"), false),
        1,
    );
    let refusal = foreign().await;
    assert_eq!(refusal.reason, "INTERACTION_REQUIRED");
    assert_eq!(refusal.interaction.unwrap().suberror, "consent_required");
    assert_eq!(stand.describe("ada").await.state(), GrantState::Active);
    stand.token("ada").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_called_invalid_for_one_resource_is_asked_about_before_it_is_believed() {
    let stand = Kind::Tolerant.stand().await;
    let foreign = async || stand.token_with("ada", |r| r.scopes = vec![FILES.into()]).await.refused();
    stand.advance(TOKENS_EXPIRED);
    stand.provider.fault_when(with_scope(FILES), Fault::error(400, "invalid_grant"), usize::MAX);
    let to_files = stand.provider.count_when(with_scope(FILES));
    let before = stand.token_requests();
    assert_eq!(foreign().await.reason, "PROVIDER_REFUSED");
    assert_eq!((to_files.count(), stand.token_requests()), (1, before + 2), "the grant's own came after it");
    assert_eq!(stand.describe("ada").await.state(), GrantState::Active);
    stand.token("ada").await.unwrap();

    // When the grant's own request meets the same, it is true.
    stand.advance(TOKENS_EXPIRED);
    stand.provider.revoke_user("ada");
    assert_eq!(foreign().await.reason, "GRANT_REVOKED");
    assert_eq!(stand.describe("ada").await.state(), GrantState::Revoked);
    assert_eq!(stand.token("ada").await.refused().reason, "GRANT_REVOKED");
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_claims_at_a_strict_provider_cost_one_request_and_nobodys_time() {
    for kind in [Kind::Strict, Kind::Grace] {
        let stand = kind.stand().await;
        stand.advance(TOKENS_EXPIRED);
        stand.provider.fault_when(with_claims(), Fault::error(400, "invalid_request"), usize::MAX);
        let odd = stand.provider.count_when(with_claims());
        let before = stand.token_requests();
        let refusal = stand.token_with("ada", |r| r.claims_challenge = r#"{"a":{}}"#.into()).await.refused();
        assert_eq!(refusal.reason, "PROVIDER_REFUSED", "{kind:?}");
        assert_eq!((odd.count(), stand.token_requests()), (1, before + 2), "{kind:?}");
        let grant = stand.describe("ada").await;
        assert_eq!((grant.state(), grant.generation), (GrantState::Active, 2), "{kind:?}");
        stand.token("ada").await.unwrap();
        stand.token_as("files", "ada", |r| r.scopes = vec!["files.read".into()]).await.unwrap();
        assert_eq!((odd.count(), stand.token_requests()), (1, before + 4), "{kind:?}");
        assert_eq!(stand.provider.stats().reuse_detected, 0, "{kind:?}");
    }
}

/// Between the refusal and the grant's own request the vault's probes pass by: one
/// request is enough.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_choice_is_followed_by_one_request_and_no_probe_besides() {
    let stand = Kind::Strict.stand().await;
    stand.advance(TOKENS_EXPIRED);
    stand.provider.fault_when(with_claims(), Fault::error(400, "invalid_request"), 1);
    let (own, rounds) = (Hold::new(), Hold::new());
    stand.faults.on("claim", 2, StoreFault::Hold(own.clone()));
    let before = stand.token_requests();
    let mut request = crate::harness::token_request("ada");
    request.claims_challenge = CHALLENGE.into();
    let mut client = stand.client("mail").await;
    let asking = tokio::spawn(async move { client.tokens.get_access_token(request).await });
    own.reached(1).await;
    // The third look from now on: two have passed by.
    stand.faults.on("due_probes", 3, StoreFault::Hold(rounds.clone()));
    tokio::time::timeout(Duration::from_secs(20), rounds.reached(1)).await.unwrap();
    own.release();
    rounds.release();
    assert_eq!(asking.await.unwrap().refused().reason, "PROVIDER_REFUSED");
    assert_eq!(stand.token_requests(), before + 2);
    assert_eq!(stand.describe("ada").await.generation, 2);
}

/// Otherwise one caller that repeats it takes the grant from all others, one pause
/// after the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_choice_is_remembered_though_the_grant_could_not_be_asked() {
    let stand = Kind::Strict.stand().await;
    stand.advance(TOKENS_EXPIRED);
    let mut busy = Fault::error(400, "temporarily_unavailable");
    if let Fault::Status { retry_after, .. } = &mut busy {
        *retry_after = Some(17);
    }
    stand.provider.fault_when(with_scope("files.read"), busy, usize::MAX);
    let choose = async || stand.token_with("ada", |r| r.scopes = vec!["files.read".into()]).await.refused();
    let before = stand.token_requests();
    assert_eq!(choose().await.reason, "GRANT_IN_DOUBT");
    stand.advance(Duration::from_secs(20));
    assert_eq!(choose().await.reason, "PROVIDER_UNAVAILABLE");
    assert_eq!(stand.token_requests(), before + 1, "nobody asks a second time");
    stand.token("ada").await.unwrap();
    assert_eq!(stand.token_requests(), before + 2);
}

/// Such a provider redeems the token before it looks at the scopes. Only the
/// grant's own request can tell, and then it is said aloud, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_target_that_used_the_token_up_is_a_loss_with_its_cause() {
    let mut settings = Kind::Strict.settings();
    let meter = Meter::on(&mut settings);
    let stand = Kind::Strict.stand_with(settings).await;
    stand.expect_reuse();
    for (lost, (user, fault)) in [
        ("ada", says(400, "invalid_scope", None, true)),
        ("bob", says(400, "invalid_target", None, true)),
        ("eve", says(400, "interaction_required", Some("basic_action"), true)),
    ]
    .into_iter()
    .enumerate()
    {
        stand.grant(user).await;
        stand.provider.fault_when(with_scope("files.read"), fault.clone(), 1);
        let before = stand.token_requests();
        let refusal = stand.token_with(user, |r| r.scopes = vec!["files.read".into()]).await.refused();
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::FailedPrecondition, "GRANT_LOST"),
            "{fault:?}"
        );
        let grant = stand.describe(user).await;
        assert_eq!((grant.state(), grant.cause.as_str()), (GrantState::Lost, "target_refused"), "{fault:?}");
        assert_eq!(stand.token_requests(), before + 2, "{fault:?}");
        assert_eq!(alerts(&grant, "refresh token lost"), 1, "{fault:?}");
        assert_eq!(meter.read("grants_lost_total").await, lost as u64 + 1, "{fault:?}");
        // Its token in memory is worth nothing any more.
        assert_eq!(stand.token(user).await.refused().reason, "GRANT_LOST", "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_one_target_holds_no_other_up() {
    let faults = [
        Fault::Html { status: 500, consumes: false },
        Fault::error(503, "temporarily_unavailable"),
        Fault::CloseBeforeAnswer { consume: true },
        Fault::HalfBody { consume: true },
        Fault::EmptyBody400,
        Fault::Redirect,
    ];
    for fault in faults {
        let stand = Kind::Tolerant.stand().await;
        stand.advance(TOKENS_EXPIRED);
        stand.provider.fault_when(with_scope(FILES), fault.clone(), usize::MAX);
        let refusal = stand.token_with("ada", |r| r.scopes = vec![FILES.into()]).await.refused();
        assert!(refusal.reason.starts_with("PROVIDER_"), "{fault:?}: {}", refusal.reason);
        stand.token("ada").await.unwrap_or_else(|held_up| panic!("{fault:?}: {held_up:?}"));
        let other = stand.token_as("files", "ada", |r| r.scopes = vec!["files.read".into()]).await;
        other.unwrap_or_else(|held_up| panic!("{fault:?}: {held_up:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_callers_slow_targets_delay_another_by_the_exchange_under_way_at_most() {
    let stand = Kind::Strict.stand().await;
    let (first, others, rest) = (Gate::new(), Gate::new(), Gate::new());
    let slow = |gate: &Gate| Fault::Hang { consume: false, gate: gate.clone() };
    stand.provider.fault_when(with_scope("slow"), slow(&rest), usize::MAX);
    stand.provider.fault_when(with_scope("quick"), slow(&others), usize::MAX);
    stand.provider.script(slow(&first), 1);
    let under_way = stand.ask_as("mail", vec!["first".into()]).await;
    first.reached(1).await;
    // One more than fit: the refusal of one tells that the others are waiting.
    let mut refused = Vec::new();
    let mut queues = Vec::new();
    for (caller, more, kind) in [("mail", 32, "slow"), ("files", 33, "quick")] {
        let mut queue = Vec::new();
        for n in 0..more {
            queue.push(stand.ask_as(caller, vec![kind.into(), format!("n{n}")]).await);
        }
        let at =
            eventually("a refusal", async || queue.iter().position(tokio::task::JoinHandle::is_finished))
                .await;
        refused.push(queue.remove(at).await.unwrap().refused());
        queues.push(queue);
    }
    for refusal in refused {
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::ResourceExhausted, "TOO_MANY_IN_FLIGHT"));
        assert!(refusal.retry.is_some());
    }
    // All that stand before it never come to an end.
    let slow_ones = stand.provider.count_when(with_scope("slow"));
    let quick_ones = stand.provider.count_when(with_scope("quick"));
    first.release();
    under_way.await.unwrap().unwrap();
    others.reached(1).await;
    assert_eq!((slow_ones.count(), quick_ones.count()), (0, 1), "the other caller was not next");

    others.release();
    rest.release();
    for asking in queues.into_iter().flatten() {
        asking.await.unwrap().unwrap();
    }
    assert_eq!(stand.provider.stats().reuse_detected, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_callers_odd_claims_are_bounded_and_push_nobody_out() {
    let odd = |n: usize| format!(r#"{{"access_token":{{"odd{n}":{{"essential":true}}}}}}"#);
    for kind in KINDS {
        let stand = kind.stand().await;
        let others =
            async || stand.token_as("files", "ada", |r| r.scopes = vec!["files.read".into()]).await.unwrap();
        let kept = others().await.access_token;

        // What the provider accepts fills memory, and not at another's cost.
        for n in 0..40 {
            stand.token_with("ada", |r| r.claims_challenge = odd(n)).await.unwrap();
        }
        let still = others().await;
        assert!(still.from_cache && still.access_token == kept, "{kind:?}");

        // What it refuses is bounded besides.
        stand.provider.fault_when(with_claims(), Fault::error(400, "invalid_request"), usize::MAX);
        let before = stand.token_requests();
        let mut too_many = 0;
        for n in 100..120 {
            let refusal = stand.token_with("ada", |r| r.claims_challenge = odd(n)).await.refused();
            match refusal.reason.as_str() {
                "PROVIDER_REFUSED" => {}
                "TOO_MANY_IN_FLIGHT" => {
                    assert_eq!(refusal.code, Code::ResourceExhausted);
                    assert!(refusal.retry.is_some());
                    too_many += 1;
                }
                other => panic!("{kind:?}: {other}"),
            }
        }
        assert_eq!(too_many, 4, "{kind:?}");
        let asked = stand.token_requests() - before;
        assert!(asked <= 32, "{kind:?}: {asked} requests");
        let still = others().await;
        assert!(still.from_cache && still.access_token == kept, "{kind:?}");
        // Another caller may still choose.
        stand.token_as("files", "ada", |r| r.scopes = vec!["files.write".into()]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_is_proven_dead_leaves_memory_at_once() {
    for by_rotation in [false, true] {
        for kind in KINDS {
            let mut settings = kind.settings();
            settings.profile.push_str("\nrequests_per_second = 1000");
            let stand = kind.stand_with(settings).await;
            let files =
                async || stand.token_as("files", "ada", |r| r.scopes = vec!["files.read".into()]).await;
            files().await.unwrap();
            stand.provider.revoke_user("ada");
            if by_rotation {
                stand.rotate(false, true).await;
            } else {
                stand.advance(NEARLY_OVER);
                // This asks for a refresh ahead.
                assert!(stand.token("ada").await.unwrap().from_cache);
                eventually("the end", async || stand.token("ada").await.is_err().then_some(())).await;
            }
            assert_eq!(stand.describe("ada").await.state(), GrantState::Revoked);
            for refusal in [stand.token("ada").await.refused(), files().await.refused()] {
                assert_eq!(refusal.reason, "GRANT_REVOKED", "{kind:?}, rotation: {by_rotation}");
            }
        }
    }
}

/// A challenge is answered with a token of its own; those who were not
/// challenged go on with theirs, and cost the provider nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_answered_challenge_costs_those_without_one_nothing() {
    for kind in KINDS {
        let stand = kind.stand().await;
        let plain = stand.token("ada").await.unwrap();
        let challenged =
            async || stand.token_with("ada", |r| r.claims_challenge = CHALLENGE.into()).await.unwrap();
        let answered = challenged().await;
        assert!(!answered.from_cache);
        let asked = stand.token_requests();
        let again = stand.token("ada").await.unwrap();
        assert!(again.from_cache && again.access_token == plain.access_token, "{kind:?}");
        assert_eq!(challenged().await.access_token, answered.access_token, "{kind:?}");
        assert_eq!(stand.token_requests(), asked, "{kind:?}");
    }
}

/// Many who ask for different things at once, right now of expiry.
#[tokio::test(flavor = "multi_thread")]
async fn many_callers_with_many_wishes_never_use_a_token_twice() {
    let stand = Kind::Strict.stand().await;
    stand.advance(TOKENS_EXPIRED);
    let all = stand.provider.count_when(Matching::default());
    let mut asking = Vec::new();
    for n in 0..40 {
        let caller = if n % 2 == 0 { "mail" } else { "files" };
        let mut request = crate::harness::token_request("ada");
        request.scopes = vec![format!("scope.{}", n % 10)];
        let mut client = stand.client(caller).await;
        asking.push(tokio::spawn(async move { client.tokens.get_access_token(request).await }));
    }
    for asked in asking {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(all.count(), 10, "one request for each wish");
    assert_eq!(stand.describe("ada").await.generation, 11);
    assert_eq!(stand.provider.stats().reuse_detected, 0);
}
