//! A record of the log as an event. What cannot be read becomes a dead letter; nothing here panics on any bytes.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use jiff::Timestamp;

use super::{
    DeadLetter, DeadLetterReason, Event, EventId, HEADER_ID, HEADER_SOURCE, HEADER_SPECVERSION, HEADER_SUBJECT,
    HEADER_TIME, HEADER_TRACEPARENT, HEADER_TYPE, Payload, TraceContext,
    bounds::{
        DEAD_LETTER_DATA_BYTES, DEAD_LETTER_HEADER_BYTES, DEAD_LETTER_HEADERS, DEAD_LETTER_KEY_BYTES,
        DEAD_LETTER_MESSAGE_BYTES,
    },
    encode::Record,
};

/// Why a record is no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A header that is needed is missing.
    #[error("header {0}: missing")]
    MissingHeader(&'static str),
    /// A header's value is not what it must be.
    #[error("header {name}: {problem}")]
    BadHeader {
        /// The header.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The type is not the topic's, or of another version.
    #[error("header ce_type: {found:?} does not belong on this topic, which takes {expected:?}")]
    WrongType {
        /// What the header says.
        found: String,
        /// What it must say.
        expected: String,
    },
    /// The data is not what the type says.
    #[error("data: {0}")]
    BadData(String),
}

impl DecodeError {
    /// The dead letter's reason.
    pub fn reason(&self) -> DeadLetterReason {
        match self {
            DecodeError::MissingHeader(_) | DecodeError::BadHeader { .. } => DeadLetterReason::InvalidHeaders,
            DecodeError::WrongType { .. } => DeadLetterReason::UnknownType,
            DecodeError::BadData(_) => DeadLetterReason::InvalidData,
        }
    }
}

impl Record {
    /// The last value of a header, as text.
    fn header(&self, name: &'static str) -> Result<Option<&str>, DecodeError> {
        let Some((_, value)) = self.headers.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(name)) else {
            return Ok(None);
        };
        std::str::from_utf8(value)
            .map(Some)
            .map_err(|_| DecodeError::BadHeader { name, problem: "is no UTF-8 text".into() })
    }

    fn required(&self, name: &'static str) -> Result<&str, DecodeError> {
        match self.header(name)? {
            Some("") | None => Err(DecodeError::MissingHeader(name)),
            Some(value) => Ok(value),
        }
    }

    /// Reads the event. `ce_id`, `ce_type`, `ce_source` and `ce_specversion` are needed, as CloudEvents says, and `ce_time`, which judges age.
    pub fn decode(&self) -> Result<Event, DecodeError> {
        let version = self.required(HEADER_SPECVERSION)?;
        if version != "1.0" {
            return Err(DecodeError::BadHeader {
                name: HEADER_SPECVERSION,
                problem: format!("is {:?}, must be 1.0", cut(version)),
            });
        }
        let found = self.required(HEADER_TYPE)?;
        let expected = self.topic.event_type();
        if found != expected {
            return Err(DecodeError::WrongType { found: cut(found), expected });
        }
        let id = EventId::try_from(self.required(HEADER_ID)?.to_owned())
            .map_err(|e| DecodeError::BadHeader { name: HEADER_ID, problem: e.to_string() })?;
        let time: Timestamp = self
            .required(HEADER_TIME)?
            .parse()
            .map_err(|e| DecodeError::BadHeader { name: HEADER_TIME, problem: format!("is no RFC 3339 time: {e}") })?;
        let source = self.required(HEADER_SOURCE)?.to_owned();
        let payload = Payload::from_json(self.topic, &self.value).map_err(|e| DecodeError::BadData(e.to_string()))?;
        Ok(Event {
            id,
            time,
            source,
            subject: self.header(HEADER_SUBJECT)?.unwrap_or_default().to_owned(),
            key: self.key.clone().unwrap_or_default(),
            // Whatever stands there never makes an event unreadable.
            traceparent: TraceContext::read(self.header(HEADER_TRACEPARENT).ok().flatten())
                .map(|context| context.to_string()),
            payload,
        })
    }

    /// The dead letter for this record. `origin` says where it stood.
    pub fn to_dead_letter(&self, reason: DeadLetterReason, message: String, origin: String) -> DeadLetter {
        let headers: BTreeMap<String, String> = self
            .headers
            .iter()
            .take(DEAD_LETTER_HEADERS)
            .map(|(name, value)| {
                (cut(name), String::from_utf8_lossy(&value[..value.len().min(DEAD_LETTER_HEADER_BYTES)]).into_owned())
            })
            .collect();
        dead_letter_of(&self.value, reason, message, origin, headers, self.key.clone())
    }
}

/// The dead letter for bytes that came from elsewhere, like one alert of a webhook's body. Everything in it is cut to its bound,
/// whoever wrote it: a letter that the log refused would take its record with it.
pub fn dead_letter_of(
    bytes: &Bytes,
    reason: DeadLetterReason,
    message: String,
    origin: String,
    headers: BTreeMap<String, String>,
    key: Option<String>,
) -> DeadLetter {
    let kept = &bytes[..bytes.len().min(DEAD_LETTER_DATA_BYTES)];
    DeadLetter {
        reason,
        message: cut_bytes(message, DEAD_LETTER_MESSAGE_BYTES),
        origin,
        headers,
        key: key.map(|key| cut_bytes(key, DEAD_LETTER_KEY_BYTES)),
        data: BASE64.encode(kept),
        truncated: kept.len() < bytes.len(),
    }
}

/// At most so many bytes, in whole characters; a cut text ends with a mark.
fn cut_bytes(mut text: String, max: usize) -> String {
    const MARK: char = '…';
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max - MARK.len_utf8()));
        text.push(MARK);
    }
    text
}

fn cut(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{AlertRaised, AlertStatus, HEADER_TRACESTATE, Topic, alert_key, parent_of};

    fn raised() -> Event {
        Event {
            id: EventId::new("alert.raised", "x", "firing"),
            time: "2026-01-02T03:04:05.678Z".parse().unwrap(),
            source: "eventpulse/ingest".into(),
            subject: "x".into(),
            key: alert_key("prom", "ab"),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            payload: AlertRaised {
                alert_id: None,
                source: "prom".into(),
                fingerprint: None,
                status: AlertStatus::Firing,
                labels: BTreeMap::from([("alertname".into(), "A\u{0}\"ü".into())]),
                annotations: BTreeMap::new(),
                starts_at: "2026-01-02T03:04:05Z".parse().unwrap(),
                ends_at: None,
                generator_url: None,
                accepted_at: "2026-01-02T03:04:06Z".parse().unwrap(),
            }
            .into(),
        }
    }

    fn with_header(name: &str, value: Option<&[u8]>) -> Record {
        let mut record = raised().encode().unwrap();
        record.headers.retain(|(key, _)| key != name);
        if let Some(value) = value {
            record.headers.push((name.into(), Bytes::copy_from_slice(value)));
        }
        record
    }

    #[test]
    fn an_event_survives_the_log() {
        // What it was decided in is the parent of what it is.
        let parent = TraceContext::read(raised().traceparent.as_deref()).unwrap();
        let own = parent.of_event(raised().id.as_str(), raised().time);
        let record = raised().encode().unwrap();
        assert_eq!(record.decode(), Ok(Event { traceparent: Some(own.to_string()), ..raised() }));
        let state = record.headers.iter().find(|(name, _)| name == HEADER_TRACESTATE).unwrap();
        assert_eq!(parent_of(std::str::from_utf8(&state.1).ok()), Some(parent.span_id));
        // Said again it says the same.
        assert_eq!(raised().encode().unwrap(), record);
    }

    #[test]
    fn a_hostile_trace_context_is_no_context_and_no_error() {
        let long = vec![b'0'; 100_000];
        for value in
            [&b""[..], b"00-x", &[0xff, 0xfe], b"00-00000000000000000000000000000000-b7ad6b7169203331-01", &long]
        {
            assert_eq!(with_header(HEADER_TRACEPARENT, Some(value)).decode().unwrap().traceparent, None, "{value:?}");
        }
    }

    #[test]
    fn a_broken_header_is_named() {
        for (name, value, says) in [
            (HEADER_SPECVERSION, None, "header ce_specversion: missing"),
            (HEADER_SPECVERSION, Some("0.3".as_bytes()), "header ce_specversion: is \"0.3\""),
            (HEADER_ID, None, "header ce_id: missing"),
            (HEADER_ID, Some(b""), "header ce_id: missing"),
            (HEADER_ID, Some(b"../../etc"), "header ce_id: \"../../etc\" is no id"),
            (HEADER_ID, Some(&[0xff, 0xfe]), "header ce_id: is no UTF-8"),
            (HEADER_TYPE, Some(b"io.eventpulse.alert.raised.v2"), "header ce_type: "),
            (HEADER_TYPE, Some(b"io.eventpulse.action.requested.v1"), "header ce_type: "),
            (HEADER_SOURCE, None, "header ce_source: missing"),
            (HEADER_TIME, Some(b"yesterday"), "header ce_time: is no RFC 3339 time"),
            (HEADER_TIME, Some(b"-99999-01-01T00:00:00Z"), "header ce_time: "),
        ] {
            let error = with_header(name, value).decode().unwrap_err().to_string();
            assert!(error.starts_with(says), "{name} = {value:?}: {error}");
        }
    }

    #[test]
    fn broken_data_is_a_dead_letter_with_its_bytes() {
        for data in [&b""[..], b"null", b"[]", b"{", b"{\"labels\":{\"a\":1}}", &[0xff, 0x00], b"{\"source\":null}"] {
            let mut record = raised().encode().unwrap();
            record.value = Bytes::copy_from_slice(data);
            let error = record.decode().unwrap_err();
            assert_eq!(error.reason(), DeadLetterReason::InvalidData, "{data:?}");
            let letter = record.to_dead_letter(error.reason(), error.to_string(), "alert.raised/0@7".into());
            assert_eq!(BASE64.decode(letter.data).unwrap(), data);
            assert_eq!(letter.headers[HEADER_ID], raised().id.to_string());
        }
    }

    #[test]
    fn a_huge_record_is_cut_and_says_so() {
        let record = Record { topic: Topic::AlertRaised, key: None, headers: vec![], value: vec![7; 70_000].into() };
        let letter = record.to_dead_letter(DeadLetterReason::InvalidHeaders, "x".into(), "y".into());
        assert!(letter.truncated);
        assert_eq!(BASE64.decode(letter.data).unwrap().len(), DEAD_LETTER_DATA_BYTES);
    }

    /// Written by somebody who wants no letter to be written: every part as long as the log takes it, and in characters that
    /// grow sixfold in JSON.
    #[test]
    fn the_largest_letter_fits_into_a_record() {
        let hostile = |bytes: usize| "\u{1}".repeat(bytes);
        let headers: Vec<_> =
            (0..64).map(|i| (format!("{i}{}", hostile(9_000)), Bytes::from(hostile(9_000)))).collect();
        let mut record = raised().encode().unwrap();
        let status = format!("\"status\":\"{}\"", "ü".repeat(600_000));
        record.value =
            Bytes::from(String::from_utf8(record.value.to_vec()).unwrap().replace("\"status\":\"firing\"", &status));
        let error = record.decode().unwrap_err();
        assert!(error.to_string().len() > 1 << 20, "the decoder's own message holds the value");
        record.headers = headers;
        record.key = Some(hostile(1 << 20));
        let letter = record.to_dead_letter(error.reason(), error.to_string(), "alert.raised/0@7".into());
        assert!(letter.message.len() <= 1_024 && letter.message.ends_with('…'), "{}", letter.message.len());
        assert!(letter.message.starts_with("data: status: unknown variant"), "{:.80}", letter.message);
        let key = letter.key.clone().unwrap();
        assert!(key.len() <= 256, "{}", key.len());
        let event = Event { key, payload: letter.into(), ..raised() };
        let written = event.encode().unwrap();
        let bytes =
            written.value.len() + written.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        assert!(bytes < crate::bus::MAX_RECORD_BYTES / 2, "{bytes}");
    }
}
