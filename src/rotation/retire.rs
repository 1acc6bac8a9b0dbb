//! The last step of a run: key versions that nothing has named for all of their
//! retention are destroyed.

use std::sync::Arc;

use tokio::sync::watch;

use crate::domain::failure::Failure;
use crate::domain::key::KeyVersion;
use crate::domain::rotation::Run;
use crate::domain::tenant::Tenant;

use super::Parts;
use super::apply::{audited, next_tenants, without_keys};
use super::plan::{self, Retirement};

pub(super) async fn retire(parts: &Arc<Parts>, run: &watch::Sender<Run>) -> Result<(), Failure> {
    let (mut destroyed, mut after) = (0, None);
    loop {
        let page = next_tenants(parts, &mut after).await?;
        if page.is_empty() {
            break;
        }
        for tenant in page {
            match retire_versions(parts, run, &tenant).await {
                Ok(versions) => destroyed += versions,
                failed => without_keys(&tenant, failed.map(drop))?,
            }
        }
    }
    if destroyed > 0 && !parts.keyring.erase().await? {
        tracing::warn!("destroyed key versions are not yet overwritten in the log: a reader holds it");
    }
    Ok(())
}

async fn retire_versions(
    parts: &Arc<Parts>,
    run: &watch::Sender<Run>,
    tenant: &Tenant,
) -> Result<u32, Failure> {
    let Some(newest) = tenant.sealing_version() else { return Ok(0) };
    let versions = parts.keyring.versions(&tenant.id).await?;
    // Usage is counted after the versions were listed: a value can only have
    // moved to the newest since.
    let usage = parts.store.usage(&tenant.id).await?;
    let mut destroyed = 0;
    let (retention, now) = (parts.settings.key_retention, parts.clock.now());
    for next in plan::retire(&versions, newest, &usage, retention, now) {
        match next {
            Retirement::Begin(version) => parts.keyring.note_unused(&tenant.id, version, Some(now)).await?,
            Retirement::Withdraw(version) => parts.keyring.note_unused(&tenant.id, version, None).await?,
            Retirement::Destroy(version) => {
                destroy_version(parts, run, tenant, version).await?;
                destroyed += 1;
            }
        }
    }
    Ok(destroyed)
}

async fn destroy_version(
    parts: &Arc<Parts>,
    run: &watch::Sender<Run>,
    tenant: &Tenant,
    version: KeyVersion,
) -> Result<(), Failure> {
    let current = run.borrow().clone();
    audited(parts, &current, &tenant.id, "destroy key version").await?;
    parts.keyring.destroy_version(&tenant.id, version).await?;
    tracing::info!(tenant.id = %tenant.id, key.version = version.0, "key version destroyed");
    run.send_modify(|run| run.counts.versions_destroyed += 1);
    Ok(())
}
