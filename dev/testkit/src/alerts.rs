//! What Alertmanager and Prometheus send: the webhook of Alertmanager, version 4, and the body of `POST /api/v2/alerts`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

/// The end of an alert that goes on, as Alertmanager's webhook writes it.
const NO_END: &str = "0001-01-01T00:00:00Z";

/// One alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    starts_at: Timestamp,
    ends_at: Option<Timestamp>,
    resolved: bool,
}

impl Alert {
    /// A firing alert that began at this time.
    pub fn firing(alertname: &str, starts_at: Timestamp) -> Self {
        let labels = BTreeMap::from([("alertname".to_owned(), alertname.to_owned())]);
        Self { labels, annotations: BTreeMap::new(), starts_at, ends_at: None, resolved: false }
    }

    /// The one of the seed scenario: CPU of a service too high, severity `warning`.
    pub fn cpu_high(service: &str, starts_at: Timestamp) -> Self {
        Self::firing("CPUHigh", starts_at)
            .label("service", service)
            .label("severity", "warning")
            .annotation("summary", format!("CPU of {service} above 90 % for 5 minutes"))
    }

    /// With this label.
    pub fn label(mut self, name: &str, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// With this annotation.
    pub fn annotation(mut self, name: &str, value: impl Into<String>) -> Self {
        self.annotations.insert(name.into(), value.into());
        self
    }

    /// Firing, and taken as resolved at this time unless it is sent again, as Prometheus says it.
    pub fn ends_at(mut self, time: Timestamp) -> Self {
        self.ends_at = Some(time);
        self
    }

    /// The same alert, resolved at this time.
    pub fn resolved(mut self, at: Timestamp) -> Self {
        self.ends_at = Some(at);
        self.resolved = true;
        self
    }

    /// When it began.
    pub fn starts_at(&self) -> Timestamp {
        self.starts_at
    }

    /// Its label `alertname`.
    pub fn name(&self) -> &str {
        self.labels.get("alertname").map_or("", String::as_str)
    }

    /// `firing` or `resolved`.
    pub fn status(&self) -> &'static str {
        if self.resolved { "resolved" } else { "firing" }
    }

    /// Alertmanager's fingerprint (prometheus/common, `model.LabelSet.Fingerprint`): FNV-1a, 64 bit, over the sorted names and
    /// values, each followed by the byte 255.
    pub fn fingerprint(&self) -> String {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for text in self.labels.iter().flat_map(|(name, value)| [name, value]) {
            for byte in text.bytes().chain([255]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        format!("{hash:016x}")
    }

    fn in_webhook(&self) -> Value {
        json!({
            "status": self.status(),
            "labels": self.labels,
            "annotations": self.annotations,
            "startsAt": self.starts_at.to_string(),
            // Alertmanager's webhook gives no end while an alert fires.
            "endsAt": self.ends_at.filter(|_| self.resolved).map_or_else(|| NO_END.to_owned(), |end| end.to_string()),
            "generatorURL": "http://prometheus.example/graph?g0.expr=cpu",
            "fingerprint": self.fingerprint(),
        })
    }
}

/// The body that Alertmanager posts to a webhook receiver, version 4 (Alertmanager, `notify/webhook`, `template.Data`).
pub fn webhook(alerts: &[Alert]) -> Value {
    let firing = alerts.iter().any(|alert| !alert.resolved);
    json!({
        "version": "4",
        "groupKey": format!("{{}}:{{alertname={:?}}}", alerts.first().map_or("", Alert::name)),
        "truncatedAlerts": 0,
        "status": if firing { "firing" } else { "resolved" },
        "receiver": "eventpulse",
        "groupLabels": {},
        "commonLabels": common(alerts, |alert| &alert.labels),
        "commonAnnotations": common(alerts, |alert| &alert.annotations),
        "externalURL": "http://alertmanager.example",
        "alerts": alerts.iter().map(Alert::in_webhook).collect::<Vec<_>>(),
    })
}

/// The body that Prometheus posts to `/api/v2/alerts`.
pub fn api_v2(alerts: &[Alert]) -> Value {
    alerts
        .iter()
        .map(|alert| {
            let mut value = json!({
                "labels": alert.labels,
                "annotations": alert.annotations,
                "startsAt": alert.starts_at.to_string(),
                "generatorURL": "http://prometheus.example/graph?g0.expr=cpu",
            });
            if let Some(end) = alert.ends_at {
                value["endsAt"] = json!(end.to_string());
            }
            value
        })
        .collect()
}

fn common<'a>(
    alerts: &'a [Alert],
    of: impl Fn(&'a Alert) -> &'a BTreeMap<String, String>,
) -> BTreeMap<&'a str, &'a str> {
    let Some(first) = alerts.first() else { return BTreeMap::new() };
    of(first)
        .iter()
        .filter(|(name, value)| alerts.iter().all(|alert| of(alert).get(*name) == Some(value)))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_webhook_looks_as_alertmanager_writes_it() {
        let firing = Alert::cpu_high("svc-a", at("2026-01-01T12:00:00Z"));
        let resolved = Alert::cpu_high("svc-b", at("2026-01-01T12:00:00Z")).resolved(at("2026-01-01T12:05:00Z"));
        let body = webhook(&[firing.clone().ends_at(at("2026-01-01T13:00:00Z")), resolved.clone()]);
        assert_eq!(body["status"], "firing");
        assert_eq!(body["alerts"][0]["endsAt"], NO_END);
        assert_eq!(body["alerts"][1]["endsAt"], "2026-01-01T12:05:00Z");
        assert_eq!(body["commonLabels"], json!({"alertname": "CPUHigh", "severity": "warning"}));
        assert_eq!(webhook(&[resolved])["status"], "resolved");
        assert_eq!(webhook(&[])["alerts"], json!([]));
        assert_eq!(api_v2(&[firing])[0].get("endsAt"), None);
    }

    /// The value of the empty set stands in prometheus/common, `model/signature.go`.
    #[test]
    fn fingerprints_are_alertmanagers() {
        let alert = |labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Alert { labels, ..Alert::firing("x", Timestamp::UNIX_EPOCH) }.fingerprint()
        };
        assert_eq!(alert(&[]), "cbf29ce484222325");
        let known = alert(&[("name", "garland, briggs"), ("fear", "love is not enough")]);
        assert_eq!(known, format!("{:016x}", 5_799_056_148_416_392_346_u64));
    }
}
