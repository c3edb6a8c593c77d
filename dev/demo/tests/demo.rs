//! `make demo` as people see it, on the release binary: the story ends well, what is kept works and can be stopped, Ctrl-C leaves
//! nothing, and nothing of the user's environment is used.

#![allow(clippy::unwrap_used)] // A helper that fails is a test that fails.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use eventpulse_env::{InstanceName, stop_instance};
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    client,
};
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process_group};

const PATIENCE: Duration = Duration::from_secs(180);

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

/// A run of the demo. Whatever the test does, nothing of it stays.
struct Demo {
    name: InstanceName,
    child: Child,
    place: tempfile::TempDir,
}

impl Demo {
    /// `trap` is where the user's own environment points to: a broker, a cluster, a proxy.
    fn start(name: &str, args: &[&str], trap: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let temporary = place.path().join("tmp");
        std::fs::create_dir(&temporary).unwrap();
        let name = format!("test-{name}-{}", std::process::id());
        let output = File::create(place.path().join("out")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_eventpulse-demo"))
            .args(["--name", &name])
            .args(args)
            .env("TMPDIR", temporary)
            .env("EVENTPULSE_KAFKA_BROKERS", trap)
            .env("EVENTPULSE_AUTH_TOKEN_FILE", "/nonexistent")
            .env("ETCD_DATA_DIR", "/nonexistent")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{trap}"))
            .env("KUBECONFIG", "/nonexistent")
            .env("HTTP_PROXY", format!("http://{trap}"))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Self { name: name.parse().unwrap(), child, place }
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.place.path().join("out")).unwrap()
    }

    fn end(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the demo's end", || child.try_wait().unwrap())
    }

    /// The processes that run from its directories.
    fn processes(&self) -> Vec<u32> {
        let of_it = |pid: &u32| {
            let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&read("environ")).into_owned();
            [self.name.dir(), self.place.path().join("tmp")]
                .iter()
                .any(|dir| arguments.contains(&format!("HOME={}", dir.display())))
        };
        let entries =
            std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        entries.filter(of_it).collect()
    }

    fn temporary_files(&self) -> usize {
        std::fs::read_dir(self.place.path().join("tmp")).unwrap().count()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = stop_instance(&self.name.dir());
    }
}

fn trap() -> (std::net::TcpListener, String) {
    let trap = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let address = trap.local_addr().unwrap().to_string();
    (trap, address)
}

#[test]
fn the_story_ends_well_and_leaves_nothing() {
    ends_well("story", &[]);
}

#[test]
fn the_story_ends_as_well_on_kafka() {
    ends_well("kafka", &["--bus", "kafka"]);
}

fn ends_well(name: &str, args: &[&str]) {
    let (trap, address) = trap();
    let mut demo = Demo::start(name, args, &address);
    wait_for("a part", || (!demo.processes().is_empty()).then_some(()));
    assert!(demo.end().success(), "{}", demo.output());
    let said = demo.output();
    for part in [
        "incident.opened",
        "Deployment/svc-a 3 → 4",
        "notification.delivered",
        "Incident opened:",
        "Resolved",
        "alert accepted → svc-a with 4 replicas committed: ",
        "alert accepted → incident Resolved: ",
        "alert accepted → message received: ",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(trap.accept().is_err(), "somebody used the user's environment");
    assert_eq!((demo.processes(), demo.temporary_files()), (Vec::new(), 0));
    assert!(!demo.name.dir().exists());
}

#[tokio::test]
async fn what_is_kept_goes_on_working_and_can_be_stopped() {
    let mut demo = Demo::start("keep", &["--keep"], &trap().1);
    assert!(demo.end().success(), "{}", demo.output());
    let said = demo.output();
    let after = |start: &str| {
        let (_, rest) = said.split_once(start).unwrap();
        rest.split_whitespace().next().unwrap().trim_end_matches('.').to_owned()
    };
    assert!(said.contains(&format!("make env-down ARGS=\"--name {}\"", demo.name)), "{said}");
    assert!(demo.processes().len() >= 7, "{:?}", demo.processes());
    let kubectl = said.lines().find(|line| line.ends_with("get eventpulse -n shop")).unwrap().split_whitespace().next();
    assert!(Path::new(kubectl.unwrap()).is_absolute(), "{said}");

    // One more alert, and its message arrives although the demo is gone.
    let log = demo.name.dir().join("sink.log");
    let messages = || std::fs::read_to_string(&log).unwrap_or_default().matches("── message at").count();
    let before = messages();
    let alert = webhook(&[Alert::cpu_high("svc-b", Timestamp::now())]);
    let reply = client::post(&after("Alerts go to "), &alert).await.unwrap();
    assert!(reply.is_success(), "{}", reply.text());
    wait_for("a message after the demo's end", || (messages() > before).then_some(()));

    stop_instance(&demo.name.dir()).unwrap();
    assert!(demo.processes().is_empty() && !demo.name.dir().exists());
}

/// `make demo` with these settings: what it says, or with `-n` would do.
fn make(args: &[&str]) -> (bool, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new("make");
    for name in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "BUS", "KEEP"] {
        command.env_remove(name);
    }
    let output = command.arg("--no-print-directory").arg("-C").arg(root).arg("demo").args(args).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn a_typo_is_found_before_anything_is_built() {
    for (setting, says) in [("BUS=kafak", "BUS=kafak: it is embedded or kafka"), ("KEEP=yes", "KEEP=yes: it is 1 or 0")]
    {
        let (well, said) = make(&[setting]);
        assert!(!well && said.starts_with(says) && said.lines().count() == 2, "{said}");
    }
    let keeps = |setting: &str| make(&["-n", setting]).1.contains(" --keep");
    assert_eq!(["KEEP=1", "KEEP=0", "KEEP="].map(keeps), [true, false, false]);
}

#[test]
fn ctrl_c_leaves_nothing_even_of_what_was_to_be_kept() {
    let moments = [("==> Applying", &["--keep"][..]), ("==> Starting EventPulse", &["--keep"]), ("==> Applying", &[])];
    for (moment, args) in moments {
        let mut demo = Demo::start("interrupted", args, &trap().1);
        wait_for(moment, || demo.output().contains(moment).then_some(()));
        // As a terminal does: to the program and to whatever it runs in the foreground.
        kill_process_group(Pid::from_child(&demo.child), Signal::INT).unwrap();
        assert_eq!(demo.end().code(), Some(130), "{}", demo.output());
        wait_for("the end of all parts", || demo.processes().is_empty().then_some(()));
        assert!(!demo.name.dir().exists() && demo.temporary_files() == 0, "{}", demo.output());
        assert!(demo.output().contains("interrupted; everything"), "{}", demo.output());
    }
}
