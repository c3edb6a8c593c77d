//! Writes to the API for one incident with one action and one message, counted from the audit log, by kind. What only tidies up
//! (clears and finalizers), and what the sweep after the TTL does, is counted apart.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    alerts::Alerts,
    audit::Write,
    load::{self, Load},
    machine,
    outcome::{Bus, Goal, Outcome, Row},
    pace::Schedule,
    run::Options,
    stage::{OURS, Stage, WEBHOOK, say},
};

const MOST: f64 = 12.0;
/// Slow enough that nothing of two incidents is folded together.
const RATE: f64 = 2.0;
/// All that an incident itself causes is written by then; nothing has reached its TTL, which is a minute.
const SETTLED: Duration = Duration::from_secs(25);
const TTLS: [&str; 4] = ["--topic-retention=60s", "--action-ttl=60s", "--incident-ttl=60s", "--group-ttl=60s"];
/// How long the sweep after the TTL is watched.
const SWEPT: Duration = Duration::from_secs(180);

pub(super) async fn play(options: &Options, bus: Bus) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("writes", Some(bus), Timestamp::now());
    outcome.load_before = machine::load_average();
    let count = if options.quick { 10 } else { 40 };
    let mut stage = Stage::open(options, "writes", bus, true).await?;
    outcome.versions = stage.shop.environment.versions();
    stage.add_targets(count as usize).await?;
    let launcher = TTLS.iter().fold(stage.launcher(), |launcher, flag| launcher.arg(*flag));
    stage.start_with(launcher).await?;
    // The first conditions of Rules, Runbooks and channels are no incident's.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut audit = stage.audit();
    let alerts = Alerts::warnings("CPUHigh", count);
    say(&format!("{count} incidents, {RATE} a second, then {} s for what follows", SETTLED.as_secs()));
    let load = Load {
        address: stage.address()?,
        path: WEBHOOK,
        schedule: Schedule { rate: RATE, count },
        connections: 2,
        body: Arc::new(move |number| alerts.webhook(number, 1)),
    };
    let sent = load::send(load).await?;
    outcome.require(sent.all_answered(), || format!("{:?} {:?}", sent.statuses, sent.refusals));
    tokio::time::sleep(SETTLED).await;
    let writes: Vec<Write> = audit.read()?.into_iter().filter(|write| write.ours).collect();
    let incidents = stage.objects("incidents").await?;
    let resolved = incidents.iter().filter(|incident| incident["status"]["phase"] == "Resolved").count() as u64;
    let told = stage.shop.sink.count_by_key().len() as u64;
    outcome.require(resolved == count && told == count, || {
        format!("{resolved} of {count} incidents were resolved, {told} messages came")
    });
    let patched = writes.iter().filter(|write| write.committed() && write.resource == "deployments").count() as u64;
    outcome.require(patched == count, || format!("{patched} patches for {count} targets"));

    let tidy = tidying(&writes);
    let each = |writes: usize| writes as f64 / count as f64;
    let tidied = tidy.iter().filter(|tidy| **tidy).count();
    let said = Row::new("writes for an incident", each(writes.len() - tidied), "writes").goal(Goal::AtMost(MOST));
    outcome.rows = vec![
        said.note(format!(
            "with one action, one message and two Kubernetes Events, until {} s after it; refused ones count too",
            SETTLED.as_secs()
        )),
        Row::new("beside these: only clear an outbox or a finalizer", each(tidied), "writes"),
        Row::new(
            "of these: refused (conflicts, failed tests)",
            each(writes.iter().filter(|w| !w.committed()).count()),
            "writes",
        ),
    ];
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for (write, tidy) in writes.iter().zip(&tidy) {
        *kinds.entry(if *tidy { format!("{}, tidying", write.kind()) } else { write.kind() }).or_default() += 1;
    }
    outcome.rows.extend(kinds.iter().map(|(kind, times)| Row::new(format!("by kind: {kind}"), each(*times), "writes")));
    if !options.quick {
        outcome.rows.extend(sweep(&stage, &mut audit, each).await?);
    }
    outcome.load_during = machine::load_average();
    stage.close().await?;
    Ok(outcome)
}

async fn sweep(
    stage: &Stage,
    audit: &mut crate::audit::Audit,
    each: impl Fn(usize) -> f64,
) -> anyhow::Result<Vec<Row>> {
    say(&format!("what the sweep after the TTL of a minute writes, {} s", SWEPT.as_secs()));
    let (begin, mut writes) = (Instant::now(), Vec::new());
    while begin.elapsed() < SWEPT {
        tokio::time::sleep(Duration::from_secs(5)).await;
        stage.running()?;
        writes.extend(audit.read()?.into_iter().filter(|write| write.ours));
    }
    let mut left = Vec::new();
    for kind in OURS {
        let objects = stage.objects(kind).await?.len();
        if objects > 0 {
            left.push(format!("{objects} {kind}"));
        }
    }
    let left = if left.is_empty() {
        "nothing is left".to_owned()
    } else {
        format!("{} stay for their own time", left.join(", "))
    };
    let kinds = crate::audit::count_by_kind(&writes);
    let kinds: Vec<String> = kinds.iter().map(|(kind, times)| format!("{kind} {:.1}", each(*times))).collect();
    let note = format!("no goal; {}; {left}", kinds.join(", "));
    Ok(vec![Row::new("writes of the sweep after the TTL", each(writes.len()), "writes").note(note)])
}

/// Of each write whether it only tidies up: nothing but the outbox or the finalizers differs from the object before.
fn tidying(writes: &[Write]) -> Vec<bool> {
    let mut before: HashMap<(String, String), Value> = HashMap::new();
    let mut tidy = Vec::new();
    for write in writes {
        let kind = write.resource.split('/').next().unwrap_or_default().to_owned();
        let said = said(&write.object);
        let known = write.committed() && OURS.contains(&kind.as_str()) && !said.is_null();
        let former = if known { before.insert((kind, write.name.clone()), said.clone()) } else { None };
        tidy.push(known && former.is_some_and(|former| former == said));
    }
    tidy
}

/// An object without what changes with every write, and without outbox and finalizers.
fn said(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["resourceVersion", "managedFields", "generation", "finalizers"] {
            metadata.remove(field);
        }
    }
    for part in ["spec", "status"] {
        if let Some(part) = object[part].as_object_mut() {
            part.remove("outbox");
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn write(name: &str, object: Value) -> Write {
        let (verb, code) = ("update".to_owned(), 200);
        let at = Timestamp::UNIX_EPOCH;
        Write {
            received: at,
            answered: at,
            verb,
            resource: "actions/status".into(),
            name: name.into(),
            code,
            ours: true,
            object,
        }
    }

    #[test]
    fn a_write_that_only_clears_is_told_from_one_that_says_something() {
        let object = |version: u32, phase: &str, outbox: u32, finalizers: &[&str]| {
            json!({
                "metadata": {"name": "a", "resourceVersion": version.to_string(), "finalizers": finalizers},
                "status": {"phase": phase, "outbox": vec![json!({}); outbox as usize]},
            })
        };
        let writes = [
            write("a", object(1, "Running", 1, &["x"])),
            write("a", object(2, "Completed", 2, &["x"])),
            write("a", object(3, "Completed", 0, &["x"])),
            write("a", object(4, "Completed", 0, &[])),
            write("b", object(5, "Completed", 0, &[])),
            write("b", Value::Null),
        ];
        assert_eq!(tidying(&writes), [false, false, true, true, false, false]);
        let refused = Write { code: 409, ..write("a", object(4, "Completed", 0, &[])) };
        assert_eq!(tidying(&[writes[3].clone(), refused]), [false, false]);
    }
}
