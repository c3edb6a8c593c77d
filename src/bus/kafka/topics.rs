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
/// The most often that a new segment begins: each is some files.
const SEGMENT_LEAST: Duration = Duration::from_secs(60);
/// How many brokers must have a record before it is acknowledged, where there are enough of them.
const IN_SYNC: usize = 2;

/// How many partitions each topic has.
pub(super) type Partitions = HashMap<Topic, u32>;

/// What the brokers say of themselves and of the topics.
#[derive(Default)]
struct Cluster {
    brokers: usize,
    /// Of topics with a leader for each partition.
    partitions: Partitions,
    /// The fewest of a topic's partitions.
    replicas: HashMap<Topic, usize>,
}

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
    let mut cluster = look(connection, &admin).await?;
    let absent: Vec<Topic> = Topic::ALL.into_iter().filter(|topic| !cluster.partitions.contains_key(topic)).collect();
    if !absent.is_empty() {
        create(connection, &admin, &absent, cluster.brokers).await?;
        cluster = wait_for_all(connection, &admin).await?;
    }
    if cluster.brokers < REPLICAS {
        let brokers = cluster.brokers;
        tracing::warn!(brokers, "With fewer than {REPLICAS} brokers an acknowledged record may be on one disk alone.");
    }
    check(connection, &admin, &cluster).await?;
    let found = cluster.partitions;
    for (topic, partitions) in &found {
        if *partitions != connection.config.partitions {
            let wanted = connection.config.partitions;
            tracing::info!(%topic, partitions, wanted, "A topic keeps its number of partitions.");
        }
    }
    Ok(found)
}

async fn look(connection: &Connection, admin: &std::sync::Arc<AdminClient<LogContext>>) -> Result<Cluster, NotReady> {
    let asked = std::sync::Arc::clone(admin);
    let metadata = tokio::task::spawn_blocking(move || asked.inner().fetch_metadata(None, CALL_TIMEOUT))
        .await
        .map_err(|error| NotReady::Later(error.to_string()))?
        .map_err(|error| NotReady::Later(connection.describe(&error)))?;
    connection.health.up();
    let mut cluster = Cluster { brokers: metadata.brokers().len(), ..Cluster::default() };
    for found in metadata.topics() {
        let Some(topic) = connection.topic_of(found.name()) else { continue };
        let led = found.partitions().iter().all(|partition| partition.leader() >= 0);
        if let Ok(partitions @ 1..) = u32::try_from(found.partitions().len())
            && led
        {
            cluster.partitions.insert(topic, partitions);
        }
        let fewest = found.partitions().iter().map(|partition| partition.replicas().len()).min();
        cluster.replicas.extend(fewest.map(|fewest| (topic, fewest)));
    }
    Ok(cluster)
}

async fn wait_for_all(
    connection: &Connection,
    admin: &std::sync::Arc<AdminClient<LogContext>>,
) -> Result<Cluster, NotReady> {
    let all = async {
        loop {
            let cluster = look(connection, admin).await?;
            if cluster.partitions.len() == Topic::ALL.len() {
                return Ok(cluster);
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
        // Records go by segments, and never from the one that is written: by default that one may be a week old, and so would they be.
        ("segment.ms", segment_ms(connection.config.retention.of(topic)).to_string()),
        ("max.message.bytes", MAX_MESSAGE_BYTES.to_string()),
        // Retention goes by it: by its producer's clock a record would stay for too long, or go before it is read.
        ("message.timestamp.type", "LogAppendTime".into()),
        // acks=all means something only with this.
        ("min.insync.replicas", if replicas >= REPLICAS { IN_SYNC.to_string() } else { "1".into() }),
    ]
}

/// A new segment so often that a record is there for a quarter longer than it has to be.
fn segment_ms(retention: Duration) -> u128 {
    (retention / 4).max(SEGMENT_LEAST).as_millis()
}

async fn check(connection: &Connection, admin: &AdminClient<LogContext>, cluster: &Cluster) -> Result<(), NotReady> {
    let names: Vec<(Topic, String)> =
        Topic::ALL.into_iter().map(|topic| (topic, connection.topic_name(topic))).collect();
    let resources: Vec<ResourceSpecifier<'_>> = names.iter().map(|(_, name)| ResourceSpecifier::Topic(name)).collect();
    let one = |topic: Topic, name: &str, found: Found| {
        let found = Found { brokers: cluster.brokers, replicas: cluster.replicas.get(&topic).copied(), ..found };
        check_one(connection, topic, name, &found).map_err(NotReady::Never)
    };
    let options = AdminOptions::new().request_timeout(Some(CALL_TIMEOUT));
    let described = match admin.describe_configs(&resources, &options).await {
        Ok(described) => described,
        Err(error) if is_not_permitted(&error) => {
            unchecked(&connection.describe(&error));
            return names.iter().try_for_each(|(topic, name)| one(*topic, name, Found::default()));
        }
        Err(error) => return Err(NotReady::Later(connection.describe(&error))),
    };
    for ((topic, name), result) in names.into_iter().zip(described) {
        match result {
            Ok(resource) => one(topic, &name, Found::of(&resource))?,
            Err(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                unchecked(&name);
                one(topic, &name, Found::default())?;
            }
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

/// What a topic is set to, where the broker says so, and what it stands on.
#[derive(Debug, Default)]
struct Found {
    brokers: usize,
    replicas: Option<usize>,
    min_in_sync: Option<usize>,
    timestamp_type: Option<String>,
    cleanup_policy: Option<String>,
    retention_ms: Option<i64>,
    segment_ms: Option<u128>,
    max_message_bytes: Option<u64>,
}

impl Found {
    fn of(resource: &ConfigResource) -> Self {
        let value = |name| resource.get(name).and_then(|entry| entry.value.clone());
        Self {
            brokers: 0,
            replicas: None,
            min_in_sync: value("min.insync.replicas").and_then(|text| text.parse().ok()),
            timestamp_type: value("message.timestamp.type"),
            cleanup_policy: value("cleanup.policy"),
            retention_ms: value("retention.ms").and_then(|text| text.parse().ok()),
            segment_ms: value("segment.ms").and_then(|text| text.parse().ok()),
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
    check_durability(name, found, wrong)?;
    if let Some(kind) = &found.timestamp_type
        && kind != "LogAppendTime"
    {
        tracing::warn!(
            topic = name,
            "message.timestamp.type is {kind}: records go by their producers' clocks; set it to LogAppendTime."
        );
    }
    let wanted_ms = segment_ms(connection.config.retention.of(topic));
    if let Some(segment_ms) = found.segment_ms.filter(|segment_ms| *segment_ms > wanted_ms) {
        tracing::warn!(
            topic = name,
            "segment.ms is {segment_ms}: for so long after their time records may stay; set it to {wanted_ms}."
        );
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

/// What is acknowledged must outlive a disk wherever there are brokers for it: that is what a 2xx rests on (promise 1).
fn check_durability(
    name: &str,
    found: &Found,
    wrong: impl Fn(&str, &str, &str, &str) -> Result<(), BusError>,
) -> Result<(), BusError> {
    const SETTING: &str = "min.insync.replicas";
    let replicas = found.replicas.unwrap_or(REPLICAS);
    if found.brokers >= REPLICAS && replicas < IN_SYNC {
        let problem = format!(
            "it has {replicas} replica although there are {} brokers, so that an acknowledged alert would be lost with one disk; \
             give it {REPLICAS} with `kafka-reassign-partitions.sh`, or use other topics with --topic-prefix",
            found.brokers
        );
        return Err(BusError::Topic { topic: name.to_owned(), problem });
    }
    let Some(min) = found.min_in_sync else { return Ok(()) };
    if min > replicas {
        let why = format!("the topic has {replicas} replicas: nothing could be published");
        return wrong(SETTING, &min.to_string(), &why, &IN_SYNC.min(replicas).to_string());
    }
    if found.brokers >= REPLICAS && min < IN_SYNC {
        let why = "an alert that one broker alone has would be acknowledged, and lost with its disk";
        return wrong(SETTING, &min.to_string(), why, &IN_SYNC.to_string());
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
            segment_ms: Some(6 * 3_600_000),
            max_message_bytes: Some(MAX_MESSAGE_BYTES as u64),
            brokers: 3,
            replicas: Some(3),
            min_in_sync: Some(2),
            timestamp_type: Some("LogAppendTime".into()),
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
    fn what_is_acknowledged_must_be_on_two_disks_where_there_are_brokers_for_it() {
        let check = |brokers, replicas, min_in_sync| {
            check_with(Topic::AlertRaised, |found| {
                (found.brokers, found.replicas, found.min_in_sync) = (brokers, replicas, min_in_sync);
            })
        };
        for (brokers, replicas, min_in_sync) in [
            (3, Some(3), Some(2)),
            (3, Some(2), Some(2)),
            (1, Some(1), Some(1)),
            (2, Some(2), Some(1)),
            (3, None, None),
        ] {
            assert_eq!(check(brokers, replicas, min_in_sync), Ok(()), "{brokers} {replicas:?} {min_in_sync:?}");
        }
        let text = check(3, Some(1), Some(1)).unwrap_err();
        assert!(text.starts_with("topic alert.raised: it has 1 replica although there are 3 brokers"), "{text}");
        assert!(text.contains("kafka-reassign-partitions.sh"), "{text}");
        let text = check(3, Some(3), Some(1)).unwrap_err();
        assert!(text.contains("min.insync.replicas is 1") && text.contains("min.insync.replicas=2"), "{text}");
        let text = check(1, Some(1), Some(2)).unwrap_err();
        assert!(text.contains("min.insync.replicas is 2") && text.contains("min.insync.replicas=1"), "{text}");
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
