//! Which notifications are deleted: finished ones after their time, and the oldest finished ones of a namespace beyond a count; never
//! one before its deadline, because its request may come again and would be sent again (promises 4 to 6). Pure.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use crate::api::v1alpha1::Notification;

/// How long after its deadline a notification stays at least: the clocks of two replicas need not agree.
const SKEW: SignedDuration = SignedDuration::from_secs(300);

/// Those of `all` to delete now. `count`: the most finished ones of one namespace, so that no tenant's flood evicts another's.
pub fn expired(all: &[Arc<Notification>], ttl: SignedDuration, count: usize, now: Timestamp) -> Vec<Arc<Notification>> {
    let mut by_namespace: BTreeMap<&str, Vec<(Timestamp, &Arc<Notification>)>> = BTreeMap::new();
    for object in all {
        if let Some(at) = object.spec.finished_at.filter(|_| object.spec.phase.is_terminal()) {
            by_namespace
                .entry(object.metadata.namespace.as_deref().unwrap_or_default())
                .or_default()
                .push((at, object));
        }
    }
    let mut expired = Vec::new();
    for mut finished in by_namespace.into_values() {
        finished.sort_by(|(a, left), (b, right)| b.cmp(a).then_with(|| left.metadata.name.cmp(&right.metadata.name)));
        for (rank, (at, object)) in finished.into_iter().enumerate() {
            let too_many_or_old = rank >= count || now.duration_since(at) >= ttl;
            if too_many_or_old && now.duration_since(object.spec.deadline) >= SKEW {
                expired.push(Arc::clone(object));
            }
        }
    }
    expired
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::v1alpha1::NotificationPhase,
        notify::testing::{at, object},
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
            let expired = expired(&all, ttl, count, now);
            expired.iter().map(|object| object.metadata.name.clone().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(names(10), ["old"]);
        assert_eq!(names(1), ["new", "old"]);
        assert_eq!(names(0), ["alone", "newest", "new", "old"]);
    }
}
