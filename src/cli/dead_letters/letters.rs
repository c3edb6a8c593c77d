//! Dead letters, read from their topic.

use std::collections::{BTreeMap, HashMap};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;

use super::{Origin, retry::MARK};
use crate::{
    bus::{BusConfig, BusError, history},
    cli::progress,
    events::{DeadLetter, DeadLetterReason, Event, Payload, Record, Topic},
};

/// A dead letter, with what is known of it beside its text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Letter {
    /// Its event's id.
    pub(super) id: String,
    /// Where it stands: `dead.letter/0@7`.
    pub(super) place: String,
    /// When it was written.
    pub(super) time: Timestamp,
    /// Which service wrote it.
    pub(super) source: String,
    /// Where it came from.
    pub(super) origin: Origin,
    /// What it says; in a summary without headers and bytes.
    pub(super) letter: DeadLetter,
    /// Where its record was published from, if that was a retry.
    pub(super) retried_from: Option<String>,
    /// How often it was written: what comes again may be buried again.
    pub(super) times: u64,
}

impl Letter {
    /// None for what is no dead letter.
    pub(super) fn of(event: Event, place: String) -> Option<Self> {
        let Payload::DeadLetter(letter) = event.payload else { return None };
        Some(Self {
            origin: Origin::of(&letter, &event.source),
            retried_from: letter.headers.get(MARK).cloned(),
            id: event.id.to_string(),
            place,
            time: event.time,
            source: event.source,
            letter: *letter,
            times: 1,
        })
    }

    /// Whether this is one of its names.
    pub(super) fn is_called(&self, subject: &str) -> bool {
        [&self.id, &self.place, &self.letter.origin].into_iter().any(|name| name == subject)
    }

    /// Whether it may be the dead letter of this record, by the bytes that it keeps.
    pub(super) fn is_of(&self, record: &Record) -> bool {
        let kept = self.bytes();
        if self.letter.truncated { record.value.starts_with(&kept) } else { record.value == kept }
    }

    /// The original's bytes, as far as they are kept; nothing where somebody has written nonsense.
    pub(super) fn bytes(&self) -> Vec<u8> {
        BASE64.decode(&self.letter.data).unwrap_or_default()
    }
}

/// Which are looked for.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// Those of a reason and a topic, without headers and bytes.
    Summaries { reason: Option<DeadLetterReason>, topic: Option<Topic> },
    /// The same with everything.
    Whole { reason: Option<DeadLetterReason>, topic: Option<Topic> },
    /// Those with one of these names, with everything.
    Named(Vec<String>),
}

impl Wanted {
    fn take(&self, mut letter: Letter) -> Option<Letter> {
        let (reason, topic) = match self {
            Self::Named(names) => return names.iter().any(|name| letter.is_called(name)).then_some(letter),
            Self::Summaries { reason, topic } => {
                letter.letter.headers.clear();
                letter.letter.data.clear();
                (reason, topic)
            }
            Self::Whole { reason, topic } => (reason, topic),
        };
        let fits = reason.is_none_or(|reason| letter.letter.reason == reason)
            && topic.is_none_or(|topic| letter.origin.topic() == Some(topic));
        fits.then_some(letter)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The newest, oldest first; each once.
    pub(super) letters: Vec<Letter>,
    /// How many older ones there are.
    pub(super) left_out: u64,
}

/// Reads the topic from `since` on, and keeps at most `max`.
pub(super) async fn read(bus: &BusConfig, since: Timestamp, wanted: Wanted, max: usize) -> Result<Found, BusError> {
    let sieve = Sieve { wanted, max, kept: BTreeMap::new(), by_id: HashMap::new(), left_out: 0, records: 0 };
    let sieve = history::read(bus.clone(), vec![Topic::DeadLetter], since, sieve).await?;
    Ok(Found { letters: sieve.kept.into_values().collect(), left_out: sieve.left_out })
}

/// Keeps the newest; of one that was written again, the first.
struct Sieve {
    wanted: Wanted,
    max: usize,
    kept: BTreeMap<(Timestamp, String), Letter>,
    by_id: HashMap<String, (Timestamp, String)>,
    left_out: u64,
    records: u64,
}

impl history::Visit for Sieve {
    fn visit(&mut self, past: history::Past) {
        self.records += 1;
        if self.records.is_multiple_of(100_000) {
            progress(&format!("Reading dead.letter: {} records", self.records));
        }
        let letter = past.record.decode().ok().and_then(|event| Letter::of(event, past.origin()));
        let Some(letter) = letter.and_then(|letter| self.wanted.take(letter)) else { return };
        if let Some(known) = self.by_id.get(&letter.id).and_then(|key| self.kept.get_mut(key)) {
            known.times += 1;
            return;
        }
        let key = (letter.time, letter.place.clone());
        self.by_id.insert(letter.id.clone(), key.clone());
        self.kept.insert(key, letter);
        if self.kept.len() > self.max
            && let Some((_, oldest)) = self.kept.pop_first()
        {
            self.by_id.remove(&oldest.id);
            self.left_out += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bus::TopicPartition,
        events::{EventId, example},
    };

    fn written(id: &str, second: i64, change: impl FnOnce(&mut DeadLetter)) -> history::Past {
        let mut event = example(Topic::DeadLetter);
        let Payload::DeadLetter(letter) = &mut event.payload else { unreachable!() };
        change(letter);
        (event.id, event.time) = (EventId::try_from(id.to_owned()).unwrap(), Timestamp::from_second(second).unwrap());
        let at = TopicPartition { topic: Topic::DeadLetter, partition: 0 };
        history::Past { record: event.encode().unwrap(), at, offset: second as u64, timestamp: event.time }
    }

    fn sieve(wanted: Wanted, max: usize, records: Vec<history::Past>) -> Found {
        let mut sieve = Sieve { wanted, max, kept: BTreeMap::new(), by_id: HashMap::new(), left_out: 0, records: 0 };
        records.into_iter().for_each(|past| history::Visit::visit(&mut sieve, past));
        Found { letters: sieve.kept.into_values().collect(), left_out: sieve.left_out }
    }

    fn ids(found: &Found) -> Vec<&str> {
        found.letters.iter().map(|letter| letter.id.as_str()).collect()
    }

    #[test]
    fn of_many_the_newest_are_kept_and_the_others_counted_and_a_repetition_is_one() {
        let all = Wanted::Summaries { reason: None, topic: None };
        let records = (1..=9).map(|i| written(&format!("id-{}", i % 5), i, |_| {})).collect();
        let found = sieve(all, 3, records);
        // One that was left out before is no repetition of what is kept.
        assert_eq!((ids(&found), found.left_out), (vec!["id-2", "id-3", "id-4"], 6));
        let twice = vec![written("a", 1, |_| {}), written("b", 2, |_| {}), written("a", 3, |_| {})];
        let found = sieve(Wanted::Summaries { reason: None, topic: None }, 3, twice);
        assert_eq!((ids(&found), found.letters[0].times), (vec!["a", "b"], 2));
        assert!(found.letters.iter().all(|letter| letter.letter.data.is_empty() && letter.letter.headers.is_empty()));
    }

    #[test]
    fn a_letter_is_found_by_its_reason_its_topic_and_each_of_its_names() {
        let records = || {
            vec![
                written("a", 1, |letter| letter.reason = DeadLetterReason::Refused),
                written("b", 2, |letter| letter.origin = "action.requested/2@5".into()),
                written("c", 3, |letter| letter.origin = "/webhooks/alertmanager alerts[2]".into()),
            ]
        };
        let whole = |reason, topic| Wanted::Whole { reason, topic };
        assert_eq!(ids(&sieve(whole(Some(DeadLetterReason::Refused), None), 9, records())), ["a"]);
        assert_eq!(ids(&sieve(whole(None, Some(Topic::ActionRequested)), 9, records())), ["b"]);
        assert_eq!(
            ids(&sieve(whole(Some(DeadLetterReason::Refused), Some(Topic::ActionRequested)), 9, records())),
            [""; 0]
        );
        for (name, id) in [("c", "c"), ("dead.letter/0@2", "b"), ("/webhooks/alertmanager alerts[2]", "c")] {
            let found = sieve(Wanted::Named(vec![name.into()]), 9, records());
            assert_eq!(ids(&found), [id], "{name}");
            assert!(!found.letters[0].letter.data.is_empty());
        }
    }
}
