//! A thief with the databases, and a provider that wants more of the user.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::demo::stand::Files;
use crate::proto::GrantState;

use super::narrator::Details;
use super::stage::{ADA, CONTOSO, SERVICES, Stage, refused, token_request};
use super::turning::users;
use super::{Broken, expect};

pub(super) async fn thief(stage: &Stage) -> Result<Details, Broken> {
    let directory = stage.files.directory().join("stolen");
    std::fs::create_dir(&directory).map_err(Broken::because("the thief has no directory"))?;
    let loot = steal(&stage.files, &directory)?;

    let mut kibibytes = 0;
    let mut text = String::new();
    for file in &loot {
        let bytes = std::fs::read(file).map_err(Broken::because("the copy cannot be read"))?;
        kibibytes += bytes.len() / 1024;
        // Tokens are ASCII; whatever is not cannot be part of one.
        text.extend(bytes.iter().map(|&byte| if byte.is_ascii() { char::from(byte) } else { '\0' }));
    }
    let mut tokens = stage.handed_out();
    tokens.sort_unstable();
    tokens.dedup();
    for user in users() {
        let token = stage.provider.current_refresh_token(&user, "vault");
        tokens.push(token.ok_or_else(|| Broken::new(format!("{user} has no living grant")))?);
    }
    expect(text.contains(ADA), "the copy does not even hold the names: something else was copied")?;
    expect(!tokens.iter().any(|token| text.contains(token)), "a token is in the databases in plain text")?;

    let asked_before = stage.provider.stats().token_requests;
    let refusal = match stage.another_vault(&directory).await {
        Ok(_) => return Err(Broken::new("a vault with another root key has started on the copy")),
        Err(refusal) => refusal.to_string(),
    };
    expect(
        refusal.contains("put back the root key"),
        format!("it was refused for another reason: {refusal}"),
    )?;
    expect(stage.provider.stats().token_requests == asked_before, "the thief's vault has sent something")?;

    Ok(vec![
        format!(
            "{kibibytes} KiB hold the users' names, but none of their {} tokens in plain text",
            tokens.len()
        ),
        "a vault with another root key refuses to start on it: no key opens".to_owned(),
    ])
}

/// Copies both databases with their logs, but not the root key.
fn steal(files: &Files, to: &Path) -> Result<Vec<PathBuf>, Broken> {
    let names = ["vault.db", "vault.db-wal", "keys.db", "keys.db-wal"];
    let found: Vec<&str> = names.into_iter().filter(|name| files.directory().join(name).exists()).collect();
    // A process of its own: closing a file drops every POSIX lock that this
    // process has on it, and with them those of the running vault.
    let copied =
        Command::new("cp").args(found.iter().map(|name| files.directory().join(name))).arg(to).status();
    let copied = copied.map_err(Broken::because("cp cannot be run"))?;
    expect(copied.success(), "cp failed")?;
    Ok(found.into_iter().map(|name| to.join(name)).collect())
}

pub(super) async fn mfa(stage: &Stage) -> Result<Details, Broken> {
    stage.provider.require_mfa(ADA, true);
    // The access tokens live for an hour.
    stage.pass_time(Duration::from_secs(62 * 60));
    let answer =
        stage.caller("mail")?.tokens.get_access_token(token_request(CONTOSO, ADA, SERVICES[0])).await;
    let refusal = refused(answer, "INTERACTION_REQUIRED")?;
    let claims = refusal.interaction.as_ref().map(|interaction| interaction.claims.as_str());
    let claims = claims.filter(|claims| !claims.is_empty());
    let claims = claims.ok_or_else(|| Broken::new("the refusal carries no claims"))?;
    expect(serde_json::from_str::<serde_json::Value>(claims).is_ok(), "the claims are not JSON")?;
    expect(stage.grant(CONTOSO, ADA).await?.state() == GrantState::Reauth, "the grant is not REAUTH")?;
    Ok(vec![
        "62 minutes later (the clock was moved) the token in memory has expired:".to_owned(),
        format!("{}; to sign in with:", refusal.words()),
        claims.to_owned(),
    ])
}

pub(super) async fn back(stage: &Stage) -> Result<Details, Broken> {
    stage.provider.require_mfa(ADA, false);
    let grant = stage.exchange(CONTOSO, ADA).await?;
    expect(grant.state() == GrantState::Active, "the grant is not in use again")?;
    let asked = stage.token(CONTOSO, ADA, SERVICES[0]).await?;
    Ok(vec![asked.line()])
}
