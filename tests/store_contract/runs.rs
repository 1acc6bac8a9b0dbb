//! Rotation runs, the deployment's identity, and the store's own health.

use obo_vault::domain::rotation::{Counts, Phase, Run, RunOptions, Trigger};
use obo_vault::store::Standing;
use uuid::Uuid;

use crate::Make;
use crate::world::*;

fn run(n: u128, started_at: i64) -> Run {
    Run {
        id: Uuid::from_u128(n),
        phase: Phase::NewVersions,
        trigger: Trigger::Schedule,
        options: RunOptions { force_new_versions: true, refresh_all: false },
        started_at: at(started_at),
        ended_at: None,
        counts: Counts::default(),
    }
}

pub(crate) async fn the_newest_run_is_found_and_kept_up_to_date(make: Make) {
    let mut backend = make();
    let store = backend.store();
    assert_eq!(store.newest_run().await.unwrap(), None);
    store.save_run(&run(2, 20)).await.unwrap();
    store.save_run(&run(1, 10)).await.unwrap();
    assert_eq!(store.newest_run().await.unwrap(), Some(run(2, 20)));
    assert_eq!(store.run(Uuid::from_u128(1)).await.unwrap(), Some(run(1, 10)));
    assert_eq!(store.run(Uuid::from_u128(3)).await.unwrap(), None);
    let phases = [Phase::Refresh, Phase::Reseal, Phase::Retire, Phase::Done];
    let triggers = [Trigger::Schedule, Trigger::CatchUp, Trigger::Resume, Trigger::Request];
    for (phase, trigger) in phases.into_iter().zip(triggers) {
        let counts = Counts {
            versions_created: 1,
            refresh_total: 2,
            refreshed: 3,
            refresh_failed: 4,
            reseal_total: 5,
            resealed: 6,
            reseal_failed: 7,
            versions_destroyed: 8,
        };
        let options = RunOptions { force_new_versions: false, refresh_all: true };
        let changed = Run { phase, trigger, options, ended_at: Some(at(30)), counts, ..run(2, 20) };
        store.save_run(&changed).await.unwrap();
        assert_eq!(store.newest_run().await.unwrap(), Some(changed));
    }
    let newest = store.newest_run().await.unwrap();
    backend.reopen();
    assert_eq!(backend.store().newest_run().await.unwrap(), newest);
}

pub(crate) async fn the_deployment_keeps_its_first_identity(make: Make) {
    let mut backend = make();
    let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
    assert_eq!(backend.store().deployment(first).await.unwrap(), first);
    assert_eq!(backend.store().deployment(second).await.unwrap(), first);
    backend.reopen();
    assert_eq!(backend.store().deployment(second).await.unwrap(), first);
}

pub(crate) async fn an_idle_store_is_erased_and_writable(make: Make) {
    let backend = make();
    with_acme(backend.store()).await;
    backend.store().check_writable().await.unwrap();
    assert!(backend.store().erase_deleted().await.unwrap());
    backend.store().check_writable().await.unwrap();
}

pub(crate) async fn the_counter_only_grows(make: Make) {
    let mut backend = make();
    let new = backend.store().standing().await.unwrap();
    assert_eq!(new, Standing { vault: None, is_empty: true, counter: 0 });
    assert!(backend.store().advance_counter(0).await.is_err(), "it belongs to no vault");
    let vault = backend.store().deployment(Uuid::from_u128(1)).await.unwrap();
    let mut reached = Vec::new();
    for beyond in [0, 0, 40, 7] {
        reached.push(backend.store().advance_counter(beyond).await.unwrap());
    }
    assert_eq!(reached, [1, 2, 41, 42]);
    with_acme(backend.store()).await;
    backend.reopen();
    let known = backend.store().standing().await.unwrap();
    assert_eq!(known, Standing { vault: Some(vault), is_empty: false, counter: 42 });
}
