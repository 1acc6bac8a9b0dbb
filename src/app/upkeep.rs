//! What a serving vault does by itself: grants in doubt whose time has come, purges that
//! are due, its health, its counters over HTTP.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::audit::AuditLog;
use crate::metrics::Counters;
use crate::redeem::Redeemer;
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::tenant::TenantService;

use super::belonging::Watermark;

/// How often grants in doubt and health are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is noted how far the token store has come.
const NOTE_EVERY: Duration = Duration::from_secs(5);
/// How often due purges, and tenants that were given up, are looked for.
const PURGE_EVERY: Duration = Duration::from_secs(5);

/// What the upkeep works with.
pub(super) struct Upkeep {
    pub(super) redeemer: Arc<Redeemer>,
    pub(super) tenants: TenantService,
    pub(super) store: Arc<dyn Store>,
    pub(super) audit: Arc<AuditLog>,
    pub(super) metrics: Arc<Counters>,
    /// `None`: the token store is an older copy, and is not confirmed.
    pub(super) watermark: Option<Watermark>,
}

impl Upkeep {
    /// Goes round until the shutdown: rounds that do not wait for each
    /// other, so that a provider or a disk that hangs does not stop the others.
    pub(super) async fn run(self, health: HealthReporter, shutdown: Shutdown) {
        tokio::join!(
            rounds(&shutdown, LOOK, || self.probe()),
            rounds(&shutdown, PURGE_EVERY, || self.purge()),
            rounds(&shutdown, LOOK, || self.report(&health)),
            rounds(&shutdown, NOTE_EVERY, || self.note_standing()),
        );
        // What was redeemed since the last round is behind the mark, too.
        self.note_standing().await;
        health.set_service_status("", ServingStatus::NotServing).await;
    }

    /// The probes are tasks of their own: leaving off waiting for them at a
    /// shutdown ends none, the drain waits for them.
    async fn probe(&self) {
        if let Err(error) = self.redeemer.probe_due().await {
            tracing::error!(%error, "cannot look for grants in doubt");
        }
    }

    async fn purge(&self) {
        // Each failure is in the log, with its tenant.
        let _ = self.tenants.purge_due().await;
        if let Err(failure) = self.tenants.collect_abandoned().await {
            tracing::warn!(%failure, "cannot collect the tenants of enrolments that led to nothing");
        }
    }

    /// A token store that is put in place later is compared with this.
    async fn note_standing(&self) {
        let Some(watermark) = &self.watermark else { return };
        if let Err(error) = watermark.advance(0).await {
            tracing::warn!(%error, "a restore of an older database might not be recognised");
        }
    }

    /// A vault that cannot write its stores or its audit log, or whose files are
    /// not at their paths any more, hands out nothing, and says so.
    async fn report(&self, health: &HealthReporter) {
        self.metrics.tenants_without_keys(self.redeemer.guards().count_without_keys());
        let store = self.store.check_writable().await;
        if let Err(error) = &store {
            self.metrics.store_failure();
            tracing::error!(%error, "the store cannot be written");
        }
        let audit = self.look_at_audit().await;
        if let Err(why) = &audit {
            self.metrics.audit_failure();
            tracing::error!(%why, "the audit log cannot be written");
        }
        let well = store.is_ok() && audit.is_ok();
        let status = if well { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status("", status).await;
    }

    /// The look waits for the file system, and nothing else shall.
    async fn look_at_audit(&self) -> Result<(), String> {
        let audit = Arc::clone(&self.audit);
        let looked = tokio::task::spawn_blocking(move || audit.look()).await;
        looked.unwrap_or_else(|panicked| Err(panicked.to_string()))
    }
}

async fn rounds<F: Future<Output = ()>>(shutdown: &Shutdown, pause: Duration, work: impl Fn() -> F) {
    let round = async {
        loop {
            work().await;
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = shutdown.triggered() => {}
        () = round => {}
    }
}

/// Serves the counters at `/metrics`.
pub(super) async fn serve_metrics(listener: TcpListener, metrics: Arc<Counters>, shutdown: Shutdown) {
    let counters = get(move || {
        let text = metrics.render();
        async move { ([("content-type", "text/plain; version=0.0.4")], text) }
    });
    let served = axum::serve(listener, Router::new().route("/metrics", counters))
        .with_graceful_shutdown(async move { shutdown.triggered().await })
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the counters are no longer served");
    }
}
