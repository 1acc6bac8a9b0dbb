//! `obo-vault rotation`.

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::proto;
use crate::proto::{DescribeRotationRequest, RotationPhase, RunRotationRequest};

use super::Exit;
use super::advice::Doing;
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
        let session = self.connection.open(Doing::Rotating).await?;
        let request =
            RunRotationRequest { force_new_versions: self.force_new_versions, refresh_all: self.refresh_all };
        let mut reports = session
            .follow(request, async |mut vault, request| vault.rotation.run_rotation(request).await)
            .await?;
        let progress = Progress::start();
        let mut newest = None;
        let reported = loop {
            match reports.message().await {
                Ok(Some(report)) => {
                    if let Some(run) = report.run {
                        progress.show(&run);
                        newest = Some(run);
                    }
                }
                Ok(None) => break Ok(()),
                Err(status) => break Err(session.failed(&status)),
            }
        };
        progress.finish();
        reported?;
        let run = newest.ok_or_else(|| missing("run"))?;
        let failure = failed(&run);
        let shown = Shown::One(record(run));
        Ok(match failure {
            Some(failure) => Shown::But(Box::new(shown), failure),
            None => shown,
        })
    }
}

/// What a run has not done, where there is something.
fn failed(run: &proto::RotationRun) -> Option<CliFailure> {
    if run.phase() != RotationPhase::Done {
        let failure = CliFailure::new(Exit::TryAgain, "the reports ended before the run did");
        return Some(failure.advice("the run goes on, or is resumed: see `obo-vault rotation show`"));
    }
    let counts =
        [(run.refresh_failed, "could not be refreshed"), (run.reseal_failed, "could not be re-sealed")];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<_> = counts
        .map(|(count, what)| {
            format!("{count} sealed {} {what}", if *count == 1 { "token" } else { "tokens" })
        })
        .collect();
    // A token that does not open is damage; a refresh that failed is repeated.
    let exit = match (run.reseal_failed, run.refresh_failed) {
        (0, 0) => return None,
        (0, _) => Exit::TryAgain,
        _ => Exit::Unexpected,
    };
    let failure = CliFailure::new(exit, format!("the run ended with failures: {}", counts.join(", ")));
    let failure = if run.refresh_failed > 0 {
        failure.advice("what was not refreshed stays due: run it again once the provider answers")
    } else {
        failure
    };
    Some(failure.advice("the vault's log and audit log name each grant and why"))
}

impl Show {
    async fn run(self) -> Result<Shown, CliFailure> {
        let session = self.connection.open(Doing::Looking).await?;
        let answer = session
            .call(DescribeRotationRequest {}, async |mut vault, request| {
                vault.rotation.describe_rotation(request).await
            })
            .await?;
        let none = answer.run.is_none();
        let mut shown = answer.run.map(record).unwrap_or_default();
        shown.push(("next_run_time", time(answer.next_run_time)));
        shown.push(("last_tick_time", time(answer.last_tick_time)));
        let shown = Shown::One(shown);
        Ok(if none { Shown::Noted(Box::new(shown), "there was no run yet".to_owned()) } else { shown })
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

    #[test]
    fn a_run_with_failures_is_none_that_went_well() {
        let of = |refresh_failed, reseal_failed| {
            let phase = RotationPhase::Done.into();
            failed(&proto::RotationRun { phase, refresh_failed, reseal_failed, ..Default::default() })
        };
        assert!(of(0, 0).is_none());
        let refresh = of(2, 0).unwrap();
        assert_eq!(refresh.exit(), Exit::TryAgain);
        assert!(refresh.to_string().contains("2 sealed tokens could not be refreshed"), "{refresh}");
        let reseal = of(0, 1).unwrap();
        assert_eq!(reseal.exit(), Exit::Unexpected);
        assert!(reseal.to_string().contains("1 sealed token could not be re-sealed"), "{reseal}");
        assert!(!reseal.to_string().contains("refreshed"), "{reseal}");
        let both = of(1, 3).unwrap().to_string();
        assert!(both.contains("1 sealed token could not be refreshed, 3 sealed tokens could not"), "{both}");
    }

    #[test]
    fn a_run_that_is_not_seen_to_its_end_has_not_ended_well() {
        let run = proto::RotationRun { phase: RotationPhase::Reseal.into(), ..Default::default() };
        assert_eq!(failed(&run).unwrap().exit(), Exit::TryAgain);
    }
}
