//! Notices a consumer that stopped waking: records stand at the brokers, there is room for them, and nothing moves.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    connection::{Connection, LogContext},
    member::partition_number,
};
use crate::bus::TopicPartition;

/// How long the brokers may take to say what they have. Nothing is delivered meanwhile, which without them nothing would be.
const QUERY_TIMEOUT: Duration = Duration::from_secs(1);

/// Asks the brokers where partitions end, over connections of its own: a broker works off a connection in its order, so behind a fetch
/// that waits for a record a question would be answered with the next record, which would then wait behind the question.
#[derive(Clone)]
pub(super) struct Asker(Arc<BaseConsumer<LogContext>>);

impl Asker {
    /// It joins no group and reads nothing. Fails for settings that librdkafka does not take.
    pub(super) fn new(connection: &Connection) -> Result<Self, KafkaError> {
        connection.client().create_with_context(connection.context()).map(Arc::new).map(Self)
    }

    /// None where the brokers do not answer.
    fn offsets(&self, of: TopicPartitionList) -> Option<HashMap<(String, i32), u64>> {
        // What it says of its brokers would stay in its queue.
        while self.0.poll(Duration::ZERO).is_some() {}
        match of.count() {
            0 => Some(HashMap::new()),
            _ => self.0.offsets_for_times(of, QUERY_TIMEOUT).ok().map(|list| offsets(&list)),
        }
    }
}

/// A partition with room, and where it stands; no position while no record of it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) at: TopicPartition,
    pub(super) position: Option<u64>,
}

/// What earlier looks found.
#[derive(Default)]
pub(super) struct Watch {
    /// Where a partition stood at the last look, and the end that the brokers gave then, if there was something to read.
    last: HashMap<TopicPartition, (Option<u64>, Option<u64>)>,
    /// Where it stood when it was repaired: what nobody can read (markers of transactions) is repaired once and no more.
    repaired: HashMap<TopicPartition, (Option<u64>, u64)>,
}

impl Watch {
    pub(super) fn forget(&mut self, at: TopicPartition) {
        self.last.remove(&at);
    }

    /// Gives a partition that is stuck: it stood at the same place in the last look, and records waited then already.
    pub(super) fn look<C: ConsumerContext>(
        &mut self,
        consumer: &BaseConsumer<C>,
        asker: &Asker,
        connection: &Connection,
        partitions: Vec<Look>,
    ) -> Option<TopicPartition> {
        let unmoved: Vec<Look> = partitions
            .iter()
            .filter(|look| self.last.get(&look.at).is_some_and(|(position, _)| *position == look.position))
            .copied()
            .collect();
        let ends = if unmoved.is_empty() { HashMap::new() } else { waiting(consumer, asker, connection, &unmoved) };
        self.judge(&partitions, &ends)
    }

    /// Whether, at the last look, records waited that could be read and had not moved.
    pub(super) fn is_anything_waiting(&self) -> bool {
        let is_readable = |at, position, end| self.repaired.get(at) != Some(&(position, end));
        self.last.iter().any(|(at, (position, end))| end.is_some_and(|end| is_readable(at, *position, end)))
    }

    /// `waiting` has the end of each partition that has records behind its position.
    fn judge(&mut self, partitions: &[Look], waiting: &HashMap<TopicPartition, u64>) -> Option<TopicPartition> {
        let mut stuck = None;
        let mut now = HashMap::new();
        for Look { at, position } in partitions {
            let end = waiting.get(at).copied();
            let before = self.last.get(at);
            let waited = before.is_some_and(|(then, end)| then == position && end.is_some());
            if let Some(end) = end
                && waited
                && self.repaired.get(at) != Some(&(*position, end))
            {
                self.repaired.insert(*at, (*position, end));
                stuck = Some(*at);
            }
            now.insert(*at, (*position, end));
        }
        self.last = if stuck.is_some() { HashMap::new() } else { now };
        stuck
    }
}

/// Whether the brokers let this consumer have its group's offsets and know its topics.
pub(super) fn ask<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    connection: &Connection,
    topics: &[String],
) -> Result<(), String> {
    let mut list = TopicPartitionList::new();
    for topic in topics {
        let metadata = consumer.fetch_metadata(Some(topic), QUERY_TIMEOUT).map_err(|e| connection.describe(&e))?;
        if let Some(error) = metadata.topics().iter().find_map(|topic| topic.error()) {
            return Err(format!("topic {topic}: {}", RDKafkaErrorCode::from(error)));
        }
        list.add_partition(topic, 0);
    }
    let offsets = consumer.committed_offsets(list, QUERY_TIMEOUT).map_err(|e| connection.describe(&e))?;
    for offset in offsets.elements() {
        offset
            .error()
            .map_err(|error| format!("offsets of topic {}: {}", offset.topic(), connection.describe(&error)))?;
    }
    Ok(())
}

/// The partitions for which the group has stored an offset; none where the brokers do not say it of all of them.
pub(super) fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    connection: &Connection,
    partitions: &[TopicPartition],
) -> Option<HashSet<TopicPartition>> {
    let mut list = TopicPartitionList::new();
    for at in partitions {
        list.add_partition(&connection.topic_name(at.topic), partition_number(*at));
    }
    let committed = consumer.committed_offsets(list, QUERY_TIMEOUT).ok()?;
    if committed.elements().iter().any(|element| element.error().is_err()) {
        return None;
    }
    let committed = offsets(&committed);
    let has_one =
        |at: &&TopicPartition| committed.contains_key(&(connection.topic_name(at.topic), partition_number(**at)));
    Some(partitions.iter().filter(has_one).copied().collect())
}

/// The end of every partition that has records behind its position.
fn waiting<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    asker: &Asker,
    connection: &Connection,
    partitions: &[Look],
) -> HashMap<TopicPartition, u64> {
    let places = reach(consumer, asker, connection, partitions).into_iter();
    places.filter(|(_, (position, end))| end > position).map(|(at, (_, end))| (at, end)).collect()
}

/// Asks the brokers: where each partition stands, and its end. A partition that they do not answer for is not there.
pub(super) fn reach<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    asker: &Asker,
    connection: &Connection,
    partitions: &[Look],
) -> HashMap<TopicPartition, (u64, u64)> {
    let places: HashMap<(String, i32), Look> = partitions
        .iter()
        .map(|look| ((connection.topic_name(look.at.topic), partition_number(look.at)), *look))
        .collect();
    let list = |offset: Option<Offset>, wanted: fn(&Look) -> bool| {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), _) in places.iter().filter(|(_, look)| wanted(look)) {
            match offset {
                // Only an unrepresentable offset is refused.
                Some(offset) => drop(list.add_partition_offset(topic, *partition, offset)),
                None => drop(list.add_partition(topic, *partition)),
            }
        }
        list
    };
    // Of a partition without a position the group's committed offset is asked for; without one it begins at the oldest record.
    let unknown = list(None, |look| look.position.is_none());
    let committed = match unknown.count() {
        0 => HashMap::new(),
        _ => consumer.committed_offsets(unknown, QUERY_TIMEOUT).map(|list| offsets(&list)).unwrap_or_default(),
    };
    let oldest = asker.offsets(list(Some(Offset::Beginning), |look| look.position.is_none())).unwrap_or_default();
    let Some(ends) = asker.offsets(list(Some(Offset::End), |_| true)) else { return HashMap::new() };
    ends.into_iter()
        .filter_map(|(place, end)| {
            let look = places.get(&place)?;
            let begin = oldest.get(&place).copied();
            let position = look.position.or_else(|| committed.get(&place).copied().max(begin)).or(begin)?;
            Some((look.at, (position, end)))
        })
        .collect()
}

fn offsets(list: &TopicPartitionList) -> HashMap<(String, i32), u64> {
    let elements = list.elements();
    let known = elements.iter().filter_map(|element| match (element.error(), element.offset()) {
        (Ok(()), Offset::Offset(offset)) => {
            Some(((element.topic().to_owned(), element.partition()), u64::try_from(offset).ok()?))
        }
        _ => None,
    });
    known.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Topic;

    const AT: TopicPartition = TopicPartition { topic: Topic::AlertRaised, partition: 0 };

    fn look(watch: &mut Watch, position: Option<u64>, end: Option<u64>) -> bool {
        let waiting = end.map(|end| (AT, end)).into_iter().collect();
        watch.judge(&[Look { at: AT, position }], &waiting).is_some()
    }

    #[test]
    fn only_what_waited_at_the_last_look_and_has_not_moved_is_stuck() {
        let mut watch = Watch::default();
        assert!(!look(&mut watch, Some(5), None), "nothing is waiting");
        assert!(!look(&mut watch, Some(5), Some(7)), "it has only just come");
        assert!(!look(&mut watch, Some(6), Some(7)), "it moves");
        assert!(!look(&mut watch, Some(6), None), "it was read, or nobody answered");
        assert!(!look(&mut watch, Some(6), Some(9)));
        assert!(look(&mut watch, Some(6), Some(9)));
    }

    #[test]
    fn a_place_is_repaired_once_and_again_when_there_is_more() {
        let mut watch = Watch::default();
        look(&mut watch, None, Some(1));
        assert!(look(&mut watch, None, Some(1)));
        for _ in 0..5 {
            assert!(!look(&mut watch, None, Some(1)));
        }
        assert!(look(&mut watch, None, Some(2)));
    }

    #[test]
    fn what_waits_is_known_and_what_nobody_can_read_does_not_wait() {
        let mut watch = Watch::default();
        assert!(!watch.is_anything_waiting());
        look(&mut watch, Some(1), Some(2));
        assert!(watch.is_anything_waiting());
        assert!(look(&mut watch, Some(1), Some(2)), "repaired");
        look(&mut watch, Some(1), Some(2));
        assert!(!watch.is_anything_waiting(), "it is a marker");
        look(&mut watch, Some(2), Some(3));
        assert!(watch.is_anything_waiting());
    }

    #[test]
    fn a_new_assignment_begins_anew() {
        let mut watch = Watch::default();
        look(&mut watch, Some(1), Some(2));
        watch.forget(AT);
        assert!(!look(&mut watch, Some(1), Some(2)));
    }
}
