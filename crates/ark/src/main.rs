//! The `ark` binary.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match ark::cli::run(ark::cli::Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            eprintln!("{:#}", anyhow::Error::from(error));
            code
        }
    }
}
