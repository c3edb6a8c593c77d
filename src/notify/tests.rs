//! The service on the log and the API server in memory, against the testkit's sink over real HTTP.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use eventpulse_testkit::sink::{Answer, Received, Sink};
use http::Method;
use jiff::SignedDuration;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::testing::{at, noon, request};
use crate::{
    api::v1alpha1::{Notification, NotificationPhase},
    bus::{Bus, MemoryBus, TopicPartition, partition_of},
    events::{DeadLetterReason, Event, EventId, NotificationRequested, Payload, Topic},
    notify::{NotifyConfig, Outside, run},
    runtime::{Context, random::Random},
    testing::{FakeApi, Fault, TestContext},
};

#[path = "lanes_tests.rs"]
mod lanes;
#[path = "lines_tests.rs"]
mod lines;
#[path = "new_channels_tests.rs"]
mod new_channels;

const NOTIFICATIONS: &str = "/apis/eventpulse.io/v1alpha1/notifications";
const CHANNELS: &str = "/apis/eventpulse.io/v1alpha1/notificationchannels";
const SECRETS: &str = "/api/v1/secrets";
const SLACK: &str = "/services/T0000000/B0000000/xoxsecretxox";
const HOOK: &str = "/hook";
const SOON: Duration = Duration::from_secs(30);

/// Waits for something that must come. The deadline only ends a test that fails.
async fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    for _ in 0..4000 {
        if let Some(found) = found() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain for {what}");
}

fn put_secret(api: &FakeApi, name: &str, key: &str, value: &str) {
    let metadata = json!({"name": name, "namespace": "shop"});
    api.put(
        SECRETS,
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {key: BASE64.encode(value)}}),
    );
}

fn put_channel(api: &FakeApi, name: &str, spec: Value) {
    let metadata = json!({"name": name, "namespace": "shop"});
    let (api_version, kind) = ("eventpulse.io/v1alpha1", "NotificationChannel");
    api.put(CHANNELS, json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}));
}

/// A world with a Slack channel `ops-slack` and a webhook `hook`, whose tries may take `timeout`.
async fn world(timeout: &str) -> (FakeApi, MemoryBus, Sink) {
    let (api, bus, sink) = (FakeApi::new(), MemoryBus::new(4), Sink::start().await.unwrap());
    put_secret(&api, "ops-slack", "url", &format!("{}\n", sink.url(SLACK)));
    put_secret(&api, "hook", "key", "s3cret\n");
    put_slack(&api, timeout);
    let webhook = json!({"url": sink.url(HOOK), "signingSecretRef": {"name": "hook", "key": "key"}});
    put_channel(&api, "hook", json!({"type": "Webhook", "webhook": webhook, "timeout": timeout}));
    (api, bus, sink)
}

fn put_slack(api: &FakeApi, timeout: &str) {
    let reference = json!({"name": "ops-slack", "key": "url"});
    let slack = json!({"type": "Slack", "slack": {"webhookURLSecretRef": reference}, "timeout": timeout});
    put_channel(api, "ops-slack", slack);
}

struct Running {
    test: TestContext,
    bus: MemoryBus,
}

impl Running {
    /// `seed` makes this incarnation another one than those with other seeds.
    fn start(api: &FakeApi, bus: &MemoryBus, seed: u64, hours_past_noon: i64) -> Self {
        let test = TestContext::with_api("notify", Arc::new(bus.clone()), api.clone());
        test.clock.advance(SignedDuration::from_hours(hours_past_noon));
        let ctx = Context { random: Arc::new(Random::from_seed(seed)), ..test.ctx.clone() };
        let config = NotifyConfig { per_channel: 2, ..NotifyConfig::default() };
        let outside = Outside::of_the_machine(None).unwrap();
        test.ctx.tasks.spawn("notify", run(ctx, config, outside));
        Self { test, bus: bus.clone() }
    }

    async fn ask(&self, request: &NotificationRequested, event: &str) {
        let event = Event {
            id: EventId::new("notification.requested", request.notification_id.as_str(), event),
            time: request.decided_at,
            source: "eventpulse/rules".into(),
            subject: request.notification_id.to_string(),
            key: request.incident.incident_id.to_string(),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            payload: request.clone().into(),
        };
        self.bus.publish(vec![event.encode().unwrap()]).await.unwrap();
    }

    fn advance(&self, seconds: i64) {
        self.test.clock.advance(SignedDuration::from_secs(seconds));
    }

    fn object(&self, request: &NotificationRequested) -> Option<Notification> {
        let value = self.test.api.get(NOTIFICATIONS, "shop", request.notification_id.as_str())?;
        Some(serde_json::from_value(value).unwrap())
    }

    async fn in_phase(&self, request: &NotificationRequested, phase: NotificationPhase) -> Notification {
        let wanted = || self.object(request).filter(|object| object.spec.phase == phase);
        until(&format!("{phase:?}"), wanted).await
    }

    fn events(&self, topic: Topic) -> Vec<Event> {
        self.bus.records(topic).iter().map(|record| record.decode().unwrap()).collect()
    }

    /// Waits until every request is acknowledged.
    async fn consumed(&self) {
        let topic = Topic::NotificationRequested;
        let partition = |key: &Option<String>| partition_of(key.as_deref().unwrap_or_default(), 4);
        let all = || {
            let records = self.bus.records(topic);
            (0..4).all(|at| {
                let count = records.iter().filter(|record| partition(&record.key) == at).count();
                self.bus.stored_offset("notify", TopicPartition { topic, partition: at }).unwrap_or(0) == count as u64
            })
        };
        until("the stored offsets", || all().then_some(())).await;
    }

    async fn stop(mut self) {
        self.test.ctx.shutdown.cancel();
        let tasks = self.test.ctx.tasks.clone();
        tokio::time::timeout(SOON, tasks.finished()).await.expect("the service does not stop");
        assert_eq!(self.test.failures.try_recv().ok(), None, "a task failed");
    }
}

fn marks(received: &[Received]) -> Vec<bool> {
    received.iter().map(|request| request.header("eventpulse-duplicate-possible") == Some("true")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_becomes_one_slack_message_and_says_so_however_often_it_comes() {
    let (api, bus, sink) = world("10s").await;
    let running = Running::start(&api, &bus, 1, 0);
    let request = request("ops-slack", "Opened");
    for event in ["a", "a", "b", "c", "d"] {
        running.ask(&request, event).await;
    }
    let object = running.in_phase(&request, NotificationPhase::Delivered).await;
    running.consumed().await;
    running.ask(&request, "late").await;
    running.consumed().await;

    let received = sink.received();
    assert_eq!((received.len(), received[0].path.as_str(), received[0].answered), (1, SLACK, Some(200)));
    assert_eq!(received[0].json()["text"], "Incident opened: CPU of svc-a above 90 %");
    assert_eq!(received[0].idempotency_key(), Some(request.notification_id.as_str()));
    assert_eq!((object.spec.tries, object.spec.duplicate_possible, object.spec.delivered_at), (1, false, Some(noon())));
    let labels = object.metadata.labels.unwrap();
    assert_eq!(labels["eventpulse.io/incident"], request.incident.incident_id.to_string());
    assert_eq!(labels["eventpulse.io/rule"], "cpu-high");
    let events = running.events(Topic::NotificationDelivered);
    assert_eq!(events.iter().map(|event| event.id.to_string()).collect::<BTreeSet<_>>().len(), 1);
    let Payload::NotificationDelivered(told) = &events[0].payload else { panic!() };
    assert_eq!((&told.incident, told.tries, told.delivered_at), (&request.incident, 1, noon()));
    assert_eq!(events[0].key, request.incident.incident_id.to_string());
    assert!(events[0].traceparent.is_some());
    running.stop().await;
    // Another replica that begins with the first record again finds everything done.
    let again = Running::start(&api, &MemoryBus::new(4), 2, 0);
    again.ask(&request, "a").await;
    again.consumed().await;
    assert_eq!(sink.received().len(), 1);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_signed_as_an_independent_computation_says() {
    let (api, bus, sink) = world("10s").await;
    let running = Running::start(&api, &bus, 1, 0);
    let request = request("hook", "Opened");
    running.ask(&request, "a").await;
    let received = sink.wait_for_on(HOOK, 1, SOON).await.unwrap().remove(0);
    let (id, timestamp) = (received.header("webhook-id").unwrap(), received.header("webhook-timestamp").unwrap());
    assert_eq!((id, timestamp), (request.notification_id.as_str(), noon().as_second().to_string().as_str()));
    let signed = [format!("{id}.{timestamp}.").as_bytes(), &received.body].concat();
    let signature = format!("v1,{}", BASE64.encode(hmac(b"s3cret", &signed)));
    assert_eq!(received.header("webhook-signature"), Some(signature.as_str()));
    assert_eq!(received.header("content-type"), Some("application/json"));
    assert_eq!(received.json()["incident"]["rule"], "cpu-high");
    assert_eq!(marks(&[received]), [false]);
    running.stop().await;
}

/// HMAC as RFC 2104 writes it, without the library that the service uses.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |byte: u8| block.map(|key| key ^ byte).to_vec();
    let inner = Sha256::digest([pad(0x36), message.to_vec()].concat());
    Sha256::digest([pad(0x5c), inner.to_vec()].concat()).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_may_have_succeeded_is_followed_by_a_marked_copy() {
    let (api, bus, sink) = world("300ms").await;
    let running = Running::start(&api, &bus, 1, 0);
    sink.script(HOOK, [Answer::status(500).body("out of order"), Answer::close(), Answer::hang()]);
    let request = request("hook", "Opened");
    running.ask(&request, "a").await;
    let mut errors = Vec::new();
    for tries in 1..4 {
        sink.wait_for_on(HOOK, tries, SOON).await.unwrap();
        let object = running.in_phase(&request, NotificationPhase::Waiting).await;
        errors.push(object.spec.last_error.unwrap());
        // The first failure is in the resource: its offset is stored.
        running.consumed().await;
        running.advance(60);
        until("the next try", || (sink.received().len() > tries).then_some(())).await;
    }
    let object = running.in_phase(&request, NotificationPhase::Delivered).await;
    assert_eq!((errors[0].as_str(), errors[2].as_str()), ("HTTP 500 out of order", "no answer within 300 ms"));
    assert!(errors[1].starts_with("send: "), "{errors:?}");
    assert_eq!((object.spec.tries, object.spec.duplicate_possible), (4, true));
    assert_eq!(marks(&sink.received()), [false, true, true, true]);
    assert_eq!(sink.count_by_key(), [(request.notification_id.to_string(), 4)].into());
    // The result is published after it is written.
    let told = until("what is told", || running.events(Topic::NotificationDelivered).pop()).await;
    let Payload::NotificationDelivered(told) = &told.payload else { panic!() };
    assert!(told.duplicate_possible);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_honoured_and_such_a_refusal_marks_nothing() {
    let (api, bus, sink) = world("10s").await;
    let running = Running::start(&api, &bus, 1, 0);
    sink.script(
        HOOK,
        [
            Answer::status(429).header("Retry-After", "30"),
            Answer::status(429).header("Retry-After", "Thu, 01 Jan 2026 12:20:00 GMT"),
        ],
    );
    let request = request("hook", "Opened");
    running.ask(&request, "a").await;
    let due = running.in_phase(&request, NotificationPhase::Waiting).await.spec.due.unwrap();
    assert!((at("2026-01-01T12:00:30Z")..=at("2026-01-01T12:00:31Z")).contains(&due), "{due}");
    running.advance(40);
    let again = || running.object(&request).and_then(|object| object.spec.due.filter(|next| *next != due));
    let due = until("the second refusal", again).await;
    assert!((at("2026-01-01T12:20:00Z")..=at("2026-01-01T12:20:02Z")).contains(&due), "{due}");
    running.advance(20 * 60);
    running.in_phase(&request, NotificationPhase::Delivered).await;
    assert_eq!(marks(&sink.received()), [false, false, false]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_message_fails_at_once_and_its_secret_url_stays_secret() {
    let (api, bus, sink) = world("10s").await;
    let running = Running::start(&api, &bus, 1, 0);
    sink.always(SLACK, Some(Answer::status(404).body(format!("no_service at {SLACK}"))));
    let request = request("ops-slack", "Opened");
    running.ask(&request, "a").await;
    let object = running.in_phase(&request, NotificationPhase::Failed).await;
    running.consumed().await;
    let told = until("what is told", || running.events(Topic::NotificationFailed).pop()).await;
    let Payload::NotificationFailed(told) = &told.payload else { panic!() };
    assert_eq!((told.tries, Some(&told.message)), (1, object.spec.last_error.as_ref()));
    assert!(
        told.message.starts_with("HTTP 404 no_service") && !told.message.contains("xoxsecretxox"),
        "{}",
        told.message
    );
    assert_eq!(sink.received().len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_of_a_url_that_was_replaced_meanwhile_is_not_believed() {
    let (api, bus, sink) = world("10s").await;
    let running = Running::start(&api, &bus, 1, 0);
    let (first, second) = (request("ops-slack", "Opened"), request("ops-slack", "Again"));
    running.ask(&first, "a").await;
    running.in_phase(&first, NotificationPhase::Delivered).await;
    sink.always(SLACK, Some(Answer::status(404).body("no_service")));
    put_secret(&api, "ops-slack", "url", &sink.url("/services/T0000000/B0000000/another"));
    running.ask(&second, "a").await;
    sink.wait_for_on(SLACK, 2, SOON).await.unwrap();
    running.in_phase(&second, NotificationPhase::Waiting).await;
    running.advance(5);
    running.in_phase(&second, NotificationPhase::Delivered).await;
    assert_eq!(sink.received_on("/services/T0000000/B0000000/another").len(), 1);
    running.stop().await;
}

/// It may have been accepted, and nobody wrote that down: another replica waits for the sender's time, and marks its copy.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_sending_and_writing_it_down_gives_one_marked_copy() {
    let (api, bus, sink) = world("10s").await;
    let crashing = Running::start(&api, &bus, 1, 0);
    let is_settlement = |method: &Method, path: &str| *method == Method::PUT && path.contains("/notifications/");
    api.on_request(move |seen| if is_settlement(&seen.method, &seen.path) { Fault::Refuse } else { Fault::None });
    let request = request("hook", "Opened");
    crashing.ask(&request, "a").await;
    sink.wait_for_on(HOOK, 1, SOON).await.unwrap();
    crashing.stop().await;
    api.no_faults();

    let other = Running::start(&api, &bus, 2, 0);
    other.consumed().await;
    assert_eq!(other.object(&request).unwrap().spec.phase, NotificationPhase::Sending);
    assert_eq!(sink.received().len(), 1, "before the sender's time is over nobody else sends");
    other.advance(15);
    let object = other.in_phase(&request, NotificationPhase::Delivered).await;
    assert_eq!((object.spec.tries, object.spec.duplicate_possible), (2, true));
    assert_eq!(marks(&sink.received()), [false, true]);
    assert_eq!(sink.count_by_key(), [(request.notification_id.to_string(), 2)].into());
    other.stop().await;
}

/// A replica that was frozen after its claim must not send when its time is over: the try is another's by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_whose_time_is_over_before_it_sends_does_not_send() {
    let (api, bus, sink) = world("10s").await;
    let running = Running::start(&api, &bus, 1, 0);
    let clock = Arc::clone(&running.test.clock);
    let frozen = AtomicBool::new(false);
    api.on_request(move |seen| {
        let claim = seen.method == Method::POST && seen.path.ends_with("/notifications");
        if claim && !frozen.swap(true, Ordering::SeqCst) {
            clock.advance(SignedDuration::from_secs(16));
        }
        Fault::None
    });
    let request = request("hook", "Opened");
    running.ask(&request, "a").await;
    running.in_phase(&request, NotificationPhase::Delivered).await;
    // What was sent is the second claim's, and since the first one sent nothing, it is no second copy.
    let received = sink.received();
    assert_eq!(marks(&received), [false]);
    let noon = noon().as_second();
    assert_eq!(received[0].header("webhook-timestamp"), Some((noon + 16).to_string().as_str()));
    let writes: Vec<_> =
        api.seen().into_iter().filter(|seen| seen.path.contains("/notifications") && seen.is_write()).collect();
    let phases: Vec<_> =
        writes.iter().map(|seen| seen.body["spec"]["phase"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(phases[..4], ["Sending", "Waiting", "Sending", "Delivered"]);
    running.stop().await;
}

/// The claim's answer was lost, and the claim was not: it is known again, so nothing is marked.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_without_an_answer_is_no_reason_for_a_mark() {
    let (api, bus, sink) = world("10s").await;
    api.on_request(|seen| {
        let claim = seen.method == Method::POST && seen.path.ends_with("/notifications");
        if claim { Fault::DropAnswer } else { Fault::None }
    });
    let running = Running::start(&api, &bus, 1, 0);
    let request = request("hook", "Opened");
    running.ask(&request, "a").await;
    let object = running.in_phase(&request, NotificationPhase::Delivered).await;
    assert_eq!((object.spec.tries, marks(&sink.received())), (1, vec![false]));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_said_and_the_message_waits_for_it() {
    let (api, bus, sink) = world("10s").await;
    api.remove(SECRETS, "shop", "ops-slack");
    let running = Running::start(&api, &bus, 1, 0);
    let (slack, none) = (request("ops-slack", "Opened"), request("nobody", "Opened"));
    running.ask(&slack, "a").await;
    running.ask(&none, "a").await;
    running.consumed().await;
    let error = |request| running.object(request).unwrap().spec.last_error.unwrap();
    assert_eq!(error(&slack), "Secret shop/ops-slack is not there");
    assert_eq!(error(&none), "NotificationChannel shop/nobody is not there");
    assert!(sink.received().is_empty());
    put_secret(&api, "ops-slack", "url", &sink.url(SLACK));
    put_channel(&api, "nobody", json!({"type": "Webhook", "webhook": {"url": sink.url(HOOK)}}));
    running.advance(5);
    running.in_phase(&slack, NotificationPhase::Delivered).await;
    // The watch may tell of the new channel only after a further try has failed.
    for _ in 0..10 {
        running.advance(300);
        if let Ok(received) = sink.wait_for_on(HOOK, 1, Duration::from_millis(500)).await {
            assert_eq!(received[0].header("webhook-signature"), None);
            break;
        }
    }
    running.in_phase(&none, NotificationPhase::Delivered).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_fails_at_its_deadline_and_is_stale_when_first_seen_after_it() {
    let (api, bus, sink) = world("10s").await;
    sink.always(HOOK, Some(Answer::status(503)));
    let running = Running::start(&api, &bus, 1, 0);
    let (failing, late) = (request("hook", "Opened"), request("hook", "Late"));
    running.ask(&failing, "a").await;
    running.in_phase(&failing, NotificationPhase::Waiting).await;
    running.advance(3600);
    let object = running.in_phase(&failing, NotificationPhase::Failed).await;
    assert_eq!(object.spec.last_error.as_deref(), Some("HTTP 503"));
    running.ask(&late, "a").await;
    running.in_phase(&late, NotificationPhase::Stale).await;
    running.consumed().await;
    let failed = running.events(Topic::NotificationFailed);
    assert_eq!(
        failed.iter().map(|event| event.subject.clone()).collect::<Vec<_>>(),
        [failing.notification_id.to_string()]
    );
    assert!(running.events(Topic::NotificationDelivered).is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_is_refused_for_good_ends_as_a_dead_letter_and_blocks_nothing() {
    let (api, bus, sink) = world("10s").await;
    let (refused, next) = (request("hook", "Opened"), request("hook", "Next"));
    let name = refused.notification_id.to_string();
    api.on_request(move |seen| {
        let create = seen.method == Method::POST && seen.body["metadata"]["name"] == name;
        if create { Fault::Answer(403) } else { Fault::None }
    });
    let running = Running::start(&api, &bus, 1, 0);
    running.ask(&refused, "a").await;
    running.ask(&next, "a").await;
    running.in_phase(&next, NotificationPhase::Delivered).await;
    running.consumed().await;
    let letters = running.events(Topic::DeadLetter);
    let Payload::DeadLetter(letter) = &letters[0].payload else { panic!() };
    assert_eq!((letters.len(), letter.reason), (1, DeadLetterReason::Refused));
    assert_eq!(sink.received().len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_for_long_is_deleted_and_its_request_is_stale_then() {
    let (api, bus, sink) = world("10s").await;
    let running = Running::start(&api, &bus, 1, 0);
    let request = request("hook", "Opened");
    running.ask(&request, "a").await;
    running.in_phase(&request, NotificationPhase::Delivered).await;
    running.consumed().await;
    running.stop().await;
    let later = Running::start(&api, &bus, 2, 8 * 24);
    until("the deletion", || api.all(NOTIFICATIONS).is_empty().then_some(())).await;
    later.ask(&request, "again").await;
    later.in_phase(&request, NotificationPhase::Stale).await;
    assert_eq!(sink.received().len(), 1);
    later.stop().await;
}
