//! The binary: a runtime, and the command line on it.

use std::process::ExitCode;

use obo_vault::cli;

fn main() -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(cli::run(std::env::args_os())),
        Err(error) => cli::without_runtime(&error),
    }
}
