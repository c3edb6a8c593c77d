//! Parse, dispatch, exit code.

use std::process::ExitCode;

use clap::Parser;
use eventpulse::cli::{Cli, dispatch, exit_code};

/// Caches of many small objects that come and go in pieces: of 10,000 incidents glibc's allocator keeps a third more memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let ended = dispatch(Cli::parse());
    if let Err(error) = &ended {
        format!("{error:#}").lines().for_each(|line| eprintln!("eventpulse: {line}"));
    }
    exit_code(&ended).into()
}
