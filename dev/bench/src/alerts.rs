//! Alerts as Alertmanager sends them, written without a tree of JSON: at twenty thousand a second the generator would otherwise
//! measure itself.

use std::fmt::Write as _;

use bytes::Bytes;
use jiff::Timestamp;

/// What the alerts of a load have in common.
#[derive(Clone, Debug)]
pub struct Alerts {
    /// The label `alertname`.
    pub name: String,
    /// How many values the label `service` has: `t0`, `t1`, …
    pub services: u64,
    /// The label `severity`.
    pub severity: &'static str,
    /// When all of them began.
    pub starts_at: Timestamp,
}

impl Alerts {
    /// Warnings that begin now.
    pub fn warnings(name: impl Into<String>, services: u64) -> Self {
        Self { name: name.into(), services, severity: "warning", starts_at: Timestamp::now() }
    }

    /// The body of one webhook request with the alerts `from..from + count`. Each has its number in the label `n`, so each is one of
    /// its own, and some 600 bytes, as real ones have.
    pub fn webhook(&self, from: u64, count: u64) -> Bytes {
        let mut body = String::with_capacity(400 + count as usize * 800);
        // Writing to a String cannot fail.
        let _ = write!(
            body,
            "{{\"version\":\"4\",\"groupKey\":\"{{}}:{{alertname=\\\"{0}\\\"}}\",\"truncatedAlerts\":0,\"status\":\"firing\",\
             \"receiver\":\"eventpulse\",\"groupLabels\":{{}},\"commonLabels\":{{\"alertname\":\"{0}\"}},\"commonAnnotations\":{{}},\
             \"externalURL\":\"http://alertmanager.example\",\"alerts\":[",
            self.name
        );
        for number in from..from + count {
            if number > from {
                body.push(',');
            }
            self.alert(number, &mut body);
        }
        body.push_str("]}");
        body.into()
    }

    fn alert(&self, number: u64, body: &mut String) {
        let (n, service) = (number.to_string(), format!("t{}", number % self.services.max(1)));
        let labels = [
            ("alertname", self.name.as_str()),
            ("cluster", "production-1"),
            ("container", "main"),
            ("job", "kubernetes-pods"),
            ("n", n.as_str()),
            ("prometheus", "monitoring/main"),
            ("service", service.as_str()),
            ("severity", self.severity),
        ];
        body.push_str("{\"status\":\"firing\",\"labels\":{");
        for (i, (name, value)) in labels.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let _ = write!(body, "{comma}\"{name}\":\"{value}\"");
        }
        let _ = write!(
            body,
            "}},\"annotations\":{{\"summary\":\"CPU of {service} above 90 % for 5 minutes\",\"description\":\"The container main of \
             {service} has used more than nine tenths of its CPU limit for five minutes.\",\"runbook_url\":\
             \"http://runbooks.example/cpu-high\"}},\"startsAt\":\"{}\",\"endsAt\":\"0001-01-01T00:00:00Z\",\"generatorURL\":\
             \"http://prometheus.example/graph?g0.expr=cpu\",\"fingerprint\":\"{:016x}\"}}",
            self.starts_at,
            fingerprint(&labels)
        );
    }
}

/// Alertmanager's (prometheus/common, `model.LabelSet.Fingerprint`), of labels in the order of their names.
fn fingerprint(labels: &[(&str, &str)]) -> u64 {
    let bytes = labels.iter().flat_map(|(name, value)| name.bytes().chain([255]).chain(value.bytes()).chain([255]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use eventpulse_testkit::alerts::Alert;
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_body_is_what_alertmanager_would_write() {
        let alerts = Alerts {
            name: "CPUHigh".into(),
            services: 7,
            severity: "warning",
            starts_at: "2026-01-01T12:00:00.5Z".parse().unwrap(),
        };
        let body: Value = serde_json::from_slice(&alerts.webhook(10, 50)).unwrap();
        let all = body["alerts"].as_array().unwrap();
        assert_eq!((all.len(), &body["version"]), (50, &Value::from("4")));
        let fingerprints: BTreeSet<&str> = all.iter().map(|alert| alert["fingerprint"].as_str().unwrap()).collect();
        assert_eq!(fingerprints.len(), 50, "each is one of its own");
        for (i, alert) in all.iter().enumerate() {
            assert_eq!(alert["labels"]["n"], (i + 10).to_string());
            assert_eq!(alert["labels"]["service"], format!("t{}", (i + 10) % 7));
            let labels = alert["labels"].as_object().unwrap();
            let same = Alert::firing("CPUHigh", Timestamp::UNIX_EPOCH);
            let same = labels.iter().fold(same, |same, (name, value)| same.label(name, value.as_str().unwrap()));
            assert_eq!(alert["fingerprint"], same.fingerprint());
            assert_eq!(alert["startsAt"], "2026-01-01T12:00:00.5Z");
        }
    }
}
