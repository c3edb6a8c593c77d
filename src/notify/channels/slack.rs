//! Slack's incoming webhooks, and what speaks their format (Mattermost, Rocket.Chat): Block Kit within its limits.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};

use super::{Channel, Message, marks_of};
use crate::notify::{
    deliver::Outcome,
    http::{HttpRequest, HttpTransport, Secret, judge},
    render::{Markup, cut, escaped, render},
};

/// Block Kit's limits (docs.slack.dev, reference of the header, section and context blocks).
const HEADER_MAX: usize = 150;
const SECTION_MAX: usize = 3000;
const FIELD_MAX: usize = 2000;
const CONTEXT_MAX: usize = 3000;

/// One incoming webhook.
pub struct Slack {
    /// The way out.
    pub http: Arc<dyn HttpTransport>,
    /// The webhook's URL, which is itself the credential.
    pub url: Secret,
}

#[async_trait]
impl Channel for Slack {
    async fn send(&self, message: Message<'_>, timeout: Duration) -> Outcome {
        let request = HttpRequest {
            url: self.url.clone(),
            // Slack ignores them; a relay before it may not.
            headers: marks_of(message),
            body: Bytes::from(payload(message).to_string()),
        };
        judge(self.http.post(&request, timeout).await, &self.url, message.now)
    }
}

/// The message in Block Kit. `text` is what notifications on a phone show; it is parsed as mrkdwn, a header is not.
fn payload(message: Message<'_>) -> Value {
    let Message { name, spec, templates, .. } = message;
    let plain = render(name, spec, templates, Markup::Plain);
    let marked = render(name, spec, templates, Markup::Mrkdwn);
    let mut blocks = vec![json!({
        "type": "header", "text": {"type": "plain_text", "text": cut(&plain.title, HEADER_MAX), "emoji": false},
    })];
    if !marked.body.is_empty() {
        blocks.push(json!({"type": "section", "text": mrkdwn(&cut(&marked.body, SECTION_MAX))}));
    }
    let value = |text: &str| escaped(text, Markup::Mrkdwn);
    let mut fields = vec![
        field("Severity", &value(&spec.incident.severity)),
        field("Rule", &value(&format!("{}/{}", name.namespace, spec.rule_ref.name))),
        field("Alerts", &spec.incident.alert_count.to_string()),
    ];
    if let Some(target) = &spec.context.target {
        fields.push(field("Target", &value(target)));
    }
    blocks.push(json!({"type": "section", "fields": fields}));
    let (namespace, incident) = (value(&name.namespace), value(&spec.incident.incident_id));
    let mut context = format!("Incident `{incident}` · `kubectl -n {namespace} describe incident {incident}`");
    if spec.duplicate_possible {
        context.push_str(" · possibly a repetition");
    }
    if let Some(note) = &marked.note {
        context.push_str(&format!("\n{note}"));
    }
    blocks.push(json!({"type": "context", "elements": [mrkdwn(&cut(&context, CONTEXT_MAX))]}));
    json!({"text": cut(&marked.title, SECTION_MAX), "blocks": blocks})
}

fn field(name: &str, value: &str) -> Value {
    let value = if value.is_empty() { "–" } else { value };
    mrkdwn(&cut(&format!("*{name}*\n{value}"), FIELD_MAX))
}

/// `verbatim`: Slack makes no links and mentions of what only looks like one.
fn mrkdwn(text: &str) -> Value {
    json!({"type": "mrkdwn", "text": text, "verbatim": true})
}

#[cfg(test)]
#[path = "slack_tests.rs"]
mod tests;
