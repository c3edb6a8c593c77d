//! `eventpulse-bench-probe`, run as a program: it has EventPulse's own crates in it, and this one does not.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::run::Options;

/// Where it is built to: beside this program.
pub fn find() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("this program's own file")?;
    let beside = here.parent().unwrap_or(Path::new(".")).join("eventpulse-bench-probe");
    anyhow::ensure!(
        beside.is_file(),
        "{} is not there: `cargo build --release --locked --package eventpulse-bench-probe` builds it (`make bench` does)",
        beside.display()
    );
    Ok(beside)
}

/// Runs it and reads the line that it prints. Dropping the future ends it.
pub async fn run(options: &Options, args: &[&str]) -> anyhow::Result<Value> {
    let mut command = std::process::Command::new(&options.probe);
    eventpulse_env::process::clean(&mut command, Path::new("/"));
    command.args(args);
    let output = tokio::process::Command::from(command).kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("start {}", options.probe.display()))?;
    if !output.status.success() {
        bail!("{}: {}: {}", args.join(" "), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("what `{}` printed", args.join(" ")))
}
