//! `eventpulse check-config`.

use crate::{bus::BusConfig, config::Config};

/// Says what `run` would do with these flags. What is wrong was said before this is called.
pub(super) fn check_config(config: &Config) -> anyhow::Result<()> {
    let services: Vec<&str> = config.services.iter().map(|service| service.name()).collect();
    println!("services       {}", services.join(", "));
    match &config.bus {
        BusConfig::Kafka(kafka) => {
            println!("log            Kafka at {}, topics {}alert.raised and so on", kafka.brokers, kafka.topic_prefix)
        }
        BusConfig::Embedded(log) => {
            println!("log            embedded, in {}, {} partitions", log.directory.display(), log.partitions);
        }
        BusConfig::Memory { partitions } => println!("log            in memory, {partitions} partitions"),
    }
    println!("alerts         http://{}/webhooks/alertmanager and /api/v2/alerts", config.ingest.listen);
    println!("authentication {}", authentication(config));
    println!("admin          http://{}/livez, /readyz?verbose, /metrics", config.admin_listen);
    println!("telemetry      {}", telemetry(config));
    let (actions, incidents) = (config.notify.ttl, config.incidents.ttl);
    println!(
        "kept           Actions and Notifications {actions}, Incidents {incidents}, groups {}",
        config.rules.retention
    );
    println!("The configuration is valid.");
    Ok(())
}

fn telemetry(config: &Config) -> String {
    let telemetry = &config.telemetry;
    let signals = [("traces", &telemetry.traces), ("metrics", &telemetry.metrics), ("logs", &telemetry.logs)];
    let exported = signals.into_iter().filter_map(|(name, endpoint)| {
        let endpoint = endpoint.as_ref()?;
        // What stands before an @ is a password.
        let (scheme, rest) = endpoint.url.split_once("://").unwrap_or(("", &endpoint.url));
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        Some(format!("{name} to {scheme}://{host} by {:?}", endpoint.protocol))
    });
    let exported: Vec<String> = exported.collect();
    if exported.is_empty() { "not exported; see docs/telemetry.md".into() } else { exported.join(", ") }
}

fn authentication(config: &Config) -> String {
    match &config.ingest.auth_token_file {
        Some(file) => format!("bearer token of {}", file.display()),
        None if config.ingest.allow_unauthenticated => "none, for anybody who can reach the port".into(),
        None => "none, on loopback only".into(),
    }
}
