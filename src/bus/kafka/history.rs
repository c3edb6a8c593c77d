//! The topics, read by a consumer that is assigned its partitions by hand: it joins no group and commits nothing.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
};

use super::{
    connection::{Connection, LogContext},
    record,
};
use crate::{
    bus::{
        BusError, KafkaConfig, TopicPartition,
        history::{Past, Visit},
    },
    events::Topic,
};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing may be heard before it is given up.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

impl ConsumerContext for LogContext {}

/// See [`crate::bus::history::read`].
pub(in crate::bus) fn read(
    config: &KafkaConfig,
    topics: &[Topic],
    since: Timestamp,
    visitor: &mut impl Visit,
) -> Result<(), BusError> {
    let connection = Connection::new(config.clone())?;
    let consumer: BaseConsumer<LogContext> = connection
        .consumer("reader")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        // That a partition is at its end is said when a fetch has waited in vain, and so are answers to what is asked behind it.
        .set("fetch.wait.max.ms", "10")
        .set("auto.offset.reset", "earliest")
        .create_with_context(connection.context())
        .map_err(|error| BusError::Open(connection.describe(&error)))?;
    let failed = |error: KafkaError| BusError::Open(format!("read from Kafka: {}", connection.describe(&error)));
    let metadata = consumer.fetch_metadata(None, CALL_TIMEOUT).map_err(failed)?;
    for topic in topics {
        let name = connection.topic_name(*topic);
        let Some(found) = metadata.topics().iter().find(|found| found.name() == name) else { continue };
        let partitions: Vec<i32> = found.partitions().iter().map(|partition| partition.id()).collect();
        let list = begin(&consumer, &name, &partitions, since).map_err(failed)?;
        consumer.assign(&list).map_err(failed)?;
        read_topic(&consumer, *topic, partitions, visitor)
            .map_err(|problem| problem.map_or_else(|| BusError::Open(silence(*topic)), failed))?;
    }
    Ok(())
}

fn silence(topic: Topic) -> String {
    format!("read {topic} from Kafka: nothing was heard for {} s", PATIENCE.as_secs())
}

/// From the first record of that time on; a partition without one is read from its end.
fn begin(
    consumer: &BaseConsumer<LogContext>,
    name: &str,
    partitions: &[i32],
    since: Timestamp,
) -> Result<TopicPartitionList, KafkaError> {
    let mut times = TopicPartitionList::new();
    for partition in partitions {
        times.add_partition_offset(name, *partition, Offset::Offset(since.as_millisecond().max(0)))?;
    }
    consumer.offsets_for_times(times, CALL_TIMEOUT)
}

/// Until the end of every partition was seen; none as the error stands for silence.
fn read_topic(
    consumer: &BaseConsumer<LogContext>,
    topic: Topic,
    partitions: Vec<i32>,
    visitor: &mut impl Visit,
) -> Result<(), Option<KafkaError>> {
    let mut open: HashSet<i32> = partitions.into_iter().collect();
    let mut heard = Instant::now();
    while !open.is_empty() {
        match consumer.poll(POLL) {
            Some(Ok(message)) => {
                let (record, timestamp) = record::read(topic, &message);
                let partition = u32::try_from(message.partition()).unwrap_or_default();
                let at = TopicPartition { topic, partition };
                visitor.visit(Past {
                    record,
                    at,
                    offset: u64::try_from(message.offset()).unwrap_or_default(),
                    timestamp,
                });
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
            // librdkafka goes on by itself after errors that pass.
            Some(Err(error)) if heard.elapsed() > PATIENCE => return Err(Some(error)),
            None if heard.elapsed() > PATIENCE => return Err(None),
            Some(Err(_)) | None => continue,
        }
        heard = Instant::now();
    }
    Ok(())
}
