//! Promise 6: no object, outbox, ring or history beyond its bound (docs/bounds.md).

use serde_json::Value;

use crate::{
    Findings, Observed,
    view::{list, named, ring},
};

/// The most bytes of an object of ours; an Incident's are fewer.
const OBJECT_BYTES: usize = 256 << 10;
const INCIDENT_BYTES: usize = 32_000;
/// The most entries of an outbox, of a ring, of a history.
const OUTBOX: usize = 32;
const RING: usize = 32;
const HISTORY: usize = 32;

pub(crate) fn judge(observed: &Observed, found: &mut Findings) {
    for write in &observed.writes {
        let Some(after) = write.after.as_ref().filter(|_| write.ours) else { continue };
        let most = match write.kind.as_str() {
            "incidents" => INCIDENT_BYTES,
            "alertgroups" | "actions" | "notifications" => OBJECT_BYTES,
            _ => {
                let (applied, aborted) = ring(Some(after));
                if applied.len() + aborted.len() > RING {
                    found.add(format!(
                        "the ring of {} {} has more than {RING} entries",
                        write.kind,
                        named(&write.object)
                    ));
                }
                continue;
            }
        };
        let bytes = size(after);
        if bytes > most {
            found.add(format!(
                "{} {} has {bytes} bytes at {}; at most {most}",
                write.kind,
                named(&write.object),
                write.at
            ));
        }
        for (path, bound) in [("/spec/outbox", OUTBOX), ("/status/outbox", OUTBOX), ("/status/history", HISTORY)] {
            let entries = list(after, path).len();
            if entries > bound {
                found.add(format!("{} {} has {entries} in {path}; at most {bound}", write.kind, named(&write.object)));
            }
        }
    }
}

/// About what the object takes as JSON, without making a text of it.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| size(item) + 1).sum::<usize>(),
        Value::Object(map) => 2 + map.iter().map(|(key, item)| key.len() + 4 + size(item)).sum::<usize>(),
    }
}
