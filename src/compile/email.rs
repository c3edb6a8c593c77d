//! The addresses of an email channel: checked by the service that writes to them and by the one that says what is wrong with them.

use lettre::message::Mailbox;

use super::{FieldError, FieldErrorKind};
use crate::api::v1alpha1::EmailChannel;

/// RFC 5321, section 4.5.3.1: the most octets of a local part, and of a path without its angle brackets.
const LOCAL_PART_MAX: usize = 64;
const ADDRESS_MAX: usize = 254;
/// RFC 1035: of one label.
const LABEL_MAX: usize = 63;

/// Who writes to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The author, and the sender of the envelope.
    pub from: Mailbox,
    /// Who is written to; at least one.
    pub to: Vec<Mailbox>,
    /// Who gets a copy.
    pub cc: Vec<Mailbox>,
    /// What EventPulse calls itself (EHLO).
    pub hello_name: String,
}

/// The channel's addresses, or everything that is wrong with them. Nothing that passes can break out of a header or a command.
pub fn addresses(email: &EmailChannel) -> Result<Addresses, Vec<FieldError>> {
    let mut errors = Vec::new();
    let mut one = |field: String, text: &str| match mailbox(text) {
        Ok(mailbox) => Some(mailbox),
        Err(message) => {
            errors.push(FieldError { field: format!("spec.email.{field}"), kind: FieldErrorKind::Address, message });
            None
        }
    };
    let from = one("from".into(), &email.from);
    let to: Vec<Mailbox> =
        email.to.iter().enumerate().filter_map(|(index, text)| one(format!("to[{index}]"), text)).collect();
    let cc: Vec<Mailbox> =
        email.cc.iter().enumerate().filter_map(|(index, text)| one(format!("cc[{index}]"), text)).collect();
    let hello_name = email.hello_name.clone().or_else(|| from.as_ref().map(|from| from.email.domain().to_owned()));
    if let Some(name) = &hello_name
        && !is_hello_name(name)
    {
        let message = "it is no host name: labels of letters, digits and hyphens, with dots between them".to_owned();
        errors.push(FieldError { field: "spec.email.helloName".into(), kind: FieldErrorKind::Address, message });
    }
    if email.to.is_empty() {
        let message = "somebody must be written to".to_owned();
        errors.push(FieldError { field: "spec.email.to".into(), kind: FieldErrorKind::Schema, message });
    }
    match (from, hello_name, errors.is_empty()) {
        (Some(from), Some(hello_name), true) => Ok(Addresses { from, to, cc, hello_name }),
        _ => Err(errors),
    }
}

/// `NAME <LOCAL@DOMAIN>`, or the address alone.
fn mailbox(text: &str) -> Result<Mailbox, String> {
    // Before any parser: a line break here would end a header, or a command to the server.
    if text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
        return Err("a control character or line break cannot be part of an address".into());
    }
    let mailbox: Mailbox =
        text.trim().parse().map_err(|_| "it is no address like alerts@example.com, or Name <alerts@example.com>")?;
    let (local, domain) = (mailbox.email.user(), mailbox.email.domain());
    if !local.is_ascii() || !domain.is_ascii() {
        return Err("the address must be ASCII: write a domain with other letters in its form xn--…".into());
    }
    if local.len() > LOCAL_PART_MAX || local.len() + 1 + domain.len() > ADDRESS_MAX {
        return Err(format!(
            "it is too long: {LOCAL_PART_MAX} characters before the @ and {ADDRESS_MAX} in all at most"
        ));
    }
    if domain.starts_with('[') || !is_host_name(domain) {
        return Err("the domain must be a name: what comes from an IP address, or is for one, ends as spam".into());
    }
    if local.contains(['"', '\\', '<', '>', ' ', '(', ')', ',', ';', ':']) {
        return Err("a local part in quotes, or with a character that needs them, is not supported".into());
    }
    Ok(mailbox)
}

/// An address's domain: a name that has a letter in its last label, so that it is no IP address.
fn is_host_name(name: &str) -> bool {
    is_hello_name(name) && name.rsplit('.').next().is_some_and(|label| label.chars().any(|c| c.is_ascii_alphabetic()))
}

fn is_hello_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn channel(change: serde_json::Value) -> EmailChannel {
        let mut value =
            json!({"host": "smtp.example.com", "from": "EventPulse <alerts@example.com>", "to": ["ops@example.com"]});
        change.as_object().unwrap().iter().for_each(|(key, to)| value[key] = to.clone());
        serde_json::from_value(value).unwrap()
    }

    fn fields(email: &EmailChannel) -> Vec<String> {
        addresses(email).err().unwrap_or_default().into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn addresses_with_and_without_names_are_taken() {
        let found = addresses(&channel(json!({
            "to": ["ops@example.com", "\"On call, shop\" <on-call@sub.example.com>", "Jörg <joerg+x@xn--bcher-kva.example>"],
            "cc": ["boss@localhost"],
        })))
        .unwrap();
        assert_eq!(found.from.name.as_deref(), Some("EventPulse"));
        let to: Vec<String> = found.to.iter().map(|mailbox| mailbox.email.to_string()).collect();
        assert_eq!(to, ["ops@example.com", "on-call@sub.example.com", "joerg+x@xn--bcher-kva.example"]);
        assert_eq!((found.cc.len(), found.hello_name.as_str()), (1, "example.com"));
        let named = addresses(&channel(json!({"helloName": "eventpulse.shop.svc"}))).unwrap();
        assert_eq!(named.hello_name, "eventpulse.shop.svc");
    }

    /// What is no address, or one that would mean something else on its way, is refused with its field.
    #[test]
    fn hostile_addresses_are_refused_by_their_field() {
        for hostile in [
            "",
            "ops",
            "@example.com",
            "ops@",
            "ops@example.com\r\nRCPT TO:<evil@example.com>",
            "ops@example.com\nBcc: evil@example.com",
            "Ops\r\nBcc: evil@example.com <ops@example.com>",
            "Ops\u{2028} <ops@example.com>",
            "ops@example.com, evil@example.com",
            "<ops@example.com> SIZE=1",
            "ops@exa mple.com",
            "\"o ps\"@example.com",
            "\"ops\\\"\"@example.com",
            "ops@[127.0.0.1]",
            "ops@127.0.0.1",
            "ops@-example.com",
            "ops@exam_ple.com",
            "ops@bücher.example",
            "jörg@example.com",
            "ops@.example.com",
            "ops@example..com",
            &format!("{}@example.com", "a".repeat(65)),
            &format!("a@{}.com", "b".repeat(64)),
            &format!("a@{}com", "b.".repeat(126)),
            "\0@example.com",
        ] {
            assert_eq!(
                fields(&channel(json!({"to": ["fine@example.com", hostile]}))),
                ["spec.email.to[1]"],
                "{hostile:?}"
            );
            assert_eq!(fields(&channel(json!({"cc": [hostile]}))), ["spec.email.cc[0]"], "{hostile:?}");
            assert_eq!(fields(&channel(json!({"from": hostile}))), ["spec.email.from"], "{hostile:?}");
        }
        assert_eq!(fields(&channel(json!({"to": []}))), ["spec.email.to"]);
        for hostile in ["a b", "a\r\nMAIL", "-a", "a..b", "", "ä.example", &"a".repeat(64)] {
            assert_eq!(fields(&channel(json!({"helloName": hostile}))), ["spec.email.helloName"], "{hostile:?}");
        }
    }

    proptest! {
        /// Whatever is taken is one line of ASCII without what SMTP commands are made of.
        #[test]
        fn whatever_is_taken_fits_into_a_command(text in "\\PC{0,40}@?[a-z.<>\\r\\n -]{0,20}") {
            if let Ok(found) = mailbox(&text) {
                let address = found.email.to_string();
                prop_assert!(address.is_ascii() && address.len() <= ADDRESS_MAX);
                prop_assert!(!address.contains(|c: char| c.is_control() || c == ' ' || c == '<' || c == '>'));
            }
        }
    }
}
