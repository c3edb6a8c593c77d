//! A child process: its log in a file, its pid recorded, a deadline on every wait, and its last lines when it dies.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::Display,
    fs::{File, OpenOptions},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::{Mutex, OnceLock, PoisonError, mpsc},
    time::Duration,
};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep},
};

use crate::{
    error::{Error, Result, at},
    ports::listens,
};

const LAST_LINES: usize = 15;
const POLL: Duration = Duration::from_millis(20);
const INTERRUPT_LAG: Duration = Duration::from_millis(200);
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// All that a child sees of the caller's environment: where programs and temporary files are, how texts and times are written, and
/// what a coverage run needs. Anything else could lead it to a cluster, a broker, an account, a proxy or a collector that is not the
/// environment's, or change what a part does (`ETCD_…`, `EVENTPULSE_…`, `OTEL_…`).
const KEPT: [&str; 12] = [
    "PATH",
    "TMPDIR",
    "USER",
    "LOGNAME",
    "TERM",
    "TZ",
    "LANG",
    "LANGUAGE",
    "JAVA_HOME",
    "LD_LIBRARY_PATH",
    "RUST_BACKTRACE",
    "LLVM_PROFILE_FILE",
];

/// What to start.
#[derive(Clone, Debug)]
pub struct Spec {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    dir: PathBuf,
    detached: bool,
}

impl Spec {
    /// `dir` is where it runs and where its log `<name>.log` and pid file `<name>.pid` are kept; it is its home directory too.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, dir: impl Into<PathBuf>) -> Self {
        let (name, program, dir) = (name.into(), program.into(), dir.into());
        Self { name, program, args: Vec::new(), env: BTreeMap::new(), dir, detached: false }
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// More arguments.
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// A variable of its environment.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// It outlives this process (`env-up`, `KEEP=1`). Otherwise the kernel ends it when this process dies, however it dies.
    pub fn detached(mut self, detached: bool) -> Self {
        self.detached = detached;
        self
    }

    /// The log's place.
    pub fn log(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.name))
    }

    fn command(&self) -> Result<Command> {
        let mut command =
            if self.detached { Command::new(&self.program) } else { bound_to_this_process(&self.program)? };
        // Ctrl-C is for the program in the foreground, which then stops its parts itself.
        command.process_group(0);
        let log = OpenOptions::new().create(true).append(true).open(self.log()).map_err(at(self.log()))?;
        let errors = log.try_clone().map_err(at(self.log()))?;
        clean(&mut command, &self.dir);
        command.args(&self.args).current_dir(&self.dir).envs(&self.env);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        Ok(command)
    }
}

/// A command that the kernel ends when this process dies, however it dies: setpriv (util-linux) sets the parent-death signal and
/// becomes the program, so that the pid stays the same. Without setpriv nothing is started, because it would be left behind.
pub(crate) fn bound_to_this_process(program: &Path) -> Result<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/bin".into(), "/bin".into()]);
    let Some(setpriv) = places.map(|dir| dir.join("setpriv")).find(|file| file.is_file()) else {
        let what =
            "setpriv is not there, which ends the parts of the environment when the program dies that started them";
        return Err(Error::Missing { what: what.into(), remedy: "install util-linux".into() });
    };
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    Ok(command)
}

/// Gives a command an environment that leads it nowhere else; `home` is its home directory. Variables of its own come after this.
pub fn clean(command: &mut Command, home: &Path) {
    clean_from(command, home, std::env::vars_os());
}

fn clean_from(command: &mut Command, home: &Path, caller: impl IntoIterator<Item = (OsString, OsString)>) {
    let kept = |name: &OsString| name.to_str().is_some_and(|name| KEPT.contains(&name) || name.starts_with("LC_"));
    command.env_clear().envs(caller.into_iter().filter(|(name, _)| kept(name)));
    command.env("HOME", home).env("NO_PROXY", "*").env("no_proxy", "*");
}

/// A running child. Dropping it ends it, unless it is detached.
pub struct Process {
    spec: Spec,
    pid: u32,
    child: Mutex<Child>,
}

impl Process {
    /// Starts it and records its pid.
    pub fn spawn(spec: Spec) -> Result<Self> {
        let command = spec.command()?;
        let child =
            spawn_from_a_lasting_thread(command).map_err(|source| Error::Spawn { name: spec.name.clone(), source })?;
        let pid = child.id();
        let record = record_of(&spec);
        // One that has ended already is recorded too: as one that is gone.
        let started = start_time(pid).unwrap_or_else(|| "ended".into());
        std::fs::write(&record, format!("{pid} {started}\n")).map_err(at(record))?;
        Ok(Self { spec, pid, child: Mutex::new(child) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its exit status, once it has ended.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().ok().flatten()
    }

    /// The whole log.
    pub fn log(&self) -> String {
        std::fs::read(self.spec.log()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The log's end.
    pub fn last_lines(&self) -> String {
        last_lines(&self.log())
    }

    /// Sends a signal, to this very process.
    pub fn signal(&self, signal: Signal) {
        if self.exited().is_none() {
            send(self.pid, signal);
        }
    }

    /// SIGSTOP: it is frozen.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: it goes on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        let _ = self.child.lock().unwrap_or_else(PoisonError::into_inner).wait();
        self.forget();
    }

    /// It was ended: its record goes, unless it is already that of its successor.
    fn forget(&self) {
        let record = record_of(&self.spec);
        if read_record(&record).is_some_and(|(pid, _)| pid == self.pid) {
            let _ = std::fs::remove_file(record);
        }
    }

    /// SIGTERM; SIGKILL after the deadline.
    pub async fn stop(&self, timeout: Duration) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        self.thaw();
        let deadline = Instant::now() + timeout;
        while self.exited().is_none() && Instant::now() < deadline {
            sleep(POLL).await;
        }
        self.kill();
        self.exited()
    }

    /// Starts it again as it was, after it has ended.
    pub fn respawn(&self) -> Result<Self> {
        Self::spawn(self.spec.clone())
    }

    /// Waits until `ready` says so. Fails when the process ends before, or at the deadline, with the log's last lines.
    pub async fn wait_for<F>(&self, what: &str, timeout: Duration, mut ready: F) -> Result<()>
    where
        F: AsyncFnMut() -> bool,
    {
        let deadline = Instant::now() + timeout;
        loop {
            if ready().await {
                return Ok(());
            }
            if let Some(status) = self.exited() {
                return Err(Error::Died {
                    name: self.spec.name.clone(),
                    status: status.to_string(),
                    lines: self.last_lines(),
                });
            }
            if Instant::now() >= deadline {
                let (name, what) = (self.spec.name.clone(), what.to_owned());
                return Err(Error::Timeout { name, what, seconds: timeout.as_secs(), lines: self.last_lines() });
            }
            sleep(POLL).await;
        }
    }

    /// Waits until it, and nobody else, listens on a port.
    pub async fn wait_for_port(&self, port: u16, timeout: Duration) -> Result<()> {
        let what = format!("listening on port {port}");
        self.wait_for(&what, timeout, async || listens(self.pid, port)).await
    }

    /// Waits until its log holds a text.
    pub async fn wait_for_log(&self, text: &str, timeout: Duration) -> Result<()> {
        self.wait_for(&format!("the line {text:?}"), timeout, async || self.log().contains(text)).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.spec.detached {
            self.kill();
        }
    }
}

/// Does a program's work to its end, or until Ctrl-C (SIGINT), SIGTERM, or SIGHUP because its terminal is closed: then `work` is
/// dropped, and with it what it has started. Gives the exit code that shells expect, and says on standard error why it is not 0.
pub async fn until_interrupted<E: Display>(work: impl Future<Output = Result<(), E>>) -> ExitCode {
    // Under nohup a closed terminal is no reason to end, and a handler would take that back.
    let hangup = (!is_ignored(Signal::HUP)).then(|| signal(SignalKind::hangup())).transpose();
    let (mut interrupt, mut terminate, mut hangup) =
        match (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), hangup) {
            (Ok(interrupt), Ok(terminate), Ok(hangup)) => (interrupt, terminate, hangup),
            (Err(error), _, _) | (_, Err(error), _) | (_, _, Err(error)) => return failure(&error),
        };
    let mut interrupted = async || {
        let hung_up = async {
            match &mut hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => ExitCode::from(130),
            _ = terminate.recv() => ExitCode::from(143),
            _ = hung_up => ExitCode::from(129),
        }
    };
    let ended = tokio::select! {
        result = work => Ok(result),
        code = interrupted() => Err(code),
    };
    let told = "interrupted; everything that was started is stopped";
    match ended {
        Ok(Ok(())) => ExitCode::SUCCESS,
        // A terminal interrupts kubectl too, and that may have been heard of first.
        Ok(Err(error)) => match tokio::time::timeout(INTERRUPT_LAG, interrupted()).await {
            Ok(code) => {
                eprintln!("{told}");
                code
            }
            Err(_) => failure(&error),
        },
        Err(code) => {
            eprintln!("{told}");
            code
        }
    }
}

/// Whether this process was started with a signal ignored (proc(5), `SigIgn` of `status`: a bit for each signal, from 1).
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    ignored & (1 << (signal.as_raw() - 1)) != 0
}

fn failure(error: &impl Display) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

/// Ends a process by the pid that was recorded, if it is still the process that was recorded: pids are used again.
/// True when it was there.
pub fn stop_recorded(pid_file: &Path, timeout: Duration) -> bool {
    let Some((pid, started)) = read_record(pid_file) else { return false };
    let same = || start_time(pid).as_ref() == Some(&started);
    if !same() {
        return false;
    }
    send(pid, Signal::TERM);
    send(pid, Signal::CONT);
    let deadline = std::time::Instant::now() + timeout;
    while same() && std::time::Instant::now() < deadline {
        std::thread::sleep(POLL);
    }
    if same() {
        send(pid, Signal::KILL);
        // Whoever removes its directory next must not find it writing there. The kernel takes a moment, not more.
        let deadline = std::time::Instant::now() + KILL_TIMEOUT;
        while same() && std::time::Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
    }
    true
}

/// Sends a signal. The process may have ended just now; then there is nobody left to tell.
fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether the process that was recorded is still there. None where there is no record.
pub(crate) fn is_recorded_running(pid_file: &Path) -> Option<bool> {
    read_record(pid_file).map(|(pid, started)| start_time(pid) == Some(started))
}

fn record_of(spec: &Spec) -> PathBuf {
    spec.dir.join(format!("{}.pid", spec.name))
}

/// The pid, and when that process started.
fn read_record(pid_file: &Path) -> Option<(u32, String)> {
    let record = std::fs::read_to_string(pid_file).ok()?;
    let (pid, started) = record.trim_end().split_once(' ')?;
    Some((pid.parse().ok()?, started.to_owned()))
}

/// When a process started, in clock ticks since boot (proc(5), field 22 of `stat`); none for one that is gone or a zombie.
fn start_time(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    (*fields.first()? != "Z").then(|| fields.get(19).map(|ticks| (*ticks).to_owned()))?
}

/// The end of a text, for error messages.
pub fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..]
        .iter()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The parent-death signal comes when the *thread* ends that made the child, and a test's thread ends before the process does.
pub(crate) fn spawn_from_a_lasting_thread(command: Command) -> std::io::Result<Child> {
    type Job = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in jobs {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (answer, child) = mpsc::channel();
    let gone = || std::io::Error::other("the thread that starts processes is gone");
    spawner.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

/// Empties a log, so that a later wait does not see what an earlier run said.
pub fn truncate(path: &Path) -> Result<()> {
    File::create(path).map(drop).map_err(at(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(dir: &Path, script: &str) -> Spec {
        Spec::new("part", "/bin/sh", dir).args(["-c", script])
    }

    #[tokio::test]
    async fn a_part_that_dies_shows_its_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let part = Process::spawn(spec(dir.path(), "echo first; echo no such disk >&2; exit 3")).unwrap();
        let error = part.wait_for_log("ready", Duration::from_secs(20)).await.unwrap_err().to_string();
        assert!(error.contains("part ended: exit status: 3") && error.contains("no such disk"), "{error}");
    }

    #[tokio::test]
    async fn a_wait_has_a_deadline_that_says_what_was_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let part = Process::spawn(spec(dir.path(), "echo busy; sleep 60")).unwrap();
        let error = part.wait_for_log("ready", Duration::from_millis(300)).await.unwrap_err().to_string();
        assert!(error.contains("the line \"ready\" did not happen") && error.contains("busy"), "{error}");
    }

    #[test]
    fn a_child_gets_nothing_of_the_users_but_what_is_listed() {
        let poison = [
            "KUBECONFIG",
            "KUBERNETES_SERVICE_HOST",
            "KUBERC",
            "HTTPS_PROXY",
            "https_proxy",
            "EVENTPULSE_KAFKA_BROKERS",
            "EVENTPULSE_AUTH_TOKEN_FILE",
            "ETCD_DATA_DIR",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "JAVA_TOOL_OPTIONS",
            "SSLKEYLOGFILE",
        ];
        let good = ["PATH", "LC_ALL", "TMPDIR"];
        let caller = poison.iter().chain(&good).chain(&["HOME"]).map(|name| (OsString::from(name), "theirs".into()));
        let mut command = Command::new("part");
        clean_from(&mut command, Path::new("/instance"), caller);
        let seen: BTreeMap<_, _> = command.get_envs().map(|(name, value)| (name.to_str().unwrap(), value)).collect();
        let names: Vec<&str> = seen.keys().copied().collect();
        assert_eq!(names, ["HOME", "LC_ALL", "NO_PROXY", "PATH", "TMPDIR", "no_proxy"]);
        assert_eq!(seen["HOME"].unwrap(), "/instance");
    }

    /// Cargo gives its tests variables of its own; a child that inherited anything would have them.
    #[tokio::test]
    async fn a_child_inherits_nothing() {
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "run this test with cargo");
        let dir = tempfile::tempdir().unwrap();
        let part = Process::spawn(spec(dir.path(), "env; echo end; sleep 60").env("OWN", "yes")).unwrap();
        part.wait_for_log("end", Duration::from_secs(20)).await.unwrap();
        let log = part.log();
        // The shell adds the last two.
        let given = |name: &str| {
            KEPT.contains(&name) || ["HOME", "NO_PROXY", "no_proxy", "OWN", "PWD", "SHLVL", "_"].contains(&name)
        };
        let names = log.lines().filter_map(|line| line.split_once('=').map(|(name, _)| name));
        let foreign: Vec<&str> = names.filter(|name| !given(name) && !name.starts_with("LC_")).collect();
        assert!(foreign.is_empty() && log.contains("OWN=yes"), "{foreign:?}\n{log}");
        assert!(log.contains(&format!("HOME={}\n", dir.path().display())), "{log}");
    }

    /// The test runs itself again as the program that starts a part, and kills that program.
    #[tokio::test]
    async fn a_part_dies_with_the_program_that_started_it() {
        if let Some(dir) = std::env::var_os("EVENTPULSE_TEST_PARENT") {
            let part = Process::spawn(spec(Path::new(&dir), "echo ready; exec sleep 600")).unwrap();
            part.wait_for_log("ready", Duration::from_secs(60)).await.unwrap();
            std::future::pending::<()>().await;
        }
        let dir = tempfile::tempdir().unwrap();
        let name = "process::tests::a_part_dies_with_the_program_that_started_it";
        let program = Spec::new("program", std::env::current_exe().unwrap(), dir.path())
            .args([name, "--exact", "--nocapture"])
            .env("EVENTPULSE_TEST_PARENT", dir.path().display().to_string());
        let program = Process::spawn(program).unwrap();
        let log = || std::fs::read_to_string(dir.path().join("part.log")).unwrap_or_default();
        program.wait_for("a part", Duration::from_secs(60), async || log().contains("ready")).await.unwrap();
        let record = std::fs::read_to_string(dir.path().join("part.pid")).unwrap();
        let pid: u32 = record.split_whitespace().next().unwrap().parse().unwrap();
        assert!(start_time(pid).is_some());
        program.kill();
        let deadline = Instant::now() + Duration::from_secs(60);
        while start_time(pid).is_some() && Instant::now() < deadline {
            sleep(POLL).await;
        }
        assert!(start_time(pid).is_none(), "it was left behind");
    }

    #[test]
    fn a_pid_that_was_used_again_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let part = Process::spawn(spec(dir.path(), "sleep 60")).unwrap();
        let file = dir.path().join("other.pid");
        std::fs::write(&file, format!("{} 1\n", part.pid())).unwrap();
        assert!(!stop_recorded(&file, Duration::from_secs(1)));
        assert!(part.exited().is_none());
        for nonsense in ["", "x", "1", "99999999999 1", "-1 1"] {
            std::fs::write(&file, nonsense).unwrap();
            assert!(!stop_recorded(&file, Duration::from_secs(1)), "{nonsense:?}");
        }
        assert!(stop_recorded(&dir.path().join("part.pid"), Duration::from_secs(20)));
        assert!(!part.child.lock().unwrap().wait().unwrap().success());
    }
}
