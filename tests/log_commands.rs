//! The commands that look at the log, `ledger` and `dead-letters`, as processes of their own beside a log that is in use, and `replay`,
//! which wants it for itself, on both adapters.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use eventpulse::{
    bus::{
        Bus, EmbeddedBus, EmbeddedConfig, KafkaBus, KafkaConfig, KafkaOptions, LocalOptions, SubscribeOptions,
        Subscription, SubscriptionEvent,
    },
    events::{
        AlertDecided, AlertId, AlertRaised, AlertStatus, DeadLetter, DeadLetterReason, DecisionReason, Event, EventId,
        NamespacedName, Payload, Record, Topic, alert_key, fingerprint_of,
    },
    incidents,
    runtime::{Metrics, clock::SystemClock},
};
use eventpulse_env::Environment;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_eventpulse");
const SOURCE: &str = "prom";
const PATIENCE: Duration = Duration::from_secs(60);
const MARK: &str = "eventpulse-retried-from";

/// A command with nobody to ask, and nothing in its environment.
fn run(args: &[String]) -> Output {
    Command::new(PROGRAM).args(args).env_clear().stdin(Stdio::null()).output().unwrap()
}

/// A log in use, and how a command is told which one it is.
struct Log {
    bus: Arc<dyn Bus>,
    flags: Vec<String>,
    /// How it is said that somebody has it.
    in_use: String,
}

impl Log {
    async fn run(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).chain(self.flags.clone()).collect();
        let output = tokio::task::spawn_blocking(move || run(&args)).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// Runs a command that ends with this code, and gives what it prints, stdout before stderr.
    async fn says(&self, code: i32, args: &[&str]) -> String {
        let (found, output, errors) = self.run(args).await;
        assert_eq!(found, Some(code), "{args:?}: {output}{errors}");
        output + &errors
    }

    /// The same, of its JSON.
    async fn tells(&self, code: i32, args: &[&str]) -> Value {
        let (found, output, errors) = self.run(&[args, &["-o", "json"]].concat()).await;
        assert_eq!(found, Some(code), "{args:?}: {output}{errors}");
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{args:?}: {error}: {output}"))
    }

    async fn publish(&self, event: &Event) {
        self.bus.publish(vec![event.encode().unwrap()]).await.unwrap();
    }

    /// As the service rules: the next records of alert.raised, with where each stands. All of them are done then.
    async fn read(&self, count: usize) -> Vec<(String, Record)> {
        let options =
            SubscribeOptions { group: "rules".into(), topics: vec![Topic::AlertRaised], max_in_flight: 1_000 };
        let mut member = self.bus.subscribe(options).await.unwrap();
        let mut records = Vec::new();
        while records.len() < count {
            let event = tokio::time::timeout(PATIENCE, member.next()).await.unwrap();
            if let Some(SubscriptionEvent::Message(delivery)) = event {
                records.push((delivery.origin(), delivery.record));
                delivery.ack.done();
            }
        }
        member.leave().await;
        records
    }
}

fn event(id: EventId, subject: &str, key: String, payload: impl Into<Payload>) -> Event {
    Event {
        id,
        time: Timestamp::now(),
        source: "eventpulse/rules".into(),
        subject: subject.into(),
        key,
        traceparent: None,
        payload: payload.into(),
    }
}

fn alert(name: &str) -> AlertRaised {
    let now = Timestamp::now();
    let labels = BTreeMap::from([("alertname".to_owned(), name.to_owned())]);
    AlertRaised {
        alert_id: None,
        source: SOURCE.into(),
        fingerprint: Some(fingerprint_of(&labels)),
        status: AlertStatus::Firing,
        labels,
        annotations: BTreeMap::new(),
        starts_at: now,
        ends_at: None,
        generator_url: None,
        accepted_at: now,
    }
}

fn id_of(alert: &AlertRaised) -> AlertId {
    AlertId::new(SOURCE, alert.fingerprint.as_deref().unwrap(), alert.starts_at)
}

fn raised(alert: &AlertRaised) -> Event {
    let id = EventId::new("alert.raised", id_of(alert).as_str(), "firing");
    event(id, id_of(alert).as_str(), alert_key(SOURCE, alert.fingerprint.as_deref().unwrap()), alert.clone())
}

fn decided(alert: &AlertRaised, reason: DecisionReason) -> Event {
    let id = EventId::new("alert.decided", &format!("{}/Firing", id_of(alert)), "shop/cpu-high");
    let entry = AlertDecided {
        alert_id: id_of(alert),
        alert_event_id: raised(alert).id,
        source: SOURCE.into(),
        fingerprint: alert.fingerprint.clone().unwrap(),
        starts_at: alert.starts_at,
        status: alert.status,
        rule: Some(NamespacedName { namespace: "shop".into(), name: "cpu-high".into() }),
        reason,
        incident_id: None,
        detail: String::new(),
    };
    event(id.clone(), id_of(alert).as_str(), id.to_string(), entry)
}

fn letter(letter: DeadLetter) -> Event {
    let id = EventId::new("dead.letter", &letter.origin, &letter.message);
    event(id, &letter.origin.clone(), letter.origin.clone(), letter)
}

/// What nobody can decode.
fn nonsense() -> Record {
    Record {
        topic: Topic::AlertRaised,
        key: Some("nonsense".into()),
        headers: vec![("who".into(), "somebody".into())],
        value: "no alert".into(),
    }
}

async fn the_ledger_names_what_is_missing_until_it_is_there(log: &Log) {
    let [told, lost, waiting] = ["Told", "Lost", "Waiting"].map(alert);
    assert!(log.says(0, &["ledger"]).await.contains("Everything is accounted for."));
    for alert in [&told, &lost] {
        log.publish(&raised(alert)).await;
    }
    // Told again it is the same alert.
    log.publish(&raised(&told)).await;
    log.bus.publish(vec![nonsense()]).await.unwrap();
    for reason in [DecisionReason::Opened, DecisionReason::Repeated] {
        log.publish(&decided(&told, reason)).await;
    }
    let read = log.read(4).await;
    let place = |wanted: &Record| read.iter().find(|(_, record)| record.value == wanted.value).unwrap().0.clone();
    log.publish(&raised(&waiting)).await;

    let ledger = log.tells(1, &["ledger", "--since", "1h"]).await;
    let alerts = &ledger["alerts"];
    assert_eq!(
        (&alerts["accepted"], &alerts["decided"], &alerts["underWay"], &alerts["missing"]),
        (&3.into(), &1.into(), &1.into(), &1.into()),
        "{ledger:#}"
    );
    assert_eq!((&ledger["unusable"]["missing"], &ledger["decisions"]["repetitions"]), (&1.into(), &1.into()));
    assert_eq!(ledger["decisions"]["reasons"], serde_json::json!({"opened": 1}));
    let missing = &ledger["missing"][0];
    let expected = [
        ("origin", place(&raised(&lost).encode().unwrap())),
        ("alertID", id_of(&lost).to_string()),
        ("eventID", raised(&lost).id.to_string()),
        ("fingerprint", lost.fingerprint.clone().unwrap()),
        ("alertname", "Lost".into()),
        ("status", "firing".into()),
    ];
    for (field, value) in expected {
        assert_eq!(missing[field], value, "{field}: {ledger:#}");
    }
    assert_eq!(ledger["missingRecords"][0]["origin"], place(&nonsense()));
    let text = log.says(1, &["ledger"]).await;
    for part in
        ["Lost", "+ under way", "1 accepted alerts have no reason", "have no dead letter", "shop/cpu-high", "lag"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }

    // What was withheld comes.
    let buried =
        nonsense().to_dead_letter(DeadLetterReason::InvalidHeaders, "ce_id: missing".into(), place(&nonsense()));
    log.publish(&letter(buried)).await;
    log.publish(&decided(&lost, DecisionReason::NoRule)).await;
    log.publish(&decided(&waiting, DecisionReason::Joined)).await;
    let text = log.says(0, &["ledger"]).await;
    assert!(text.contains("Everything is accounted for.") && text.contains("invalidHeaders (alert.raised)"), "{text}");
    // Accepted before the account begins, and decided after: no error.
    let begin = Timestamp::now();
    log.publish(&decided(&waiting, DecisionReason::Repeated)).await;
    let ledger = log.tells(0, &["ledger", "--since", &begin.to_string()]).await;
    assert_eq!(
        (&ledger["alerts"]["accepted"], &ledger["alerts"]["acceptedBefore"]),
        (&0.into(), &1.into()),
        "{ledger:#}"
    );
}

async fn the_ledger_names_what_was_never_raised_and_what_contradicts(log: &Log) {
    let [told, never] = ["Told", "Never"].map(alert);
    log.publish(&raised(&told)).await;
    for alert in [&told, &never] {
        log.publish(&decided(alert, DecisionReason::Opened)).await;
    }
    let ledger = log.tells(1, &["ledger"]).await;
    assert_eq!(ledger["neverRaised"][0]["alertID"], id_of(&never).to_string(), "{ledger:#}");
    // One that began so long ago may have been raised where the log has let go.
    log.publish(&decided(
        &AlertRaised { starts_at: Timestamp::now() - SignedDuration::from_hours(48), ..alert("Old") },
        DecisionReason::Opened,
    ))
    .await;
    assert_eq!(log.tells(1, &["ledger"]).await["alerts"]["neverRaised"], 1);
    log.publish(&raised(&never)).await;
    log.publish(&decided(&told, DecisionReason::Joined)).await;
    let text = log.says(1, &["ledger"]).await;
    assert!(
        text.contains("joined after opened at alert.decided/") && text.contains("1 decisions contradict"),
        "{text}"
    );
}

/// Gives the origin of each: what the API server refused, what nobody can decode, what never was a record; and the first one's record.
async fn bury_some(log: &Log) -> ([String; 3], Record) {
    let record = raised(&alert("Refused")).encode().unwrap();
    log.bus.publish(vec![record.clone(), nonsense()]).await.unwrap();
    // What earlier cases left unread is read with it.
    let mut read: Vec<(String, Record)> = Vec::new();
    let holds = |read: &[(String, Record)], value: &[u8]| read.iter().any(|(_, found)| found.value == value);
    while !holds(&read, &record.value) || !holds(&read, &nonsense().value) {
        read.extend(log.read(1).await);
    }
    let place = |wanted: &Record| read.iter().rev().find(|(_, found)| found.value == wanted.value).unwrap().0.clone();
    let origins = [place(&record), place(&nonsense()), "/webhooks/alertmanager alerts[2]".to_owned()];
    let from_http = DeadLetter {
        reason: DeadLetterReason::InvalidAlert,
        message: "labels: \u{1b}[31m at least one is needed".into(),
        origin: origins[2].clone(),
        headers: BTreeMap::new(),
        key: None,
        data: "/wD+".into(),
        truncated: false,
    };
    for buried in [
        record.to_dead_letter(DeadLetterReason::Refused, "quota".into(), origins[0].clone()),
        nonsense().to_dead_letter(DeadLetterReason::InvalidHeaders, "ce_id: missing".into(), origins[1].clone()),
        from_http,
    ] {
        log.publish(&letter(buried)).await;
    }
    (origins, record)
}

async fn dead_letters_are_listed_and_shown(log: &Log) {
    let begin = Timestamp::now().to_string();
    let list = async |args: &[&str]| {
        let found = log.tells(0, &[&["dead-letters", "list", "--since", &begin][..], args].concat()).await;
        found["deadLetters"].as_array().unwrap().clone()
    };
    assert!(
        log.says(0, &["dead-letters", "list", "--since", &begin]).await.contains("There are no such dead letters.")
    );
    let ([at, _, from_http], _) = bury_some(log).await;
    assert_eq!(list(&[]).await.len(), 3);
    let found = list(&["--reason", "refused", "--topic", "alert.raised"]).await;
    assert_eq!((found.len(), found[0]["origin"].as_str()), (1, Some(at.as_str())), "{found:?}");
    let id = found[0]["id"].as_str().unwrap().to_owned();
    let text = log.says(0, &["dead-letters", "list", "--since", &begin]).await;
    assert!(text.contains("alerts[2] (dead.letter/") && !text.contains('\u{1b}'), "{text}");

    for name in [&at, &id] {
        let shown = log.says(0, &["dead-letters", "show", name]).await;
        for part in ["quota", "ce_id: ", "\"alertname\":\"Refused\"", "(text)"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }
    assert!(log.says(0, &["dead-letters", "show", &from_http]).await.contains("(base 64)\n/wD+\n"));
    assert!(log.says(1, &["dead-letters", "show", "alert.raised/0@999999"]).await.contains("there is no dead letter"));
}

async fn dead_letters_are_given_to_the_services_again(log: &Log) {
    let begin = Timestamp::now().to_string();
    let ([at, nonsense_at, from_http], record) = bury_some(log).await;
    let event = record.decode().unwrap().id;
    // What would fail again, or never was a record, is left alone, with what to do.
    let retried = async |code: i32, args: &[&str]| {
        log.says(code, &[&["dead-letters", "retry", "--since", &begin][..], args].concat()).await
    };
    assert!(
        retried(1, &[&nonsense_at, "--yes"])
            .await
            .contains("would become a dead letter again (header ce_specversion: missing)")
    );
    assert!(retried(1, &[&from_http, "--yes"]).await.contains("mend it at its sender"));
    assert!(retried(1, &["alert.raised/0@999999"]).await.contains("there is no dead letter"));
    assert!(retried(2, &[&at]).await.contains("--yes: is needed"));
    assert!(retried(0, &[&at, "--dry-run"]).await.contains("is to be published on alert.raised again"));
    assert!(retried(0, &["--reason", "unknownType", "--yes"]).await.contains("nothing to publish again"));

    let done = retried(0, &[&at, "--yes"]).await;
    assert!(done.contains(&format!("event {event} was published on alert.raised again")), "{done}");
    let (_, again) = log.read(1).await.remove(0);
    let mark = again.headers.iter().find(|(name, _)| name == MARK).unwrap().1.clone();
    assert!(std::str::from_utf8(&mark).unwrap().ends_with(&format!(" {at}")), "{mark:?}");
    let without_mark = |record: &Record| Record {
        headers: record.headers.iter().filter(|(name, _)| name != MARK).cloned().collect(),
        ..record.clone()
    };
    assert_eq!((without_mark(&again), again.decode().unwrap().id), (record, event.clone()));
    // All of a reason: what cannot be published is told, and holds up nothing.
    let done = retried(0, &["--reason", "refused", "--yes"]).await;
    assert!(done.contains("was published on alert.raised again"), "{done}");
    assert_eq!(log.read(1).await[0].1.decode().unwrap().id, event);
}

async fn the_commands_hold_beside(log: &Log) {
    the_ledger_names_what_is_missing_until_it_is_there(log).await;
    the_ledger_names_what_was_never_raised_and_what_contradicts(log).await;
    dead_letters_are_listed_and_shown(log).await;
    dead_letters_are_given_to_the_services_again(log).await;
}

/// As the service incidents, until it is told to leave: the next records, of which all are done then.
async fn as_incidents(log: &Log, count: usize) -> (Subscription, Vec<String>) {
    let mut member = log.bus.subscribe(incidents::CONSUMES.options(1_000)).await.unwrap();
    let mut values = Vec::new();
    while values.len() < count {
        let event = tokio::time::timeout(PATIENCE, member.next()).await.unwrap();
        if let Some(SubscriptionEvent::Message(delivery)) = event {
            values.push(String::from_utf8(delivery.record.value.to_vec()).unwrap());
            delivery.ack.done();
        }
    }
    values.sort();
    (member, values)
}

/// Writes so many records for incidents, on each of two of its topics.
async fn write(log: &Log, name: &str, count: usize) -> Vec<String> {
    let mut values = Vec::new();
    for topic in [Topic::IncidentOpened, Topic::ActionCompleted] {
        let value = |n: usize| format!("{name}-{topic}-{n:02}");
        let record = |n: usize| Record { topic, key: Some(n.to_string()), headers: vec![], value: value(n).into() };
        log.bus.publish((0..count).map(record).collect()).await.unwrap();
        values.extend((0..count).map(value));
    }
    values.sort();
    values
}

async fn everything_is_given_again(open: impl AsyncFn() -> Log) {
    const REPLAY: [&str; 3] = ["replay", "--services", "incidents"];
    let log = open().await;
    let early = write(&log, "early", 20).await;
    log.bus.close(PATIENCE).await;
    let text = log.says(0, &REPLAY).await;
    assert!(text.contains("have no stored offset") && text.ends_with("Nothing comes again.\n"), "{text}");

    let log = open().await;
    let (member, read) = as_incidents(&log, early.len()).await;
    assert_eq!(read, early);
    // While somebody is in the group nothing is changed, and it is said who.
    let refused = log.says(1, &REPLAY).await;
    assert!(refused.contains("EventPulse is running, and nothing was changed: "), "{refused}");
    assert!(refused.contains(&log.in_use), "{refused}");
    let text = log.says(0, &[&REPLAY[..], &["--dry-run"]].concat()).await;
    assert!(text.contains("has to be stopped before: ") && text.contains(&log.in_use), "{text}");
    member.leave().await;
    log.bus.close(PATIENCE).await;

    // A dry run changes nothing; set back once, there is nothing to set back.
    for _ in 0..2 {
        let would = log.tells(0, &[&REPLAY[..], &["--dry-run"]].concat()).await;
        assert_eq!((&would["again"], &would["dryRun"], &would["inUse"]), (&40.into(), &true.into(), &Value::Null));
    }
    let text = log.says(0, &REPLAY).await;
    for part in ["incident.opened", "action.completed", "COME AGAIN", "\n40 records come again.\n"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(log.says(0, &REPLAY).await.ends_with("Nothing comes again.\n"));

    let log = open().await;
    let late = write(&log, "late", 5).await;
    let (member, read) = as_incidents(&log, early.len() + late.len()).await;
    assert_eq!(read, [early.clone(), late].concat());
    member.leave().await;
    // What the log took before a time does not come again; other groups stay where they are.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mark = Timestamp::now().to_string();
    let last = write(&log, "last", 3).await;
    let (member, _) = as_incidents(&log, last.len()).await;
    member.leave().await;
    log.bus.close(PATIENCE).await;
    let since = [&REPLAY[..], &["--since", &mark]].concat();
    let done = log.tells(0, &since).await;
    assert_eq!((&done["again"], &done["dryRun"]), (&6.into(), &false.into()), "{done:#}");
    let others = log.tells(0, &["replay", "--services", "rules,actions,notify", "--dry-run"]).await;
    assert!(others["partitions"].as_array().unwrap().iter().all(|one| one["stored"].is_null()), "{others:#}");
    let log = open().await;
    let (member, read) = as_incidents(&log, last.len()).await;
    assert_eq!((read, member.in_flight()), (last, 0));
    member.leave().await;
    log.bus.close(PATIENCE).await;
    let now = Timestamp::now().to_string();
    let text = log.says(0, &[&REPLAY[..], &["--since", &now]].concat()).await;
    assert!(text.ends_with("Nothing comes again.\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_hold_beside_an_embedded_log() {
    let dir = tempfile::tempdir().unwrap();
    let flags = vec![format!("--data-dir={}", dir.path().display())];
    let config = EmbeddedConfig::new(dir.path().join("log"));
    let (clock, metrics) = (Arc::new(SystemClock), Metrics::default());
    let open = async || {
        let bus = EmbeddedBus::open(config.clone(), clock.clone(), metrics.clone(), LocalOptions::default()).await;
        let in_use = format!("is in use by process {}; stop that process", std::process::id());
        Log { bus: Arc::new(bus.unwrap()), flags: flags.clone(), in_use }
    };
    let log = open().await;
    the_commands_hold_beside(&log).await;
    // Where no process runs, the command writes by itself.
    log.bus.close(PATIENCE).await;
    let done = log.says(0, &["dead-letters", "retry", "--reason", "refused", "--yes"]).await;
    assert!(done.contains("was published on alert.raised again"), "{done}");
    let log = open().await;
    assert!(log.read(1).await[0].1.headers.iter().any(|(name, _)| name == MARK));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_log_is_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig::new(dir.path().join("log"));
    everything_is_given_again(async || {
        let (clock, metrics) = (Arc::new(SystemClock), Metrics::default());
        let bus = EmbeddedBus::open(config.clone(), clock, metrics, LocalOptions::default()).await.unwrap();
        let flags = vec![format!("--data-dir={}", dir.path().display())];
        let in_use = format!("is in use by process {}; stop that process", std::process::id());
        Log { bus: Arc::new(bus), flags, in_use }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_hold_beside_kafka() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("log-commands-{}", std::process::id()));
    let environment = Environment::builder("log-commands").kafka(true).dir(dir).start().await.unwrap();
    let brokers = environment.kafka().bootstrap();
    let config = KafkaConfig { partitions: 3, ..KafkaConfig::new(&brokers) };
    let open = async |prefix: &str| {
        let config = KafkaConfig { topic_prefix: prefix.into(), ..config.clone() };
        let bus = KafkaBus::open(config, Metrics::default(), KafkaOptions::default()).await.unwrap();
        let flags = vec![format!("--kafka-brokers={brokers}"), format!("--topic-prefix={prefix}")];
        let in_use = format!("consumer group {prefix}eventpulse-incidents has 1 members (eventpulse on 127.0.0.1)");
        Log { bus: Arc::new(bus), flags, in_use }
    };
    let log = open("log-").await;
    the_commands_hold_beside(&log).await;
    everything_is_given_again(async || open("replay-").await).await;
    // Where nothing is, nothing is proven.
    let elsewhere =
        Log { bus: Arc::clone(&log.bus), flags: vec![format!("--kafka-brokers={brokers}")], in_use: String::new() };
    for (args, topic) in [
        (&["ledger"][..], "alert.raised"),
        (&["dead-letters", "list"], "dead.letter"),
        (&["replay", "--services=notify"], "notification.requested"),
    ] {
        let text = elsewhere.says(1, args).await;
        assert!(text.contains(&format!("there is no topic {topic}; is --topic-prefix that")), "{text}");
    }
    log.bus.close(PATIENCE).await;
    environment.stop().await;
}

#[test]
fn flags_that_do_not_do_are_named_and_end_with_2() {
    for (args, says) in [
        (&["ledger", "--since", "yesterday"][..], "neither a duration, like 90m or 24h, nor a time of RFC 3339"),
        (&["ledger", "--since", "2999-01-01T00:00:00Z"], "--since: 2999-01-01T00:00:00Z lies in the future"),
        (&["ledger", "--kafka-brokers", "kafka"], "--kafka-brokers: "),
        (
            &["dead-letters", "list", "--reason", "bad"],
            "invalidHeaders, invalidData, unknownType, invalidAlert, refused",
        ),
        (&["dead-letters", "list", "--topic", "alerts"], "is no topic of EventPulse"),
        (&["replay", "--services", "incidents,ingest"], "there are rules, actions, incidents, notify"),
        (&["replay", "--services", ""], "is no service that consumes topics of EventPulse"),
        (&["replay"], "--services"),
        (&["replay", "--services", "rules", "--since", "soon"], "neither a duration, like 90m or 24h"),
        (&["replay", "--services", "rules", "--since", "2999-01-01T00:00:00Z"], "lies in the future"),
        (&["replay", "--services", "rules", "--topic-prefix", "a"], "--topic-prefix: "),
        (&["dead-letters", "retry"], "required"),
        (&["dead-letters", "retry", "alert.raised/0@1", "--reason", "refused"], "cannot be used with"),
    ] {
        let output = run(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>());
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && errors.contains(says), "{args:?}: {errors}");
    }
    for command in [&["ledger"][..], &["replay", "--services=rules"]] {
        let args = command.iter().chain(&["--data-dir=/nonexistent"]).map(|arg| (*arg).to_owned());
        let nowhere = run(&args.collect::<Vec<_>>());
        let errors = String::from_utf8(nowhere.stderr).unwrap();
        let says = "there is no embedded log at /nonexistent";
        assert!(nowhere.status.code() == Some(1) && errors.contains(says), "{command:?}: {errors}");
    }
}
