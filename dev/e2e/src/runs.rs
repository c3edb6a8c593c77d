//! Tests that do the same several times: each run has a rule and alerts of its own, so that its incidents are told apart by the rule's name.

use eventpulse_testkit::alerts::Alert;
use jiff::Timestamp;

/// The rule `NAME-RUN`, which scales the target of every alert of this name and run.
pub fn rule(name: &str, alertname: &str, run: usize) -> String {
    format!(
        "apiVersion: eventpulse.io/v1alpha1\nkind: Rule\nmetadata: {{name: {name}-{run}, namespace: shop}}\nspec:\n  \
         match: {{matchers: ['alertname=\"{alertname}\"', 'run=\"{run}\"']}}\n  groupBy: [service]\n  incident: {{severity: warning, \
         summary: a target of run {run}, resolveOn: ActionCompleted}}\n  actions:\n  - name: add-replica\n    runbookRef: {{name: \
         scale-up}}\n    targetRef: {{apiVersion: apps/v1, kind: Deployment, name: $(alert.labels.service)}}\n---\n"
    )
}

/// An alert of a run, about a target of [`Shop::add_targets`](crate::Shop::add_targets).
pub fn alert(alertname: &str, run: usize, target: usize, starts_at: Timestamp) -> Alert {
    Alert::firing(alertname, starts_at).label("run", run.to_string()).label("service", format!("t{target}"))
}
