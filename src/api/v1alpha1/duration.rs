//! Durations as Gateway API writes them (GEP-2257): `1h30m`, `500ms`, never `1.5h` or `-3s`.

use std::{borrow::Cow, fmt, str::FromStr};

use kube::core::Rule;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The pattern of GEP-2257: up to four groups of up to five digits and a unit.
pub const DURATION_PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// The longest duration, 99999h59m59s999ms: a longer one could be read, and not be written in four groups of five digits (GEP-2257).
const MILLIS_MAX: u64 = ((99_999 * 60 + 59) * 60 + 59) * 1_000 + 999;

/// A length of time of at least 0 ms and at most 99999h59m59s999ms, written as GEP-2257 says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no duration: write hours, minutes, seconds and milliseconds in whole numbers, like 30s or 1h30m, at most \
     99999h59m59s999ms (GEP-2257)"
)]
pub struct InvalidDuration(String);

impl Duration {
    /// A duration of whole milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Self(std::time::Duration::from_millis(ms))
    }

    /// A duration of whole seconds.
    pub const fn from_secs(s: u64) -> Self {
        Self(std::time::Duration::from_secs(s))
    }

    /// As the standard library has it.
    pub const fn as_std(self) -> std::time::Duration {
        self.0
    }

    /// In whole milliseconds. Every value that was parsed fits.
    pub fn as_millis(self) -> i64 {
        i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX)
    }

    /// As a span that a [`jiff::Timestamp`] can be moved by.
    pub fn as_signed(self) -> jiff::SignedDuration {
        jiff::SignedDuration::from_millis(self.as_millis())
    }
}

/// The CEL rule of a field that holds a duration, which the API server checks: from `least` to `most`, both as GEP-2257 says.
pub(super) fn within(field: &str, least: &str, most: &str) -> Rule {
    Rule::new(format!("duration(self) >= duration('{least}') && duration(self) <= duration('{most}')"))
        .message(format!("{field}: from {least} to {most}").as_str())
}

impl FromStr for Duration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidDuration(text.chars().take(64).collect());
        let mut rest = text;
        let mut total_ms: u64 = 0;
        let mut groups = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 || digits > 5 || groups == 4 {
                return Err(invalid());
            }
            let number: u64 = rest[..digits].parse().map_err(|_| invalid())?;
            rest = &rest[digits..];
            let (unit_ms, unit_len) = if rest.starts_with("ms") {
                (1, 2)
            } else if rest.starts_with('s') {
                (1_000, 1)
            } else if rest.starts_with('m') {
                (60_000, 1)
            } else if rest.starts_with('h') {
                (3_600_000, 1)
            } else {
                return Err(invalid());
            };
            rest = &rest[unit_len..];
            total_ms += number * unit_ms;
            groups += 1;
        }
        if groups == 0 || total_ms > MILLIS_MAX { Err(invalid()) } else { Ok(Self::from_millis(total_ms)) }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_millis();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit_ms, unit) in [(3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")] {
            let count = rest / unit_ms;
            if count > 0 {
                write!(f, "{count}{unit}")?;
                rest %= unit_ms;
            }
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": DURATION_PATTERN, "maxLength": 32})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_gep_2257_allows_and_writes_it_in_one_form() {
        for (text, ms, written) in [
            ("0s", 0, "0s"),
            ("1h30m", 5_400_000, "1h30m"),
            ("90m", 5_400_000, "1h30m"),
            ("500ms", 500, "500ms"),
            ("1m1ms", 60_001, "1m1ms"),
        ] {
            let parsed: Duration = text.parse().unwrap();
            assert_eq!((parsed.as_millis(), parsed.to_string().as_str()), (ms, written), "{text}");
        }
    }

    #[test]
    fn a_duration_that_could_not_be_written_is_refused() {
        let longest = "99999h59m59s999ms";
        assert_eq!(longest.parse::<Duration>().unwrap().to_string(), longest);
        for text in ["99999h60m", "99999h99999h", "99999h59m59s1000ms"] {
            let error = text.parse::<Duration>().unwrap_err().to_string();
            assert!(error.contains(longest), "{error}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in ["", "5", "s", "-1s", "1.5h", "1 s", "1d", "100000s", "1s1s1s1s1s", "1µs", "１s", "1sms"] {
            assert!(text.parse::<Duration>().is_err(), "{text:?} was accepted");
        }
    }
}
