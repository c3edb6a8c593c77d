//! Every metric there is: its name, what it tells, and its labels with their values. `docs/metrics.md` is made of this.
//!
//! Names are as Prometheus and OpenMetrics practise: seconds and bytes, counters of what happened, gauges of what is.

use super::describe::{Amount, Counter, Entry, Gauge, Histogram, Total};

/// The services, as labels name them.
const SERVICES: &str = "`ingest`, `rules`, `actions`, `incidents`, `notify`, `config`";
/// The consumer groups: each service that consumes has its own.
const GROUPS: &str = "`rules`, `actions`, `incidents`, `notify`";
/// The same, and that of the topic of others (`--alerts-topic`), which is told as the topic that it feeds.
const CONSUMER_GROUPS: &str = "`rules`, `actions`, `incidents`, `notify`, `ingest-alerts`";
/// The topics that are consumed.
const TOPICS: &str = "`alert.raised`, `incident.opened`, `incident.resolved`, `incident.updated`, `action.requested`, \
     `action.completed`, `action.failed`, `notification.requested`, `notification.delivered`, `notification.failed`";
/// What works behind a mailbox.
const MAILBOXES: &str = "`rules-group`, `rules-ledger`, `action-claim`, `action-run`, `incident`, `notification`, `config status`, \
     `ingest-topic-partition`";
/// Calls to the API server.
const VERBS: &str = "`get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `other`";
/// Kinds that are watched.
const KINDS: &str = "`Rule`, `Runbook`, `NotificationChannel`, `Incident`, `Action`, `Notification`, `AlertGroup`, \
     `HorizontalPodAutoscaler`, `Secret`, `other`";
/// What a message tells of.
const INCIDENT_EVENTS: &str = "`Opened`, `Mitigating`, `ActionFailed`, `Failed`, `Resolved`";

/// Buckets of one piece of work inside the process, or of one call, in seconds.
const WORK_S: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Buckets of what goes through the whole system, retries and outages included, in seconds.
const END_TO_END_S: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];
/// Buckets of an incident's life, in seconds: up to a day.
const INCIDENT_S: &[f64] =
    &[0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0];

/// The log.
pub static BUS_REPAIRED_WAKEUPS: Counter<1> = Counter::new(
    "eventpulse_bus_repaired_wakeups",
    "Consumers that waited although records were there, and were repaired.",
    [("group", CONSUMER_GROUPS)],
);
/// Every service that keeps objects.
pub static RETENTION_DELETED: Counter<2> = Counter::new(
    "eventpulse_retention_deleted",
    "Finished objects that were deleted, by kind and reason.",
    [("kind", "`incident`, `action`, `notification`, `alertgroup`"), ("reason", "`ttl`, `count`")],
);
/// Every service.
pub static DEAD_LETTERS: Counter<1> = Counter::new(
    "eventpulse_dead_letters",
    "Records and alerts that could not be used, by reason.",
    [("reason", "`invalid_headers`, `invalid_data`, `unknown_type`, `invalid_alert`, `refused`")],
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
    [(
        "reason",
        "`opened`, `joined`, `repeated`, `resolved`, `nothing_to_resolve`, `no_rule`, `cooldown`, `suspended`, `storm`, \
         `stale`, `invalid`, `refused` (as on alert.decided)",
    )],
);
/// rules.
pub static RULES: Gauge<1> =
    Gauge::new("eventpulse_rules", "Rules, by whether they can be used.", [("state", "`usable`, `broken`")]);
/// rules.
pub static STORMS: Gauge<0> =
    Gauge::new("eventpulse_storms", "Rules of which so many incidents are open that further alerts open none.", []);
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
    [
        ("kind", "`rule`, `runbook`, `notificationchannel`"),
        (
            "outcome",
            "`written`, `not_found`, `conflict`, `already_exists`, `throttled`, `refused`, `malformed`, `failed`, `unknown`",
        ),
    ],
);

/// ingest.
pub static INGEST_REQUEST_DURATION: Histogram<1> = Histogram::new(
    "eventpulse_ingest_request_duration_seconds",
    "From the request's headers to its answer, by status.",
    [("status", "the HTTP status")],
    WORK_S,
);
/// ingest.
pub static OUTBOX_ENTRIES_LIMIT: Gauge<0> =
    Gauge::new("eventpulse_outbox_entries_limit", "So many alerts may wait for the broker; then senders get 503.", []);
/// ingest.
pub static OUTBOX_BYTES_LIMIT: Gauge<0> = Gauge::new("eventpulse_outbox_bytes_limit", "So many bytes of them may.", []);
/// ingest.
pub static OUTBOX_AGE: Amount<0> = Amount::new(
    "eventpulse_outbox_age_seconds",
    "For how long the oldest alert has waited for the broker; 0: none does.",
    [],
);
/// rules.
pub static ALERT_TO_RULES: Histogram<0> = Histogram::new(
    "eventpulse_alert_to_rules_seconds",
    "From an alert's acceptance to its hand-over to rules: the outbox, the log, and what waits before it.",
    [],
    END_TO_END_S,
);
/// actions.
pub static ALERT_TO_ACTION: Histogram<0> = Histogram::new(
    "eventpulse_alert_to_action_seconds",
    "From the acceptance of the alert that opened the incident to the committed action. What was held by a cooldown is not measured.",
    [],
    END_TO_END_S,
);
/// actions.
pub static BREAKERS: Gauge<1> = Gauge::new(
    "eventpulse_breakers",
    "Circuit breakers of runbook and target kind that are not closed.",
    [("state", "`open`, `half_open`")],
);
/// actions.
pub static RETRY_BUDGET: Amount<0> = Amount::new(
    "eventpulse_retry_budget_tokens",
    "Retries that may be sent to targets at once, of the runbook and kind with fewest; at most 20.",
    [],
);
/// actions.
pub static ACTIONS_QUEUED: Gauge<0> =
    Gauge::new("eventpulse_actions_queued", "Actions of this replica that are under way or wait for their turn.", []);
/// actions.
pub static TARGET_CALLS: Gauge<0> = Gauge::new(
    "eventpulse_target_calls_in_flight",
    "Calls to targets that are under way; docs/bounds.md has the most there can be.",
    [],
);
/// incidents.
pub static ALERT_TO_RESOLVED: Histogram<0> = Histogram::new(
    "eventpulse_alert_to_resolved_seconds",
    "From the acceptance of the alert that opened an incident to its resolution.",
    [],
    INCIDENT_S,
);
/// notify.
pub static ALERT_TO_MESSAGE: Histogram<1> = Histogram::new(
    "eventpulse_alert_to_message_seconds",
    "From the acceptance of the alert that opened the incident to the delivered message.",
    [("event", INCIDENT_EVENTS)],
    INCIDENT_S,
);
/// notify.
pub static NOTIFICATION_TRY_DURATION: Histogram<0> =
    Histogram::new("eventpulse_notification_try_duration_seconds", "One try to send a message.", [], WORK_S);
/// notify.
pub static LANES: Gauge<1> = Gauge::new(
    "eventpulse_notification_lanes",
    "Messages in the lanes of all channels.",
    [("state", "`sending`, `in_line`")],
);
/// notify.
pub static CHANNELS_FAILING: Gauge<0> =
    Gauge::new("eventpulse_notification_channels_failing", "Channels whose last try failed.", []);
/// Every service.
pub static INPUTS: Counter<3> = Counter::new(
    "eventpulse_inputs",
    "Events that were handed to a service and left it: finished, as a dead letter, or unfinished (they come again).",
    [("service", GROUPS), ("topic", TOPICS), ("outcome", "`done`, `dead_letter`, `returned`")],
);
/// Every service.
pub static INPUT_DURATION: Histogram<2> = Histogram::new(
    "eventpulse_input_duration_seconds",
    "From the hand-over of an event to the end of everything that it asks of this service.",
    [("service", GROUPS), ("topic", TOPICS)],
    WORK_S,
);
/// Every service.
pub static INPUTS_IN_FLIGHT: Gauge<1> =
    Gauge::new("eventpulse_inputs_in_flight", "Events that a service has and has not finished.", [("service", GROUPS)]);
/// The log.
pub static CONSUMER_LAG: Gauge<2> = Gauge::new(
    "eventpulse_consumer_lag_records",
    "Records behind what a group has finished, of the partitions of this replica: the sum over the replicas is the group's lag.",
    [("group", CONSUMER_GROUPS), ("topic", TOPICS)],
);
/// Every service.
pub static MAILBOX_INPUTS: Gauge<1> =
    Gauge::new("eventpulse_mailbox_inputs", "Inputs that wait in mailboxes.", [("mailbox", MAILBOXES)]);
/// Every service.
pub static MAILBOX_KEYS: Gauge<1> = Gauge::new(
    "eventpulse_mailbox_keys",
    "Keys (groups, targets, incidents, …) that have a worker or wait for one.",
    [("mailbox", MAILBOXES)],
);
/// Every service.
pub static MAILBOX_DURATION: Histogram<1> = Histogram::new(
    "eventpulse_mailbox_duration_seconds",
    "One piece of work behind a mailbox, with everything that was folded into it.",
    [("mailbox", MAILBOXES)],
    WORK_S,
);
/// Every service.
pub static API_REQUESTS: Counter<3> = Counter::new(
    "eventpulse_api_requests",
    "Calls to the API server, by what it answered. `no_answer`: nothing came, in time or at all.",
    [
        ("service", SERVICES),
        ("verb", VERBS),
        ("outcome", "`ok`, `conflict`, `not_found`, `throttled`, `refused`, `server_error`, `no_answer`"),
    ],
);
/// Every service.
pub static API_REQUEST_DURATION: Histogram<2> = Histogram::new(
    "eventpulse_api_request_duration_seconds",
    "From a call to the API server to the head of its answer.",
    [("service", SERVICES), ("verb", VERBS)],
    WORK_S,
);
/// Every service.
pub static WATCH_SILENCE: Amount<2> = Amount::new(
    "eventpulse_watch_silence_seconds",
    "For how long nothing was heard of a watch, which is renewed every 20 s.",
    [("service", SERVICES), ("kind", KINDS)],
);
/// Every service.
pub static RETRIES: Counter<2> = Counter::new(
    "eventpulse_retries",
    "Waits before something is tried again, by what was wrong.",
    [
        ("service", SERVICES),
        (
            "reason",
            "`not_found`, `conflict`, `already_exists`, `throttled`, `refused`, `malformed`, `failed`, `unknown` (as the API \
             server answered, or did not); `log`",
        ),
    ],
);
/// Every service.
pub static READY: Gauge<1> = Gauge::new(
    "eventpulse_ready",
    "1 where every part of a service is ready, else 0; `/readyz?verbose` says why.",
    [("service", "`process`, `ingest`, `rules`, `actions`, `incidents`, `notify`, `config`")],
);
/// Every service.
pub static KUBE_EVENTS: Counter<1> = Counter::new(
    "eventpulse_kube_events",
    "Kubernetes Events, which are best effort: `repeated` was said already, `dropped` found the queue full.",
    [("outcome", "`written`, `repeated`, `refused`, `failed`, `dropped`")],
);
/// Every service.
pub static KUBE_EVENTS_QUEUED: Gauge<0> =
    Gauge::new("eventpulse_kube_events_queued", "Kubernetes Events that wait to be written.", []);
/// The process.
pub static API_WRITES_WAITING: Gauge<0> = Gauge::new(
    "eventpulse_api_writes_waiting",
    "Writes of records to the API server that let calls on the way to a target go first.",
    [],
);
/// The process.
pub static BUILD_INFO: Gauge<1> = Gauge::new("eventpulse_build_info", "Always 1.", [("version", "EventPulse's")]);
/// The process.
pub static PROCESS_CPU: Total<0> = Total::new("process_cpu_seconds", "User and system CPU time of the process.", []);
/// The process.
pub static PROCESS_MEMORY: Gauge<0> =
    Gauge::new("process_resident_memory_bytes", "Resident memory of the process.", []);
/// The process.
pub static PROCESS_FILES: Gauge<0> = Gauge::new("process_open_fds", "Open files of the process, sockets included.", []);
/// The process.
pub static PROCESS_FILES_MAX: Gauge<0> = Gauge::new("process_max_fds", "So many files the process may open.", []);
/// The process.
pub static PROCESS_START: Amount<0> =
    Amount::new("process_start_time_seconds", "When the process began, in seconds of the Unix epoch.", []);

/// All of them, by the service that tells them.
pub fn all() -> Vec<(&'static str, Vec<Entry>)> {
    vec![
        (
            "ingest",
            vec![
                INGEST_REQUESTS.entry(),
                INGEST_REQUEST_DURATION.entry(),
                INGEST_ALERTS.entry(),
                OUTBOX_ENTRIES.entry(),
                OUTBOX_ENTRIES_LIMIT.entry(),
                OUTBOX_BYTES.entry(),
                OUTBOX_BYTES_LIMIT.entry(),
                OUTBOX_AGE.entry(),
            ],
        ),
        ("rules", vec![ALERTS_DECIDED.entry(), ALERT_TO_RULES.entry(), RULES.entry(), STORMS.entry()]),
        (
            "actions",
            vec![
                ACTIONS_FINISHED.entry(),
                ALERT_TO_ACTION.entry(),
                BREAKERS.entry(),
                RETRY_BUDGET.entry(),
                ACTIONS_QUEUED.entry(),
                TARGET_CALLS.entry(),
            ],
        ),
        ("incidents", vec![INCIDENTS.entry(), ALERT_TO_RESOLVED.entry(), INCIDENT_WRITES.entry()]),
        (
            "notify",
            vec![
                NOTIFICATION_TRIES.entry(),
                NOTIFICATION_TRY_DURATION.entry(),
                ALERT_TO_MESSAGE.entry(),
                LANES.entry(),
                CHANNELS_FAILING.entry(),
            ],
        ),
        ("config", vec![CONFIG_STATUS_WRITES.entry()]),
        ("every service", of_every_service()),
        ("the process", of_the_process()),
    ]
}

fn of_every_service() -> Vec<Entry> {
    vec![
        INPUTS.entry(),
        INPUT_DURATION.entry(),
        INPUTS_IN_FLIGHT.entry(),
        CONSUMER_LAG.entry(),
        MAILBOX_INPUTS.entry(),
        MAILBOX_KEYS.entry(),
        MAILBOX_DURATION.entry(),
        API_REQUESTS.entry(),
        API_REQUEST_DURATION.entry(),
        API_WRITES_WAITING.entry(),
        WATCH_SILENCE.entry(),
        RETRIES.entry(),
        RETENTION_DELETED.entry(),
        DEAD_LETTERS.entry(),
        READY.entry(),
        KUBE_EVENTS.entry(),
        KUBE_EVENTS_QUEUED.entry(),
        BUS_REPAIRED_WAKEUPS.entry(),
    ]
}

fn of_the_process() -> Vec<Entry> {
    vec![
        BUILD_INFO.entry(),
        PROCESS_CPU.entry(),
        PROCESS_MEMORY.entry(),
        PROCESS_FILES.entry(),
        PROCESS_FILES_MAX.entry(),
        PROCESS_START.entry(),
    ]
}
