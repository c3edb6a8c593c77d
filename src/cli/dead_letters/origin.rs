//! Where a dead letter came from, read from what it says of that. Pure.

use crate::{
    bus::TopicPartition,
    events::{DeadLetter, Topic},
};

/// `ce_source` of ingest: what it calls `TOPIC/0@7` is a record of somebody else's topic, whatever that is called.
const INGEST: &str = "eventpulse/ingest";

/// What became a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Origin {
    /// A record of a topic of ours: `alert.raised/3@1207`.
    Record {
        /// Its partition.
        at: TopicPartition,
        /// Its place there.
        offset: u64,
    },
    /// A record that the log refused, so that it stands nowhere: `alert.decided ID of eventpulse/rules`.
    Unwritten(Topic),
    /// One alert of a body or record that had several: `/webhooks/alertmanager alerts[2]`.
    Alert,
    /// A record of a topic that is not ours: `their.alerts/3@1207`.
    Foreign,
    /// Anything else, like a row of ingest's outbox.
    Other,
}

impl Origin {
    /// `source` is who wrote the letter, its `ce_source`.
    pub(in crate::cli) fn of(letter: &DeadLetter, source: &str) -> Self {
        let text = letter.origin.as_str();
        if text.ends_with(']') && text.contains(" alerts[") {
            return Self::Alert;
        }
        match place_of(text) {
            Some((at, offset)) if source != INGEST => return Self::Record { at, offset },
            Some(_) => return Self::Foreign,
            None if is_place(text) => return Self::Foreign,
            None => {}
        }
        let unwritten = text.split_once(' ').filter(|(_, rest)| rest.contains(" of eventpulse/"));
        unwritten.and_then(|(topic, _)| topic.parse().ok()).map_or(Self::Other, Self::Unwritten)
    }

    /// The topic of ours that it was for.
    pub(in crate::cli) fn topic(&self) -> Option<Topic> {
        match self {
            Self::Record { at, .. } => Some(at.topic),
            Self::Unwritten(topic) => Some(*topic),
            Self::Alert | Self::Foreign | Self::Other => None,
        }
    }
}

/// `TOPIC/PARTITION@OFFSET` of a topic of ours.
pub(in crate::cli) fn place_of(text: &str) -> Option<(TopicPartition, u64)> {
    let (topic, partition, offset) = parts_of(text)?;
    Some((TopicPartition { topic: topic.parse().ok()?, partition: partition.parse().ok()? }, offset.parse().ok()?))
}

fn is_place(text: &str) -> bool {
    let is_number = |text: &str| text.parse::<u64>().is_ok();
    parts_of(text).is_some_and(|(topic, partition, offset)| {
        !topic.contains([' ', '/']) && is_number(partition) && is_number(offset)
    })
}

fn parts_of(text: &str) -> Option<(&str, &str, &str)> {
    let (topic, place) = text.rsplit_once('/')?;
    let (partition, offset) = place.split_once('@')?;
    Some((topic, partition, offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Payload, example};

    fn origin(text: &str, source: &str) -> Origin {
        let Payload::DeadLetter(letter) = example(Topic::DeadLetter).payload else { unreachable!() };
        Origin::of(&DeadLetter { origin: text.into(), ..*letter }, source)
    }

    #[test]
    fn each_way_to_become_a_dead_letter_is_told_by_its_origin() {
        let at = TopicPartition { topic: Topic::AlertRaised, partition: 3 };
        let record = Origin::Record { at, offset: 1207 };
        assert_eq!(origin("alert.raised/3@1207", "eventpulse/rules"), record);
        assert_eq!(record.topic(), Some(Topic::AlertRaised));
        for (text, source, expected) in [
            // With a prefix a topic of others may be called as one of ours is.
            ("alert.raised/3@1207", "eventpulse/ingest", Origin::Foreign),
            ("their.alerts/0@7", "eventpulse/ingest", Origin::Foreign),
            ("alert.decided abc of eventpulse/rules", "eventpulse/rules", Origin::Unwritten(Topic::AlertDecided)),
            ("no.topic abc of eventpulse/rules", "eventpulse/rules", Origin::Other),
            ("/webhooks/alertmanager alerts[2]", "eventpulse/ingest", Origin::Alert),
            ("their.alerts/0@7 alerts[0]", "eventpulse/ingest", Origin::Alert),
            ("row 7 of ingest's outbox", "eventpulse/ingest", Origin::Other),
            ("alert.raised/x@7", "eventpulse/rules", Origin::Other),
            ("alert.raised/4294967296@7", "eventpulse/rules", Origin::Foreign),
            ("/@", "", Origin::Other),
            ("", "", Origin::Other),
        ] {
            assert_eq!(origin(text, source), expected, "{text} of {source}");
        }
    }
}
