//! What the lines that are said of an incident belong to.

use http::Method;

use super::{
    make::header,
    service::{World, eventually, stop, story},
};
use crate::{
    runtime::telemetry::heard::listen,
    testing::{Fault, Seen},
};

#[tokio::test]
async fn a_line_about_an_incident_names_its_alert_and_its_trace() {
    let (heard, world) = (listen(), World::new());
    world.api.on_request(|seen: &Seen| match seen.method {
        Method::POST if seen.path.ends_with("/incidents") => Fault::Answer(403),
        _ => Fault::None,
    });
    let (name, mut events) = story("svc-a");
    events[0].traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    let replica = world.start();
    world.publish(&events[..1]).await;
    eventually("a letter", || !world.letters().is_empty()).await;
    stop(replica).await;
    let line = heard.line("An incident cannot be written.").unwrap();
    assert_eq!(line["alert_id"], header().alerts[0].alert_id.as_str(), "{line:#}");
    assert_eq!(line["incident_id"], name, "{line:#}");
    assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c", "{line:#}");
}
