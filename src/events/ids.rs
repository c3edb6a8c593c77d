//! Ids: all derived, none random (design, section 3). The same facts give the same id on every replica and after every restart.

use std::{collections::BTreeMap, fmt};

use data_encoding::{Encoding, Specification};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    api::v1alpha1::TargetReference,
    mutants::{Mutant, mutated},
};

/// Characters of a full id: 26 of base 32 hold 130 bits.
const ID_LEN: usize = 26;
/// Characters of the hash in an incident's name: 50 bits, within one rule's namespace and retention.
const INCIDENT_HASH_LEN: usize = 10;

/// Base 32 in lower case without padding: every id can be a resource name (RFC 1123 label).
fn base32() -> Encoding {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    // The alphabet is a constant of 32 distinct symbols, the one thing that `encoding` checks.
    specification.encoding().unwrap_or(data_encoding::BASE32_NOPAD)
}

/// SHA-256 over parts with their lengths, so that no two different lists of parts are alike.
fn derive(kind: &str, parts: &[&str], len: usize) -> String {
    let mut hasher = Sha256::new();
    for part in std::iter::once(&kind).chain(parts) {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    let mut text = base32().encode(&hasher.finalize());
    text.truncate(len);
    text
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(with = "String", extend("pattern" = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength" = 63))]
        pub struct $name(String);

        impl $name {
            /// The id as text: a valid RFC 1123 label.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            /// Accepts what can be a resource's name; everything else would only fail later, at the API server.
            fn try_from(text: String) -> Result<Self, InvalidId> {
                if is_label(&text) { Ok(Self(text)) } else { Err(InvalidId(text.chars().take(80).collect())) }
            }
        }
    };
}

/// A text that cannot be an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no id: 1 to 63 characters of a-z, 0-9 and -, which begin and end with a letter or digit")]
pub struct InvalidId(String);

fn is_label(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| alphanumeric(*b) || *b == b'-')
        && alphanumeric(bytes[0])
        && alphanumeric(bytes[bytes.len() - 1])
}

id!(
    /// One alert: `hash(source, fingerprint, startsAt)`.
    AlertId
);
id!(
    /// One group of one rule: `hash(rule namespace/name, values of the groupBy labels)`.
    CorrelationId
);
id!(
    /// One episode of a group, and the Incident's name: `<rule>-<hash(correlation_id, first alert_id)>`.
    IncidentId
);
id!(
    /// One try of one step: `hash(incident_id, step, attempt)`, and the Action's name.
    ActionId
);
id!(
    /// One message: `hash(incident_id, channel, template, occurrence)`, and the Notification's name.
    NotificationId
);
id!(
    /// One fact: `hash(type, what it speaks of, transition)`.
    EventId
);

/// Times in ids are whole milliseconds since 1970, so that `…00Z` and `…00.000Z` agree.
fn millis(time: Timestamp) -> String {
    time.as_millisecond().to_string()
}

impl AlertId {
    /// `source` is the configured name of the sender, never a URL or a pod: the two of a highly available pair agree.
    pub fn new(source: &str, fingerprint: &str, starts_at: Timestamp) -> Self {
        Self(derive("alert", &[source, fingerprint, &millis(starts_at)], ID_LEN))
    }
}

impl CorrelationId {
    /// `values` are those of the groupBy labels, in the rule's order; without groupBy, the fingerprint alone.
    pub fn new(rule_namespace: &str, rule_name: &str, values: &[&str]) -> Self {
        let mut parts = vec![rule_namespace, rule_name];
        parts.extend_from_slice(values);
        Self(derive("correlation", &parts, ID_LEN))
    }

    /// Of a rule's storm, which is no group of its alerts.
    pub fn of_storm(rule_namespace: &str, rule_name: &str) -> Self {
        Self(derive("storm", &[rule_namespace, rule_name], ID_LEN))
    }
}

impl IncidentId {
    /// Named after the rule, whose name is at most 40 characters.
    pub fn new(rule_name: &str, correlation: &CorrelationId, first_alert: &AlertId) -> Self {
        let hash = derive("incident", &[correlation.as_str(), first_alert.as_str()], INCIDENT_HASH_LEN);
        // Rule names are resource names, which may hold dots; an id is a label and also a label's value.
        let rule: String = rule_name.chars().take(40).map(|c| if c == '.' { '-' } else { c }).collect();
        Self(format!("{rule}-{hash}"))
    }
}

impl ActionId {
    /// `namespace` keeps incidents of the same name in two namespaces apart.
    pub fn new(namespace: &str, incident: &IncidentId, step: &str, attempt: u32) -> Self {
        Self(derive("action", &[namespace, incident.as_str(), step, &attempt.to_string()], ID_LEN))
    }
}

impl NotificationId {
    /// `occurrence` tells apart what is said more than once with one template, like `ActionFailed/restart/1` or `Failed/3`.
    pub fn new(namespace: &str, incident: &IncidentId, channel: &str, template: &str, occurrence: &str) -> Self {
        let template = if mutated(Mutant::KeyWithoutTemplate) { "" } else { template };
        Self(derive("notification", &[namespace, incident.as_str(), channel, template, occurrence], ID_LEN))
    }
}

impl EventId {
    /// `event_type` is the topic's name; `subject` what it speaks of; `transition` tells its facts apart.
    pub fn new(event_type: &str, subject: &str, transition: &str) -> Self {
        Self(derive("event", &[event_type, subject, transition], ID_LEN))
    }
}

/// The key of alert.raised: `hash(source, fingerprint)`, so that firing, resolved and both of a pair share a partition.
pub fn alert_key(source: &str, fingerprint: &str) -> String {
    derive("alert-key", &[source, fingerprint], ID_LEN)
}

/// The key of action.requested, and of the turn that one target's actions take: `namespace/kind/name`.
pub fn target_key(namespace: &str, target: &TargetReference) -> String {
    format!("{namespace}/{}/{}", target.kind, target.name)
}

/// The fingerprint of a label set as Alertmanager computes it (prometheus/common `model.LabelSet.Fingerprint`):
/// FNV-1a, 64 bit, over the sorted names and values, each followed by the byte 255; 16 hexadecimal digits.
pub fn fingerprint_of(labels: &BTreeMap<String, String>) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |bytes: &[u8]| {
        for byte in bytes.iter().chain(&[255]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for (name, value) in labels {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn without_its_template_a_message_has_the_key_of_another() {
        let correlation = CorrelationId::new("shop", "cpu-high", &["svc-a"]);
        let alert = AlertId::new("am", "f", Timestamp::UNIX_EPOCH);
        let incident = IncidentId::new("cpu-high", &correlation, &alert);
        let keys = || ["A", "B"].map(|template| NotificationId::new("shop", &incident, "ops", template, "Opened"));
        let [a, b] = keys();
        assert_ne!(a, b);
        let [a, b] = crate::mutants::with(Mutant::KeyWithoutTemplate, keys);
        assert_eq!(a, b);
    }

    #[test]
    fn an_id_depends_on_every_part_and_on_where_the_parts_end() {
        let id = AlertId::new("prom", "ab", at(1));
        assert_eq!(id, AlertId::new("prom", "ab", at(1)));
        assert_ne!(id, AlertId::new("proma", "b", at(1)));
        assert_ne!(id, AlertId::new("prom", "ab", at(2)));
        assert_eq!(id.as_str().len(), ID_LEN);
    }

    #[test]
    fn an_incident_is_named_after_its_rule_and_fits_a_label() {
        let correlation = CorrelationId::new("shop", "cpu-high", &["svc-a"]);
        let incident = IncidentId::new(&"r".repeat(40), &correlation, &AlertId::new("prom", "ab", at(1)));
        assert!(incident.as_str().starts_with("rrrr"));
        assert_eq!(incident.as_str().len(), 51);
        assert!(IncidentId::try_from(incident.to_string()).is_ok());
        assert!(IncidentId::new("a.b", &correlation, &AlertId::new("p", "f", at(1))).as_str().starts_with("a-b-"));
    }

    #[test]
    fn what_cannot_be_a_resource_name_is_no_id() {
        for text in ["", "-a", "a-", "A", "a/b", "a.b", "ä", &"a".repeat(64), "a\n", "../x"] {
            assert!(ActionId::try_from(text.to_owned()).is_err(), "{text:?} was accepted");
        }
    }

    /// The empty set's value stands in prometheus/common, `model/signature.go`: FNV-1a's offset basis.
    #[test]
    fn fingerprints_are_alertmanagers() {
        assert_eq!(fingerprint_of(&BTreeMap::new()), "cbf29ce484222325");
        let labels = BTreeMap::from([
            ("name".to_owned(), "garland, briggs".to_owned()),
            ("fear".to_owned(), "love is not enough".to_owned()),
        ]);
        assert_eq!(fingerprint_of(&labels), format!("{:016x}", 5_799_056_148_416_392_346_u64));
    }
}
