//! The four steps of a run. Each asks the store what is left to do, does it in
//! batches, and saves the run after each; none needs to know whether it runs
//! for the first time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;

use crate::audit::{Entry, Kind};
use crate::authn::Caller;
use crate::domain::failure::Failure;
use crate::domain::grant::Grant;
use crate::domain::id::TenantId;
use crate::domain::key::KeyVersion;
use crate::domain::reason::Reason;
use crate::domain::rotation::{Phase, Run};
use crate::domain::tenant::Tenant;
use crate::keyring::versions::advance;
use crate::redeem::Origin;
use crate::seal::Place;
use crate::shutdown::Shutdown;
use crate::store::{DueCursor, Reseal, SealedGrant};

use super::budget::Budgets;
use super::{Parts, plan, retire};

/// Refreshes under way at once, over all providers.
const AT_ONCE: usize = 64;
/// Pause before a step is tried again whose store or keys failed.
const RETRY: Duration = Duration::from_secs(2);

/// Takes a run from the step it is at to its end. A step that the store or the
/// keyring fails is tried again until it succeeds: the run is durable, and the
/// next one could do no better. One that is stopped stays at its step: the next
/// start goes on with it.
pub(super) async fn run(parts: &Arc<Parts>, run: &watch::Sender<Run>, stop: &Shutdown) {
    loop {
        let phase = run.borrow().phase;
        let step = match phase {
            Phase::NewVersions => unless(stop, new_versions(parts, run)).await.map(|()| Phase::Refresh),
            // Waits for what is on its way to a provider, and stops by itself.
            Phase::Refresh => refresh(parts, run, stop).await.map(|()| Phase::Reseal),
            Phase::Reseal => unless(stop, reseal(parts, run)).await.map(|()| Phase::Retire),
            Phase::Retire => unless(stop, retire::retire(parts, run)).await.map(|()| Phase::Done),
            Phase::Done => break,
        };
        if stop.is_triggered() {
            tracing::info!(run.id = %run.borrow().id, step = ?phase, "rotation stopped, to go on at the next start");
            return;
        }
        let saved = match step {
            Ok(next) => {
                let ended_at = (next == Phase::Done).then(|| parts.clock.now());
                let current = run.borrow().clone();
                let done = Run { phase: next, ended_at, ..current };
                let saved = parts.store.save_run(&done).await.map_err(Failure::from);
                saved.map(|()| run.send_replace(done)).map(drop)
            }
            Err(failure) => Err(failure),
        };
        if let Err(failure) = saved {
            parts.metrics.rotation_failed();
            tracing::error!(step = ?phase, %failure, "rotation: will try again");
            tokio::select! {
                () = stop.triggered() => {}
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
    let run = run.borrow();
    parts.metrics.rotation_succeeded(parts.clock.now());
    tracing::info!(
        run.id = %run.id, versions_created = run.counts.versions_created, refreshed = run.counts.refreshed,
        refresh_failed = run.counts.refresh_failed, resealed = run.counts.resealed,
        reseal_failed = run.counts.reseal_failed, versions_destroyed = run.counts.versions_destroyed,
        "rotation done"
    );
}

/// Does a step's work unless it is stopped. It may be dropped anywhere, as a
/// crash would end it anywhere.
async fn unless(stop: &Shutdown, work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::select! {
        biased;
        () = stop.triggered() => Ok(()),
        done = work => done,
    }
}

async fn new_versions(parts: &Arc<Parts>, run: &watch::Sender<Run>) -> Result<(), Failure> {
    let mut after = None;
    loop {
        let page = next_tenants(parts, &mut after).await?;
        if page.is_empty() {
            return save(parts, run).await;
        }
        for tenant in page {
            without_keys(&tenant, new_version_where_due(parts, run, &tenant).await)?;
        }
    }
}

async fn new_version_where_due(
    parts: &Arc<Parts>,
    run: &watch::Sender<Run>,
    tenant: &Tenant,
) -> Result<(), Failure> {
    let Some(from) = tenant.sealing_version() else { return Ok(()) };
    let versions = parts.keyring.versions(&tenant.id).await?;
    let newest = versions.iter().find(|info| info.version == from);
    let (current, now) = (run.borrow().clone(), parts.clock.now());
    let Some(why) = plan::new_version(&current, tenant, newest, parts.settings.key_max_age, now) else {
        return Ok(());
    };
    audited(parts, &current, &tenant.id, "new key version").await?;
    match advance(&*parts.store, &parts.keyring, &tenant.id, from, now).await {
        Ok(info) => {
            tracing::info!(tenant.id = %tenant.id, key.version = info.version.0, ?why, "new key version");
            run.send_modify(|run| run.counts.versions_created += 1);
            Ok(())
        }
        // The tenant went out of service meanwhile.
        Err(failure) if gone(&failure) => Ok(()),
        Err(failure) => Err(failure),
    }
}

async fn refresh(parts: &Arc<Parts>, run: &watch::Sender<Run>, stop: &Shutdown) -> Result<(), Failure> {
    let current = run.borrow().clone();
    let due_at = (!current.options.refresh_all).then_some(current.started_at);
    let left = parts.store.count_due_refreshes(due_at).await?;
    run.send_modify(|run| {
        let done = run.counts.refreshed + run.counts.refresh_failed;
        run.counts.refresh_total = run.counts.refresh_total.max(left).max(done);
    });
    let budgets = Budgets::default();
    let mut after = None;
    while !stop.is_triggered() {
        let batch = parts.store.due_refreshes(due_at, after, parts.settings.batch_size).await?;
        let Some(last) = batch.last() else { break };
        after = Some(DueCursor { at: last.next_refresh_at, grant: last.id });
        let now = parts.clock.now();
        let due = batch.into_iter().filter(|grant| plan::still_to_refresh(&current, grant, now));
        futures_util::stream::iter(due)
            .for_each_concurrent(AT_ONCE, |grant| refresh_one(parts, run, stop, &budgets, grant))
            .await;
        save(parts, run).await?;
    }
    Ok(())
}

async fn refresh_one(
    parts: &Arc<Parts>,
    run: &watch::Sender<Run>,
    stop: &Shutdown,
    budgets: &Budgets,
    grant: Grant,
) {
    let Some(client) = parts.idp.client(&grant.key.client) else {
        run.send_modify(|run| run.counts.refresh_failed += 1);
        return;
    };
    let (provider, budget) = (client.provider_name(), client.budget());
    let permit = tokio::select! {
        biased;
        () = stop.triggered() => return,
        permit = budgets.wait(provider, budget, &parts.clock) => permit,
    };
    let origin = origin(&run.borrow());
    let outcome = parts.redeemer.refresh(&grant.key, &origin).await;
    drop(permit);
    match outcome {
        Ok(()) => run.send_modify(|run| run.counts.refreshed += 1),
        Err(failure) => {
            if failure.reason() == Reason::ProviderThrottled
                && let Some(pause) = failure.retry_delay()
            {
                budgets.pause(provider, budget, pause, &parts.clock);
            }
            run.send_modify(|run| run.counts.refresh_failed += 1);
        }
    }
}

async fn reseal(parts: &Arc<Parts>, run: &watch::Sender<Run>) -> Result<(), Failure> {
    let (mut total, mut after) = (0, None);
    loop {
        let page = next_tenants(parts, &mut after).await?;
        if page.is_empty() {
            break;
        }
        for tenant in page {
            if let Some(newest) = tenant.sealing_version() {
                let stale = parts.store.count_stale_grants(&tenant.id, newest).await;
                total += stale?;
            }
        }
    }
    run.send_modify(|run| run.counts.reseal_total = run.counts.resealed + run.counts.reseal_failed + total);
    let mut after = None;
    loop {
        let page = next_tenants(parts, &mut after).await?;
        if page.is_empty() {
            return Ok(());
        }
        for tenant in page {
            without_keys(&tenant, reseal_tenant(parts, run, &tenant.id).await)?;
        }
    }
}

async fn reseal_tenant(parts: &Arc<Parts>, run: &watch::Sender<Run>, id: &TenantId) -> Result<(), Failure> {
    let mut after = None;
    loop {
        // Read again for every batch: an operator may rotate meanwhile.
        let tenant = parts.store.tenant(id).await?;
        let Some(newest) = tenant.and_then(|t| t.sealing_version()) else { return Ok(()) };
        let batch = parts.store.stale_grants(id, newest, after, parts.settings.batch_size).await?;
        let Some(last) = batch.last() else { return Ok(()) };
        after = Some((last.grant.key_version, last.grant.id));
        let mut sealed = Vec::with_capacity(batch.len());
        let mut failed = 0;
        for value in &batch {
            match reseal_one(parts, value, newest).await {
                Ok(reseal) => sealed.push(reseal),
                Err(failure) if gone(&failure) => return Ok(()),
                Err(failure) if failure.reason() == Reason::GrantUnreadable => {
                    failed += 1;
                    unreadable(parts, run, value, &failure).await?;
                }
                Err(failure) => return Err(failure),
            }
        }
        let put = parts.store.reseal(id, sealed).await?;
        run.send_modify(|run| {
            run.counts.resealed += put;
            run.counts.reseal_failed += failed;
        });
        save(parts, run).await?;
    }
}

async fn reseal_one(parts: &Arc<Parts>, value: &SealedGrant, newest: KeyVersion) -> Result<Reseal, Failure> {
    let place = Place::of_token(&value.grant, value.grant.generation);
    let plain = parts.keyring.open(&place, &value.sealed).await?;
    let sealed = parts.keyring.seal(newest, &place, plain.expose()).await?;
    Ok(Reseal {
        grant: value.grant.id,
        generation: value.grant.generation,
        from: value.grant.key_version,
        to: newest,
        sealed,
    })
}

async fn unreadable(
    parts: &Arc<Parts>,
    run: &watch::Sender<Run>,
    value: &SealedGrant,
    failure: &Failure,
) -> Result<(), Failure> {
    let SealedGrant { grant, .. } = value;
    tracing::error!(tenant.id = %grant.key.tenant, grant.id = %grant.id, %failure, "a sealed token cannot be opened");
    let origin = origin(&run.borrow());
    let entry = Entry::new(Kind::Event, &origin.request_id, "reseal")
        .caller(&origin.caller)
        .tenant(&grant.key.tenant)
        .client(&grant.key.client)
        .subject(&grant.key.subject)
        .grant(grant.id)
        .reason(Reason::GrantUnreadable);
    Ok(parts.audit.record(entry).await?)
}

/// A tenant whose keys are unavailable is left to the next run; it does not hold
/// up the others.
pub(super) fn without_keys(tenant: &Tenant, done: Result<(), Failure>) -> Result<(), Failure> {
    match done {
        Err(failure) if failure.reason() == Reason::KeyUnavailable => {
            tracing::error!(tenant.id = %tenant.id, %failure, "rotation: leaving a tenant out");
            Ok(())
        }
        done => done,
    }
}

/// The next tenants after `after`, which moves on; none at the end. Those without
/// keys are left out: what becomes of them is their operator's decision.
pub(super) async fn next_tenants(
    parts: &Arc<Parts>,
    after: &mut Option<TenantId>,
) -> Result<Vec<Tenant>, Failure> {
    loop {
        let mut page = parts.store.tenants(after.as_ref(), parts.settings.batch_size).await?;
        let Some(last) = page.last() else { return Ok(page) };
        *after = Some(last.id.clone());
        page.retain(|tenant| !parts.redeemer.guards().is_without_keys(&tenant.id));
        if !page.is_empty() {
            return Ok(page);
        }
    }
}

pub(super) async fn audited(
    parts: &Arc<Parts>,
    run: &Run,
    tenant: &TenantId,
    note: &'static str,
) -> Result<(), Failure> {
    let origin = origin(run);
    let entry = Entry::new(Kind::Event, &origin.request_id, "rotate")
        .caller(&origin.caller)
        .tenant(tenant)
        .note(note);
    Ok(parts.audit.record(entry).await?)
}

async fn save(parts: &Arc<Parts>, run: &watch::Sender<Run>) -> Result<(), Failure> {
    let snapshot = run.borrow().clone();
    Ok(parts.store.save_run(&snapshot).await?)
}

fn origin(run: &Run) -> Origin {
    Origin {
        request_id: format!("rotation-{}", run.id),
        caller: Caller::system("system:rotation").id().clone(),
    }
}

fn gone(failure: &Failure) -> bool {
    matches!(failure.reason(), Reason::TenantPurged | Reason::TenantPurgeScheduled | Reason::TenantNotFound)
}
