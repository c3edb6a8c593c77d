//! What the lines that are said of an action belong to.

use super::*;
use crate::runtime::telemetry::heard::listen;

#[tokio::test]
async fn the_line_of_an_actions_end_names_alert_incident_action_and_trace() {
    let (heard, bus, api) = (listen(), Arc::new(MemoryBus::new(3)), cluster());
    let test = start(&bus, &api);
    let alert_id = AlertId::new("prom", "ab", test.clock.now());
    let alert = AlertLink {
        alert_id: alert_id.clone(),
        fingerprint: "ab".into(),
        starts_at: test.clock.now(),
        status: AlertStatus::Firing,
    };
    let plain = request(&test);
    let request =
        ActionRequested { incident: IncidentHeader { alerts: vec![alert], ..plain.incident.clone() }, ..plain };
    let mut event = record_of(&request).decode().unwrap();
    event.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    bus.publish(vec![event.encode().unwrap()]).await.unwrap();
    assert_eq!(phase(&ended(&api).await), "Completed");
    stop(test).await;
    let line = heard.line("An action came to its end.").unwrap();
    assert_eq!(line["alert_id"], alert_id.as_str(), "{line:#}");
    assert_eq!(line["action_id"], request.action_id.as_str(), "{line:#}");
    assert_eq!(line["incident_id"], request.incident.incident_id.as_str(), "{line:#}");
    assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c", "{line:#}");
}
