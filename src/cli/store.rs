//! `obo-vault store`: what an operator decides about the databases of a vault that
//! is stopped.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::app::stopped::{self, Accepted};
use crate::config::Config;

use super::Exit;
use super::failure::CliFailure;
use super::output::Shown;

/// The databases of a vault that is stopped.
#[derive(Debug, Subcommand)]
pub enum Store {
    /// Go on with a restored vault.db that is older than the vault knows.
    ConfirmRestore(Stopped),
    /// Accept vault.db and keys.db as they are, though they do not belong together.
    Adopt(Stopped),
}

/// The vault whose databases are meant.
#[derive(Debug, Args)]
pub struct Stopped {
    /// The configuration file.
    #[arg(
        long,
        value_name = "FILE",
        env = "OBO_VAULT_CONFIG",
        hide_env_values = true,
        default_value = "obo-vault.toml"
    )]
    config: PathBuf,
}

impl Store {
    pub(super) async fn run(self) -> Result<Shown, CliFailure> {
        let accepted = match self {
            Self::ConfirmRestore(stopped) => stopped::confirm_restore(&stopped.load()?).await,
            Self::Adopt(stopped) => stopped::adopt(&stopped.load()?).await,
        };
        let Accepted { vault, was_older } =
            accepted.map_err(|error| CliFailure::new(Exit::Configuration, error))?;
        Ok(Shown::One(vec![("vault", vault.to_string().into()), ("was_older", was_older.into())]))
    }
}

impl Stopped {
    fn load(&self) -> Result<Config, CliFailure> {
        Config::load(&self.config).map_err(|faults| {
            CliFailure::new(Exit::Configuration, format!("{} is refused:\n{faults}", self.config.display()))
        })
    }
}
