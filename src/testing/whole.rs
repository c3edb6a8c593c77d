//! The services that decide and act, together, on one log in memory and one API server in memory: the seed scenario.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{FakeApi, Fault, TestContext};
use crate::{
    actions,
    bus::{Bus, MemoryBus},
    events::{AlertRaised, AlertStatus, Event, EventId, Topic},
    incidents, rules,
};

const KINDS: &str = "/apis/eventpulse.io/v1alpha1";
pub(super) const DEPLOYMENTS: &str = "/apis/apps/v1/deployments";

struct Whole {
    api: FakeApi,
    bus: MemoryBus,
    services: Vec<TestContext>,
}

impl Whole {
    fn start(api: FakeApi) -> Self {
        let bus = MemoryBus::new(4);
        let context = |name| TestContext::with_api(name, Arc::new(bus.clone()), api.clone());
        let services = vec![context("rules"), context("actions"), context("incidents")];
        let ctx = |index: usize| services[index].ctx.clone();
        services[0].ctx.tasks.spawn("rules", rules::run(ctx(0), rules::RulesConfig::default()));
        services[1].ctx.tasks.spawn("actions", actions::run(ctx(1), actions::ActionsConfig::default()));
        services[2].ctx.tasks.spawn("incidents", incidents::run(ctx(2), incidents::IncidentsConfig::default()));
        Self { api, bus, services }
    }

    async fn raise(&self, status: AlertStatus) {
        self.bus.publish(vec![alert("svc-a", status).encode().unwrap()]).await.unwrap();
    }

    async fn phase(&self, phase: &str) -> Value {
        for _ in 0..2000 {
            let incidents = self.api.all(&format!("{KINDS}/incidents"));
            assert!(incidents.len() <= 1, "more than one incident");
            if let Some(incident) = incidents.into_iter().find(|incident| incident["status"]["phase"] == phase) {
                return incident;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!(
            "no incident is {phase}: {:#?}\n{:#?}",
            self.api.all(&format!("{KINDS}/incidents")),
            self.services.iter().map(|service| service.health.report()).collect::<Vec<_>>()
        );
    }

    fn replicas(&self) -> Value {
        self.api.get(DEPLOYMENTS, "shop", "svc-a").unwrap()["spec"]["replicas"].clone()
    }

    async fn stop(mut self) {
        for service in &mut self.services {
            service.ctx.shutdown.cancel();
            tokio::time::timeout(Duration::from_secs(20), service.ctx.tasks.finished()).await.expect("it stops");
            assert_eq!(service.failures.try_recv().ok(), None, "a task failed");
        }
    }
}

/// An alert of a service.
fn alert(service: &str, status: AlertStatus) -> Event {
    let labels = [("alertname", "CPUHigh"), ("severity", "warning"), ("service", service)];
    let time = |text: &str| text.parse().unwrap();
    let alert = AlertRaised {
        alert_id: None,
        source: "prom".into(),
        fingerprint: None,
        status,
        labels: labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        annotations: [("summary".to_owned(), "CPU of svc-a".to_owned())].into(),
        starts_at: time("2026-01-01T11:59:00Z"),
        ends_at: (status == AlertStatus::Resolved).then(|| time("2026-01-01T12:00:00Z")),
        generator_url: None,
        accepted_at: time("2026-01-01T12:00:00Z"),
    };
    Event {
        id: EventId::new("alert.raised", service, &format!("{status:?}")),
        time: time("2026-01-01T12:00:00Z"),
        source: "test".into(),
        subject: "x".into(),
        key: service.into(),
        traceparent: None,
        payload: alert.into(),
    }
}

pub(super) fn scenario() -> FakeApi {
    let api = FakeApi::new();
    let meta = |name: &str| json!({"name": name, "namespace": "shop"});
    let kind = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": kind, "metadata": meta(name), "spec": spec});
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "$(alert.labels.service)"});
    api.put(
        &format!("{KINDS}/rules"),
        kind(
            "Rule",
            "cpu-high",
            json!({
                "match": {"matchers": ["alertname=\"CPUHigh\""]},
                "groupBy": ["service"],
                "actions": [
                    {"name": "add-replica", "runbookRef": {"name": "scale-up"}, "targetRef": target,
                     "parameters": [{"name": "delta", "value": "1"}]},
                    {"name": "restart", "runbookRef": {"name": "restart"}, "targetRef": target}
                ],
                "notifications": [{"channelRef": {"name": "ops"}, "template": "IncidentOpened", "events": ["Opened"]}]
            }),
        ),
    );
    let fast = json!({"limit": 1, "backoff": {"initial": "1ms", "max": "2ms"}});
    api.put(
        &format!("{KINDS}/runbooks"),
        kind(
            "Runbook",
            "scale-up",
            json!({
                "serviceAccountName": "remediator", "retry": fast,
                "parameters": [{"name": "delta", "type": "Integer", "default": "1", "minimum": 1, "maximum": 5}],
                "steps": [{"name": "scale", "type": "Scale", "scale": {"delta": "$(params.delta)", "maxReplicas": 10}}]
            }),
        ),
    );
    api.put(
        &format!("{KINDS}/runbooks"),
        kind(
            "Runbook",
            "restart",
            json!({
                "serviceAccountName": "remediator", "retry": fast,
                "steps": [{"name": "restart", "type": "Restart", "restart": {}}]
            }),
        ),
    );
    api.put(
        DEPLOYMENTS,
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "svc-a", "namespace": "shop", "generation": 1},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}}},
        "status": {"observedGeneration": 1}}),
    );
    api
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_scales_its_deployment_once_and_the_incident_is_resolved() {
    let whole = Whole::start(scenario());
    for _ in 0..5 {
        whole.raise(AlertStatus::Firing).await;
    }
    let incident = whole.phase("Resolved").await;
    assert_eq!(whole.replicas(), 4);
    assert_eq!(incident["status"]["actions"][0]["state"], "Completed");
    assert_eq!(whole.bus.records(Topic::NotificationRequested).len(), 1);
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_is_followed_by_the_next_one() {
    let api = scenario();
    api.on_request(|seen| {
        let scales = seen.method == "PATCH" && seen.body.to_string().contains("/spec/replicas");
        if scales { Fault::Answer(403) } else { Fault::None }
    });
    let whole = Whole::start(api);
    whole.raise(AlertStatus::Firing).await;
    let incident = whole.phase("Resolved").await;
    assert_eq!(whole.replicas(), 3);
    let states: Vec<&Value> = incident["status"]["actions"].as_array().unwrap().iter().map(|a| &a["state"]).collect();
    assert_eq!(states, ["Failed", "Completed"]);
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ladder_at_its_end_is_a_failed_incident_until_the_alert_ends() {
    let api = scenario();
    api.on_request(|seen| {
        if seen.method == "PATCH" && seen.path.contains("/deployments/") { Fault::Answer(403) } else { Fault::None }
    });
    let whole = Whole::start(api);
    whole.raise(AlertStatus::Firing).await;
    whole.phase("Failed").await;
    whole.raise(AlertStatus::Resolved).await;
    whole.phase("Resolved").await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_scaled_for_an_incident_is_put_back_when_its_alert_ends() {
    let api = scenario();
    let rules = format!("{KINDS}/rules");
    let mut rule = api.get(&rules, "shop", "cpu-high").unwrap();
    rule["spec"]["incident"] = json!({"resolveOn": "AlertResolved"});
    let target = rule["spec"]["actions"][0]["targetRef"].clone();
    let back = json!({"name": "back", "when": "Resolved", "undoes": "add-replica", "runbookRef": {"name": "back"}, "targetRef": target});
    rule["spec"]["actions"].as_array_mut().unwrap().push(back);
    api.put(&rules, rule);
    let spec =
        json!({"serviceAccountName": "remediator", "steps": [{"name": "back", "type": "ScaleBack", "scaleBack": {}}]});
    let runbook = json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": "Runbook", "metadata": {"name": "back", "namespace": "shop"}, "spec": spec});
    api.put(&format!("{KINDS}/runbooks"), runbook);
    let whole = Whole::start(api);
    whole.raise(AlertStatus::Firing).await;
    let ended = |count: usize| {
        let actions = whole.api.all(&format!("{KINDS}/actions"));
        actions.iter().filter(|action| action["status"]["phase"] == "Completed").count() == count
    };
    for (count, replicas) in [(1, 4), (2, 3)] {
        for _ in 0..2000 {
            if ended(count) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(ended(count), "{:#?}", whole.api.all(&format!("{KINDS}/actions")));
        assert_eq!(whole.replicas(), replicas);
        whole.raise(AlertStatus::Resolved).await;
    }
    let incident = whole.phase("Resolved").await;
    let states: Vec<&Value> = incident["status"]["actions"].as_array().unwrap().iter().map(|a| &a["state"]).collect();
    assert!(states.contains(&&json!("Completed")), "{incident:#}");
    whole.stop().await;
}

/// Three thousand groups of one rule at once: a thousand incidents and one for the storm, each alert with one reason, and nothing done.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_thousands_opens_a_thousand_incidents_and_one_for_itself() {
    const GROUPS: usize = 3_000;
    const BOUND: usize = 1_000;
    let api = scenario();
    let mut rule = api.get(&format!("{KINDS}/rules"), "shop", "cpu-high").unwrap();
    rule["spec"]["actions"] = json!([]);
    api.put(&format!("{KINDS}/rules"), rule);
    let whole = Whole::start(api);
    let told = |status, services: std::ops::Range<usize>| {
        services.map(move |n| alert(&format!("svc-{n}"), status).encode().unwrap()).collect::<Vec<_>>()
    };
    whole.bus.publish(told(AlertStatus::Firing, 0..GROUPS)).await.unwrap();
    // The log is read up to the present: what waits may open.
    whole.services[0].clock.advance(jiff::SignedDuration::from_secs(20));
    let incidents = || whole.api.all(&format!("{KINDS}/incidents"));
    let until = async |what: &str, holds: &dyn Fn() -> bool| {
        for _ in 0..1_200 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{what}: {} incidents, {} decided", incidents().len(), whole.bus.records(Topic::AlertDecided).len());
    };
    until("every alert has its reason", &|| whole.bus.records(Topic::AlertDecided).len() >= GROUPS).await;
    until("the incidents", &|| incidents().len() == BOUND + 1).await;
    let count = |reason: &str| {
        let text = whole.services[0].ctx.metrics.encode().unwrap();
        let line = format!("eventpulse_alerts_decided_total{{reason=\"{reason}\"}} ");
        text.lines().find_map(|found| found.strip_prefix(&line)?.parse::<usize>().ok()).unwrap_or_default()
    };
    assert_eq!((count("opened"), count("storm")), (BOUND, GROUPS - BOUND));
    let is_storm = |incident: &&Value| incident["spec"]["summary"].as_str().unwrap().starts_with("Storm: ");
    assert_eq!(incidents().iter().filter(is_storm).count(), 1);
    let groups = whole.api.all(&format!("{KINDS}/alertgroups"));
    let waiting = groups.iter().filter(|group| group["spec"]["episode"].is_null()).count();
    assert!((BOUND..BOUND + 50).contains(&waiting), "{waiting} groups wait; the rest is only counted");

    // Five hundred of the open ones end: as many that waited open, none beyond the bound.
    let open: Vec<String> = groups
        .iter()
        .filter(|group| !group["spec"]["episode"].is_null() && group["spec"]["storm"].is_null())
        .map(|group| group["spec"]["groupBy"]["service"].as_str().unwrap().to_owned())
        .take(BOUND / 2)
        .collect();
    let ended = open.iter().map(|service| alert(service, AlertStatus::Resolved).encode().unwrap()).collect();
    whole.bus.publish(ended).await.unwrap();
    until("their successors", &|| incidents().len() == BOUND + BOUND / 2 + 1).await;
    let is_open = |incident: &&Value| incident["status"]["phase"] != "Resolved";
    until("the ends", &|| incidents().iter().filter(is_open).count() == BOUND + 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(incidents().iter().filter(is_open).count(), BOUND + 1, "no more than the bound, and the storm");
    let of_storm = |record: &&crate::events::Record| String::from_utf8_lossy(&record.value).contains("Storm: ");
    assert_eq!(whole.bus.records(Topic::NotificationRequested).iter().filter(of_storm).count(), 1);
    assert_eq!(whole.bus.records(Topic::ActionRequested).len(), 0);
    whole.stop().await;
}
