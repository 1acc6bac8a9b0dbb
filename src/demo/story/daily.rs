//! Every day: a tenant, a user, and services that ask for tokens.

use crate::proto::{CreateTenantRequest, GrantState};

use super::narrator::Details;
use super::stage::{ADA, CONTOSO, SERVICES, Stage, refused, token_request};
use super::turning::usage_lines;
use super::{Broken, expect};

pub(super) async fn tenant(stage: &Stage) -> Result<Details, Broken> {
    let request = CreateTenantRequest { tenant: CONTOSO.into() };
    stage.caller("operator")?.tenants.create_tenant(request).await?;
    let usage = stage.usage(CONTOSO).await?;
    expect(usage.key_versions.len() == 1, "the tenant has no key, or several")?;
    let mut details = vec!["with a key of its own, wrapped by the root key:".to_owned()];
    details.extend(usage_lines(&usage));
    Ok(details)
}

pub(super) async fn user(stage: &Stage) -> Result<Details, Broken> {
    let grant = stage.exchange(CONTOSO, ADA).await?;
    expect(grant.tenant == CONTOSO && grant.subject == ADA, "the grant is not of the token's user")?;
    expect(grant.state() == GrantState::Active && grant.generation == 1, "the grant is not in use")?;
    expect(stage.provider.stats().obo_exchanges == 1, "the provider has seen no exchange")?;
    Ok(vec![
        "the vault verified it and exchanged it at the provider; the refresh token".to_owned(),
        format!("stays in the vault: generation 1, sealed with key version {}", grant.key_version),
    ])
}

pub(super) async fn ask(stage: &Stage) -> Result<Details, Broken> {
    let mut details = Details::new();
    for service in SERVICES {
        let asked = stage.token(CONTOSO, ADA, service).await?;
        expect(!asked.answer.from_cache, "a token was in memory before anybody asked for it")?;
        details.push(asked.line());
    }
    let grant = stage.grant(CONTOSO, ADA).await?;
    expect(grant.generation == 3, "a refresh token was used that was not replaced")?;
    expect(stage.provider.stats().reuse_detected == 0, "a refresh token was used twice")?;
    details.push("each time the refresh token was used and replaced: generation 3".to_owned());
    Ok(details)
}

pub(super) async fn ask_again(stage: &Stage) -> Result<Details, Broken> {
    let before = stage.provider.stats().token_requests;
    let mut details = Details::new();
    for service in SERVICES {
        let asked = stage.token(CONTOSO, ADA, service).await?;
        expect(asked.answer.from_cache, "the second token did not come from memory")?;
        details.push(asked.line());
    }
    expect(stage.provider.stats().token_requests == before, "the provider was asked again")?;
    Ok(details)
}

pub(super) async fn no_right(stage: &Stage) -> Result<Details, Broken> {
    let [mail, files] = SERVICES;
    let foreign =
        stage.caller(files.caller)?.tokens.get_access_token(token_request(CONTOSO, ADA, mail)).await;
    let foreign = refused(foreign, "NOT_PERMITTED")?;
    let purger = stage.caller("purger")?.tokens.get_access_token(token_request(CONTOSO, ADA, mail)).await;
    let purger = refused(purger, "NOT_PERMITTED")?;
    Ok(vec![
        format!("files asks for the token of mail:      {}", foreign.words()),
        format!("who may purge asks for a token:        {}", purger.words()),
    ])
}
