//! `eventpulse check-config`.

use super::{
    out::print,
    preflight::{self, Findings},
};
use crate::{
    bus::BusConfig,
    config::{Config, ConfigErrors, RunFlags, written},
};

/// Says what `run` would do with these flags, or everything that is wrong with them.
pub(super) fn check_config(flags: RunFlags) -> anyhow::Result<()> {
    let (found, notes, granted) =
        (preflight::look(&flags), flags.without_effect(), flags.shutdown.termination_grace_period);
    let topic_retention = flags.topic_retention;
    let (config, mut errors) = match flags.resolve() {
        Ok(config) => (Some(config), ConfigErrors::default()),
        Err(errors) => (None, errors),
    };
    errors.found(found.problems.iter().cloned());
    let Some(config) = config.filter(|_| errors.is_empty()) else { return Err(errors.into()) };
    let mut rows = table(&config, &found);
    rows.push(("kept", format!("topics {topic_retention}, {}", kept(&config))));
    rows.push(("stop", format!("{} of {granted}", stop(&config))));
    rows.extend(notes.into_iter().chain(found.notes).map(|note| ("note", note)));
    let rows: String = rows.iter().map(|(name, value)| format!("{name:<15} {value}\n")).collect();
    print(&format!("{rows}The configuration is valid.\n"))
}

fn telemetry(config: &Config) -> String {
    let telemetry = &config.telemetry;
    let signals = [("traces", &telemetry.traces), ("metrics", &telemetry.metrics), ("logs", &telemetry.logs)];
    let exported = signals.into_iter().filter_map(|(name, endpoint)| {
        let endpoint = endpoint.as_ref()?;
        // What stands before an @ is a password.
        let (scheme, rest) = endpoint.url.split_once("://").unwrap_or(("", &endpoint.url));
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        Some(format!("{name} to {scheme}://{host} by {}", endpoint.protocol.name()))
    });
    let exported: Vec<String> = exported.collect();
    if exported.is_empty() { "not exported; see docs/telemetry.md".into() } else { exported.join(", ") }
}

fn table(config: &Config, found: &Findings) -> Vec<(&'static str, String)> {
    let services: Vec<&str> = config.services.iter().map(|service| service.name()).collect();
    let receives = services.contains(&"ingest");
    let mut rows = vec![("services", services.join(", ")), ("log", log(&config.bus))];
    rows.push(("data directory", found.data_dir.clone()));
    rows.push(("API server", found.api_server.clone()));
    if receives {
        let listen = config.ingest.listen;
        rows.push(("alerts", format!("http://{listen}/webhooks/alertmanager and /api/v2/alerts")));
        rows.push(("authentication", authentication(config, found)));
        if let BusConfig::Kafka(_) = config.bus {
            rows.push(("outbox", format!("at most {} alerts; then senders get 503", config.ingest.outbox_max_alerts)));
        }
    }
    let admin = config.admin_listen;
    rows.push(("admin", format!("http://{admin}/livez, /readyz?verbose, /readyz/SERVICE, /metrics")));
    let (log, filter) = (&config.log, config.log.filter.as_deref().unwrap_or("info"));
    rows.push(("log lines", format!("{}, {filter}", if log.json { "json" } else { "text" })));
    rows.push(("telemetry", telemetry(config)));
    rows
}

fn log(bus: &BusConfig) -> String {
    match bus {
        BusConfig::Kafka(kafka) => {
            let settings: Vec<&str> = kafka.extra.iter().map(|(name, _)| name.as_str()).collect();
            let settings = if settings.is_empty() { String::new() } else { format!(", with {}", settings.join(", ")) };
            format!("Kafka at {}, topics {}alert.raised and so on{settings}", kafka.brokers, kafka.topic_prefix)
        }
        BusConfig::Embedded(log) => {
            format!("embedded, in {}, {} partitions", log.directory.display(), log.partitions)
        }
        BusConfig::Memory { partitions } => format!("in memory, {partitions} partitions"),
    }
}

fn authentication(config: &Config, found: &Findings) -> String {
    match &config.ingest.auth_token_file {
        Some(file) => match found.tokens.unwrap_or_default() {
            1 => format!("bearer token of {}", file.display()),
            tokens => format!("one of the {tokens} bearer tokens of {}", file.display()),
        },
        None if config.ingest.allow_unauthenticated => "none, for anybody who can reach the port".into(),
        None => "none, on loopback only".into(),
    }
}

fn kept(config: &Config) -> String {
    let (actions, incidents, groups) = (config.notify.ttl, config.incidents.ttl, config.rules.retention);
    format!("Actions and Notifications {actions}, Incidents {incidents}, groups {groups}")
}

fn stop(config: &Config) -> String {
    let stages = config.deadlines;
    let [delay, intake, drain, flush, telemetry, total] =
        [stages.delay, stages.intake, stages.drain, stages.flush, stages.telemetry, stages.total()].map(written);
    format!(
        "delay {delay}, intake {intake}, drain {drain}, flush {flush}, telemetry {telemetry}: with the end at most {total}"
    )
}
