//! (l) One trace from the webhook to the patch and to the message, in a real OpenTelemetry Collector; also when the process that began
//! it was killed. Logs carry its id and the alert's, samples on `/metrics` its id, and metrics say what `/metrics` says. A Collector
//! that is away fails nothing, and what is said changes at run time.

use std::{collections::BTreeMap, time::Duration};

use eventpulse_e2e::{PATIENCE, START, Shop};
use eventpulse_env::{Collector, Signal, free_port};
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    client,
    eventpulse::{EventPulse, Launcher},
    proxy::{Fault, When},
};
use jiff::Timestamp;
use serde_json::{Value, json};

const SENDERS_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SENDERS_SPAN: &str = "b7ad6b7169203331";
/// From the patch to the request.
const TO_THE_PATCH: [&str; 7] = [
    "PATCH",
    "run action",
    "process action.requested",
    "send action.requested",
    "process alert.raised",
    "send alert.raised",
    "POST /webhooks/alertmanager",
];
/// From the message to the request.
const TO_THE_MESSAGE: [&str; 6] = [
    "send message",
    "process notification.requested",
    "send notification.requested",
    "process alert.raised",
    "send alert.raised",
    "POST /webhooks/alertmanager",
];
/// From the reason that an alert was given to the request.
const TO_THE_DECISION: [&str; 4] =
    ["send alert.decided", "process alert.raised", "send alert.raised", "POST /webhooks/alertmanager"];
/// From what is said of an incident that has just opened to the request.
const TO_THE_INCIDENT: [&str; 6] = [
    "send incident.updated",
    "process incident.opened",
    "send incident.opened",
    "process alert.raised",
    "send alert.raised",
    "POST /webhooks/alertmanager",
];
/// From the word that the message has arrived to the request.
const TO_THE_DELIVERY: [&str; 6] = [
    "send notification.delivered",
    "process notification.requested",
    "send notification.requested",
    "process alert.raised",
    "send alert.raised",
    "POST /webhooks/alertmanager",
];
/// From a step that failed to the request.
const TO_THE_FAILURE: [&str; 7] = [
    "send action.failed",
    "run action",
    "process action.requested",
    "send action.requested",
    "process alert.raised",
    "send alert.raised",
    "POST /webhooks/alertmanager",
];
/// From the message that tells of it to the step.
const TO_THE_WORD_OF_THE_FAILURE: [&str; 6] = [
    "send message",
    "process notification.requested",
    "send notification.requested",
    "process action.failed",
    "send action.failed",
    "run action",
];
/// From what the incidents make of its end to the request of the alert that opened it, whoever brought the end.
const TO_THE_RESOLUTION: [&str; 5] = [
    "process incident.resolved",
    "send incident.resolved",
    "process alert.raised",
    "send alert.raised",
    "POST /webhooks/alertmanager",
];
/// The same from the message that tells of it.
const TO_THE_WORD_OF_THE_RESOLUTION: [&str; 6] = [
    "send message",
    "process notification.requested",
    "send notification.requested",
    "process alert.raised",
    "send alert.raised",
    "POST /webhooks/alertmanager",
];
/// From what the incident's resource says in the end to the action.
const TO_THE_END: [&str; 3] = ["process action.completed", "send action.completed", "run action"];
/// A rule that only opens an incident.
const NOTED: &str = r#"
apiVersion: eventpulse.io/v1alpha1
kind: Rule
metadata: {name: noted, namespace: shop}
spec: {match: {matchers: ['alertname="Noted"']}}
"#;

#[derive(Clone, Debug)]
struct Span {
    name: String,
    trace: String,
    id: String,
    parent: String,
    kind: i64,
    /// The process that told it.
    process: String,
    attributes: BTreeMap<String, String>,
    /// Traces that it is linked with.
    links: Vec<String>,
    failed: bool,
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn attributes(value: &Value) -> BTreeMap<String, String> {
    let plain = |value: &Value| value.as_object().and_then(|one| one.values().next()).cloned().unwrap_or_default();
    let shown = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    list(value, "attributes").map(|pair| (text(&pair["key"]), shown(plain(&pair["value"])))).collect()
}

/// The spans that the Collector has. One that was told twice is there once: it says the same.
fn spans(collector: &Collector) -> BTreeMap<String, Span> {
    let mut found = BTreeMap::new();
    for document in collector.received(Signal::Traces).unwrap() {
        for resource in list(&document, "resourceSpans") {
            let process = attributes(&resource["resource"]).remove("service.instance.id").unwrap_or_default();
            for span in list(resource, "scopeSpans").flat_map(|scope| list(scope, "spans")) {
                let span = Span {
                    name: text(&span["name"]),
                    trace: text(&span["traceId"]),
                    id: text(&span["spanId"]),
                    parent: text(&span["parentSpanId"]),
                    kind: span["kind"].as_i64().unwrap_or_default(),
                    process: process.clone(),
                    attributes: attributes(span),
                    links: list(span, "links").map(|link| text(&link["traceId"])).collect(),
                    failed: span["status"]["code"] == 2,
                };
                found.insert(span.id.clone(), span);
            }
        }
    }
    found
}

/// From a span to the first one of its trace, or to whatever the Collector has not got: names, and the last one's parent.
fn chain(spans: &BTreeMap<String, Span>, from: &Span) -> (Vec<String>, String) {
    let (mut names, mut at) = (vec![from.name.clone()], from);
    while let Some(parent) = spans.get(&at.parent) {
        assert_eq!(parent.trace, from.trace, "{parent:?}");
        names.push(parent.name.clone());
        at = parent;
        assert!(names.len() < 50, "a circle: {names:?}");
    }
    (names, at.parent.clone())
}

/// Waits until there is a span of this name in the trace for which this holds, and its chain to the beginning is whole.
async fn whole(shop: &Shop, trace: &str, names: &[&str], is_meant: impl Fn(&Span) -> bool) -> (Span, String) {
    let mut seen = Vec::new();
    let what = format!("the chain {names:?} in the trace {trace}");
    shop.wait_for(&what, || {
        let spans = spans(shop.environment.collector());
        let mut ends = spans.values().filter(|span| span.name == names[0] && span.trace == trace && is_meant(span));
        ends.find_map(|span| {
            let (found, end) = chain(&spans, span);
            let is_it = found.iter().zip(names).all(|(found, name)| found == name) && found.len() >= names.len();
            seen = found;
            is_it.then(|| (span.clone(), end))
        })
    })
    .await
}

/// The traces that the samples of a histogram were of, as `/metrics` has them.
fn exemplars(text: &str, histogram: &str) -> Vec<String> {
    let start = format!("{histogram}_bucket{{");
    let buckets = text.lines().filter(|line| line.starts_with(&start));
    let traces = buckets.filter_map(|line| line.split_once(" # {trace_id=\"")?.1.split_once('"'));
    traces.map(|(trace, _)| trace.to_owned()).collect()
}

/// Every histogram of a way from the alert to something names its trace, and that one only.
async fn samples_name_their_trace(shop: &Shop, eventpulse: &EventPulse, trace: &str) {
    for to in ["rules", "action", "resolved", "message"] {
        let histogram = format!("eventpulse_alert_to_{to}_seconds");
        let what = format!("a sample of {histogram} with its trace");
        let traces =
            async || Some(exemplars(&eventpulse.metrics().await, &histogram)).filter(|found| !found.is_empty());
        assert_eq!(shop.wait_for_async(&what, traces).await, [trace], "{histogram}");
    }
}

/// The line that an incident opened says of which alert, by the id that the incident and the alert's own span have, on standard error
/// as in the Collector.
async fn lines_name_the_alert(shop: &Shop, eventpulse: &EventPulse, trace: &str, alert_id: &str) {
    let raised = whole(shop, trace, &TO_THE_PATCH[4..], |_| true).await.0;
    assert_eq!(raised.attributes["eventpulse.alert_id"], alert_id, "{raised:?}");
    let opened = "An incident opened.";
    let lines = own_lines(&eventpulse.process().log(), trace);
    let line = lines.iter().find(|line| line["message"] == opened).unwrap_or_else(|| panic!("{lines:#?}"));
    assert_eq!(line["alert_id"], alert_id, "{line:#}");
    let exported = || exported_lines(shop.environment.collector(), trace).into_iter().find(|line| line.0 == opened);
    let line = shop.wait_for("the same line in the Collector", exported).await;
    assert_eq!(line.1["alert_id"], alert_id, "{line:?}");
}

/// The last point of a metric with these labels that the process told: the metric, and the point in it.
fn point(collector: &Collector, process: &str, name: &str, labels: &[(&str, &str)]) -> Option<(Value, Value)> {
    let labels: BTreeMap<String, String> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let mut last = None;
    for document in collector.received(Signal::Metrics).unwrap() {
        let resources = list(&document, "resourceMetrics");
        let of_process = |resource: &&Value| attributes(&resource["resource"])["service.instance.id"] == process;
        let scopes = resources.filter(of_process).flat_map(|resource| list(resource, "scopeMetrics"));
        for metric in scopes.flat_map(|scope| list(scope, "metrics")).filter(|metric| metric["name"] == name) {
            let kinds = ["sum", "gauge", "histogram"].into_iter().flat_map(|kind| list(&metric[kind], "dataPoints"));
            let meant = kinds.filter(|point| attributes(point) == labels).last();
            last = meant.map(|point| (metric.clone(), point.clone())).or(last);
        }
    }
    last
}

/// A counter and a histogram of an alert that was acted on, as `/metrics` had them (`text`).
async fn metrics_arrive(shop: &Shop, process: &str, text: &str) {
    let get = |name: &str, labels: &[(&str, &str)]| point(shop.environment.collector(), process, name, labels);
    let one = |found: &(Value, Value)| found.1["asInt"] == "1";
    let what = "a counter, of actions";
    let finished = || get("eventpulse_actions_finished", &[("result", "completed")]).filter(one);
    let (counter, _) = shop.wait_for(what, finished).await;
    assert_eq!((&counter["sum"]["isMonotonic"], &counter["sum"]["aggregationTemporality"]), (&true.into(), &2.into()));
    let (metric, took) = shop
        .wait_for("a histogram", || {
            get("eventpulse_alert_to_action_seconds", &[]).filter(|(_, point)| point["count"] == "1")
        })
        .await;
    assert_eq!(metric["unit"], "s");
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start)).map(str::to_owned);
    let sum: f64 = line("eventpulse_alert_to_action_seconds_sum ").unwrap().parse().unwrap();
    assert!((took["sum"].as_f64().unwrap() - sum).abs() < 1e-9, "{took:#} and {sum}");
    let bounds: Vec<f64> = list(&took, "explicitBounds").map(|bound| bound.as_f64().unwrap()).collect();
    let counts: Vec<u64> = list(&took, "bucketCounts").map(text_number).collect();
    let own = text.lines().filter_map(|line| line.strip_prefix("eventpulse_alert_to_action_seconds_bucket{le=\""));
    let own: Vec<(String, u64)> = own
        .map(|line| line.split_once("\"} ").unwrap())
        .map(|(bound, rest)| (bound.to_owned(), rest.split(' ').next().unwrap().parse().unwrap()))
        .collect();
    assert_eq!((own.len(), counts.len()), (bounds.len() + 1, bounds.len() + 1), "{own:?} {bounds:?}");
    let mut up_to = 0;
    for (at, (bound, count)) in own.iter().enumerate() {
        up_to += counts[at];
        assert_eq!(up_to, *count, "{own:?} and {counts:?}");
        assert!(bounds.get(at).is_none_or(|known| bound.parse::<f64>().unwrap() == *known), "{own:?} and {bounds:?}");
    }
}

/// A whole number, which OTLP/JSON writes as a text.
fn text_number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is no number"))
}

/// Metrics go out every so many milliseconds, and at the end.
fn exporting(launcher: Launcher, endpoint: &str, protocol: &str, interval_ms: u64) -> Launcher {
    launcher
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .env("OTEL_BLRP_SCHEDULE_DELAY", "100")
        .env("OTEL_METRIC_EXPORT_INTERVAL", &interval_ms.to_string())
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        .arg("--log-format=json")
}

async fn post(eventpulse: &EventPulse, traceparent: Option<&str>, alert: Alert) {
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(traceparent.map(|value| ("traceparent", value)));
    let body = webhook(&[alert]).to_string();
    let reply = client::request("POST", &eventpulse.url("webhooks/alertmanager"), &headers, body).await.unwrap();
    assert!(reply.is_success(), "{}", reply.text());
}

/// Lines of the log, of the Collector's log records, that belong to this trace: message, and what they say beside.
fn exported_lines(collector: &Collector, trace: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let documents = collector.received(Signal::Logs).unwrap();
    let resources = documents.iter().flat_map(|document| list(document, "resourceLogs"));
    let records =
        resources.flat_map(|resource| list(resource, "scopeLogs")).flat_map(|scope| list(scope, "logRecords"));
    let of_trace = records.filter(|record| record["traceId"] == trace);
    of_trace.map(|record| (text(&record["body"]["stringValue"]), attributes(record))).collect()
}

/// The same of the process's own lines.
fn own_lines(log: &str, trace: &str) -> Vec<Value> {
    let lines =
        log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("no JSON: {line}")));
    lines.filter(|line| line["trace_id"] == trace).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn l_a_process_that_was_killed_is_joined_by_the_one_that_goes_on_for_it() {
    let (mut shop, proxy, launcher) = Shop::open_behind_a_proxy("e2e-l").await.unwrap();
    let collector = shop.environment.start_collector().await.unwrap().http();
    let eventpulse = exporting(launcher, &collector, "http/protobuf", 3_600_000).start(START).await.unwrap();
    let held = proxy.limited_rule("the first patch", When::patch_of_replicas(), Fault::Hang, 0, 1);
    let senders = format!("00-{SENDERS_TRACE}-{SENDERS_SPAN}-01");
    post(&eventpulse, Some(&senders), Alert::cpu_high("svc-a", Timestamp::now())).await;
    held.wait_for(1, PATIENCE).await.unwrap();

    // The alert has its reason. The message goes out meanwhile, and its receiver is told of its span.
    assert_eq!(whole(&shop, SENDERS_TRACE, &TO_THE_DECISION, |_| true).await.1, SENDERS_SPAN);
    let (message, beginning) = whole(&shop, SENDERS_TRACE, &TO_THE_MESSAGE, |_| true).await;
    assert_eq!(beginning, SENDERS_SPAN);
    assert_eq!(whole(&shop, SENDERS_TRACE, &TO_THE_DELIVERY, |_| true).await.1, SENDERS_SPAN);
    let received = shop.messages(1).await;
    assert_eq!(received[0].header("traceparent"), Some(&*format!("00-{SENDERS_TRACE}-{}-01", message.id)));

    // Another alert of the group, in a trace of its own, joins the incident: it is linked, and the incident stays in its trace.
    let other = "11111111111111111111111111111111";
    let joins = Alert::cpu_high("svc-a", Timestamp::now()).label("instance", "b");
    post(&eventpulse, Some(&format!("00-{other}-{SENDERS_SPAN}-01")), joins).await;
    let is_linked =
        |span: &Span| span.links == [SENDERS_TRACE] && span.attributes["messaging.consumer.group.name"] == "rules";
    whole(&shop, other, &TO_THE_MESSAGE[3..], is_linked).await;

    let requested = whole(&shop, SENDERS_TRACE, &TO_THE_PATCH[2..], |_| true).await.0;
    eventpulse.kill();
    let again = eventpulse.start_again(START).await.unwrap();
    shop.incidents_in(1, &["Resolved"]).await;
    let (patch, beginning) = whole(&shop, SENDERS_TRACE, &TO_THE_PATCH, |span| !span.failed).await;
    assert_eq!((beginning.as_str(), patch.kind), (SENDERS_SPAN, 3), "{patch:?}");
    assert_ne!(patch.process, requested.process, "the one that was killed did not send this patch");
    assert_eq!(patch.attributes["eventpulse.plan"], "2", "{patch:?}");
    let action = &shop.get("actions")[0];
    assert_eq!(patch.attributes["eventpulse.action_id"], text(&action["metadata"]["name"]));
    // The sent result, its work, and what the incident says in the end.
    let of_incidents = |span: &Span| span.attributes["messaging.consumer.group.name"] == "incidents";
    whole(&shop, SENDERS_TRACE, &TO_THE_END, of_incidents).await;
    let of_trace = |value: &Value| text(value).starts_with(&format!("00-{SENDERS_TRACE}-"));
    let incident = &shop.get("incidents")[0];
    assert!(of_trace(&action["spec"]["traceparent"]) && of_trace(&incident["spec"]["traceparent"]), "{incident:#}");
    for span in spans(shop.environment.collector()).values() {
        assert!([SENDERS_TRACE, other].contains(&span.trace.as_str()), "{span:?}");
    }

    // Lines say what they belong to, in the log and in the Collector, and the span of a line is one that is there.
    let ended = shop
        .wait_for("the line of the action's end", || {
            let mut lines = exported_lines(shop.environment.collector(), SENDERS_TRACE).into_iter();
            lines.find(|(message, _)| message == "An action came to its end.")
        })
        .await;
    assert_eq!(ended.1["action_id"], patch.attributes["eventpulse.action_id"]);
    assert_eq!(ended.1["incident_id"], text(&incident["metadata"]["name"]));
    let raised = whole(&shop, SENDERS_TRACE, &TO_THE_PATCH[4..], |_| true).await.0;
    assert_eq!(ended.1["alert_id"], raised.attributes["eventpulse.alert_id"]);
    let own = own_lines(&again.process().log(), SENDERS_TRACE);
    let own = own.iter().find(|line| line["message"] == "An action came to its end.").unwrap();
    assert_eq!(own["action_id"], ended.1["action_id"].as_str());
    assert_eq!(own["alert_id"], ended.1["alert_id"].as_str());
    assert_eq!(own["span_id"], patch.parent.as_str(), "{own:#}");

    // Of this process nothing has gone out yet: at the end all does.
    let told = again.metrics().await;
    assert!(
        point(shop.environment.collector(), &patch.process, "eventpulse_incidents", &[("phase", "Resolved")]).is_none()
    );
    assert!(again.stop(START).await);
    metrics_arrive(&shop, &patch.process, &told).await;
    shop.environment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l_what_failed_and_what_cleared_stand_in_the_trace_of_the_alert_that_opened() {
    let (mut shop, proxy, launcher) = Shop::open_behind_a_proxy("e2e-l-cleared").await.unwrap();
    let collector = shop.environment.start_collector().await.unwrap().http();
    let told = |template: &str, event: &str| json!({"channelRef": {"name": "ops-slack"}, "template": template, "events": [event]});
    let notifications = [told("ActionFailed", "ActionFailed"), told("IncidentResolved", "Resolved")];
    shop.patch("rule/cpu-high", &json!({"spec": {"notifications": notifications}}).to_string()).unwrap();
    proxy.rule("no scaling", When::patch_of_replicas(), Fault::Answer(503));
    proxy.rule("no restart", When::patch_of_template(), Fault::Answer(503));
    let eventpulse = exporting(launcher, &collector, "http/protobuf", 3_600_000).start(START).await.unwrap();
    let began = Timestamp::now();
    post(&eventpulse, Some(&format!("00-{SENDERS_TRACE}-{SENDERS_SPAN}-01")), Alert::cpu_high("svc-a", began)).await;
    shop.incidents_in(1, &["Failed"]).await;
    let (failed, beginning) = whole(&shop, SENDERS_TRACE, &TO_THE_FAILURE, |_| true).await;
    assert_eq!(beginning, SENDERS_SPAN);
    let ran = spans(shop.environment.collector()).remove(&failed.parent).unwrap();
    assert_eq!((ran.failed, ran.attributes["eventpulse.result"].as_str()), (true, "failed"), "{ran:?}");
    assert_eq!(whole(&shop, SENDERS_TRACE, &TO_THE_WORD_OF_THE_FAILURE, |_| true).await.1, SENDERS_SPAN);

    // The alert clears in a trace of its own, which is linked; what it ends stays where it began.
    let other = "11111111111111111111111111111111";
    let cleared = Alert::cpu_high("svc-a", began).resolved(Timestamp::now());
    post(&eventpulse, Some(&format!("00-{other}-{SENDERS_SPAN}-01")), cleared).await;
    shop.incidents_in(1, &["Resolved"]).await;
    let is_linked =
        |span: &Span| span.links == [SENDERS_TRACE] && span.attributes["messaging.consumer.group.name"] == "rules";
    whole(&shop, other, &TO_THE_MESSAGE[3..], is_linked).await;
    assert_eq!(whole(&shop, SENDERS_TRACE, &TO_THE_RESOLUTION, |_| true).await.1, SENDERS_SPAN);
    let (message, beginning) = whole(&shop, SENDERS_TRACE, &TO_THE_WORD_OF_THE_RESOLUTION, |_| true).await;
    assert_eq!(beginning, SENDERS_SPAN);
    // Two steps failed, and it is over.
    let received = shop.messages(3).await;
    assert_eq!(received[2].header("traceparent"), Some(&*format!("00-{SENDERS_TRACE}-{}-01", message.id)));
    shop.environment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l_over_kafka_and_grpc_a_request_without_a_trace_begins_one() {
    let mut shop = Shop::open("e2e-l-kafka", true).await.unwrap();
    let collector = shop.environment.start_collector().await.unwrap().grpc();
    shop.environment.plane().apply(NOTED).unwrap();
    let kafka = shop.environment.kafka().bootstrap();
    let launcher = exporting(shop.launcher("eventpulse").kafka(&kafka, ""), &collector, "grpc", 200);
    let eventpulse = launcher.start(START).await.unwrap();
    let hostile = format!("00-{SENDERS_TRACE}-0000000000000000-01");
    let alert = Alert::cpu_high("svc-a", Timestamp::now());
    post(&eventpulse, Some(&hostile), alert.clone()).await;
    let incident = shop.incidents_in(1, &["Resolved"]).await.remove(0);
    let trace = text(&incident["spec"]["traceparent"]).split('-').nth(1).unwrap().to_owned();
    assert_ne!(trace, SENDERS_TRACE, "what is no trace context was believed");
    for names in [&TO_THE_PATCH[..], &TO_THE_MESSAGE, &TO_THE_DECISION, &TO_THE_INCIDENT[1..], &TO_THE_DELIVERY] {
        assert_eq!(whole(&shop, &trace, names, |_| true).await.1, "", "the request begins its trace");
    }
    let by_kind = |kind: i64| spans(shop.environment.collector()).into_values().filter(move |span| span.kind == kind);
    assert!(by_kind(4).all(|span| span.name.starts_with("send ")) && by_kind(4).count() >= 6);
    assert!(by_kind(5).all(|span| span.name.starts_with("process ")) && by_kind(5).count() >= 6);
    assert_eq!(
        by_kind(2).map(|span| span.attributes["http.response.status_code"].clone()).collect::<Vec<_>>(),
        ["200"]
    );
    samples_name_their_trace(&shop, &eventpulse, &trace).await;
    let known = &incident["status"]["alerts"][0];
    assert_eq!(known["fingerprint"], alert.fingerprint(), "{incident:#}");
    lines_name_the_alert(&shop, &eventpulse, &trace, known["alertID"].as_str().unwrap()).await;
    // While it runs, metrics come every now and then.
    let process = by_kind(2).next().unwrap().process;
    let told = eventpulse.metrics().await;
    metrics_arrive(&shop, &process, &told).await;
    let opened = || point(shop.environment.collector(), &process, "eventpulse_alerts_decided", &[("reason", "opened")]);
    let is_one = || opened().is_some_and(|(_, point)| point["asInt"] == "1").then_some(());
    shop.wait_for("the counter of what was decided", is_one).await;
    assert_eq!(eventpulse.metric("eventpulse_alerts_decided_total", "reason=\"opened\"").await, 1.0);
    let kinds = ["process_resident_memory_bytes", "process_cpu_seconds"]
        .map(|name| point(shop.environment.collector(), &process, name, &[]).unwrap());
    assert_eq!((&kinds[0].0["unit"], &kinds[1].0["unit"]), (&"By".into(), &"s".into()));
    assert!(kinds[0].1["asInt"].as_str().unwrap().parse::<u64>().unwrap() > 1_000_000, "{kinds:#?}");
    let incidents = || point(shop.environment.collector(), &process, "eventpulse_incidents", &[("phase", "Resolved")]);
    let one = || incidents().filter(|(_, point)| point["asInt"] == "1");
    let (gauge, _) = shop.wait_for("a gauge, of incidents", one).await;
    assert!(gauge["gauge"].is_object() && gauge["unit"].as_str().unwrap_or_default().is_empty(), "{gauge:#}");
    // Where nothing is done and nobody is told, what is said of an incident can follow from its opening only.
    let senders = format!("00-{SENDERS_TRACE}-{SENDERS_SPAN}-01");
    post(&eventpulse, Some(&senders), Alert::firing("Noted", Timestamp::now())).await;
    let of_incidents = |span: &Span| span.attributes["cloudevents.event_source"] == "eventpulse/incidents";
    assert_eq!(whole(&shop, SENDERS_TRACE, &TO_THE_INCIDENT, of_incidents).await.1, SENDERS_SPAN);
    // What is still in the queues goes out at the end.
    assert!(eventpulse.stop(START).await);
    shop.wait_for("the last line", || {
        let logs = shop.environment.collector().received(Signal::Logs).unwrap();
        format!("{logs:?}").contains("Stopped.").then_some(())
    })
    .await;
    shop.environment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l_a_collector_that_is_away_fails_nothing_and_the_filter_of_the_log_changes_at_run_time() {
    let shop = Shop::open("e2e-l-away", false).await.unwrap();
    let filter = shop.environment.dir().join("filter");
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let launcher = exporting(shop.launcher("eventpulse"), &nobody, "grpc", 200).env("OTEL_BSP_MAX_QUEUE_SIZE", "8");
    let launcher = launcher.env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8");
    let eventpulse = launcher.arg(format!("--log-filter-file={}", filter.display())).start(START).await.unwrap();
    post(&eventpulse, None, Alert::cpu_high("svc-a", Timestamp::now())).await;
    let incident = shop.incidents_in(1, &["Resolved"]).await.remove(0);
    shop.messages(1).await;
    let log = || eventpulse.process().log();
    let count = |text: &str| log().matches(text).count();
    for signal in ["traces", "metrics"] {
        let line = format!("\"signal\":\"{signal}\"");
        shop.wait_for("the line of telemetry", || log().contains(&line).then_some(())).await;
        assert_eq!(count(&line), 1, "{signal}: said once");
        assert!(log().lines().any(|found| found.contains(&line) && found.contains("Telemetry is not taken")));
    }
    let trace = text(&incident["spec"]["traceparent"]).split('-').nth(1).unwrap().to_owned();
    assert!(own_lines(&log(), &trace).iter().any(|line| !line["action_id"].is_null()), "{}", log());

    assert_eq!(count("\"level\":\"DEBUG\""), 0);
    std::fs::write(&filter, "info,eventpulse=debug\n").unwrap();
    shop.wait_for("the filter", || log().contains("The log's filter was read.").then_some(())).await;
    post(&eventpulse, None, Alert::cpu_high("svc-b", Timestamp::now())).await;
    std::fs::write(&filter, "eventpulse=loud").unwrap();
    shop.wait_for("the word on a broken filter", || log().contains("The log's filter stays as it was.").then_some(()))
        .await;
    std::fs::write(&filter, "error").unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = log().len();
    post(&eventpulse, None, Alert::cpu_high("svc-c", Timestamp::now())).await;
    shop.wait_for("three incidents", || (shop.get("incidents").len() == 3).then_some(())).await;
    assert_eq!(&log()[before..], "", "only errors are said");
    let begin = std::time::Instant::now();
    assert!(eventpulse.stop(START).await, "{}", log());
    println!("\n  stopped {:.1} s after SIGTERM, with the Collector away", begin.elapsed().as_secs_f32());
    shop.environment.stop().await;
}
