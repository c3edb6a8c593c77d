//! Mail (RFC 5322): plain text, the same Message-ID for every copy, and the messages of one incident in one thread.

use std::{sync::Arc, time::Duration, time::SystemTime};

use async_trait::async_trait;
use jiff::Timestamp;
use lettre::message::{
    Mailbox, Message as MailMessage, SinglePart,
    header::{HeaderName, HeaderValue},
};

use super::{Channel, Message, marks_of};
use crate::{
    compile::Addresses,
    notify::{
        deliver::Outcome,
        render::{Markup, cut, escaped, render},
        smtp::{Mail, MailServer, MailTransport},
    },
};

/// The most characters of a fact.
const FACT_MAX: usize = 512;
/// From this try on a recipient that is refused for now no longer keeps the message from the others.
const TRIES_FOR_ALL: i32 = 3;

/// One server, and who is written to.
pub struct Email {
    /// The way out.
    pub mail: Arc<dyn MailTransport>,
    /// The server.
    pub server: MailServer,
    /// Who writes to whom.
    pub addresses: Addresses,
}

#[async_trait]
impl Channel for Email {
    async fn send(&self, message: Message<'_>, timeout: Duration) -> Outcome {
        match compose(message, &self.addresses) {
            Ok(mail) => self.mail.send(&self.server, &mail, timeout).await,
            Err(reason) => Outcome::Rejected { reason },
        }
    }
}

/// The message; a function of its arguments alone.
fn compose(message: Message<'_>, addresses: &Addresses) -> Result<Mail, String> {
    let Message { name, spec, .. } = message;
    let (subject, body) = text_of(message);
    let Addresses { from, to, cc, .. } = addresses;
    let domain = from.email.domain();
    let thread = message_id(&spec.incident.incident_id, domain);
    let mut builder = MailMessage::builder()
        .from(from.clone())
        .subject(subject)
        // The header has no time before 1970, and what writes it would panic.
        .date(SystemTime::from(spec.decided_at.max(Timestamp::UNIX_EPOCH)))
        .message_id(Some(message_id(&name.name, domain)))
        // A message that nobody sent is what all answer: so they are one thread, in whatever order they come.
        .in_reply_to(thread.clone())
        .references(thread)
        // RFC 3834: no out-of-office reply comes back.
        .raw_header(header("Auto-Submitted", "auto-generated"));
    builder = to.iter().cloned().fold(builder, lettre::message::MessageBuilder::to);
    builder = cc.iter().cloned().fold(builder, lettre::message::MessageBuilder::cc);
    builder = marks_of(message).iter().fold(builder, |builder, (name, value)| builder.raw_header(header(name, value)));
    let mail = builder.singlepart(SinglePart::plain(body)).map_err(|error| format!("compose the mail: {error}"))?;
    Ok(Mail {
        from: from.email.clone(),
        recipients: to.iter().chain(cc).map(|mailbox: &Mailbox| mailbox.email.clone()).collect(),
        content: mail.formatted(),
        waits_for_all: spec.tries < TRIES_FOR_ALL,
    })
}

/// Subject and body. CRLF between lines, as SMTP has them; no other control character but the tab.
fn text_of(message: Message<'_>) -> (String, String) {
    let Message { name, spec, templates, .. } = message;
    let rendered = render(name, spec, templates, Markup::Plain);
    // What a template itself writes may hold control characters too, and what looks like an encoded word (RFC 2047) would be decoded.
    let subject = one_line(&rendered.title).replace("=?", "= ?");
    let mut lines: Vec<String> = rendered.body.lines().map(clean).collect();
    lines.push(String::new());
    let mut fact = |title: &str, value: &str| {
        if !value.is_empty() {
            lines.push(format!("{title}: {}", cut(&one_line(value), FACT_MAX)));
        }
    };
    fact("Severity", &spec.incident.severity);
    fact("Rule", &format!("{}/{}", name.namespace, spec.rule_ref.name));
    fact("Alerts", &spec.incident.alert_count.to_string());
    fact("Target", spec.context.target.as_deref().unwrap_or_default());
    fact("Opened", &spec.incident.opened_at.to_string());
    fact("Incident", &spec.incident.incident_id);
    fact("Look", &format!("kubectl -n {} describe incident {}", name.namespace, spec.incident.incident_id));
    if spec.duplicate_possible {
        fact("Note", "possibly a repetition: an earlier copy, with the same Message-ID, may have arrived");
    }
    fact("Note", rendered.note.as_deref().unwrap_or_default());
    lines.push(String::new());
    (subject, lines.join("\r\n"))
}

fn clean(line: &str) -> String {
    escaped(line, Markup::Plain).replace('\n', " ")
}

fn one_line(text: &str) -> String {
    escaped(text, Markup::Plain).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `<id@domain>`, of characters that need no quotes (RFC 5322, section 3.6.4).
fn message_id(id: &str, domain: &str) -> String {
    let id: String = id.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).collect();
    format!("<{id}@{domain}>")
}

fn header(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned())
}

#[cfg(test)]
#[path = "email_tests.rs"]
mod tests;
