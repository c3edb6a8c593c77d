//! Every metric there is: its name, what it tells, and its labels with their values. `docs/metrics.md` is made of this.

use std::fmt::Write;

/// What every metric says of itself. Labels are bounded: their values are of closed lists, never of somebody else's making.
#[derive(Clone, Copy, Debug)]
pub struct Described<const N: usize> {
    /// As it is registered: a counter's `_total` is added when it is told.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Each with its values.
    pub labels: [(&'static str, &'static str); N],
}

/// What only grows.
#[derive(Clone, Copy, Debug)]
pub struct Counter<const N: usize>(pub Described<N>);

/// What is as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Gauge<const N: usize>(pub Described<N>);

/// A metric of any kind.
#[derive(Clone, Debug)]
pub struct Entry {
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// See [`Described`].
    pub name: &'static str,
    /// See [`Described`].
    pub help: &'static str,
    /// See [`Described`].
    pub labels: Vec<(&'static str, &'static str)>,
}

impl<const N: usize> Counter<N> {
    const fn new(name: &'static str, help: &'static str, labels: [(&'static str, &'static str); N]) -> Self {
        Self(Described { name, help, labels })
    }

    fn entry(&self) -> Entry {
        Entry { kind: "counter", name: self.0.name, help: self.0.help, labels: self.0.labels.to_vec() }
    }
}

impl<const N: usize> Gauge<N> {
    const fn new(name: &'static str, help: &'static str, labels: [(&'static str, &'static str); N]) -> Self {
        Self(Described { name, help, labels })
    }

    fn entry(&self) -> Entry {
        Entry { kind: "gauge", name: self.0.name, help: self.0.help, labels: self.0.labels.to_vec() }
    }
}

/// The log.
pub static BUS_REPAIRED_WAKEUPS: Counter<1> = Counter::new(
    "eventpulse_bus_repaired_wakeups",
    "Consumers that waited although records were there, and were repaired.",
    [("group", "the consumer group")],
);
/// Every service.
pub static DEAD_LETTERS: Counter<1> = Counter::new(
    "eventpulse_dead_letters",
    "Records and alerts that could not be used, by reason.",
    [("reason", "as in the events on `dead.letter`")],
);
/// ingest.
pub static INGEST_REQUESTS: Counter<1> =
    Counter::new("eventpulse_ingest_requests", "Requests to ingest, by status.", [("status", "the HTTP status")]);
/// ingest.
pub static INGEST_ALERTS: Counter<1> =
    Counter::new("eventpulse_ingest_alerts", "Alerts received, by result.", [("result", "`accepted`, `rejected`")]);
/// ingest.
pub static OUTBOX_ENTRIES: Gauge<0> = Gauge::new("eventpulse_outbox_entries", "Alerts that wait for the broker.", []);
/// ingest.
pub static OUTBOX_BYTES: Gauge<0> =
    Gauge::new("eventpulse_outbox_bytes", "Bytes of the alerts that wait for the broker.", []);
/// rules.
pub static ALERTS_DECIDED: Counter<1> = Counter::new(
    "eventpulse_alerts_decided",
    "Alerts by what was decided, for each rule that they matched.",
    [("reason", "as in the events on `alert.decided`")],
);
/// rules.
pub static RULES: Gauge<1> =
    Gauge::new("eventpulse_rules", "Rules, by whether they can be used.", [("state", "`usable`, `broken`")]);
/// actions.
pub static ACTIONS_FINISHED: Counter<1> = Counter::new(
    "eventpulse_actions_finished",
    "Actions that came to their end, by result.",
    [("result", "`completed`, `failed`, `skipped`")],
);
/// incidents.
pub static INCIDENTS: Gauge<1> = Gauge::new(
    "eventpulse_incidents",
    "Incidents of this replica, by phase.",
    [("phase", "`Open`, `Mitigating`, `Failed`, `Resolved`")],
);
/// incidents.
pub static INCIDENT_WRITES: Counter<1> = Counter::new(
    "eventpulse_incident_writes",
    "Batches of events folded into an incident, by outcome.",
    [("outcome", "`created`, `updated`, `unchanged`, `stale`")],
);
/// incidents.
pub static INCIDENTS_DELETED: Counter<1> = Counter::new(
    "eventpulse_incidents_deleted",
    "Finished incidents that were deleted, by reason.",
    [("reason", "`ttl`, `count`")],
);
/// notify.
pub static NOTIFICATION_TRIES: Counter<1> = Counter::new(
    "eventpulse_notification_tries",
    "Tries to send a message, by what became of them.",
    [("outcome", "`accepted`, `refused`, `unknown`, `rejected`, `not_sent`")],
);
/// config.
pub static CONFIG_STATUS_WRITES: Counter<2> = Counter::new(
    "eventpulse_config_status_writes",
    "Writes of the status of Rules, Runbooks and NotificationChannels.",
    [("kind", "`rule`, `runbook`, `notificationchannel`"), ("outcome", "`written`, or what went wrong")],
);

/// All of them, by the service that tells them.
pub fn all() -> Vec<(&'static str, Vec<Entry>)> {
    vec![
        ("ingest", vec![INGEST_REQUESTS.entry(), INGEST_ALERTS.entry(), OUTBOX_ENTRIES.entry(), OUTBOX_BYTES.entry()]),
        ("rules", vec![ALERTS_DECIDED.entry(), RULES.entry()]),
        ("actions", vec![ACTIONS_FINISHED.entry()]),
        ("incidents", vec![INCIDENTS.entry(), INCIDENT_WRITES.entry(), INCIDENTS_DELETED.entry()]),
        ("notify", vec![NOTIFICATION_TRIES.entry()]),
        ("config", vec![CONFIG_STATUS_WRITES.entry()]),
        ("every service", vec![DEAD_LETTERS.entry(), BUS_REPAIRED_WAKEUPS.entry()]),
    ]
}

/// `docs/metrics.md`.
pub fn document() -> String {
    let mut text = String::from(
        "# Metrics\n\n<!-- Made by `make generate` from src/runtime/metrics/catalogue.rs. -->\n\n`GET /metrics` of the admin port \
         (`--admin-listen`, 8081) answers in OpenMetrics text. Every metric is there from the start, whatever services run in the \
         process; labels are of closed lists.\n\n| metric | type | labels | what it tells | by |\n|---|---|---|---|---|\n",
    );
    for (service, entries) in all() {
        for Entry { kind, name, help, labels } in entries {
            let total = if kind == "counter" { "_total" } else { "" };
            let labels: Vec<String> = labels.iter().map(|(label, values)| format!("`{label}`: {values}")).collect();
            let labels = if labels.is_empty() { "–".to_owned() } else { labels.join("; ") };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| `{name}{total}` | {kind} | {labels} | {help} | {service} |");
        }
    }
    text
}
