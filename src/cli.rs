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
//! - on this machine: [`init`], [`store`], and [`local`] with serve, config check, demo,
//!   audit verify and policy check;
//! - [`failure`]: what went wrong, as text and as exit code, with `advice` on
//!   what to do;
//! - [`output`]: the only place that prints, with `table`.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

mod advice;
pub mod api;
pub mod failure;
pub mod grant;
mod harmless;
pub mod init;
pub mod local;
pub mod output;
pub mod rotation;
pub mod store;
mod table;
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
    /// The result could not be written.
    OutputLost = 10,
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
  3  the configuration is wrong, a file it needs, or how caller and vault connect
  4  the caller is not known, or may not do that
  5  what was named does not exist
  6  the user, or an operator, must act first
  7  not possible right now: try again
  8  `audit verify` or `policy check` found a fault
  9  a value is not valid, or what was to be made exists
 10  the result could not be written, for example to a full disk";

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
    /// Check a configuration.
    #[command(subcommand)]
    Config(local::Configuration),
    /// Check a policy.
    #[command(subcommand)]
    Policy(local::Policy),
}

/// Runs the command that `arguments` name, the first being the program.
pub async fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let parsed = without_empty_variables(Cli::command())
        .try_get_matches_from(&arguments)
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return output::usage(wanted_output(&arguments), &error).into(),
    };
    let exit = match execute(cli.command).await.and_then(|shown| output::show(cli.output, shown)) {
        Ok(()) => Exit::Ok,
        Err(failure) => {
            output::fail(cli.output, &failure);
            failure.exit()
        }
    };
    exit.into()
}

/// A variable that is set to nothing says nothing, as `unset` does: so scripts
/// and unit files pass on what they were not given.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|argument| {
        let empty = argument.get_env().is_some_and(is_empty);
        if empty { argument.env(Resettable::Reset) } else { argument }
    });
    command.mut_subcommands(without_empty_variables)
}

#[expect(clippy::disallowed_methods, reason = "one of the two homes of the environment")]
fn is_empty(variable: &std::ffi::OsStr) -> bool {
    std::env::var_os(variable).is_some_and(|value| value.is_empty())
}

/// How errors are written when the command line could not be read.
#[expect(clippy::disallowed_methods, reason = "one of the two homes of the environment")]
fn wanted_output(arguments: &[OsString]) -> Output {
    let given = arguments.iter().zip(arguments.iter().skip(1).map(Some).chain([None])).filter_map(
        |(a, next)| match a.to_str()? {
            "--output" => next.and_then(|next| next.to_str()),
            other => other.strip_prefix("--output="),
        },
    );
    let variable = std::env::var_os("OBO_VAULT_OUTPUT");
    let wanted = given.last().or_else(|| variable.as_ref().and_then(|value| value.to_str()));
    if wanted == Some("json") { Output::Json } else { Output::Table }
}

/// Ends the process when there is no runtime to run anything on.
#[must_use]
pub fn without_runtime(error: &std::io::Error) -> ExitCode {
    let failure = CliFailure::new(Exit::Unexpected, format!("the runtime cannot be started: {error}"))
        .advice("the machine is short of threads, memory or file descriptors");
    output::fail(Output::Table, &failure);
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
        Command::Config(configuration) => configuration.run(),
        Command::Policy(policy) => policy.run(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wish_for_json_is_heard_in_a_command_line_that_is_wrong() {
        let wanted = |line: &str| wanted_output(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(wanted("obo-vault --output json frobnicate"), Output::Json);
        assert_eq!(wanted("obo-vault frobnicate --output=json"), Output::Json);
        assert_eq!(wanted("obo-vault frobnicate --output table"), Output::Table);
        assert_eq!(wanted("obo-vault frobnicate --output"), Output::Table);
    }

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
            Exit::OutputLost,
        ]) {
            assert!(line.trim_start().starts_with(&format!("{} ", exit as u8)), "{line}");
        }
        assert_eq!(EXIT_CODES.lines().count(), 12);
    }
}
