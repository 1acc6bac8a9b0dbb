//! `obo-vault token`.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::proto::{GetAccessTokenRequest, GetAccessTokenResponse};

use super::advice::Doing;
use super::api::{Connection, GrantName, parse_span, to_wire};
use super::failure::CliFailure;
use super::output::{Shown, time};

/// Access tokens.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Get an access token. It is printed: mind who can see the terminal.
    Get(Get),
}

/// Gets an access token.
#[derive(Debug, Args)]
pub struct Get {
    #[command(flatten)]
    grant: GrantName,
    /// A scope the token must have; repeat it for more. None: those of the grant.
    #[arg(long = "scope", value_name = "SCOPE", allow_hyphen_values = true)]
    scopes: Vec<String>,
    /// The resource the token is for, an absolute URI (RFC 8707).
    #[arg(long, value_name = "URI", default_value = "", hide_default_value = true)]
    resource: String,
    /// Least remaining lifetime of the token, for example 5m; at most 10m.
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    min_remaining_life: Option<Duration>,
    /// The resource's claims challenge, a JSON object.
    #[arg(long, value_name = "JSON", default_value = "", hide_default_value = true)]
    claims_challenge: String,
    #[command(flatten)]
    connection: Connection,
}

impl Token {
    pub(super) async fn run(self) -> Result<Shown, CliFailure> {
        match self {
            Self::Get(get) => get.run().await,
        }
    }
}

impl Get {
    async fn run(self) -> Result<Shown, CliFailure> {
        let request = GetAccessTokenRequest {
            tenant: self.grant.tenant,
            subject: self.grant.subject,
            client: self.grant.client,
            scopes: self.scopes,
            resource: self.resource,
            min_remaining_life: self.min_remaining_life.map(to_wire),
            claims_challenge: self.claims_challenge,
        };
        let session = self.connection.open(Doing::Reading).await?;
        let answer = session
            .call(request, async |mut vault, request| vault.tokens.get_access_token(request).await)
            .await?;
        Ok(show(answer))
    }
}

fn show(answer: GetAccessTokenResponse) -> Shown {
    let GetAccessTokenResponse { access_token, token_type, expire_time, scopes, from_cache } = answer;
    Shown::One(vec![
        ("access_token", access_token.into()),
        ("token_type", token_type.into()),
        ("expire_time", time(expire_time)),
        ("scopes", Value::from(scopes)),
        ("from_cache", from_cache.into()),
    ])
}
