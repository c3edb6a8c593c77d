//! Who sends alerts: each fires, is told of again, and ends; now and then late, out of order, or without an answer. What is not
//! answered with 200 is sent again until it is, as Alertmanager does.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use eventpulse::config::Service;
use eventpulse_oracle::Accepted;
use jiff::Timestamp;
use serde_json::json;
use tokio::time::sleep;

use crate::{coverage::Fault, fleet::Fleet, scenario::Scenario, world::World};

/// As ingest is configured by default.
const SOURCE: &str = "alertmanager";
const PATH: &str = "/webhooks/alertmanager";

/// One alert, from its beginning to its end.
#[derive(Clone, Debug)]
struct Alert {
    name: String,
    service: String,
    severity: &'static str,
    starts_at: Timestamp,
}

/// Sends alerts for about so long, and returns when each has ended and its end was taken.
pub(crate) async fn send(world: Arc<World>, fleet: Arc<Fleet>, scenario: Scenario, span: Duration) {
    let mut sending = Vec::new();
    for _ in 0..world.chance.between(2, 9) {
        sending.push(tokio::spawn(episode(Arc::clone(&world), Arc::clone(&fleet), scenario.clone(), span)));
    }
    for one in sending {
        // One that panics is told of by the history's own thread.
        let _ = one.await;
    }
}

async fn episode(world: Arc<World>, fleet: Arc<Fleet>, scenario: Scenario, span: Duration) {
    let chance = &world.chance;
    sleep(chance.time(Duration::ZERO, span)).await;
    let name = match chance.below(10) {
        0..=5 => "CPUHigh",
        6..=8 => "Errors",
        _ => "Other",
    };
    let service = chance.pick(&scenario.services).cloned().unwrap_or_default();
    let severity = if chance.permille(500) { "warning" } else { "critical" };
    let alert = Alert { name: name.into(), service, severity, starts_at: world.time.now() };
    let lasts = chance.time(Duration::from_secs(1), span);
    if chance.permille(100) {
        // Its end overtakes its beginning.
        world.reached(Fault::AlertOutOfOrder);
        until_taken(&world, &fleet, &alert, "resolved").await;
        until_taken(&world, &fleet, &alert, "firing").await;
        // Whoever is right: it has ended.
        until_taken(&world, &fleet, &alert, "resolved").await;
        return;
    }
    until_taken(&world, &fleet, &alert, "firing").await;
    let again = chance.below(4);
    for _ in 0..again {
        sleep(chance.time(Duration::ZERO, lasts / 4)).await;
        world.reached(Fault::AlertAgain);
        until_taken(&world, &fleet, &alert, "firing").await;
    }
    sleep(chance.time(Duration::ZERO, lasts)).await;
    until_taken(&world, &fleet, &alert, "resolved").await;
    if chance.permille(200) {
        world.reached(Fault::AlertAgain);
        until_taken(&world, &fleet, &alert, "resolved").await;
    }
}

async fn until_taken(world: &World, fleet: &Fleet, alert: &Alert, status: &str) {
    let body = webhook(alert, status, world.time.now());
    loop {
        let Some(door) = fleet.door(&world.chance, Service::Ingest) else {
            sleep(Duration::from_secs(1)).await;
            continue;
        };
        let answer = door.post(PATH, &body).await;
        let what = format_args!("{} {} {status}", alert.name, alert.service).to_string();
        match answer {
            Some(200) => {
                world.timeline.note("alerts", format_args!("{what} → 200"));
                world.accepted().push(Accepted {
                    source: SOURCE.into(),
                    fingerprint: fingerprint(alert),
                    starts_at: alert.starts_at,
                    status: status.into(),
                    name: alert.name.clone(),
                });
                return;
            }
            Some(code) => world.timeline.note("alerts", format_args!("{what} → {code}")),
            None => {
                world.reached(Fault::AlertUnanswered);
                world.timeline.note("alerts", format_args!("{what} → no answer"));
            }
        }
        sleep(world.chance.time(Duration::from_millis(200), Duration::from_secs(3))).await;
    }
}

fn fingerprint(alert: &Alert) -> String {
    let mut hasher = DefaultHasher::new();
    (&alert.name, &alert.service, alert.severity).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Alertmanager's webhook, version 4.
fn webhook(alert: &Alert, status: &str, now: Timestamp) -> String {
    let labels = json!({"alertname": alert.name, "service": alert.service, "severity": alert.severity});
    let ends_at = if status == "resolved" { now.to_string() } else { "0001-01-01T00:00:00Z".into() };
    json!({
        "version": "4", "groupKey": "{}", "truncatedAlerts": 0, "status": status, "receiver": "eventpulse",
        "groupLabels": {}, "commonLabels": {}, "commonAnnotations": {}, "externalURL": "http://alertmanager.example",
        "alerts": [{
            "status": status, "labels": labels, "annotations": {"summary": format!("{} of {}", alert.name, alert.service)},
            "startsAt": alert.starts_at.to_string(), "endsAt": ends_at, "generatorURL": "http://prometheus.example/graph",
            "fingerprint": fingerprint(alert),
        }],
    })
    .to_string()
}
