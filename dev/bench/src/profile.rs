//! Where the processor's time goes: `perf record` on EventPulse while the load runs, where `--profile` asks for it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use eventpulse_env::process::clean;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::{
    outcome::{Bus, Outcome},
    stage::say,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// How many functions are told.
const FUNCTIONS: usize = 25;

/// Whether to profile, and where the whole reports are put.
#[derive(Clone, Debug)]
pub struct Profiler(pub Option<PathBuf>);

/// A recording that goes on.
pub struct Recording(Option<(Child, PathBuf)>);

impl Profiler {
    /// Begins to record a process.
    pub fn begin(&self, scenario: &str, bus: Bus, pid: u32) -> anyhow::Result<Recording> {
        let Some(dir) = &self.0 else { return Ok(Recording(None)) };
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let file = dir.join(format!("{scenario}-{bus}.perf"));
        let mut command = perf(dir);
        command
            .args(["record", "--quiet", "--freq=199", "--call-graph=fp", &format!("--pid={pid}"), "--output"])
            .arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().context("start perf (linux-perf) for --profile")?;
        Ok(Recording(Some((child, file))))
    }
}

impl Recording {
    /// Ends it, and puts the functions that took most into the outcome's notes. A profile that fails spoils no measurement.
    pub async fn end(self, outcome: &mut Outcome) {
        let Some((child, file)) = self.0 else { return };
        match report(child, &file).await {
            Ok(functions) => outcome.notes.push(format!("Where EventPulse's processor time went (perf): {functions}.")),
            Err(error) => outcome.notes.push(format!("No profile: {error:#}.")),
        }
    }
}

async fn report(mut child: Child, file: &Path) -> anyhow::Result<String> {
    let pid = child.id().context("perf has ended")?;
    // As Ctrl-C does: it writes what it has.
    let pid = Pid::from_raw(i32::try_from(pid)?).context("a pid")?;
    kill_process(pid, Signal::INT)?;
    tokio::time::timeout(PATIENCE, child.wait()).await.context("perf does not end")??;
    let dir = file.parent().unwrap_or(Path::new("/"));
    let mut command = perf(dir);
    command
        .args(["report", "--stdio", "--no-children", "--percent-limit=0.3", "--call-graph=none", "--input"])
        .arg(file);
    let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await.context("perf report")??;
    anyhow::ensure!(output.status.success(), "perf report: {}", String::from_utf8_lossy(&output.stderr).trim());
    let text = String::from_utf8_lossy(&output.stdout);
    let whole = file.with_extension("txt");
    std::fs::write(&whole, text.as_bytes()).with_context(|| format!("write {}", whole.display()))?;
    say(&format!("profile in {}", whole.display()));
    Ok(functions(&text).join(", "))
}

fn perf(dir: &Path) -> Command {
    let mut command = std::process::Command::new("perf");
    clean(&mut command, dir);
    Command::from(command)
}

/// Lines like `  12.34%  tokio-rt  eventpulse  [.] name`.
fn functions(report: &str) -> Vec<String> {
    let function = |line: &str| {
        let percent = line.split_whitespace().next()?.strip_suffix('%')?;
        let (_, name) = line.split_once("[.] ").or_else(|| line.split_once("[k] "))?;
        let name: String = name.trim().chars().take(90).collect();
        Some(format!("{percent} % `{name}`"))
    };
    report.lines().filter(|line| !line.starts_with('#')).filter_map(function).take(FUNCTIONS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_of_a_report_are_told() {
        let report = "# Overhead  Command\n\n    12.34%  tokio-rt-worker  eventpulse     [.] sha2::compress256\n     3.00%  rules  \
                      [kernel.kallsyms]  [k] __fdget\n\n";
        assert_eq!(functions(report), ["12.34 % `sha2::compress256`", "3.00 % `__fdget`"]);
        assert!(functions("").is_empty());
    }
}
