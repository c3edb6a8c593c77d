//! Promise 4: one notification for each incident, channel, template and occurrence; what may be a second copy is marked and has the
//! same key.

use std::collections::BTreeMap;

use crate::{
    Findings, Observed,
    view::{named, text},
};

pub(crate) fn judge(observed: &Observed, found: &mut Findings) {
    let (mut unmarked, mut taken): (BTreeMap<&str, usize>, BTreeMap<&str, usize>) = Default::default();
    let mut keys = BTreeMap::new();
    for message in &observed.messages {
        // One that was refused is no copy of the next.
        *unmarked.entry(&message.key).or_default() += usize::from(message.taken && !message.marked);
        *taken.entry(&message.key).or_default() += usize::from(message.taken);
        let known = keys.entry(&message.of).or_insert(&message.key);
        if *known != &message.key {
            found.add(format!("{:?} was told under two keys: {known} and {}", message.of, message.key));
        }
    }
    for (key, copies) in unmarked {
        if copies > 1 {
            found.add(format!("{copies} copies of the message {key} arrived without a mark"));
        }
    }
    keys_of_requests(observed, found);
    let mut occasions = BTreeMap::new();
    for (name, (notification, _)) in observed.last_of("notifications") {
        let at = |path| text(notification, path).to_owned();
        let of = (
            at("/spec/incident/incidentID"),
            at("/spec/channelRef/name"),
            at("/spec/template"),
            at("/spec/occurrence"),
        );
        if let Some(other) = occasions.insert(of, name) {
            found.add(format!("{} and {} are one notification", named(other), named(name)));
        }
        if text(notification, "/spec/phase") == "Delivered" && taken.get(name.1.as_str()).copied().unwrap_or(0) == 0 {
            found.add(format!("{} is Delivered, and nobody has it", named(name)));
        }
    }
}

/// What was asked for on two occasions has two keys.
fn keys_of_requests(observed: &Observed, found: &mut Findings) {
    let mut keys = BTreeMap::new();
    for record in observed.on("notification.requested") {
        let at = |path| text(&record.data, path);
        let of = (at("/incident/incidentID"), at("/channel"), at("/template"), at("/occurrence"));
        let known = *keys.entry(at("/notificationID")).or_insert(of);
        if known != of {
            found.add(format!("{} was asked for as {known:?} and as {of:?}", at("/notificationID")));
        }
    }
}
