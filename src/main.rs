//! Parse, dispatch, exit code.

use std::{io::Write as _, process::ExitCode};

use eventpulse::cli::{Cli, dispatch, exit_code};

/// Caches of many small objects that come and go in pieces: of 10,000 incidents glibc's allocator keeps a third more memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let ended = dispatch(Cli::read());
    if let Err(error) = &ended {
        let lines: String = format!("{error:#}").lines().map(|line| format!("eventpulse: {line}\n")).collect();
        // Where nobody can be told the exit code has to do.
        let _ = std::io::stderr().write_all(lines.as_bytes());
    }
    exit_code(&ended).into()
}
