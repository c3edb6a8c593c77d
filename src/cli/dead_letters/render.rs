//! Dead letters as text for people, and as they are printed in JSON. Pure.

use std::{collections::BTreeMap, fmt::Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    letters::{Found, Letter},
    retry::Plan,
};
use crate::{
    cli::{printable, reasons},
    events::{HEADER_ID, Record},
};

/// The most characters of a problem in a table.
const PROBLEM_MAX: usize = 120;
/// The width of a table's column of origins; longer ones stick out.
const ORIGIN_WIDTH: usize = 56;

/// What `list` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct List {
    dead_letters: Vec<Summary>,
    /// Older ones that are not listed.
    left_out: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    id: String,
    place: String,
    time: Timestamp,
    /// Which service wrote it.
    source: String,
    origin: String,
    topic: Option<&'static str>,
    reason: String,
    problem: String,
    times: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    retried_from: Option<String>,
}

impl Summary {
    fn of(letter: &Letter) -> Self {
        Self {
            id: letter.id.clone(),
            place: letter.place.clone(),
            time: letter.time,
            source: letter.source.clone(),
            origin: letter.letter.origin.clone(),
            topic: letter.origin.topic().map(crate::events::Topic::name),
            reason: reasons::word(&letter.letter.reason),
            problem: letter.letter.message.clone(),
            times: letter.times,
            retried_from: letter.retried_from.clone(),
        }
    }
}

/// As JSON.
pub(super) fn list(found: &Found) -> List {
    List { dead_letters: found.letters.iter().map(Summary::of).collect(), left_out: found.left_out }
}

/// As a table.
pub(super) fn table(found: &Found) -> String {
    if found.letters.is_empty() {
        return "There are no such dead letters.\n".into();
    }
    // Where it came from may be said of many, like one alert of a request.
    let name = |letter: &Letter| match letter.origin.topic() {
        Some(_) => printable(&letter.letter.origin),
        None => format!("{} ({})", printable(&letter.letter.origin), letter.place),
    };
    let width = found.letters.iter().map(|letter| name(letter).chars().count()).max().unwrap_or_default();
    let width = width.clamp(6, ORIGIN_WIDTH);
    let mut text = format!("{:<20}  {:<14}  {:<width$}  {}\n", "TIME", "REASON", "ORIGIN", "PROBLEM");
    for letter in &found.letters {
        let time = letter.time.strftime("%Y-%m-%dT%H:%M:%SZ");
        let (reason, name) = (reasons::word(&letter.letter.reason), name(letter));
        let problem: String = printable(&letter.letter.message).chars().take(PROBLEM_MAX).collect();
        let times = if letter.times > 1 { format!(" ({} times)", letter.times) } else { String::new() };
        let retried = if letter.retried_from.is_some() { " (of a retry)" } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{time}  {reason:<14}  {name:<width$}  {problem}{times}{retried}");
    }
    if found.left_out > 0 {
        let _ = writeln!(text, "{} older ones are not listed; --since, --reason and --topic narrow it", found.left_out);
    }
    text
}

/// A letter with everything.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Whole {
    #[serde(flatten)]
    summary: Summary,
    meaning: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    headers: BTreeMap<String, String>,
    /// The original's bytes, where they are text.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// The same in base 64, where they are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    /// Whether they are only the beginning.
    truncated: bool,
}

/// `original` is the record as it still stands on its topic, where the letter keeps only its beginning.
pub(super) fn whole(letter: &Letter, original: Option<&Record>) -> Whole {
    let kept = letter.bytes();
    let bytes = original.map_or(&kept[..], |record| &record.value[..]);
    let text = readable(bytes, letter.letter.truncated && original.is_none());
    Whole {
        summary: Summary::of(letter),
        meaning: reasons::meaning(&letter.letter.reason),
        key: letter.letter.key.clone(),
        headers: letter.letter.headers.clone(),
        base64: text.is_none().then(|| BASE64.encode(bytes)),
        text,
        truncated: letter.letter.truncated && original.is_none(),
    }
}

/// Bytes that were cut may end within a character.
fn readable(bytes: &[u8], is_cut: bool) -> Option<String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text.to_owned()),
        Err(error) if is_cut && error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok().map(str::to_owned)
        }
        Err(_) => None,
    }
}

/// As text.
pub(super) fn text(whole: &Whole) -> String {
    let Summary { id, place, time, source, origin, reason, problem, times, retried_from, .. } = &whole.summary;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<12}  {}", printable(value));
    };
    line("origin", origin);
    line("reason", &format!("{reason}: {}", whole.meaning));
    line("problem", problem);
    line("written", &format!("{time} by {source}, at {place}"));
    line("id", id);
    if *times > 1 {
        line("times", &times.to_string());
    }
    if let Some(from) = retried_from {
        line("retried from", from);
    }
    if let Some(key) = &whole.key {
        line("key", key);
    }
    for (name, value) in &whole.headers {
        line("header", &format!("{name}: {value}"));
    }
    let (name, bytes) = match (&whole.text, &whole.base64) {
        (Some(bytes), _) => ("text", bytes),
        (None, Some(bytes)) => ("base 64", bytes),
        (None, None) => return text,
    };
    let cut = if whole.truncated { ", only the beginning" } else { "" };
    let _ = writeln!(text, "\n({name}{cut})");
    bytes.lines().for_each(|bytes| {
        let _ = writeln!(text, "{}", printable(bytes));
    });
    text
}

/// What is to be done with a letter.
pub(super) fn plan(plan: &Plan) -> String {
    let origin = printable(&plan.letter.letter.origin);
    match &plan.record {
        Ok(record) => {
            let note = plan.note.as_ref().map(|note| format!("\n  {}", printable(note))).unwrap_or_default();
            format!("{origin}: event {} is to be published on {} again{note}", id_of(record), record.topic)
        }
        Err(problem) => format!("{origin} ({}): not published: {}", plan.letter.place, printable(problem)),
    }
}

/// What was done with it.
pub(super) fn done(plan: &Plan) -> String {
    let origin = printable(&plan.letter.letter.origin);
    plan.record.as_ref().map_or_else(
        |_| String::new(),
        |record| format!("{origin}: event {} was published on {} again", id_of(record), record.topic),
    )
}

fn id_of(record: &Record) -> String {
    let id = record.headers.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case(HEADER_ID));
    id.map_or_else(|| "?".into(), |(_, id)| printable(&String::from_utf8_lossy(id)))
}
