//! Incidents: whatever stands in one, what is said of it is joined to a status that can be written, and every order, repetition and
//! interruption of the same events gives the same one (promise 5).

use arbitrary::Unstructured;
use eventpulse::{
    api::v1alpha1::{
        INCIDENT_ACTIONS_MAX, INCIDENT_ALERTS_MAX, INCIDENT_HISTORY_MAX, Incident, IncidentDecision,
        IncidentDecisionType, IncidentStatus,
    },
    events::{
        ActionId, AlertId, AlertLink, AlertStatus, Event, EventId, IncidentHeader, NamespacedName, Payload,
        ResolvedReason,
    },
    incidents::{
        CONSUMES,
        evolve::{Input, apply, evolve, known, to_status},
        facts::Facts,
        fold::{Change, Circumstances, fold, subject},
        retention,
    },
};
use jiff::{SignedDuration, Timestamp};

use crate::check::{after, example, is_kept, is_published, now, reread};

/// The most events of one history.
const EVENTS_MAX: usize = 40;

fn circumstances() -> Circumstances {
    let create_after = now() - SignedDuration::from_hours(24);
    Circumstances {
        now: now(),
        create_after,
        create_from_message_after: create_after,
        verified_since: Some(now()),
        source: "eventpulse/incidents".into(),
    }
}

pub(crate) fn incident(data: &[u8]) {
    let Ok(incident) = serde_json::from_slice::<Incident>(data) else { return };
    is_kept(&incident);
    let name = NamespacedName {
        namespace: incident.metadata.namespace.clone().unwrap_or_default(),
        name: incident.metadata.name.clone().unwrap_or_default(),
    };
    retention::ended(&incident, retention::grace(SignedDuration::from_hours(1)));
    let events: Vec<Event> = CONSUMES.topics.iter().copied().map(example).collect();
    let mut current = incident;
    for event in [None].into_iter().chain(events.iter().map(Some)) {
        let events: Vec<&Event> = event.into_iter().collect();
        match fold(&name, Some(&current), &events, &circumstances()) {
            Change::Stale => panic!("an incident that is there is created"),
            Change::None => {}
            Change::Write { incident, updated } => {
                is_kept(incident.as_ref());
                assert_eq!(incident.spec, current.spec, "the spec is people's");
                is_status(incident.status.as_ref().expect("a status is written"), incident.spec.opened_at);
                if let Some(updated) = updated {
                    is_published(&updated);
                }
                current = reread(incident.as_ref());
            }
        }
        let again = fold(&name, Some(&current), &events, &circumstances());
        assert_eq!(again, Change::None, "a repetition changes an incident");
    }
}

/// A status within its bounds, which says all that is known.
fn is_status(status: &IncidentStatus, opened_at: Timestamp) {
    assert!(status.alerts.len() <= INCIDENT_ALERTS_MAX, "{} alerts", status.alerts.len());
    assert!(status.actions.len() <= INCIDENT_ACTIONS_MAX, "{} actions", status.actions.len());
    assert!(status.history.len() <= INCIDENT_HISTORY_MAX, "{} entries", status.history.len());
    let entries = || status.history.iter().map(|entry| serde_json::to_string(entry).expect("JSON").len());
    assert!(entries().all(|bytes| bytes <= 900) && entries().sum::<usize>() <= 12 * 1024, "a history too large");
    assert!(status.decisions.len() <= 2 && status.conditions.len() == 3, "{status:?}");
    assert_eq!(to_status(known(status), opened_at, Some(status)), *status, "read and written it is another one");
}

pub(crate) fn incident_history(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    let Ok((events, order, sizes, decides)) = history(&mut bytes) else { return };
    let straight = one_by_one(&events);
    let shuffled: Vec<&Event> = order.iter().map(|index| &events[*index]).collect();
    assert_eq!(one_by_one(shuffled.iter().copied()), straight, "another order, another end");
    let reloaded = shuffled.iter().fold(None, |status: Option<IncidentStatus>, event| {
        Some(evolve(status.as_ref().map(reread).as_ref(), opened_at(), &Input::Event(event)))
    });
    assert_eq!(reloaded, straight, "interrupted it comes to another end");
    let mut status = folded(&shuffled, &sizes);
    status.observed_generation = None;
    status.conditions.iter_mut().for_each(|condition| condition.observed_generation = None);
    assert_eq!(Some(status), straight, "together they come to another end");
    decisions_join(&events, decides);
    let half = events.len() / 2;
    let (a, b) = (facts(&events[..half]), facts(&events[half..]));
    let joined = |a: &Facts, b: &Facts| {
        let mut facts = a.clone();
        facts.join(b.clone());
        facts
    };
    assert_eq!(joined(&a, &a), a, "the join is not idempotent");
    assert_eq!(joined(&a, &b), joined(&b, &a), "the join is not commutative");
    if let Some(status) = &straight {
        is_status(status, opened_at());
    }
}

fn opened_at() -> Timestamp {
    after(-3600)
}

fn facts(events: &[Event]) -> Facts {
    let mut facts = Facts::default();
    events.iter().for_each(|event| apply(&mut facts, &Input::Event(event)));
    facts
}

fn one_by_one<'a>(events: impl IntoIterator<Item = &'a Event>) -> Option<IncidentStatus> {
    events.into_iter().fold(None, |status: Option<IncidentStatus>, event| {
        Some(evolve(status.as_ref(), opened_at(), &Input::Event(event)))
    })
}

/// What a replica makes of batches, with what the API server keeps between them.
fn folded(events: &[&Event], sizes: &[usize]) -> IncidentStatus {
    let name = subject(events[0], now()).expect("an incident's name");
    let (mut current, mut rest) = (None::<Incident>, events);
    for size in sizes.iter().copied().chain(std::iter::repeat(EVENTS_MAX)) {
        let (batch, more) = rest.split_at(size.clamp(1, rest.len().max(1)).min(rest.len()));
        if let Change::Write { incident, .. } = fold(&name, current.as_ref(), batch, &circumstances()) {
            current = Some(reread(incident.as_ref()));
        }
        rest = more;
        if rest.is_empty() {
            break;
        }
    }
    current.and_then(|incident| incident.status).expect("a status is written")
}

/// A person's decision is one more input, whenever it comes.
fn decisions_join(events: &[Event], after_events: usize) {
    let decision = IncidentDecision {
        r#type: IncidentDecisionType::Resolved,
        time: after(-5),
        by: "alice".into(),
        verified: true,
    };
    let with_decision = |at: usize| {
        let mut facts = facts(&events[..at]);
        apply(&mut facts, &Input::Decision { decision: &decision, id: "decided" });
        events[at..].iter().for_each(|event| apply(&mut facts, &Input::Event(event)));
        to_status(facts, opened_at(), None)
    };
    assert_eq!(
        with_decision(0),
        with_decision(after_events.min(events.len())),
        "a decision that comes late is another one"
    );
}

type History = (Vec<Event>, Vec<usize>, Vec<usize>, usize);

/// Events, an order in which each comes at least once, sizes of batches, and after how many events a person decides.
fn history(bytes: &mut Unstructured<'_>) -> arbitrary::Result<History> {
    let count = bytes.int_in_range(1..=EVENTS_MAX)?;
    let events = (0..count).map(|index| some_event(bytes, index)).collect::<arbitrary::Result<Vec<_>>>()?;
    let mut order: Vec<usize> = (0..count).collect();
    for _ in 0..bytes.int_in_range(0..=count / 2)? {
        order.push(bytes.choose_index(count)?);
    }
    for index in (1..order.len()).rev() {
        order.swap(index, bytes.choose_index(index + 1)?);
    }
    let sizes = (0..bytes.int_in_range(0..=8)?).map(|_| bytes.int_in_range(1..=6)).collect::<arbitrary::Result<_>>()?;
    Ok((events, order, sizes, bytes.choose_index(count + 1)?))
}

/// One of the examples, with other times, texts, steps and alerts.
fn some_event(bytes: &mut Unstructured<'_>, index: usize) -> arbitrary::Result<Event> {
    let topic = *bytes.choose(CONSUMES.topics)?;
    let mut event = example(topic);
    event.id = EventId::new(topic.name(), "x", &index.to_string());
    event.time = some_time(bytes)?;
    let (text, number) = (some_text(bytes)?, bytes.int_in_range(0..=5_u32)?);
    match &mut event.payload {
        Payload::IncidentOpened(data) => {
            data.target.iter_mut().for_each(|target| target.name.clone_from(&text));
        }
        Payload::IncidentResolved(data) => {
            let reasons = [ResolvedReason::AlertsResolved, ResolvedReason::AlertsExpired, ResolvedReason::StormOver];
            data.reason = *bytes.choose(&reasons)?;
        }
        Payload::ActionRequested(data) => {
            (data.step, data.step_index, data.runbook) = (format!("step-{number}"), number, text);
            (data.attempt, data.decided_at) = (bytes.int_in_range(1..=3)?, some_time(bytes)?);
            data.action_id = ActionId::new("shop", &data.incident.incident_id, &data.step, data.attempt);
        }
        Payload::ActionCompleted(data) => {
            (data.step, data.step_index, data.what) = (format!("step-{number}"), number, text);
            (data.attempt, data.resolves) = (bytes.int_in_range(1..=3)?, bytes.arbitrary()?);
        }
        Payload::ActionFailed(data) => {
            (data.step, data.step_index, data.message) = (format!("step-{number}"), number, text);
            (data.attempt, data.ends_ladder) = (bytes.int_in_range(1..=3)?, bytes.arbitrary()?);
        }
        Payload::NotificationDelivered(data) => {
            (data.channel, data.tries, data.delivered_at) = (text, number, some_time(bytes)?);
        }
        Payload::NotificationFailed(data) => (data.message, data.tries) = (text, number),
        _ => {}
    }
    with_header(&mut event, |header| {
        header.opened_at = opened_at();
        header.alert_count = bytes.int_in_range(0..=30)?;
        header.alerts = (0..bytes.int_in_range(0..=4)?).map(|_| some_alert(bytes)).collect::<arbitrary::Result<_>>()?;
        Ok(())
    })?;
    Ok(event)
}

fn with_header<T>(event: &mut Event, change: impl FnOnce(&mut IncidentHeader) -> T) -> T {
    match &mut event.payload {
        Payload::IncidentOpened(data) => change(&mut data.incident),
        Payload::IncidentResolved(data) => change(&mut data.incident),
        Payload::ActionRequested(data) => change(&mut data.incident),
        Payload::ActionCompleted(data) => change(&mut data.incident),
        Payload::ActionFailed(data) => change(&mut data.incident),
        Payload::NotificationDelivered(data) => change(&mut data.incident),
        Payload::NotificationFailed(data) => change(&mut data.incident),
        other => panic!("{other:?} is not for incidents"),
    }
}

/// One of forty alerts; of each different beginnings are told.
fn some_alert(bytes: &mut Unstructured<'_>) -> arbitrary::Result<AlertLink> {
    let number = bytes.int_in_range(0..=39_i64)?;
    let (fingerprint, starts_at) = (format!("{number:016x}"), after(-3600 - number));
    Ok(AlertLink {
        alert_id: AlertId::new("prom", &fingerprint, starts_at),
        fingerprint,
        starts_at: starts_at - SignedDuration::from_secs(bytes.int_in_range(0..=2)?),
        status: if bytes.arbitrary()? { AlertStatus::Firing } else { AlertStatus::Resolved },
    })
}

fn some_time(bytes: &mut Unstructured<'_>) -> arbitrary::Result<Timestamp> {
    Ok(match bytes.int_in_range(0..=40_u8)? {
        0 => Timestamp::MIN,
        1 => after(24 * 3600),
        seconds => after(-i64::from(seconds)) + SignedDuration::from_millis(bytes.int_in_range(0..=3)?),
    })
}

fn some_text(bytes: &mut Unstructured<'_>) -> arbitrary::Result<String> {
    Ok(match bytes.int_in_range(0..=9_u8)? {
        0 => "\"\\\n\u{0}ü".repeat(bytes.int_in_range(1..=400)?),
        1 => String::from_utf8_lossy(bytes.bytes(bytes.len().min(24))?).into_owned(),
        number => ["a", "b", "svc-a", "svc-b"][usize::from(number) % 4].to_owned(),
    })
}
