//! The incidents service against a real API server: what it writes fits the schema, whatever is said; people's decisions and the
//! admission policy work as the documentation says. The events are the documented examples.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use eventpulse::{
    bus::{Bus, MemoryBus},
    events::{AlertLink, Event, IncidentHeader, Payload, Record, Topic},
    incidents::{IncidentsConfig, run},
    runtime::{
        Context, Health, Metrics, RightOfWay, Tasks, clock::SystemClock, kube_api, random::Random, telemetry::Tracer,
    },
};
use eventpulse_env::{ControlPlaneOptions, Environment};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// The documented example of a topic, as if it were said today about the incident of this name.
fn example(topic: Topic, incident: &str) -> Event {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/events/{topic}.example.json"));
    // Of the hour before this one: never ahead of the clock, whatever time of the day it is.
    let hour = (jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1)).strftime("%Y-%m-%dT%H:").to_string();
    let text = std::fs::read_to_string(file).unwrap().replace("2026-01-02T03:", &hour);
    let text = text.replace("cpu-high-5ng27vhhim", incident);
    let document: Value = serde_json::from_str(&text).unwrap();
    let headers = document["headers"].as_object().unwrap().iter();
    let record = Record {
        topic,
        key: document["key"].as_str().map(str::to_owned),
        headers: headers.map(|(name, value)| (name.clone(), Bytes::from(value.as_str().unwrap().to_owned()))).collect(),
        value: Bytes::from(document["data"].to_string()),
    };
    record.decode().unwrap()
}

struct World {
    environment: Environment,
    bus: Arc<MemoryBus>,
    tasks: Tasks,
    shutdown: CancellationToken,
}

impl World {
    async fn start() -> Self {
        let builder = Environment::builder("incidents").control_plane(ControlPlaneOptions::default());
        let environment = builder.start().await.unwrap();
        let plane = environment.plane();
        for file in ["crds/incidents.yaml", "config/policy/incident-decisions.yaml"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            plane.apply(&std::fs::read_to_string(path).unwrap()).unwrap();
        }
        plane.run_kubectl(&["create", "namespace", "shop"]).unwrap();
        plane.run_kubectl(&["wait", "--for=condition=Established", "crd/incidents.eventpulse.io"]).unwrap();
        // Its times are whole seconds, and a name counts as verified only when it was written after the policy was.
        tokio::time::sleep(Duration::from_millis(1_100)).await;

        let kubeconfig = Kubeconfig::read_from(plane.kubeconfig()).unwrap();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let bus = Arc::new(MemoryBus::new(3));
        let (tasks, _failures) = Tasks::new();
        let shutdown = CancellationToken::new();
        let ctx = Context {
            service: "incidents",
            bus: Arc::clone(&bus) as Arc<dyn Bus>,
            kube: kube_api::client(&config, "incidents", &Metrics::default()).unwrap(),
            way: RightOfWay::new(&Metrics::default()),
            clock: Arc::new(SystemClock),
            random: Arc::new(Random::from_seed(1)),
            tasks: tasks.clone(),
            health: Health::default().service("incidents"),
            metrics: Metrics::default(),
            tracer: Tracer::default(),
            intake: shutdown.child_token(),
            shutdown: shutdown.clone(),
        };
        let config = IncidentsConfig { policy_interval: Duration::from_millis(200), ..IncidentsConfig::default() };
        tasks.spawn("incidents", async move { run(ctx, config).await });
        Self { environment, bus, tasks, shutdown }
    }

    async fn publish(&self, events: &[Event]) {
        let records = events.iter().map(|event| event.encode().unwrap()).collect();
        self.bus.publish(records).await.unwrap();
    }

    fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        let args = [&["--namespace", "shop"], args].concat();
        self.environment.plane().run_kubectl(&args).map_err(|error| error.to_string())
    }

    fn field(&self, name: &str, path: &str) -> String {
        self.kubectl(&["get", "incident", name, "-o", &format!("jsonpath={path}")]).unwrap_or_default()
    }

    async fn eventually(&self, name: &str, path: &str, wanted: &str) {
        for _ in 0..120 {
            if self.field(name, path) == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        let letters = self.bus.records(Topic::DeadLetter);
        panic!("{name} {path}: {:?}, wanted {wanted:?}; dead letters: {letters:?}", self.field(name, path));
    }

    fn decide(&self, name: &str, what: &str, as_user: &str, decided_by: &str) -> Result<String, String> {
        let patch = format!(r#"{{"spec":{{"{what}":true,"decidedBy":"{decided_by}"}}}}"#);
        let user = format!("--as={as_user}");
        self.kubectl(&["patch", "incident", name, "--type=merge", "-p", &patch, &user, "--as-group=system:masters"])
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.finished().await;
        self.environment.stop().await;
    }
}

/// Everything as long as it may be, and longer.
fn worst(mut event: Event) -> Event {
    let long = "\"\\<ü\u{1}\u{7f}".repeat(2_000);
    let spoil = |header: &mut IncidentHeader| {
        let first = header.alerts[0].clone();
        let link = |i: u32| AlertLink {
            alert_id: format!("alert-{i}").try_into().unwrap(),
            fingerprint: long.clone(),
            starts_at: jiff::Timestamp::MIN,
            ..first.clone()
        };
        header.alerts = (0..30).map(link).collect();
        header.alert_count = u32::MAX;
        header.severity.clone_from(&long);
        header.summary.clone_from(&long);
    };
    match &mut event.payload {
        Payload::IncidentOpened(data) => spoil(&mut data.incident),
        Payload::ActionFailed(data) => {
            spoil(&mut data.incident);
            (data.by, data.message, data.step) = (long.clone(), long.clone(), long.clone());
            data.target.name.clone_from(&long);
            (data.attempt, data.step_index, data.ends_ladder) = (u32::MAX, u32::MAX, true);
        }
        Payload::NotificationDelivered(data) => {
            spoil(&mut data.incident);
            data.delivered_at = jiff::Timestamp::MAX;
        }
        other => panic!("{other:?}"),
    }
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn incidents_live_on_a_real_api_server() {
    let world = World::start().await;
    the_story_ends_resolved(&world).await;
    the_worst_that_can_be_said_fits_the_schema(&world).await;
    nonsense_by_hand_is_healed(&world).await;
    a_persons_name_is_held_to_the_user(&world).await;
    assert!(world.bus.records(Topic::DeadLetter).is_empty());
    world.stop().await;
}

async fn the_story_ends_resolved(world: &World) {
    let topics = [Topic::IncidentOpened, Topic::ActionRequested, Topic::NotificationDelivered, Topic::ActionCompleted];
    world.publish(&topics.map(|topic| example(topic, "story"))).await;
    world.eventually("story", "{.status.history[3].event}", "notification.delivered").await;
    world.kubectl(&["wait", "--for=condition=Resolved", "incident/story", "--timeout=30s"]).unwrap();
    assert_eq!(world.field("story", "{.status.history[2].what}"), "Deployment/svc-a 3 → 4");
    let table = world.kubectl(&["get", "inc", "story"]).unwrap();
    let lines: Vec<Vec<&str>> =
        table.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
    assert_eq!(lines[0], ["NAME", "RULE", "SEVERITY", "PHASE", "TARGET", "ALERTS", "LAST ACTION", "AGE"]);
    let row = ["story", "cpu-high", "warning", "Resolved", "Deployment/svc-a", "1", "add-replica Completed"];
    assert_eq!(lines[1][..7], row);
    world.eventually("story", "{.status.outbox}", "").await;
}

async fn the_worst_that_can_be_said_fits_the_schema(world: &World) {
    let topics = [Topic::IncidentOpened, Topic::ActionFailed, Topic::NotificationDelivered];
    world.publish(&topics.map(|topic| worst(example(topic, "worst")))).await;
    world.kubectl(&["wait", "--for=create", "incident/worst", "--timeout=30s"]).unwrap();
    world.kubectl(&["wait", "--for=condition=Failed", "incident/worst", "--timeout=30s"]).unwrap();
    world.eventually("worst", "{.status.history[2].event}", "action.failed").await;
    let object = world.kubectl(&["get", "incident", "worst", "-o", "json"]).unwrap();
    let object: Value = serde_json::from_str(&object).unwrap();
    assert!(object.to_string().len() < 32 * 1024);
}

async fn nonsense_by_hand_is_healed(world: &World) {
    let nonsense = r#"{"status":{"phase":"Open","alertCount":-5,"conditions":[],"history":[],
        "resolvedAt":"9998-12-31T00:00:00Z","observedGeneration":-1,
        "outbox":[{"id":"NO","topic":"nowhere","key":"","subject":"","time":"0001-01-01T00:00:00Z","data":"{"}]}}"#;
    world.kubectl(&["patch", "incident", "story", "--subresource=status", "--type=merge", "-p", nonsense]).unwrap();
    world.publish(&[example(Topic::ActionCompleted, "story")]).await;
    world.eventually("story", "{.status.history[0].event}", "action.completed").await;
    world.kubectl(&["wait", "--for=condition=Resolved", "incident/story", "--timeout=30s"]).unwrap();
    assert_eq!(world.field("story", "{.status.alertCount}"), "1");
}

async fn a_persons_name_is_held_to_the_user(world: &World) {
    world.publish(&["decided", "later"].map(|name| example(Topic::IncidentOpened, name))).await;
    for name in ["decided", "later"] {
        world.eventually(name, "{.status.phase}", "Open").await;
    }
    let refused = world.decide("decided", "resolved", "mallory", "alice").unwrap_err();
    assert!(refused.contains("spec.decidedBy: must be your own name, mallory"), "{refused}");
    world.decide("decided", "acknowledged", "alice", "alice").unwrap();
    world.eventually("decided", "{.status.decisions[*].by}", "alice").await;
    world.decide("decided", "resolved", "bob", "bob").unwrap();
    world.kubectl(&["wait", "--for=condition=Resolved", "incident/decided", "--timeout=30s"]).unwrap();
    assert_eq!(world.field("decided", "{.status.history[*].by}"), "rule cpu-high alice bob");
    assert_eq!(world.field("decided", "{.status.decisions[*].verified}"), "true true");
    assert_eq!(world.field("decided", "{.status.conditions[0].reason}"), "Decision");
    let undone = r#"{"spec":{"resolved":false}}"#;
    let refused = world.kubectl(&["patch", "incident", "decided", "--type=merge", "-p", undone]).unwrap_err();
    assert!(refused.contains("resolved: never becomes false again"), "{refused}");

    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/policy/incident-decisions.yaml");
    world.kubectl(&["delete", "-f", &policy.display().to_string()]).unwrap();
    // The service looks every 200 ms; the server stops enforcing when its own informers have seen it.
    let mut decided = world.decide("later", "acknowledged", "mallory", "alice");
    for _ in 0..120 {
        if decided.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
        decided = world.decide("later", "acknowledged", "mallory", "alice");
    }
    decided.unwrap();
    world.eventually("later", "{.status.history[1].by}", "alice (unverified)").await;
}
