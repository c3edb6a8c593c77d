//! What the process itself uses, as Linux tells it in `/proc/self`. Elsewhere these metrics stay at 0.

use super::{
    Metrics,
    catalogue::{BUILD_INFO, PROCESS_CPU, PROCESS_FILES, PROCESS_FILES_MAX, PROCESS_MEMORY, PROCESS_START},
};

/// Ticks of a second in `/proc`: Linux has had 100 for user space on every architecture since 2.6 (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;
/// Fields of `/proc/self/stat` behind the name, which stands in brackets and may hold anything (proc_pid_stat(5)).
const UTIME: usize = 11;
const STIME: usize = 12;
const STARTTIME: usize = 19;

/// What does not change.
pub(super) fn describe(metrics: &Metrics) {
    metrics.gauge(&BUILD_INFO, [env!("CARGO_PKG_VERSION")]).set(1);
}

/// What does. A file that cannot be read changes nothing.
pub(super) fn sample(metrics: &Metrics) {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{file}")).unwrap_or_default();
    if let Some((cpu_s, start_s)) = times(&read("self/stat"), &read("stat")) {
        metrics.set_total(&PROCESS_CPU, [], cpu_s);
        metrics.set_amount(&PROCESS_START, [], start_s);
    }
    if let Some(bytes) = resident_bytes(&read("self/status")) {
        metrics.gauge(&PROCESS_MEMORY, []).set(bytes);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        // One of them is this very directory.
        metrics.set(&PROCESS_FILES, [], files.count().saturating_sub(1));
    }
    if let Some(max) = max_files(&read("self/limits")) {
        metrics.gauge(&PROCESS_FILES_MAX, []).set(max);
    }
}

/// CPU seconds, and the start in seconds of the epoch.
fn times(stat: &str, system: &str) -> Option<(f64, f64)> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field)?.parse::<f64>().ok();
    let booted: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let cpu = (ticks(UTIME)? + ticks(STIME)?) / TICKS_PER_SECOND;
    Some((cpu, booted + ticks(STARTTIME)? / TICKS_PER_SECOND))
}

fn resident_bytes(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib.saturating_mul(1024))
}

fn max_files(limits: &str) -> Option<i64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(i64::MAX),
        soft => soft.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_read_as_their_manual_has_them() {
        let stat = "42 (a) name) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9 0 12345 1000 200 1";
        assert_eq!(times(stat, "cpu 1\nbtime 1700000000\nprocesses 3\n"), Some((2.0, 1_700_000_123.45)));
        assert_eq!(resident_bytes("VmPeak:\t 9 kB\nVmRSS:\t    20 kB\n"), Some(20_480));
        assert_eq!(max_files("Limit Soft Hard Units\nMax open files            1024   524288   files\n"), Some(1024));
        for broken in ["", "42 (a", "42 (a) S 1"] {
            assert_eq!(times(broken, "btime 1\n"), None, "{broken}");
        }
        assert_eq!((resident_bytes("VmRSS: many kB"), max_files("Max open files")), (None, None));
    }

    #[test]
    fn this_very_process_uses_something() {
        let metrics = Metrics::of_the_process();
        let text = metrics.encode().unwrap();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap();
            line.parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e6, "{text}");
        assert!(value("process_open_fds") > 2.0 && value("process_max_fds") > 2.0, "{text}");
        assert!(value("process_start_time_seconds") > 1.6e9, "{text}");
        assert!(value("process_cpu_seconds_total") >= 0.0, "{text}");
        assert!(text.contains(&format!("eventpulse_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"))));
    }
}
