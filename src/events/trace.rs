//! W3C trace context, and ids of traces and spans that are derived like all others (design, section 3): what is said again, by whatever
//! process, names the same spans, and a resume after a crash joins its trace without anything having been handed over. Pure.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

use super::{Event, IncidentHeader};

/// The span of one trace that something belongs to, as `traceparent` carries it (W3C Trace Context, level 1).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// Never all zeros.
    pub trace_id: [u8; 16],
    /// Never all zeros.
    pub span_id: [u8; 8],
    /// Bit 0: whether the trace is recorded.
    pub flags: u8,
}

/// A text that is no trace context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no W3C traceparent, like 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
pub struct InvalidTraceparent;

/// Bit 0 of the flags.
const SAMPLED: u8 = 1;
/// Of a traceparent of version 00.
const LENGTH: usize = 55;
/// A later version may say more; beyond this nobody reads it.
const LENGTH_MAX: usize = 512;

/// The entry of `tracestate` in which an event says what its own span belongs under.
const STATE_KEY: &str = "eventpulse=p:";

impl TraceContext {
    /// A trace of its own, named by what began it.
    pub fn root(parts: &[&str], sampled: impl FnOnce(&[u8; 16]) -> bool) -> Self {
        let hash = hash("trace", &[], parts);
        let trace_id = first(&hash);
        let flags = if sampled(&trace_id) { SAMPLED } else { 0 };
        Self { trace_id, span_id: first(&hash[16..]), flags }
    }

    /// A span of the same trace, named by what it is about. The same parts name the same span in every process.
    pub fn span(&self, parts: &[&str]) -> Self {
        Self { span_id: first(&hash("span", &self.trace_id, parts)), ..*self }
    }

    /// The span of an event: that it was decided and put on the log.
    pub fn of_event(&self, id: &str, time: jiff::Timestamp) -> Self {
        self.span(&["event", id, &time.as_nanosecond().to_string()])
    }

    /// The span of what a service makes of an event. `self` is the event's own.
    pub fn of_processing(&self, service: &str) -> Self {
        self.span(&["process", service, &hex(&self.span_id)])
    }

    /// The span of an action, from its claim to its end, by whatever processes.
    pub fn of_action(&self, action: &str) -> Self {
        self.span(&["action", action])
    }

    /// The span of one try to send a message.
    pub fn of_message(&self, notification: &str, tries: i32) -> Self {
        self.span(&["message", notification, &tries.to_string()])
    }

    /// What an incident's resource and everything that nobody's event caused belongs under: that it opened. Every event of the incident
    /// gives the same.
    pub fn of_incident(&self, header: &IncidentHeader) -> Self {
        let about = format!("{}/{}", header.rule.namespace, header.incident_id);
        let id = super::EventId::new(super::Topic::IncidentOpened.name(), &about, "opened");
        self.of_event(id.as_str(), header.opened_at)
    }

    /// Whether the trace is recorded.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// As logs and people write it.
    pub fn trace_text(&self) -> String {
        hex(&self.trace_id)
    }

    /// As logs and people write it.
    pub fn span_text(&self) -> String {
        hex(&self.span_id)
    }

    /// The value of an optional header or field. Whatever is no trace context is none: it must never hold up what it came with.
    pub fn read(text: Option<&str>) -> Option<Self> {
        text?.parse().ok()
    }

    /// `tracestate` of what belongs under this span.
    pub fn parent_state(&self) -> String {
        format!("{STATE_KEY}{}", self.span_text())
    }
}

/// The span that an event's own belongs under, as its `tracestate` says.
pub fn parent_of(tracestate: Option<&str>) -> Option<[u8; 8]> {
    let entry = tracestate?.split(',').find_map(|entry| entry.trim().strip_prefix(STATE_KEY))?;
    unhex(entry).filter(|id| *id != [0; 8])
}

/// What an event that was decided in this context says of itself: `traceparent` and `tracestate`.
pub(super) fn own_headers(event: &Event) -> (Option<String>, Option<String>) {
    match TraceContext::read(event.traceparent.as_deref()) {
        Some(parent) => {
            let own = parent.of_event(event.id.as_str(), event.time);
            (Some(own.to_string()), Some(parent.parent_state()))
        }
        None => (None, None),
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", hex(&self.trace_id), hex(&self.span_id), self.flags)
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TraceContext {
    type Err = InvalidTraceparent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceparent> {
        parse(text).ok_or(InvalidTraceparent)
    }
}

/// Version 00 has exactly its four parts; of a later one they are read, and what follows behind a further `-` is not; ff is none.
fn parse(text: &str) -> Option<TraceContext> {
    let (known, rest) = (text.get(..LENGTH)?, text.get(LENGTH..)?);
    let [version, trace, span, flags] = known.split('-').collect::<Vec<_>>().try_into().ok()?;
    let [version]: [u8; 1] = unhex(version)?;
    let ends = rest.is_empty() || version != 0 && rest.starts_with('-') && text.len() <= LENGTH_MAX;
    let [flags]: [u8; 1] = unhex(flags)?;
    let context = TraceContext { trace_id: unhex(trace)?, span_id: unhex(span)?, flags: flags & SAMPLED };
    (version != 0xff && ends && context.trace_id != [0; 16] && context.span_id != [0; 8]).then_some(context)
}

fn hash(kind: &str, trace_id: &[u8], parts: &[&str]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in [kind.as_bytes(), trace_id].into_iter().chain(parts.iter().map(|part| part.as_bytes())) {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// The first bytes of a hash; never all zeros, which would be no id.
fn first<const N: usize>(hash: &[u8]) -> [u8; N] {
    let mut id = [0; N];
    id.copy_from_slice(&hash[..N]);
    if id == [0; N] {
        id[N - 1] = 1;
    }
    id
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// Lower case only, as W3C says.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_trace_context_is_read_and_written() {
        let context: TraceContext = GOOD.parse().unwrap();
        assert_eq!((context.to_string().as_str(), context.is_sampled()), (GOOD, true));
        assert_eq!(context.trace_text(), "0af7651916cd43dd8448eb211c80319c");
        assert!(!TraceContext::read(Some(&GOOD.replace("-01", "-00"))).unwrap().is_sampled());
        // What a later version adds is not known, and not handed on.
        for later in [GOOD.replacen("00", "01", 1), format!("{}-x", GOOD.replacen("00", "cc", 1))] {
            assert_eq!(later.parse::<TraceContext>().unwrap().to_string(), GOOD, "{later}");
        }
        assert_eq!(GOOD.replace("-01", "-ff").parse::<TraceContext>().unwrap().to_string(), GOOD);
    }

    #[test]
    fn what_is_none_is_ignored() {
        let long = format!("{}-{}", GOOD.replacen("00", "01", 1), "x".repeat(10_000));
        for text in [
            "",
            "00",
            "00---",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333-001",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333ä-1",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            &long,
        ] {
            assert_eq!(TraceContext::read(Some(text)), None, "{text}");
        }
        for text in ["", "eventpulse=", "eventpulse=p:", "eventpulse=p:0000000000000000", "eventpulse=p:xyz", "a=b"] {
            assert_eq!(parent_of(Some(text)), None, "{text}");
        }
    }

    #[test]
    fn the_same_is_named_the_same_and_everything_else_is_not() {
        let one = TraceContext::root(&["a", "bc"], |_| true);
        assert_eq!(one, TraceContext::root(&["a", "bc"], |_| true));
        assert_ne!(one.trace_id, TraceContext::root(&["ab", "c"], |_| true).trace_id);
        assert!(!TraceContext::root(&["a"], |_| false).is_sampled());
        let action = one.of_action("x");
        assert_eq!((action, action.trace_id), (one.of_action("x"), one.trace_id));
        // Whatever span of the trace it is asked of.
        assert_eq!(one.of_processing("rules").of_action("x"), action);
        assert_ne!(one.of_processing("rules"), one.of_processing("incidents"));
        let other = TraceContext::root(&["b"], |_| true);
        assert_ne!(other.of_action("x").span_id, action.span_id);
        assert_eq!(parent_of(Some(&format!("vendor=1, {}", one.parent_state()))), Some(one.span_id));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}", flags in "[0-9a-f]{2}") {
            let _ = TraceContext::read(Some(&text));
            let _ = parent_of(Some(&text));
            let given = format!("{}{flags}", &GOOD[..53]);
            prop_assert!(TraceContext::read(Some(&given)).is_some());
        }
    }
}
