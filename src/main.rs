//! Parse, dispatch, exit code.

use std::process::ExitCode;

use clap::Parser;
use eventpulse::cli::{Cli, dispatch};

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("eventpulse: {error:#}");
            ExitCode::FAILURE
        }
    }
}
