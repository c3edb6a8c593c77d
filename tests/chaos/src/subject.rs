//! EventPulse as it is released, but that it kills itself at a point of its code: the one that a variable names.

use std::process::ExitCode;

use eventpulse::{cli, crash_points};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    if let Err(unknown) = crash_points::choose_from_environment() {
        eprintln!("eventpulse-with-crash-points: {unknown}");
        return ExitCode::from(2);
    }
    cli::main()
}
