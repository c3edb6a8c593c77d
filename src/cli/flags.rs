//! Flags that several commands which look at the log share.

use std::{fmt, str::FromStr};

use clap::ValueEnum;
use jiff::Timestamp;

use crate::{api::v1alpha1::Duration, events::Topic};

/// How it is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// From when on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// So long before now.
    Ago(Duration),
    /// This time.
    At(Timestamp),
}

impl Since {
    /// As a time.
    pub(super) fn begin(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(duration) => now.saturating_sub(duration.as_signed()).unwrap_or(Timestamp::MIN),
            Self::At(time) => time,
        }
        // Brokers know no earlier time.
        .max(Timestamp::UNIX_EPOCH)
    }
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ago(duration) => write!(f, "{duration}"),
            Self::At(time) => write!(f, "{time}"),
        }
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(duration) = text.parse() {
            return Ok(Self::Ago(duration));
        }
        text.parse().map(Self::At).map_err(|_| {
            format!(
                "{text:?} is neither a duration, like 90m or 24h, nor a time of RFC 3339, like 2026-01-02T03:04:05Z"
            )
        })
    }
}

/// Nothing of a topic that is not there is no good news.
pub(super) fn is_absent(topic: Topic) -> anyhow::Error {
    anyhow::anyhow!("there is no topic {topic}; is --topic-prefix that of the services, and are these their brokers?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_duration_or_a_time() {
        let now: Timestamp = "2026-01-02T12:00:00Z".parse().unwrap();
        let begin = |text: &str| text.parse::<Since>().map(|since| since.begin(now).to_string());
        assert_eq!(begin("90m"), Ok("2026-01-02T10:30:00Z".into()));
        assert_eq!(begin("2026-01-02T03:04:05Z"), Ok("2026-01-02T03:04:05Z".into()));
        assert_eq!(begin("2026-01-02T03:04:05+01:00"), Ok("2026-01-02T02:04:05Z".into()));
        assert_eq!(begin("1900-01-01T00:00:00Z"), Ok("1970-01-01T00:00:00Z".into()));
        for text in ["", "yesterday", "-1h", "2026-01-02", "24"] {
            assert!(begin(text).unwrap_err().contains("neither a duration"), "{text}");
        }
    }
}
