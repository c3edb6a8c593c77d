//! Every metric of the catalogue is moved by running code: all services together, on one log and one API server in memory, through an
//! outage of the log, a patch that is refused, a message that is not taken, and the end of the incident's time.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Semaphore};

use super::{FakeApi, Fault, Seen, TestContext, whole};
use crate::{
    actions,
    bus::{Bus, BusError, LocalOptions, MemoryBus, SubscribeOptions, Subscription},
    config_status,
    events::{Record, Topic},
    incidents, ingest,
    notify::{
        self,
        http::{HttpAnswer, HttpFailure, HttpRequest, HttpTransport},
    },
    rules,
    runtime::{
        Metrics,
        clock::SystemClock,
        metrics::{
            Value as Moved, catalogue,
            describe::{Entry, listed},
        },
    },
};

/// What this test cannot move, and which one does.
const MOVED_ELSEWHERE: [(&str, &str); 1] =
    [("eventpulse_storms", "rules::tests::serving::storms: a thousand incidents are another test's")];

/// A log that is elsewhere, so that ingest has an outbox.
struct Elsewhere(MemoryBus);

#[async_trait]
impl Bus for Elsewhere {
    async fn publish(&self, records: Vec<Record>) -> Result<(), BusError> {
        self.0.publish(records).await
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription, BusError> {
        self.0.subscribe(options).await
    }

    fn partitions(&self, topic: Topic) -> u32 {
        self.0.partitions(topic)
    }

    fn health(&self) -> Result<(), String> {
        self.0.health()
    }

    fn can_read(&self, group: &str) -> bool {
        self.0.can_read(group)
    }

    fn is_local(&self) -> bool {
        false
    }

    async fn close(&self, timeout: Duration) {
        self.0.close(timeout).await;
    }
}

/// A channel that answers when it may, with what it is told to.
struct Channel {
    permits: Semaphore,
    status: Mutex<u16>,
}

#[async_trait]
impl HttpTransport for Channel {
    async fn post(&self, _: &HttpRequest, _: Duration) -> Result<HttpAnswer, HttpFailure> {
        self.permits.acquire().await.unwrap().forget();
        Ok(HttpAnswer { status: *self.status.lock().unwrap(), retry_after: None, body: String::new() })
    }
}

type Fate = Arc<Mutex<Box<dyn Fn(&Seen) -> Fault + Send>>>;

struct System {
    metrics: Metrics,
    bus: MemoryBus,
    services: Vec<TestContext>,
    channel: Arc<Channel>,
    ingest: SocketAddr,
    fate: Fate,
    moved: Mutex<BTreeSet<&'static str>>,
    _dir: tempfile::TempDir,
}

fn entries() -> Vec<Entry> {
    catalogue::all().into_iter().flat_map(|(_, entries)| entries).collect()
}

/// Two deployments, whose breaker opens at once, and a channel.
fn scenario() -> FakeApi {
    let (api, kinds) = (whole::scenario(), "/apis/eventpulse.io/v1alpha1");
    let mut runbook = api.get(&format!("{kinds}/runbooks"), "shop", "scale-up").unwrap();
    runbook["spec"]["retry"]["limit"] = json!(5);
    runbook["spec"]["circuitBreaker"] = json!({"failureThreshold": 1, "openDuration": "100ms"});
    api.put(&format!("{kinds}/runbooks"), runbook);
    let mut other = api.get(whole::DEPLOYMENTS, "shop", "svc-a").unwrap();
    other["metadata"] = json!({"name": "svc-b", "namespace": "shop", "generation": 1});
    api.put(whole::DEPLOYMENTS, other);
    let channel = json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": "NotificationChannel",
        "metadata": {"name": "ops", "namespace": "shop"},
        "spec": {"type": "Webhook", "webhook": {"url": "http://127.0.0.1:9/hook"}}});
    api.put(&format!("{kinds}/notificationchannels"), channel);
    api
}

impl System {
    fn start() -> Self {
        let (api, metrics, dir) = (scenario(), Metrics::of_the_process(), tempfile::tempdir().unwrap());
        let options = LocalOptions { watch_interval: Duration::from_millis(20), ..LocalOptions::default() };
        let bus = MemoryBus::with(4, Arc::new(SystemClock), metrics.clone(), options);
        let elsewhere: Arc<dyn Bus> = Arc::new(Elsewhere(bus.clone()));
        let names = ["ingest", "rules", "actions", "incidents", "notify", "config"];
        let context = |name| TestContext::with_metrics(name, Arc::clone(&elsewhere), api.clone(), &metrics);
        let services: Vec<TestContext> = names.into_iter().map(context).collect();
        let ctx = |index: usize| services[index].ctx.clone();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ingest = free.local_addr().unwrap();
        drop(free);
        let outbox =
            ingest::IngestConfig { listen: ingest, data_dir: dir.path().to_owned(), ..ingest::IngestConfig::default() };
        let kept = incidents::IncidentsConfig {
            retention_interval: Duration::from_millis(20),
            ..incidents::IncidentsConfig::default()
        };
        let channel = Arc::new(Channel { permits: Semaphore::new(0), status: Mutex::new(500) });
        let http = Arc::clone(&channel) as Arc<dyn HttpTransport>;
        services[0].ctx.tasks.spawn("ingest", ingest::run(ctx(0), outbox, TcpListener::bind(ingest)));
        services[1].ctx.tasks.spawn("rules", rules::run(ctx(1), rules::RulesConfig::default()));
        services[2].ctx.tasks.spawn("actions", actions::run(ctx(2), actions::ActionsConfig::default()));
        services[3].ctx.tasks.spawn("incidents", incidents::run(ctx(3), kept));
        let outside = notify::Outside { http, mail: Arc::new(notify::smtp::SmtpClient::default()) };
        services[4].ctx.tasks.spawn("notify", notify::run(ctx(4), notify::NotifyConfig::default(), outside));
        services[5].ctx.tasks.spawn("config", config_status::run(ctx(5)));
        let fate: Fate = Arc::new(Mutex::new(Box::new(|_| Fault::None)));
        let decides = Arc::clone(&fate);
        api.on_request(move |seen| decides.lock().unwrap()(seen));
        Self { metrics, bus, services, channel, ingest, fate, moved: Mutex::default(), _dir: dir }
    }

    fn fate(&self, fate: impl Fn(&Seen) -> Fault + Send + 'static) {
        *self.fate.lock().unwrap() = Box::new(fate);
    }

    fn clock(&self, service: usize, by_s: i64) {
        self.services[service].clock.advance(SignedDuration::from_secs(by_s));
    }

    /// Notes what has moved by now.
    fn look(&self) {
        self.metrics.sample();
        let mut moved = self.moved.lock().unwrap();
        for entry in entries() {
            let differs = |value: &Moved| match *value {
                Moved::Count(count) => count > 0,
                Moved::Whole(whole) => whole != 0,
                Moved::Fraction(fraction) => fraction != 0.0,
            };
            if self.metrics.values(entry.name).iter().any(|(_, value)| differs(value)) {
                moved.insert(entry.name);
            }
        }
    }

    async fn until(&self, what: &str, done: impl Fn() -> bool) {
        for _ in 0..30_000 {
            self.look();
            if done() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let health: Vec<_> = self.services.iter().map(|service| service.health.report()).collect();
        panic!("{what} does not come: {health:#?}\n{}", self.metrics.encode().unwrap());
    }

    async fn moves(&self, names: &[&str]) {
        let has = |name: &&str| self.moved.lock().unwrap().contains(*name);
        self.until(&format!("{names:?}"), || names.iter().all(has)).await;
    }

    /// Whether a line of the metrics begins like this, and does not end with 0.
    fn tells(&self, line: &str) -> bool {
        self.metrics.encode().unwrap().lines().any(|found| found.starts_with(line) && !found.ends_with(" 0"))
    }

    async fn post(&self, services: &[&str]) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let alert = |service: &&str| {
            json!({"status": "firing", "startsAt": "2026-01-01T11:59:00Z",
            "labels": {"alertname": "CPUHigh", "severity": "warning", "service": service}})
        };
        let alerts: Vec<Value> = services.iter().map(alert).collect();
        let body = json!({"version": "4", "alerts": alerts}).to_string();
        let request = format!(
            "POST /webhooks/alertmanager HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = tokio::net::TcpStream::connect(self.ingest).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    async fn stop(mut self) {
        for service in &mut self.services {
            service.ctx.shutdown.cancel();
            tokio::time::timeout(Duration::from_secs(20), service.ctx.tasks.finished()).await.expect("it stops");
            assert_eq!(service.failures.try_recv().ok(), None, "a task failed");
        }
    }
}

fn holds(method: &'static str, path: &'static str, until: &Arc<Semaphore>) -> impl Fn(&Seen) -> Fault + Send + 'static {
    let until = Arc::clone(until);
    move |seen| {
        let held = seen.method.as_str() == method && seen.path.contains(path);
        if held { Fault::Hold(Arc::clone(&until)) } else { Fault::None }
    }
}

/// Nothing but the values of the lists is in any label: what somebody else has made would be without bound.
fn labels_are_of_their_lists(metrics: &Metrics) {
    let mut checked = 0;
    for entry in entries() {
        for (label, value) in metrics.values(entry.name).into_iter().flat_map(|(labels, _)| labels) {
            let (_, list) = entry.labels.iter().find(|(name, _)| *name == label).unwrap();
            if let Some(list) = listed(list) {
                assert!(list.contains(&value.as_str()), "{}: {label}={value:?} is not in its list", entry.name);
                checked += 1;
            }
        }
    }
    assert!(checked > 100, "only {checked} labels were there to be checked");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_moved_by_running_code_and_every_label_is_of_its_list() {
    let system = System::start();
    system.until("every service is ready", || system.services.iter().all(|service| service.health.is_ready())).await;

    // The log is away: what is accepted waits in the outbox.
    system.bus.set_available(false);
    system.post(&["svc-a", "svc-b"]).await;
    system.clock(0, 1);
    system.moves(&["eventpulse_outbox_entries", "eventpulse_outbox_age_seconds", "eventpulse_retries"]).await;

    // It is back, without telling anybody, and the group cannot be written: its next alert waits in its mailbox.
    let written = Arc::new(Semaphore::new(0));
    system.fate(holds("POST", "/alertgroups", &written));
    system.bus.suppress_next_wakeup();
    system.bus.set_available(true);
    system.moves(&["eventpulse_bus_repaired_wakeups", "eventpulse_consumer_lag_records"]).await;
    system.post(&["svc-a"]).await;
    system.moves(&["eventpulse_mailbox_inputs"]).await;
    let garbage = Record { topic: Topic::AlertRaised, key: None, headers: Vec::new(), value: Bytes::from_static(b"{") };
    system.bus.publish(vec![garbage]).await.unwrap();
    system.moves(&["eventpulse_dead_letters"]).await;

    // The targets are in trouble, and then slow, and then well; the Events of it have to wait.
    system.fate(|seen| {
        let patch = seen.method == "PATCH" && seen.path.contains("/deployments/");
        if patch { Fault::Answer(503) } else { Fault::None }
    });
    written.add_permits(100);
    system.until("a breaker opens", || system.tells("eventpulse_breakers{state=\"open\"}")).await;
    let (patched, told) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (patch, tell) = (holds("PATCH", "/deployments/", &patched), holds("POST", "/events", &told));
    system.fate(move |seen| if let Fault::None = patch(seen) { tell(seen) } else { patch(seen) });
    system
        .until("a breaker probes", || {
            system.clock(2, 1);
            system.tells("eventpulse_breakers{state=\"half_open\"}")
        })
        .await;
    system.moves(&["eventpulse_target_calls_in_flight", "eventpulse_actions_queued"]).await;
    patched.add_permits(100);
    system.moves(&["eventpulse_kube_events_queued"]).await;
    told.add_permits(100);

    // The channel does not take the messages, and then it does.
    system.moves(&["eventpulse_notification_lanes"]).await;
    system.channel.permits.add_permits(2);
    system.moves(&["eventpulse_notification_channels_failing"]).await;
    *system.channel.status.lock().unwrap() = 200;
    system.channel.permits.add_permits(100);
    system
        .until("a message is delivered", || {
            system.clock(4, 5);
            system.tells("eventpulse_alert_to_message_seconds_count")
        })
        .await;

    // The incidents are over, and their time is: long after the message, for which its service's clock may have gone on for days.
    system.until("an incident is resolved", || system.tells("eventpulse_incidents{phase=\"Resolved\"}")).await;
    system.clock(3, 400 * 24 * 3600);
    system
        .until("the incidents are deleted", || {
            // What was told of them after that has to be two seconds old, too.
            system.clock(3, 1);
            system.tells("eventpulse_retention_deleted_total")
        })
        .await;
    system.moves(&["eventpulse_retention_deleted"]).await;

    let moved = system.moved.lock().unwrap().clone();
    let wanted: BTreeSet<&str> = entries().into_iter().map(|entry| entry.name).collect();
    let missing: BTreeSet<&str> = wanted.difference(&moved).copied().collect();
    let elsewhere: BTreeSet<&str> = MOVED_ELSEWHERE.into_iter().map(|(name, _)| name).collect();
    assert_eq!(missing, elsewhere, "what never moves tells nothing");
    labels_are_of_their_lists(&system.metrics);
    system.stop().await;
}
