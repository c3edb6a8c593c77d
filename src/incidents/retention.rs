//! Which incidents are finished, and until when each stays at least (promise 6). Pure; what is deleted of them is for every kind the
//! same.

use jiff::{SignedDuration, Timestamp};

use crate::api::v1alpha1::{Incident, IncidentActionState, IncidentPhase};

/// However many there are, a finished incident is kept so long: messages about it may still be on their way. It is the default deadline
/// of a message and an hour more. Longer would let a flood of short incidents grow far beyond the count.
const GRACE: SignedDuration = SignedDuration::from_hours(2);

/// The same while an action of it has not ended: the longest deadline of an action, and an hour more. Its end, told of an incident that was
/// deleted, would make it anew, and nothing would say again that it is over.
const GRACE_OF_ACTIONS: SignedDuration = SignedDuration::from_hours(25);

/// How long a finished incident is kept at least, where it is kept for `ttl`: a shorter time to live is what was asked for.
pub fn grace(ttl: SignedDuration) -> SignedDuration {
    GRACE.min(ttl)
}

/// When an incident ended that is kept for `ttl`, and until when it stays whatever their number; none for one that is not finished.
pub fn ended(incident: &Incident, ttl: SignedDuration) -> Option<(Timestamp, Timestamp)> {
    let at = finished_at(incident)?;
    let stays = if has_unfinished_actions(incident) { GRACE_OF_ACTIONS.min(ttl) } else { grace(ttl) };
    Some((at, at.checked_add(stays).unwrap_or(Timestamp::MAX)))
}

fn has_unfinished_actions(incident: &Incident) -> bool {
    let unfinished = [IncidentActionState::Requested, IncidentActionState::Running];
    let actions = incident.status.iter().flat_map(|status| &status.actions);
    actions.into_iter().any(|action| unfinished.contains(&action.state))
}

/// When an incident was over. None for one that is not, or that still has something to say.
fn finished_at(incident: &Incident) -> Option<Timestamp> {
    let status = incident.status.as_ref()?;
    if status.phase != IncidentPhase::Resolved || !status.outbox.is_empty() {
        return None;
    }
    // What is told of it afterwards keeps it: its last message, or its last action's end.
    let last = status.history.iter().map(|entry| entry.time).max();
    Some(status.resolved_at.max(last).unwrap_or(incident.spec.opened_at))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        api::v1alpha1::{IncidentAction, IncidentSpec, IncidentStatus, LocalReference, OutboxEntry},
        runtime::{
            retention::{Expired, Limits, expired, finished},
            watch_cache::name_of,
        },
    };

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(hours * 3600).unwrap()
    }

    const LIMITS: Limits = Limits { ttl: SignedDuration::from_hours(48), count: 2 };

    fn incident(namespace: &str, name: &str, phase: IncidentPhase, resolved_at: Option<Timestamp>) -> Arc<Incident> {
        let spec = IncidentSpec {
            rule_ref: LocalReference { name: "r".into() },
            correlation_id: "c".into(),
            severity: String::new(),
            summary: String::new(),
            opened_at: at(0),
            traceparent: None,
            acknowledged: false,
            resolved: false,
            decided_by: None,
        };
        let mut incident = Incident::new(name, spec);
        incident.metadata.namespace = Some(namespace.into());
        incident.status = Some(IncidentStatus { phase, resolved_at, ..IncidentStatus::default() });
        Arc::new(incident)
    }

    fn names(all: &[Arc<Incident>], now: Timestamp) -> Vec<(String, Expired)> {
        let over = finished(all.to_vec(), |incident| ended(incident, SignedDuration::from_hours(1)));
        expired(over, LIMITS, now)
            .iter()
            .map(|(incident, why)| (name_of(incident.as_ref()).to_string(), *why))
            .collect()
    }

    #[test]
    fn nothing_unfinished_is_ever_deleted() {
        let all: Vec<_> = [IncidentPhase::Open, IncidentPhase::Mitigating, IncidentPhase::Failed]
            .into_iter()
            .flat_map(|phase| (0..5).map(move |i| incident("shop", &format!("{phase:?}{i}"), phase, Some(at(0)))))
            .collect();
        assert_eq!(names(&all, at(10_000)), []);
        let mut without_status = Arc::unwrap_or_clone(all[0].clone());
        without_status.status = None;
        assert_eq!(names(&[Arc::new(without_status)], at(10_000)), []);
    }

    #[test]
    fn a_finished_one_goes_after_its_time_and_not_before() {
        let all = [incident("shop", "a", IncidentPhase::Resolved, Some(at(10)))];
        assert_eq!(names(&all, at(57)), []);
        assert_eq!(names(&all, at(58)), [("shop/a".to_owned(), Expired::Ttl)]);
    }

    #[test]
    fn a_time_to_live_that_is_shorter_than_the_grace_is_kept_to() {
        let all = [incident("shop", "a", IncidentPhase::Resolved, Some(at(10)))];
        let gone = |ttl: SignedDuration, now: Timestamp| {
            let over = finished(all.to_vec(), |incident| ended(incident, ttl));
            !expired(over, Limits { ttl, count: 0 }, now).is_empty()
        };
        let after = |minutes| at(10) + SignedDuration::from_mins(minutes);
        let (short, long) = (SignedDuration::from_mins(1), SignedDuration::from_hours(48));
        assert_eq!((gone(short, at(10)), gone(short, after(1))), (false, true));
        assert_eq!(
            (gone(long, after(119)), gone(long, after(120))),
            (false, true),
            "beyond the count, after the grace"
        );
    }

    #[test]
    fn one_whose_action_has_not_ended_outlives_the_actions_deadline() {
        let with = |state| {
            let mut over = Arc::unwrap_or_clone(incident("shop", "a", IncidentPhase::Resolved, Some(at(10))));
            over.status.as_mut().unwrap().actions = vec![IncidentAction {
                step: "scale".into(),
                attempt: 1,
                step_index: 0,
                action_ref: LocalReference { name: "x".into() },
                runbook: None,
                target: "Deployment/svc-a".into(),
                state,
                reason: None,
                requested_at: None,
                finished_at: None,
            }];
            over
        };
        let stays = |state, ttl| ended(&with(state), ttl).unwrap().1.duration_since(at(10));
        let (long, short) = (SignedDuration::from_hours(48), SignedDuration::from_mins(1));
        assert_eq!(stays(IncidentActionState::Requested, long), SignedDuration::from_hours(25));
        assert_eq!(stays(IncidentActionState::Running, long), SignedDuration::from_hours(25));
        assert_eq!(stays(IncidentActionState::Failed, long), SignedDuration::from_hours(2));
        assert_eq!(stays(IncidentActionState::Running, short), short);
    }

    #[test]
    fn beyond_the_count_the_oldest_of_a_namespace_go_after_the_grace() {
        let mut all: Vec<_> =
            (0..4).map(|i| incident("shop", &format!("i{i}"), IncidentPhase::Resolved, Some(at(10 + i)))).collect();
        all.push(incident("other", "x", IncidentPhase::Resolved, Some(at(1))));
        assert_eq!(
            names(&all, at(13)),
            [("shop/i0".to_owned(), Expired::Count), ("shop/i1".to_owned(), Expired::Count)]
        );
        assert_eq!(names(&all, at(11)), [("shop/i0".to_owned(), Expired::Count)]);
    }

    #[test]
    fn one_that_still_has_something_to_say_stays() {
        let mut told = Arc::unwrap_or_clone(incident("shop", "a", IncidentPhase::Resolved, Some(at(0))));
        told.status.as_mut().unwrap().outbox.push(OutboxEntry {
            id: "x".into(),
            topic: "incident.updated".into(),
            key: "k".into(),
            subject: "s".into(),
            time: at(0),
            traceparent: None,
            tracestate: None,
            data: "{}".into(),
        });
        assert_eq!(names(&[Arc::new(told)], at(10_000)), []);
    }
}
