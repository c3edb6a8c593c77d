//! The environment keeps its word: two at once, nothing of the user's is looked at, nothing is left behind.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A helper that fails is a test that fails.

use std::{path::Path, time::Duration};

use eventpulse_env::{ControlPlaneOptions, Environment, MailOptions, MailTls, Signal, Tool, Tools, listeners};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: svc-a, namespace: default}
spec:
  replicas: 3
  selector: {matchLabels: {app: svc-a}}
  template:
    metadata: {labels: {app: svc-a}}
    spec: {containers: [{name: main, image: registry.invalid/svc-a:1}]}
";

/// Nothing but loopback can reach any part; these are the ones that listen at all.
fn assert_loopback_only(environment: &Environment, listening: &[&str]) {
    let mut found = Vec::new();
    for process in environment.processes() {
        let addresses = listeners(process.pid());
        assert!(addresses.iter().all(|address| address.ip().is_loopback()), "{}: {addresses:?}", process.name());
        if !addresses.is_empty() {
            found.push(process.name());
        }
    }
    found.sort_unstable();
    assert_eq!(found, listening);
}

fn is_running(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_control_planes_run_at_once_and_leave_nothing_behind() {
    let start = |name| Environment::builder(name).control_plane(ControlPlaneOptions::default()).start();
    let (one, two) = tokio::join!(start("one"), start("two"));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_ne!(one.plane().server(), two.plane().server());
    one.plane().apply(DEPLOYMENT).unwrap();
    one.plane().run_kubectl(&["rollout", "status", "deployment/svc-a", "--timeout=60s"]).unwrap();
    let other = two.plane().run_kubectl(&["get", "deployments", "-A", "-o", "name"]).unwrap();
    assert_eq!(other.trim(), "", "the other cluster must not have it");
    assert_loopback_only(&one, &["etcd", "kube-apiserver"]);
    let pids: Vec<u32> = one.processes().iter().chain(&two.processes()).map(|process| process.pid()).collect();
    let dirs = [one.dir().to_owned(), two.dir().to_owned()];
    assert_eq!(pids.len(), 10);
    one.stop().await;
    drop(two);
    assert!(pids.into_iter().all(|pid| !is_running(pid)));
    assert!(dirs.iter().all(|dir| !dir.exists()));
}

/// `KUBECONFIG`, `~/.kube/config`, the in-cluster account and a proxy all point to a server that must not be asked. The test runs itself
/// again with them, because a process's environment cannot be changed safely while it has threads.
#[tokio::test(flavor = "multi_thread")]
async fn the_users_own_cluster_is_never_looked_at() {
    if std::env::var_os("EVENTPULSE_TEST_POISONED").is_none() {
        // Builds belong to the user's own caches: only starting and asking is tested here.
        Tools::new().ensure(&[Tool::Kubernetes, Tool::Kwok]).await.unwrap();
        let trap = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        trap.set_nonblocking(true).unwrap();
        let port = trap.local_addr().unwrap().port();
        let home = tempfile::tempdir().unwrap();
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\nclusters: [{{name: x, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n\
             contexts: [{{name: x, context: {{cluster: x}}}}]\n"
        );
        std::fs::create_dir(home.path().join(".kube")).unwrap();
        std::fs::write(home.path().join(".kube/config"), &config).unwrap();
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["the_users_own_cluster_is_never_looked_at", "--exact", "--nocapture"])
            .env("EVENTPULSE_TEST_POISONED", "1")
            .env("EVENTPULSE_CACHE", eventpulse_env::cache_dir())
            .env("HOME", home.path())
            .env("KUBECONFIG", home.path().join(".kube/config"))
            .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            .env("KUBERNETES_SERVICE_PORT", port.to_string())
            .env("HTTPS_PROXY", format!("http://127.0.0.1:{port}"))
            // etcd would end at once, and any part could see where the user's own broker is.
            .env("ETCD_DATA_DIR", home.path())
            .env("EVENTPULSE_KAFKA_BROKERS", format!("127.0.0.1:{port}"))
            .status()
            .unwrap();
        assert!(status.success());
        assert!(trap.accept().is_err(), "somebody connected to the user's cluster");
        return;
    }
    let environment =
        Environment::builder("poisoned").control_plane(ControlPlaneOptions::default()).start().await.unwrap();
    let nodes = environment.plane().run_kubectl(&["get", "nodes", "-o", "name"]).unwrap();
    assert_eq!(nodes.trim(), "node/node-0");
    for process in environment.processes() {
        let variables = std::fs::read_to_string(format!("/proc/{}/environ", process.pid())).unwrap();
        let foreign: Vec<&str> = variables
            .split('\0')
            .filter(|variable| {
                ["EVENTPULSE_", "ETCD_", "KUBE", "HTTPS_"].iter().any(|prefix| variable.starts_with(prefix))
            })
            .collect();
        assert!(variables.contains("HOME=") && foreign.is_empty(), "{}: {foreign:?}", process.name());
    }
    environment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_comes_back_on_its_port() {
    let mut environment = Environment::builder("kafka").kafka(true).start().await.unwrap();
    let address = environment.kafka().bootstrap();
    environment.kafka().stop().await;
    assert!(tokio::net::TcpStream::connect(&address).await.is_err());
    environment.kafka_mut().restart().await.unwrap();
    assert_eq!(environment.kafka().bootstrap(), address);
    tokio::time::timeout(Duration::from_secs(10), tokio::net::TcpStream::connect(&address)).await.unwrap().unwrap();
    assert_loopback_only(&environment, &["kafka"]);
    environment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_collector_writes_down_what_it_got_and_comes_back_on_its_ports() {
    let mut environment = Environment::builder("otelcol").start().await.unwrap();
    environment.start_collector().await.unwrap();
    assert!(environment.versions().join("\n").contains("otelcol version v0."), "{:?}", environment.versions());
    assert_loopback_only(&environment, &["otelcol"]);
    for name in ["before", "after"] {
        let collector = environment.collector();
        let body = format!(
            r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{{"stringValue":"{name}"}}}}]}}]}}]}}"#
        );
        assert!(
            post(collector.http().trim_start_matches("http://"), "/v1/logs", &body).await.starts_with("HTTP/1.1 200")
        );
        let received = || format!("{:?}", collector.received(Signal::Logs).unwrap());
        let told = async {
            while !received().contains(name) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), told).await.unwrap();
        let (before, ports) = (received().contains("before"), (collector.http(), collector.grpc()));
        assert!(before, "what it got before is gone");
        environment.collector_mut().restart().await.unwrap();
        assert_eq!((environment.collector().http(), environment.collector().grpc()), ports);
    }
    environment.stop().await;
}

async fn post(address: &str, path: &str, body: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: \
         close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn alertmanager_and_prometheus_start_with_the_given_configuration() {
    let mut environment = Environment::builder("monitoring").start().await.unwrap();
    let config = "route: {receiver: none}\nreceivers: [{name: none}]\n";
    let alertmanager = environment.start_alertmanager("alertmanager", config).await.unwrap().address();
    let prometheus = format!(
        "global: {{scrape_interval: 1s}}\nalerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alertmanager}']}}]}}]}}\n"
    );
    environment.start_prometheus(&prometheus, "groups: []\n").await.unwrap();
    let versions = environment.versions().join("\n");
    assert!(versions.contains("alertmanager, version 0.") && versions.contains("prometheus, version"), "{versions}");
    assert_loopback_only(&environment, &["alertmanager", "prometheus"]);
    let broken = environment.start_alertmanager("broken", "route: {}\n").await.err().unwrap().to_string();
    assert!(broken.contains("broken ended") && broken.contains("receiver"), "{broken}");
    environment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_servers_take_mail_as_they_were_told_and_come_back_on_their_port() {
    let mut environment = Environment::builder("mail").start().await.unwrap();
    let login = Some(("eventpulse".to_owned(), "s3cret".to_owned()));
    let implicit = MailOptions { tls: MailTls::Implicit, login, recipients: None };
    environment.start_mail_server("starttls", &MailOptions::default()).await.unwrap();
    environment.start_mail_server("implicit", &implicit).await.unwrap();
    let plain = MailOptions { tls: MailTls::None, ..MailOptions::default() };
    assert_eq!(environment.start_mail_server("plain", &plain).await.unwrap().ca_pem(), "");
    let [one, two] = ["starttls", "implicit"].map(|name| environment.mail_server_mut(name).ca_pem());
    assert!(one.contains("BEGIN CERTIFICATE") && two.contains("BEGIN CERTIFICATE") && one != two);
    let versions = environment.versions().join("\n");
    assert!(versions.contains("mailpit v1."), "{versions}");
    assert_loopback_only(&environment, &["implicit", "plain", "starttls"]);
    let server = environment.mail_server_mut("plain");
    let address = format!("127.0.0.1:{}", server.port());
    server.stop().await;
    assert!(tokio::net::TcpStream::connect(&address).await.is_err());
    server.restart().await.unwrap();
    assert!(tokio::net::TcpStream::connect(&address).await.is_ok());
    environment.stop().await;
}
