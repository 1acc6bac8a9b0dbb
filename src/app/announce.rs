//! What the log says of a vault at its start: which version, with which files,
//! for whom. No secret is in any of it.

use std::net::SocketAddr;

use crate::clock::Timestamp;
use crate::config::{Config, Transport};
use crate::domain::id::TenantId;
use crate::store::{Store, StoreError};

/// Says what is about to be opened.
pub(super) fn starting(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!(setting = warning.path, what = warning.what, "a setting is hardly meant as it is");
    }
    let providers: Vec<&str> = config.providers.keys().map(String::as_str).collect();
    let clients: Vec<&str> = config.clients.keys().map(|id| id.as_str()).collect();
    let transport = match config.server.transport {
        Transport::MutualTls { .. } => "mutual TLS",
        Transport::PlainText { .. } => "plain text",
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        file.configuration = %config.file.display(),
        file.policy = %config.policy_file.display(),
        file.tokens = %config.store.path.display(),
        file.keys = %config.store.key_path.display(),
        file.root_key = %config.root_key_file.display(),
        file.audit = %config.audit.file.display(),
        providers = providers.join(" "),
        clients = clients.join(" "),
        transport,
        "starting"
    );
}

/// What a vault that serves has to say of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Serving {
    pub(super) metrics: Option<SocketAddr>,
    pub(super) tenants: usize,
    pub(super) next_rotation: Option<Timestamp>,
}

impl Serving {
    /// Says that the vault serves, and where.
    pub(super) fn tell(self, address: SocketAddr) {
        let none = || "none".to_owned();
        let metrics = self.metrics.map_or_else(none, |address| address.to_string());
        let next_rotation = self.next_rotation.map_or_else(none, |at| at.to_string());
        tracing::info!(address = %address, metrics, tenants = self.tenants, next_rotation, "serving");
    }
}

/// How many tenants there are, whatever their state.
pub(super) async fn tenants(store: &dyn Store) -> Result<usize, StoreError> {
    const PAGE: u32 = 1000;
    let (mut count, mut after): (usize, Option<TenantId>) = (0, None);
    loop {
        let page = store.tenants(after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(count) };
        count += page.len();
        after = Some(last.id.clone());
    }
}
