//! What people have applied: rules, runbooks, channels, and the workloads that they are for. A seed decides its variations.

use std::{collections::BTreeMap, time::Duration};

use eventpulse_fake_api::FakeApi;
use eventpulse_oracle::{Asks, Told};
use serde_json::{Value, json};

use crate::chance::Chance;

pub(crate) const NAMESPACE: &str = "shop";
pub(crate) const DEPLOYMENTS: &str = "/apis/apps/v1/deployments";
const KINDS: &str = "/apis/eventpulse.io/v1alpha1";

/// A collection of ours, like `rules`.
pub(crate) fn collection(plural: &str) -> String {
    format!("{KINDS}/{plural}")
}

/// See the module's text.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// Deployments, each the target of the alerts of its service.
    pub services: Vec<String>,
    /// What alerts are called, and which rules match them.
    pub rules_of: BTreeMap<String, Vec<String>>,
    resolve_on: &'static str,
    cooldown: Duration,
    deadline: Duration,
    watches_all: bool,
}

impl Scenario {
    pub(crate) fn new(chance: &Chance) -> Self {
        let services = (0..chance.between(1, 4)).map(|n| format!("svc-{n}")).collect();
        let watches_all = chance.permille(300);
        let resolve_on = if chance.permille(500) { "ActionCompleted" } else { "AlertResolved" };
        let cooldown = if chance.permille(500) { Duration::ZERO } else { Duration::from_secs(30) };
        let rules = |own: Option<&str>| {
            let own = own.map(|rule| format!("{NAMESPACE}/{rule}"));
            let all = (watches_all && own.is_some()).then(|| format!("{NAMESPACE}/watch-all"));
            own.into_iter().chain(all).collect()
        };
        let rules_of = [("CPUHigh", Some("cpu-high")), ("Errors", Some("errors")), ("Other", None)]
            .map(|(alert, rule)| (alert.to_owned(), rules(rule)));
        let deadline = Duration::from_secs(if chance.permille(300) { 20 } else { 300 });
        Self { services, rules_of: rules_of.into(), resolve_on, cooldown, deadline, watches_all }
    }

    /// Applies it.
    pub(crate) fn apply(&self, api: &FakeApi) {
        for service in &self.services {
            api.put(DEPLOYMENTS, deployment(service));
        }
        for (name, spec) in self.rules() {
            api.put(&collection("rules"), object("Rule", name, spec));
        }
        for (name, spec) in runbooks() {
            api.put(&collection("runbooks"), object("Runbook", name, spec));
        }
        for channel in ["ops", "pager"] {
            let spec = json!({"type": "Webhook", "webhook": {"url": format!("http://hooks.example/{channel}")}});
            api.put(&collection("notificationchannels"), object("NotificationChannel", channel, spec));
        }
    }

    /// What an incident of each rule asks for, as its rule says.
    pub(crate) fn asks_of(&self) -> BTreeMap<String, Asks> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let all = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let told = |message: &Value| {
            let (channel, template) = (text(&message["channelRef"]["name"]), text(&message["template"]));
            let of = |event: &Value| Told { channel: channel.clone(), template: template.clone(), event: text(event) };
            all(&message["events"]).iter().map(of).collect::<Vec<_>>()
        };
        let asks = |spec: &Value| Asks {
            step: spec["actions"][0]["name"].as_str().map(str::to_owned),
            messages: all(&spec["notifications"]).iter().flat_map(told).collect(),
            cooldown: spec["cooldown"] != "0s",
        };
        self.rules().iter().map(|(name, spec)| (format!("{NAMESPACE}/{name}"), asks(spec))).collect()
    }

    fn rules(&self) -> Vec<(&'static str, Value)> {
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "$(alert.labels.service)"});
        let deadline = format!("{}s", self.deadline.as_secs());
        let action = |name: &str, runbook: &str| json!({"name": name, "runbookRef": {"name": runbook}, "targetRef": target, "deadline": deadline});
        let tell = |channel: &str, template: &str, event: &str| json!({"channelRef": {"name": channel}, "template": template, "events": [event]});
        let mut rules = vec![
            (
                "cpu-high",
                json!({
                    "match": {"matchers": ["alertname=\"CPUHigh\""]},
                    "groupBy": ["service"],
                    "incident": {"severity": "$(alert.labels.severity)", "resolveOn": self.resolve_on},
                    "actions": [action("add-replica", "scale-up"), action("restart", "restart")],
                    "notifications": [
                        tell("ops", "IncidentOpened", "Opened"), tell("ops", "IncidentMitigating", "Opened"),
                        tell("ops", "ActionFailed", "ActionFailed"),
                        tell("pager", "IncidentFailed", "Failed"), tell("ops", "IncidentResolved", "Resolved"),
                    ],
                    "cooldown": format!("{}s", self.cooldown.as_secs()),
                }),
            ),
            (
                "errors",
                json!({
                    "match": {"matchers": ["alertname=\"Errors\""]},
                    "incident": {"resolveOn": "AlertResolved"},
                    "actions": [action("restart", "restart")],
                    "notifications": [tell("pager", "IncidentOpened", "Opened")],
                    "cooldown": "0s",
                }),
            ),
        ];
        if self.watches_all {
            let watch_all = json!({
                "match": {"matchers": ["alertname=~\"CPUHigh|Errors\""]},
                "groupBy": ["severity"],
                "notifications": [tell("ops", "IncidentOpened", "Opened"), tell("ops", "IncidentResolved", "Resolved")],
                "cooldown": "0s",
            });
            rules.push(("watch-all", watch_all));
        }
        rules
    }
}

fn runbooks() -> [(&'static str, Value); 2] {
    let retry = json!({"limit": 3, "backoff": {"initial": "200ms", "max": "5s"}});
    let scale = json!({"delta": "$(params.delta)", "maxReplicas": 20});
    [
        (
            "scale-up",
            json!({
                "serviceAccountName": "remediator", "retry": retry,
                "parameters": [{"name": "delta", "type": "Integer", "default": "1", "minimum": 1, "maximum": 5}],
                "steps": [{"name": "scale", "type": "Scale", "scale": scale, "timeout": "10s"}],
            }),
        ),
        (
            "restart",
            json!({
                "serviceAccountName": "remediator", "retry": retry,
                "steps": [{"name": "restart", "type": "Restart", "restart": {}, "timeout": "10s"}],
            }),
        ),
    ]
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    let metadata = json!({"name": name, "namespace": NAMESPACE});
    json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
}

/// With three replicas.
pub(crate) fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": NAMESPACE, "generation": 1},
        "spec": {
            "replicas": 3, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "a", "image": "a"}]}},
        },
        "status": {"observedGeneration": 1},
    })
}
