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
    pub fn read(
        event_id: EventId,
        traceparent: Option<String>,
        mut alert: AlertRaised,
        now: Timestamp,
    ) -> Result<Self, InvalidAlert> {
        let invalid = |field, problem: &str| Err(InvalidAlert { field, problem: problem.to_owned() });
        if alert.source.is_empty() || alert.source.chars().count() > SOURCE_MAX {
            return invalid("source", "the sender's name is needed, with at most 128 characters");
        }
        if alert.labels.is_empty() {
            return invalid("labels", "at least one is needed");
        }
        check_texts("labels", &alert.labels, bounds::LABEL_VALUE_BYTES)?;
        check_texts("annotations", &alert.annotations, bounds::ANNOTATION_VALUE_BYTES)?;
        let texts = alert.labels.iter().chain(&alert.annotations);
        let size: usize = texts.map(|(name, value)| name.len() + value.len()).sum();
        if size > bounds::ALERT_BYTES {
            let problem = format!("{size} bytes in all, at most {} are accepted", bounds::ALERT_BYTES);
            return invalid("labels and annotations", &problem);
        }
        for (field, time, from) in
            [("acceptedAt", alert.accepted_at, now), ("startsAt", alert.starts_at, alert.accepted_at)]
        {
            if time.duration_since(from) > bounds::AHEAD {
                return invalid(field, &format!("{time} lies in the future"));
            }
        }
        let fingerprint = match alert.fingerprint.take() {
            Some(given) if given.is_empty() || given.chars().count() > FINGERPRINT_MAX => {
                return invalid("fingerprint", "1 to 64 characters are needed");
            }
            Some(given) => given,
            None => fingerprint_of(&alert.labels),
        };
        let traceparent = traceparent.filter(|text| text.len() <= 128);
        let alert_id = AlertId::new(&alert.source, &fingerprint, alert.starts_at);
        // Incidents are named after it: one that stays the same would make every episode the same incident.
        if alert.alert_id.take().is_some_and(|given| given != alert_id) {
            return invalid("alertID", "is not the one of source, fingerprint and startsAt; it may be left out");
        }
        alert.ends_at = match (alert.status, alert.ends_at) {
            // Go writes its zero time, the year 1, where it means none.
            (AlertStatus::Firing, Some(end)) if end <= alert.starts_at => None,
            (AlertStatus::Firing, end) => end.map(|end| end.min(plus(alert.accepted_at, bounds::ENDS_AHEAD))),
            // It is over, so it ended at the latest when that was accepted, whatever the sender's clock says. A later end would make
            // everything that begins until then a repetition.
            (AlertStatus::Resolved, end) => {
                Some(end.unwrap_or(alert.accepted_at).min(alert.accepted_at).max(alert.starts_at))
            }
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
    /// An alert that the rule does not match any more, because it was edited, broken or deleted, for the group that remembers it:
    /// it goes on and ends there, and begins nothing.
    Remembered(&'a RaisedAlert),
    /// A step took effect.
    Completed(&'a ActionCompleted),
    /// A step did not take effect, or nobody can know.
    Failed(&'a ActionFailed),
    /// An incident's resource changed.
    Updated(&'a IncidentUpdated),
    /// Something may be due.
    Timer,
    /// The rule was changed, suspended, taken up again or deleted, or its storm has room.
    RuleChanged,
    /// So many groups of the rule are open that no further one opens. For the storm's own group.
    StormBegins {
        /// How many that are.
        threshold: usize,
    },
    /// They are fewer again. For the storm's own group.
    StormEnds,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T12:00:00Z";

    fn alert(status: AlertStatus, starts_at: &str, ends_at: Option<&str>) -> AlertRaised {
        AlertRaised {
            alert_id: None,
            source: "theirs".into(),
            fingerprint: None,
            status,
            labels: BTreeMap::from([("service".to_owned(), "svc-a".to_owned())]),
            annotations: BTreeMap::new(),
            starts_at: starts_at.parse().unwrap(),
            ends_at: ends_at.map(|at| at.parse().unwrap()),
            generator_url: None,
            accepted_at: NOW.parse().unwrap(),
        }
    }

    fn read(alert: AlertRaised) -> Result<RaisedAlert, String> {
        let id = EventId::new("alert.raised", "x", "");
        RaisedAlert::read(id, None, alert, NOW.parse().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_clock_a_little_ahead_is_believed_and_another_century_is_not() {
        let firing = |starts_at| read(alert(AlertStatus::Firing, starts_at, None));
        let ahead = firing("2026-01-01T12:59:00Z").unwrap();
        let said = AlertId::new("theirs", &ahead.fingerprint, ahead.alert.starts_at);
        assert_eq!((ahead.alert.starts_at.to_string().as_str(), ahead.alert_id), ("2026-01-01T12:59:00Z", said));
        assert_eq!(firing("2099-01-01T00:00:00Z").unwrap_err(), "startsAt: 2099-01-01T00:00:00Z lies in the future");
        let mut accepted = alert(AlertStatus::Firing, "2099-01-01T00:00:00Z", None);
        accepted.accepted_at = accepted.starts_at;
        assert_eq!(read(accepted).unwrap_err(), "acceptedAt: 2099-01-01T00:00:00Z lies in the future");
    }

    #[test]
    fn what_is_resolved_ended_at_the_latest_when_it_was_accepted() {
        for (starts_at, ends_at, ended_at) in [
            ("2026-01-01T11:00:00Z", Some("9999-12-30T00:00:00Z"), NOW),
            ("2026-01-01T11:00:00Z", Some("2026-01-01T11:30:00Z"), "2026-01-01T11:30:00Z"),
            ("2026-01-01T11:00:00Z", None, NOW),
            ("2026-01-01T12:00:10Z", Some("2026-01-01T12:00:20Z"), "2026-01-01T12:00:10Z"),
        ] {
            let read = read(alert(AlertStatus::Resolved, starts_at, ends_at)).unwrap();
            assert_eq!(read.alert.ends_at.unwrap().to_string(), ended_at, "{starts_at} {ends_at:?}");
        }
    }

    #[test]
    fn no_alert_gives_itself_an_end_that_never_comes() {
        let ends_at = |ends_at| {
            let read = read(alert(AlertStatus::Firing, "2026-01-01T11:00:00Z", Some(ends_at))).unwrap();
            read.alert.ends_at.map(|at| at.to_string())
        };
        assert_eq!(ends_at("2026-01-01T12:04:00Z").as_deref(), Some("2026-01-01T12:04:00Z"));
        assert_eq!(ends_at("9999-12-30T00:00:00Z").as_deref(), Some("2026-01-31T12:00:00Z"));
    }

    #[test]
    fn a_foreign_id_counts_only_where_it_is_the_right_one() {
        let mut named = alert(AlertStatus::Firing, NOW, None);
        let right = read(named.clone()).unwrap().alert_id;
        named.alert_id = Some(right.clone());
        assert_eq!(read(named.clone()).unwrap().alert_id, right);
        // A constant one would name the next episode's incident like this one's.
        named.starts_at = "2026-01-01T11:00:00Z".parse().unwrap();
        assert!(read(named).unwrap_err().starts_with("alertID: is not the one of source, fingerprint and startsAt"));
    }

    #[test]
    fn a_foreign_alert_is_bounded_as_a_whole() {
        let mut large = alert(AlertStatus::Firing, NOW, None);
        large.annotations = (0..9).map(|i| (format!("a{i}"), "x".repeat(bounds::ANNOTATION_VALUE_BYTES))).collect();
        assert!(read(large).unwrap_err().starts_with("labels and annotations: 147"));
        let named = |fingerprint: usize, source: usize| {
            let mut named = alert(AlertStatus::Firing, NOW, None);
            (named.fingerprint, named.source) = (Some("f".repeat(fingerprint)), "s".repeat(source));
            read(named).map(drop)
        };
        assert_eq!(named(FINGERPRINT_MAX, SOURCE_MAX), Ok(()));
        assert!(named(FINGERPRINT_MAX + 1, 1).unwrap_err().starts_with("fingerprint: "));
        assert!(named(1, SOURCE_MAX + 1).unwrap_err().starts_with("source: "));
    }
}
