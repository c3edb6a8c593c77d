//! (r) `eventpulse explain`, as a person asks: by incident, fingerprint, alert id and action, on both logs, and why a rule did not fire.

use std::{path::Path, process::Output};

use eventpulse_e2e::{START, Shop};
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    client,
    eventpulse::{Launcher, find_binary},
};
use jiff::Timestamp;
use serde_json::Value;

fn explain(kubeconfig: &Path, args: &[&str]) -> Output {
    std::process::Command::new(find_binary().unwrap())
        .arg("explain")
        .args(args)
        .env("KUBECONFIG", kubeconfig)
        .output()
        .unwrap()
}

fn told(kubeconfig: &Path, args: &[&str]) -> String {
    let output = explain(kubeconfig, args);
    let (text, error) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{args:?}: {error}");
    text
}

fn says(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let at = rest.find(part);
        assert!(at.is_some(), "{part:?} does not follow in:\n{text}");
        rest = &rest[at.unwrap_or_default() + part.len()..];
    }
}

async fn the_story_is_told(name: &str, kafka: bool) {
    let shop = Shop::open(name, kafka).await.unwrap();
    let (kubeconfig, dir) = (shop.environment.plane().kubeconfig(), shop.environment.dir());
    let data = dir.join("data").display().to_string();
    let brokers = if kafka { shop.environment.kafka().bootstrap() } else { String::new() };
    let log: Vec<&str> =
        if kafka { vec!["--kafka-brokers", &brokers, "--topic-prefix", "r-"] } else { vec!["--data-dir", &data] };
    let launcher: Launcher = shop.launcher("eventpulse").data_dir(Path::new(&data));
    let launcher = if kafka { launcher.kafka(&brokers, "r-") } else { launcher };
    let eventpulse = launcher.start(START).await.unwrap();
    let url = eventpulse.url("webhooks/alertmanager");

    let now = Timestamp::now();
    let (main, other) = (Alert::cpu_high("svc-a", now), Alert::firing("MemoryHigh", now).label("service", "svc-a"));
    let elsewhere = Alert::cpu_high("svc-a", now).label("namespace", "bank");
    for _ in 0..3 {
        let reply = client::post(&url, &webhook(&[main.clone(), other.clone(), elsewhere.clone()])).await.unwrap();
        assert!(reply.is_success(), "{}", reply.text());
    }
    let incident = shop.incidents_in(1, &["Resolved"]).await.remove(0);
    shop.messages(1).await;
    let incident = incident["metadata"]["name"].as_str().unwrap().to_owned();
    let action = shop.get("actions")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let ask = |subject: &str| told(&kubeconfig, &[&[subject], log.as_slice()].concat());

    // From the webhook to the message, in this order, whichever id is asked for.
    let message_is_told = || ask(&incident).contains("notification.delivered").then_some(());
    shop.wait_for("the message told", message_is_told).await;
    let story = ask(&incident);
    println!("{story}");
    for subject in [incident.as_str(), &action, &main.fingerprint()] {
        says(
            &ask(subject),
            &["What happened", "accepted CPUHigh", "requested step add-replica", "3 → 4", "is Resolved", "Now"],
        );
    }
    says(&story, &["+ shop/cpu-high: Every matcher matches", "again 2 times", "opened: rule shop/cpu-high"]);
    assert_eq!(story.matches("action.completed").count(), 1, "{story}");

    // As JSON, by the alert's id.
    let json = told(&kubeconfig, &[&[main.fingerprint().as_str(), "-o", "json"], log.as_slice()].concat());
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["incidents"], serde_json::json!([incident]));
    assert_eq!(json["rules"][0]["reason"], "matches");
    says(&ask(json["alert"]["alertID"].as_str().unwrap()), &["accepted CPUHigh", "opened"]);
    let reasons: Vec<&Value> = json["timeline"].as_array().unwrap().iter().map(|entry| &entry["reason"]).collect();
    assert!(reasons.contains(&&Value::from("opened")), "{json:#}");

    // Why a rule did not fire.
    says(
        &ask(&other.fingerprint()),
        &["- shop/cpu-high", "alertname=\"CPUHigh\": the label is \"MemoryHigh\"", "noRule: no rule"],
    );
    says(
        &ask(&elsewhere.fingerprint()),
        &["- shop/cpu-high", "the alert belongs to namespace bank", "noRule: no rule"],
    );

    // Without the log the resources alone tell; of what nobody knows it is said where was looked.
    says(&told(&kubeconfig, &[&incident, "--no-log"]), &["What happened", "incident.opened", "plan", "3 → 4"]);
    let nobody = explain(&kubeconfig, &[&["nobody-knows"], log.as_slice()].concat());
    assert!(!nobody.status.success());
    says(&String::from_utf8_lossy(&nobody.stderr), &["nothing is known of nobody-knows"]);

    // It was a look from the side: the services go on.
    assert!(eventpulse.readiness().await.is_some_and(|reply| reply.is_success()));
    shop.environment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r_the_story_is_told_from_the_embedded_log() {
    the_story_is_told("e2e-r", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r_the_story_is_told_from_kafka() {
    the_story_is_told("e2e-r-kafka", true).await;
}
