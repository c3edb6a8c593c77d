//! What people have applied: rules, runbooks, a channel, and the workloads that they are for.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use anyhow::Result;
use eventpulse_env::ControlPlane;
use eventpulse_oracle::{Asks, Possible, Told};
use eventpulse_testkit::proxy::Call;
use rand::{RngExt, rngs::StdRng};

/// What an alert is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Its target is scaled.
    Scale,
    /// The same by a runbook whose circuit breaker is as it comes.
    Guarded,
    /// Its target is restarted.
    Restart,
    /// Scaling its target is refused, so that it is given up and the target restarted.
    Refused,
    /// No rule matches it.
    Unmatched,
    /// As [`Guarded`](Kind::Guarded), and its target is nobody else's: it tells how fast things go.
    Probe,
    /// As [`Refused`](Kind::Refused), and its target is nobody else's.
    RefusedProbe,
}

impl Kind {
    const ALL: [Kind; 7] =
        [Kind::Scale, Kind::Guarded, Kind::Restart, Kind::Refused, Kind::Unmatched, Kind::Probe, Kind::RefusedProbe];

    /// Most are scaled.
    pub(crate) fn any(random: &mut StdRng) -> Self {
        match random.random_range(0..20) {
            0..=6 => Kind::Scale,
            7..=13 => Kind::Guarded,
            14..=17 => Kind::Restart,
            18 => Kind::Refused,
            _ => Kind::Unmatched,
        }
    }

    /// The alert's name.
    pub(crate) fn alert(self) -> &'static str {
        match self {
            Kind::Scale => "ChaosScale",
            Kind::Guarded => "ChaosGuarded",
            Kind::Restart => "ChaosRestart",
            Kind::Refused => "ChaosRefused",
            Kind::Unmatched => "ChaosUnmatched",
            Kind::Probe => "ChaosProbe",
            Kind::RefusedProbe => "ChaosRefusedProbe",
        }
    }

    fn rule(self) -> Option<&'static str> {
        match self {
            Kind::Scale => Some("chaos-scale"),
            Kind::Guarded => Some("chaos-guarded"),
            Kind::Restart => Some("chaos-restart"),
            Kind::Refused => Some("chaos-refused"),
            Kind::Unmatched => None,
            Kind::Probe => Some("chaos-probe"),
            Kind::RefusedProbe => Some("chaos-refused-probe"),
        }
    }

    /// Each is tried when the one before it has failed.
    fn runbooks(self) -> &'static [&'static str] {
        match self {
            Kind::Scale | Kind::Unmatched => &["chaos-scale"],
            Kind::Guarded | Kind::Probe => &["chaos-guarded"],
            Kind::Restart => &["chaos-restart"],
            Kind::Refused | Kind::RefusedProbe => &["chaos-refused", "chaos-restart"],
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Kind::Scale | Kind::Unmatched => "scaled",
            Kind::Guarded => "guarded",
            Kind::Restart => "restarted",
            Kind::Refused => "refused",
            Kind::Probe => "probe",
            Kind::RefusedProbe => "refused-probe",
        }
    }

    /// How many targets there are of it.
    pub(crate) fn targets(self) -> usize {
        match self {
            Kind::Scale | Kind::Guarded | Kind::Unmatched => 40,
            Kind::Restart | Kind::Refused => 8,
            Kind::Probe => 600,
            Kind::RefusedProbe => 300,
        }
    }
}

/// See the module's text.
pub(crate) struct Setting;

impl Setting {
    /// The target of this number.
    pub(crate) fn service(kind: Kind, number: usize) -> String {
        format!("{}-{number}", kind.prefix())
    }

    /// Which rules match the alerts of which name.
    pub(crate) fn rules_of() -> BTreeMap<String, Vec<String>> {
        let rules = |kind: Kind| kind.rule().map(|rule| format!("shop/{rule}")).into_iter().collect();
        Kind::ALL.map(|kind| (kind.alert().to_owned(), rules(kind))).into()
    }

    /// What an incident of each rule asks for.
    pub(crate) fn asks_of() -> BTreeMap<String, Asks> {
        let told = |[channel, template, event]: [&str; 3]| Told {
            channel: channel.into(),
            template: template.into(),
            event: event.into(),
        };
        let asks = |kind: Kind| Asks {
            step: kind.runbooks().first().map(|runbook| (*runbook).to_owned()),
            messages: MESSAGES.map(told).into(),
            cooldown: false,
        };
        Kind::ALL.iter().filter_map(|kind| Some((format!("shop/{}", kind.rule()?), asks(*kind)))).collect()
    }

    /// What the faults excuse: calls to targets fail, and one receiver refuses everything.
    pub(crate) fn possible() -> Possible {
        Possible {
            actions: vec!["Refused", "RetriesExhausted"],
            refusing_channels: vec![REFUSING],
            // The longest that the broker is stopped, and as much again as it takes to join.
            deaf_s: 420,
            ..Possible::default()
        }
    }

    /// Whether it is the patch that is never let through.
    pub(crate) fn refuses(call: &Call) -> bool {
        call.path.contains(&format!("/deployments/{}-", Kind::Refused.prefix())) && call.patches("/spec/replicas")
    }

    /// Whether it is a patch for an action whose breaker is as it comes.
    pub(crate) fn is_guarded(call: &Call) -> bool {
        [Kind::Guarded, Kind::Probe].iter().any(|kind| call.path.contains(&format!("/deployments/{}-", kind.prefix())))
    }

    /// `hook` takes messages, `gone` none ever. Applies all of it; the CRDs, the namespace and the account are there.
    pub(crate) async fn apply(plane: &ControlPlane, hook: &str, gone: &str, dir: &Path) -> Result<()> {
        let mut text = String::new();
        // The target of those that no rule matches is one that is scaled.
        for kind in Kind::ALL.into_iter().filter(|kind| kind.rule().is_some()) {
            for number in 0..kind.targets() {
                // What is restarted may not be paused; without replicas none has a pod.
                let paused = matches!(kind, Kind::Scale | Kind::Guarded | Kind::Probe);
                let name = Self::service(kind, number);
                write!(
                    text,
                    "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  replicas: 0\n  \
                     paused: {paused}\n  selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: \
                     {name}}}}}\n    spec: {{containers: [{{name: main, image: registry.invalid/t:1}}]}}\n---\n"
                )?;
            }
        }
        text.push_str(&channel("chaos", hook));
        text.push_str(&channel(REFUSING, gone));
        text.push_str(RUNBOOKS);
        for kind in Kind::ALL {
            if let Some(rule) = kind.rule() {
                text.push_str(&self::rule(rule, kind));
            }
        }
        let file = dir.join("chaos.yaml");
        std::fs::write(&file, text)?;
        let file = file.display().to_string();
        plane.kubectl_with(&["apply", "--server-side", "-f", &file], "").await?;
        Ok(())
    }
}

/// Channel, template and event of what people are told. The receiver of one channel refuses everything for good.
const MESSAGES: [[&str; 3]; 4] = [
    ["chaos", "IncidentOpened", "Opened"],
    [REFUSING, "ActionFailed", "ActionFailed"],
    ["chaos", "ActionFailed", "ActionFailed"],
    ["chaos", "IncidentResolved", "Resolved"],
];
const REFUSING: &str = "gone";

fn channel(name: &str, hook: &str) -> String {
    format!(
        "apiVersion: eventpulse.io/v1alpha1\nkind: NotificationChannel\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{type: \
         Webhook, webhook: {{url: '{hook}'}}}}\n---\n"
    )
}

/// Retries come soon, and no breaker opens but one, which is as it comes: faults are to meet actions, not to keep them away. What is always
/// refused wants fewer retries than its budget gives, or it would still wait for them when the fault is long over.
const RUNBOOKS: &str = "\
apiVersion: eventpulse.io/v1alpha1
kind: Runbook
metadata: {name: chaos-scale, namespace: shop}
spec:
  serviceAccountName: remediator
  steps: [{name: scale, type: Scale, scale: {delta: 1, maxReplicas: 1000}, timeout: 5s}]
  retry: {limit: 20, backoff: {initial: 200ms, max: 2s}}
  circuitBreaker: {failureThreshold: 1000, openDuration: 1s}
---
apiVersion: eventpulse.io/v1alpha1
kind: Runbook
metadata: {name: chaos-guarded, namespace: shop}
spec:
  serviceAccountName: remediator
  steps: [{name: scale, type: Scale, scale: {delta: 1, maxReplicas: 1000}, timeout: 5s}]
  retry: {limit: 20, backoff: {initial: 200ms, max: 2s}}
---
apiVersion: eventpulse.io/v1alpha1
kind: Runbook
metadata: {name: chaos-refused, namespace: shop}
spec:
  serviceAccountName: remediator
  steps: [{name: scale, type: Scale, scale: {delta: 1, maxReplicas: 1000}, timeout: 5s}]
  retry: {limit: 1, backoff: {initial: 50ms, max: 100ms}}
  circuitBreaker: {failureThreshold: 1000, openDuration: 1s}
---
apiVersion: eventpulse.io/v1alpha1
kind: Runbook
metadata: {name: chaos-restart, namespace: shop}
spec:
  serviceAccountName: remediator
  steps: [{name: restart, type: Restart, restart: {}, timeout: 5s}]
  retry: {limit: 20, backoff: {initial: 200ms, max: 2s}}
  circuitBreaker: {failureThreshold: 1000, openDuration: 1s}
---
";

fn rule(name: &str, kind: Kind) -> String {
    let action = |runbook: &&str| {
        format!(
            "  - name: {runbook}\n    runbookRef: {{name: {runbook}}}\n    targetRef: {{apiVersion: apps/v1, kind: Deployment, name: \
             $(alert.labels.service)}}\n"
        )
    };
    let actions: String = kind.runbooks().iter().map(action).collect();
    let notifications = MESSAGES.map(|[channel, template, event]| {
        format!("  - {{channelRef: {{name: {channel}}}, template: {template}, events: [{event}]}}\n")
    });
    let notifications = notifications.concat();
    format!(
        "apiVersion: eventpulse.io/v1alpha1\nkind: Rule\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  match: {{matchers: \
         ['alertname=\"{}\"']}}\n  groupBy: [service]\n  incident: {{severity: warning, summary: chaos, resolveOn: \
         AlertResolved}}\n  cooldown: 0s\n  actions:\n{actions}  notifications:\n{notifications}---\n",
        kind.alert()
    )
}
