//! Promise 5: everything on the log was given to the services once more, and nothing came of it.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::{Findings, Observed, view::named};

pub(crate) fn judge(observed: &Observed, found: &mut Findings) {
    let Some(since) = observed.repeated_at else { return };
    for write in observed.writes.iter().filter(|write| write.ours && write.at >= since) {
        let what = match (&write.before, &write.after) {
            (None, Some(_)) => "was created",
            (Some(before), Some(after)) if before.get("spec") != after.get("spec") && write.account.is_some() => {
                "was changed"
            }
            _ => continue,
        };
        // What only tells people of something is no state.
        if write.kind != "events" {
            found.add(format!("{} {} {what} at {}", write.kind, named(&write.object), write.at));
        }
    }
    for message in observed.messages.iter().filter(|message| message.at >= since) {
        found.add(format!("the message {} was sent at {}", message.key, message.at));
    }
    new_events(observed, since, found);
}

/// An event that was never there before.
fn new_events(observed: &Observed, since: Timestamp, found: &mut Findings) {
    let known: BTreeSet<&str> =
        observed.records.iter().filter(|record| record.at < since).filter_map(|record| record.id.as_deref()).collect();
    for record in observed.records.iter().filter(|record| record.at >= since) {
        let Some(id) = record.id.as_deref().filter(|id| !known.contains(id)) else { continue };
        found.add(format!("the event {id} came on {} at {}", record.topic, record.at));
    }
}
