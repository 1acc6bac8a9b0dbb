//! `obo-vault grant`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use crate::proto;
use crate::proto::{
    DescribeGrantRequest, ExchangeOnBehalfOfRequest, GrantState, ImportGrantRequest, ListGrantsRequest,
    RevokeGrantRequest,
};

use super::advice::Doing;
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
    #[arg(long, allow_hyphen_values = true)]
    client: String,
    /// File with the user's access token; - is standard input.
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    token_file: PathBuf,
    /// A scope to ask for; repeat it for more.
    #[arg(long = "scope", value_name = "SCOPE", allow_hyphen_values = true)]
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
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    token_file: PathBuf,
    /// A scope to ask for; repeat it for more. None: those of the token.
    #[arg(long = "scope", value_name = "SCOPE", allow_hyphen_values = true)]
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
    #[arg(long, allow_hyphen_values = true)]
    tenant: String,
    /// Only the grants of this client.
    #[arg(long, default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    client: String,
    /// Only the grants in this state; repeat it for more. All pages are searched.
    #[arg(long = "state", value_enum, value_name = "STATE", ignore_case = true)]
    states: Vec<State>,
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
        let session = self.connection.open(Doing::Enrolling).await?;
        let answer = session
            .call(request, async |mut vault, request| vault.grants.exchange_on_behalf_of(request).await)
            .await?;
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
        let session = self.connection.open(Doing::Enrolling).await?;
        let answer = session
            .call(request, async |mut vault, request| vault.grants.import_grant(request).await)
            .await?;
        enrolled(answer.grant, answer.replaced)
    }
}

impl Show {
    async fn run(self) -> Result<Shown, CliFailure> {
        let GrantName { tenant, subject, client: name } = self.grant;
        let request = DescribeGrantRequest { tenant, subject, client: name };
        let session = self.connection.open(Doing::Looking).await?;
        let answer = session
            .call(request, async |mut vault, request| vault.grants.describe_grant(request).await)
            .await?;
        Ok(Shown::One(record(answer.grant.ok_or_else(|| missing("grant"))?)))
    }
}

impl List {
    async fn run(self) -> Result<Shown, CliFailure> {
        let Self { tenant, client, states, page: Page { page_size, mut page_token }, connection } = self;
        let mut session = connection.open(Doing::Looking).await?;
        let mut records = Vec::new();
        loop {
            let request = ListGrantsRequest {
                tenant: tenant.clone(),
                page_size,
                page_token: page_token.clone(),
                client: client.clone(),
            };
            let answer = session
                .call(request, async |mut vault, request| vault.grants.list_grants(request).await)
                .await?;
            let wanted = |grant: &proto::Grant| {
                states.is_empty() || states.iter().any(|state| state.is(grant.state()))
            };
            records.extend(answer.grants.into_iter().filter(wanted).map(record));
            page_token = answer.next_page_token;
            // The API has no such filter, so the search goes on.
            if states.is_empty() || page_token.is_empty() {
                break;
            }
            session.again();
        }
        let empty = if states.is_empty() && client.is_empty() {
            format!("tenant {tenant} has no grants")
        } else {
            format!("tenant {tenant} has no such grants")
        };
        Ok(Shown::Many {
            name: "grants",
            records,
            beside: vec![("next_page_token", text(page_token))],
            columns: COLUMNS,
            empty,
        })
    }
}

/// What the table of grants shows, the more important first; `grant show` and
/// JSON have all of it.
const COLUMNS: &[&str] = &[
    "subject",
    "state",
    "client",
    "cause",
    "next_attempt_time",
    "refresh_time",
    "scopes",
    "idle_expire_time",
];

/// A state to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum State {
    // No doc comments: each would become a paragraph in the help text.
    Active,
    Sending,
    #[value(alias = "in-doubt")]
    InDoubt,
    Revoked,
    Lost,
    Reauth,
    Stalled,
}

impl State {
    /// The match has no wildcard: a new state of the API must be searchable.
    fn is(self, state: GrantState) -> bool {
        let of = match state {
            GrantState::Unspecified => return false,
            GrantState::Active => Self::Active,
            GrantState::Sending => Self::Sending,
            GrantState::InDoubt => Self::InDoubt,
            GrantState::Revoked => Self::Revoked,
            GrantState::Lost => Self::Lost,
            GrantState::Reauth => Self::Reauth,
            GrantState::Stalled => Self::Stalled,
        };
        self == of
    }
}

impl Revoke {
    async fn run(self) -> Result<Shown, CliFailure> {
        let GrantName { tenant, subject, client: name } = self.grant;
        let request = RevokeGrantRequest { tenant, subject, client: name };
        let session = self.connection.open(Doing::Revoking).await?;
        let answer = session
            .call(request, async |mut vault, request| vault.grants.revoke_grant(request).await)
            .await?;
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

    #[test]
    fn the_table_of_grants_shows_columns_that_there_are() {
        let names: Vec<_> = record(proto::Grant::default()).into_iter().map(|(name, _)| name).collect();
        assert!(COLUMNS.iter().all(|column| names.contains(column)), "{names:?}");
    }

    #[test]
    fn every_state_can_be_looked_for_in_the_words_of_the_table() {
        for number in 1..=7 {
            let known = GrantState::try_from(number).unwrap();
            let Value::String(word) = state(known.as_str_name(), "GRANT_STATE_") else { panic!() };
            assert!(State::from_str(&word, true).unwrap().is(known), "{word}");
        }
        assert!(GrantState::try_from(8).is_err(), "a new state must be searched for, too");
    }
}
