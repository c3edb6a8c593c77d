//! What would be published again, or why not. Pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use super::{Letter, Origin};
use crate::{
    events::{
        DeadLetterReason, Event, HEADER_ID, Payload, Record, Topic,
        bounds::{DEAD_LETTER_HEADER_BYTES, DEAD_LETTER_HEADERS, DEAD_LETTER_KEY_BYTES},
    },
    rules::RaisedAlert,
};

/// The header of a record that was published again: the dead letter's id, and where the record came from.
pub(super) const MARK: &str = "eventpulse-retried-from";
/// A rule's `acceptWindow` unless it says otherwise.
const ACCEPT_WINDOW: SignedDuration = SignedDuration::from_hours(1);

/// What is to be done with one letter.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    /// The letter.
    pub(super) letter: Letter,
    /// The record to publish; else why there is none, and what to do instead.
    pub(super) record: Result<Record, String>,
    /// What to know before.
    pub(super) note: Option<String>,
}

/// A record that failed again has a second letter, under another origin: only the newest of each event counts.
pub(super) fn newest_of_each(letters: Vec<Letter>) -> Vec<Letter> {
    let mut newest: BTreeMap<(Option<Topic>, Vec<u8>), Letter> = BTreeMap::new();
    for letter in letters {
        let what = match letter.letter.headers.get(HEADER_ID) {
            Some(id) if letter.origin.topic().is_some() => id.clone().into_bytes(),
            // Nothing tells whether it is the same as another one.
            _ => Sha256::digest(&letter.id).to_vec(),
        };
        let known = newest.entry((letter.origin.topic(), what)).or_insert_with(|| letter.clone());
        if known.time <= letter.time {
            *known = letter;
        }
    }
    let mut letters: Vec<Letter> = newest.into_values().collect();
    letters.sort_by(|a, b| (a.time, &a.place).cmp(&(b.time, &b.place)));
    letters
}

/// `original` is the record as it still stands on its topic.
pub(super) fn plan(letter: Letter, original: Option<Record>, now: Timestamp) -> Plan {
    let record = match original {
        Some(record) => Ok(record),
        None => rebuilt(&letter),
    };
    let read = record.and_then(|record| usable(&letter, &record, now).map(|event| (record, event)));
    let (record, note) = match read {
        Ok((record, event)) => (Ok(marked(record, &letter)), note(&event, now)),
        Err(problem) => (Err(problem), None),
    };
    Plan { letter, record, note }
}

/// From what the letter keeps.
fn rebuilt(letter: &Letter) -> Result<Record, String> {
    let topic = match letter.origin {
        Origin::Record { at, .. } => at.topic,
        Origin::Unwritten(topic) => topic,
        Origin::Alert => {
            return Err("it is one alert of a request or record and never was a record of ours; mend it at its sender, which sends it again".into());
        }
        Origin::Foreign => {
            return Err("it is a record of a topic that is not ours; let its producer write it again, mended".into());
        }
        Origin::Other => return Err("it never was a record; `show` prints its bytes".into()),
    };
    let text = &letter.letter;
    let is_gone = "and its record has left the topic; let its producer write it again";
    if text.truncated {
        return Err(format!("the letter keeps only the beginning of it, {is_gone}"));
    }
    let is_cut =
        |value: &String| value.len() >= DEAD_LETTER_HEADER_BYTES || value.contains(char::REPLACEMENT_CHARACTER);
    let is_key_cut = text.key.as_ref().is_some_and(|key| key.len() + '…'.len_utf8() > DEAD_LETTER_KEY_BYTES);
    if text.headers.len() >= DEAD_LETTER_HEADERS || text.headers.values().any(is_cut) || is_key_cut {
        return Err(format!("the letter keeps only a part of its headers or key, {is_gone}"));
    }
    let headers = text.headers.iter().map(|(name, value)| (name.clone(), value.clone().into()));
    Ok(Record { topic, key: text.key.clone(), headers: headers.collect(), value: letter.bytes().into() })
}

/// What would become a dead letter again at once is left alone.
fn usable(letter: &Letter, record: &Record, now: Timestamp) -> Result<Event, String> {
    let again = |problem: String| {
        format!("it would become a dead letter again ({problem}); let its producer write it again, mended")
    };
    let event = record.decode().map_err(|error| again(error.to_string()))?;
    match &event.payload {
        Payload::AlertRaised(alert) => {
            let read = RaisedAlert::read(event.id.clone(), None, (**alert).clone(), now);
            read.map_err(|error| again(error.to_string()))?;
        }
        Payload::ActionRequested(_) if letter.letter.reason == DeadLetterReason::Refused => {
            return Err("its failure was told when it was refused, and the incident's ladder went on from there; what is still to be done is \
                        for a person or a new incident"
                .into());
        }
        _ => {}
    }
    Ok(event)
}

/// Under its own event id, so that whoever has done it already knows it.
fn marked(mut record: Record, letter: &Letter) -> Record {
    record.headers.retain(|(name, _)| name != MARK);
    record.headers.push((MARK.into(), format!("{} {}", letter.id, letter.letter.origin).into()));
    record
}

/// What will come of it, where the time for it is over.
fn note(event: &Event, now: Timestamp) -> Option<String> {
    let passed = |deadline: Timestamp| {
        (deadline < now).then(|| format!("its deadline was {deadline}: nothing will be done, which is told as stale"))
    };
    match &event.payload {
        Payload::AlertRaised(alert) if now.duration_since(alert.accepted_at) > ACCEPT_WINDOW => Some(format!(
            "it was accepted at {}: a rule with the usual acceptWindow of 1h takes it as stale, and opens nothing",
            alert.accepted_at
        )),
        Payload::ActionRequested(request) => passed(request.deadline),
        Payload::NotificationRequested(request) => passed(request.deadline),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bus::TopicPartition,
        events::{DeadLetter, EventId, example},
    };

    const PLACE: &str = "dead.letter/0@7";

    fn letter(topic: Topic, reason: DeadLetterReason) -> Letter {
        let record = example(topic).encode().unwrap();
        written(record.to_dead_letter(reason, "problem".into(), format!("{topic}/1@5")), "eventpulse/rules")
    }

    fn written(letter: DeadLetter, source: &str) -> Letter {
        let id = EventId::new("dead.letter", &letter.origin, &letter.message);
        let event = Event { id, source: source.into(), payload: letter.into(), ..example(Topic::DeadLetter) };
        Letter::of(event, PLACE.into()).unwrap()
    }

    /// Some minutes after the examples were accepted.
    fn now() -> Timestamp {
        example(Topic::AlertRaised).time + SignedDuration::from_mins(2)
    }

    fn problem(letter: Letter, original: Option<Record>) -> String {
        plan(letter, original, now()).record.unwrap_err()
    }

    #[test]
    fn what_is_published_again_is_the_same_event_with_a_mark() {
        for topic in Topic::ALL.into_iter().filter(|topic| *topic != Topic::DeadLetter) {
            let (letter, original) = (letter(topic, DeadLetterReason::UnknownType), example(topic).encode().unwrap());
            let plan = plan(letter.clone(), None, now());
            let record = plan.record.unwrap();
            assert_eq!((record.topic, &record.key, &record.value), (topic, &original.key, &original.value));
            assert_eq!(record.decode(), original.decode());
            let mark = record.headers.last().unwrap();
            assert_eq!(mark, &(MARK.to_owned(), format!("{} {topic}/1@5", letter.id).into()));
            // A record that failed once more carries the mark of its last retry alone.
            let again = record.to_dead_letter(DeadLetterReason::Refused, "again".into(), format!("{topic}/1@6"));
            let again = written(again, "eventpulse/rules");
            assert!(again.retried_from.is_some());
            if topic != Topic::ActionRequested {
                let record = super::plan(again, Some(record), now()).record.unwrap();
                assert_eq!(record.headers.iter().filter(|(name, _)| name == MARK).count(), 1);
            }
        }
    }

    #[test]
    fn what_cannot_be_published_again_says_what_to_do_instead() {
        let refused = DeadLetterReason::Refused;
        let of = |origin: &str, source| {
            let Payload::DeadLetter(letter) = example(Topic::DeadLetter).payload else { unreachable!() };
            written(DeadLetter { origin: origin.into(), ..*letter }, source)
        };
        for (origin, source, says) in [
            ("/webhooks/alertmanager alerts[2]", "eventpulse/ingest", "mend it at its sender"),
            ("their.alerts/0@7", "eventpulse/ingest", "let its producer write it again"),
            ("row 7 of ingest's outbox", "eventpulse/ingest", "`show` prints its bytes"),
        ] {
            let problem = problem(of(origin, source), None);
            assert!(problem.contains(says), "{origin}: {problem}");
        }
        assert!(problem(letter(Topic::ActionRequested, refused), None).contains("the incident's ladder went on"));
        let mut cut = letter(Topic::AlertRaised, refused);
        cut.letter.truncated = true;
        assert!(problem(cut.clone(), None).contains("only the beginning"));
        assert!(plan(cut, Some(example(Topic::AlertRaised).encode().unwrap()), now()).record.is_ok());
        let mut headers = letter(Topic::AlertRaised, refused);
        headers.letter.headers.insert("long".into(), "x".repeat(DEAD_LETTER_HEADER_BYTES));
        assert!(problem(headers, None).contains("only a part of its headers"));
        let mut nonsense = letter(Topic::AlertRaised, DeadLetterReason::InvalidData);
        nonsense.letter.data = "bm9uc2Vuc2U=".into();
        assert!(problem(nonsense, None).contains("would become a dead letter again (data: "));
        // Rules would bury it, although it can be decoded.
        let ahead = plan(letter(Topic::AlertRaised, refused), None, now() - SignedDuration::from_hours(9));
        assert!(ahead.record.unwrap_err().contains("lies in the future"));
    }

    #[test]
    fn what_comes_too_late_is_said_before() {
        let late = now() + SignedDuration::from_hours(24);
        let said = |topic| plan(letter(topic, DeadLetterReason::InvalidData), None, late).note.unwrap_or_default();
        assert!(said(Topic::AlertRaised).contains("takes it as stale"));
        assert!(said(Topic::ActionRequested).contains("its deadline was"));
        assert!(said(Topic::NotificationRequested).contains("its deadline was"));
        assert_eq!(said(Topic::IncidentOpened), "");
        assert_eq!(plan(letter(Topic::AlertRaised, DeadLetterReason::Refused), None, now()).note, None);
    }

    #[test]
    fn a_record_that_failed_twice_is_published_once() {
        let first = letter(Topic::AlertRaised, DeadLetterReason::Refused);
        let mut second = Letter {
            place: "dead.letter/0@9".into(),
            time: first.time + SignedDuration::from_secs(1),
            ..first.clone()
        };
        let at = TopicPartition { topic: Topic::AlertRaised, partition: 1 };
        (second.id, second.origin) = ("second".into(), Origin::Record { at, offset: 6 });
        let other = letter(Topic::IncidentOpened, DeadLetterReason::Refused);
        let newest = newest_of_each(vec![first, second.clone(), other.clone()]);
        assert_eq!(newest.len(), 2);
        assert!(newest.contains(&second) && newest.contains(&other));
    }
}
