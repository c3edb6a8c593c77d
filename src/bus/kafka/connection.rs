//! Clients of librdkafka: their settings, their logs without secrets, and whether the brokers can be reached.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
};

use crate::{
    bus::{BusError, KafkaConfig, MAX_RECORD_BYTES, faults::Faults},
    events::Topic,
};

/// What a record's framing may add to it.
pub(super) const MAX_MESSAGE_BYTES: usize = MAX_RECORD_BYTES + (64 << 10);

/// What the promises depend on and nobody may set otherwise.
const FIXED: [&str; 14] = [
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.protocol",
    "message.max.bytes",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "request.required.acks",
    "transactional.id",
];

/// Makes the clients of one bus.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) config: Arc<KafkaConfig>,
    secrets: Secrets,
    pub(super) health: BrokerHealth,
    pub(super) faults: Faults,
    /// The one topic of this connection, which is not ours; it goes by its whole name.
    foreign: Option<Arc<str>>,
}

impl Connection {
    /// Fails for a setting that is fixed.
    pub(super) fn new(config: KafkaConfig) -> Result<Self, BusError> {
        if let Some((name, _)) = config.extra.iter().find(|(name, _)| FIXED.contains(&name.as_str())) {
            return Err(BusError::Open(format!("the Kafka setting {name} is fixed; leave it out")));
        }
        let secrets = Secrets::of(&config.extra);
        let (health, faults) = (BrokerHealth::default(), Faults::default());
        Ok(Self { config: Arc::new(config), secrets, health, faults, foreign: None })
    }

    /// The same brokers, for a consumer of a topic that is not ours. What is wrong there is said in `faults`, apart from what is ours.
    pub(super) fn to_foreign(&self, topic: &str, faults: Faults) -> Self {
        Self { foreign: Some(topic.into()), faults, ..self.clone() }
    }

    /// The topic's name on the brokers.
    pub(super) fn topic_name(&self, topic: Topic) -> String {
        if let Some(foreign) = &self.foreign {
            return foreign.to_string();
        }
        format!("{}{}", self.config.topic_prefix, topic.name())
    }

    /// The topic of a name on the brokers.
    pub(super) fn topic_of(&self, name: &str) -> Option<Topic> {
        if let Some(foreign) = &self.foreign {
            return (**foreign == *name).then_some(Topic::AlertRaised);
        }
        name.strip_prefix(&self.config.topic_prefix)?.parse().ok()
    }

    /// The group's name on the brokers.
    pub(super) fn group_id(&self, group: &str) -> String {
        format!("{}eventpulse-{group}", self.config.topic_prefix)
    }

    pub(super) fn context(&self) -> LogContext {
        LogContext { secrets: self.secrets.clone(), health: self.health.clone() }
    }

    /// An error's text without secrets.
    pub(super) fn describe(&self, error: &KafkaError) -> String {
        match error {
            // Whose name is misspelled may be a secret as well: its value is not repeated.
            KafkaError::ClientConfig(_, problem, name, _) => self.secrets.mask(&format!("{name}: {problem}")),
            error => self.secrets.mask(&error.to_string()),
        }
    }

    pub(super) fn client(&self) -> ClientConfig {
        self.settings(&[])
    }

    pub(super) fn producer(&self) -> ClientConfig {
        let message_bytes = MAX_MESSAGE_BYTES.to_string();
        self.settings(&[
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("linger.ms", "0"),
            ("compression.type", "lz4"),
            ("message.timeout.ms", "30000"),
            ("message.max.bytes", &message_bytes),
            ("queue.buffering.max.kbytes", "65536"),
        ])
    }

    pub(super) fn consumer(&self, group: &str) -> ClientConfig {
        self.settings(&[
            // A foreign topic may appear, and grow, at any time; and one of ours may be deleted and made anew.
            ("topic.metadata.refresh.interval.ms", "10000"),
            ("group.id", &self.group_id(group)),
            ("auto.offset.reset", "earliest"),
            ("enable.auto.offset.store", "false"),
            ("enable.auto.commit", "true"),
            ("auto.commit.interval.ms", "1000"),
            ("enable.partition.eof", "false"),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("session.timeout.ms", "10000"),
            // Who stays learns by the answer to one of these that another has left: an ordered handover is to take 3 s at most.
            ("heartbeat.interval.ms", "1000"),
            // What is fetched ahead is bounded, and a full queue is looked at again soon, not after a second.
            ("fetch.message.max.bytes", "262144"),
            ("queued.min.messages", "2000"),
            ("queued.max.messages.kbytes", "16384"),
            ("fetch.queue.backoff.ms", "5"),
            ("fetch.error.backoff.ms", "100"),
        ])
    }

    /// The settings of every client, then these, then the user's.
    fn settings(&self, own: &[(&str, &str)]) -> ClientConfig {
        let mut settings = ClientConfig::new();
        settings.set_log_level(RDKafkaLogLevel::Info);
        let common = [
            ("bootstrap.servers", self.config.brokers.as_str()),
            ("client.id", "eventpulse"),
            ("allow.auto.create.topics", "false"),
            ("socket.nagle.disable", "true"),
            ("socket.keepalive.enable", "true"),
            ("reconnect.backoff.ms", "50"),
            ("reconnect.backoff.max.ms", "1000"),
        ];
        let extra = self.config.extra.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in common.into_iter().chain(own.iter().copied()).chain(extra) {
            settings.set(name, value);
        }
        settings
    }
}

/// Values that never appear in a log line or an error.
#[derive(Clone, Default)]
struct Secrets(Arc<[String]>);

impl Secrets {
    fn of(settings: &[(String, String)]) -> Self {
        const MARKS: [&str; 6] = ["password", "secret", "key", "token", "jaas", "oauthbearer"];
        let is_secret = |name: &str| MARKS.iter().any(|mark| name.to_ascii_lowercase().contains(mark));
        // A path is no secret, and a value of a letter or two would make every line unreadable.
        let hidden =
            settings.iter().filter(|(name, value)| is_secret(name) && !name.ends_with(".location") && value.len() > 2);
        Self(hidden.map(|(_, value)| value.clone()).collect())
    }

    fn mask(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }
}

/// Whether the brokers can be reached, as the clients see it.
#[derive(Clone, Default)]
pub(super) struct BrokerHealth(Arc<Mutex<Option<String>>>);

impl BrokerHealth {
    pub(super) fn up(&self) {
        if self.lock().take().is_some() {
            tracing::info!("The Kafka brokers can be reached again.");
        }
    }

    pub(super) fn down(&self, reason: String) {
        if self.lock().replace(reason.clone()).is_none() {
            tracing::warn!(reason, "The Kafka brokers cannot be reached.");
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        self.lock().clone().map_or(Ok(()), Err)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes librdkafka's log lines and errors.
#[derive(Clone)]
pub(super) struct LogContext {
    secrets: Secrets,
    health: BrokerHealth,
}

impl ClientContext for LogContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Every client gets every user's setting; librdkafka says so of those that are for the other kind.
        if facility == "CONFWARN" {
            return;
        }
        let message = self.secrets.mask(message);
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, message),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", facility, message);
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, message),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let reason = self.secrets.mask(reason);
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => self.health.down(reason),
            // One broker's; the client goes on with others, and says when none is left.
            Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::OperationTimedOut) => {
                tracing::debug!(target: "librdkafka", reason, "A broker cannot be reached.");
            }
            _ => tracing::warn!(target: "librdkafka", %error, reason, "A Kafka client has a problem."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(extra: &[(&str, &str)]) -> Result<Connection, BusError> {
        let mut config = KafkaConfig::new("127.0.0.1:1");
        config.topic_prefix = "ep-".into();
        config.extra = extra.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Connection::new(config)
    }

    #[test]
    fn the_prefix_is_before_every_topic_and_group() {
        let connection = connection(&[]).unwrap();
        assert_eq!(connection.topic_name(Topic::AlertRaised), "ep-alert.raised");
        assert_eq!(connection.topic_of("ep-alert.raised"), Some(Topic::AlertRaised));
        assert_eq!(connection.topic_of("alert.raised"), None);
        assert_eq!(connection.group_id("rules"), "ep-eventpulse-rules");
    }

    #[test]
    fn a_topic_that_is_not_ours_goes_by_its_own_name_and_its_faults_are_not_ours() {
        let ours = connection(&[]).unwrap();
        let theirs = ours.to_foreign("their.alerts", Faults::default());
        assert_eq!(theirs.topic_name(Topic::AlertRaised), "their.alerts");
        assert_eq!(theirs.topic_of("their.alerts"), Some(Topic::AlertRaised));
        assert_eq!((theirs.topic_of("ep-alert.raised"), theirs.topic_of("ep-their.alerts")), (None, None));
        assert_eq!(theirs.group_id("ingest-alerts"), "ep-eventpulse-ingest-alerts");
        theirs.faults.set("consumer group ingest-alerts", "unknown topic");
        assert!(ours.faults.check().is_ok() && theirs.faults.check().is_err());
    }

    #[test]
    fn what_a_promise_depends_on_cannot_be_set_and_the_rest_can() {
        for name in ["acks", "enable.idempotence", "enable.auto.offset.store", "group.id", "message.max.bytes"] {
            let Err(error) = connection(&[(name, "1")]) else { panic!("{name} was taken") };
            assert!(error.to_string().contains(name), "{error}");
        }
        let connection = connection(&[("linger.ms", "1"), ("session.timeout.ms", "6000")]).unwrap();
        assert_eq!(connection.producer().get("linger.ms"), Some("1"));
        assert_eq!(connection.consumer("rules").get("session.timeout.ms"), Some("6000"));
        assert_eq!(connection.consumer("rules").get("enable.auto.offset.store"), Some("false"));
    }

    #[test]
    fn secrets_are_masked_wherever_librdkafka_repeats_them() {
        let connection = connection(&[
            ("sasl.password", "hunter2"),
            ("ssl.key.pem", "-----BEGIN"),
            ("ssl.ca.location", "/etc/ca.pem"),
        ])
        .unwrap();
        let text = connection.secrets.mask("hunter2 and -----BEGIN of /etc/ca.pem");
        assert_eq!(text, "*** and *** of /etc/ca.pem");
    }
}
