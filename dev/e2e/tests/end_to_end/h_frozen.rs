//! (h) Two replicas, one frozen between its writes and woken after the other has taken over.

use std::time::Duration;

use eventpulse_e2e::{START, Shop, effects::effects_by_action};
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    eventpulse::EventPulse,
    proxy::{Call, Fault, Proxy, Rule, When, Write},
};
use jiff::Timestamp;
use serde_json::Value;

/// Where a replica freezes: with this request under way, before it reached the API server or before its answer came back.
struct Point {
    step: &'static str,
    before: Before,
    when: When,
    fault: Fault,
}

/// What happened before, so that the step is taken at all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Nothing: the action succeeds at once.
    Nothing,
    /// The first patch was refused with 503: the action plans again.
    OneRefused,
    /// Every scaling is refused with 503: the action is given up, and the restart that follows resolves the incident.
    AllRefused,
}

impl Before {
    /// How many patches of replicas are refused.
    fn limit(self) -> usize {
        match self {
            Before::Nothing => 0,
            Before::OneRefused => 1,
            Before::AllRefused => usize::MAX,
        }
    }
}

/// What must be there in the end, all points so far together.
#[derive(Clone, Copy, Default)]
struct Expected {
    incidents: usize,
    failed_actions: usize,
}

fn post(plural: &str) -> When {
    When::any().method("POST").is({
        let end = format!("/{plural}");
        move |call| call.path.ends_with(&end)
    })
}

fn put(part: &str) -> When {
    When::any().method("PUT").path_contains(part)
}

/// A write that says that all has been published: its outbox is empty, and there was one.
fn clears_the_outbox(call: &Call) -> bool {
    let outbox = |part: &str| call.body[part]["outbox"].as_array().is_none_or(Vec::is_empty);
    outbox("spec") && outbox("status")
}

fn has_an_end(call: &Call) -> bool {
    !call.body["status"]["finishedAt"].is_null()
}

/// A write of an Action's status with this phase.
fn action_is(phase: &'static str) -> When {
    put("/actions/").path_ends("/status").is(move |call| call.body["status"]["phase"] == phase)
}

/// A plan that was made after the one of the claim.
fn records_a_later_plan(call: &Call) -> bool {
    call.body["status"]["plans"].as_array().is_some_and(|plans| plans.len() > 1)
}

/// A patch that writes the ring, and changes nothing else.
fn is_fence(call: &Call) -> bool {
    call.patches("/metadata/annotations/eventpulse.io~1applied-actions") && !call.patches("/spec")
}

/// Each step of the action protocol, and the three of rules: write, publish, clear. The release of the claim is at the end of the
/// test, because it needs the end of the namespace.
fn points() -> Vec<Point> {
    let mut points = Vec::new();
    let mut both = |step, before, when: When| {
        points.push(Point { step, before, when: when.clone(), fault: Fault::Hold });
        points.push(Point { step, before, when, fault: Fault::HoldAnswer });
    };
    let (nothing, one, all) = (Before::Nothing, Before::OneRefused, Before::AllRefused);
    both("rules: the group is created with what it has to say", nothing, post("alertgroups"));
    both(
        "rules: the result of the action is written",
        nothing,
        // With it the episode ends; what was acknowledged by then may leave with the same write.
        put("/alertgroups/").is(|call| call.body["spec"]["episode"].is_null()),
    );
    both("rules: the group's outbox is cleared", nothing, put("/alertgroups/").is(clears_the_outbox));
    both("actions: the claim is created", nothing, post("actions"));
    both("actions: the patch is sent", nothing, When::patch_of_replicas());
    both("actions: a later plan is recorded", one, action_is("Running").is(records_a_later_plan));
    both("actions: it is noted that the action is given up", all, action_is("Fencing"));
    both("actions: the fence is sent", all, When::patch().is(is_fence));
    both("actions: the failure is written", all, action_is("Failed").is(|call| !clears_the_outbox(call)));
    both("actions: the end is written", nothing, action_is("Completed").is(|call| !clears_the_outbox(call)));
    let ended = put("/actions/").path_ends("/status").is(has_an_end);
    both("actions: the end is noted as published", nothing, ended.is(clears_the_outbox));
    both("incidents: the incident is created", nothing, post("incidents"));
    both("notify: the message is claimed", nothing, post("notifications"));
    points
}

struct Replica {
    name: &'static str,
    proxy: Proxy,
    eventpulse: EventPulse,
}

async fn replica(shop: &Shop, name: &'static str) -> Replica {
    let (proxy, launcher) = shop.proxied(name).await.unwrap();
    let kafka = shop.environment.kafka().bootstrap();
    // A frozen member is missed after 6 s instead of 10: the least that the broker allows.
    let launcher = launcher.kafka(&kafka, "").arg("--kafka-config=session.timeout.ms=6000");
    let launcher = launcher.arg("--kafka-config=heartbeat.interval.ms=1000");
    Replica { name, proxy, eventpulse: launcher.start(START).await.unwrap() }
}

/// Everything that follows from the alerts has happened, and nothing of it is still to be said.
fn is_over(shop: &Shop, expected: Expected) -> Option<()> {
    let Expected { incidents, failed_actions } = expected;
    let quiet = |kind: &str, part: &str| {
        shop.get(kind).iter().all(|object| object[part]["outbox"].as_array().is_none_or(Vec::is_empty))
    };
    let are = |kind: &str, part: &str, phases: &[(&str, usize)]| {
        let objects = shop.get(kind);
        let count = |phase: &str| objects.iter().filter(|object: &&Value| object[part]["phase"] == phase).count();
        phases.iter().all(|(phase, wanted)| count(phase) == *wanted)
            && objects.len() == phases.iter().map(|(_, wanted)| wanted).sum::<usize>()
    };
    let over = are("incidents", "status", &[("Resolved", incidents)])
        && are("actions", "status", &[("Completed", incidents), ("Failed", failed_actions)])
        && are("notifications", "spec", &[("Delivered", incidents + failed_actions)])
        && quiet("alertgroups", "spec")
        && quiet("actions", "status")
        && quiet("incidents", "status")
        && quiet("notifications", "spec");
    over.then_some(())
}

/// The write that a rule held back, once the API server has answered it.
fn late_write(proxy: &Proxy, rule: &Rule) -> Option<Write> {
    proxy.writes().into_iter().find(|write| write.rule.as_deref() == Some(rule.name()) && write.upstream.is_some())
}

/// A Deployment that is paused cannot be restarted, and a restart is what follows where every scaling is refused.
fn resume(shop: &Shop, target: &str) {
    shop.patch(&format!("deployment/{target}"), r#"{"spec": {"paused": false}}"#).unwrap();
    let plane = shop.environment.plane();
    plane.run_kubectl(&["rollout", "status", "-n", "shop", &format!("deployment/{target}"), "--timeout=60s"]).unwrap();
}

/// One replica freezes at this point, the other takes over and ends the story, the first one wakes up with what it was about.
async fn freeze_at(shop: &Shop, replicas: &[Replica; 2], i: usize, point: &Point, expected: Expected) {
    let label = format!("{i} {} ({:?})", point.step, point.fault);
    let target = format!("t{i}");
    if point.before == Before::AllRefused {
        resume(shop, &target);
    }
    let spoils = replicas.each_ref().map(|replica| {
        let of_it = When::patch_of_replicas().path_ends(&format!("/deployments/{target}"));
        replica.proxy.limited_rule("refused", of_it, Fault::Answer(503), 0, point.before.limit())
    });
    let rules = replicas
        .each_ref()
        .map(|replica| replica.proxy.limited_rule(&label, point.when.clone(), point.fault.clone(), 0, 1));
    let body = webhook(&[Alert::cpu_high(&target, Timestamp::now())]);
    assert!(replicas[i % 2].eventpulse.post("webhooks/alertmanager", &body).await.unwrap().is_success(), "{label}");
    let victim =
        shop.wait_for(&format!("one that is at {label}"), || rules.iter().position(|rule| rule.matched() > 0)).await;
    let (rule, frozen) = (&rules[victim], &replicas[victim]);
    frozen.eventpulse.process().freeze();
    rules[1 - victim].remove();
    if point.before == Before::OneRefused {
        spoils[1 - victim].remove();
    }

    shop.wait_for(&format!("the end of the story by the other replica, after {label}"), || is_over(shop, expected))
        .await;

    rule.release();
    let late = shop.wait_for(&format!("what was held: {label}"), || late_write(&frozen.proxy, rule)).await;
    frozen.eventpulse.process().thaw();
    for replica in replicas {
        replica.eventpulse.wait_ready(START).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    shop.wait_for(&format!("all is quiet again after {label}"), || is_over(shop, expected)).await;
    rule.remove();
    spoils.iter().for_each(Rule::remove);
    println!("  {label}: {} was frozen, the write was answered {}", frozen.name, late.upstream.unwrap_or_default());

    if point.fault == Fault::Hold {
        assert!(late.committed.is_none(), "{label}: what came after the takeover was taken: {late:?}");
    }
    let scaled = i64::from(point.before != Before::AllRefused);
    assert_eq!(shop.replicas(&target), scaled, "{label}");
    assert!(effects_by_action(shop.environment.plane()).len() <= expected.incidents, "{label}");
    shop.assert_no_action_twice();
    let counts = shop.sink.count_by_key();
    shop.assert_further_copies_are_marked();
    let messages = expected.incidents + expected.failed_actions;
    assert_eq!(counts.len(), messages, "{label}: {counts:?}");
}

/// The last step of the protocol: the claims are let go, because their namespace ends. The one that freezes with such a write under
/// way finds nothing to write to when it wakes up, and nothing is held up by it.
async fn freeze_at_the_release(shop: &Shop, replicas: &[Replica; 2]) {
    let effects = effects_by_action(shop.environment.plane()).len();
    let lets_go = put("/actions/").is(|call| {
        !call.path.ends_with("/status") && call.body["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty)
    });
    let label = "actions: the claim is let go";
    let rules =
        replicas.each_ref().map(|replica| replica.proxy.limited_rule(label, lets_go.clone(), Fault::Hold, 0, 1));
    let plane = shop.environment.plane();
    plane.run_kubectl(&["delete", "namespace", "shop", "--wait=false"]).unwrap();
    let victim = shop.wait_for(label, || rules.iter().position(|rule| rule.matched() > 0)).await;
    let (rule, frozen) = (&rules[victim], &replicas[victim]);
    frozen.eventpulse.process().freeze();
    rules[1 - victim].remove();
    shop.wait_for("the end of the namespace by the other replica", || {
        let namespaces = plane.run_kubectl(&["get", "namespaces", "-o", "name"]).ok()?;
        (!namespaces.contains("namespace/shop")).then_some(())
    })
    .await;
    rule.release();
    let late = shop.wait_for("the late release", || late_write(&frozen.proxy, rule)).await;
    frozen.eventpulse.process().thaw();
    replicas[1 - victim].eventpulse.wait_ready(START).await.unwrap();
    frozen.eventpulse.wait_ready(START).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("  {label}: {} was frozen, the write was answered {}", frozen.name, late.upstream.unwrap_or_default());
    assert!(late.committed.is_none(), "{late:?}");
    assert_eq!(effects_by_action(plane).len(), effects);
}

/// (h) At each step: one replica freezes, the other takes over and ends the story, the first one wakes up with what it was about.
#[tokio::test(flavor = "multi_thread")]
async fn h_a_replica_that_is_frozen_between_its_writes_and_wakes_up_later_does_nothing_twice() {
    let shop = Shop::open("e2e-h", true).await.unwrap();
    let points = points();
    shop.add_targets(points.len()).unwrap();
    // No timer of an earlier point may write in a later one.
    shop.patch("rule/cpu-high", r#"{"spec": {"cooldown": "1h"}}"#).unwrap();
    // What is refused on purpose is tried again soon, and is no reason to wait for the next point.
    let patience = r#"{"spec": {"retry": {"limit": 3, "backoff": {"initial": "50ms", "max": "100ms"}},
        "circuitBreaker": {"failureThreshold": 100, "openDuration": "1s"}}}"#;
    shop.patch("runbook/scale-up", patience).unwrap();
    let replicas = [replica(&shop, "a").await, replica(&shop, "b").await];
    println!();
    let mut expected = Expected::default();
    // A number of the list, or several, for whoever looks into one of them.
    let only = std::env::var("EVENTPULSE_POINTS").ok();
    let wanted = |i: usize| only.as_ref().is_none_or(|only| only.split(',').any(|place| place == i.to_string()));
    for (i, point) in points.iter().enumerate().filter(|(i, _)| wanted(*i)) {
        expected.incidents += 1;
        expected.failed_actions += usize::from(point.before == Before::AllRefused);
        freeze_at(&shop, &replicas, i, point, expected).await;
    }
    freeze_at_the_release(&shop, &replicas).await;
    shop.environment.stop().await;
}
