//! `obo-vault tenant`.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::proto;
use crate::proto::{
    CreateTenantRequest, DescribeTenantKeysRequest, ListTenantsRequest, PurgeTenantNowRequest,
    PurgeTenantNowResponse, RestoreTenantRequest, RotateTenantKeyRequest, ScheduleTenantPurgeRequest,
};

use super::advice::Doing;
use super::api::{Connection, Page, missing, parse_span, to_wire};
use super::failure::CliFailure;
use super::output::{Record, Shown, state, text, time};

/// Tenants.
#[derive(Debug, Subcommand)]
pub enum Tenant {
    /// Make a tenant and the first version of its key.
    Create(Named),
    /// List the tenants, a page at a time.
    List(List),
    /// Make a new version of a tenant's key.
    RotateKey(Named),
    /// Show the versions of a tenant's key and how many values each one seals.
    Keys(Named),
    /// Take a tenant out of service now and purge it when the window ends.
    SchedulePurge(SchedulePurge),
    /// Take a scheduled purge back.
    Restore(Named),
    /// Destroy a tenant's keys and tokens now. This cannot be undone.
    Purge(Purge),
}

/// One tenant.
#[derive(Debug, Args)]
pub struct Named {
    /// Name of the tenant.
    tenant: String,
    #[command(flatten)]
    connection: Connection,
}

/// Lists tenants.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    page: Page,
    #[command(flatten)]
    connection: Connection,
}

/// Schedules a purge.
#[derive(Debug, Args)]
pub struct SchedulePurge {
    /// Name of the tenant.
    tenant: String,
    /// How long it can be taken back, for example 7d; 0 to 30d.
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    window: Duration,
    #[command(flatten)]
    connection: Connection,
}

/// Purges a tenant.
#[derive(Debug, Args)]
pub struct Purge {
    /// Name of the tenant.
    tenant: String,
    /// The name of the tenant once more.
    #[arg(long, value_name = "TENANT")]
    confirm: String,
    #[command(flatten)]
    connection: Connection,
}

impl Tenant {
    pub(super) async fn run(self) -> Result<Shown, CliFailure> {
        match self {
            Self::Create(Named { tenant, connection }) => {
                let session = connection.open(Doing::Creating).await?;
                let request = CreateTenantRequest { tenant };
                let answer = session
                    .call(request, async |mut vault, request| vault.tenants.create_tenant(request).await)
                    .await?;
                one(answer.tenant)
            }
            Self::List(list) => list.run().await,
            Self::RotateKey(named) => named.rotate_key().await,
            Self::Keys(named) => named.keys().await,
            Self::SchedulePurge(schedule) => schedule.run().await,
            Self::Restore(Named { tenant, connection }) => {
                let session = connection.open(Doing::Managing).await?;
                let request = RestoreTenantRequest { tenant };
                let answer = session
                    .call(request, async |mut vault, request| vault.tenants.restore_tenant(request).await)
                    .await?;
                one(answer.tenant)
            }
            Self::Purge(purge) => purge.run().await,
        }
    }
}

impl Named {
    async fn rotate_key(self) -> Result<Shown, CliFailure> {
        let session = self.connection.open(Doing::Managing).await?;
        let request = RotateTenantKeyRequest { tenant: self.tenant };
        let answer = session
            .call(request, async |mut vault, request| vault.tenants.rotate_tenant_key(request).await)
            .await?;
        Ok(Shown::One(key_record(answer.key_version.ok_or_else(|| missing("key version"))?)))
    }

    async fn keys(self) -> Result<Shown, CliFailure> {
        let session = self.connection.open(Doing::Looking).await?;
        let empty = format!("tenant {} has no key versions", self.tenant);
        let request = DescribeTenantKeysRequest { tenant: self.tenant };
        let answer = session
            .call(request, async |mut vault, request| vault.tenants.describe_tenant_keys(request).await)
            .await?;
        Ok(Shown::Many {
            name: "key_versions",
            records: answer.key_versions.into_iter().map(key_record).collect(),
            beside: record(answer.tenant.ok_or_else(|| missing("tenant"))?),
            columns: &[],
            empty,
        })
    }
}

impl SchedulePurge {
    async fn run(self) -> Result<Shown, CliFailure> {
        let session = self.connection.open(Doing::Managing).await?;
        let request = ScheduleTenantPurgeRequest { tenant: self.tenant, window: Some(to_wire(self.window)) };
        let answer = session
            .call(request, async |mut vault, request| vault.tenants.schedule_tenant_purge(request).await)
            .await?;
        one(answer.tenant)
    }
}

impl List {
    async fn run(self) -> Result<Shown, CliFailure> {
        let Page { page_size, page_token } = self.page;
        let session = self.connection.open(Doing::Looking).await?;
        let request = ListTenantsRequest { page_size, page_token };
        let answer = session
            .call(request, async |mut vault, request| vault.tenants.list_tenants(request).await)
            .await?;
        Ok(Shown::Many {
            name: "tenants",
            records: answer.tenants.into_iter().map(record).collect(),
            beside: vec![("next_page_token", text(answer.next_page_token))],
            columns: &["tenant", "state", "grant_count", "purge_time", "active_key_version", "create_time"],
            empty: "there are no tenants".to_owned(),
        })
    }
}

impl Purge {
    async fn run(self) -> Result<Shown, CliFailure> {
        let session = self.connection.open(Doing::Purging).await?;
        let tenant = self.tenant.clone();
        let request = PurgeTenantNowRequest { tenant: self.tenant, confirm: self.confirm };
        let answer = session
            .call(request, async |mut vault, request| vault.tenants.purge_tenant_now(request).await)
            .await?;
        Ok(purged(&tenant, answer))
    }
}

fn purged(tenant: &str, answer: PurgeTenantNowResponse) -> Shown {
    let PurgeTenantNowResponse {
        key_versions_destroyed,
        grants_deleted,
        live_erase_time,
        trial_open_failed,
        already_purged,
    } = answer;
    let at = time(live_erase_time);
    let note = match at.as_str() {
        Some(at) if already_purged => {
            format!("tenant {tenant} was purged already, at {at}: nothing was left to do")
        }
        _ => format!("tenant {tenant} is purged: its keys are destroyed and its grants deleted"),
    };
    let shown = Shown::One(vec![
        ("already_purged", already_purged.into()),
        ("key_versions_destroyed", key_versions_destroyed.into()),
        ("grants_deleted", grants_deleted.into()),
        ("live_erase_time", at),
        ("trial_open_failed", trial(grants_deleted, trial_open_failed)),
    ]);
    Shown::Noted(Box::new(shown), note)
}

/// Without a token there was nothing to try.
fn trial(grants_deleted: u64, failed: bool) -> serde_json::Value {
    if grants_deleted == 0 && !failed { serde_json::Value::Null } else { failed.into() }
}

fn one(tenant: Option<proto::Tenant>) -> Result<Shown, CliFailure> {
    tenant.map(|t| Shown::One(record(t))).ok_or_else(|| missing("tenant"))
}

fn record(tenant: proto::Tenant) -> Record {
    let word = state(tenant.state().as_str_name(), "TENANT_STATE_");
    let proto::Tenant { tenant, state: _, active_key_version, create_time, purge_time, grant_count } = tenant;
    vec![
        ("tenant", tenant.into()),
        ("state", word),
        ("active_key_version", active_key_version.into()),
        ("grant_count", grant_count.into()),
        ("create_time", time(create_time)),
        ("purge_time", time(purge_time)),
    ]
}

fn key_record(key: proto::KeyVersion) -> Record {
    let word = state(key.state().as_str_name(), "KEY_STATE_");
    let proto::KeyVersion { version, key_id, state: _, create_time, sealed_values, seals_reserved } = key;
    vec![
        ("version", version.into()),
        ("state", word),
        ("sealed_values", sealed_values.into()),
        ("seals_reserved", seals_reserved.into()),
        ("create_time", time(create_time)),
        ("key_id", key_id.into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_purge_says_that_it_is_one() {
        let of = |already_purged| {
            let live_erase_time = Some(prost_types::Timestamp { seconds: 0, nanos: 0 });
            let answer = PurgeTenantNowResponse { already_purged, live_erase_time, ..Default::default() };
            let Shown::Noted(_, note) = purged("acme", answer) else { panic!("there is no sentence") };
            note
        };
        assert_eq!(
            of(true),
            "tenant acme was purged already, at 1970-01-01T00:00:00.000Z: nothing was left to do"
        );
        assert_eq!(of(false), "tenant acme is purged: its keys are destroyed and its grants deleted");
    }
}
