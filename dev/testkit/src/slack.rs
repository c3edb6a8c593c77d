//! What Slack's incoming webhooks check, with the answers that Slack gives (docs.slack.dev: incoming webhooks, Block Kit reference).

use serde_json::Value;

const BLOCKS_MAX: usize = 50;
const HEADER_MAX: usize = 150;
const SECTION_TEXT_MAX: usize = 3000;
const FIELDS_MAX: usize = 10;
const FIELD_MAX: usize = 2000;
const CONTEXT_ELEMENTS_MAX: usize = 10;

/// Slack's answer to a payload that it refuses; none where it takes it.
pub fn refusal(body: &[u8]) -> Option<&'static str> {
    let Ok(Value::Object(payload)) = serde_json::from_slice(body) else { return Some("invalid_payload") };
    let text = payload.get("text").and_then(Value::as_str).unwrap_or_default();
    let blocks = match payload.get("blocks") {
        None => &[][..],
        Some(Value::Array(blocks)) => blocks.as_slice(),
        Some(_) => return Some("invalid_blocks_format"),
    };
    if text.is_empty() && blocks.is_empty() {
        return Some("no_text");
    }
    (blocks.len() > BLOCKS_MAX || !blocks.iter().all(is_valid_block)).then_some("invalid_blocks")
}

fn is_valid_block(block: &Value) -> bool {
    match block["type"].as_str() {
        Some("header") => block["text"]["type"] == "plain_text" && is_text(&block["text"], HEADER_MAX),
        Some("section") => {
            let text = block.get("text");
            let fields = block["fields"].as_array();
            text.is_none_or(|text| is_text(text, SECTION_TEXT_MAX))
                && fields.is_none_or(|fields| {
                    (1..=FIELDS_MAX).contains(&fields.len()) && fields.iter().all(|field| is_text(field, FIELD_MAX))
                })
                && (text.is_some() || fields.is_some())
        }
        Some("context") => block["elements"].as_array().is_some_and(|elements| {
            (1..=CONTEXT_ELEMENTS_MAX).contains(&elements.len())
                && elements.iter().all(|element| is_text(element, SECTION_TEXT_MAX))
        }),
        Some("divider") => true,
        _ => false,
    }
}

fn is_text(object: &Value, max: usize) -> bool {
    let len = object["text"].as_str().map_or(0, |text| text.chars().count());
    matches!(object["type"].as_str(), Some("plain_text" | "mrkdwn")) && (1..=max).contains(&len)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refuses_what_slack_refuses() {
        let header = |len: usize| json!({"blocks": [{"type": "header", "text": {"type": "plain_text", "text": "x".repeat(len)}}]});
        let section =
            |len: usize| json!({"blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": "x".repeat(len)}}]});
        let dividers = |count: usize| json!({"blocks": vec![json!({"type": "divider"}); count]});
        for (payload, answer) in [
            (json!({"text": "hello"}), None),
            (json!({"text": ""}), Some("no_text")),
            (json!({}), Some("no_text")),
            (json!([]), Some("invalid_payload")),
            (json!({"text": "x", "blocks": {}}), Some("invalid_blocks_format")),
            (header(150), None),
            (header(151), Some("invalid_blocks")),
            (header(0), Some("invalid_blocks")),
            (section(3000), None),
            (section(3001), Some("invalid_blocks")),
            (dividers(50), None),
            (dividers(51), Some("invalid_blocks")),
            (json!({"blocks": [{"type": "header", "text": {"type": "mrkdwn", "text": "x"}}]}), Some("invalid_blocks")),
            (json!({"blocks": [{"type": "section", "fields": []}]}), Some("invalid_blocks")),
            (json!({"blocks": [{"type": "marquee"}]}), Some("invalid_blocks")),
        ] {
            assert_eq!(refusal(payload.to_string().as_bytes()), answer, "{payload}");
        }
        assert_eq!(refusal(b"text=hello"), Some("invalid_payload"));
    }
}
