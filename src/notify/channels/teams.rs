//! Microsoft Teams, by a workflow that begins "When a Teams webhook request is received": an Adaptive Card within its limit. (The
//! connectors that took MessageCards are retired.)

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};

use super::{Channel, Message, marks_of};
use crate::{
    api::v1alpha1::IncidentEvent,
    notify::{
        deliver::Outcome,
        http::{HttpRequest, HttpTransport, Secret, judge},
        render::{BODY_MAX, Markup, cut, escaped, render},
    },
};

/// A message may have 28 KB, whatever a KB is; beyond that Teams shows nothing (learn.microsoft.com, "Limits and specifications").
const MESSAGE_MAX: usize = 28_000;
/// The most characters of one fact.
const FACT_MAX: usize = 256;

/// One workflow.
pub struct Teams {
    /// The way out.
    pub http: Arc<dyn HttpTransport>,
    /// The workflow's URL, whose signature is the credential.
    pub url: Secret,
}

#[async_trait]
impl Channel for Teams {
    async fn send(&self, message: Message<'_>, timeout: Duration) -> Outcome {
        let request = HttpRequest {
            url: self.url.clone(),
            // A workflow can read them; Teams itself does not show them.
            headers: marks_of(message),
            body: Bytes::from(payload(message)),
        };
        judge(self.http.post(&request, timeout).await, &self.url, message.now)
    }
}

/// The message as text of JSON: the body is cut until it fits.
fn payload(message: Message<'_>) -> String {
    let mut body_max = BODY_MAX;
    loop {
        let text = card(message, body_max).to_string();
        // Without any body it always fits: everything else is bounded.
        if text.len() <= MESSAGE_MAX || body_max == 0 {
            return text;
        }
        body_max = if body_max > 100 { body_max / 4 * 3 } else { 0 };
    }
}

fn card(message: Message<'_>, body_max: usize) -> Value {
    let Message { name, spec, templates, .. } = message;
    let marked = render(name, spec, templates, Markup::Markdown);
    let incident = &spec.incident;
    let mut body = vec![json!({
        "type": "TextBlock", "text": marked.title, "weight": "Bolder", "size": "Medium", "wrap": true,
        "color": color(spec.event),
    })];
    if !marked.body.is_empty() && body_max > 0 {
        // A single line break is none in Markdown.
        body.push(text_block(&cut(&marked.body, body_max).replace('\n', "\n\n")));
    }
    let mut facts = vec![
        fact("State", &format!("{:?}", spec.event)),
        fact("Severity", &incident.severity),
        fact("Rule", &format!("{}/{}", name.namespace, spec.rule_ref.name)),
        fact("Alerts", &incident.alert_count.to_string()),
    ];
    facts.extend(spec.context.target.as_deref().map(|target| fact("Target", target)));
    facts.extend([
        fact("Opened", &incident.opened_at.to_string()),
        fact("Decided", &spec.decided_at.to_string()),
        fact("Incident", &incident.incident_id),
    ]);
    body.push(json!({"type": "FactSet", "facts": facts}));
    let look = format!("kubectl -n {} describe incident {}", name.namespace, incident.incident_id);
    body.push(subtle(&escaped(&look, Markup::Markdown)));
    if spec.duplicate_possible {
        body.push(subtle("possibly a repetition"));
    }
    body.extend(marked.note.as_deref().map(subtle));
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": null,
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "fallbackText": cut(&marked.title, FACT_MAX),
                "body": body,
                "msteams": {"width": "Full"},
            },
        }],
    })
}

fn color(event: IncidentEvent) -> &'static str {
    match event {
        IncidentEvent::Resolved => "Good",
        IncidentEvent::Opened | IncidentEvent::Mitigating => "Warning",
        IncidentEvent::ActionFailed | IncidentEvent::Failed => "Attention",
    }
}

fn text_block(text: &str) -> Value {
    json!({"type": "TextBlock", "text": text, "wrap": true})
}

fn subtle(text: &str) -> Value {
    json!({"type": "TextBlock", "text": text, "wrap": true, "isSubtle": true, "size": "Small", "spacing": "Small"})
}

/// A fact's value is Markdown too.
fn fact(title: &str, value: &str) -> Value {
    let value = cut(&escaped(value, Markup::Markdown), FACT_MAX);
    json!({"title": title, "value": if value.is_empty() { "–" } else { &value }})
}

#[cfg(test)]
#[path = "teams_tests.rs"]
mod tests;
