//! Topics: created when absent, checked when present.

use std::{collections::HashMap, time::Duration};

use rdkafka::{
    admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::connection::{Connection, LogContext, MAX_MESSAGE_BYTES};
use crate::{
    bus::{BusError, MAX_RECORD_BYTES, Retention},
    events::Topic,
};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long new topics may take until they can be used.
const CREATION_TIMEOUT: Duration = Duration::from_secs(20);
const REPLICAS: usize = 3;

/// How many partitions each topic has.
pub(super) type Partitions = HashMap<Topic, u32>;

/// Why the topics are not ready.
#[derive(Debug)]
pub(super) enum NotReady {
    /// The brokers cannot be reached, or are busy: later perhaps.
    Later(String),
    /// A person has to change something.
    Never(BusError),
}

/// Creates what is absent, checks what is there, and says how many partitions there are.
pub(super) async fn prepare(connection: &Connection) -> Result<Partitions, NotReady> {
    let admin: AdminClient<LogContext> = connection
        .client()
        .create_with_context(connection.context())
        .map_err(|error| NotReady::Never(BusError::Open(connection.describe(&error))))?;
    let admin = std::sync::Arc::new(admin);
    let (brokers, mut found) = look(connection, &admin).await?;
    let absent: Vec<Topic> = Topic::ALL.into_iter().filter(|topic| !found.contains_key(topic)).collect();
    if !absent.is_empty() {
        create(connection, &admin, &absent, brokers).await?;
        found = wait_for_all(connection, &admin).await?;
    }
    check(connection, &admin).await?;
    for (topic, partitions) in &found {
        if *partitions != connection.config.partitions {
            let wanted = connection.config.partitions;
            tracing::info!(%topic, partitions, wanted, "A topic keeps its number of partitions.");
        }
    }
    Ok(found)
}

/// The number of brokers, and the topics that are there with a leader for each partition.
async fn look(
    connection: &Connection,
    admin: &std::sync::Arc<AdminClient<LogContext>>,
) -> Result<(usize, Partitions), NotReady> {
    let asked = std::sync::Arc::clone(admin);
    let metadata = tokio::task::spawn_blocking(move || asked.inner().fetch_metadata(None, CALL_TIMEOUT))
        .await
        .map_err(|error| NotReady::Later(error.to_string()))?
        .map_err(|error| NotReady::Later(connection.describe(&error)))?;
    connection.health.up();
    let topics = metadata.topics().iter().filter_map(|topic| {
        let led = topic.partitions().iter().all(|partition| partition.leader() >= 0);
        let partitions = u32::try_from(topic.partitions().len()).ok().filter(|count| *count > 0 && led)?;
        Some((connection.topic_of(topic.name())?, partitions))
    });
    Ok((metadata.brokers().len(), topics.collect()))
}

async fn wait_for_all(
    connection: &Connection,
    admin: &std::sync::Arc<AdminClient<LogContext>>,
) -> Result<Partitions, NotReady> {
    let all = async {
        loop {
            let (_, found) = look(connection, admin).await?;
            if found.len() == Topic::ALL.len() {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let late = || NotReady::Later("the topics that were created have no leaders yet".into());
    tokio::time::timeout(CREATION_TIMEOUT, all).await.map_err(|_| late())?
}

async fn create(
    connection: &Connection,
    admin: &AdminClient<LogContext>,
    absent: &[Topic],
    brokers: usize,
) -> Result<(), NotReady> {
    let replicas = brokers.clamp(1, REPLICAS);
    let settings: Vec<(String, Vec<(&str, String)>)> =
        absent.iter().map(|topic| (connection.topic_name(*topic), settings(connection, *topic, replicas))).collect();
    let partitions = i32::try_from(connection.config.partitions.max(1)).unwrap_or(i32::MAX);
    let replication = i32::try_from(replicas).unwrap_or(1);
    let topics: Vec<NewTopic<'_>> = settings
        .iter()
        .map(|(name, settings)| {
            let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replication));
            settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
        })
        .collect();
    let options = AdminOptions::new().request_timeout(Some(CALL_TIMEOUT)).operation_timeout(Some(CALL_TIMEOUT));
    let results = admin.create_topics(&topics, &options).await.map_err(|e| NotReady::Later(connection.describe(&e)))?;
    for result in results {
        match result {
            Ok(topic) => tracing::info!(topic, partitions, replication, "Topic created."),
            // Another replica was faster.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) if is_refusal(code) => {
                let problem = format!("it does not exist and may not be created ({code}): create it, or permit it");
                return Err(NotReady::Never(BusError::Topic { topic, problem }));
            }
            Err((topic, code)) => return Err(NotReady::Later(format!("create topic {topic}: {code}"))),
        }
    }
    Ok(())
}

fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::PolicyViolation
            | RDKafkaErrorCode::InvalidTopic
            | RDKafkaErrorCode::InvalidConfig
            | RDKafkaErrorCode::InvalidReplicationFactor
            | RDKafkaErrorCode::InvalidPartitions
    )
}

fn settings(connection: &Connection, topic: Topic, replicas: usize) -> Vec<(&'static str, String)> {
    vec![
        ("cleanup.policy", "delete".into()),
        ("retention.ms", connection.config.retention.of(topic).as_millis().to_string()),
        ("max.message.bytes", MAX_MESSAGE_BYTES.to_string()),
        // When an alert was accepted is judged by the log's clock, not by its producer's.
        ("message.timestamp.type", "LogAppendTime".into()),
        // acks=all means something only with this.
        ("min.insync.replicas", if replicas >= REPLICAS { "2".into() } else { "1".into() }),
    ]
}

async fn check(connection: &Connection, admin: &AdminClient<LogContext>) -> Result<(), NotReady> {
    let names: Vec<(Topic, String)> =
        Topic::ALL.into_iter().map(|topic| (topic, connection.topic_name(topic))).collect();
    let resources: Vec<ResourceSpecifier<'_>> = names.iter().map(|(_, name)| ResourceSpecifier::Topic(name)).collect();
    let options = AdminOptions::new().request_timeout(Some(CALL_TIMEOUT));
    let described = match admin.describe_configs(&resources, &options).await {
        Ok(described) => described,
        Err(error) if is_not_permitted(&error) => {
            unchecked(&connection.describe(&error));
            return Ok(());
        }
        Err(error) => return Err(NotReady::Later(connection.describe(&error))),
    };
    for ((topic, name), result) in names.into_iter().zip(described) {
        match result {
            Ok(resource) => check_one(connection, topic, &name, &Found::of(&resource)).map_err(NotReady::Never)?,
            Err(RDKafkaErrorCode::TopicAuthorizationFailed) => unchecked(&name),
            Err(code) => return Err(NotReady::Later(format!("read the settings of topic {name}: {code}"))),
        }
    }
    Ok(())
}

fn is_not_permitted(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed)
    )
}

fn unchecked(what: &str) {
    tracing::warn!(what, "The settings of topics may not be read (DescribeConfigs); they are not checked.");
}

/// What a topic is set to, where the broker says so.
#[derive(Debug, Default)]
struct Found {
    cleanup_policy: Option<String>,
    retention_ms: Option<i64>,
    max_message_bytes: Option<u64>,
}

impl Found {
    fn of(resource: &ConfigResource) -> Self {
        let value = |name| resource.get(name).and_then(|entry| entry.value.clone());
        Self {
            cleanup_policy: value("cleanup.policy"),
            retention_ms: value("retention.ms").and_then(|text| text.parse().ok()),
            max_message_bytes: value("max.message.bytes").and_then(|text| text.parse().ok()),
        }
    }
}

fn check_one(connection: &Connection, topic: Topic, name: &str, found: &Found) -> Result<(), BusError> {
    let wrong = |setting: &str, is: &str, why: &str, wanted: &str| {
        let problem = format!(
            "{setting} is {is}, but {why}; set it with `kafka-configs.sh --alter --entity-type topics --entity-name {name} \
             --add-config {setting}={wanted}`, or use other topics with --topic-prefix"
        );
        Err(BusError::Topic { topic: name.to_owned(), problem })
    };
    if let Some(policy) = &found.cleanup_policy
        && policy != "delete"
    {
        return wrong("cleanup.policy", policy, "compaction would remove events that are needed", "delete");
    }
    if let Some(bytes) = found.max_message_bytes
        && bytes < MAX_RECORD_BYTES as u64
    {
        let why = format!("events of up to {MAX_RECORD_BYTES} bytes must fit");
        return wrong("max.message.bytes", &bytes.to_string(), &why, &MAX_MESSAGE_BYTES.to_string());
    }
    let wanted_ms = i64::try_from(connection.config.retention.of(topic).as_millis()).unwrap_or(i64::MAX);
    if let Some(retention_ms) = found.retention_ms
        && !Retention::is_ledger(topic)
    {
        if retention_ms < 0 || retention_ms > wanted_ms {
            let why = "events must not outlive the claims that make their repetition harmless";
            return wrong("retention.ms", &retention_ms.to_string(), why, &wanted_ms.to_string());
        }
        if retention_ms < wanted_ms {
            tracing::warn!(%topic, retention_ms, wanted_ms, "A topic keeps its records shorter than configured.");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::KafkaConfig;

    const HOUR_MS: i64 = 3_600_000;

    fn check_with(topic: Topic, change: impl FnOnce(&mut Found)) -> Result<(), String> {
        let connection = Connection::new(KafkaConfig::new("127.0.0.1:1")).unwrap();
        let mut found = Found {
            cleanup_policy: Some("delete".into()),
            retention_ms: Some(24 * HOUR_MS),
            max_message_bytes: Some(MAX_MESSAGE_BYTES as u64),
        };
        change(&mut found);
        check_one(&connection, topic, topic.name(), &found).map_err(|error| error.to_string())
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_remedy() {
        assert_eq!(check_with(Topic::AlertRaised, |_| {}), Ok(()));
        assert_eq!(check_with(Topic::AlertRaised, |found| *found = Found::default()), Ok(()));
        for policy in ["compact", "compact,delete"] {
            let text = check_with(Topic::AlertRaised, |found| found.cleanup_policy = Some(policy.into())).unwrap_err();
            assert!(text.contains("topic alert.raised: cleanup.policy is compact"), "{text}");
            assert!(text.contains("--add-config cleanup.policy=delete"), "{text}");
        }
        let text = check_with(Topic::AlertRaised, |found| found.max_message_bytes = Some(1_048_588)).unwrap_err();
        assert!(text.contains("--add-config max.message.bytes=2162688"), "{text}");
    }

    #[test]
    fn events_may_not_outlive_their_claims_but_the_ledger_may() {
        for (retention_ms, is_taken) in [(HOUR_MS, true), (24 * HOUR_MS + 1, false), (-1, false)] {
            let result = check_with(Topic::ActionRequested, |found| found.retention_ms = Some(retention_ms));
            assert_eq!(result.is_ok(), is_taken, "{retention_ms}");
            assert_eq!(check_with(Topic::DeadLetter, |found| found.retention_ms = Some(retention_ms)), Ok(()));
        }
    }
}
