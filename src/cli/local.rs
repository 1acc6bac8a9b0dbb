//! The commands that work on this machine and not over the API: `serve`,
//! `config check`, `demo`, `audit verify`, `policy check`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::app::{self, Ambient, App};
use crate::audit::{self, Verified, VerifyError};
use crate::authz;
use crate::config::{Config, Fault};
#[cfg(feature = "demo")]
use crate::config::{Log, LogFormat};
#[cfg(feature = "demo")]
use crate::demo::story;
use crate::domain::chain::error_chain;
use crate::shutdown::Shutdown;
use crate::telemetry;

use super::Exit;
use super::failure::CliFailure;
use super::output::{Record, Shown};

/// Which configuration.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The configuration file.
    #[arg(
        long,
        value_name = "FILE",
        env = "OBO_VAULT_CONFIG",
        hide_env_values = true,
        default_value = CONFIG_FILE,
        value_parser = OsStringValueParser::new().map(given_or_usual),
    )]
    config: PathBuf,
}

const CONFIG_FILE: &str = "obo-vault.toml";

/// An environment variable without a value counts as absent.
fn given_or_usual(file: OsString) -> PathBuf {
    if file.is_empty() { CONFIG_FILE.into() } else { file.into() }
}

/// Serves the API.
#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    file: ConfigFile,
}

impl Serve {
    pub(super) async fn run(self) -> Result<Shown, CliFailure> {
        // From here on SIGHUP no longer ends the process: it comes to nothing while
        // the vault starts, and reloads once it serves.
        let hangups = signal(SignalKind::hangup());
        let config = Config::load(&self.file.config).map_err(|faults| {
            CliFailure::new(
                Exit::Configuration,
                format!("{} is refused:\n{faults}", self.file.config.display()),
            )
        })?;
        telemetry::init(&config.log);
        if let Err(error) = &hangups {
            tracing::error!(%error, "SIGHUP cannot be handled: it would end the vault");
        }
        let shutdown = Shutdown::new();
        let signals = tokio::spawn({
            let shutdown = shutdown.clone();
            async move {
                if let Err(error) = shutdown.wait_for_signal().await {
                    tracing::error!(%error, "signals cannot be handled: shutting down");
                    shutdown.trigger();
                }
            }
        });
        let served = serve(config, shutdown).await;
        signals.abort();
        served.map(|()| Shown::Nothing)
    }
}

/// Serves until the shutdown is over.
async fn serve(config: Config, shutdown: Shutdown) -> Result<(), CliFailure> {
    app::serve(config, shutdown).await.map_err(|e| CliFailure::new(Exit::Configuration, e.to_string()))
}

/// The configuration.
#[derive(Debug, Subcommand)]
pub enum Configuration {
    /// Check all that `serve` checks before it listens; writes and sends nothing.
    Check(ConfigFile),
}

impl Configuration {
    pub(super) fn run(self) -> Result<Shown, CliFailure> {
        match self {
            Self::Check(file) => check_configuration(&file.config),
        }
    }
}

/// One fault or warning a line. What is wrong is a result as well as a failure.
fn check_configuration(file: &Path) -> Result<Shown, CliFailure> {
    let ambient = Ambient::default();
    let (faults, warnings) = match Config::load(file) {
        Ok(config) => {
            let started = App::check(&config, &ambient).into_iter();
            (started.map(|error| (error.doing, error.why)).collect(), named(&config.warnings))
        }
        Err(refused) => (named(refused.faults()), named(refused.warnings())),
    };
    let count = faults.len();
    let rows = |found: Vec<(String, String)>, kind: &'static str| {
        found.into_iter().map(move |(setting, what)| {
            vec![("kind", kind.into()), ("setting", setting.into()), ("what", what.into())] as Record
        })
    };
    let shown = Shown::Many {
        name: "findings",
        records: rows(faults, "fault").chain(rows(warnings, "warning")).collect(),
        beside: vec![("file", file.display().to_string().into()), ("usable", (count == 0).into())],
        columns: &[],
        empty: format!("{}: nothing is wrong with it", file.display()),
    };
    if count == 0 {
        return Ok(shown);
    }
    let what = format!("{} has {count} fault{}", file.display(), if count == 1 { "" } else { "s" });
    let failure = CliFailure::new(Exit::Configuration, what).advice("correct each, and check again");
    Ok(Shown::But(Box::new(shown), failure))
}

fn named(faults: &[Fault]) -> Vec<(String, String)> {
    faults.iter().map(|fault| (fault.path.clone(), fault.what.clone())).collect()
}

/// Shows the vault at work.
#[cfg(feature = "demo")]
#[derive(Debug, Args)]
pub struct Demo {
    /// End after the story instead of staying up.
    #[arg(long)]
    exit: bool,
}

#[cfg(feature = "demo")]
impl Demo {
    pub(super) async fn run(self) -> Result<Shown, CliFailure> {
        let unexpected = |e: &dyn std::fmt::Display| CliFailure::new(Exit::Unexpected, e);
        let directory = tempfile::Builder::new().prefix("obo-vault-demo-").tempdir();
        let directory = directory.map_err(|e| unexpected(&e).advice("no temporary directory can be made"))?;
        let log = directory.path().join("vault.log");
        let file = std::fs::File::create(&log).map_err(|e| unexpected(&e))?;
        telemetry::init_in(&Log { format: LogFormat::Text, level: "warn".into() }, file);

        let shutdown = Shutdown::new();
        let signals = tokio::spawn({
            let shutdown = shutdown.clone();
            async move {
                let hung_up = async {
                    if let Ok(mut hangup) = signal(SignalKind::hangup()) {
                        hangup.recv().await;
                    }
                };
                // Whichever comes first, or neither can be waited for.
                tokio::select! {
                    _ = shutdown.wait_for_signal() => {}
                    // The terminal was closed: the files must go all the same.
                    () = hung_up => {}
                }
                shutdown.trigger();
            }
        });
        let told = tokio::select! {
            told = story::tell(directory.path()) => told,
            () = shutdown.triggered() => return Err(unexpected(&"the demonstration was interrupted")),
        };
        let ended = match told {
            Ok(stage) => {
                if !self.exit {
                    story::invite(&stage);
                    shutdown.triggered().await;
                }
                stage.close().await
            }
            Err(broken) => Err(broken),
        };
        signals.abort();
        ended.map(|()| Shown::Nothing).map_err(|broken| {
            // What went wrong can be looked into.
            let kept = directory.keep();
            unexpected(&broken)
                .advice(format!("its files and its log, vault.log, are kept in {}", kept.display()))
        })
    }
}

/// The audit log.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Find any edit, removal or reorder in an audit log.
    Verify(Verify),
}

/// Checks an audit log.
#[derive(Debug, Args)]
pub struct Verify {
    /// The audit log. Of one that was rotated, name all its files, the oldest
    /// first.
    #[arg(long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The hash of an entry as noted elsewhere, for example the `head` of an
    /// earlier check; without one, a cut end is not found.
    #[arg(long, value_name = "HASH", allow_hyphen_values = true)]
    head: Option<String>,
}

impl Audit {
    pub(super) fn run(self) -> Result<Shown, CliFailure> {
        match self {
            Self::Verify(verify) => verify_audit(&verify).map(Shown::One),
        }
    }
}

fn verify_audit(verify: &Verify) -> Result<Record, CliFailure> {
    let known = verify.head.as_deref().map(str::parse).transpose();
    let known = known.map_err(|e| CliFailure::new(Exit::InvalidArgument, format!("--head: {e}")))?;
    let Verified { entries, head, follows } =
        audit::verify_all(&verify.files, known).map_err(|error| verification_failure(&error))?;
    let mut record = vec![("entries", entries.into()), ("head", head.hash.to_string().into())];
    record.extend(follows.map(|head| ("follows", head.hash.to_string().into())));
    Ok(record)
}

fn verification_failure(error: &VerifyError) -> CliFailure {
    fn exit(error: &VerifyError) -> Exit {
        match error {
            VerifyError::Unreadable(_) => Exit::Configuration,
            VerifyError::Broken { .. }
            | VerifyError::KnownEntryMissing { .. }
            | VerifyError::NotTheNext { .. } => Exit::VerificationFailed,
            VerifyError::In { error, .. } => exit(error),
        }
    }
    CliFailure::new(exit(error), error_chain(error))
}

/// The policy.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Check a policy against the vault's schema.
    Check(Check),
}

/// Checks a policy.
#[derive(Debug, Args)]
pub struct Check {
    /// The policy.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

impl Policy {
    pub(super) fn run(self) -> Result<Shown, CliFailure> {
        match self {
            Self::Check(check) => check_policy(&check).map(Shown::One),
        }
    }
}

fn check_policy(check: &Check) -> Result<Record, CliFailure> {
    let text = std::fs::read_to_string(&check.file).map_err(|e| {
        CliFailure::new(Exit::Configuration, format!("{}: cannot be read: {e}", check.file.display()))
    })?;
    let checked = authz::check(&text).map_err(|error| {
        let failure =
            CliFailure::new(Exit::VerificationFailed, format!("{} is refused", check.file.display()));
        error.faults.iter().fold(failure, |failure, fault| failure.note(fault.to_string()))
    })?;
    let warnings: Vec<String> = checked.warnings.iter().map(ToString::to_string).collect();
    Ok(vec![("policies", checked.policies.into()), ("warnings", warnings.into())])
}
