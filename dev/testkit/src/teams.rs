//! What a Teams workflow and an Adaptive Card 1.4 need (adaptivecards.io/explorer; learn.microsoft.com: "Create incoming webhooks with
//! Workflows"), for the elements that EventPulse uses: anything else is refused, so that nothing is sent that nobody has looked up.

use serde_json::{Map, Value};

/// Of the whole request, in bytes.
const MESSAGE_MAX: usize = 28 * 1024;

/// Why a workflow would not show this message; none where it would.
pub fn refusal(body: &[u8]) -> Option<String> {
    if body.len() > MESSAGE_MAX {
        return Some(format!("the message has {} bytes, {MESSAGE_MAX} at most", body.len()));
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(message) => check(&message).err(),
        Err(error) => Some(error.to_string()),
    }
}

fn check(message: &Value) -> Result<(), String> {
    let message = object("message", message, &["type", "attachments"])?;
    is("message.type", message.get("type"), &["message"])?;
    let attachments = list("message.attachments", message.get("attachments"))?;
    if attachments.len() != 1 {
        return Err("message.attachments: a workflow posts one card".into());
    }
    let attachment = object("attachment", &attachments[0], &["contentType", "contentUrl", "content"])?;
    is("contentType", attachment.get("contentType"), &["application/vnd.microsoft.card.adaptive"])?;
    let empty = Value::Null;
    let keys = ["$schema", "type", "version", "fallbackText", "body", "msteams"];
    let card = object("card", attachment.get("content").unwrap_or(&empty), &keys)?;
    is("card.type", card.get("type"), &["AdaptiveCard"])?;
    is("card.version", card.get("version"), &["1.0", "1.1", "1.2", "1.3", "1.4", "1.5"])?;
    if let Some(text) = card.get("fallbackText") {
        filled("card.fallbackText", Some(text))?;
    }
    list("card.body", card.get("body"))?.iter().try_for_each(element)
}

fn element(element: &Value) -> Result<(), String> {
    match element["type"].as_str() {
        Some("TextBlock") => {
            let keys = ["type", "text", "wrap", "weight", "size", "color", "isSubtle", "spacing"];
            let block = object("TextBlock", element, &keys)?;
            filled("TextBlock.text", block.get("text"))?;
            for (key, values) in [
                ("weight", &["Default", "Lighter", "Bolder"][..]),
                ("size", &["Default", "Small", "Medium", "Large", "ExtraLarge"]),
                ("color", &["Default", "Dark", "Light", "Accent", "Good", "Warning", "Attention"]),
                ("spacing", &["Default", "None", "Small", "Medium", "Large", "ExtraLarge", "Padding"]),
            ] {
                if let Some(value) = block.get(key) {
                    is(&format!("TextBlock.{key}"), Some(value), values)?;
                }
            }
            match ["wrap", "isSubtle"].into_iter().find(|key| block.get(*key).is_some_and(|value| !value.is_boolean()))
            {
                Some(key) => Err(format!("TextBlock.{key}: neither true nor false")),
                None => Ok(()),
            }
        }
        Some("FactSet") => {
            let set = object("FactSet", element, &["type", "facts"])?;
            for fact in list("FactSet.facts", set.get("facts"))? {
                let fact = object("Fact", fact, &["title", "value"])?;
                filled("Fact.title", fact.get("title"))?;
                filled("Fact.value", fact.get("value"))?;
            }
            Ok(())
        }
        other => Err(format!("{other:?} is no element that is known here")),
    }
}

fn object<'a>(what: &str, value: &'a Value, keys: &[&str]) -> Result<&'a Map<String, Value>, String> {
    let object = value.as_object().ok_or_else(|| format!("{what}: no object"))?;
    match object.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(key) => Err(format!("{what}.{key}: not known")),
        None => Ok(object),
    }
}

fn list<'a>(what: &str, value: Option<&'a Value>) -> Result<&'a Vec<Value>, String> {
    value
        .and_then(Value::as_array)
        .filter(|list| !list.is_empty())
        .ok_or_else(|| format!("{what}: no list, or an empty one"))
}

fn is(what: &str, value: Option<&Value>, values: &[&str]) -> Result<(), String> {
    let text = value.and_then(Value::as_str);
    if text.is_some_and(|text| values.contains(&text)) {
        Ok(())
    } else {
        Err(format!("{what}: {text:?} is none of {values:?}"))
    }
}

fn filled(what: &str, value: Option<&Value>) -> Result<(), String> {
    match value.and_then(Value::as_str) {
        Some(text) if !text.is_empty() => Ok(()),
        _ => Err(format!("{what}: no text, or an empty one")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(body: Value) -> Value {
        let content = json!({"type": "AdaptiveCard", "version": "1.4", "body": body});
        let attachment = json!({"contentType": "application/vnd.microsoft.card.adaptive", "content": content});
        json!({"type": "message", "attachments": [attachment]})
    }

    #[test]
    fn refuses_what_a_workflow_does_not_show() {
        let fine = json!([{"type": "TextBlock", "text": "x", "wrap": true}, {"type": "FactSet", "facts": [{"title": "a", "value": "b"}]}]);
        let refused = |message: Value| refusal(message.to_string().as_bytes());
        assert_eq!(refused(message(fine.clone())), None);
        for (body, why) in [
            (json!([]), "card.body"),
            (json!([{"type": "TextBlock", "text": ""}]), "TextBlock.text"),
            (json!([{"type": "TextBlock", "text": "x", "wrap": "yes"}]), "TextBlock.wrap"),
            (json!([{"type": "TextBlock", "text": "x", "size": "Huge"}]), "TextBlock.size"),
            (json!([{"type": "TextBlock", "text": "x", "style": "heading"}]), "TextBlock.style"),
            (json!([{"type": "FactSet", "facts": [{"title": "a"}]}]), "Fact.value"),
            (json!([{"type": "Marquee"}]), "Marquee"),
            (json!([{"type": "TextBlock", "text": "x".repeat(MESSAGE_MAX)}]), "bytes"),
        ] {
            let text = refused(message(body.clone())).unwrap_or_default();
            assert!(text.contains(why), "{body:.100} gave {text}");
        }
        let mut connector = json!({"@type": "MessageCard", "@context": "http://schema.org/extensions", "text": "x"});
        assert!(refused(connector.take()).is_some());
        let mut two = message(fine);
        let again = two["attachments"][0].clone();
        two["attachments"].as_array_mut().unwrap().push(again);
        assert!(refused(two).unwrap().contains("one card"));
        assert!(refusal(b"not json").is_some());
    }
}
