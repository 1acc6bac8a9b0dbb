//! The command line.
//!
//! [`run`] reads the arguments, does one thing, and ends with an [`Exit`].
//! Results go to standard output, as a table or as one JSON document; progress
//! and errors go to standard error. Tokens come in by file or standard input,
//! never as an argument, where every process of the machine could read them.
//!
//! In reading order:
//!
//! - over the API: [`token`], [`grant`], [`tenant`], [`rotation`], with the
//!   connection in [`api`];
//! - on this machine: [`init`], [`store`], and [`local`] with serve, demo, audit
//!   verify and policy check;
//! - [`failure`]: what went wrong, as text and as exit code;
//! - [`output`]: the only place that prints.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod api;
pub mod failure;
pub mod grant;
mod harmless;
pub mod init;
pub mod local;
pub mod output;
pub mod rotation;
pub mod store;
pub mod tenant;
pub mod token;

use failure::CliFailure;
use output::{Output, Shown};

/// How a command ended. docs/CLI.md and `obo-vault --help` list the same codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Something unexpected: a defect, or damage.
    Unexpected = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration is wrong.
    Configuration = 3,
    /// The caller is not known, or may not do that.
    NotPermitted = 4,
    /// What was named does not exist.
    NotFound = 5,
    /// The user, or an operator, must act first.
    MustAct = 6,
    /// Not possible right now.
    TryAgain = 7,
    /// `audit verify` or `policy check` found a fault.
    VerificationFailed = 8,
    /// A value is not valid, or what was to be made exists.
    InvalidArgument = 9,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  something unexpected: a defect, or damage
  2  the command line is wrong
  3  the configuration is wrong
  4  the caller is not known, or may not do that
  5  what was named does not exist
  6  the user, or an operator, must act first
  7  not possible right now: try again
  8  `audit verify` or `policy check` found a fault
  9  a value is not valid, or what was to be made exists";

/// Keeps users' OAuth refresh tokens sealed and hands out access tokens.
#[derive(Debug, Parser)]
#[command(name = "obo-vault", version, after_help = EXIT_CODES, propagate_version = false)]
struct Cli {
    /// How results are written: for people, or as one JSON document.
    #[arg(long, value_enum, default_value_t = Output::Table, global = true, display_order = 900, env = "OBO_VAULT_OUTPUT", hide_env_values = true)]
    output: Output,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a directory with a root key, a configuration and a policy to start from.
    Init(init::Init),
    /// Serve the API until SIGTERM or SIGINT.
    Serve(local::Serve),
    /// Show the vault at work with a provider and certificates of its own.
    #[cfg(feature = "demo")]
    Demo(local::Demo),
    /// Get access tokens.
    #[command(subcommand)]
    Token(token::Token),
    /// Take grants in, show and revoke them.
    #[command(subcommand)]
    Grant(grant::Grant),
    /// Make tenants, rotate their keys, purge them.
    #[command(subcommand)]
    Tenant(tenant::Tenant),
    /// Run the rotation job, or see how it went.
    #[command(subcommand)]
    Rotation(rotation::Rotation),
    /// Decide about the databases of a vault that is stopped.
    #[command(subcommand)]
    Store(store::Store),
    /// Check an audit log.
    #[command(subcommand)]
    Audit(local::Audit),
    /// Check a policy.
    #[command(subcommand)]
    Policy(local::Policy),
}

/// Runs the command that `arguments` name, the first being the program.
pub async fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            output::usage(&error);
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    let exit = match execute(cli.command).await.and_then(|shown| output::show(cli.output, &shown)) {
        Ok(()) => Exit::Ok,
        Err(failure) => {
            output::fail(&failure);
            failure.exit()
        }
    };
    exit.into()
}

/// Ends the process when there is no runtime to run anything on.
#[must_use]
pub fn without_runtime(error: &std::io::Error) -> ExitCode {
    output::fail(&CliFailure::new(Exit::Unexpected, format!("the runtime cannot be started: {error}")));
    Exit::Unexpected.into()
}

async fn execute(command: Command) -> Result<Shown, CliFailure> {
    match command {
        Command::Init(init) => init.run(),
        Command::Serve(serve) => serve.run().await,
        #[cfg(feature = "demo")]
        Command::Demo(demo) => demo.run().await,
        Command::Token(token) => token.run().await,
        Command::Grant(grant) => grant.run().await,
        Command::Tenant(tenant) => tenant.run().await,
        Command::Rotation(rotation) => rotation.run().await,
        Command::Store(store) => store.run().await,
        Command::Audit(audit) => audit.run(),
        Command::Policy(policy) => policy.run(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_exit_codes_are_what_the_help_says() {
        for (line, exit) in EXIT_CODES.lines().skip(1).zip([
            Exit::Ok,
            Exit::Unexpected,
            Exit::Usage,
            Exit::Configuration,
            Exit::NotPermitted,
            Exit::NotFound,
            Exit::MustAct,
            Exit::TryAgain,
            Exit::VerificationFailed,
            Exit::InvalidArgument,
        ]) {
            assert!(line.trim_start().starts_with(&(exit as u8).to_string()), "{line}");
        }
    }
}
