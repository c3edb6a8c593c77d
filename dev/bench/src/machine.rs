//! What the machine is and what it does meanwhile: a number without them says nothing.

use std::{collections::BTreeMap, path::Path, process::Command};

use serde::{Deserialize, Serialize};

/// Where it was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Processors.
    pub cores: usize,
    /// What they are.
    pub processor: String,
    /// Of memory.
    pub memory_mib: u64,
    /// Kernel.
    pub kernel: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory =
            field(&read("/proc/meminfo"), "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into()),
            memory_mib: memory.unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// The commit that the work tree stands on, and whether it differs from it.
pub fn commit(root: &Path) -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(root).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".into() };
    // What the benchmark itself writes does not make it another program.
    match git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/bench"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit} with changes"),
    }
}

/// Load average of the last minute.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// Memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    /// Resident, its program's pages included.
    pub resident_mib: f64,
    /// What it has allocated itself.
    pub anonymous_mib: f64,
    /// The most that was ever resident.
    pub peak_mib: f64,
}

/// Of a process that runs; zero of one that does not.
pub fn memory(pid: u32) -> Memory {
    read_memory(&std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default())
}

fn read_memory(status: &str) -> Memory {
    let mib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.unwrap_or(0.0) / 1024.0
    };
    Memory { resident_mib: mib("VmRSS"), anonymous_mib: mib("RssAnon"), peak_mib: mib("VmHWM") }
}

/// Seconds of processor time.
pub fn cpu_seconds(pid: u32) -> f64 {
    read_cpu(&std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default())
}

/// Linux counts in hundredths of a second here (proc(5), USER_HZ), on every architecture of today.
const TICKS: f64 = 100.0;

fn read_cpu(stat: &str) -> f64 {
    // The name in parentheses may hold anything; fields 14 and 15 are counted from behind it.
    let Some((_, rest)) = stat.rsplit_once(')') else { return 0.0 };
    let mut fields = rest.split_whitespace().skip(11).map(|field| field.parse::<f64>().unwrap_or(0.0));
    (fields.next().unwrap_or(0.0) + fields.next().unwrap_or(0.0)) / TICKS
}

/// Seconds that all processors were busy with anything, and that a hypervisor took away.
fn busy_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<f64> =
        text.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    [0, 1, 2, 5, 6, 7].iter().filter_map(|i| fields.get(*i)).sum::<f64>() / TICKS
}

/// Who used the processors between two moments.
pub struct Usage {
    names: BTreeMap<u32, String>,
    at: std::time::Instant,
    busy: f64,
    of: BTreeMap<u32, f64>,
}

impl Usage {
    /// Begins to count, for these processes and this one.
    pub fn begin(processes: impl IntoIterator<Item = (u32, String)>) -> Self {
        let mut names: BTreeMap<u32, String> = processes.into_iter().collect();
        names.insert(std::process::id(), "load generator".into());
        let of = names.keys().map(|pid| (*pid, cpu_seconds(*pid))).collect();
        Self { names, at: std::time::Instant::now(), busy: busy_seconds(), of }
    }

    /// Processors used on average by each of them since, and by everybody else.
    pub fn end(&self) -> BTreeMap<String, f64> {
        let seconds = self.at.elapsed().as_secs_f64().max(0.001);
        let mut used: BTreeMap<String, f64> = BTreeMap::new();
        for (pid, name) in &self.names {
            let before = self.of.get(pid).copied().unwrap_or(0.0);
            *used.entry(name.clone()).or_default() += (cpu_seconds(*pid) - before).max(0.0) / seconds;
        }
        let others = (busy_seconds() - self.busy) / seconds - used.values().sum::<f64>();
        used.insert(OTHERS.into(), others.max(0.0));
        used
    }
}

/// The name of everybody else in [`Usage::end`].
pub const OTHERS: &str = "everything else";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        let status = "Name:\tx\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\nRssAnon:\t    5120 kB\n";
        assert_eq!(read_memory(status), Memory { resident_mib: 10.0, anonymous_mib: 5.0, peak_mib: 20.0 });
        assert_eq!(read_memory(""), Memory::default());
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 3 0 1 1 1";
        assert_eq!((read_cpu(stat), read_cpu("")), (2.0, 0.0));
    }

    #[test]
    fn this_machine_and_this_process_are_seen() {
        let here = Machine::here();
        assert!(here.cores > 0 && here.memory_mib > 100 && here.kernel.contains('.'), "{here:?}");
        let usage = Usage::begin([]);
        let begin = std::time::Instant::now();
        let mut sum = 0_u64;
        while begin.elapsed().as_millis() < 200 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let used = usage.end();
        assert!(used["load generator"] > 0.1 && used.contains_key(OTHERS), "{used:?}");
        assert!(memory(std::process::id()).resident_mib > 1.0);
    }
}
