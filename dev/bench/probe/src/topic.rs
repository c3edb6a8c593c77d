//! Is everything there that was answered with 200? The topic itself is read, by a client that is not EventPulse's.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use serde::Deserialize;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);
/// How many of what is missing are named.
const NAMED: usize = 20;

#[derive(Args)]
pub struct Flags {
    /// The broker, `HOST:PORT`.
    #[arg(long)]
    brokers: String,
    /// The topic, with its prefix.
    #[arg(long, default_value = "alert.raised")]
    topic: String,
    /// Numbers 0 up to this one are expected.
    #[arg(long)]
    count: usize,
}

/// An alert of the load: its number is one of its labels.
#[derive(Deserialize)]
struct Numbered {
    labels: Labels,
}

#[derive(Deserialize)]
struct Labels {
    n: Option<String>,
}

/// What was found of the numbers that were expected.
struct Tally {
    seen: Vec<u8>,
    records: u64,
    foreign: u64,
}

impl Tally {
    fn new(count: usize) -> Self {
        Self { seen: vec![0; count], records: 0, foreign: 0 }
    }

    fn take(&mut self, payload: &[u8]) {
        self.records += 1;
        let number = serde_json::from_slice::<Numbered>(payload).ok().and_then(|alert| alert.labels.n?.parse().ok());
        match number.and_then(|number: usize| self.seen.get_mut(number)) {
            Some(seen) => *seen = seen.saturating_add(1),
            None => self.foreign += 1,
        }
    }

    fn line(&self) -> Value {
        let missing = self.seen.iter().enumerate().filter(|(_, seen)| **seen == 0).map(|(number, _)| number);
        json!({
            "records": self.records,
            "foreign": self.foreign,
            "distinct": self.seen.iter().filter(|seen| **seen > 0).count(),
            "repeated": self.seen.iter().filter(|seen| **seen > 1).count(),
            "missing": missing.clone().take(NAMED).collect::<Vec<_>>(),
        })
    }
}

/// Gives how many records there are, how many of the numbers, and the first of those that are missing.
pub fn run(flags: &Flags) -> anyhow::Result<Value> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &flags.brokers)
        .set("group.id", "eventpulse-bench-topic")
        .set("enable.auto.commit", "false")
        .create()
        .context("the consumer")?;
    let metadata = consumer.fetch_metadata(Some(&flags.topic), PATIENCE).context("the topic's metadata")?;
    let topic = metadata.topics().first().filter(|topic| !topic.partitions().is_empty());
    let partitions = topic.with_context(|| format!("there is no topic {}", flags.topic))?.partitions();
    let (mut list, mut wanted) = (TopicPartitionList::new(), 0);
    for partition in partitions {
        let (low, high) = consumer.fetch_watermarks(&flags.topic, partition.id(), PATIENCE)?;
        wanted += u64::try_from(high - low).unwrap_or(0);
        list.add_partition_offset(&flags.topic, partition.id(), Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let (mut tally, mut heard) = (Tally::new(flags.count), Instant::now());
    while tally.records < wanted {
        match consumer.poll(Duration::from_secs(1)) {
            Some(message) => {
                tally.take(message.context("read the topic")?.payload().unwrap_or_default());
                heard = Instant::now();
            }
            None => anyhow::ensure!(heard.elapsed() < PATIENCE, "{} of {wanted} records were read", tally.records),
        }
    }
    Ok(tally.line())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_repeated_or_foreign_is_said() {
        let mut tally = Tally::new(4);
        for payload in [
            &br#"{"labels":{"n":"0"}}"#[..],
            br#"{"labels":{"n":"2","x":"y"},"status":"firing"}"#,
            br#"{"labels":{"n":"2"}}"#,
            br#"{"labels":{"n":"4"}}"#,
            br#"{"labels":{}}"#,
            b"no JSON",
        ] {
            tally.take(payload);
        }
        let expected = json!({"records": 6, "foreign": 3, "distinct": 2, "repeated": 1, "missing": [1, 3]});
        assert_eq!(tally.line(), expected);
    }
}
