//! What comes into a group, read once from the events. Pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::events::{
    ActionCompleted, ActionFailed, AlertId, AlertRaised, AlertStatus, EventId, IncidentUpdated, bounds, fingerprint_of,
};

/// The most characters of a fingerprint and of a source's name.
const FINGERPRINT_MAX: usize = 64;
const SOURCE_MAX: usize = 128;
/// An alert that was accepted, with everything that a foreign producer may leave out.
#[derive(Clone, Debug, PartialEq)]
pub struct RaisedAlert {
    /// The alert.raised event.
    pub event_id: EventId,
    /// W3C trace context of the request that brought it.
    pub traceparent: Option<String>,
    /// Derived from source, fingerprint and startsAt.
    pub alert_id: AlertId,
    /// Alertmanager's fingerprint.
    pub fingerprint: String,
    /// The rest.
    pub alert: AlertRaised,
}

/// Why an alert.raised that could be decoded cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidAlert {
    field: &'static str,
    problem: String,
}

impl RaisedAlert {
    /// Checks what the schema cannot, and computes what is missing.
    pub fn read(event_id: EventId, traceparent: Option<String>, mut alert: AlertRaised) -> Result<Self, InvalidAlert> {
        let invalid = |field, problem: &str| Err(InvalidAlert { field, problem: problem.to_owned() });
        if alert.source.is_empty() || alert.source.chars().count() > SOURCE_MAX {
            return invalid("source", "the sender's name is needed, with at most 128 characters");
        }
        if alert.labels.is_empty() {
            return invalid("labels", "at least one is needed");
        }
        check_texts("labels", &alert.labels, bounds::LABEL_VALUE_BYTES)?;
        check_texts("annotations", &alert.annotations, bounds::ANNOTATION_VALUE_BYTES)?;
        let fingerprint = match alert.fingerprint.take() {
            Some(given) if given.is_empty() || given.chars().count() > FINGERPRINT_MAX => {
                return invalid("fingerprint", "1 to 64 characters are needed");
            }
            Some(given) => given,
            None => fingerprint_of(&alert.labels),
        };
        let traceparent = traceparent.filter(|text| text.len() <= 128);
        let alert_id =
            alert.alert_id.take().unwrap_or_else(|| AlertId::new(&alert.source, &fingerprint, alert.starts_at));
        alert.ends_at = match (alert.status, alert.ends_at) {
            // Go writes its zero time, the year 1, where it means none.
            (AlertStatus::Firing, Some(end)) if end <= alert.starts_at => None,
            (AlertStatus::Resolved, Some(end)) => Some(end.max(alert.starts_at)),
            (AlertStatus::Resolved, None) => Some(alert.accepted_at.max(alert.starts_at)),
            (AlertStatus::Firing, end) => end,
        };
        Ok(Self { event_id, traceparent, alert_id, fingerprint, alert })
    }

    /// When it was accepted. A producer whose clock is ahead does not stretch its alert's life.
    pub(super) fn accepted_at(&self, now: Timestamp) -> Timestamp {
        self.alert.accepted_at.min(now)
    }

    /// When an alert that fires is taken as resolved unless it is repeated: `endsAt` + 5 min where it is given (Prometheus), else
    /// the rule's `expireAfter`.
    pub(super) fn told_expiry(&self, expiry: Expiry, now: Timestamp) -> Timestamp {
        match self.alert.ends_at {
            Some(end) => plus(end, expiry.ends_at_grace),
            None => plus(self.accepted_at(now), expiry.expire_after),
        }
    }

    /// The same for an alert that begins. One that waited in the log is believed for so much longer, because its repetitions wait
    /// there behind it.
    pub(super) fn first_expiry(&self, expiry: Expiry, now: Timestamp) -> Timestamp {
        let told = self.told_expiry(expiry, now);
        let waited = now.duration_since(self.accepted_at(now));
        if waited > WAITED_MIN { plus(told, waited) } else { told }
    }
}

/// The bounds that ingest holds its senders to hold for a foreign producer too (promise 6).
fn check_texts(field: &'static str, texts: &BTreeMap<String, String>, value_bytes: usize) -> Result<(), InvalidAlert> {
    let invalid = |problem| Err(InvalidAlert { field, problem });
    if texts.len() > bounds::LABELS {
        return invalid(format!("{} of them, at most {} are accepted", texts.len(), bounds::LABELS));
    }
    for (name, value) in texts {
        let shown: String = name.chars().take(64).collect();
        if name.is_empty() || name.len() > bounds::NAME_BYTES {
            return invalid(format!("{shown:?}: a name has 1 to {} bytes", bounds::NAME_BYTES));
        }
        if value.len() > value_bytes {
            return invalid(format!(
                "{shown}: the value has {} bytes, at most {value_bytes} are accepted",
                value.len()
            ));
        }
    }
    Ok(())
}

/// How long an alert is believed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry {
    /// Without an end of its own, after it was accepted.
    pub expire_after: SignedDuration,
    /// After its own end.
    pub ends_at_grace: SignedDuration,
}

/// A wait in the log below this is no outage.
const WAITED_MIN: SignedDuration = SignedDuration::from_mins(1);

/// A time moved on, at most to the end of time.
pub(super) fn plus(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_add(by).unwrap_or(if by.is_negative() { Timestamp::MIN } else { Timestamp::MAX })
}

/// One thing that happens to a group.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// An alert that the rule matches.
    Alert(&'a RaisedAlert),
    /// A step took effect.
    Completed(&'a ActionCompleted),
    /// A step did not take effect, or nobody can know.
    Failed(&'a ActionFailed),
    /// An incident's resource changed.
    Updated(&'a IncidentUpdated),
    /// Something may be due.
    Timer,
    /// The rule was changed, suspended, taken up again or deleted.
    RuleChanged,
}
