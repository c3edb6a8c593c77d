//! The program itself: how it starts, tells of itself, and ends. No API server is there, which it waits for.
#![allow(clippy::unwrap_used)]

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use eventpulse_env::{
    free_port,
    process::{Signal, clean},
};
use eventpulse_testkit::{
    client,
    eventpulse::{EventPulse, Launcher},
};
use serde_json::json;

const PROGRAM: &str = env!("CARGO_BIN_EXE_eventpulse");
/// Long enough for a busy machine; nothing here waits for it when all is well.
const PATIENCE: Duration = Duration::from_secs(60);

/// Leads to a port that nobody listens on.
fn kubeconfig(dir: &Path) -> PathBuf {
    let file = dir.join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n\
         clusters: [{{name: a, cluster: {{server: 'http://127.0.0.1:{}'}}}}]\nusers: [{{name: a, user: {{}}}}]\n",
        free_port()
    );
    std::fs::write(&file, text).unwrap();
    file
}

fn launcher(dir: &Path) -> Launcher {
    Launcher::new("eventpulse", dir, &kubeconfig(dir)).program(PROGRAM)
}

async fn started(launcher: Launcher) -> EventPulse {
    let eventpulse = launcher.spawn().unwrap();
    eventpulse.process().wait_for_log("Alerts are received.", PATIENCE).await.unwrap();
    eventpulse
}

async fn exit_code(eventpulse: &EventPulse) -> Option<i32> {
    let begin = Instant::now();
    while eventpulse.process().exited().is_none() && begin.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eventpulse.process().exited().and_then(|status| status.code())
}

async fn text_of(eventpulse: &EventPulse, path: &str) -> (u16, String) {
    client::get(&eventpulse.admin_url(path)).await.map_or_else(|error| (0, error.to_string()), |r| (r.status, r.text()))
}

#[tokio::test]
async fn it_tells_what_each_service_waits_for_and_stops_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let eventpulse = started(launcher(dir.path())).await;
    let missing = async |part: &str| {
        let begin = Instant::now();
        loop {
            let (status, text) = text_of(&eventpulse, "readyz?verbose").await;
            if status == 503 && text.contains(part) {
                return text;
            }
            assert!(begin.elapsed() < PATIENCE, "{part}: {status} {text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    for service in ["rules", "actions", "incidents", "notify", "config"] {
        missing(&format!("[-] {service}/watch ")).await;
        assert_eq!(text_of(&eventpulse, &format!("readyz/{service}")).await.0, 503);
    }
    let text = missing("[+] process/bus").await;
    assert!(text.contains("unavailable") && text.contains(" s)\n"), "{text}");
    // Alerts are taken all the same.
    assert_eq!(text_of(&eventpulse, "readyz/ingest").await.0, 200);
    let (status, text) = text_of(&eventpulse, "readyz/nobody").await;
    assert_eq!((status, text.contains("actions, config, incidents, ingest, notify, rules")), (404, true), "{text}");
    let (status, text) = text_of(&eventpulse, "livez?verbose").await;
    assert_eq!((status, text.contains("rules consumer") && text.contains("executor")), (200, true), "{text}");
    eventpulse.process().signal(Signal::TERM);
    assert_eq!(exit_code(&eventpulse).await, Some(0));
    let log = eventpulse.process().log();
    assert!(log.contains("Stopping") && log.contains("Stopped.") && !log.contains("in time"), "{log}");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let slow = ["--shutdown-delay=50m", "--termination-grace-period=1h"];
    let eventpulse = started(slow.into_iter().fold(launcher(dir.path()), Launcher::arg)).await;
    let ready = async || text_of(&eventpulse, "readyz/ingest").await.0 == 200;
    eventpulse.process().wait_for("/readyz/ingest answering 200", PATIENCE, ready).await.unwrap();
    eventpulse.process().signal(Signal::TERM);
    eventpulse.process().wait_for_log("Stopping", PATIENCE).await.unwrap();
    // Readiness is off, and whoever has not heard of it yet is answered.
    let (status, text) = text_of(&eventpulse, "readyz/ingest").await;
    assert_eq!((status, text.contains("[-] process/service: stopping")), (503, true), "{text}");
    assert_eq!(text_of(&eventpulse, "livez").await.0, 200);
    let alert = json!([{"labels": {"alertname": "A"}, "startsAt": "2026-01-01T00:00:00Z"}]);
    assert_eq!(eventpulse.post("api/v2/alerts", &alert).await.unwrap().status, 200);
    eventpulse.process().signal(Signal::INT);
    assert_eq!(exit_code(&eventpulse).await, Some(130));
    assert!(eventpulse.process().log().contains("Asked a second time: ending at once."));
}

#[tokio::test]
async fn a_task_that_fails_ends_it_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for (flag, says) in
        [("--listen", "eventpulse: task ingest: --listen"), ("--admin-listen", "eventpulse: --admin-listen")]
    {
        let data = dir.path().join(format!("data{flag}"));
        let output = run(dir.path(), &["run", &format!("{flag}={address}"), &format!("--data-dir={}", data.display())]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        let last = errors.lines().last().unwrap();
        assert!(last.starts_with(says) && last.contains(&address.to_string()), "{errors}");
    }
}

/// Runs it to its end. Ports that are not given are free ones.
fn run(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    clean(&mut command, dir);
    command.args(args).env("KUBECONFIG", kubeconfig(dir)).current_dir(dir);
    for flag in ["--listen", "--admin-listen"] {
        if !args.iter().any(|arg| arg.starts_with(flag)) {
            command.arg(format!("{flag}=127.0.0.1:{}", free_port()));
        }
    }
    command.output().unwrap()
}

#[test]
fn what_is_wrong_is_said_at_once_and_what_is_right_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let check = |args: &[&str]| {
        let output = run(dir.path(), &[&["check-config"], args].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, table, _) = check(&[]);
    assert_eq!(code, Some(0));
    for row in [
        "services        ingest, rules",
        "data directory  eventpulse-data, will be created",
        "28s of 30s",
        "API server      http://",
    ] {
        assert!(table.contains(row), "{row}: {table}");
    }
    assert!(!dir.path().join("eventpulse-data").exists(), "nothing is created");
    let data = dir.path().join("file");
    std::fs::write(&data, "").unwrap();
    let wrong =
        ["--outbox-max-alerts=0", "--auth-token-file=absent", "--data-dir=file", "--shutdown-flush-timeout=30s"];
    let (code, table, errors) = check(&wrong);
    assert_eq!((code, table.as_str()), (Some(2), ""));
    for says in [
        "--outbox-max-alerts: 0",
        "--auth-token-file absent: No such file",
        "--data-dir: data directory file",
        "--termination-grace-period: 30s is less than 53s",
    ] {
        assert!(errors.lines().any(|line| line.starts_with(&format!("eventpulse: {says}"))), "{says}: {errors}");
    }
    assert_eq!(run(dir.path(), &["run", "--outbox-max-alerts=0"]).status.code(), Some(2));
    let (_, table, _) =
        check(&["--services=rules", "--kafka-brokers=k:1", "--kafka-config=sasl.password=hunter2", "--source=a"]);
    assert!(table.contains("with sasl.password") && table.contains("--source has no effect"), "{table}");
    assert!(!table.contains("hunter2"), "{table}");
}

#[test]
fn what_would_keep_it_from_starting_is_found_beforehand_and_what_is_passed_over_is_noted() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let users = "users:\n- name: a\n  user:\n    token: hunter2\n   password: hunter2\n";
    let broken = file("broken", &format!("apiVersion: v1\nkind: Config\n{users}"));
    let other = file("other", "apiVersion: v1\nkind: Config\ncurrent-context: prod\n");
    let absent = dir.path().join("absent").display().to_string();
    let good = kubeconfig(dir.path()).display().to_string();
    file("garbage/log/log.sqlite", "garbage");
    file("outbox/ingest.db", "garbage");
    let kafka = "--kafka-brokers=127.0.0.1:1";
    let program = |command: &str, kubeconfig: &str, args: &[&str]| {
        let mut program = Command::new(PROGRAM);
        clean(&mut program, dir.path());
        let admin = format!("--admin-listen=127.0.0.1:{}", free_port());
        program.arg(command).args(args).arg(admin).env("KUBECONFIG", kubeconfig).current_dir(dir.path());
        program
    };
    for (kubeconfig, args, says) in [
        (&broken, &[][..], format!("kubeconfig {broken}: line 7, column ")),
        (&other, &[], format!("kubeconfig {other}: there is no context \"prod\"")),
        (&absent, &[], format!("kubeconfig {absent}: No such file")),
        (&good, &["--data-dir=garbage"], "--data-dir: open garbage/log/log.sqlite: file is not a database".into()),
        (&good, &["--data-dir=outbox"], "--data-dir: open outbox/ingest.db: file is not a database".into()),
        (
            &good,
            &[kafka, "--kafka-config=security.protocol=SSL", "--kafka-config=ssl.ca.location=absent.pem"],
            "--kafka-config: ".into(),
        ),
    ] {
        let output = program("check-config", kubeconfig, args).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), errors.lines().count()), (Some(2), 1), "{args:?}: {errors}");
        assert!(errors.starts_with(&format!("eventpulse: {says}")) && !errors.contains("hunter2"), "{errors}");
        // `run` ends for the same reason, and says it last.
        let output = program("run", kubeconfig, args).arg("--listen=127.0.0.1:0").output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {errors}");
        let (last, cause) = (errors.lines().last().unwrap(), says.trim_start_matches("--data-dir: "));
        assert!(says.starts_with("--kafka") || last.contains(cause), "{says}: {errors}");
        assert!(last.starts_with("eventpulse: ") && !errors.contains("hunter2"), "{errors}");
    }
    let filter = format!("--log-filter-file={}", file("filter", "in fo\n"));
    let mut noted = program("check-config", &good, &[&filter]);
    let output = noted.env("RUST_LOG", "x=y=z").output().unwrap();
    let table = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{table}");
    for note in ["note            --log-filter-file ", "note            RUST_LOG: it is passed over: "] {
        assert!(table.contains(note), "{note}: {table}");
    }
    let mut unread = program("check-config", &good, &[]);
    let output = unread.env("EVENTPULSE_OUTBOX_MAX_ALERTS", "banana").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("it stands in the variable EVENTPULSE_OUTBOX_MAX_ALERTS"), "{errors}");
}

/// A plugin of the kubeconfig is another program: it may hang, and whoever wants the process to stop does not wait for it.
#[tokio::test]
async fn a_plugin_that_hangs_holds_up_neither_probes_nor_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let config = kubeconfig(dir.path());
    let begun = dir.path().join("begun");
    // It ends with the test's directory.
    let script = format!("touch {0}; while [ -e {0} ]; do sleep 0.1; done", begun.display());
    let exec = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/sh", "args": ["-c", script],
        "interactiveMode": "Never"});
    let text = std::fs::read_to_string(&config).unwrap().replace("user: {}", &format!("user: {{exec: {exec}}}"));
    std::fs::write(&config, text).unwrap();
    let eventpulse = Launcher::new("eventpulse", dir.path(), &config).program(PROGRAM).spawn().unwrap();
    let asked = async || begun.exists() && text_of(&eventpulse, "livez").await.0 == 200;
    eventpulse.process().wait_for("the plugin asked, and /livez answering 200", PATIENCE, asked).await.unwrap();
    let (status, text) = text_of(&eventpulse, "readyz").await;
    assert_eq!((status, text.contains("finding the API server")), (503, true), "{text}");
    eventpulse.process().signal(Signal::TERM);
    assert_eq!(exit_code(&eventpulse).await, Some(0), "{}", eventpulse.process().log());
    assert!(begun.exists(), "the plugin was still asked");
    assert!(eventpulse.process().log().contains("Stopped before it had started."));
}

/// What is printed for a reader that has gone, or on a full disk, ends in no panic.
#[test]
fn an_output_that_is_closed_is_no_panic_and_one_that_is_full_is_said() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["check-config"][..], &["crds"], &["dead-letters", "list", "-o", "json"]] {
        let print = |out: Stdio| {
            let mut command = Command::new(PROGRAM);
            clean(&mut command, dir.path());
            command.args(args).env("KUBECONFIG", kubeconfig(dir.path())).current_dir(dir.path());
            command.stdout(out).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap()
        };
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let is_absent = args[0] == "dead-letters";
        let gone = print(writer.into());
        let errors = String::from_utf8_lossy(&gone.stderr);
        assert_eq!(gone.status.code(), Some(i32::from(is_absent)), "{args:?}: {errors}");
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let full = print(full.into());
        let errors = String::from_utf8_lossy(&full.stderr);
        assert_eq!(full.status.code(), Some(1), "{args:?}: {errors}");
        assert!(is_absent || errors.starts_with("eventpulse: write to standard output: No space left"), "{errors}");
        assert!(!errors.contains("panicked"), "{errors}");
    }
}

/// A receiver that is there and does not answer: what it does not take is lost, and that is said.
#[tokio::test]
async fn telemetry_that_is_not_handed_out_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let launcher = launcher(dir.path()).env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
    let eventpulse = started(launcher.arg("--shutdown-telemetry-timeout=1s")).await;
    eventpulse.process().signal(Signal::TERM);
    assert_eq!(exit_code(&eventpulse).await, Some(0));
    let log = eventpulse.process().log();
    assert!(log.contains("Some telemetry was not handed out in time; it is lost."), "{log}");
}

/// Removes a directory in which a process is writing: at another name first, for a new file in the midst of it would keep it there.
fn take_away(directory: &Path) {
    let gone = directory.with_extension("gone");
    std::fs::rename(directory, &gone).unwrap();
    std::fs::remove_dir_all(&gone).unwrap();
}

#[tokio::test]
async fn a_data_directory_that_is_in_use_is_said_and_one_that_was_removed_takes_no_alert() {
    let dir = tempfile::tempdir().unwrap();
    let eventpulse = started(launcher(dir.path())).await;
    let data = dir.path().join("eventpulse-data");
    let output = run(dir.path(), &["check-config", &format!("--data-dir={}", data.display())]);
    let errors = String::from_utf8_lossy(&output.stderr);
    let holder = format!("is in use by process {};", eventpulse.process().pid());
    assert!(output.status.code() == Some(2) && errors.contains(&holder), "{errors}");
    let alert = json!([{"labels": {"alertname": "A"}, "startsAt": "2026-01-01T00:00:00Z"}]);
    assert_eq!(eventpulse.post("api/v2/alerts", &alert).await.unwrap().status, 200);
    take_away(&data);
    let reply = eventpulse.post("api/v2/alerts", &alert).await.unwrap();
    assert_eq!((reply.status, reply.retry_after.is_some()), (503, true), "{}", reply.text());
    let (status, text) = text_of(&eventpulse, "readyz/ingest").await;
    assert_eq!((status, text.contains("was removed or replaced while it was open")), (503, true), "{text}");
}

/// A log that nobody reads any more stops every loop that has something to say: whoever asks is told, by a thread that has not.
#[tokio::test]
async fn loops_that_do_not_go_on_are_told_by_livez() {
    let dir = tempfile::tempdir().unwrap();
    let (listen, admin) = (free_port(), free_port());
    let mut command = Command::new(PROGRAM);
    clean(&mut command, dir.path());
    command.arg("run").arg(format!("--listen=127.0.0.1:{listen}")).arg(format!("--admin-listen=127.0.0.1:{admin}"));
    command.env("KUBECONFIG", kubeconfig(dir.path())).current_dir(dir.path()).stderr(Stdio::piped());
    command.env("RUST_LOG", "trace").env("TOKIO_WORKER_THREADS", "2");
    let mut child = command.spawn().unwrap();
    let livez = format!("http://127.0.0.1:{admin}/livez");
    // What is refused is a line of the log each time.
    let alert = json!([{"labels": {"alertname": "A"}, "startsAt": "2026-01-01T00:00:00Z"}]);
    let url = format!("http://127.0.0.1:{listen}/api/v2/alerts");
    let begin = Instant::now();
    while client::post(&url, &alert).await.is_err() {
        assert!(begin.elapsed() < PATIENCE, "it does not start");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    take_away(&dir.path().join("eventpulse-data"));
    let sender = tokio::spawn(async move {
        loop {
            let _ = client::post(&url, &alert).await;
        }
    });
    let (begin, mut seen) = (Instant::now(), Vec::new());
    while begin.elapsed() < 2 * PATIENCE && seen.last().is_none_or(|(status, _)| *status != 503) {
        if let Ok(reply) = client::get(&livez).await {
            seen.push((reply.status, reply.text()));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    sender.abort();
    child.kill().unwrap();
    child.wait().unwrap();
    let (status, text) = seen.pop().unwrap();
    assert_eq!((status, text.contains("[-] executor: it has not moved for")), (503, true), "{text}");
    assert!(seen.iter().any(|(status, _)| *status == 200), "before that all was well");
}
