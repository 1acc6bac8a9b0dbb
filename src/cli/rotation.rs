//! `obo-vault rotation`.

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::proto;
use crate::proto::{DescribeRotationRequest, RotationPhase, RunRotationRequest};

use super::api::{Connection, missing};
use super::failure::CliFailure;
use super::output::{Record, Shown, state, text, time};

/// The rotation job.
#[derive(Debug, Subcommand)]
pub enum Rotation {
    /// Start a run, or join the one under way, and follow it to its end.
    Run(Run),
    /// Show the newest run and when the next is due.
    Show(Show),
}

/// Starts a run.
#[derive(Debug, Args)]
pub struct Run {
    /// Make a new key version for every active tenant, due or not.
    #[arg(long)]
    force_new_versions: bool,
    /// Refresh every active grant, due or not.
    #[arg(long)]
    refresh_all: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Shows the newest run.
#[derive(Debug, Args)]
pub struct Show {
    #[command(flatten)]
    connection: Connection,
}

impl Rotation {
    pub(super) async fn run(self) -> Result<Shown, CliFailure> {
        match self {
            Self::Run(run) => run.run().await,
            Self::Show(show) => show.run().await,
        }
    }
}

impl Run {
    async fn run(self) -> Result<Shown, CliFailure> {
        let mut client = self.connection.open().await?;
        let request =
            RunRotationRequest { force_new_versions: self.force_new_versions, refresh_all: self.refresh_all };
        let mut reports = client.rotation.run_rotation(request).await?.into_inner();
        let progress = Progress::start();
        let mut newest = None;
        while let Some(report) = reports.message().await? {
            if let Some(run) = report.run {
                progress.show(&run);
                newest = Some(run);
            }
        }
        progress.finish();
        Ok(Shown::One(record(newest.ok_or_else(|| missing("run"))?)))
    }
}

impl Show {
    async fn run(self) -> Result<Shown, CliFailure> {
        let mut client = self.connection.open().await?;
        let answer = client.rotation.describe_rotation(DescribeRotationRequest {}).await?.into_inner();
        let mut shown = answer.run.map(record).unwrap_or_default();
        shown.push(("next_run_time", time(answer.next_run_time)));
        shown.push(("last_tick_time", time(answer.last_tick_time)));
        Ok(Shown::One(shown))
    }
}

/// A bar on standard error; nothing where that is no terminal.
struct Progress(ProgressBar);

impl Progress {
    fn start() -> Self {
        let bar = ProgressBar::new(0);
        // The template is a constant; were it wrong, the default bar would do.
        if let Ok(style) = ProgressStyle::with_template("{msg:13} [{bar:40}] {pos}/{len} {elapsed}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(bar)
    }

    fn show(&self, run: &proto::RotationRun) {
        let (name, done, total) = step(run);
        self.0.set_message(name);
        self.0.set_length(total);
        self.0.set_position(done);
    }

    fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// What the run is doing, how far it is, and how far it has to go.
fn step(run: &proto::RotationRun) -> (&'static str, u64, u64) {
    let resealed = run.resealed.saturating_add(run.reseal_failed);
    match run.phase() {
        RotationPhase::Unspecified => ("starting", 0, 0),
        RotationPhase::NewVersions => ("new versions", run.versions_created, run.versions_created),
        RotationPhase::Refresh => {
            ("refreshing", run.refreshed.saturating_add(run.refresh_failed), run.refresh_total)
        }
        RotationPhase::Reseal => ("re-sealing", resealed, run.reseal_total),
        RotationPhase::Retire => ("retiring", run.versions_destroyed, run.versions_destroyed),
        RotationPhase::Done => ("done", run.reseal_total, run.reseal_total),
    }
}

fn record(run: proto::RotationRun) -> Record {
    let word = state(run.phase().as_str_name(), "ROTATION_PHASE_");
    let proto::RotationRun {
        run_id,
        phase: _,
        trigger,
        start_time,
        end_time,
        versions_created,
        refresh_total,
        refreshed,
        refresh_failed,
        reseal_total,
        resealed,
        reseal_failed,
        versions_destroyed,
    } = run;
    vec![
        ("run_id", run_id.into()),
        ("phase", word),
        ("trigger", text(trigger)),
        ("start_time", time(start_time)),
        ("end_time", time(end_time)),
        ("versions_created", versions_created.into()),
        ("refresh_total", refresh_total.into()),
        ("refreshed", refreshed.into()),
        ("refresh_failed", refresh_failed.into()),
        ("reseal_total", reseal_total.into()),
        ("resealed", resealed.into()),
        ("reseal_failed", reseal_failed.into()),
        ("versions_destroyed", versions_destroyed.into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_as_progress_so_that_the_bar_ends() {
        let run = proto::RotationRun {
            phase: RotationPhase::Refresh.into(),
            refresh_total: 5,
            refreshed: 3,
            refresh_failed: 2,
            ..Default::default()
        };
        assert_eq!(step(&run), ("refreshing", 5, 5));
    }
}
