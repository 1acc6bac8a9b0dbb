//! The rotation job: what a run does, that there is one at a time, and that
//! nothing ends it but its end.

use std::time::Duration;

use futures_util::future::join_all;
use obo_vault::demo::provider::{Fault, Gate, Options};
use obo_vault::demo::stand::Settings;
use obo_vault::proto::{KeyState, RotationPhase, RotationRun};
use tonic::Code;

use crate::harness::{Stand, TOKENS_EXPIRED, reason};
use crate::harness_more::{eventually, start_rotation};

const DAY: Duration = Duration::from_secs(86_400);

/// Grants are due after a day, at the second.
const DAILY: &str = "[rotation]\nrefresh_every_hours = 24\njitter_seconds = 0\n";

/// A stand with these users' grants.
async fn stand(profile: &str, rotation: &str, users: &[&str]) -> Stand {
    let settings = Settings {
        profile: format!(
            "profile = \"strict\"\nmulti_resource = true\nrequests_per_second = 1000\n{profile}"
        ),
        more: rotation.to_owned(),
        ..Settings::default()
    };
    let stand = Stand::with(Options::default(), settings).await;
    stand.tenant().await;
    for user in users {
        stand.grant(user).await;
    }
    stand
}

async fn generations(stand: &Stand, users: &[&str]) -> Vec<u64> {
    let mut generations = Vec::new();
    for user in users {
        generations.push(stand.describe(user).await.generation);
    }
    generations
}

fn refreshes(run: &RotationRun) -> (u64, u64, u64) {
    (run.refresh_total, run.refreshed, run.refresh_failed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_renews_what_is_due_and_seals_the_rest_anew() {
    let mut stand = stand("", DAILY, &["ada", "bob"]).await;
    stand.advance(DAY + TOKENS_EXPIRED);
    stand.grant("eve").await;
    assert_eq!(stand.usage().await, [(1, KeyState::Active, 3)]);

    let reports = stand.rotate(true, false).await;
    let phases: Vec<_> = reports.iter().map(RotationRun::phase).collect();
    assert!(phases.is_sorted(), "{phases:?}");
    assert!(reports.iter().all(|r| r.run_id == reports[0].run_id && r.trigger == "request"));
    let run = reports.last().unwrap();
    assert_eq!(refreshes(run), (2, 2, 0));
    assert_eq!((run.versions_created, run.versions_destroyed), (1, 1));
    assert_eq!((run.reseal_total, run.resealed, run.reseal_failed), (1, 1, 0));
    assert_eq!(stand.usage().await, [(1, KeyState::Destroyed, 0), (2, KeyState::Active, 3)]);
    assert_eq!(generations(&stand, &["ada", "bob", "eve"]).await, [2, 2, 1]);
    assert_eq!(stand.provider.stats().refreshes, 2, "a grant that was not due was refreshed");
    assert_eq!(stand.rotation().await.run.as_ref(), Some(run));

    // What was re-sealed still opens, also in a new process.
    stand.restart().await;
    for user in ["ada", "bob", "eve"] {
        stand.token(user).await.unwrap();
    }
    // Nothing is due any more, and nothing is done.
    let run = stand.rotate(false, false).await.pop().unwrap();
    assert_eq!((refreshes(&run), run.reseal_total, run.versions_created), ((0, 0, 0), 0, 0));
    assert_eq!(stand.provider.stats().reuse_detected, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_grants_are_refreshed_when_asked_due_or_not() {
    let users = ["ada", "bob", "eve"];
    let stand = stand("", "", &users).await;
    let due_only = stand.rotate(false, false).await.pop().unwrap();
    assert_eq!(refreshes(&due_only), (0, 0, 0));
    let all = stand.rotate(false, true).await.pop().unwrap();
    assert_eq!(refreshes(&all), (3, 3, 0));
    assert_eq!(generations(&stand, &users).await, [2, 2, 2]);
    assert_eq!(stand.provider.stats().refreshes, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_old_enough_gets_a_new_version_by_itself() {
    let stand = stand("", "[rotation]\nkey_max_age_days = 2\n", &["ada"]).await;
    let young = stand.rotate(false, false).await.pop().unwrap();
    assert_eq!(young.versions_created, 0);
    stand.advance(DAY * 2);
    let old = stand.rotate(false, false).await.pop().unwrap();
    assert_eq!((old.versions_created, old.resealed, old.versions_destroyed), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_run_at_a_time_and_all_who_ask_join_it() {
    let stand = stand("", "", &["ada"]).await;
    let gate = stand.hang();
    let client = stand.client("rotator").await;
    let mut streams = join_all((0..20).map(|_| start_rotation(client.clone(), true, true))).await;
    gate.reached(1).await;
    streams.push(stand.start_rotation(true, true).await);
    gate.release();
    let ends = join_all(streams.into_iter().map(|mut stream| async move {
        let mut last = None;
        while let Some(report) = stream.message().await.unwrap() {
            last = report.run;
        }
        last.unwrap()
    }))
    .await;
    assert_eq!(ends.len(), 21);
    for end in &ends {
        assert_eq!((end, end.phase()), (&ends[0], RotationPhase::Done));
    }
    assert_eq!((ends[0].versions_created, refreshes(&ends[0])), (1, (1, 1, 0)));
    assert_eq!(stand.provider.stats().refreshes, 1);
    let next = stand.rotate(false, false).await.pop().unwrap();
    assert_ne!(next.run_id, ends[0].run_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_does_not_end_the_run() {
    let stand = stand("", "", &["ada", "bob"]).await;
    let gate = Gate::new();
    stand.provider.script(Fault::Hang { consume: true, gate: gate.clone() }, 2);
    let mut stream = stand.start_rotation(true, true).await;
    let id = stream.message().await.unwrap().unwrap().run.unwrap().run_id;
    gate.reached(2).await;
    drop(stream);
    gate.release();
    let run = stand.ended_run(|run| run.run_id == id).await;
    assert_eq!((refreshes(&run), run.versions_destroyed), ((2, 2, 0), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_a_stop_interrupted_goes_on_at_the_start() {
    let users = ["ada", "bob", "eve", "kim", "tom", "zoe"];
    let mut stand = stand("concurrency = 1", "", &users).await;
    let gate = Gate::new();
    stand.provider.script(Fault::Delay(Duration::ZERO), 1);
    stand.provider.script(Fault::Hang { consume: true, gate: gate.clone() }, 1);
    let mut stream = stand.start_rotation(true, true).await;
    let id = stream.message().await.unwrap().unwrap().run.unwrap().run_id;
    gate.reached(1).await;
    // The one that is out is awaited, and none is begun after it; whoever
    // watches the run does not hold the stop up.
    let watching = tokio::spawn(async move { while let Ok(Some(_)) = stream.message().await {} });
    let release = async {
        tokio::task::yield_now().await;
        gate.release();
    };
    tokio::join!(stand.stop(), release);
    watching.await.unwrap();
    let stopped_after = stand.provider.stats().refreshes;
    assert!(stopped_after < 6, "the stop waited for the whole run");

    stand.start().await;
    let run = stand.ended_run(|run| run.run_id == id).await;
    assert_eq!(run.trigger, "resume");
    assert_eq!((run.refreshed, run.refresh_failed), (6, 0));
    assert_eq!((run.versions_created, run.versions_destroyed), (1, 1));
    assert_eq!(generations(&stand, &users).await, [2; 6], "a grant was refreshed twice in one run");
    let stats = stand.provider.stats();
    assert_eq!((stats.refreshes, stats.reuse_detected), (6, 0));
    assert_eq!(stand.usage().await, [(1, KeyState::Destroyed, 0), (2, KeyState::Active, 6)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_never_sees_more_at_once_than_its_budget() {
    let users = ["ada", "bob", "eve", "kim", "zoe"];
    let stand = stand("concurrency = 2", "", &users).await;
    let gates = [(); 5].map(|()| Gate::new());
    for gate in &gates {
        stand.provider.script(Fault::Hang { consume: true, gate: gate.clone() }, 1);
    }
    let mut stream = stand.start_rotation(false, true).await;
    // Two are held until there is one that waits for the place of the first.
    for (first, next) in gates.iter().zip(&gates[1..]) {
        next.reached(1).await;
        first.release();
    }
    gates[4].release();
    while stream.message().await.unwrap().is_some() {}
    assert_eq!(stand.provider.stats().most_at_once, 2);
    assert_eq!(generations(&stand, &users).await, [2; 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_asks_for_a_pause_gets_it_and_the_grant_stays_due() {
    let users = ["ada", "bob", "eve"];
    let stand = stand("concurrency = 1\nthrottle_proves_unused = true", DAILY, &users).await;
    stand.advance(DAY + TOKENS_EXPIRED);
    stand.provider.script(Fault::throttled(Some(2)), 1);
    let run = stand.rotate(false, false).await.pop().unwrap();
    assert_eq!(refreshes(&run), (3, 2, 1));
    let (start, end) = (run.start_time.unwrap(), run.end_time.unwrap());
    let took = (end.seconds - start.seconds) * 1000 + i64::from((end.nanos - start.nanos) / 1_000_000);
    assert!(took >= 2000, "the pause of 2 s was not kept: {took} ms");
    assert_eq!(stand.provider.stats().refreshes, 2);
    stand.advance(Duration::from_secs(60));
    let next = stand.rotate(false, false).await.pop().unwrap();
    assert_eq!(refreshes(&next), (1, 1, 0));
    assert_eq!(generations(&stand, &users).await, [2, 2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_cannot_be_opened_is_counted_and_keeps_its_key_and_others_go_on() {
    let mut stand = stand("", "", &["ada", "bob", "eve"]).await;
    stand.stop().await;
    drop(stand.token_store().await);
    let database = stand.database();
    let sealed = |user: &str| -> Vec<u8> {
        let sql = "SELECT sealed FROM grants WHERE subject = ?1";
        database.query_row(sql, [user], |row| row.get(0)).unwrap()
    };
    let (ada, bob) = (sealed("ada"), sealed("bob"));
    for (user, other) in [("ada", bob), ("bob", ada)] {
        database.execute("UPDATE grants SET sealed = ?2 WHERE subject = ?1", (user, other)).unwrap();
    }
    drop(database);
    stand.start().await;

    let run = stand.rotate(true, false).await.pop().unwrap();
    assert_eq!((run.reseal_total, run.resealed, run.reseal_failed), (3, 1, 2));
    assert_eq!(run.versions_destroyed, 0, "a key was destroyed that values still name");
    assert_eq!(stand.usage().await, [(1, KeyState::Deactivated, 2), (2, KeyState::Active, 1)]);
    assert_eq!(stand.audited("GRANT_UNREADABLE"), 2);
    let before = stand.provider.stats().token_requests;
    for user in ["ada", "bob"] {
        let refused = stand.token(user).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::DataLoss, "GRANT_UNREADABLE"));
    }
    assert_eq!(stand.provider.stats().token_requests, before, "something was sent for a swapped token");
    stand.token("eve").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_missed_is_caught_up_at_the_start() {
    let mut stand = stand("", "[rotation]\nschedule = \"0 0 3 * * *\"\n", &["ada"]).await;
    stand.rotate(false, false).await;
    stand.stop().await;
    stand.advance(DAY * 2);
    stand.start().await;
    let run = stand.ended_run(|run| run.trigger != "request").await;
    assert_eq!(run.trigger, "catch-up");
    let described = stand.rotation().await;
    let (next, start) = (described.next_run_time.unwrap(), run.start_time.unwrap());
    assert!(next.seconds > start.seconds && next.seconds - start.seconds <= 86_400);
    // Made up once, not again at every start.
    stand.restart().await;
    assert_eq!(stand.rotation().await.run, Some(run));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_caught_up_where_that_is_switched_off() {
    let mut stand = stand("", "[rotation]\nschedule = \"0 0 3 * * *\"\ncatch_up = false\n", &["ada"]).await;
    let requested = stand.rotate(false, false).await.pop().unwrap();
    stand.stop().await;
    stand.advance(DAY * 2);
    stand.start().await;
    eventually("the schedule", async || stand.rotation().await.next_run_time).await;
    assert_eq!(stand.rotation().await.run, Some(requested));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schedule_fires_and_shows_that_it_is_alive() {
    let stand = stand("", "[rotation]\nschedule = \"*/2 * * * * *\"\n", &["ada"]).await;
    let run = stand.ended_run(|run| run.trigger == "schedule").await;
    stand.ended_run(|next| next.run_id != run.run_id && next.trigger == "schedule").await;
    eventually("a heartbeat", async || stand.rotation().await.last_tick_time).await;
}
