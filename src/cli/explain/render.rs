//! A story as text for people. Pure.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{
    rules::RuleReason,
    story::{AlertOfStory, Story},
    timeline::Entry,
};
use crate::cli::printable;

/// How many rules that do not match are printed.
const NEAREST: usize = 10;
/// The most characters of one label's value.
const VALUE_MAX: usize = 120;

/// As it is printed; with `all_rules` every rule that was tried.
pub(super) fn text(story: &Story, all_rules: bool) -> String {
    let mut text = format!("{}\n", title(story));
    // Writing to a String cannot fail.
    if let Some(alert) = &story.alert {
        let _ = write!(text, "\n{}", alert_lines(alert));
        let _ = write!(text, "\nRules, as they are now\n{}", rule_lines(story, all_rules));
    }
    let _ = write!(text, "\nWhat happened\n{}", timeline_lines(&story.timeline));
    let _ = write!(text, "\nNow\n");
    for line in &story.now {
        let _ = writeln!(text, "  {}", printable(line));
    }
    if !story.notes.is_empty() {
        let _ = write!(text, "\nNot all is known\n");
        for note in &story.notes {
            let _ = writeln!(text, "  {}", printable(note));
        }
    }
    text
}

fn title(story: &Story) -> String {
    match story.incidents.as_slice() {
        [] => format!("{}: no incident", story.subject),
        [incident] if *incident == story.subject => format!("Incident {incident}"),
        incidents => format!("{}: incident {}", story.subject, incidents.join(", ")),
    }
}

fn alert_lines(alert: &AlertOfStory) -> String {
    let mut text = String::new();
    let status = format!("{:?}", alert.status).to_lowercase();
    let _ = writeln!(
        text,
        "Alert {} of {}: {status} since {}, accepted {}",
        alert.alert_id, alert.source, alert.starts_at, alert.accepted_at
    );
    let _ = writeln!(text, "  fingerprint {}", alert.fingerprint);
    for (name, value) in &alert.labels {
        let shown: String = value.chars().take(VALUE_MAX).collect();
        let cut = if shown.len() < value.len() { "…" } else { "" };
        let _ = writeln!(text, "  {name}={:?}{cut}", shown);
    }
    text
}

fn rule_lines(story: &Story, all: bool) -> String {
    if story.rules.is_empty() {
        let place = story.namespace.as_ref().map(|namespace| format!(" in the namespace {namespace}"));
        return format!("  there is no rule{}\n", place.unwrap_or_default());
    }
    let mut text = String::new();
    let (mut shown, mut hidden, mut elsewhere) = (0, 0, 0);
    for tried in &story.rules {
        let matches = tried.reason <= RuleReason::Undecided;
        // A rule of another namespace is worth a line only where nothing else speaks against it.
        if !all && tried.reason == RuleReason::OtherNamespace && tried.details.len() > 1 {
            elsewhere += 1;
            continue;
        }
        if !all && !matches && shown >= NEAREST {
            hidden += 1;
            continue;
        }
        shown += usize::from(!matches);
        let mark = match tried.reason {
            RuleReason::Matches => "+",
            RuleReason::Suspended | RuleReason::YoungerThanAlert | RuleReason::Undecided | RuleReason::Broken => "!",
            RuleReason::Condition | RuleReason::Matcher | RuleReason::OtherNamespace => "-",
        };
        let _ = writeln!(text, "  {mark} {}: {}", tried.rule, tried.meaning);
        for detail in &tried.details {
            let _ = writeln!(text, "      {}", printable(detail));
        }
    }
    if elsewhere > 0 {
        let _ = writeln!(text, "  {elsewhere} of other namespaces were not tried further");
    }
    if hidden > 0 {
        let _ = writeln!(text, "  {hidden} more do not match; --all-rules prints them");
    }
    text
}

fn timeline_lines(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "  nothing that the log or the resources still know\n".into();
    }
    let (by, event) = (width(entries, |entry| &entry.by), width(entries, |entry| &entry.event));
    let mut text = String::new();
    let mut day = None;
    for entry in entries {
        let (date, time) = date_and_time(entry.time);
        if day.as_ref() != Some(&date) {
            let _ = writeln!(text, "  {date}");
            day = Some(date);
        }
        let reason = entry.reason.as_ref().map(|reason| format!("{reason}: ")).unwrap_or_default();
        let _ =
            writeln!(text, "  {time}  {:by$}  {:event$}  {reason}{}", entry.by, entry.event, printable(&entry.what));
        let indent = 16 + by + 2 + event + 2;
        if let Some(meaning) = entry.meaning.as_ref().filter(|meaning| !meaning.is_empty()) {
            let _ = writeln!(text, "{:indent$}{meaning}", "");
        }
        if let Some((count, last)) = entry.again {
            let (_, last) = date_and_time(last);
            let _ = writeln!(text, "{:indent$}again {count} times, last at {last}", "");
        }
    }
    text
}

/// As wide as the widest, within reason: a person's name may be long.
fn width(entries: &[Entry], of: impl Fn(&Entry) -> &String) -> usize {
    entries.iter().map(|entry| of(entry).chars().count()).max().unwrap_or_default().min(24)
}

/// UTC, to the millisecond.
fn date_and_time(time: Timestamp) -> (String, String) {
    (time.strftime("%Y-%m-%d (UTC)").to_string(), time.strftime("%H:%M:%S%.3f").to_string())
}
