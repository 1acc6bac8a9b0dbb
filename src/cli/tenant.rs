//! `obo-vault tenant`.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::proto;
use crate::proto::{
    CreateTenantRequest, DescribeTenantKeysRequest, ListTenantsRequest, PurgeTenantNowRequest,
    PurgeTenantNowResponse, RestoreTenantRequest, RotateTenantKeyRequest, ScheduleTenantPurgeRequest,
};

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
                let mut client = connection.open().await?;
                let answer = client.tenants.create_tenant(CreateTenantRequest { tenant }).await?;
                one(answer.into_inner().tenant)
            }
            Self::List(list) => list.run().await,
            Self::RotateKey(Named { tenant, connection }) => {
                let mut client = connection.open().await?;
                let answer = client.tenants.rotate_tenant_key(RotateTenantKeyRequest { tenant }).await?;
                let key = answer.into_inner().key_version.ok_or_else(|| missing("key version"))?;
                Ok(Shown::One(key_record(key)))
            }
            Self::Keys(Named { tenant, connection }) => {
                let mut client = connection.open().await?;
                let request = DescribeTenantKeysRequest { tenant };
                let answer = client.tenants.describe_tenant_keys(request).await?.into_inner();
                Ok(Shown::Many {
                    name: "key_versions",
                    records: answer.key_versions.into_iter().map(key_record).collect(),
                    beside: record(answer.tenant.ok_or_else(|| missing("tenant"))?),
                })
            }
            Self::SchedulePurge(SchedulePurge { tenant, window, connection }) => {
                let mut client = connection.open().await?;
                let request = ScheduleTenantPurgeRequest { tenant, window: Some(to_wire(window)) };
                one(client.tenants.schedule_tenant_purge(request).await?.into_inner().tenant)
            }
            Self::Restore(Named { tenant, connection }) => {
                let mut client = connection.open().await?;
                one(client.tenants.restore_tenant(RestoreTenantRequest { tenant }).await?.into_inner().tenant)
            }
            Self::Purge(purge) => purge.run().await,
        }
    }
}

impl List {
    async fn run(self) -> Result<Shown, CliFailure> {
        let Page { page_size, page_token } = self.page;
        let mut client = self.connection.open().await?;
        let request = ListTenantsRequest { page_size, page_token };
        let answer = client.tenants.list_tenants(request).await?.into_inner();
        Ok(Shown::Many {
            name: "tenants",
            records: answer.tenants.into_iter().map(record).collect(),
            beside: vec![("next_page_token", text(answer.next_page_token))],
        })
    }
}

impl Purge {
    async fn run(self) -> Result<Shown, CliFailure> {
        let mut client = self.connection.open().await?;
        let request = PurgeTenantNowRequest { tenant: self.tenant, confirm: self.confirm };
        let PurgeTenantNowResponse {
            key_versions_destroyed,
            grants_deleted,
            live_erase_time,
            trial_open_failed,
        } = client.tenants.purge_tenant_now(request).await?.into_inner();
        Ok(Shown::One(vec![
            ("key_versions_destroyed", key_versions_destroyed.into()),
            ("grants_deleted", grants_deleted.into()),
            ("live_erase_time", time(live_erase_time)),
            ("trial_open_failed", trial(grants_deleted, trial_open_failed)),
        ]))
    }
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
