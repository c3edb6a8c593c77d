//! Messages: whatever a template and an alert's texts say, each channel gets one message within its limits, in which no value is a
//! mention, a link, a header or a line of its own; and whatever a channel answers, no secret is told.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use eventpulse::{
    api::v1alpha1::{EmailChannel, EmailTLS, IncidentEvent, MessageTemplate, NotificationSpec},
    compile::addresses,
    events::NamespacedName,
    notify::{
        channels::{Channel, Email, Message, SigningKey, Slack, Teams, Webhook},
        deliver::Outcome,
        http::{HttpAnswer, HttpFailure, HttpRequest, HttpTransport, Secret, judge},
        render::{BODY_MAX, Markup, Rendered, TITLE_MAX, built_in_name, cut, escaped, render},
        smtp::{Mail, MailServer, MailTransport},
    },
};
use futures::FutureExt as _;
use serde_json::Value;

use crate::check::now;

/// Between the fields of a message, and of an answer.
const SEPARATOR: char = '\u{1f}';
const EVENTS: [IncidentEvent; 5] = [
    IncidentEvent::Opened,
    IncidentEvent::Mitigating,
    IncidentEvent::ActionFailed,
    IncidentEvent::Resolved,
    IncidentEvent::Failed,
];
const SPEC: &str = r#"{
    "incident": {"incidentID": "cpu-high-5ng27vhhim", "correlationID": "feqshim3jgjhw7z7dsth46g3y4", "severity": "", "summary": "",
                 "openedAt": "2026-01-02T11:59:00Z", "alerts": [{"startsAt": "2026-01-02T11:59:00Z", "alertID": "a",
                 "fingerprint": "1415e20148c38e3d", "state": "Firing"}], "alertCount": 1},
    "ruleRef": {"name": "cpu-high"}, "channelRef": {"name": "ops"}, "template": "Own", "event": "Opened", "occurrence": "Opened",
    "decidedAt": "2026-01-02T12:00:00Z", "deadline": "2026-01-02T13:00:00Z", "phase": "Sending", "duplicatePossible": true,
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}"#;

fn name() -> NamespacedName {
    NamespacedName { namespace: "shop".into(), name: "g7m3qk2yfx5ztd4wv6hb8rcpna".into() }
}

pub(crate) fn message(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut fields = text.split(SEPARATOR).map(str::to_owned);
    let mut next = |max: usize| fields.next().map(|text| text.chars().take(max).collect::<String>());
    let (title, body) = (next(1024).unwrap_or_default(), next(8192));
    let own = [MessageTemplate { name: "Own".into(), title, body }];
    let mut spec: NotificationSpec = serde_json::from_str(SPEC).expect("a notification");
    // As long as the resource lets them be.
    spec.incident.severity = next(1024).unwrap_or_default();
    spec.incident.summary = next(2048).unwrap_or_default();
    (spec.context.target, spec.context.step) = (next(512), next(512));
    (spec.context.reason, spec.context.message) = (next(512), next(2048));
    spec.context.next_step = next(512);
    if let Some(decided_at) = next(64).and_then(|text| text.parse().ok()) {
        spec.decided_at = decided_at;
    }
    for markup in [Markup::Plain, Markup::Mrkdwn, Markup::Markdown] {
        let rendered = render(&name(), &spec, &own, markup);
        assert_eq!(rendered, render(&name(), &spec, &own, markup), "the same facts, another message");
        is_bounded(&rendered);
        for event in EVENTS {
            is_harmless(&NotificationSpec { event, template: built_in_name(event).into(), ..spec.clone() }, markup);
        }
    }
    is_accepted_by_channels(&spec, &own);
}

fn is_bounded(rendered: &Rendered) {
    let Rendered { title, body, note } = rendered;
    assert!(!title.is_empty() && title.chars().count() <= TITLE_MAX, "{title:?}");
    assert!(!title.contains(|c: char| c.is_whitespace() && c != ' '), "{title:?} is more than a line");
    assert!(body.chars().count() <= BODY_MAX, "a body of {} characters", body.chars().count());
    assert!(note.as_ref().is_none_or(|note| !note.is_empty() && note.chars().count() <= 500), "{note:?}");
}

/// A built-in template writes no markup, so what there is of it would be a value's.
fn is_harmless(spec: &NotificationSpec, markup: Markup) {
    let rendered = render(&name(), spec, &[], markup);
    is_bounded(&rendered);
    assert!(rendered.note.is_none(), "a built-in template does not work: {rendered:?}");
    for text in [&rendered.title, &rendered.body] {
        let hides = |c: char| {
            c.is_control() && !matches!(c, '\n' | '\t')
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert!(!text.contains(hides), "{text:?} holds what people do not see");
        if markup == Markup::Mrkdwn {
            assert!(!text.contains(['<', '>']), "{text:?} may hold a link or a mention");
            let whole = ["&amp;", "&lt;", "&gt;"].iter().fold(text.clone(), |text, escape| text.replace(escape, ""));
            assert!(!whole.contains('&'), "{text:?} holds half an escape");
        }
    }
}

/// What was sent last.
#[derive(Default)]
struct Outside {
    posted: Mutex<Option<HttpRequest>>,
    mailed: Mutex<Option<Mail>>,
}

#[async_trait]
impl HttpTransport for Outside {
    async fn post(&self, request: &HttpRequest, _: Duration) -> Result<HttpAnswer, HttpFailure> {
        *self.posted.lock().expect("one thread") = Some(request.clone());
        Ok(HttpAnswer { status: 200, retry_after: None, body: String::new() })
    }
}

#[async_trait]
impl MailTransport for Outside {
    async fn send(&self, _: &MailServer, mail: &Mail, _: Duration) -> Outcome {
        *self.mailed.lock().expect("one thread") = Some(mail.clone());
        Outcome::Delivered
    }
}

fn is_accepted_by_channels(spec: &NotificationSpec, templates: &[MessageTemplate]) {
    let outside = Arc::new(Outside::default());
    let (http, url) =
        (Arc::clone(&outside) as Arc<dyn HttpTransport>, Secret::new("https://hooks.example.com/T0/B0/x"));
    let slack = Slack { http: Arc::clone(&http), url: url.clone() };
    is_slack(&post(&slack, &outside, spec, templates));
    let teams = Teams { http: Arc::clone(&http), url: url.clone() };
    let text = post(&teams, &outside, spec, templates).to_string();
    assert!(text.len() <= 28_000, "Teams shows nothing of {} bytes", text.len());
    let webhook = Webhook { http, url, signing_key: SigningKey::new(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw") };
    let body = post(&webhook, &outside, spec, templates);
    let plain = render(&name(), spec, templates, Markup::Plain);
    assert_eq!((body["message"]["title"].as_str(), body["version"].as_str()), (Some(plain.title.as_str()), Some("1")));
    is_mail(&mail(&outside, spec, templates));
}

fn send(channel: &dyn Channel, spec: &NotificationSpec, templates: &[MessageTemplate]) {
    let message = Message { name: &name(), spec, templates, now: now() };
    let outcome = channel.send(message, Duration::from_secs(1)).now_or_never().expect("nothing is waited for");
    assert_eq!(outcome, Outcome::Delivered, "a message that no channel could be given");
}

fn post(channel: &dyn Channel, outside: &Outside, spec: &NotificationSpec, templates: &[MessageTemplate]) -> Value {
    send(channel, spec, templates);
    let request = outside.posted.lock().expect("one thread").take().expect("something was posted");
    let is_text = |value: &str| value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    assert!(request.headers.iter().all(|(_, value)| is_text(value)), "{:?}", request.headers);
    serde_json::from_slice(&request.body).expect("a body is JSON")
}

/// Block Kit's limits (docs.slack.dev).
fn is_slack(body: &Value) {
    let chars = |value: &Value| value.as_str().expect("a text").chars().count();
    for block in body["blocks"].as_array().expect("blocks") {
        match block["type"].as_str() {
            Some("header") => assert!((1..=150).contains(&chars(&block["text"]["text"])), "{block}"),
            Some("section") if block["text"].is_object() => {
                assert!((1..=3000).contains(&chars(&block["text"]["text"])), "{block}");
            }
            Some("section") => {
                let fields = block["fields"].as_array().expect("fields");
                assert!(fields.len() <= 10 && fields.iter().all(|field| chars(&field["text"]) <= 2000), "{block}");
            }
            Some("context") => assert!(chars(&block["elements"][0]["text"]) <= 3000, "{block}"),
            _ => panic!("{block} is no block of ours"),
        }
    }
    assert!(chars(&body["text"]) >= 1, "{body}");
}

fn mail(outside: &Arc<Outside>, spec: &NotificationSpec, templates: &[MessageTemplate]) -> Mail {
    let channel = EmailChannel {
        host: "mail.example.com".into(),
        port: None,
        tls: EmailTLS::StartTLS,
        ca_secret_ref: None,
        username_secret_ref: None,
        password_secret_ref: None,
        hello_name: None,
        from: "EventPulse <alerts@example.com>".into(),
        to: vec!["ops@example.com".into()],
        cc: Vec::new(),
    };
    let server = MailServer {
        host: channel.host.clone(),
        port: 587,
        tls: channel.tls,
        ca: None,
        login: None,
        hello_name: "example.com".into(),
    };
    let mail = Arc::clone(outside) as Arc<dyn MailTransport>;
    send(&Email { mail, server, addresses: addresses(&channel).expect("addresses") }, spec, templates);
    outside.mailed.lock().expect("one thread").take().expect("something was mailed")
}

/// RFC 5322: lines end with CRLF and have at most 998 bytes; the headers are ours, each once.
fn is_mail(mail: &Mail) {
    const OURS: [&str; 14] = [
        "From",
        "To",
        "Subject",
        "Date",
        "Message-ID",
        "In-Reply-To",
        "References",
        "Auto-Submitted",
        "idempotency-key",
        "eventpulse-duplicate-possible",
        "traceparent",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
    ];
    let text = std::str::from_utf8(&mail.content).expect("a mail is text");
    assert!(text.is_ascii(), "a mail is ASCII");
    assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "a line ends otherwise than with CRLF: {text:?}");
    assert!(text.split("\r\n").all(|line| line.len() <= 998), "a line is too long: {text:?}");
    let (head, _) = text.split_once("\r\n\r\n").expect("headers and body");
    let mut names = BTreeSet::new();
    for line in head.split("\r\n").filter(|line| !line.starts_with([' ', '\t'])) {
        let (name, _) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?} is no header"));
        assert!(OURS.iter().any(|ours| ours.eq_ignore_ascii_case(name)), "{line:?} is no header of ours");
        assert!(names.insert(name.to_ascii_lowercase()), "{name} stands twice");
    }
}

/// `STATUS`, `Retry-After` and body of an answer; the URL that was asked is a secret.
pub(crate) fn answer(data: &[u8]) {
    const URL: &str = "https://hooks.example.com/services/T0000000/B1111111/xoxsecretxox?token=abcdef123";
    let text = String::from_utf8_lossy(data);
    let mut fields = text.splitn(3, SEPARATOR);
    let status = fields.next().and_then(|status| status.parse().ok()).unwrap_or(503);
    let retry_after = fields.next().filter(|text| !text.is_empty()).map(str::to_owned);
    let body = fields.next().unwrap_or_default().to_owned();
    let given = HttpAnswer { status, retry_after, body: body.clone() };
    let outcome = judge(Ok(given), &Secret::new(URL), now());
    let (reason, is_sure) = match outcome {
        Outcome::Delivered => return assert!((200..300).contains(&status), "{status}"),
        Outcome::Refused { reason, .. } | Outcome::Rejected { reason } => (reason, (300..500).contains(&status)),
        Outcome::Unknown { reason, .. } => (reason, !(200..500).contains(&status)),
        other => panic!("{status} gave {other:?}"),
    };
    assert!(is_sure, "{status}");
    assert!(reason.chars().count() <= 300 && !reason.contains(char::is_control), "{reason:?}");
    for part in ["xoxsecretxox", "T0000000", "B1111111", "abcdef123"] {
        assert!(!reason.contains(part), "{reason:?} tells a part of the URL");
    }
    for markup in [Markup::Plain, Markup::Mrkdwn, Markup::Markdown] {
        let shown = escaped(&body, markup);
        for max in [1, 5, 80] {
            let cut = cut(&shown, max);
            assert!(cut.chars().count() <= max, "{cut:?}");
        }
    }
}
