//! Stored offsets of groups that nobody is in, set by a command.

use std::collections::BTreeSet;

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::history::{CALL_TIMEOUT, Reader};
use crate::bus::{BusError, KafkaConfig, StoredOffset};

/// The most members that an error names.
const NAMED_MAX: usize = 5;

/// See [`crate::bus::beside::check_idle`].
pub(in crate::bus) fn check_idle(config: &KafkaConfig, groups: &BTreeSet<&str>) -> Result<(), BusError> {
    groups.iter().try_for_each(|group| check_one(&Reader::new(config, group)?, group))
}

/// See [`crate::bus::beside::store_offsets`].
pub(in crate::bus) fn store(config: &KafkaConfig, offsets: &[StoredOffset]) -> Result<(), BusError> {
    let groups: BTreeSet<&str> = offsets.iter().map(|stored| stored.group.as_str()).collect();
    check_idle(config, &groups)?;
    for group in groups {
        store_one(config, group, offsets.iter().filter(|stored| stored.group == group))?;
    }
    Ok(())
}

fn check_one(reader: &Reader, group: &str) -> Result<(), BusError> {
    let id = reader.connection.group_id(group);
    let listed = reader.consumer.fetch_group_list(Some(&id), CALL_TIMEOUT).map_err(|error| reader.failed(&error))?;
    let Some(found) = listed.groups().iter().find(|found| found.name() == id) else { return Ok(()) };
    let members = found.members();
    if members.is_empty() && matches!(found.state(), "" | "Empty" | "Dead") {
        return Ok(());
    }
    let mut names: Vec<String> = members
        .iter()
        .take(NAMED_MAX)
        .map(|member| format!("{} on {}", member.client_id(), member.client_host().trim_start_matches('/')))
        .collect();
    if members.len() > NAMED_MAX {
        names.push("…".into());
    }
    Err(in_use(group, &id, &format!("has {} members ({})", members.len(), names.join(", "))))
}

fn in_use(group: &str, id: &str, how: &str) -> BusError {
    BusError::InUse(format!(
        "consumer group {id} {how}; stop every process that runs {group} (one that was killed is a member until its session.timeout.ms \
         is over, 10 s by default)"
    ))
}

fn store_one<'a>(
    config: &KafkaConfig,
    group: &str,
    offsets: impl Iterator<Item = &'a StoredOffset>,
) -> Result<(), BusError> {
    let reader = Reader::new(config, group)?;
    let id = reader.connection.group_id(group);
    let failed = |error: KafkaError| match error.rdkafka_error_code() {
        // The brokers let nobody from outside store the offsets of a group that has members.
        Some(
            RDKafkaErrorCode::UnknownMemberId
            | RDKafkaErrorCode::IllegalGeneration
            | RDKafkaErrorCode::RebalanceInProgress,
        ) => in_use(group, &id, "has members by now"),
        _ => BusError::Store(format!("consumer group {id}: {}", reader.connection.describe(&error))),
    };
    let mut list = TopicPartitionList::new();
    for stored in offsets {
        let name = reader.connection.topic_name(stored.at.topic);
        let place = (i32::try_from(stored.at.partition), i64::try_from(stored.offset));
        let (Ok(partition), Ok(offset)) = place else { continue };
        list.add_partition_offset(&name, partition, Offset::Offset(offset)).map_err(failed)?;
    }
    reader.consumer.commit(&list, CommitMode::Sync).map_err(failed)?;
    // librdkafka fails a commit only where every partition of it was refused.
    let found = reader.consumer.committed_offsets(list.clone(), CALL_TIMEOUT).map_err(failed)?;
    for wanted in list.elements() {
        let stored = found.find_partition(wanted.topic(), wanted.partition()).map(|found| found.offset());
        if stored != Some(wanted.offset()) {
            let place = format!("{}/{}", wanted.topic(), wanted.partition());
            return Err(BusError::Store(format!(
                "consumer group {id}: the brokers did not take the offset of {place}"
            )));
        }
    }
    Ok(())
}
