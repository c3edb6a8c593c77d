//! The payload is what Slack takes; the testkit's sink checks it as Slack does (see the service's tests).

use super::*;
use crate::{
    events::NamespacedName,
    notify::testing::{noon, spec},
};

fn message(change: impl FnOnce(&mut crate::api::v1alpha1::NotificationSpec)) -> Value {
    let mut spec = spec();
    change(&mut spec);
    let name = NamespacedName { namespace: "shop".into(), name: "ntf-1".into() };
    payload(Message { name: &name, spec: &spec, templates: &[], now: noon() })
}

#[test]
fn a_message_has_header_text_fields_and_context() {
    let payload = message(|spec| spec.context.target = Some("Deployment/svc-a".into()));
    assert_eq!(payload["text"], "Incident opened: CPU of svc-a above 90 %");
    let types: Vec<_> =
        payload["blocks"].as_array().unwrap().iter().map(|block| block["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["header", "section", "section", "context"]);
    assert_eq!(payload["blocks"][0]["text"]["type"], "plain_text");
    let fields: Vec<_> = payload["blocks"][2]["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|field| field["text"].as_str().unwrap())
        .collect();
    assert_eq!(fields, ["*Severity*\nwarning", "*Rule*\nshop/cpu-high", "*Alerts*\n1", "*Target*\nDeployment/svc-a"]);
    let context = payload["blocks"][3]["elements"][0]["text"].as_str().unwrap();
    assert!(
        context.contains("kubectl -n shop describe incident cpu-high-") && !context.contains("repetition"),
        "{context}"
    );
}

#[test]
fn a_copy_that_may_be_the_second_says_so() {
    let payload = message(|spec| spec.duplicate_possible = true);
    assert!(payload["blocks"][3]["elements"][0]["text"].as_str().unwrap().ends_with("possibly a repetition"));
}

#[test]
fn slacks_limits_hold_for_the_longest_and_most_hostile_values() {
    let payload = message(|spec| {
        spec.incident.summary = "<&>".repeat(680);
        spec.incident.severity = "<!channel>&".repeat(90);
        spec.context.target = Some("&".repeat(512));
        spec.context.message = Some("x".repeat(2_048));
        spec.template = "None".into();
    });
    let count = |text: &Value| text.as_str().unwrap().chars().count();
    let blocks = payload["blocks"].as_array().unwrap();
    assert!(count(&payload["text"]) <= 3000 && count(&blocks[0]["text"]["text"]) <= 150);
    for block in blocks {
        let texts = block["fields"].as_array().into_iter().chain(block["elements"].as_array()).flatten();
        for (text, max) in texts.map(|text| (text, 2000)).chain(block.get("text").map(|text| (text, 3000))) {
            assert!((1..=max).contains(&count(&text["text"])), "{text}");
            if text["type"] == "mrkdwn" {
                assert!(!text["text"].as_str().unwrap().contains(['<', '>']) && text["verbatim"] == true, "{text}");
            }
        }
    }
    assert!(!payload["text"].as_str().unwrap().contains('<'));
}
