//! A process is ready when it says so, tells why it is not, and can be frozen, killed and started again. A shell script stands for
//! EventPulse: it takes the same flags, and lets the testkit's own sink answer on the admin port.
#![allow(clippy::unwrap_used)]

use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};

use eventpulse_testkit::{alerts, client, eventpulse::Launcher};

const SOON: Duration = Duration::from_secs(30);

/// A program that serves on the port that follows `flag`, or does `instead`.
fn launcher(dir: &Path, flag: &str, instead: &str) -> Launcher {
    let program = dir.join("eventpulse.sh");
    let script = format!(
        "#!/bin/sh\necho \"started: $* with $KUBECONFIG\"\n{instead}\nfor arg in \"$@\"; do case $arg in {flag}=*)\n\
         exec {} sink --listen \"${{arg#{flag}=}}\";; esac; done\nexec sleep 600\n",
        env!("CARGO_BIN_EXE_eventpulse-testkit")
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    Launcher::new("eventpulse", dir, &dir.join("kubeconfig")).program(program)
}

#[tokio::test]
async fn it_is_started_with_its_flags_and_can_be_frozen_killed_and_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let launcher = launcher(dir.path(), "--admin-listen", "").services(&["rules", "notify"]).kafka("127.0.0.1:9", "p.");
    let eventpulse = launcher.start(SOON).await.unwrap();
    let log = eventpulse.process().log();
    for part in [
        "run --listen=127.0.0.1:",
        "--services=rules,notify --kafka-brokers=127.0.0.1:9 --topic-prefix=p.",
        "kubeconfig",
        "eventpulse-data",
    ] {
        assert!(log.contains(part), "{log}");
    }
    eventpulse.process().freeze();
    let url = eventpulse.admin_url("livez");
    assert!(
        tokio::time::timeout(Duration::from_millis(300), client::get(&url)).await.is_err(),
        "it answers while it is frozen"
    );
    eventpulse.process().thaw();
    assert_eq!(client::get(&url).await.unwrap().status, 200);
    eventpulse.kill();
    assert!(client::get(&url).await.is_err());
    let again = eventpulse.start_again(SOON).await.unwrap();
    assert_eq!(again.admin_url("livez"), url);
    assert_ne!(again.process().pid(), eventpulse.process().pid());
    let pid = again.process().pid();
    drop(again);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "it outlives its handle");
}

#[tokio::test]
async fn one_that_dies_or_is_never_ready_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let dying = launcher(dir.path(), "--admin-listen", "echo 'no brokers' >&2; exit 1");
    let error = dying.start(SOON).await.err().unwrap().to_string();
    assert!(error.contains("exit status: 1") && error.contains("no brokers"), "{error}");
    let silent = launcher(dir.path(), "--no-such-flag", "echo waiting");
    let error = silent.start(Duration::from_millis(300)).await.err().unwrap().to_string();
    assert!(error.contains("/readyz answering 200 (it says: GET http://") && error.contains("waiting"), "{error}");
}

/// The sink of the demo prints each message so that a reader understands it.
#[tokio::test]
async fn the_sinks_own_program_prints_messages_as_they_come() {
    let dir = tempfile::tempdir().unwrap();
    let sink = launcher(dir.path(), "--listen", "").spawn().unwrap();
    sink.process().wait_for_log("are shown here", SOON).await.unwrap();
    let reply = sink.post("services/x", &serde_json::json!({"text": "Incident opened"})).await.unwrap();
    assert_eq!((reply.status, reply.text()), (200, "ok".into()));
    let body = alerts::webhook(&[alerts::Alert::cpu_high("svc-a", "2026-01-01T00:00:00Z".parse().unwrap())]);
    assert_eq!(sink.post("any", &body).await.unwrap().status, 200);
    sink.process().wait_for_log("on /services/x → 200\n   Incident opened", SOON).await.unwrap();
}
