//! One side is lost, and comes back from the other: Incidents from the topics, everything else from the resources. And everything on the
//! log comes once more.

use std::{
    collections::BTreeMap,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use eventpulse_testkit::eventpulse::find_binary;
use jiff::Timestamp;
use rusqlite::Connection;
use serde_json::Value;

use super::Struck;
use crate::{
    observe::log::{self, FILE, TOPICS},
    stage::{Bus, Stage},
};

const PROBES: usize = 8;
const INCIDENTS: &str = "/apis/eventpulse.io/v1alpha1/namespaces/shop/incidents";

pub(super) async fn stop_all(stage: &mut Stage) -> Result<()> {
    for place in 0..stage.replicas.len() {
        stage.stop(place).await?;
    }
    Ok(())
}

async fn start_all(stage: &mut Stage) -> Result<()> {
    for place in 0..stage.replicas.len() {
        stage.start(place).await?;
    }
    Ok(())
}

/// As `docs/operations.md` says it: stop, `eventpulse replay`, start.
pub(super) async fn incidents_deleted(stage: &mut Stage, _: Duration) -> Result<Struck> {
    let probes = stage.raise(PROBES).await?;
    stage.acted(&probes).await?;
    stage.quiet().await?;
    let before = incidents(stage);
    ensure!(!before.is_empty(), "there is no incident");
    let plane = stage.shop.environment.plane();
    // All at once: one after the other takes minutes.
    plane.kubectl_with(&["delete", "--raw", INCIDENTS], "").await?;
    stage.until("every incident is gone", |stage| incidents(stage).is_empty()).await?;
    stop_all(stage).await?;
    let mut command = Command::new(find_binary()?);
    command.args(["replay", "--services=incidents"]).env_remove("KUBECONFIG");
    match stage.bus {
        Bus::Embedded => command.arg(format!("--data-dir={}", stage.data_dir().display())),
        Bus::Kafka => command.args([
            format!("--kafka-brokers={}", stage.shop.environment.kafka().bootstrap()),
            "--topic-prefix=".to_owned(),
        ]),
    };
    let output = command.output()?;
    ensure!(output.status.success(), "eventpulse replay: {}", String::from_utf8_lossy(&output.stderr));
    let began = Instant::now();
    start_all(stage).await?;
    stage
        .until("every incident is there again, and in its phase", |stage| phases(&incidents(stage)) == phases(&before))
        .await?;
    let took = began.elapsed();
    let after = incidents(stage);
    let differs = before.iter().filter(|(name, incident)| after.get(*name) != Some(incident));
    let differs: Vec<String> =
        differs.map(|(name, was)| format!("{name} was {was:?}, is {:?}", after.get(name))).collect();
    ensure!(differs.is_empty(), "{} incidents are not what they were: {}", differs.len(), differs[0]);
    stage.resolve(&probes).await;
    Ok(Struck::times(before.len()).recovered("from the start until all are there", took))
}

/// What an incident is, by its name: its spec, and its phase.
fn incidents(stage: &Stage) -> BTreeMap<String, (Value, Value)> {
    let incidents = stage.etcd.objects("incidents").into_iter();
    let of = |incident: &Value| (incident["spec"].clone(), incident["status"]["phase"].clone());
    incidents.map(|incident| (incident["metadata"]["name"].to_string(), of(&incident))).collect()
}

fn phases(incidents: &BTreeMap<String, (Value, Value)>) -> BTreeMap<&str, &Value> {
    incidents.iter().map(|(name, (_, phase))| (name.as_str(), phase)).collect()
}

/// With incidents open, whose alerts come again and end afterwards.
pub(super) async fn topics_lost(stage: &mut Stage, _: Duration) -> Result<Struck> {
    let probes = stage.raise(PROBES).await?;
    stage.acted(&probes).await?;
    stage.quiet().await?;
    stop_all(stage).await?;
    lose_topics(stage).await?;
    let began = Instant::now();
    start_all(stage).await?;
    stage.repeat(&probes).await;
    stage.resolve(&probes).await;
    stage.probe(PROBES).await?;
    Ok(Struck::times(1).recovered("from the start until alerts are acted on", began.elapsed()))
}

/// Nobody runs. What was on the log is remembered.
pub(super) async fn lose_topics(stage: &mut Stage) -> Result<()> {
    stage.remember_records(&TOPICS).await?;
    match stage.bus {
        Bus::Embedded => std::fs::remove_dir_all(stage.data_dir())?,
        Bus::Kafka => {
            let client = stage.shop.environment.kafka().client();
            for topic in client.topics().await? {
                client.delete_topic(&topic).await?;
            }
        }
    }
    Ok(())
}

/// Every group goes back to the first record of everything that it reads.
pub(super) async fn repeated(stage: &mut Stage, _: Duration) -> Result<Struck> {
    let records = stage.records().await?;
    // One that two groups read comes to both.
    let comes_again = |(_, topic): &(&str, &str)| records.iter().filter(|record| record.topic == *topic).count();
    let times = log::reads().iter().map(comes_again).sum();
    stop_all(stage).await?;
    match stage.bus {
        Bus::Embedded => {
            let rewound = Connection::open(stage.data_dir().join(FILE))?.execute("DELETE FROM offsets", [])?;
            ensure!(rewound > 0, "no group has stored an offset");
        }
        Bus::Kafka => drop(stage.shop.environment.kafka().client().rewind_every_group().await?),
    }
    stage.repeated_at = Some(Timestamp::now());
    let began = Instant::now();
    start_all(stage).await?;
    stage.quiet().await?;
    Ok(Struck::times(times).recovered("from the start until all was read", began.elapsed()))
}
