//! What a mail says, and that nothing of what it tells of can become anything else.

use lettre::message::Mailbox;
use proptest::prelude::*;

use super::*;
use crate::{
    api::v1alpha1::{MessageTemplate, NotificationSpec},
    events::NamespacedName,
    notify::testing::{noon, spec},
};

fn addresses() -> Addresses {
    let mailbox = |text: &str| text.parse::<Mailbox>().unwrap();
    Addresses {
        from: mailbox("EventPulse <alerts@example.com>"),
        to: vec![mailbox("ops@example.com"), mailbox("Jörg <joerg@example.com>")],
        cc: vec![mailbox("boss@example.com")],
        hello_name: "example.com".into(),
    }
}

fn composed(spec: &NotificationSpec, templates: &[MessageTemplate]) -> Mail {
    let name = NamespacedName { namespace: "shop".into(), name: "ntf-1".into() };
    compose(Message { name: &name, spec, templates, now: noon() }, &addresses()).unwrap()
}

fn text(mail: &Mail) -> String {
    String::from_utf8(mail.content.clone()).unwrap()
}

/// Headers, unfolded, and body as it is sent.
fn parts(mail: &Mail) -> (Vec<(String, String)>, String) {
    let text = text(mail);
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let headers = head.replace("\r\n ", " ").replace("\r\n\t", " ");
    let split = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap();
    (headers.split("\r\n").map(split).collect(), body.to_owned())
}

const HEADERS: [&str; 13] = [
    "From",
    "Subject",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "Auto-Submitted",
    "To",
    "Cc",
    "idempotency-key",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];

#[test]
fn a_mail_has_the_headers_that_are_documented() {
    let mail = composed(&spec(), &[]);
    let (headers, body) = parts(&mail);
    let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, HEADERS);
    let value = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).unwrap().1.clone();
    let incident = spec().incident.incident_id;
    assert_eq!(value("Message-ID"), "<ntf-1@example.com>");
    assert_eq!(value("In-Reply-To"), format!("<{incident}@example.com>"));
    assert_eq!(value("References"), value("In-Reply-To"));
    assert_eq!(value("Date"), "Thu, 01 Jan 2026 12:00:00 +0000");
    assert_eq!(value("Auto-Submitted"), "auto-generated");
    assert_eq!(value("idempotency-key"), "ntf-1");
    assert_eq!(value("Subject"), "Incident opened: CPU of svc-a above 90 %");
    assert_eq!(value("To"), "ops@example.com, =?utf-8?b?SsO2cmc=?= <joerg@example.com>");
    for line in ["Severity: warning", "Rule: shop/cpu-high", "Alerts: 1", "Opened: 2026-01-01T12:00:00Z"] {
        assert!(body.contains(&format!("{line}\r\n")), "{body}");
    }
    let recipients: Vec<String> = mail.recipients.iter().map(ToString::to_string).collect();
    assert_eq!(recipients, ["ops@example.com", "joerg@example.com", "boss@example.com"]);
    assert_eq!(mail.from.to_string(), "alerts@example.com");
}

#[test]
fn copies_differ_only_in_their_mark() {
    let first = composed(&spec(), &[]);
    assert_eq!(text(&first), text(&composed(&spec(), &[])), "a mail is a function of its notification");
    let mut again = spec();
    (again.duplicate_possible, again.tries) = (true, 4);
    let (headers, body) = parts(&composed(&again, &[]));
    assert!(headers.contains(&("eventpulse-duplicate-possible".into(), "true".into())), "{headers:?}");
    assert!(headers.contains(&("Message-ID".into(), "<ntf-1@example.com>".into())));
    assert!(body.contains("possibly a repetition") && !parts(&first).1.contains("repetition"));
    assert!(first.waits_for_all && !composed(&again, &[]).waits_for_all);
}

fn hostile(summary: &str, template: Option<(&str, &str)>) -> Mail {
    let mut spec = spec();
    spec.incident.summary = summary.into();
    spec.incident.severity = summary.into();
    spec.context.target = Some(summary.into());
    let own = template.map(|(title, body)| MessageTemplate {
        name: "IncidentOpened".into(),
        title: title.into(),
        body: Some(body.into()),
    });
    composed(&spec, own.as_slice())
}

/// What holds for every mail, whatever it tells of.
fn assert_sound(mail: &Mail) {
    let text = text(mail);
    assert!(text.is_ascii(), "{text}");
    assert!(text.split("\r\n").all(|line| line.len() <= 998), "a line is too long (RFC 5322, section 2.1.1)");
    assert!(!text.replace("\r\n", "").contains(['\r', '\n', '\0', '\u{1b}']), "{text:?}");
    let names: Vec<String> = parts(mail).0.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, HEADERS, "a header came from outside");
    let (_, body) = parts(mail);
    assert!(body.len() < 100_000, "{}", body.len());
}

#[test]
fn hostile_values_and_templates_become_no_headers() {
    for summary in [
        "x\r\nBcc: evil@example.com",
        "x\nBcc: evil@example.com\n\nbody",
        "x\r\n\r\n.\r\nMAIL FROM:<evil@example.com>",
        "\r\rx\u{b}\u{c}\u{85}Bcc: y\u{2028}z",
        "=?utf-8?b?DQpCY2M6IGV2aWxAZXhhbXBsZS5jb20=?=",
        "\u{202e}txt.exe\u{2066}\u{0}\u{1b}[31m\u{7f}",
        &"ü".repeat(2048),
        &"x".repeat(2048),
        &"🚨 ".repeat(1000),
        "",
    ] {
        assert_sound(&hostile(summary, None));
        let template = "{{ incident.summary }}\r\nBcc: evil@example.com{{ '\\r\\n\\u0000\\u001b' }}";
        let mail = hostile(summary, Some((template, ".\r\n..\n{{ incident.summary }}\r.\r\nBcc: x\u{7}")));
        assert_sound(&mail);
        let subject = parts(&mail).0.into_iter().find(|(name, _)| name == "Subject").unwrap().1;
        // An encoded word of the alert's would be decoded by whoever reads it: all of ours are of this form.
        for word in subject.split(' ').filter(|word| word.contains("=?") && word.len() > 2) {
            let inner = word.strip_prefix("=?utf-8?b?").and_then(|rest| rest.strip_suffix("?="));
            assert!(
                inner.is_some_and(|inner| !inner.contains('?') && !inner.contains("DQpCY2M6")),
                "{word}: {subject}"
            );
        }
    }
}

#[test]
fn a_fact_of_a_mail_is_cut_to_its_bound() {
    let mut spec = spec();
    spec.incident.severity = "x".repeat(1_024);
    let (_, body) = text_of(Message {
        name: &NamespacedName { namespace: "shop".into(), name: "ntf-1".into() },
        spec: &spec,
        templates: &[],
        now: noon(),
    });
    let fact = body.lines().find_map(|line| line.strip_prefix("Severity: ")).unwrap();
    assert_eq!(fact.chars().count(), FACT_MAX);
}

proptest! {
    #[test]
    fn whatever_is_told_the_mail_is_sound(
        summary in "\\PC{0,80}(\\r\\n|\\n|\\r|\\x00|\\x0b){0,3}.{0,200}",
        title in "[^{}%#]{1,80}",
        body in "(\\.|\\r|\\n|[^{}%#]){0,120}",
    ) {
        assert_sound(&hostile(&summary, None));
        assert_sound(&hostile(&summary, Some((&title, &body))));
    }
}

#[test]
fn a_message_that_was_decided_before_1970_is_dated_there() {
    for (decided_at, date) in [
        (jiff::Timestamp::MIN, "Thu, 01 Jan 1970 00:00:00 +0000"),
        (jiff::Timestamp::MAX, "Thu, 30 Dec 9999 22:00:00 +0000"),
    ] {
        let (headers, _) = parts(&composed(&NotificationSpec { decided_at, ..spec() }, &[]));
        assert!(headers.contains(&("Date".into(), date.into())), "{headers:?}");
    }
}
