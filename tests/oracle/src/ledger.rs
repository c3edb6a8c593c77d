//! Promise 1: what was accepted is on alert.raised, and ends on alert.decided in one reason for each rule that it matched, or once
//! where none did.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{Accepted, Findings, Observed, view::text};

pub(crate) fn judge(observed: &Observed, found: &mut Findings) {
    let raised: BTreeSet<Distinct> = observed.on("alert.raised").map(|record| distinct(&record.data)).collect();
    let mut decided: BTreeMap<Distinct, BTreeSet<String>> = BTreeMap::new();
    for record in observed.on("alert.decided") {
        let rule = record
            .data
            .pointer("/rule")
            .map_or_else(String::new, |rule| format!("{}/{}", text(rule, "/namespace"), text(rule, "/name")));
        decided.entry(distinct(&record.data)).or_default().insert(rule);
    }
    let accepted: BTreeSet<&Accepted> = observed.accepted.iter().collect();
    for alert in accepted {
        let key = (alert.source.clone(), alert.fingerprint.clone(), alert.starts_at.to_string(), alert.status.clone());
        let who = format!("the alert {} {} {} {}", alert.name, alert.fingerprint, alert.starts_at, alert.status);
        if !raised.contains(&key) {
            found.add(format!("{who} was answered with 2xx and is not on alert.raised"));
            continue;
        }
        let Some(rules) = decided.get(&key) else {
            if observed.at_rest {
                found.add(format!("{who} has no reason on alert.decided"));
            }
            continue;
        };
        if rules.len() > 1 && rules.contains("") {
            found.add(format!("{who} was decided for rules and as matched by none: {rules:?}"));
        }
        let Some(rules_of) = &observed.rules_of else { continue };
        let expected: BTreeSet<String> = match rules_of.get(&alert.name) {
            Some(rules) if !rules.is_empty() => rules.iter().cloned().collect(),
            _ => BTreeSet::from([String::new()]),
        };
        if *rules != expected {
            found.add(format!("{who} was decided for {rules:?}, and its rules are {expected:?}"));
        }
    }
}

/// What makes an alert another one: source, fingerprint, start, status.
type Distinct = (String, String, String, String);

fn distinct(data: &Value) -> Distinct {
    let at = |path| text(data, path).to_owned();
    (at("/source"), at("/fingerprint"), at("/startsAt"), at("/status"))
}
