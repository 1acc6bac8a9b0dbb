//! The end of a tenant, and the audit log of it all.

use crate::audit;
use crate::proto::{CreateTenantRequest, PurgeTenantNowRequest, PurgeTenantNowResponse};

use super::narrator::Details;
use super::stage::{ADA, CONTOSO, SERVICES, Stage, refused, token_request};
use super::turning::users;
use super::{Broken, expect};

/// The tenant that is there when the story is over.
pub(super) const FABRIKAM: &str = "fabrikam";
/// Its user.
pub(super) const GRACE: &str = "grace";

pub(super) async fn purge(stage: &Stage) -> Result<Details, Broken> {
    let request = PurgeTenantNowRequest { tenant: CONTOSO.into(), confirm: CONTOSO.into() };
    let PurgeTenantNowResponse {
        key_versions_destroyed,
        grants_deleted,
        live_erase_time,
        trial_open_failed,
        already_purged,
    } = stage.caller("purger")?.tenants.purge_tenant_now(request).await?.into_inner();
    let grants = u64::try_from(users().count()).unwrap_or(0);
    expect(grants_deleted == grants, format!("{grants_deleted} of {grants} grants were deleted"))?;
    expect(key_versions_destroyed == 2, "not every key version was destroyed")?;
    expect(trial_open_failed, "no sealed token was tried with the keys gone")?;
    expect(!already_purged, "somebody has purged the tenant before")?;
    expect(live_erase_time.is_some(), "the keys are not gone from the files")?;
    Ok(vec![
        format!("{key_versions_destroyed} key versions destroyed, gone from the files and their logs"),
        format!("{grants_deleted} grants deleted; a sealed token, tried with the keys gone, did not open"),
    ])
}

pub(super) async fn nothing_opens(stage: &Stage) -> Result<Details, Broken> {
    let [mail, _] = SERVICES;
    let token = stage.caller(mail.caller)?.tokens.get_access_token(token_request(CONTOSO, ADA, mail)).await;
    let token = refused(token, "TENANT_PURGED")?;
    let exchange = stage.exchange_request(CONTOSO, ADA);
    let exchange =
        refused(stage.caller("web")?.grants.exchange_on_behalf_of(exchange).await, "TENANT_PURGED")?;
    let again = CreateTenantRequest { tenant: CONTOSO.into() };
    let again = refused(stage.caller("operator")?.tenants.create_tenant(again).await, "TENANT_PURGED")?;
    Ok(vec![
        format!("mail asks for the token it had:        {}", token.words()),
        format!("web hands in a new token of ada's:     {}", exchange.words()),
        format!("the operator takes the name again:     {}", again.words()),
    ])
}

pub(super) async fn new_tenant(stage: &Stage) -> Result<Details, Broken> {
    let request = CreateTenantRequest { tenant: FABRIKAM.into() };
    stage.caller("operator")?.tenants.create_tenant(request).await?;
    stage.exchange(FABRIKAM, GRACE).await?;
    let mut details = Details::new();
    for service in SERVICES {
        details.push(stage.token(FABRIKAM, GRACE, service).await?.line());
    }
    Ok(details)
}

#[expect(clippy::unused_async, reason = "every step is a future")]
pub(super) async fn audit(stage: &Stage) -> Result<Details, Broken> {
    let verified = audit::verify(&stage.files.directory().join("audit.jsonl"), None);
    let verified = verified.map_err(Broken::because("the audit log is not in order"))?;
    let hash = verified.head.hash.to_string();
    let head = hash.get(..8).unwrap_or(&hash);
    Ok(vec![format!("{} entries, each chained to the one before; last hash {head}…", verified.entries)])
}
