//! What messages say, also when what they tell of is hostile.

use super::*;
use crate::{api::v1alpha1::NotificationFacts, notify::testing::spec, template};

fn name() -> NamespacedName {
    NamespacedName { namespace: "shop".into(), name: "ntf-1".into() }
}

fn with(template: &str, event: IncidentEvent) -> NotificationSpec {
    NotificationSpec { template: template.into(), event, ..spec() }
}

fn own(title: &str, body: &str) -> Vec<MessageTemplate> {
    vec![MessageTemplate { name: "IncidentOpened".into(), title: title.into(), body: Some(body.into()) }]
}

fn plain(spec: &NotificationSpec, own: &[MessageTemplate]) -> Rendered {
    render(&name(), spec, own, Markup::Plain)
}

const EVENTS: [IncidentEvent; 5] = [
    IncidentEvent::Opened,
    IncidentEvent::Mitigating,
    IncidentEvent::ActionFailed,
    IncidentEvent::Resolved,
    IncidentEvent::Failed,
];

#[test]
fn every_built_in_template_renders_with_everything_and_with_nothing() {
    assert_eq!(BUILT_IN.map(|template| template.name), template::BUILT_IN);
    let everything = NotificationFacts {
        target: Some("Deployment/svc-a".into()),
        step: Some("add-replica".into()),
        reason: Some("retriesExhausted".into()),
        message: Some("the API server answered 503".into()),
        next_step: Some("restart".into()),
        repetition: 2,
    };
    for event in EVENTS {
        for context in [everything.clone(), NotificationFacts::default()] {
            let rendered = plain(&NotificationSpec { context, ..with(built_in_name(event), event) }, &[]);
            assert_eq!(rendered.note, None);
            assert!(rendered.title.ends_with("CPU of svc-a above 90 %"), "{rendered:?}");
            let text = format!("{}{}", rendered.title, rendered.body);
            assert!(!rendered.body.is_empty() && !text.contains("{{") && !text.contains("none"), "{rendered:?}");
        }
    }
    let failed =
        plain(&NotificationSpec { context: everything, ..with("ActionFailed", IncidentEvent::ActionFailed) }, &[]);
    assert_eq!(
        failed.body,
        "Step add-replica on Deployment/svc-a failed (retriesExhausted).\nthe API server answered 503\nNext: restart."
    );
}

#[test]
fn a_template_of_the_channel_takes_the_built_in_ones_place() {
    let own = own(
        "{{ incident.severity | upper }} {{ incident.rule }}",
        "{{ incident.alerts | length }} of {{ incident.alertCount }}, {{ event }}, {{ notification.id }}, {{ incident.namespace }}",
    );
    let rendered = plain(&spec(), &own);
    assert_eq!((rendered.title.as_str(), rendered.note), ("WARNING cpu-high", None));
    assert_eq!(rendered.body, "1 of 1, Opened, ntf-1, shop");
    assert_eq!(
        plain(&with("ActionFailed", IncidentEvent::ActionFailed), &own).title,
        "Action failed: CPU of svc-a above 90 %"
    );
}

/// A message that says less is better than none.
#[test]
fn a_template_that_does_not_work_gives_the_built_in_message_and_a_note() {
    for (title, body, note) in [
        ("{{ incident", "", "line 1"),
        ("{{ incident.summary | nosuchfilter }}", "", "unknown filter"),
        ("ok", "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}", "fuel"),
        ("ok", "{{ 'x' * 1000000000 }}", ""),
        ("ok", "{% include 'other' %}", ""),
        ("{% if false %}x{% endif %}", "body", "empty title"),
    ] {
        let rendered = plain(&spec(), &own(title, body));
        assert_eq!(rendered.title, "Incident opened: CPU of svc-a above 90 %", "{title} {body}");
        assert!(
            rendered.note.as_deref().is_some_and(|text| text.contains(note)),
            "{:?} has no {note:?}",
            rendered.note
        );
    }
    let unknown = plain(&with("Escalation", IncidentEvent::Failed), &[]);
    assert_eq!(unknown.title, "Needs a person: CPU of svc-a above 90 %");
    assert_eq!(unknown.note.as_deref(), Some("there is no template Escalation on the channel"));
}

#[test]
fn hostile_values_become_no_mentions_links_lines_or_templates() {
    let mut hostile = spec();
    hostile.incident.summary =
        "<!channel> <@U123> <https://evil.example|click> & {{ 7 * 7 }}\n\u{202e}txt\u{0}\u{1b}[31m".into();
    hostile.context.target = Some("<!here>".into());
    let slack = render(&name(), &hostile, &[], Markup::Mrkdwn);
    for text in [&slack.title, &slack.body] {
        assert!(!text.contains(['<', '>', '\u{202e}', '\u{0}', '\u{1b}']), "{text:?}");
        assert!(text.contains("&lt;!channel&gt;") && text.contains("&amp; {{ 7 * 7 }}"), "{text:?}");
    }
    assert!(!slack.title.contains('\n'));
    let plain = plain(&hostile, &[]);
    assert!(plain.title.contains("<!channel>") && !plain.body.contains('\u{202e}'), "{plain:?}");
    // The author of a template may write markup, and values in it stay values.
    let marked = render(&name(), &hostile, &own("<https://wiki.example|{{ context.target }}>", ""), Markup::Mrkdwn);
    assert_eq!(marked.title, "<https://wiki.example|&lt;!here&gt;>");
}

#[test]
fn output_is_bounded_and_never_cut_within_an_escape() {
    let mut long = spec();
    long.incident.summary = "&".repeat(2_048);
    let rendered = render(
        &name(),
        &long,
        &own("{{ incident.summary }}", "{% for i in range(9) %}{{ incident.summary }}{% endfor %}"),
        Markup::Mrkdwn,
    );
    for (text, max) in [(&rendered.title, TITLE_MAX), (&rendered.body, BODY_MAX)] {
        assert!(text.chars().count() <= max && text.ends_with(";…"), "{text:?}");
    }
    for max in 1..30 {
        let short = cut("ab&amp;&lt;&gt;cd&amp;&amp;&amp;", max);
        assert!(short.chars().count() <= max);
        assert!(!short.trim_end_matches('…').ends_with(['&', 'a', 'm', 'l', 'g', 't']) || short == "a…", "{short:?}");
    }
    assert_eq!(cut("ä€", 2), "ä€");
    assert_eq!(cut("ä€x", 2), "ä…");
}
