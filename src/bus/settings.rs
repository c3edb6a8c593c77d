//! What the adapters are opened with.

use std::{path::PathBuf, time::Duration};

use crate::events::Topic;

/// Which log, and how.
#[derive(Clone, Debug)]
pub enum BusConfig {
    /// In memory: tests and the simulator.
    Memory {
        /// Of every topic.
        partitions: u32,
    },
    /// One file on this machine, for one process.
    Embedded(EmbeddedConfig),
    /// Apache Kafka.
    Kafka(KafkaConfig),
}

/// How long records are kept. Consumers that sleep longer lose what they did not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Of what the services consume. Never longer than the TTL of Action and Notification (design, section 5).
    pub events: Duration,
    /// Of what people and other systems read: `alert.decided` and `dead.letter`.
    pub ledger: Duration,
}

impl Default for Retention {
    /// One day; seven days.
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self { events: DAY, ledger: DAY * 7 }
    }
}

impl Retention {
    /// Of one topic.
    pub fn of(&self, topic: Topic) -> Duration {
        if Self::is_ledger(topic) { self.ledger } else { self.events }
    }

    /// Whether no service consumes it: people and other systems do.
    pub fn is_ledger(topic: Topic) -> bool {
        matches!(topic, Topic::AlertDecided | Topic::DeadLetter)
    }
}

/// The size of the embedded log, in bytes.
pub const EMBEDDED_LOG_BYTES: u64 = 1 << 30;

/// The embedded log's settings.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// The data directory, for this process alone.
    pub directory: PathBuf,
    /// Of topics that are not in the file yet; those that are keep their number.
    pub partitions: u32,
    /// How long records are kept, unless the size demands otherwise. What a group has not consumed is kept in any case.
    pub retention: Retention,
    /// The size of the file, in bytes. From half of it on, consumed records go early; when it is reached, no alert is taken
    /// until others are consumed, so that what is behind them drains (promises 1 and 6).
    pub max_bytes: u64,
}

impl EmbeddedConfig {
    /// With the defaults: 4 partitions, one day and seven, 1 GiB.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            partitions: 4,
            retention: Retention::default(),
            max_bytes: EMBEDDED_LOG_BYTES,
        }
    }
}

/// The Kafka adapter's settings.
#[derive(Clone)]
pub struct KafkaConfig {
    /// `bootstrap.servers`: host:port, separated by commas.
    pub brokers: String,
    /// Before every topic and group.
    pub topic_prefix: String,
    /// Of topics that are created.
    pub partitions: u32,
    /// Of topics that are created.
    pub retention: Retention,
    /// librdkafka settings for producer, consumers and administration, like `security.protocol`; they win over the defaults here,
    /// except for those that a promise depends on.
    pub extra: Vec<(String, String)>,
    /// Where an embedded log would stand that was used before; with records in it that wait, nothing starts.
    pub former_log: Option<PathBuf>,
}

impl KafkaConfig {
    /// With the defaults: no prefix, 12 partitions, one day and seven.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            topic_prefix: String::new(),
            partitions: 12,
            retention: Retention::default(),
            extra: Vec::new(),
            former_log: None,
        }
    }
}

/// Without the values of `extra`: passwords are among them.
impl std::fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("topic_prefix", &self.topic_prefix)
            .field("partitions", &self.partitions)
            .field("retention", &self.retention)
            .field("extra", &self.extra.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("former_log", &self.former_log)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_in_the_debug_text() {
        let mut config = KafkaConfig::new("127.0.0.1:9092");
        config.extra.push(("sasl.password".into(), "hunter2".into()));
        let text = format!("{:?}", BusConfig::Kafka(config));
        assert!(text.contains("sasl.password") && !text.contains("hunter2"), "{text}");
    }
}
