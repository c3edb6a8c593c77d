//! Promise 1: what was accepted is on alert.raised, and ends on alert.decided in one reason for each rule that it matched, or once
//! where none did. The reason is one of the list, no later one contradicts it (docs/operations.md, the ledger), and the incident that it
//! names is there. What was answered with 2xx and is no alert is on dead.letter.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::{
    Accepted, BROKEN, Findings, Observed, Record,
    view::{rule_of, text},
};

/// docs/reasons.md, what became of an alert.
const REASONS: [&str; 12] = [
    "opened",
    "joined",
    "repeated",
    "resolved",
    "nothingToResolve",
    "noRule",
    "cooldown",
    "suspended",
    "storm",
    "stale",
    "invalid",
    "refused",
];
/// Those that belong to an incident.
const OF_AN_INCIDENT: [&str; 2] = ["opened", "joined"];
/// An alert that ended so is open still, and may be decided anew.
const LEFT_OPEN: [&str; 6] = ["cooldown", "suspended", "storm", "stale", "invalid", "refused"];
/// What comes again says so, and nothing new.
const OF_A_REPETITION: [&str; 2] = ["repeated", "stale"];

/// What was said of one alert, rule by rule (none: ""), in the order of the log.
type Decided<'a> = BTreeMap<String, Vec<&'a Record>>;

pub(crate) fn judge(observed: &Observed, found: &mut Findings) {
    let mut raised: BTreeMap<Distinct, BTreeSet<&str>> = BTreeMap::new();
    for record in observed.on("alert.raised") {
        raised.entry(distinct(&record.data)).or_default().insert(text(&record.data, "/acceptedAt"));
    }
    let mut decided: BTreeMap<Distinct, Decided> = BTreeMap::new();
    for record in observed.on("alert.decided") {
        let rule = record.data.pointer("/rule").map_or_else(String::new, rule_of);
        decided.entry(distinct(&record.data)).or_default().entry(rule).or_default().push(record);
    }
    let accepted: BTreeSet<&Accepted> = observed.accepted.iter().collect();
    for alert in accepted {
        each_has_its_reasons(observed, alert, &raised, &decided, found);
    }
    let forgotten = observed.rules_of_groups_deleted_by_others();
    for (alert, rules) in &decided {
        let told_once = raised.get(alert).is_none_or(|accepted| accepted.len() == 1);
        for (rule, records) in rules {
            let who = format!("the alert {} {} {} for the rule {rule:?}", alert.1, alert.2, alert.3);
            reasons(&who, records, found);
            // Whoever deletes a group takes the memory of what was decided.
            if told_once && !forgotten.contains(rule) {
                contradictions(&who, records, found);
            }
        }
    }
    each_incident_is_there(observed, found);
    each_broken_one_has_its_letter(observed, found);
}

fn each_broken_one_has_its_letter(observed: &Observed, found: &mut Findings) {
    if !observed.at_rest {
        return;
    }
    let broken = |letter: &Record| {
        let original: Value = serde_json::from_slice(&STANDARD.decode(text(&letter.data, "/data")).ok()?).ok()?;
        Some(original["annotations"][BROKEN].as_str()?.to_owned())
    };
    let buried: BTreeSet<String> = observed.on("dead.letter").filter_map(broken).collect();
    for alert in observed.broken.iter().filter(|alert| !buried.contains(*alert)) {
        found.add(format!("what is no alert, {alert}, was answered with 2xx and is not on dead.letter"));
    }
}

fn each_has_its_reasons(
    observed: &Observed,
    alert: &Accepted,
    raised: &BTreeMap<Distinct, BTreeSet<&str>>,
    decided: &BTreeMap<Distinct, Decided>,
    found: &mut Findings,
) {
    let key = (alert.source.clone(), alert.fingerprint.clone(), alert.starts_at.to_string(), alert.status.clone());
    let who = format!("the alert {} {} {} {}", alert.name, alert.fingerprint, alert.starts_at, alert.status);
    if !raised.contains_key(&key) {
        found.add(format!("{who} was answered with 2xx and is not on alert.raised"));
        return;
    }
    let Some(rules) = decided.get(&key) else {
        if observed.at_rest {
            found.add(format!("{who} has no reason on alert.decided"));
        }
        return;
    };
    let rules: BTreeSet<&str> = rules.keys().map(String::as_str).collect();
    if rules.len() > 1 && rules.contains("") {
        found.add(format!("{who} was decided for rules and as matched by none: {rules:?}"));
    }
    let Some(rules_of) = &observed.rules_of else { return };
    let expected: BTreeSet<&str> = match rules_of.get(&alert.name) {
        Some(rules) if !rules.is_empty() => rules.iter().map(String::as_str).collect(),
        _ => BTreeSet::from([""]),
    };
    if rules != expected {
        found.add(format!("{who} was decided for {rules:?}, and its rules are {expected:?}"));
    }
}

fn reasons(who: &str, records: &[&Record], found: &mut Findings) {
    let said: BTreeSet<(&str, &str)> = records.iter().map(|record| said(record)).collect();
    for (reason, incident) in said {
        if !REASONS.contains(&reason) {
            found.add(format!("{who} was decided as {reason:?}, which is no reason"));
        }
        if OF_AN_INCIDENT.contains(&reason) && incident.is_empty() {
            found.add(format!("{who} was decided as {reason:?} and names no incident"));
        }
    }
}

/// What was decided of one telling stays.
fn contradictions(who: &str, records: &[&Record], found: &mut Findings) {
    let is_open = records.first().is_some_and(|first| LEFT_OPEN.contains(&said(first).0));
    // What was left open may come again as that, before it is decided anew.
    let undecided = |reason: &str| LEFT_OPEN.contains(&reason) || is_open && OF_A_REPETITION.contains(&reason);
    let mut said = records.iter().map(|record| said(record)).skip_while(|(reason, _)| undecided(reason));
    let Some(first) = said.next() else { return };
    let other = |further: &(&str, &str)| *further != first && !OF_A_REPETITION.contains(&further.0);
    let contradicting: BTreeSet<(&str, &str)> = said.filter(other).collect();
    for other in contradicting {
        found.add(format!("{who} was decided as {first:?}, and then as {other:?}, though it was told once"));
    }
}

/// The reason and the incident that it is said of.
fn said(record: &Record) -> (&str, &str) {
    (text(&record.data, "/reason"), text(&record.data, "/incidentID"))
}

/// Whoever opened an incident or joined one: it was told of, and there is an Incident, or was until somebody deleted it.
fn each_incident_is_there(observed: &Observed, found: &mut Findings) {
    if !observed.at_rest {
        return;
    }
    let opened: BTreeSet<&str> =
        observed.on("incident.opened").map(|record| text(&record.data, "/incident/incidentID")).collect();
    let there: BTreeSet<&str> = observed.writes_of("incidents").map(|write| write.object.1.as_str()).collect();
    let said = observed.on("alert.decided").map(said);
    let named: BTreeSet<(&str, &str)> =
        said.filter(|(reason, incident)| OF_AN_INCIDENT.contains(reason) && !incident.is_empty()).collect();
    for (reason, incident) in named {
        if !opened.contains(incident) {
            found.add(format!("an alert {reason} {incident}, and no incident.opened told of it"));
        }
        if !there.contains(incident) {
            found.add(format!("an alert {reason} {incident}, and there was never such an Incident"));
        }
    }
}

/// What makes an alert another one: source, fingerprint, start, status.
type Distinct = (String, String, String, String);

fn distinct(data: &Value) -> Distinct {
    let at = |path| text(data, path).to_owned();
    (at("/source"), at("/fingerprint"), at("/startsAt"), at("/status"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reasons_are_those_of_the_documentation() {
        let page = include_str!("../../../docs/reasons.md");
        let (_, section) = page.split_once("## What became of an alert\n").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        assert_eq!(rows.map(|(word, _)| word).collect::<Vec<_>>(), REASONS);
    }
}
