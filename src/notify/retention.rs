//! Which notifications are finished, and until when each stays at least: never one goes before its deadline, because its request may
//! come again and would be sent again (promises 4 to 6). Pure; what is deleted of them is for every kind the same.

use jiff::{SignedDuration, Timestamp};

use crate::api::v1alpha1::Notification;

/// How long after its deadline a notification stays at least: the clocks of two replicas need not agree.
const SKEW: SignedDuration = SignedDuration::from_secs(300);

/// When a notification ended, and until when it stays whatever its age; none for one that is not finished.
pub fn ended(object: &Notification) -> Option<(Timestamp, Timestamp)> {
    let at = object.spec.finished_at.filter(|_| object.spec.phase.is_terminal() && object.spec.outbox.is_empty())?;
    Some((at, object.spec.deadline.checked_add(SKEW).unwrap_or(Timestamp::MAX)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        api::v1alpha1::NotificationPhase,
        notify::testing::{at, object},
        runtime::retention::{Limits, expired, finished as finished_of},
    };

    #[test]
    fn what_is_over_goes_after_its_time_or_beyond_the_count_and_nothing_before_its_deadline() {
        let finished = |name: &str, namespace: &str, finished: &str, deadline: &str| {
            let mut object = object(name, namespace);
            object.spec.phase = NotificationPhase::Delivered;
            object.spec.finished_at = Some(at(finished));
            object.spec.deadline = at(deadline);
            Arc::new(object)
        };
        let mut waiting = object("waiting", "shop");
        waiting.spec.finished_at = None;
        waiting.spec.deadline = at("2026-01-01T01:00:00Z");
        let all = [
            finished("old", "shop", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
            finished("older-but-open", "shop", "2026-01-01T00:00:00Z", "2026-01-09T00:00:00Z"),
            finished("new", "shop", "2026-01-02T11:00:00Z", "2026-01-02T11:00:00Z"),
            finished("newest", "shop", "2026-01-02T11:30:00Z", "2026-01-02T11:00:00Z"),
            finished("alone", "other", "2026-01-02T11:00:00Z", "2026-01-02T11:00:00Z"),
            Arc::new(waiting),
        ];
        let now = at("2026-01-02T12:00:00Z");
        let names = |count| {
            let ttl = SignedDuration::from_hours(24);
            let expired = expired(finished_of(all.to_vec(), ended), Limits { ttl, count }, now);
            expired.iter().map(|(object, _)| object.metadata.name.clone().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(names(10), ["old"]);
        assert_eq!(names(1), ["old", "new"]);
        assert_eq!(names(0), ["old", "alone", "new", "newest"]);
    }
}
