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
    let (actions, incidents) = (config.notify.ttl, config.incidents.ttl);
    println!(
        "kept           Actions and Notifications {actions}, Incidents {incidents}, groups {}",
        config.rules.retention
    );
    println!("The configuration is valid.");
    Ok(())
}

fn authentication(config: &Config) -> String {
    match &config.ingest.auth_token_file {
        Some(file) => format!("bearer token of {}", file.display()),
        None if config.ingest.allow_unauthenticated => "none, for anybody who can reach the port".into(),
        None => "none, on loopback only".into(),
    }
}
