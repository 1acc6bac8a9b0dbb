//! Keys rotate while tokens refresh, and services notice nothing.

use futures_util::{StreamExt as _, TryStreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::proto::{
    DescribeTenantKeysResponse, KeyState, KeyVersion, RotationPhase, RotationRun, RunRotationRequest,
};

use super::narrator::Details;
use super::stage::{ADA, CONTOSO, SERVICES, Stage};
use super::{Broken, expect};

const CROWD: u32 = 40;
/// Exchanges under way at once.
const AT_ONCE: usize = 8;

pub(super) async fn crowd(stage: &Stage) -> Result<Details, Broken> {
    futures_util::stream::iter(1..=CROWD)
        .map(|number| async move { stage.exchange(CONTOSO, &user(number)).await.map(drop) })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    Ok(vec!["on behalf of each, as with ada".to_owned()])
}

/// The users of the tenant.
pub(super) fn users() -> impl Iterator<Item = String> {
    std::iter::once(ADA.to_owned()).chain((1..=CROWD).map(user))
}

fn user(number: u32) -> String {
    format!("user-{number:02}")
}

pub(super) async fn rotate(stage: &Stage) -> Result<Details, Broken> {
    let before = stage.usage(CONTOSO).await?;
    let over = CancellationToken::new();
    let (run, answered) = tokio::join!(
        async {
            let run = run_rotation(stage).await;
            over.cancel();
            run
        },
        keep_asking(stage, &over),
    );
    let (run, answered) = (run?, answered?);
    let after = stage.usage(CONTOSO).await?;

    let grants = u64::from(CROWD) + 1;
    expect(run.refreshed == grants, format!("{} of {grants} grants were refreshed", run.refreshed))?;
    expect(run.reseal_failed == 0, "a sealed token could not be opened")?;
    let [old, new] = after.key_versions.as_slice() else {
        return Err(Broken::new("there should be two key versions now"));
    };
    expect(old.state() == KeyState::Destroyed && old.sealed_values == 0, "version 1 is still there")?;
    expect(new.state() == KeyState::Active && new.sealed_values == grants, "version 2 does not seal all")?;
    expect(stage.provider.stats().reuse_detected == 0, "a refresh token was used twice")?;

    let mut details = vec!["before:".to_owned()];
    details.extend(usage_lines(&before));
    details.push("after:".to_owned());
    details.extend(usage_lines(&after));
    details.push(format!(
        "{} refreshed, sealed with version 2; {} re-sealed; {} key version destroyed",
        run.refreshed, run.resealed, run.versions_destroyed,
    ));
    details.push(format!("meanwhile mail asked {answered} times for ada's token and always got it"));
    Ok(details)
}

async fn run_rotation(stage: &Stage) -> Result<RotationRun, Broken> {
    let request = RunRotationRequest { force_new_versions: true, refresh_all: true };
    let mut reports = stage.caller("rotator")?.rotation.run_rotation(request).await?.into_inner();
    let bar = ProgressBar::new(u64::from(CROWD) + 1);
    // The template is a constant; were it wrong, the default bar would do.
    if let Ok(style) = ProgressStyle::with_template("    refreshing [{bar:40}] {pos}/{len}") {
        bar.set_style(style.progress_chars("=> "));
    }
    let mut newest = None;
    while let Some(report) = reports.message().await? {
        if let Some(run) = report.run {
            bar.set_length(run.refresh_total.max(1));
            bar.set_position(run.refreshed);
            newest = Some(run);
        }
    }
    bar.finish_and_clear();
    let run = newest.ok_or_else(|| Broken::new("the rotation reported nothing"))?;
    expect(run.phase() == RotationPhase::Done, "the rotation did not end")?;
    Ok(run)
}

/// One answer after the other until it is over; each must be a token.
async fn keep_asking(stage: &Stage, over: &CancellationToken) -> Result<u64, Broken> {
    let mut answered = 0;
    while !over.is_cancelled() {
        stage.token(CONTOSO, ADA, SERVICES[0]).await?;
        answered += 1;
    }
    expect(answered > 0, "mail never asked")?;
    Ok(answered)
}

/// The key versions, a line each.
pub(super) fn usage_lines(usage: &DescribeTenantKeysResponse) -> Details {
    let line = |key: &KeyVersion| {
        let state = key.state().as_str_name().trim_start_matches("KEY_STATE_");
        let (version, id, sealed) = (key.version, &key.key_id, key.sealed_values);
        format!("  version {version}  {state:9}  id {id}  seals {sealed:>2} tokens")
    };
    usage.key_versions.iter().map(line).collect()
}
