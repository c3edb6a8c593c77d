//! What a message says: a template of the channel, or a built-in one, filled with the notification's facts. Pure.
//!
//! Label values and annotations are somebody else's making, and hostile ones must not become mentions, links or endless messages.
//! So values are escaped *before* a template sees them, for where they will stand ([`Markup`]); what the template itself writes is
//! its author's own. Work and output are bounded (promise 6), and rendering always gives a message: a template that does not work
//! is replaced by the built-in one of the event, with a note that says why.

use serde_json::{Value, json};

use crate::{
    api::v1alpha1::{IncidentAlertState, IncidentEvent, MessageTemplate, NotificationSpec},
    events::NamespacedName,
    template::{self, TemplateError},
};

/// The most characters of a title and of a body, before a channel's own limits.
pub const TITLE_MAX: usize = 512;
/// See [`TITLE_MAX`].
pub const BODY_MAX: usize = 12_000;

/// Where values will stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Markup {
    /// Text without markup.
    Plain,
    /// Slack's mrkdwn: `&`, `<` and `>` are its control characters (docs.slack.dev, "Formatting message text").
    Mrkdwn,
    /// The Markdown of Adaptive Cards: a backslash takes every punctuation mark's meaning away (learn.microsoft.com, "Text features";
    /// CommonMark, section 2.4).
    Markdown,
}

/// A message before a channel gives it its form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// One line.
    pub title: String,
    /// Any number of lines, maybe none.
    pub body: String,
    /// Why the template that was asked for was not used.
    pub note: Option<String>,
}

struct BuiltIn {
    name: &'static str,
    title: &'static str,
    body: &'static str,
}

/// One for each event; their names are public ([`crate::template::BUILT_IN`]).
const BUILT_IN: [BuiltIn; 5] = [
    BuiltIn {
        name: "IncidentOpened",
        title: "Incident opened: {{ incident.summary }}",
        body: "{{ incident.summary }}\n\
               Rule {{ incident.rule }} opened an incident of severity {{ incident.severity }}.\
               {% if context.target %} Acting on {{ context.target }}.{% endif %}",
    },
    BuiltIn {
        name: "IncidentMitigating",
        title: "Mitigating: {{ incident.summary }}",
        body: "{{ incident.summary }}\n\
               {% if context.step %}Step {{ context.step }}{% else %}A step{% endif %} was requested\
               {% if context.target %} on {{ context.target }}{% endif %}.",
    },
    BuiltIn {
        name: "ActionFailed",
        title: "Action failed: {{ incident.summary }}",
        body: "{% if context.step %}Step {{ context.step }}{% else %}A step{% endif %}\
               {% if context.target %} on {{ context.target }}{% endif %} failed\
               {% if context.reason %} ({{ context.reason }}){% endif %}.\
               {% if context.message %}\n{{ context.message }}{% endif %}\
               {% if context.nextStep %}\nNext: {{ context.nextStep }}.{% else %}\nThere is no further step.{% endif %}",
    },
    BuiltIn {
        name: "IncidentResolved",
        title: "Resolved: {{ incident.summary }}",
        body: "{{ incident.summary }}\n\
               {% if context.message %}{{ context.message }}{% else %}The incident is over.{% endif %}",
    },
    BuiltIn {
        name: "IncidentFailed",
        title: "Needs a person: {{ incident.summary }}",
        body: "No step of rule {{ incident.rule }} helped; the incident stays open until its alerts clear or somebody resolves it.\
               {% if context.message %}\n{{ context.message }}{% endif %}\
               {% if context.repetition %}\nThis was told {{ context.repetition }} time(s) before.{% endif %}",
    },
];

/// The built-in template's name for an event.
pub fn built_in_name(event: IncidentEvent) -> &'static str {
    match event {
        IncidentEvent::Opened => "IncidentOpened",
        IncidentEvent::Mitigating => "IncidentMitigating",
        IncidentEvent::ActionFailed => "ActionFailed",
        IncidentEvent::Resolved => "IncidentResolved",
        IncidentEvent::Failed => "IncidentFailed",
    }
}

/// The message of a notification, with the channel's own templates before the built-in ones.
pub fn render(name: &NamespacedName, spec: &NotificationSpec, own: &[MessageTemplate], markup: Markup) -> Rendered {
    let variables = minijinja::Value::from(minijinja::value::Serde(&variables(name, spec, markup)));
    let built_in = |wanted: &str| BUILT_IN.iter().find(|template| template.name == wanted);
    let chosen = match own.iter().find(|template| template.name == spec.template) {
        Some(template) => fill(&template.title, template.body.as_deref().unwrap_or_default(), &variables)
            .map_err(|error| format!("template {} of the channel: {error}", template.name)),
        None => match built_in(&spec.template) {
            Some(template) => fill(template.title, template.body, &variables).map_err(|error| error.to_string()),
            None => Err(format!("there is no template {} on the channel", spec.template)),
        },
    };
    let problem = match chosen {
        Ok((title, body)) if !title.is_empty() => return Rendered { title, body, note: None },
        Ok(_) => format!("template {} gave an empty title", spec.template),
        Err(problem) => problem,
    };
    let fallback = built_in(built_in_name(spec.event))
        .and_then(|template| fill(template.title, template.body, &variables).ok())
        .filter(|(title, _)| !title.is_empty());
    // Every event has a built-in template that renders for every state; the name alone would still be a message.
    let (title, body) = fallback.unwrap_or_else(|| (built_in_name(spec.event).to_owned(), String::new()));
    Rendered { title, body, note: Some(cut(&escaped(&problem, markup), 500)) }
}

fn fill(title: &str, body: &str, variables: &minijinja::Value) -> Result<(String, String), TemplateError> {
    let title = template::render(title, variables)?.split_whitespace().collect::<Vec<_>>().join(" ");
    let body = template::render(body, variables)?;
    Ok((cut(&title, TITLE_MAX), cut(body.trim(), BODY_MAX)))
}

/// What templates can use; `docs/notifications.md` lists it.
fn variables(name: &NamespacedName, spec: &NotificationSpec, markup: Markup) -> Value {
    let text = |text: &str| escaped(text, markup);
    // Empty text where there is none: it is false in a condition, and shows nothing.
    let maybe = |value: &Option<String>| text(value.as_deref().unwrap_or_default());
    let incident = &spec.incident;
    let alerts: Vec<Value> = incident
        .alerts
        .iter()
        .map(|alert| {
            json!({
                "id": text(&alert.alert_id),
                "fingerprint": text(&alert.fingerprint),
                "startsAt": alert.starts_at.to_string(),
                "firing": alert.state == IncidentAlertState::Firing,
            })
        })
        .collect();
    json!({
        "incident": {
            "id": text(&incident.incident_id), "namespace": text(&name.namespace), "rule": text(&spec.rule_ref.name),
            "severity": text(&incident.severity), "summary": text(&incident.summary),
            "openedAt": incident.opened_at.to_string(), "alertCount": incident.alert_count, "alerts": alerts,
        },
        "event": format!("{:?}", spec.event),
        "context": {
            "target": maybe(&spec.context.target), "step": maybe(&spec.context.step),
            "reason": maybe(&spec.context.reason), "message": maybe(&spec.context.message),
            "nextStep": maybe(&spec.context.next_step), "repetition": spec.context.repetition,
        },
        "notification": {
            "id": text(&name.name), "decidedAt": spec.decided_at.to_string(), "deadline": spec.deadline.to_string(),
        },
    })
}

/// A value as it may stand in a message: without control characters and without those that reverse the direction of text, which
/// make one thing look like another.
pub fn escaped(text: &str, markup: Markup) -> String {
    let harmless = |c: &char| {
        (!c.is_control() || matches!(c, '\n' | '\t'))
            && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars().filter(harmless) {
        match (markup, c) {
            (Markup::Mrkdwn, '&') => escaped.push_str("&amp;"),
            (Markup::Mrkdwn, '<') => escaped.push_str("&lt;"),
            (Markup::Mrkdwn, '>') => escaped.push_str("&gt;"),
            (Markup::Markdown, c) if is_markup(c) || is_list(c, &escaped) => escaped.extend(['\\', c]),
            (_, c) => escaped.push(c),
        }
    }
    escaped
}

/// What Markdown reads as emphasis, code, a link, a heading, a quotation or HTML, wherever it stands.
fn is_markup(c: char) -> bool {
    matches!(c, '\\' | '*' | '_' | '`' | '~' | '[' | ']' | '(' | ')' | '#' | '<' | '>' | '|' | '&' | '!')
}

/// What makes a list of the line that it begins: `-`, `+`, or the dot after a number.
fn is_list(c: char, before: &str) -> bool {
    let line = before.rsplit('\n').next().unwrap_or_default().trim_start();
    match c {
        '-' | '+' => line.is_empty(),
        '.' => !line.is_empty() && line.chars().all(|c| c.is_ascii_digit()),
        _ => false,
    }
}

/// At most `max` characters, with `…` where something is missing, and never half an escape.
pub fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut kept: String = text.chars().take(max.saturating_sub(1)).collect();
    if let Some(at) = kept.rfind('&')
        && kept.len() - at < "&amp;".len()
        && !kept[at..].contains(';')
    {
        kept.truncate(at);
    }
    // Half an escape would take the mark's meaning away.
    if (kept.len() - kept.trim_end_matches('\\').len()) % 2 == 1 {
        kept.pop();
    }
    kept.push('…');
    kept
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
