//! Promise 1: what was accepted is on alert.raised, and ends on alert.decided in one reason for each rule that it matched, or once
//! where none did.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{Findings, Observed, view::text};

pub(crate) fn judge(observed: &Observed, found: &mut Findings) {
    let raised: BTreeMap<(String, String, String, String), &str> = observed
        .on("alert.raised")
        .filter_map(|record| Some((distinct(&record.data), record.id.as_deref()?)))
        .collect();
    let mut decided: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for record in observed.on("alert.decided") {
        let rule = record
            .data
            .pointer("/rule")
            .map_or_else(String::new, |rule| format!("{}/{}", text(rule, "/namespace"), text(rule, "/name")));
        decided.entry(text(&record.data, "/alertEventID")).or_default().insert(rule);
    }
    for alert in &observed.accepted {
        let key = (alert.source.clone(), alert.fingerprint.clone(), alert.starts_at.to_string(), alert.status.clone());
        let who = format!("the alert {} {} {} {}", alert.name, alert.fingerprint, alert.starts_at, alert.status);
        let Some(event) = raised.get(&key) else {
            found.add(format!("{who} was answered with 2xx and is not on alert.raised"));
            continue;
        };
        let rules = decided.get(event);
        match rules {
            None if observed.at_rest => found.add(format!("{who} (event {event}) has no reason on alert.decided")),
            Some(rules) if rules.len() > 1 && rules.contains("") => {
                found.add(format!("{who} (event {event}) was decided for rules and as matched by none: {rules:?}"));
            }
            _ => {}
        }
        let (Some(rules_of), Some(rules)) = (&observed.rules_of, rules) else { continue };
        let expected: BTreeSet<String> = match rules_of.get(&alert.name) {
            Some(rules) if !rules.is_empty() => rules.iter().cloned().collect(),
            _ => BTreeSet::from([String::new()]),
        };
        if *rules != expected {
            found.add(format!("{who} (event {event}) was decided for {rules:?}, and its rules are {expected:?}"));
        }
    }
}

fn distinct(data: &Value) -> (String, String, String, String) {
    let at = |path| text(data, path).to_owned();
    (at("/source"), at("/fingerprint"), at("/startsAt"), at("/status"))
}
