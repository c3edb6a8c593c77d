//! Flags and environment, resolved once into one validated value.
//!
//! In: the command line, `EVENTPULSE_…` variables. Out: a [`Config`] that can no longer be wrong, or an error that names the flag
//! and says what to do. May not touch: any running service.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, ValueEnum};

use crate::{
    actions::ActionsConfig,
    api::v1alpha1::Duration,
    bus::{BusConfig, EmbeddedConfig, KafkaConfig, Retention},
    incidents::IncidentsConfig,
    ingest::IngestConfig,
    notify::NotifyConfig,
    rules::RulesConfig,
    runtime::telemetry::{self, LogSettings, SettingError},
};

/// The least and the most that topics and finished resources may be kept for: nothing is kept for ever (promise 6).
const RETENTION_LEAST: Duration = Duration::from_secs(60);
const RETENTION_MOST: Duration = Duration::from_secs(400 * 24 * 3600);
/// Where the embedded log is, below the data directory.
const EMBEDDED_LOG: &str = "log";
const GRACE_LEAST: Duration = Duration::from_secs(1);
const GRACE_MOST: Duration = Duration::from_secs(24 * 3600);

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

/// Which log: the flags that every command shares which reads or writes it.
#[derive(Args, Clone, Debug)]
pub struct LogFlags {
    /// Kafka brokers. Without them the log is embedded: one SQLite file in the data directory, all services in this one process.
    #[arg(long, env = "EVENTPULSE_KAFKA_BROKERS", value_delimiter = ',', value_name = "HOST:PORT")]
    pub kafka_brokers: Vec<String>,

    /// A setting handed to librdkafka as it is, like security.protocol=SASL_SSL. May be given several times.
    /// In the variable, or in one value, several stand behind commas or on lines of their own; a comma within a value, like one of a
    /// password, stays where no name with a dot and `=` follow it.
    #[arg(long, env = "EVENTPULSE_KAFKA_CONFIG", hide_env_values = true, value_name = "KEY=VALUE")]
    pub kafka_config: Vec<String>,

    /// Put before the name of every topic and consumer group.
    #[arg(long, env = "EVENTPULSE_TOPIC_PREFIX", default_value = "", value_name = "PREFIX")]
    pub topic_prefix: String,

    /// Where ingest's outbox, or the embedded log, is kept. Must survive a restart.
    #[arg(long, env = "EVENTPULSE_DATA_DIR", default_value = "eventpulse-data", value_name = "DIR")]
    pub data_dir: PathBuf,
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

    /// Partitions of a topic that has to be created. Fixed for a topic's life.
    #[arg(long, env = "EVENTPULSE_PARTITIONS", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub partitions: u32,

    /// Where alerts are received. Without a token it must be loopback: by default 0.0.0.0:8080 with one, 127.0.0.1:8080 without.
    #[arg(long, env = "EVENTPULSE_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,

    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "EVENTPULSE_ADMIN_LISTEN", default_value = "0.0.0.0:8081", value_name = "ADDR")]
    pub admin_listen: SocketAddr,

    /// A file with the bearer tokens that senders of alerts may use, one a line. Read again when it changes.
    #[arg(long, env = "EVENTPULSE_AUTH_TOKEN_FILE", value_name = "FILE", conflicts_with = "allow_unauthenticated")]
    pub auth_token_file: Option<PathBuf>,

    /// Receive alerts from anybody who can reach the port.
    #[arg(long, env = "EVENTPULSE_ALLOW_UNAUTHENTICATED")]
    pub allow_unauthenticated: bool,

    /// The name that alert ids are derived from, for alerts of Alertmanager's webhook. Both of a highly available pair share it.
    #[arg(long, env = "EVENTPULSE_SOURCE", default_value = "alertmanager", value_name = "NAME")]
    pub source: String,

    /// The most alerts that wait in ingest's outbox while the broker is away; then senders get 503.
    #[arg(long, env = "EVENTPULSE_OUTBOX_MAX_ALERTS", default_value_t = 1_000_000, value_name = "N")]
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

    /// How log lines are written.
    #[arg(long, env = "EVENTPULSE_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// What is said, like info,eventpulse::rules=debug. By default RUST_LOG, and without it everything from info.
    #[arg(long, env = "EVENTPULSE_LOG_FILTER", value_name = "FILTER")]
    pub log_filter: Option<String>,

    /// A file with such a filter, read again when it changes; it goes before --log-filter while it is there.
    #[arg(long, env = "EVENTPULSE_LOG_FILTER_FILE", value_name = "FILE")]
    pub log_filter_file: Option<PathBuf>,
}

/// A value that does not do, by its flag or its variable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {problem}")]
pub struct ConfigError {
    name: String,
    problem: String,
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
    /// Checks everything that can be checked without the network.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let mut services = if self.services.is_empty() { Service::ALL.to_vec() } else { self.services.clone() };
        services.sort();
        services.dedup();
        self.check_retention()?;
        let bus = self.bus(&services)?;
        let ingest = self.ingest()?;
        Ok(Config {
            services,
            bus,
            admin_listen: self.admin_listen,
            log: self.log()?,
            telemetry: telemetry::Settings::from_environment()?,
            ingest,
            rules: RulesConfig {
                retention: self.group_ttl,
                ends_at_grace: self.ends_at_grace,
                ..RulesConfig::default()
            },
            actions: ActionsConfig { ttl: self.action_ttl.as_signed(), ..ActionsConfig::default() },
            incidents: IncidentsConfig { ttl: self.incident_ttl, ..IncidentsConfig::default() },
            notify: NotifyConfig { ttl: self.action_ttl, ..NotifyConfig::default() },
        })
    }

    /// What remembers must outlive what may come again (promise 5; design, section 5, retention).
    fn check_retention(&self) -> Result<(), ConfigError> {
        let chain = [
            ("topic-retention", self.topic_retention),
            ("action-ttl", self.action_ttl),
            ("incident-ttl", self.incident_ttl),
            ("group-ttl", self.group_ttl),
        ];
        for (flag, value) in chain {
            if !(RETENTION_LEAST..=RETENTION_MOST).contains(&value) {
                return Err(wrong(flag, format!("{value} is not from {RETENTION_LEAST} to {RETENTION_MOST}")));
            }
        }
        if let Some(pair) = chain.windows(2).find(|pair| pair[0].1 > pair[1].1) {
            let ((shorter, least), (flag, value)) = (pair[0], pair[1]);
            let problem = format!(
                "{value} is less than --{shorter}, which is {least}: what came again would find nothing that remembers it; give at \
                 least {least}, or a shorter --{shorter}"
            );
            return Err(wrong(flag, problem));
        }
        if !(GRACE_LEAST..=GRACE_MOST).contains(&self.ends_at_grace) {
            let problem = format!("{} is not from {GRACE_LEAST} to {GRACE_MOST}", self.ends_at_grace);
            return Err(wrong("ends-at-grace", problem));
        }
        Ok(())
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

    fn bus(&self, services: &[Service]) -> Result<BusConfig, ConfigError> {
        check_prefix(&self.log.topic_prefix)?;
        if self.log.kafka_brokers.is_empty() {
            if services.len() < Service::ALL.len() {
                return Err(wrong(
                    "services",
                    "without brokers the log is a file that belongs to one process, which must run every service; \
                     give --kafka-brokers to run services apart",
                ));
            }
            if let Some((name, _)) = self.log.kafka_settings()?.first() {
                return Err(wrong("kafka-config", format!("{name} is given, but no --kafka-brokers")));
            }
            let partitions = self.partitions;
            return Ok(BusConfig::Embedded(EmbeddedConfig {
                partitions,
                retention: self.retention(),
                ..EmbeddedConfig::new(self.log.embedded())
            }));
        }
        Ok(BusConfig::Kafka(KafkaConfig {
            partitions: self.partitions,
            retention: self.retention(),
            former_log: Some(self.log.embedded()),
            ..self.log.kafka()?
        }))
    }

    fn ingest(&self) -> Result<IngestConfig, ConfigError> {
        let open = self.auth_token_file.is_some() || self.allow_unauthenticated;
        let default_ip = if open { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
        let listen = self.listen.unwrap_or_else(|| SocketAddr::new(IpAddr::V4(default_ip), 8080));
        if !open && !listen.ip().is_loopback() {
            return Err(wrong(
                "listen",
                format!(
                    "{listen} can be reached from elsewhere, and no token is asked for; give --auth-token-file FILE, \
                     or --allow-unauthenticated if everybody who can reach the port may raise alerts"
                ),
            ));
        }
        if self.source.is_empty()
            || self.source.len() > 63
            || !self.source.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        {
            return Err(wrong("source", format!("{:?} is not 1 to 63 letters, digits and -", self.source)));
        }
        Ok(IngestConfig {
            listen,
            auth_token_file: self.auth_token_file.clone(),
            allow_unauthenticated: self.allow_unauthenticated,
            source: self.source.clone(),
            data_dir: self.log.data_dir.clone(),
            outbox_max_alerts: self.outbox_max_alerts,
            ..IngestConfig::default()
        })
    }
}

impl LogFlags {
    /// The log as it stands, to be read only: what it is created with is no matter.
    pub fn to_read(&self) -> Result<BusConfig, ConfigError> {
        check_prefix(&self.topic_prefix)?;
        if self.kafka_brokers.is_empty() {
            return Ok(BusConfig::Embedded(EmbeddedConfig::new(self.embedded())));
        }
        self.kafka().map(BusConfig::Kafka)
    }

    /// Where the embedded log is.
    fn embedded(&self) -> PathBuf {
        self.data_dir.join(EMBEDDED_LOG)
    }

    fn kafka(&self) -> Result<KafkaConfig, ConfigError> {
        for broker in &self.kafka_brokers {
            let port = broker.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>()));
            if !matches!(port, Some(Ok(1..))) {
                return Err(wrong("kafka-brokers", format!("{broker:?} is no HOST:PORT")));
            }
        }
        Ok(KafkaConfig {
            topic_prefix: self.topic_prefix.clone(),
            extra: self.kafka_settings()?,
            ..KafkaConfig::new(self.kafka_brokers.join(","))
        })
    }

    /// Passwords are among them: an error names the setting, and never what it is set to.
    fn kafka_settings(&self) -> Result<Vec<(String, String)>, ConfigError> {
        let settings = self.kafka_config.iter().flat_map(|text| split_settings(text));
        let parsed = settings.enumerate().map(|(i, setting)| match setting.split_once('=') {
            Some((name, value)) if is_setting_name(name.trim()) => Ok((name.trim().to_owned(), value.to_owned())),
            _ => Err(wrong(
                "kafka-config",
                format!("setting {} is no KEY=VALUE, like security.protocol=SASL_SSL", i + 1),
            )),
        });
        parsed.collect()
    }
}

/// Kafka's rule for topic names (`org.apache.kafka.common.internals.Topic`): letters, digits, `.`, `_` and `-`, 249 in all.
fn check_prefix(prefix: &str) -> Result<(), ConfigError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if prefix.len() <= 200 && prefix.chars().all(allowed) {
        Ok(())
    } else {
        Err(wrong("topic-prefix", format!("{prefix:?} may hold at most 200 letters, digits, '.', '_' and '-'")))
    }
}

/// librdkafka's names: words behind dots.
fn is_setting_name(name: &str) -> bool {
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    name.split('.').all(is_word)
}

/// Several settings in one text, as a variable holds them. A value may hold commas and lines, like a password or a certificate: what
/// follows one is a setting of its own only if it begins with a name that has a dot.
fn split_settings(text: &str) -> Vec<&str> {
    let begins_setting =
        |rest: &str| rest.split_once('=').is_some_and(|(name, _)| name.contains('.') && is_setting_name(name.trim()));
    let (mut settings, mut begin) = (Vec::new(), 0);
    for (i, separator) in text.match_indices([',', '\n']) {
        let next = i + separator.len();
        if begins_setting(&text[next..]) {
            settings.push(&text[begin..i]);
            begin = next;
        }
    }
    settings.push(&text[begin..]);
    settings
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: RunFlags,
    }

    fn resolve(args: &[&str]) -> Result<Config, ConfigError> {
        Line::try_parse_from(std::iter::once("run").chain(args.iter().copied())).unwrap().flags.resolve()
    }

    #[test]
    fn without_flags_everything_runs_on_the_embedded_log_and_listens_on_loopback() {
        let config = resolve(&[]).unwrap();
        assert_eq!(config.services, Service::ALL);
        assert!(matches!(config.bus, BusConfig::Embedded(EmbeddedConfig { partitions: 12, .. })));
        assert_eq!(config.ingest.listen.to_string(), "127.0.0.1:8080");
    }

    #[test]
    fn with_a_token_the_port_is_open() {
        let config = resolve(&["--auth-token-file", "/run/token"]).unwrap();
        assert_eq!(config.ingest.listen.to_string(), "0.0.0.0:8080");
    }

    #[test]
    fn a_wrong_value_is_named_with_its_remedy() {
        for (args, says) in [
            (&["--services", "rules"][..], "--services: without brokers"),
            (&["--listen", "0.0.0.0:8080"], "--listen: 0.0.0.0:8080 can be reached from elsewhere"),
            (&["--kafka-brokers", "kafka"], "--kafka-brokers: \"kafka\" is no HOST:PORT"),
            (&["--kafka-brokers", "kafka:0"], "--kafka-brokers: \"kafka:0\" is no HOST:PORT"),
            (&["--kafka-brokers", ":9092"], "--kafka-brokers: \":9092\" is no HOST:PORT"),
            (&["--kafka-config", "a=b"], "--kafka-config: a is given, but no --kafka-brokers"),
            (&["--kafka-brokers", "k:1", "--kafka-config", "=b"], "--kafka-config: setting 1 is no KEY=VALUE"),
            (&["--topic-prefix", "a/b"], "--topic-prefix: \"a/b\""),
            (&["--source", "http://pod-1"], "--source: \"http://pod-1\""),
            (&["--action-ttl", "1h"], "--action-ttl: 1h is less than --topic-retention, which is 24h"),
            (&["--topic-retention", "169h"], "--action-ttl: 168h is less than --topic-retention"),
            (&["--incident-ttl", "100h"], "--incident-ttl: 100h is less than --action-ttl"),
            (&["--incident-ttl", "200h"], "--group-ttl: 168h is less than --incident-ttl"),
            (&["--topic-retention", "0s"], "--topic-retention: 0s is not from 1m to 9600h"),
            (&["--group-ttl", "99999h"], "--group-ttl: 99999h is not from 1m to 9600h"),
            (&["--log-filter", "eventpulse=loud"], "--log-filter: \"eventpulse=loud\" is no filter of the log"),
            (&["--ends-at-grace", "0ms"], "--ends-at-grace: 0s is not from 1s to 24h"),
        ] {
            let error = resolve(args).unwrap_err().to_string();
            assert!(error.starts_with(says), "{args:?}: {error}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for text in ["", "1d", "-5m", "1.5h", "5", "five", "９s"] {
            let line = Line::try_parse_from(["run", &format!("--topic-retention={text}")]);
            let error = line.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains("--topic-retention") && error.contains("like 30s or 1h30m"), "{text:?}: {error}");
        }
    }

    #[test]
    fn retention_reaches_every_service() {
        let args = ["--topic-retention", "1h", "--action-ttl", "2h", "--incident-ttl", "3h", "--group-ttl", "4h"];
        let config = resolve(&args).unwrap();
        let BusConfig::Embedded(log) = &config.bus else { panic!("not embedded") };
        let hours = |duration: Duration| duration.as_millis() / 3_600_000;
        assert_eq!(log.retention.events.as_secs(), 3600);
        assert_eq!((config.actions.ttl.as_hours(), hours(config.notify.ttl)), (2, 2));
        assert_eq!((hours(config.incidents.ttl), hours(config.rules.retention)), (3, 4));
    }

    #[test]
    fn a_password_may_hold_an_equals_sign() {
        let config = resolve(&["--kafka-brokers", "k:9092", "--kafka-config", "sasl.password=a=b"]).unwrap();
        let BusConfig::Kafka(kafka) = config.bus else { panic!("not Kafka") };
        assert_eq!(kafka.extra, [("sasl.password".to_owned(), "a=b".to_owned())]);
    }

    #[test]
    fn several_settings_stand_in_one_value_and_a_password_keeps_its_commas() {
        let pem = "-----BEGIN-----\nMIIE,a=b\nxy==\n-----END-----";
        let text = format!("security.protocol=SASL_SSL,sasl.password=a,b=c,,d, sasl.username=me\nssl.ca.pem={pem}");
        let config =
            resolve(&["--kafka-brokers", "k:9092", "--kafka-config", &text, "--kafka-config", "debug=all"]).unwrap();
        let BusConfig::Kafka(kafka) = config.bus else { panic!("not Kafka") };
        let expected = [
            ("security.protocol", "SASL_SSL"),
            ("sasl.password", "a,b=c,,d"),
            ("sasl.username", "me"),
            ("ssl.ca.pem", pem),
            ("debug", "all"),
        ];
        assert_eq!(kafka.extra, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_password_is_printed_nowhere() {
        for args in [
            &["--kafka-config", "sasl.password=hunter2"][..],
            &["--kafka-brokers", "k:1", "--kafka-config", "sasl.password:hunter2"],
            &["--kafka-brokers", "k:1", "--kafka-config", "sasl.password=x", "--kafka-config", "hunter2"],
        ] {
            let text = resolve(args).unwrap_err().to_string();
            assert!(text.starts_with("--kafka-config: ") && !text.contains("hunter2"), "{text}");
        }
        let command = Line::command();
        let argument = command.get_arguments().find(|argument| argument.get_id() == "kafka_config");
        assert!(argument.unwrap().is_hide_env_values_set(), "--help would print the variable");
    }
}
