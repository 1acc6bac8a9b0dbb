//! What a serving vault does by itself: doubts whose time has come, purges that
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

/// How often doubts and health are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How many looks there are between two looks for due purges.
const PURGE_EVERY: u32 = 5;

/// What the upkeep works with.
pub(super) struct Upkeep {
    pub(super) redeemer: Arc<Redeemer>,
    pub(super) tenants: TenantService,
    pub(super) store: Arc<dyn Store>,
    pub(super) audit: Arc<AuditLog>,
    pub(super) metrics: Arc<Counters>,
}

impl Upkeep {
    /// Goes round until the shutdown.
    pub(super) async fn run(self, health: HealthReporter, shutdown: Shutdown) {
        let mut round = 0_u32;
        loop {
            if let Err(error) = self.redeemer.probe_due().await {
                tracing::error!(%error, "cannot look for grants in doubt");
            }
            if round.is_multiple_of(PURGE_EVERY) {
                // Each failure is in the log, with its tenant.
                let _ = self.tenants.purge_due().await;
            }
            round = round.wrapping_add(1);
            self.report(&health).await;
            tokio::select! {
                () = shutdown.triggered() => break,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        health.set_service_status("", ServingStatus::NotServing).await;
    }

    /// A vault that cannot write its store or its audit log hands out nothing,
    /// and says so.
    async fn report(&self, health: &HealthReporter) {
        let store = self.store.check_writable().await;
        let audit = self.audit.is_healthy();
        if let Err(error) = &store {
            tracing::error!(%error, "the store cannot be written");
        }
        if !audit {
            self.metrics.audit_failure();
            tracing::error!("the audit log cannot be written: free its disk or mend its file");
        }
        let status = if store.is_ok() && audit { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status("", status).await;
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
