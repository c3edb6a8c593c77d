use clap::{CommandFactory, Parser};

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: RunFlags,
}

fn resolve(args: &[&str]) -> Result<Config, ConfigErrors> {
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
        (&["--topic-prefix", "ep-"], "--topic-prefix: it is given, but no --kafka-brokers"),
        (&["--kafka-brokers", "k:1", "--kafka-config", "acks=1"], "--kafka-config: the Kafka setting acks is fixed"),
        (&["--kafka-brokers", "k:1", "--kafka-config", "sasl.pasword=x"], "--kafka-config: sasl.pasword: No such"),
        (
            &["--kafka-brokers", "k:1", "--kafka-config", "security.protocol=x"],
            "--kafka-config: security.protocol: Invalid",
        ),
        (&["--outbox-max-alerts", "0"], "--outbox-max-alerts: 0 would take no alert at all"),
        (&["--listen", "127.0.0.1:8081"], "--listen: 127.0.0.1:8081 is taken by --admin-listen 0.0.0.0:8081"),
        (&["--termination-grace-period", "20s"], "--termination-grace-period: 20s is less than 28s"),
        (&["--kafka-brokers", "kafka:0"], "--kafka-brokers: \"kafka:0\" is no HOST:PORT"),
        (&["--kafka-brokers", ":9092"], "--kafka-brokers: \":9092\" is no HOST:PORT"),
        (&["--kafka-config", "a=b"], "--kafka-config: a is given, but no --kafka-brokers"),
        (&["--kafka-brokers", "k:1", "--kafka-config", "=b"], "--kafka-config: setting 1 is no KEY=VALUE"),
        (&["--topic-prefix", "a/b"], "--topic-prefix: \"a/b\""),
        (&["--alerts-topic", "theirs"], "--alerts-topic: \"theirs\" is a topic of Kafka; give --kafka-brokers"),
        (&["--kafka-brokers", "k:1", "--alerts-topic", ""], "--alerts-topic: \"\" is no name of a topic"),
        (&["--kafka-brokers", "k:1", "--alerts-topic", ".."], "--alerts-topic: \"..\" is no name"),
        (&["--kafka-brokers", "k:1", "--alerts-topic", "a/b"], "--alerts-topic: \"a/b\" is no name"),
        (
            &["--kafka-brokers", "k:1", "--alerts-topic", "alert.raised"],
            "--alerts-topic: \"alert.raised\" is EventPulse's own topic alert.raised",
        ),
        (
            &["--kafka-brokers", "k:1", "--topic-prefix", "ep-", "--alerts-topic", "ep-dead.letter"],
            "--alerts-topic: \"ep-dead.letter\" is EventPulse's own",
        ),
        (&["--incident-count", "6000"], "--group-count: 5000 is less than --incident-count, which is 6000"),
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
    assert_eq!((config.actions.repeats_for.as_hours(), hours(config.rules.repeats_for)), (1, 1));
    let counts = ["--action-count=11", "--notification-count=12", "--incident-count=13", "--group-count=14"];
    let config = resolve(&counts).unwrap();
    let kept = (config.actions.max_finished, config.notify.max_finished);
    assert_eq!((kept, config.incidents.max_finished, config.rules.max_quiet), ((11, 12), 13, 14));
}

#[test]
fn a_count_of_none_or_of_millions_is_refused() {
    for (flag, value) in [("--action-count", "0"), ("--group-count", "100001"), ("--incident-count", "-1")] {
        let line = Line::try_parse_from(["run", &format!("{flag}={value}")]);
        let error = line.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(flag) && error.contains(value), "{error}");
    }
}

#[test]
fn the_topic_of_others_is_named_as_it_is() {
    let args = ["--kafka-brokers", "k:1", "--topic-prefix", "ep-", "--alerts-topic", "alert.raised"];
    assert_eq!(resolve(&args).unwrap().ingest.alerts_topic.as_deref(), Some("alert.raised"));
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

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let args = [
        "--services=rules",
        "--topic-prefix=a/b",
        "--outbox-max-alerts=0",
        "--source=",
        "--ends-at-grace=0s",
        "--group-ttl=1s",
        "--shutdown-drain-timeout=2h",
        "--kafka-config=nonsense",
    ];
    let text = resolve(&args).unwrap_err().to_string();
    for flag in [
        "kafka-config",
        "topic-prefix",
        "services",
        "group-ttl",
        "ends-at-grace",
        "source",
        "outbox-max-alerts",
        "shutdown-drain-timeout",
        "termination-grace-period",
    ] {
        assert!(text.lines().any(|line| line.starts_with(&format!("--{flag}: "))), "{flag}: {text}");
    }
    // Too short in itself, and shorter than what it must outlive.
    assert_eq!(text.matches("--group-ttl: ").count(), 2, "{text}");
}

#[test]
fn two_ports_are_one_where_the_addresses_overlap() {
    let share = |one: &str, other: &str| {
        let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
        assert_eq!(share_a_port(one, other), share_a_port(other, one));
        share_a_port(one, other)
    };
    for (one, other) in [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("0.0.0.0:80", "127.0.0.1:80"),
        ("[::]:80", "127.0.0.1:80"),
        ("[::]:80", "[::1]:80"),
        ("[::]:80", "0.0.0.0:80"),
    ] {
        assert!(share(one, other), "{one} {other}");
    }
    for (one, other) in [
        ("127.0.0.1:80", "127.0.0.1:81"),
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("0.0.0.0:80", "[::1]:80"),
        ("0.0.0.0:0", "0.0.0.0:0"),
    ] {
        assert!(!share(one, other), "{one} {other}");
    }
    // A process without ingest listens there only for probes.
    resolve(&["--services=rules", "--kafka-brokers=k:1", "--listen=127.0.0.1:8081"]).unwrap();
}

#[test]
fn what_has_no_effect_is_told_and_no_mistake() {
    let notes = |args: &[&str]| {
        Line::try_parse_from(std::iter::once("run").chain(args.iter().copied())).unwrap().flags.without_effect()
    };
    assert_eq!(notes(&[]), Vec::<String>::new());
    assert_eq!(notes(&["--outbox-max-alerts=5"]).len(), 1, "the embedded log is the outbox");
    assert_eq!(notes(&["--outbox-max-alerts=5", "--kafka-brokers=k:1"]).len(), 0);
    let apart = notes(&["--services=rules", "--kafka-brokers=k:1", "--source=a", "--allow-unauthenticated"]);
    assert_eq!(apart.len(), 2, "{apart:?}");
    assert!(apart[0].starts_with("--allow-unauthenticated has no effect: ingest is not among"), "{apart:?}");
}
