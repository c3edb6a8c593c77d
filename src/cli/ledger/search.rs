//! The second look, at everything that the log still holds: what an account lacks may stand before its beginning. Pure.
//!
//! In: what the account lacks, then every record of alert.raised and of alert.decided, in this order. Out: what is lacking all the same,
//! with what people need to know of it; and apart from it what nobody can know any more, because the log has let go of it.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::account::{Digest, Missing, NAMED_MAX, Orphan, Place, word};
use crate::{
    events::{AlertDecided, Event, Payload, bounds},
    rules::RaisedAlert,
};

/// What people need to know of an alert to find it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Known {
    #[serde(rename = "eventID")]
    pub(super) event_id: String,
    #[serde(rename = "alertID")]
    pub(super) alert_id: String,
    pub(super) source: String,
    pub(super) fingerprint: String,
    pub(super) alertname: String,
    pub(super) status: &'static str,
    pub(super) accepted_at: Timestamp,
}

impl Known {
    fn of(raised: &RaisedAlert) -> Self {
        Self {
            event_id: raised.event_id.to_string(),
            alert_id: raised.alert_id.to_string(),
            source: raised.alert.source.clone(),
            fingerprint: raised.fingerprint.clone(),
            alertname: raised.alert.labels.get("alertname").cloned().unwrap_or_default(),
            status: word(raised.alert.status),
            accepted_at: raised.alert.accepted_at,
        }
    }
}

/// Back to when a topic holds everything: a partition that has let go of something has let go of what is older than its first record.
#[derive(Clone, Debug)]
pub(super) struct Horizon {
    holds_from: Timestamp,
    seen: HashSet<u32>,
}

impl Horizon {
    /// `keeps_from`: what is older may be gone without a trace, because whole partitions may have been emptied.
    pub(super) fn new(keeps_from: Timestamp) -> Self {
        Self { holds_from: keeps_from, seen: HashSet::new() }
    }

    fn see(&mut self, place: Place, taken: Timestamp) {
        if self.seen.insert(place.partition) && place.offset > 0 {
            self.holds_from = self.holds_from.max(taken);
        }
    }
}

/// See the module's text.
pub(super) struct Search {
    missing: HashMap<Digest, Missing>,
    /// Those of them that are named, by their place.
    named: HashMap<Place, Option<Known>>,
    orphans: HashMap<Digest, Orphan>,
    /// Those of them that are named.
    told: Vec<(Place, Box<AlertDecided>)>,
    raised: Horizon,
    decided: Horizon,
}

/// What is lacking.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Lacking {
    /// Accepted alerts without a reason.
    pub(super) missing: u64,
    /// The first of them; without what is known of them where their record has gone meanwhile.
    pub(super) missing_named: Vec<(Missing, Option<Known>)>,
    /// Alerts that were decided without having been raised.
    pub(super) never_raised: u64,
    /// The first decisions of them.
    pub(super) never_raised_named: Vec<(Place, Box<AlertDecided>)>,
    /// Alerts that were decided in the time of the account, and raised before it.
    pub(super) raised_before: u64,
    /// Accepted alerts without a reason, which may have stood where the log has let go.
    pub(super) missing_out_of_sight: u64,
    /// Decided alerts, which may have been raised where the log has let go.
    pub(super) raised_out_of_sight: u64,
}

impl Search {
    /// `missing` in the order in which they are to be named.
    pub(super) fn new(
        missing: Vec<(Digest, Missing)>,
        orphans: HashMap<Digest, Orphan>,
        raised: Horizon,
        decided: Horizon,
    ) -> Self {
        let named = missing.iter().take(NAMED_MAX).map(|(_, missing)| (missing.place, None)).collect();
        Self { missing: missing.into_iter().collect(), named, orphans, told: Vec::new(), raised, decided }
    }

    /// Whether there is anything to look for.
    pub(super) fn is_needed(&self) -> bool {
        !self.missing.is_empty() || !self.orphans.is_empty()
    }

    /// A record of alert.raised; none where it is no alert. They come first.
    pub(super) fn raised(&mut self, place: Place, taken: Timestamp, alert: Option<&RaisedAlert>) {
        self.raised.see(place, taken);
        let Some(raised) = alert else { return };
        if let Some(known) = self.named.get_mut(&place) {
            *known = Some(Known::of(raised));
        }
        let key = Digest::of_alert(raised.alert_id.as_str(), raised.alert.status);
        if let Some(orphan) = self.orphans.get_mut(&key) {
            orphan.raised = true;
        }
    }

    /// A record of alert.decided; none where it is no decision.
    pub(super) fn decided(&mut self, place: Place, taken: Timestamp, decision: Option<AlertDecided>) {
        self.decided.see(place, taken);
        let Some(decided) = decision else { return };
        let key = Digest::of_alert(decided.alert_id.as_str(), decided.status);
        self.missing.remove(&key);
        let is_first = self.orphans.get(&key).is_some_and(|orphan| !orphan.raised && orphan.place == place);
        if is_first && self.told.len() < NAMED_MAX {
            self.told.push((place, Box::new(decided)));
        }
    }

    /// What is lacking, when every record was read.
    pub(super) fn end(self) -> Lacking {
        let mut lacking = Lacking::default();
        let mut named: Vec<(Missing, Option<Known>)> = Vec::new();
        for missing in self.missing.into_values() {
            if missing.taken < self.decided.holds_from {
                lacking.missing_out_of_sight += 1;
                continue;
            }
            lacking.missing += 1;
            named.extend(self.named.get(&missing.place).map(|known| (missing, known.clone())));
        }
        named.sort_by_key(|(missing, _)| missing.place);
        lacking.missing_named = named;
        let holds_from = self.raised.holds_from;
        let mut lost = HashSet::new();
        for orphan in self.orphans.into_values() {
            if orphan.raised {
                lacking.raised_before += 1;
            } else if accepted_after(orphan.starts_at) > holds_from {
                lacking.never_raised += 1;
                lost.insert(orphan.place);
            } else {
                lacking.raised_out_of_sight += 1;
            }
        }
        lacking.never_raised_named = self.told.into_iter().filter(|(place, _)| lost.contains(place)).collect();
        lacking
    }
}

/// An alert may begin so much later than it was accepted, by its sender's clock.
fn accepted_after(starts_at: Timestamp) -> Timestamp {
    starts_at.saturating_sub(bounds::AHEAD).unwrap_or(Timestamp::MIN)
}

/// The alert of a record of alert.raised that was decoded, as rules reads it; none where rules would bury it. That something lies in the
/// future is not looked at: it may have been so when rules read it, and then its dead letter says so.
pub(super) fn alert_of(event: Event) -> Option<RaisedAlert> {
    match event.payload {
        Payload::AlertRaised(raised) => RaisedAlert::read(event.id, None, *raised, Timestamp::MAX).ok(),
        _ => None,
    }
}

/// Back to when what is kept for so long is held.
pub(super) fn kept_from(now: Timestamp, retention: SignedDuration) -> Timestamp {
    now.saturating_sub(retention).unwrap_or(Timestamp::MIN)
}
