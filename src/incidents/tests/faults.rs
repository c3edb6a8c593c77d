//! Whatever the API server or the log does at whichever request, the end is the same and everything was told (promises 1 and 5).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;
use tokio::sync::Semaphore;

use super::service::{World, eventually, stop, story};
use crate::{
    api::v1alpha1::IncidentPhase,
    testing::{Fault, Seen},
};

fn without_outbox(mut status: Value) -> Value {
    status.as_object_mut().unwrap().remove("outbox");
    status
}

fn is_complete(world: &World, name: &str) -> bool {
    world.status(name)["history"].as_array().is_some_and(|all| all.len() == 4)
}

async fn reference() -> Value {
    let world = World::new();
    let replica = world.start();
    let (name, events) = story("svc-a");
    world.publish(&events).await;
    eventually("resolved", || is_complete(&world, &name)).await;
    stop(replica).await;
    without_outbox(world.status(&name))
}

#[tokio::test]
async fn a_fault_at_any_write_changes_nothing_in_the_end() {
    let reference = reference().await;
    let faults = [
        Fault::Answer(409),
        Fault::Answer(500),
        Fault::Throttle(0),
        Fault::Refuse,
        Fault::DropAnswer,
        Fault::CommitThenAnswer(504),
    ];
    for (kind, fault) in faults.into_iter().enumerate() {
        for at in 0..5 {
            let world = World::new();
            let (writes, fault) = (AtomicUsize::new(0), fault.clone());
            world.api.on_request(move |seen: &Seen| {
                let hit = seen.is_write() && writes.fetch_add(1, Ordering::SeqCst) == at;
                if hit { fault.clone() } else { Fault::None }
            });
            let replica = world.start();
            let (name, events) = story("svc-a");
            // One after the other, so that there are as many writes as there can be.
            for (i, event) in events.iter().enumerate() {
                world.publish(std::slice::from_ref(event)).await;
                let count = i + 1;
                eventually("the next", || {
                    world.status(&name)["history"].as_array().is_some_and(|all| all.len() == count)
                })
                .await;
            }
            let told = || world.told().values().any(|told| told.phase == IncidentPhase::Resolved);
            eventually("told", told).await;
            assert_eq!(without_outbox(world.status(&name)), reference, "fault {kind} at write {at}");
            assert_eq!(world.told().len(), 4, "fault {kind} at write {at}");
            assert_eq!(world.letters(), [], "fault {kind} at write {at}");
            stop(replica).await;
        }
    }
}

#[tokio::test]
async fn a_replica_that_was_frozen_before_its_write_does_no_harm_when_it_wakes_up() {
    let reference = reference().await;
    let world = World::new();
    let replicas = [world.start(), world.start()];
    let (frozen, gate) = (AtomicUsize::new(0), Arc::new(Semaphore::new(0)));
    let hold = Arc::clone(&gate);
    world.api.on_request(move |seen: &Seen| {
        let first = seen.method == http::Method::PUT && frozen.fetch_add(1, Ordering::SeqCst) == 0;
        if first { Fault::Hold(Arc::clone(&hold)) } else { Fault::None }
    });
    let (name, mut events) = story("svc-a");
    // Keys of both partitions, until each replica has had all of them.
    for round in 0..8 {
        events.iter_mut().enumerate().for_each(|(i, event)| event.key = format!("{round}/{i}"));
        world.publish(&events).await;
    }
    eventually("the other replica writes", || is_complete(&world, &name)).await;
    gate.add_permits(1);
    for replica in replicas {
        stop(replica).await;
    }
    assert_eq!(without_outbox(world.status(&name)), reference);
    assert_eq!(world.letters(), []);
}

#[tokio::test]
async fn a_log_that_is_away_delays_what_is_told_and_loses_nothing() {
    let world = World::new();
    let replica = world.start();
    let (name, events) = story("svc-a");
    world.publish(&events[..1]).await;
    eventually("told", || world.told().len() == 1).await;
    let mut incident = world.api.get(super::service::INCIDENTS, "shop", &name).unwrap();
    world.bus.set_available(false);
    incident["spec"]["resolved"] = true.into();
    incident["spec"]["decidedBy"] = "alice".into();
    incident["metadata"]["generation"] = 2.into();
    world.api.put(super::service::INCIDENTS, incident);
    eventually("written", || world.status(&name)["phase"] == "Resolved").await;
    assert_eq!(world.told().len(), 1);
    world.bus.set_available(true);
    eventually("told", || world.told().len() == 2).await;
    assert_eq!(world.told().values().filter(|told| told.resolved).count(), 1);
    stop(replica).await;
}
