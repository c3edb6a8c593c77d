//! The program: its allocator, and what the command line asks for.

use std::process::ExitCode;

/// Caches of many small objects that come and go in pieces: of 10,000 incidents glibc's allocator keeps a third more memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    eventpulse::cli::main()
}
