//! What the lines that are said of a message belong to.

use super::*;
use crate::runtime::telemetry::heard::listen;

#[tokio::test]
async fn the_line_of_a_delivery_names_alert_incident_message_and_trace() {
    let (heard, (api, bus, _sink)) = (listen(), world("10s").await);
    let running = Running::start(&api, &bus, 1, 0);
    let request = request("ops-slack", "Opened");
    running.ask(&request, "a").await;
    running.in_phase(&request, NotificationPhase::Delivered).await;
    running.consumed().await;
    running.stop().await;
    let line = heard.line("A message was delivered.").unwrap();
    assert_eq!(line["alert_id"], request.incident.alerts[0].alert_id.as_str(), "{line:#}");
    assert_eq!(line["incident_id"], request.incident.incident_id.as_str(), "{line:#}");
    assert_eq!(line["notification_id"], request.notification_id.as_str(), "{line:#}");
    assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c", "{line:#}");
}
