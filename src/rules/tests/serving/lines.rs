//! What the lines that are said of an alert and its incident belong to.

use http::Method;

use super::*;
use crate::{events::AlertId, runtime::telemetry::heard::listen};

/// In the trace with this id, and of one partition, so that they come in their order.
fn event(told: Told, trace: &str) -> Event {
    Event { key: "one".into(), traceparent: Some(format!("00-{trace}-b7ad6b7169203331-01")), ..told.event() }
}

fn id_of(told: Told) -> AlertId {
    told.raised().alert_id
}

const FIRST: &str = "0af7651916cd43dd8448eb211c80319c";
const OPENING: &str = "11111111111111111111111111111111";

#[tokio::test]
async fn the_line_of_an_opened_incident_names_its_own_alert_and_trace_among_those_it_was_decided_with() {
    let (heard, api) = (listen(), FakeApi::new());
    put_rule(&api, &rule(CPU_HIGH));
    let free = Arc::new(tokio::sync::Semaphore::new(0));
    let held = Arc::clone(&free);
    let is_write = |method: &Method, path: &str| *method != Method::GET && path.ends_with("/alertgroups");
    api.on_request(
        move |seen| {
            if is_write(&seen.method, &seen.path) { Fault::Hold(Arc::clone(&held)) } else { Fault::None }
        },
    );
    let running = Running::start(api.clone(), MemoryBus::new(4));
    // An end that came before its beginning is remembered: a write behind which the others wait, and become one.
    running.publish(vec![event(resolved(1, 0, 1), FIRST)]).await;
    until("the first write", || api.seen().iter().any(|seen| is_write(&seen.method, &seen.path)).then_some(())).await;
    running.publish(vec![event(resolved(2, 0, 1), FIRST), event(firing(3, 2), OPENING)]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    free.add_permits(100);
    running.reasons(3).await;
    running.consumed(Topic::AlertRaised).await;
    let opened = running.events(Topic::IncidentOpened).remove(0);
    running.stop().await;
    let line = heard.line("An incident opened.").unwrap();
    assert_eq!(line["alert_id"], id_of(firing(3, 2)).as_str(), "{line:#}");
    assert_eq!(line["incident_id"], opened.payload.incident().unwrap().incident_id.as_str(), "{line:#}");
    assert_eq!(line["trace_id"], OPENING, "{line:#}");
}

#[tokio::test]
async fn the_line_of_an_alert_that_a_rule_cannot_decide_names_it() {
    let (heard, api) = (listen(), FakeApi::new());
    put_rule(&api, &rule_with(|rule| rule.spec.r#match.conditions[0].expression = "alert.labels.nope == 'x'".into()));
    let running = Running::start(api, MemoryBus::new(4));
    running.publish(vec![event(firing(1, 0), FIRST)]).await;
    assert_eq!(running.reasons(1).await, [DecisionReason::Invalid]);
    running.consumed(Topic::AlertRaised).await;
    running.stop().await;
    let line = heard.line("A rule cannot decide an alert; it opens nothing. Told once until a rule changes.").unwrap();
    assert_eq!(line["alert_id"], id_of(firing(1, 0)).as_str(), "{line:#}");
    assert_eq!(line["trace_id"], FIRST, "{line:#}");
}
