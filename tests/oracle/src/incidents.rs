//! Promise 3: one incident for one episode of a group; an alert that comes again never opens a second one. And an incident only ever
//! goes on: Open, Mitigating, Failed, Resolved.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    Findings, Observed,
    view::{list, named, text, time},
};

pub(crate) fn judge(observed: &Observed, found: &mut Findings) {
    let last = observed.last_of("incidents");
    let mut groups: BTreeMap<&str, Vec<(Timestamp, &str, &Value)>> = BTreeMap::new();
    for (name, (incident, _)) in &last {
        let opened = time(incident, "/spec/openedAt").unwrap_or(Timestamp::UNIX_EPOCH);
        groups.entry(text(incident, "/spec/correlationID")).or_default().push((
            opened,
            name.1.as_str(),
            incident.as_ref(),
        ));
    }
    for (group, incidents) in &mut groups {
        // Of two that opened in one write the one that ended then was the first.
        incidents.sort_by_key(|(opened, name, incident)| {
            (*opened, time(incident, "/status/resolvedAt").unwrap_or(Timestamp::MAX), *name)
        });
        for pair in incidents.windows(2) {
            let [(_, first, one), (opened, second, other)] = pair else { continue };
            match time(one, "/status/resolvedAt") {
                Some(resolved) if resolved <= *opened || !observed.clocks_agree => {}
                Some(resolved) => found.add(format!(
                    "{second} opened at {opened} for the group {group} while {first} was open until {resolved}"
                )),
                None if text(one, "/status/phase") == "Resolved" => {}
                None => found.add(format!("{second} opened for the group {group} while {first} is open")),
            }
            let of = |incident: &Value| -> BTreeSet<String> {
                list(incident, "/status/alerts").iter().map(|alert| text(alert, "/alertID").to_owned()).collect()
            };
            let both: Vec<String> = of(one).intersection(&of(other)).cloned().collect();
            // Whoever deletes a group takes its memory: what it had known joins the incident that is found again (docs/reliability.md).
            if !both.is_empty() && !observed.groups_deleted_by_others().any(|deleted| deleted == *group) {
                found.add(format!(
                    "{first} and {second} of the group {group} have the same alerts: {}",
                    both.join(", ")
                ));
            }
        }
    }
    only_goes_on(observed, found);
    each_opening_has_its_incident(observed, &last.keys().map(|name| name.1.as_str()).collect(), found);
}

fn rank(phase: &str) -> usize {
    ["", "Open", "Mitigating", "Failed", "Resolved"].iter().position(|known| *known == phase).unwrap_or(0)
}

fn only_goes_on(observed: &Observed, found: &mut Findings) {
    for write in observed.writes_of("incidents") {
        let (Some(before), Some(after)) = (&write.before, &write.after) else { continue };
        let (was, is) = (text(before, "/status/phase"), text(after, "/status/phase"));
        if rank(is) < rank(was) {
            found.add(format!("{} went from {was} back to {is} at {}", named(&write.object), write.at));
        }
    }
}

fn each_opening_has_its_incident(observed: &Observed, names: &BTreeSet<&str>, found: &mut Findings) {
    if !observed.at_rest {
        return;
    }
    for record in observed.on("incident.opened") {
        let id = text(&record.data, "/incident/incidentID");
        if !names.contains(id) {
            found.add(format!("incident.opened told of {id}, and there was never such an Incident"));
        }
    }
}
