//! The topics, read by a consumer that is assigned its partitions by hand: it joins no group and commits nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
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
    topics::Partitions,
};
use crate::{
    bus::{
        BusError, KafkaConfig, TopicPartition,
        history::{Past, Progress, Visit},
    },
    events::Topic,
};

pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing may be heard before it is given up.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
/// The group of a consumer that has none: it is never joined.
const READER: &str = "reader";

impl ConsumerContext for LogContext {}

/// A consumer that never joins, and what its errors mean.
pub(super) struct Reader {
    pub(super) connection: Connection,
    pub(super) consumer: BaseConsumer<LogContext>,
}

impl Reader {
    /// `group` is asked for what it has stored, by whoever asks.
    pub(super) fn new(config: &KafkaConfig, group: &str) -> Result<Self, BusError> {
        let connection = Connection::new(config.clone())?;
        let consumer: BaseConsumer<LogContext> = connection
            .consumer(group)
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            // That a partition is at its end is said when a fetch has waited in vain, and so are answers to what is asked behind it.
            .set("fetch.wait.max.ms", "10")
            .set("auto.offset.reset", "earliest")
            .create_with_context(connection.context())
            .map_err(|error| BusError::Open(connection.describe(&error)))?;
        Ok(Self { connection, consumer })
    }

    pub(super) fn failed(&self, error: &KafkaError) -> BusError {
        BusError::Open(format!("read from Kafka: {}", self.connection.describe(error)))
    }

    /// The partitions of a topic; none where it is absent.
    fn partitions(&self, name: &str) -> Result<Vec<i32>, BusError> {
        // All of them: a topic that is asked for by its name might be created by that.
        let metadata = self.consumer.fetch_metadata(None, CALL_TIMEOUT).map_err(|error| self.failed(&error))?;
        let found = metadata.topics().iter().find(|found| found.name() == name);
        Ok(found.into_iter().flat_map(|found| found.partitions()).map(|partition| partition.id()).collect())
    }
}

/// See [`crate::bus::history::read`].
pub(in crate::bus) fn read(
    config: &KafkaConfig,
    topics: &[Topic],
    since: Timestamp,
    visitor: &mut impl Visit,
) -> Result<(), BusError> {
    let reader = Reader::new(config, READER)?;
    for topic in topics {
        let name = reader.connection.topic_name(*topic);
        let partitions = reader.partitions(&name)?;
        if partitions.is_empty() {
            continue;
        }
        let failed = |error: KafkaError| reader.failed(&error);
        let list = places(&reader.consumer, &name, &partitions, since).map_err(failed)?;
        reader.consumer.assign(&list).map_err(failed)?;
        read_topic(&reader.consumer, *topic, partitions, visitor)
            .map_err(|problem| problem.map_or_else(|| BusError::Open(silence(*topic)), failed))?;
    }
    Ok(())
}

/// See [`crate::bus::history::progress`].
pub(in crate::bus) fn progress(config: &KafkaConfig, group: &str, topic: Topic) -> Result<Vec<Progress>, BusError> {
    let reader = Reader::new(config, group)?;
    let name = reader.connection.topic_name(topic);
    let partitions = reader.partitions(&name)?;
    let mut asked = TopicPartitionList::new();
    for partition in &partitions {
        asked.add_partition(&name, *partition);
    }
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |error: KafkaError| reader.failed(&error);
    let stored = reader.consumer.committed_offsets(asked, CALL_TIMEOUT).map_err(failed)?;
    let mut progress = Vec::with_capacity(partitions.len());
    for id in partitions {
        let (first, end) = reader.consumer.fetch_watermarks(&name, id, CALL_TIMEOUT).map_err(failed)?;
        let offset = stored.find_partition(&name, id).map(|found| found.offset());
        let next = match offset {
            Some(Offset::Offset(next)) => u64::try_from(next).ok(),
            _ => None,
        };
        progress.push(Progress {
            partition: u32::try_from(id).unwrap_or_default(),
            first: u64::try_from(first).unwrap_or_default(),
            next,
            end: u64::try_from(end).unwrap_or_default(),
        });
    }
    Ok(progress)
}

/// See [`crate::bus::history::begin`].
pub(in crate::bus) fn begin(
    config: &KafkaConfig,
    topic: Topic,
    since: Timestamp,
) -> Result<BTreeMap<u32, Option<u64>>, BusError> {
    let reader = Reader::new(config, READER)?;
    let name = reader.connection.topic_name(topic);
    let partitions = reader.partitions(&name)?;
    if partitions.is_empty() {
        return Ok(BTreeMap::new());
    }
    let failed = |error: KafkaError| reader.failed(&error);
    let found = places(&reader.consumer, &name, &partitions, since).map_err(failed)?;
    let mut begins = BTreeMap::new();
    for place in found.elements() {
        place.error().map_err(failed)?;
        let offset = match place.offset() {
            Offset::Offset(offset) => u64::try_from(offset).ok(),
            _ => None,
        };
        begins.insert(u32::try_from(place.partition()).unwrap_or_default(), offset);
    }
    Ok(begins)
}

/// How many partitions these topics have. Fails where one is absent: a command creates none.
pub(super) fn partitions_of(config: &KafkaConfig, topics: &BTreeSet<Topic>) -> Result<Partitions, BusError> {
    let reader = Reader::new(config, READER)?;
    let count = |topic: &Topic| {
        let name = reader.connection.topic_name(*topic);
        match reader.partitions(&name)?.len() {
            0 => Err(BusError::Topic {
                topic: name,
                problem: "is not there; is --topic-prefix that of the services?".into(),
            }),
            count => Ok((*topic, u32::try_from(count).unwrap_or(u32::MAX))),
        }
    };
    topics.iter().map(count).collect()
}

/// See [`crate::bus::history::find`].
pub(in crate::bus) fn find(config: &KafkaConfig, at: TopicPartition, offset: u64) -> Result<Option<Past>, BusError> {
    let reader = Reader::new(config, READER)?;
    let name = reader.connection.topic_name(at.topic);
    let (Ok(id), Ok(wanted)) = (i32::try_from(at.partition), i64::try_from(offset)) else { return Ok(None) };
    if !reader.partitions(&name)?.contains(&id) {
        return Ok(None);
    }
    let failed = |error: KafkaError| reader.failed(&error);
    let (first, end) = reader.consumer.fetch_watermarks(&name, id, CALL_TIMEOUT).map_err(failed)?;
    if !(first..end).contains(&wanted) {
        return Ok(None);
    }
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&name, id, Offset::Offset(wanted)).map_err(failed)?;
    reader.consumer.assign(&list).map_err(failed)?;
    let mut found = First(None);
    read_until(&reader.consumer, at.topic, vec![id], &mut found, |found| found.0.is_some())
        .map_err(|problem| problem.map_or_else(|| BusError::Open(silence(at.topic)), failed))?;
    // Compaction or a cut may have taken it meanwhile; the next one is another record.
    Ok(found.0.filter(|past| past.offset == offset))
}

/// Keeps the first record.
struct First(Option<Past>);

impl Visit for First {
    fn visit(&mut self, past: Past) {
        self.0.get_or_insert(past);
    }
}

fn silence(topic: Topic) -> String {
    format!("read {topic} from Kafka: nothing was heard for {} s", PATIENCE.as_secs())
}

/// From the first record of that time on; a partition without one is read from its end.
fn places(
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
    read_until(consumer, topic, partitions, visitor, |_| false)
}

/// The same, or until the visitor has enough.
fn read_until<V: Visit>(
    consumer: &BaseConsumer<LogContext>,
    topic: Topic,
    partitions: Vec<i32>,
    visitor: &mut V,
    has_enough: impl Fn(&V) -> bool,
) -> Result<(), Option<KafkaError>> {
    let mut open: HashSet<i32> = partitions.into_iter().collect();
    let mut heard = Instant::now();
    while !open.is_empty() && !has_enough(visitor) {
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
