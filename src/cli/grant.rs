//! `obo-vault grant`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::proto;
use crate::proto::{
    DescribeGrantRequest, ExchangeOnBehalfOfRequest, ImportGrantRequest, ListGrantsRequest,
    RevokeGrantRequest,
};

use super::api::{Connection, GrantName, Page, missing, read_token};
use super::failure::CliFailure;
use super::output::{Record, Shown, state, text, time};

/// Grants.
#[derive(Debug, Subcommand)]
pub enum Grant {
    /// Exchange a user's access token for a grant, on behalf of the user.
    Exchange(Exchange),
    /// Take over a refresh token that another system kept. It is redeemed at once.
    Import(Import),
    /// Show what the vault knows of a grant.
    Show(Show),
    /// List a tenant's grants, a page at a time.
    List(List),
    /// Forget a grant, here and at the provider.
    Revoke(Revoke),
}

/// Exchanges a user's access token.
#[derive(Debug, Args)]
pub struct Exchange {
    /// Name of the OAuth client in the vault's configuration.
    #[arg(long)]
    client: String,
    /// File with the user's access token; - is standard input.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// A scope to ask for; repeat it for more.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// The resource to ask for, an absolute URI (RFC 8707).
    #[arg(long, value_name = "URI", default_value = "", hide_default_value = true)]
    resource: String,
    /// A claims challenge to pass on, a JSON object.
    #[arg(long, value_name = "JSON", default_value = "", hide_default_value = true)]
    claims_challenge: String,
    #[command(flatten)]
    connection: Connection,
}

/// Imports a refresh token.
#[derive(Debug, Args)]
pub struct Import {
    #[command(flatten)]
    grant: GrantName,
    /// File with the refresh token; - is standard input.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// A scope to ask for; repeat it for more. None: those of the token.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// The resource to ask for, an absolute URI (RFC 8707).
    #[arg(long, value_name = "URI", default_value = "", hide_default_value = true)]
    resource: String,
    #[command(flatten)]
    connection: Connection,
}

/// Shows a grant.
#[derive(Debug, Args)]
pub struct Show {
    #[command(flatten)]
    grant: GrantName,
    #[command(flatten)]
    connection: Connection,
}

/// Lists grants.
#[derive(Debug, Args)]
pub struct List {
    /// Tenant whose grants are listed.
    #[arg(long)]
    tenant: String,
    /// Only the grants of this client.
    #[arg(long, default_value = "", hide_default_value = true)]
    client: String,
    #[command(flatten)]
    page: Page,
    #[command(flatten)]
    connection: Connection,
}

/// Revokes a grant.
#[derive(Debug, Args)]
pub struct Revoke {
    #[command(flatten)]
    grant: GrantName,
    #[command(flatten)]
    connection: Connection,
}

impl Grant {
    pub(super) async fn run(self) -> Result<Shown, CliFailure> {
        match self {
            Self::Exchange(exchange) => exchange.run().await,
            Self::Import(import) => import.run().await,
            Self::Show(show) => show.run().await,
            Self::List(list) => list.run().await,
            Self::Revoke(revoke) => revoke.run().await,
        }
    }
}

impl Exchange {
    async fn run(self) -> Result<Shown, CliFailure> {
        let request = ExchangeOnBehalfOfRequest {
            client: self.client,
            user_access_token: read_token(&self.token_file)?,
            scopes: self.scopes,
            resource: self.resource,
            claims_challenge: self.claims_challenge,
        };
        let mut client = self.connection.open().await?;
        let answer = client.grants.exchange_on_behalf_of(request).await?.into_inner();
        enrolled(answer.grant, answer.replaced)
    }
}

impl Import {
    async fn run(self) -> Result<Shown, CliFailure> {
        let request = ImportGrantRequest {
            tenant: self.grant.tenant,
            subject: self.grant.subject,
            client: self.grant.client,
            imported_token: read_token(&self.token_file)?,
            scopes: self.scopes,
            resource: self.resource,
        };
        let mut client = self.connection.open().await?;
        let answer = client.grants.import_grant(request).await?.into_inner();
        enrolled(answer.grant, answer.replaced)
    }
}

impl Show {
    async fn run(self) -> Result<Shown, CliFailure> {
        let GrantName { tenant, subject, client: name } = self.grant;
        let request = DescribeGrantRequest { tenant, subject, client: name };
        let mut client = self.connection.open().await?;
        let answer = client.grants.describe_grant(request).await?.into_inner();
        Ok(Shown::One(record(answer.grant.ok_or_else(|| missing("grant"))?)))
    }
}

impl List {
    async fn run(self) -> Result<Shown, CliFailure> {
        let Page { page_size, page_token } = self.page;
        let request = ListGrantsRequest { tenant: self.tenant, page_size, page_token, client: self.client };
        let mut client = self.connection.open().await?;
        let answer = client.grants.list_grants(request).await?.into_inner();
        Ok(Shown::Many {
            name: "grants",
            records: answer.grants.into_iter().map(record).collect(),
            beside: vec![("next_page_token", text(answer.next_page_token))],
        })
    }
}

impl Revoke {
    async fn run(self) -> Result<Shown, CliFailure> {
        let GrantName { tenant, subject, client: name } = self.grant;
        let request = RevokeGrantRequest { tenant, subject, client: name };
        let mut client = self.connection.open().await?;
        let answer = client.grants.revoke_grant(request).await?.into_inner();
        Ok(Shown::One(vec![("revoked_at_provider", answer.revoked_at_provider.into())]))
    }
}

fn enrolled(grant: Option<proto::Grant>, replaced: bool) -> Result<Shown, CliFailure> {
    let mut shown = record(grant.ok_or_else(|| missing("grant"))?);
    shown.push(("replaced", replaced.into()));
    Ok(Shown::One(shown))
}

fn record(grant: proto::Grant) -> Record {
    let word = state(grant.state().as_str_name(), "GRANT_STATE_");
    let proto::Grant {
        tenant,
        subject,
        client,
        grant_id,
        state: _,
        generation,
        key_version,
        scopes,
        issuer,
        create_time,
        refresh_time,
        idle_expire_time,
        absolute_expire_time,
        cause,
        probe_after_time,
        unhelpful_answers,
        next_attempt_time,
        asked_scopes,
    } = grant;
    vec![
        ("tenant", tenant.into()),
        ("client", client.into()),
        ("subject", subject.into()),
        ("state", word),
        ("cause", text(cause)),
        ("generation", generation.into()),
        ("key_version", key_version.into()),
        ("scopes", Value::from(scopes)),
        ("issuer", issuer.into()),
        ("grant_id", grant_id.into()),
        ("create_time", time(create_time)),
        ("refresh_time", time(refresh_time)),
        ("idle_expire_time", time(idle_expire_time)),
        ("absolute_expire_time", time(absolute_expire_time)),
        ("probe_after_time", time(probe_after_time)),
        ("unhelpful_answers", unhelpful_answers.into()),
        ("next_attempt_time", time(next_attempt_time)),
        ("asked_scopes", Value::from(asked_scopes)),
    ]
}

#[cfg(test)]
mod tests {
    use crate::proto::GrantState;

    use super::*;

    #[test]
    fn a_grant_is_shown_in_the_words_of_the_api() {
        let grant = proto::Grant {
            tenant: "acme".into(),
            state: GrantState::InDoubt.into(),
            cause: "interrupted".into(),
            create_time: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            ..Default::default()
        };
        let shown = record(grant);
        let value = |name: &str| shown.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone()).unwrap();
        assert_eq!(value("state"), "in_doubt");
        assert_eq!(value("cause"), "interrupted");
        assert_eq!(value("create_time"), "1970-01-01T00:00:00.000Z");
        assert_eq!(value("probe_after_time"), Value::Null);
    }
}
