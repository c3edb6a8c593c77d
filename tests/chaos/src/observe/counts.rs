//! What the promises are about, counted by itself beside what the oracle judges: how often the most often was, and what is missing.

use std::collections::{BTreeMap, BTreeSet};

use eventpulse_oracle::Observed;
use serde_json::Value;

use super::RING;

/// See the module's text. The first three are to be 1 at most, the last 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Effects of one action, at most.
    pub effects: usize,
    /// Incidents of one group that have one alert, at most: an episode begins with an alert.
    pub incidents: usize,
    /// Copies of one message that arrived without a mark, at most.
    pub unmarked: usize,
    /// Distinct alerts that were answered with 2xx and have no reason.
    pub without_reason: usize,
}

impl Counts {
    /// Of everything that was seen.
    pub(crate) fn of(observed: &Observed) -> Self {
        let decided: BTreeSet<Distinct> = on(observed, "alert.decided").collect();
        let accepted: BTreeSet<Distinct> = observed
            .accepted
            .iter()
            .map(|alert| {
                [&alert.source, &alert.fingerprint, &alert.starts_at.to_string(), &alert.status].map(String::clone)
            })
            .collect();
        Self {
            effects: most(effects(observed)),
            incidents: most(alerts_of_incidents(observed)),
            unmarked: most(unmarked(observed)),
            without_reason: accepted.difference(&decided).count(),
        }
    }
}

/// How often the one that there is most of is there.
fn most<T: Ord>(all: impl IntoIterator<Item = T>) -> usize {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    all.into_iter().for_each(|one| *counts.entry(one).or_default() += 1);
    counts.into_values().max().unwrap_or(0)
}

/// Source, fingerprint, start, status.
type Distinct = [String; 4];

fn on<'a>(observed: &'a Observed, topic: &'a str) -> impl Iterator<Item = Distinct> + 'a {
    let records = observed.records.iter().filter(move |record| record.topic == topic);
    records.map(|record| ["source", "fingerprint", "startsAt", "status"].map(|field| text(&record.data[field])))
}

/// The action of each change of a target.
fn effects(observed: &Observed) -> Vec<String> {
    let ids = |object: &Option<std::sync::Arc<Value>>| -> BTreeSet<String> {
        let ring = object.as_ref().and_then(|object| object.pointer(RING)?.as_str()).unwrap_or_default();
        ring.split(' ').skip(1).map(|entry| entry.split(':').next().unwrap_or_default().to_owned()).collect()
    };
    let writes = observed.writes.iter().filter(|write| write.is_effect());
    writes.flat_map(|write| ids(&write.after).difference(&ids(&write.before)).cloned().collect::<Vec<_>>()).collect()
}

/// Group and alert of each incident that there ever was.
fn alerts_of_incidents(observed: &Observed) -> Vec<(String, String)> {
    let mut last: BTreeMap<&(String, String), &Value> = BTreeMap::new();
    for write in observed.writes.iter().filter(|write| write.kind == "incidents") {
        // One that was brought back after its deletion is the same by its name.
        if let Some(incident) = &write.after {
            last.insert(&write.object, incident);
        }
    }
    last.into_values()
        .flat_map(|incident| {
            let alerts = incident["status"]["alerts"].as_array().into_iter().flatten();
            alerts.map(|alert| (text(&incident["spec"]["correlationID"]), text(&alert["alertID"])))
        })
        .collect()
}

fn unmarked(observed: &Observed) -> Vec<&str> {
    let unmarked = observed.messages.iter().filter(|message| message.taken && !message.marked);
    unmarked.map(|message| message.key.as_str()).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use eventpulse_oracle::{Accepted, Message, Record, Write};
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    fn write(kind: &str, name: &str, before: Option<Value>, after: Value) -> Write {
        let (before, after) = (before.map(Arc::new), Some(Arc::new(after)));
        let object = ("shop".to_owned(), name.to_owned());
        let account = Some("remediator".to_owned());
        Write { at: Timestamp::UNIX_EPOCH, ours: true, account, kind: kind.into(), object, before, after }
    }

    fn target(replicas: i32, ring: &str) -> Value {
        json!({"metadata": {"annotations": {"eventpulse.io/applied-actions": ring}}, "spec": {"replicas": replicas}})
    }

    fn incident(name: &str) -> Write {
        let incident = json!({"spec": {"correlationID": "g"}, "status": {"alerts": [{"alertID": "a"}]}});
        write("incidents", name, None, incident)
    }

    fn accepted(fingerprint: &str) -> Accepted {
        let (source, status, name) = ("prom".into(), "firing".into(), "A".into());
        Accepted { source, fingerprint: fingerprint.into(), starts_at: Timestamp::UNIX_EPOCH, status, name }
    }

    fn message(marked: bool, taken: bool) -> Message {
        Message { at: Timestamp::UNIX_EPOCH, key: "k".into(), marked, taken, of: Default::default() }
    }

    #[test]
    fn what_is_twice_or_missing_is_counted() {
        let effect = |from, to, ring| write("deployments", "t", Some(from), target(to, ring));
        let data =
            json!({"source": "prom", "fingerprint": "f", "startsAt": "1970-01-01T00:00:00Z", "status": "firing"});
        let decided = Record { topic: "alert.decided".into(), at: Timestamp::UNIX_EPOCH, id: None, data };
        let mut observed = Observed {
            accepted: vec![accepted("f")],
            writes: vec![effect(target(1, "1 x:9"), 2, "2 x:9 y:9"), incident("i"), incident("i")],
            records: vec![decided],
            messages: vec![message(false, true), message(true, true), message(false, false)],
            ..Observed::default()
        };
        assert_eq!(Counts::of(&observed), Counts { effects: 1, incidents: 1, unmarked: 1, without_reason: 0 });
        observed.accepted.extend([accepted("g"), accepted("g")]);
        observed.writes.extend([effect(target(2, "3 x:9"), 3, "4 x:9 y:9"), incident("j")]);
        observed.messages.push(message(false, true));
        assert_eq!(Counts::of(&observed), Counts { effects: 2, incidents: 2, unmarked: 2, without_reason: 1 });
    }
}
