//! Which log: the flags that every command shares which reads or writes it, and what they name.

use std::path::PathBuf;

use clap::Args;

use super::{ConfigError, ConfigErrors, brokers::check_broker, wrong};
use crate::bus::{self, BusConfig, EmbeddedConfig, KafkaConfig};

/// Where the embedded log is, below the data directory.
const EMBEDDED_LOG: &str = "log";

/// See the module's text.
#[derive(Args, Clone, Debug)]
pub struct LogFlags {
    /// Kafka brokers. Without them the log is embedded: one SQLite file in the data directory, all services in this one process.
    #[arg(long, env = "EVENTPULSE_KAFKA_BROKERS", value_delimiter = ',', value_name = "HOST:PORT")]
    pub kafka_brokers: Vec<String>,

    /// A setting handed to librdkafka as it is, like security.protocol=SASL_SSL. May be given several times.
    /// In the variable, or in one value, several stand behind commas or on lines of their own; a comma within a value, like one of a
    /// password, stays where no name with a dot and `=` follow it.
    #[arg(long, env = "EVENTPULSE_KAFKA_CONFIG", hide_env_values = true, value_name = "KEY=VALUE")]
    pub kafka_config: Vec<String>,

    /// Put before the name of every topic and consumer group.
    #[arg(long, env = "EVENTPULSE_TOPIC_PREFIX", default_value = "", value_name = "PREFIX")]
    pub topic_prefix: String,

    /// Where ingest's outbox, or the embedded log, is kept. Must survive a restart.
    #[arg(long, env = "EVENTPULSE_DATA_DIR", default_value = "eventpulse-data", value_name = "DIR")]
    pub data_dir: PathBuf,
}

impl LogFlags {
    /// The log as it stands, to be read only: what it is created with is no matter.
    pub fn to_read(&self) -> Result<BusConfig, ConfigErrors> {
        let (problems, bus) = self.read();
        if problems.is_empty() { Ok(bus) } else { Err(problems.into()) }
    }

    /// Where the embedded log is, if it is used.
    pub fn embedded(&self) -> PathBuf {
        self.data_dir.join(EMBEDDED_LOG)
    }

    /// What is wrong with them, and which log they name.
    pub(super) fn read(&self) -> (Vec<ConfigError>, BusConfig) {
        let (mut problems, extra) = self.kafka_settings();
        problems.extend(check_prefix(&self.topic_prefix));
        if self.kafka_brokers.is_empty() {
            if let Some((name, _)) = extra.first() {
                problems.push(wrong("kafka-config", format!("{name} is given, but no --kafka-brokers")));
            }
            if !self.topic_prefix.is_empty() {
                problems
                    .push(wrong("topic-prefix", "it is given, but no --kafka-brokers: the embedded log has no names"));
            }
            return (problems, BusConfig::Embedded(EmbeddedConfig::new(self.embedded())));
        }
        let is_wrong = |broker: &String| check_broker(broker).err().map(|problem| wrong("kafka-brokers", problem));
        problems.extend(self.kafka_brokers.iter().filter_map(is_wrong));
        let topic_prefix = self.topic_prefix.clone();
        let kafka = KafkaConfig { topic_prefix, extra, ..KafkaConfig::new(self.kafka_brokers.join(",")) };
        if let Err(problem) = bus::check_settings(&kafka) {
            problems.push(wrong("kafka-config", problem));
        }
        (problems, BusConfig::Kafka(kafka))
    }

    /// Passwords are among them: an error names the setting, and never what it is set to.
    fn kafka_settings(&self) -> (Vec<ConfigError>, Vec<(String, String)>) {
        let (mut problems, mut settings) = (Vec::new(), Vec::new());
        let given = self.kafka_config.iter().flat_map(|text| split_settings(text));
        for (i, setting) in given.enumerate() {
            match setting.split_once('=') {
                Some((name, value)) if is_setting_name(name.trim()) => {
                    settings.push((name.trim().to_owned(), value.to_owned()));
                }
                _ => {
                    let problem = format!("setting {} is no KEY=VALUE, like security.protocol=SASL_SSL", i + 1);
                    problems.push(wrong("kafka-config", problem));
                }
            }
        }
        (problems, settings)
    }
}

/// Kafka's rule for topic names (`org.apache.kafka.common.internals.Topic`): letters, digits, `.`, `_` and `-`, 249 in all.
pub(super) fn is_topic_text(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

fn check_prefix(prefix: &str) -> Option<ConfigError> {
    let fits = prefix.len() <= 200 && is_topic_text(prefix);
    (!fits).then(|| wrong("topic-prefix", format!("{prefix:?} may hold at most 200 letters, digits, '.', '_' and '-'")))
}

/// librdkafka's names: words behind dots.
fn is_setting_name(name: &str) -> bool {
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    name.split('.').all(is_word)
}

/// Several settings in one text, as a variable holds them. A value may hold commas and lines, like a password or a certificate: what
/// follows one is a setting of its own only if it begins with a name that has a dot.
fn split_settings(text: &str) -> Vec<&str> {
    let begins_setting =
        |rest: &str| rest.split_once('=').is_some_and(|(name, _)| name.contains('.') && is_setting_name(name.trim()));
    let (mut settings, mut begin) = (Vec::new(), 0);
    for (i, separator) in text.match_indices([',', '\n']) {
        let next = i + separator.len();
        if begins_setting(&text[next..]) {
            settings.push(&text[begin..i]);
            begin = next;
        }
    }
    settings.push(&text[begin..]);
    settings
}
