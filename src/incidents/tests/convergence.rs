//! Every order, repetition and interruption of the same events gives the same status (promise 5).

use proptest::{collection::vec, prelude::*};

use super::make::{after, name, opened_at, some_events};
use crate::{
    api::v1alpha1::{Incident, IncidentDecision, IncidentDecisionType, IncidentStatus},
    events::Event,
    incidents::{
        evolve::{Input, apply, evolve, known, to_status},
        facts::Facts,
        fold::{Change, Circumstances, fold},
        said::said,
    },
};

fn circumstances() -> Circumstances {
    Circumstances {
        now: after(3_600_000),
        create_after: after(-3_600_000),
        create_from_message_after: after(-3_600_000),
        verified_since: None,
        source: "eventpulse/incidents".into(),
    }
}

fn one_by_one<'a>(events: impl IntoIterator<Item = &'a Event>) -> Option<IncidentStatus> {
    events.into_iter().fold(None, |status, event| Some(evolve(status.as_ref(), opened_at(), &Input::Event(event))))
}

/// Through the JSON that the API server keeps, as after a crash.
fn reload<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

/// What a replica does with batches of events, with a reload after each write. `decide` says after which batch a person decides.
fn in_batches(batches: &[Vec<&Event>], decide: Option<usize>) -> Option<Incident> {
    let mut current: Option<Incident> = None;
    for (i, batch) in batches.iter().enumerate() {
        if let Change::Write { incident, .. } = fold(&name(), current.as_ref(), batch, &circumstances()) {
            current = Some(reload(incident.as_ref()));
        }
        if decide == Some(i)
            && let Some(incident) = &mut current
        {
            incident.spec.acknowledged = true;
            incident.spec.resolved = true;
            incident.spec.decided_by = Some("alice".into());
            incident.metadata.generation = Some(2);
        }
    }
    // What a last look at the spec finds.
    if let Change::Write { incident, .. } = fold(&name(), current.as_ref(), &[], &circumstances()) {
        current = Some(reload(incident.as_ref()));
    }
    current
}

fn facts(events: &[Event]) -> Facts {
    let mut facts = Facts::default();
    events.iter().for_each(|event| apply(&mut facts, &Input::Event(event)));
    facts
}

fn joined(a: &Facts, b: &Facts) -> Facts {
    let mut facts = a.clone();
    facts.join(b.clone());
    facts
}

/// The events with some of them repeated, in another order, cut into batches.
fn replayed() -> impl Strategy<Value = (Vec<Event>, Vec<usize>, Vec<usize>)> {
    some_events(1..60).prop_flat_map(|events| {
        let count = events.len();
        let all: Vec<usize> = (0..count).collect();
        let order = vec(0..count, 0..count).prop_map(move |again| [all.clone(), again].concat()).prop_shuffle();
        (Just(events), order, vec(1_usize..6, 130))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_order_repetition_and_interruption_gives_the_same_status((events, order, sizes) in replayed()) {
        let straight = one_by_one(&events);
        let shuffled: Vec<&Event> = order.iter().map(|i| &events[*i]).collect();
        prop_assert_eq!(&one_by_one(shuffled.iter().copied()), &straight);

        let with_crashes = shuffled.iter().fold(None, |status: Option<IncidentStatus>, event| {
            Some(evolve(status.as_ref().map(reload).as_ref(), opened_at(), &Input::Event(event)))
        });
        prop_assert_eq!(&with_crashes, &straight);

        let mut rest = shuffled.as_slice();
        let batches: Vec<Vec<&Event>> = sizes.iter().map_while(|size| {
            let (batch, more) = rest.split_at((*size).min(rest.len()));
            rest = more;
            (!batch.is_empty()).then(|| batch.to_vec())
        }).collect();
        let status = |incident: Option<Incident>| {
            let mut status = incident.unwrap().status.unwrap();
            status.observed_generation = None;
            status.conditions.iter_mut().for_each(|condition| condition.observed_generation = None);
            status
        };
        let folded = status(in_batches(&batches, None));
        prop_assert_eq!(&Some(folded), &straight);

        // A person's decision is one more input, whenever it comes.
        let early = status(in_batches(&batches, Some(0)));
        let late = status(in_batches(&batches, Some(batches.len() - 1)));
        prop_assert_eq!(early, late);
    }

    #[test]
    fn the_join_is_idempotent_commutative_and_associative(
        a in some_events(0..25), b in some_events(0..25), c in some_events(0..25)
    ) {
        let (a, b, c) = (facts(&a), facts(&b), facts(&c));
        prop_assert_eq!(&joined(&a, &a), &a);
        prop_assert_eq!(&joined(&a, &b), &joined(&b, &a));
        prop_assert_eq!(joined(&joined(&a, &b), &c), joined(&a, &joined(&b, &c)));
    }

    #[test]
    fn a_repeated_event_changes_nothing_and_says_nothing(events in some_events(1..40)) {
        let batch: Vec<&Event> = events.iter().collect();
        let Change::Write { incident, updated: Some(_) } = fold(&name(), None, &batch, &circumstances()) else {
            panic!("the first fold writes and tells");
        };
        let incident = reload(incident.as_ref());
        for event in &events {
            prop_assert_eq!(fold(&name(), Some(&incident), &[event], &circumstances()), Change::None);
        }
    }

    #[test]
    fn a_status_that_was_written_reads_as_what_was_known(events in some_events(0..60)) {
        let status = to_status(facts(&events), opened_at(), None);
        prop_assert_eq!(to_status(known(&reload(&status)), opened_at(), None), status);
    }

    #[test]
    fn what_is_not_for_incidents_says_nothing(events in some_events(1..40)) {
        for event in &events {
            let followed = event.topic() != crate::events::Topic::IncidentUpdated;
            prop_assert_eq!(said(event).is_some(), followed);
        }
    }
}

#[test]
fn a_decision_is_one_input_whichever_replica_saw_it_first() {
    let decision = |time, by: &str| IncidentDecision {
        r#type: IncidentDecisionType::Resolved,
        time,
        by: by.into(),
        verified: true,
    };
    let (a, b) = (decision(after(5), "alice"), decision(after(9), "alice"));
    let status = |order: [&IncidentDecision; 2]| {
        let mut facts = Facts::default();
        for decision in order {
            apply(&mut facts, &Input::Decision { decision, id: "id" });
        }
        to_status(facts, opened_at(), None)
    };
    assert_eq!(status([&a, &b]), status([&b, &a]));
    assert_eq!(status([&a, &b]).resolved_at, Some(after(5)));
}
