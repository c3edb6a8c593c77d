//! `eventpulse-env` as people use it: up and down, Ctrl-C at bad moments, a build that is interrupted and goes on later.

#![allow(clippy::unwrap_used)] // A helper that fails is a test that fails.

use std::{
    fs::{File, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use eventpulse_env::{InstanceName, cache_dir, stop_instance};
use rustix::process::{Pid, Signal, geteuid, kill_process};

const PATIENCE: Duration = Duration::from_secs(120);

fn wait_for<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The program, with its output in a file.
struct Running {
    child: Child,
    output: PathBuf,
}

impl Running {
    fn start(output: PathBuf, args: &[&str], arrange: impl FnOnce(&mut Command)) -> Self {
        Self::start_program(env!("CARGO_BIN_EXE_eventpulse-env"), output, args, arrange)
    }

    fn start_program(program: &str, output: PathBuf, args: &[&str], arrange: impl FnOnce(&mut Command)) -> Self {
        let file = File::create(&output).unwrap();
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        arrange(&mut command);
        Self { child: command.spawn().unwrap(), output }
    }

    fn output(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap()
    }

    /// Ctrl-C, but for this one process only.
    fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        let Self { child, output } = self;
        wait_for(&format!("the end of the program that writes {}", output.display()), || child.try_wait().unwrap())
    }
}

/// Whatever a test does, nothing of its instance stays.
struct Instance(InstanceName, tempfile::TempDir);

impl Instance {
    fn new(name: &str) -> Self {
        let name = format!("test-{name}-{}", std::process::id());
        Self(name.parse().unwrap(), tempfile::tempdir().unwrap())
    }

    fn run(&self, command: &str, more: &[&str]) -> Running {
        let name = self.0.to_string();
        let args = [&[command, "--name", &name], more].concat();
        Running::start(self.1.path().join(format!("{command}.out")), &args, |_| {})
    }

    /// The pids that were recorded.
    fn pids(&self) -> Vec<u32> {
        let entries = std::fs::read_dir(self.0.dir()).into_iter().flatten().map(|entry| entry.unwrap().path());
        let records = entries.filter(|path| path.extension().is_some_and(|extension| extension == "pid"));
        let pid = |record: String| record.split_whitespace().next()?.parse().ok();
        records.filter_map(|path| pid(std::fs::read_to_string(path).ok()?)).collect()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = stop_instance(&self.0.dir());
    }
}

fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn what_comes_up_stays_up_and_goes_down() {
    let instance = Instance::new("up");
    let mut up = instance.run("up", &["--alertmanager", "--prometheus", "--otelcol"]);
    assert!(up.end().success(), "{}", up.output());
    let pids = instance.pids();
    assert!(pids.len() == 8 && pids.iter().all(|pid| is_running(*pid)), "{pids:?}");
    let said = up.output();
    let line = |start: &str| said.lines().find(|line| line.trim().starts_with(start)).unwrap().trim().to_owned();
    let kubectl = line("/");
    let (kubectl, kubeconfig) = (kubectl.split(' ').next().unwrap(), line("export KUBECONFIG="));
    let kubeconfig = kubeconfig.trim_start_matches("export KUBECONFIG=");
    let nodes =
        Command::new(kubectl).args(["get", "nodes", "-o", "name", "--kubeconfig", kubeconfig]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&nodes.stdout).trim(), "node/node-0");
    assert_eq!(std::fs::metadata(instance.0.dir()).unwrap().permissions().mode() & 0o777, 0o700);

    let mut again = instance.run("up", &[]);
    assert!(!again.end().success() && again.output().contains("there already"), "{}", again.output());
    assert!(pids.iter().all(|pid| is_running(*pid)), "the second `up` took the first one's instance away");

    let mut down = instance.run("down", &[]);
    assert!(down.end().success() && down.output().contains("Stopped 8 processes"), "{}", down.output());
    assert!(!pids.into_iter().any(is_running) && !instance.0.dir().exists());
    assert!(!instance.run("down", &[]).end().success(), "there is nothing to stop");
}

const NOBODY: u32 = 65_534;

/// Only root can become somebody else; for everybody else the other tests have shown it.
#[test]
fn a_user_without_any_rights_brings_it_up_and_down() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/kubernetes/go.mod");
    let as_nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];
    let readable = Command::new("setpriv").args(as_nobody).args(["test", "-r"]).arg(source).status();
    if !geteuid().is_root() || !readable.unwrap().success() {
        println!("not root, or the work tree is closed to everybody else: nothing is shown here");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    std::fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let mut tools = Running::start(path("tools.out"), &["tools", "kubernetes", "kwok"], |_| {});
    assert!(tools.end().success(), "{}", tools.output());
    // Links, where it is the same disk; the cache itself is root's.
    for dir in ["cache", "tmp"] {
        std::fs::create_dir(path(dir)).unwrap();
        chown(path(dir), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let copy =
        |how: &str| Command::new("cp").arg(how).arg(cache_dir().join("tools")).arg(path("cache/")).output().unwrap();
    assert!(copy("-al").status.success() || copy("-af").status.success());
    std::fs::copy(env!("CARGO_BIN_EXE_eventpulse-env"), path("eventpulse-env")).unwrap();
    let program = path("eventpulse-env").display().to_string();
    let run = |command: &str| {
        let args = [&as_nobody[..], &[&program, command, "--name", "nobody"]].concat();
        Running::start_program("setpriv", path(&format!("{command}.out")), &args, |command| {
            command.env("EVENTPULSE_CACHE", path("cache")).env("HOME", path("tmp")).env("TMPDIR", path("tmp"));
        })
    };
    let mut up = run("up");
    let came_up = up.end().success();
    let owners: Vec<u32> = std::fs::read_dir(path("cache/instances/nobody"))
        .map(|entries| entries.map(|entry| entry.unwrap().metadata().unwrap().uid()).collect())
        .unwrap_or_default();
    let mut down = run("down");
    assert!(down.end().success() && came_up, "{}{}", up.output(), down.output());
    assert!(down.output().contains("Stopped 5 processes"), "{}", down.output());
    assert!(!owners.is_empty() && owners.iter().all(|uid| *uid == NOBODY));
}

#[test]
fn down_deletes_nothing_but_instances() {
    let place = tempfile::tempdir().unwrap();
    let tools = place.path().join("cache/tools");
    std::fs::create_dir_all(&tools).unwrap();
    std::fs::create_dir_all(place.path().join("cache/instances")).unwrap();
    for name in ["..", ".", "../tools", "", tools.to_str().unwrap()] {
        let mut down = Running::start(place.path().join("out"), &["down", "--name", name], |command| {
            command.env("EVENTPULSE_CACHE", place.path().join("cache"));
        });
        assert!(!down.end().success() && down.output().contains("a name is 1 to 40"), "{name:?}: {}", down.output());
        assert!(tools.exists());
    }
}

#[test]
fn ctrl_c_and_a_closed_terminal_while_it_comes_up_leave_nothing_behind() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let instance = Instance::new("interrupted");
        // Whoever runs this test may ignore SIGHUP.
        let args =
            ["--default-signal=HUP", env!("CARGO_BIN_EXE_eventpulse-env"), "up", "--name", &instance.0.to_string()];
        let mut up = Running::start_program("env", instance.1.path().join("up.out"), &args, |_| {});
        // etcd and the API server run then; the others do not yet.
        let pids = wait_for("two parts", || Some(instance.pids()).filter(|pids| pids.len() >= 2));
        up.signal(signal);
        assert_eq!(up.end().code(), Some(code), "{}", up.output());
        assert!(!pids.into_iter().any(is_running), "{}", up.output());
        assert!(!instance.0.dir().exists() && up.output().contains("interrupted"), "{}", up.output());
    }
}

#[test]
fn under_nohup_a_closed_terminal_ends_nothing() {
    let workshop = Workshop::new();
    let (started, go_on) = (workshop.path("started"), workshop.path("go-on"));
    let script = format!("touch {}; while [ ! -e {} ]; do sleep 0.02; done", started.display(), go_on.display());
    workshop.go(&format!("{script}; touch $(out \"$@\")/kwok"));
    // A shell ignores the signal and becomes the program.
    let program = env!("CARGO_BIN_EXE_eventpulse-env");
    let script = format!("trap '' HUP; exec {program} tools kwok");
    let mut build = Running::start_program("/bin/sh", workshop.path("out"), &["-c", &script], |command| {
        command.env("PATH", workshop.programs()).env("EVENTPULSE_CACHE", workshop.path("cache"));
    });
    wait_for("the build", || started.exists().then_some(()));
    build.signal(Signal::HUP);
    std::fs::write(&go_on, "").unwrap();
    assert!(build.end().success(), "{}", build.output());
}

/// A cache that is empty, and a Go that builds kwok as the test wants it.
struct Workshop(tempfile::TempDir);

impl Workshop {
    fn new() -> Self {
        let workshop = Self(tempfile::tempdir().unwrap());
        let module = workshop.path("module/kustomize/stage");
        for group in ["node/fast", "node/heartbeat", "pod/fast"] {
            std::fs::create_dir_all(module.join(group)).unwrap();
            std::fs::write(module.join(group).join("stage.yaml"), "kind: Stage\n").unwrap();
        }
        workshop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What `go build` does; its last argument but one is the output directory.
    fn go(&self, build: &str) {
        let dir = self.0.path().display();
        let script = format!(
            "#!/bin/sh\nout() {{ while [ \"$1\" != -o ]; do shift; done; echo \"$2\"; }}\n\
             echo \"$1 $2: $GOWORK $GOFLAGS $CGO_ENABLED\" >>{dir}/calls\ncase \"$1 $2\" in\n'env GOVERSION') echo \
             go1.99.0 ;;\nenv*) echo {dir}/go ;;\n'list -m') echo {dir}/module ;;\nlist*) echo one; echo two ;;\nbuild*) {build} \
             ;;\nesac\n"
        );
        std::fs::create_dir_all(self.path("bin")).unwrap();
        std::fs::write(self.path("bin/go"), script).unwrap();
        std::fs::set_permissions(self.path("bin/go"), Permissions::from_mode(0o755)).unwrap();
    }

    fn build(&self, output: &str) -> Running {
        self.build_with(output, |command| {
            command.env("EVENTPULSE_CACHE", self.path("cache"));
        })
    }

    fn build_with(&self, output: &str, arrange: impl FnOnce(&mut Command)) -> Running {
        Running::start(self.path(output), &["tools", "kwok"], |command| arrange(command.env("PATH", self.programs())))
    }

    /// The `PATH` with its Go before the machine's.
    fn programs(&self) -> String {
        format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap())
    }

    fn built(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("cache/tools")).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.ends_with(".lock") && !name.ends_with(".partial")).collect()
    }
}

fn read(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[test]
fn an_interrupted_build_ends_at_once_and_the_next_one_goes_on() {
    let workshop = Workshop::new();
    let pid = workshop.path("pid");
    workshop.go(&format!("touch $(out \"$@\")/half; sleep 600 & echo $! >{}; wait", pid.display()));
    let mut first = workshop.build("first.out");
    let compiler = wait_for("the compiler", || read(&pid));
    // Somebody else waits for this build, and gives up.
    let mut second = workshop.build("second.out");
    wait_for("the second one waiting", || second.output().contains("waiting for it").then_some(()));
    second.interrupt();
    assert_eq!(second.end().code(), Some(130), "{}", second.output());
    assert!(is_running(compiler), "the build is not its own");
    first.interrupt();
    assert_eq!(first.end().code(), Some(130), "{}", first.output());
    wait_for("the compiler's end", || (!is_running(compiler)).then_some(()));
    assert!(workshop.built().is_empty(), "half a tool must not look like a whole one");

    workshop.go("touch $(out \"$@\")/kwok");
    let mut third = workshop.build("third.out");
    assert!(third.end().success(), "{}", third.output());
    let built = workshop.built();
    assert_eq!(built.len(), 1, "{built:?}");
    let tool = workshop.path("cache/tools").join(&built[0]);
    assert!(tool.join("kwok").exists() && tool.join("stages").is_dir() && !tool.join("half").exists());
}

/// The caller's settings for Go are of other projects, and a cache may be named by a relative path.
#[test]
fn what_is_built_and_where_does_not_depend_on_the_callers_settings() {
    let workshop = Workshop::new();
    workshop.go("touch $(out \"$@\")/kwok");
    let mut build = workshop.build_with("out", |command| {
        command.current_dir(workshop.0.path()).env("EVENTPULSE_CACHE", "./cache");
        command.env("GOFLAGS", "-mod=vendor").env("GOWORK", "/nonexistent/go.work").env("CGO_ENABLED", "1");
    });
    assert!(build.end().success(), "{}", build.output());
    let built = workshop.built();
    assert!(built.len() == 1 && workshop.path("cache/tools").join(&built[0]).join("kwok").exists(), "{built:?}");
    let calls = std::fs::read_to_string(workshop.path("calls")).unwrap();
    for call in ["list -deps", "build -v", "list -m"] {
        let settings = format!("{call}: off -mod=readonly 0");
        assert!(calls.lines().any(|line| line == settings), "{call}: {calls}");
    }
    assert!(!calls.contains("vendor") && !calls.contains("nonexistent"), "{calls}");
}

#[test]
fn a_build_that_fails_shows_its_last_lines() {
    let workshop = Workshop::new();
    workshop.go("echo 'kwok.go:1: no such thing' >&2; exit 2");
    let mut build = workshop.build("out");
    assert_eq!(build.end().code(), Some(1));
    assert!(build.output().contains("build kwok: exit status: 2\n  kwok.go:1: no such thing"), "{}", build.output());
    workshop.go("exit 0");
    std::fs::remove_dir_all(workshop.path("module")).unwrap();
    assert!(!workshop.build("out").end().success() && workshop.built().is_empty());
}
