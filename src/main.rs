//! Parse, dispatch, exit code.

use std::process::ExitCode;

use clap::Parser;
use eventpulse::cli::{Cli, dispatch, exit_code};

fn main() -> ExitCode {
    let ended = dispatch(Cli::parse());
    if let Err(error) = &ended {
        format!("{error:#}").lines().for_each(|line| eprintln!("eventpulse: {line}"));
    }
    exit_code(&ended).into()
}
