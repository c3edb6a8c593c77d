//! Flags and environment, resolved once into one validated value.
//!
//! In: the command line, `EVENTPULSE_…` variables. Out: a [`Config`] that can no longer be wrong, or an error that names the flag
//! and says what to do: all of them at once. May not touch: any running service.

mod brokers;
mod shutdown;
mod which_log;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, ValueEnum};

pub(crate) use self::shutdown::written;
pub use self::which_log::LogFlags;
use self::{shutdown::ShutdownFlags, which_log::is_topic_text};
use crate::{
    actions::ActionsConfig,
    api::v1alpha1::Duration,
    bus::{BusConfig, EmbeddedConfig, KafkaConfig, Retention},
    events::Topic,
    incidents::IncidentsConfig,
    ingest::IngestConfig,
    notify::NotifyConfig,
    rules::RulesConfig,
    runtime::{
        Deadlines,
        telemetry::{self, LogSettings, SettingError},
    },
};

/// The least and the most that topics and finished resources may be kept for: nothing is kept for ever (promise 6).
const RETENTION_LEAST: Duration = Duration::from_secs(60);
const RETENTION_MOST: Duration = Duration::from_secs(400 * 24 * 3600);
/// The bound of Kafka.
const TOPIC_NAME_MAX: usize = 249;
const GRACE_LEAST: Duration = Duration::from_secs(1);
const GRACE_MOST: Duration = Duration::from_secs(24 * 3600);
const OUTBOX_MAX_ALERTS: u64 = 1_000_000;
const SOURCE: &str = "alertmanager";

/// A service of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Service {
    /// Receives alerts over HTTP and puts them on the log.
    Ingest,
    /// Matches alerts, decides incidents, actions and messages.
    Rules,
    /// Acts on workloads.
    Actions,
    /// Writes Incident resources.
    Incidents,
    /// Sends messages.
    Notify,
    /// Checks Rule, Runbook and NotificationChannel and writes their status.
    Config,
}

impl Service {
    /// All of them.
    pub const ALL: [Service; 6] =
        [Service::Ingest, Service::Rules, Service::Actions, Service::Incidents, Service::Notify, Service::Config];

    /// As it stands in `--services`, metrics and `ce_source`.
    pub const fn name(self) -> &'static str {
        match self {
            Service::Ingest => "ingest",
            Service::Rules => "rules",
            Service::Actions => "actions",
            Service::Incidents => "incidents",
            Service::Notify => "notify",
            Service::Config => "config",
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The flags of `eventpulse run`, as given.
#[derive(Args, Clone, Debug)]
pub struct RunFlags {
    /// Services of this process; without it, all of them.
    #[arg(long, env = "EVENTPULSE_SERVICES", value_delimiter = ',', value_enum)]
    pub services: Vec<Service>,

    /// The log.
    #[command(flatten)]
    pub log: LogFlags,

    /// A topic of Kafka that is not EventPulse's, from which ingest takes alerts too: JSON as Alertmanager's webhook sends it, or one
    /// alert or a list of them as /api/v2/alerts takes it. By its whole name: no prefix is put before it. It is never created.
    #[arg(long, env = "EVENTPULSE_ALERTS_TOPIC", value_name = "TOPIC")]
    pub alerts_topic: Option<String>,

    /// Partitions of a topic that has to be created. Fixed for a topic's life.
    #[arg(long, env = "EVENTPULSE_PARTITIONS", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub partitions: u32,

    /// Where alerts are received. Without a token it must be loopback: by default 0.0.0.0:8080 with one, 127.0.0.1:8080 without.
    #[arg(long, env = "EVENTPULSE_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,

    /// Where /livez, /readyz, /readyz/SERVICE and /metrics are served; ?verbose lists every part.
    #[arg(long, env = "EVENTPULSE_ADMIN_LISTEN", default_value = "0.0.0.0:8081", value_name = "ADDR")]
    pub admin_listen: SocketAddr,

    /// A file with the bearer tokens that senders of alerts may use, one a line. Read again when it changes.
    #[arg(long, env = "EVENTPULSE_AUTH_TOKEN_FILE", value_name = "FILE", conflicts_with = "allow_unauthenticated")]
    pub auth_token_file: Option<PathBuf>,

    /// Receive alerts from anybody who can reach the port.
    #[arg(long, env = "EVENTPULSE_ALLOW_UNAUTHENTICATED")]
    pub allow_unauthenticated: bool,

    /// The name that alert ids are derived from, for alerts of Alertmanager's webhook. Both of a highly available pair share it.
    #[arg(long, env = "EVENTPULSE_SOURCE", default_value = SOURCE, value_name = "NAME")]
    pub source: String,

    /// The most alerts that wait in ingest's outbox while the broker is away; then senders get 503.
    #[arg(long, env = "EVENTPULSE_OUTBOX_MAX_ALERTS", default_value_t = OUTBOX_MAX_ALERTS, value_name = "N")]
    pub outbox_max_alerts: u64,

    /// How long after its `endsAt` an alert is still believed to fire. Prometheus moves endsAt with every repetition.
    #[arg(long, env = "EVENTPULSE_ENDS_AT_GRACE", default_value = "5m", value_name = "DURATION")]
    pub ends_at_grace: Duration,

    /// How long topics keep their events. For so long anything may come again. Kept by topics that are created.
    #[arg(long, env = "EVENTPULSE_TOPIC_RETENTION", default_value = "24h", value_name = "DURATION")]
    pub topic_retention: Duration,

    /// How long Actions and Notifications are kept after their end. At least --topic-retention: they are what tells a repetition.
    #[arg(long, env = "EVENTPULSE_ACTION_TTL", default_value = "168h", value_name = "DURATION")]
    pub action_ttl: Duration,

    /// How long Incidents are kept after their end. At least --action-ttl.
    #[arg(long, env = "EVENTPULSE_INCIDENT_TTL", default_value = "168h", value_name = "DURATION")]
    pub incident_ttl: Duration,

    /// How long AlertGroups remember what has ended. At least --incident-ttl.
    #[arg(long, env = "EVENTPULSE_GROUP_TTL", default_value = "168h", value_name = "DURATION")]
    pub group_ttl: Duration,

    /// The most finished Actions that one namespace keeps. What ended less than --topic-retention ago stays beside them.
    #[arg(long, env = "EVENTPULSE_ACTION_COUNT", default_value_t = 5_000, value_name = "N", value_parser = count())]
    pub action_count: u32,

    /// The most finished Notifications that one namespace keeps. One whose deadline has not passed stays beside them.
    #[arg(long, env = "EVENTPULSE_NOTIFICATION_COUNT", default_value_t = 5_000, value_name = "N", value_parser = count())]
    pub notification_count: u32,

    /// The most finished Incidents that one namespace keeps. What ended less than two hours ago stays beside them.
    #[arg(long, env = "EVENTPULSE_INCIDENT_COUNT", default_value_t = 1_000, value_name = "N", value_parser = count())]
    pub incident_count: u32,

    /// The most AlertGroups without an incident, and without an alert that fires, that one namespace keeps. What ended less than
    /// --topic-retention ago stays beside them. At least --incident-count.
    #[arg(long, env = "EVENTPULSE_GROUP_COUNT", default_value_t = 5_000, value_name = "N", value_parser = count())]
    pub group_count: u32,

    /// How log lines are written.
    #[arg(long, env = "EVENTPULSE_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// What is said, like info,eventpulse::rules=debug. By default RUST_LOG, and without it everything from info.
    #[arg(long, env = "EVENTPULSE_LOG_FILTER", value_name = "FILTER")]
    pub log_filter: Option<String>,

    /// A file with such a filter, read again when it changes; it goes before --log-filter while it is there.
    #[arg(long, env = "EVENTPULSE_LOG_FILTER_FILE", value_name = "FILE")]
    pub log_filter_file: Option<PathBuf>,

    /// How long each stage of the stop may take.
    #[command(flatten)]
    pub shutdown: ShutdownFlags,
}

/// Of finished objects: a namespace keeps some, and no more than the API server can list.
fn count() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(10..=100_000)
}

/// A value that does not do, by its flag or its variable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {problem}")]
pub struct ConfigError {
    name: String,
    problem: String,
}

/// Everything that does not do, one a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigErrors(Vec<String>);

impl ConfigErrors {
    /// Of one flag, named without its dashes.
    pub fn of(flag: &'static str, problem: impl Into<String>) -> Self {
        vec![wrong(flag, problem)].into()
    }

    /// What else was found, each naming its flag.
    pub fn found(&mut self, more: impl IntoIterator<Item = String>) {
        self.0.extend(more);
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<ConfigError>> for ConfigErrors {
    fn from(errors: Vec<ConfigError>) -> Self {
        Self(errors.iter().map(ToString::to_string).collect())
    }
}

fn wrong(flag: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError { name: format!("--{flag}"), problem: problem.into() }
}

impl From<SettingError> for ConfigError {
    fn from(error: SettingError) -> Self {
        Self { name: error.name().to_owned(), problem: error.problem().to_owned() }
    }
}

/// What `eventpulse run` runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The services of this process.
    pub services: Vec<Service>,
    /// The log.
    pub bus: BusConfig,
    /// Where /livez, /readyz and /metrics are served.
    pub admin_listen: SocketAddr,
    /// How log lines are written, and what is said.
    pub log: LogSettings,
    /// What is exported over OTLP.
    pub telemetry: telemetry::Settings,
    /// Of the stop.
    pub deadlines: Deadlines,
    /// Of the service ingest.
    pub ingest: IngestConfig,
    /// Of the service rules.
    pub rules: RulesConfig,
    /// Of the service actions.
    pub actions: ActionsConfig,
    /// Of the service incidents.
    pub incidents: IncidentsConfig,
    /// Of the service notify.
    pub notify: NotifyConfig,
}

impl RunFlags {
    /// The services of the process, each once.
    pub fn services(&self) -> Vec<Service> {
        let mut services = if self.services.is_empty() { Service::ALL.to_vec() } else { self.services.clone() };
        services.sort();
        services.dedup();
        services
    }

    /// Checks everything that can be checked without the network and the disk. The error has all that is wrong.
    pub fn resolve(self) -> Result<Config, ConfigErrors> {
        let services = self.services();
        let (mut problems, bus) = self.bus(&services);
        problems.extend(self.check_retention());
        problems.extend(self.check_counts());
        problems.extend(self.check_alerts_topic());
        problems.extend(self.check_ingest(&services));
        problems.extend(self.shutdown.problems());
        let (log, telemetry) = match (self.log(), telemetry::Settings::from_environment()) {
            (Ok(log), Ok(telemetry)) if problems.is_empty() => (log, telemetry),
            (log, telemetry) => {
                problems.extend(log.err());
                problems.extend(telemetry.err().map(ConfigError::from));
                return Err(problems.into());
            }
        };
        Ok(Config {
            services,
            bus,
            admin_listen: self.admin_listen,
            log,
            telemetry,
            deadlines: self.shutdown.deadlines(),
            ingest: IngestConfig {
                listen: self.listen(),
                auth_token_file: self.auth_token_file.clone(),
                allow_unauthenticated: self.allow_unauthenticated,
                source: self.source.clone(),
                alerts_topic: self.alerts_topic.clone(),
                data_dir: self.log.data_dir.clone(),
                outbox_max_alerts: self.outbox_max_alerts,
                ..IngestConfig::default()
            },
            rules: RulesConfig {
                retention: self.group_ttl,
                max_quiet: self.group_count as usize,
                repeats_for: self.topic_retention,
                ends_at_grace: self.ends_at_grace,
                ..RulesConfig::default()
            },
            actions: ActionsConfig {
                ttl: self.action_ttl.as_signed(),
                max_finished: self.action_count as usize,
                repeats_for: self.topic_retention.as_signed(),
                ..ActionsConfig::default()
            },
            incidents: IncidentsConfig {
                ttl: self.incident_ttl,
                max_finished: self.incident_count as usize,
                ..IncidentsConfig::default()
            },
            notify: NotifyConfig {
                ttl: self.action_ttl,
                max_finished: self.notification_count as usize,
                ..NotifyConfig::default()
            },
        })
    }

    /// What is given and has no effect here. No mistake: processes that run apart may share their variables.
    pub fn without_effect(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.services().contains(&Service::Ingest) {
            let given = [
                ("listen", self.listen.is_some()),
                ("auth-token-file", self.auth_token_file.is_some()),
                ("allow-unauthenticated", self.allow_unauthenticated),
                ("source", self.source != SOURCE),
                ("alerts-topic", self.alerts_topic.is_some()),
                ("outbox-max-alerts", self.outbox_max_alerts != OUTBOX_MAX_ALERTS),
            ];
            for (flag, _) in given.iter().filter(|(_, given)| *given) {
                notes.push(format!("--{flag} has no effect: ingest is not among the services of this process"));
            }
        } else if self.log.kafka_brokers.is_empty() && self.outbox_max_alerts != OUTBOX_MAX_ALERTS {
            notes.push("--outbox-max-alerts has no effect: without brokers the log itself is the outbox".into());
        }
        notes
    }

    /// What remembers must outlive what may come again (promise 5; design, section 5, retention).
    fn check_retention(&self) -> Vec<ConfigError> {
        let chain = [
            ("topic-retention", self.topic_retention),
            ("action-ttl", self.action_ttl),
            ("incident-ttl", self.incident_ttl),
            ("group-ttl", self.group_ttl),
        ];
        let mut problems = Vec::new();
        for (flag, value) in chain {
            if !(RETENTION_LEAST..=RETENTION_MOST).contains(&value) {
                problems.push(wrong(flag, format!("{value} is not from {RETENTION_LEAST} to {RETENTION_MOST}")));
            }
        }
        for pair in chain.windows(2).filter(|pair| pair[0].1 > pair[1].1) {
            let ((shorter, least), (flag, value)) = (pair[0], pair[1]);
            let problem = format!(
                "{value} is less than --{shorter}, which is {least}: what came again would find nothing that remembers it; give at \
                 least {least}, or a shorter --{shorter}"
            );
            problems.push(wrong(flag, problem));
        }
        if !(GRACE_LEAST..=GRACE_MOST).contains(&self.ends_at_grace) {
            let problem = format!("{} is not from {GRACE_LEAST} to {GRACE_MOST}", self.ends_at_grace);
            problems.push(wrong("ends-at-grace", problem));
        }
        problems
    }

    /// An incident is kept no longer than the group that remembers its alerts.
    fn check_counts(&self) -> Option<ConfigError> {
        let (groups, incidents) = (self.group_count, self.incident_count);
        let problem = format!(
            "{groups} is less than --incident-count, which is {incidents}: an incident would be kept whose alerts nobody remembers; \
             give at least {incidents}, or a smaller --incident-count"
        );
        (groups < incidents).then(|| wrong("group-count", problem))
    }

    /// The topic of others is theirs: named as it is, and none of ours.
    fn check_alerts_topic(&self) -> Option<ConfigError> {
        let name = self.alerts_topic.as_ref()?;
        let flag = "alerts-topic";
        if self.log.kafka_brokers.is_empty() {
            return Some(wrong(flag, format!("{name:?} is a topic of Kafka; give --kafka-brokers, or leave it out")));
        }
        if !(1..=TOPIC_NAME_MAX).contains(&name.len()) || !is_topic_text(name) || name == "." || name == ".." {
            let problem =
                format!("{name:?} is no name of a topic: 1 to {TOPIC_NAME_MAX} letters, digits, '.', '_' and '-'");
            return Some(wrong(flag, problem));
        }
        let ours = Topic::ALL.into_iter().find(|topic| *name == format!("{}{topic}", self.log.topic_prefix))?;
        let problem = format!(
            "{name:?} is EventPulse's own topic {ours}; name the one that your producer writes. One that writes alert.raised itself, as \
             docs/events says, needs no flag"
        );
        Some(wrong(flag, problem))
    }

    fn log(&self) -> Result<LogSettings, ConfigError> {
        // A RUST_LOG that was made for another program never keeps this one from starting.
        let given = self.log_filter.clone();
        let usual = std::env::var("RUST_LOG").ok().filter(|text| LogSettings::check(text).is_ok());
        if let Some(text) = &given {
            LogSettings::check(text).map_err(|error| wrong("log-filter", error.to_string()))?;
        }
        let json = self.log_format == LogFormat::Json;
        Ok(LogSettings { json, filter: given.or(usual), filter_file: self.log_filter_file.clone() })
    }

    fn retention(&self) -> Retention {
        let events = self.topic_retention.as_std();
        Retention { events, ledger: Retention::default().ledger.max(events) }
    }

    fn bus(&self, services: &[Service]) -> (Vec<ConfigError>, BusConfig) {
        let (mut problems, bus) = self.log.read();
        match bus {
            BusConfig::Kafka(kafka) => {
                let (partitions, retention) = (self.partitions, self.retention());
                let former_log = Some(self.log.embedded());
                (problems, BusConfig::Kafka(KafkaConfig { partitions, retention, former_log, ..kafka }))
            }
            BusConfig::Embedded(embedded) => {
                if services.len() < Service::ALL.len() {
                    problems.push(wrong(
                        "services",
                        "without brokers the log is a file that belongs to one process, which must run every service; \
                         give --kafka-brokers to run services apart",
                    ));
                }
                let (partitions, retention) = (self.partitions, self.retention());
                (problems, BusConfig::Embedded(EmbeddedConfig { partitions, retention, ..embedded }))
            }
            memory @ BusConfig::Memory { .. } => (problems, memory),
        }
    }

    fn is_open(&self) -> bool {
        self.auth_token_file.is_some() || self.allow_unauthenticated
    }

    fn listen(&self) -> SocketAddr {
        let default_ip = if self.is_open() { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
        self.listen.unwrap_or_else(|| SocketAddr::new(IpAddr::V4(default_ip), 8080))
    }

    fn check_ingest(&self, services: &[Service]) -> Vec<ConfigError> {
        let (listen, mut problems) = (self.listen(), Vec::new());
        if !self.is_open() && !listen.ip().is_loopback() {
            problems.push(wrong(
                "listen",
                format!(
                    "{listen} can be reached from elsewhere, and no token is asked for; give --auth-token-file FILE, \
                     or --allow-unauthenticated if everybody who can reach the port may raise alerts"
                ),
            ));
        }
        if services.contains(&Service::Ingest) && share_a_port(listen, self.admin_listen) {
            let problem =
                format!("{listen} is taken by --admin-listen {}; give one of them another port", self.admin_listen);
            problems.push(wrong("listen", problem));
        }
        if self.source.is_empty()
            || self.source.len() > 63
            || !self.source.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        {
            problems.push(wrong("source", format!("{:?} is not 1 to 63 letters, digits and -", self.source)));
        }
        if self.outbox_max_alerts == 0 {
            problems.push(wrong("outbox-max-alerts", "0 would take no alert at all; give at least 1"));
        }
        problems
    }
}

/// Whether only one of them could be listened at. An address of all interfaces takes the port of each; that of IPv6 those of IPv4 too.
fn share_a_port(one: SocketAddr, other: SocketAddr) -> bool {
    let takes = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    let (a, b) = (one.ip(), other.ip());
    one.port() != 0 && one.port() == other.port() && (a == b || takes(a, b) || takes(b, a))
}

#[cfg(test)]
mod tests;
