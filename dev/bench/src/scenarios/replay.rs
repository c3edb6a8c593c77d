//! The same writes without EventPulse: one incident of the warm-up is recorded, write by write and body by body, and a plain client
//! makes them again, under other names, as fast as the control plane takes them. It reads nothing, has no log, and waits for nothing
//! but the answer to the write before. It has no order among its writes either: what EventPulse holds back it sends at once.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use http::Method;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};

use super::patches::target;
use crate::{
    api::{Api, JSON_PATCH},
    audit::{Write, count_by_kind},
    outcome::Outcome,
    run::Options,
    stage::{OURS, Stage, path_of, say},
};

const INCIDENT: &str = "eventpulse.io/incident";
/// Incidents at once. More does not make this control plane faster.
const AT_ONCE: usize = 32;
/// How long an incident of the warm-up is watched: its outboxes are cleared by then.
const RECORDED: Duration = Duration::from_secs(18);
/// The first target of the warm-up: its incident has been over for longest when the recording ends.
const TARGET: &str = "t0";

/// One write of the recorded incident.
#[derive(Clone, Debug, PartialEq)]
struct Step {
    verb: String,
    /// `actions`, without a subresource.
    kind: String,
    /// `/status` or nothing.
    subresource: String,
    name: String,
    /// The object as it was after the write; of a Deployment nothing.
    state: Value,
}

/// What an incident writes, in its order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recording(Vec<Step>);

impl Recording {
    /// Each kind of write and how often.
    pub(super) fn text(&self) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for step in &self.0 {
            *counts.entry(format!("{} {}{}", step.verb, step.kind, step.subresource)).or_default() += 1;
        }
        let each =
            counts.iter().map(|(kind, times)| if *times == 1 { kind.clone() } else { format!("{times} × {kind}") });
        format!("{} writes an incident: {}", self.0.len(), each.collect::<Vec<_>>().join(", "))
    }
}

/// Watches every kind of ours from now on, and gives the writes of the incident that had [`TARGET`].
pub(super) fn record(stage: &Stage) -> JoinHandle<anyhow::Result<Recording>> {
    let (api, mut audit) = (stage.api.clone(), stage.audit());
    tokio::spawn(async move {
        let watches = OURS.map(|kind| tokio::spawn(watch(api.clone(), kind)));
        let mut states = HashMap::new();
        for (kind, watch) in OURS.into_iter().zip(watches) {
            for object in watch.await?? {
                let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                states.entry((kind.to_owned(), name)).or_insert_with(Vec::new).push(object);
            }
        }
        select(&states, &audit.read()?)
    })
}

async fn watch(api: Api, kind: &str) -> anyhow::Result<Vec<Value>> {
    let path = path_of(kind);
    let list = api.get(&format!("{path}?limit=1")).await?;
    let version = list["metadata"]["resourceVersion"].as_str().context("a list without its version")?;
    let seconds = RECORDED.as_secs();
    let text = api.text(&format!("{path}?watch=1&resourceVersion={version}&timeoutSeconds={seconds}")).await?;
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(events.filter(|event| event["type"] != "BOOKMARK").map(|mut event| event["object"].take()).collect())
}

/// The writes of one incident out of all, each with the state that it left.
fn select(states: &HashMap<(String, String), Vec<Value>>, writes: &[Write]) -> anyhow::Result<Recording> {
    let label = |object: &Value| object["metadata"]["labels"][INCIDENT].as_str().map(str::to_owned);
    let action = states.iter().find(|((kind, _), states)| {
        kind == "actions" && states.iter().any(|state| state["spec"].to_string().contains(&format!("\"{TARGET}\"")))
    });
    let incident = action.and_then(|(_, states)| states.iter().find_map(label));
    let incident = incident.with_context(|| format!("no action on {TARGET} was seen in the warm-up"))?;
    let of_it = |(_, name): &(String, String), states: &[Value]| {
        *name == incident || states.iter().any(|state| label(state).as_deref() == Some(&incident))
    };
    let mut seen: HashMap<(String, String), usize> = HashMap::new();
    let mut steps = Vec::new();
    let mut writes: Vec<&Write> = writes.iter().filter(|write| write.ours && write.committed()).collect();
    writes.sort_by_key(|write| write.received);
    for write in writes {
        let (kind, subresource) = match write.resource.split_once('/') {
            Some((kind, subresource)) => (kind.to_owned(), format!("/{subresource}")),
            None => (write.resource.clone(), String::new()),
        };
        let key = (kind.clone(), write.name.clone());
        let state = match states.get(&key) {
            Some(states) if of_it(&key, states) => {
                let count = seen.entry(key).or_default();
                let state = states.get(*count).or(states.last()).cloned().unwrap_or_default();
                *count += 1;
                state
            }
            None if kind == "deployments" && write.name == TARGET => Value::Null,
            _ => continue,
        };
        steps.push(Step { verb: write.verb.clone(), kind, subresource, name: write.name.clone(), state });
    }
    anyhow::ensure!(steps.len() >= 4, "only {} writes of the incident {incident} were recorded", steps.len());
    Ok(Recording(steps))
}

/// Makes the recorded writes again and again; gives incidents a second.
pub(super) async fn play(
    options: &Options,
    stage: &Stage,
    recording: &Recording,
    outcome: &mut Outcome,
) -> anyhow::Result<f64> {
    let span = Duration::from_secs(if options.quick { 4 } else { 20 });
    say(&format!(
        "a plain client makes the same writes for {} s, EventPulse stopped ({})",
        span.as_secs(),
        recording.text()
    ));
    let deployments = stage.objects("deployments").await?;
    let targets =
        deployments.iter().filter(|object| object["metadata"]["name"].as_str().and_then(target).is_some()).count()
            as u64;
    anyhow::ensure!(targets > 0, "there is no Deployment to patch");
    let (next, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut audit = stage.audit();
    let begin = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (api, recording) = (stage.api.clone(), recording.clone());
        let (next, done) = (Arc::clone(&next), Arc::clone(&done));
        workers.spawn(async move {
            while begin.elapsed() < span {
                let number = next.fetch_add(1, Ordering::Relaxed);
                incident(&api, &recording, number, targets).await?;
                if begin.elapsed() < span {
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker?.context("the plain client with the same writes")?;
    }
    let incidents = next.load(Ordering::Relaxed) as f64;
    let rate = done.load(Ordering::Relaxed) as f64 / span.as_secs_f64();
    // The replay is checked like everything else: the API server must have seen the same kinds of writes.
    let made: usize =
        count_by_kind(audit.read()?.iter().filter(|write| write.committed() && is_of_replay(write))).values().sum();
    let expected = recording.0.len() as f64 * incidents;
    if (made as f64) < expected * 0.99 {
        outcome
            .invalid
            .push(format!("the plain client was to make {expected} writes, and {made} are in the audit log"));
    }
    Ok(rate)
}

fn is_of_replay(write: &Write) -> bool {
    !write.ours
        && (write.resource == "deployments" && write.verb == "patch"
            || OURS.iter().any(|kind| write.resource.starts_with(kind)))
}

/// All writes of one incident, one after the other, as they depend on each other.
async fn incident(api: &Api, recording: &Recording, number: u64, targets: u64) -> anyhow::Result<()> {
    let mut versions: HashMap<(&str, &str), Value> = HashMap::new();
    for step in &recording.0 {
        if step.kind == "deployments" {
            let patch = json!([
                {"op": "add", "path": "/metadata/annotations/eventpulse.io~1applied-actions", "value": format!("1 {number:026}:1")},
                {"op": "replace", "path": "/spec/replicas", "value": 2 + number / targets % 2},
            ]);
            let path = format!("{}/t{}", path_of("deployments"), number % targets);
            api.call(Method::PATCH, &path, JSON_PATCH, patch.to_string()).await?;
            continue;
        }
        let name = renamed(&step.name, number);
        let key = (step.kind.as_str(), step.name.as_str());
        let object = again(&step.state, &name, versions.get(&key));
        let path = format!("{}/{name}{}", path_of(&step.kind), step.subresource);
        let answer = match step.verb.as_str() {
            "create" => api.create(&path_of(&step.kind), &object).await,
            "delete" => api.call(Method::DELETE, &path, "application/json", "").await,
            _ => api.replace(&path, &object).await,
        };
        versions.insert(key, answer?["metadata"].clone());
    }
    Ok(())
}

/// Names are hashes: the last characters of one become the number.
fn renamed(name: &str, number: u64) -> String {
    let number = format!("{number:07}");
    let kept: String = name.chars().take(name.len().saturating_sub(number.len())).collect();
    format!("{kept}{number}")
}

/// The object under its new name, with the version of the write before.
fn again(state: &Value, name: &str, before: Option<&Value>) -> Value {
    let mut object = state.clone();
    let metadata = &state["metadata"];
    let mut kept = json!({"name": name, "namespace": metadata["namespace"]});
    for field in ["labels", "annotations", "finalizers"] {
        if !metadata[field].is_null() {
            kept[field] = metadata[field].clone();
        }
    }
    if let Some(before) = before {
        kept["resourceVersion"] = before["resourceVersion"].clone();
        kept["uid"] = before["uid"].clone();
    }
    object["metadata"] = kept;
    object
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn write(verb: &str, resource: &str, name: &str, at: i64) -> Write {
        let time = Timestamp::from_second(at).unwrap();
        Write {
            received: time,
            answered: time,
            verb: verb.into(),
            resource: resource.into(),
            name: name.into(),
            code: 200,
            ours: true,
            object: Value::Null,
        }
    }

    fn state(name: &str, incident: &str, target: &str, step: u32) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "shop", "uid": "u", "resourceVersion": "7", "labels": {INCIDENT: incident}},
            "spec": {"target": {"name": target}}, "status": {"step": step},
        })
    }

    #[test]
    fn the_writes_of_one_incident_are_taken_in_their_order_with_what_they_wrote() {
        let states = HashMap::from([
            (("actions".to_owned(), "a0".to_owned()), vec![state("a0", "i0", "t0", 1), state("a0", "i0", "t0", 2)]),
            (("actions".to_owned(), "a1".to_owned()), vec![state("a1", "i1", "t1", 1)]),
            (("incidents".to_owned(), "i0".to_owned()), vec![state("i0", "i0", "", 1)]),
        ]);
        let writes = [
            write("update", "actions/status", "a0", 3),
            write("create", "actions", "a0", 1),
            write("create", "actions", "a1", 1),
            write("create", "incidents", "i0", 2),
            write("patch", "deployments", "t0", 2),
            write("patch", "deployments", "t1", 2),
        ];
        let recording = select(&states, &writes).unwrap();
        let steps: Vec<_> = recording.0.iter().map(|s| (s.kind.as_str(), s.state["status"]["step"].as_u64())).collect();
        assert_eq!(steps, [("actions", Some(1)), ("incidents", Some(1)), ("deployments", None), ("actions", Some(2))]);
        assert_eq!(
            recording.text(),
            "4 writes an incident: create actions, create incidents, patch deployments, update actions/status"
        );
        assert!(select(&states, &writes[..2]).unwrap_err().to_string().contains("only 2 writes"));
        assert!(select(&HashMap::new(), &writes).unwrap_err().to_string().contains("no action on t0"));
    }

    #[test]
    fn an_object_is_written_again_under_another_name_and_the_version_of_its_own() {
        assert_eq!(renamed("cpu-high-abcdefghij", 42), "cpu-high-abc0000042");
        let fresh = again(&state("a0", "i0", "t0", 1), "a9", None);
        assert_eq!(fresh["metadata"], json!({"name": "a9", "namespace": "shop", "labels": {INCIDENT: "i0"}}));
        let before = json!({"resourceVersion": "99", "uid": "new", "name": "a9"});
        let next = again(&state("a0", "i0", "t0", 2), "a9", Some(&before));
        assert_eq!((&next["metadata"]["resourceVersion"], &next["metadata"]["uid"]), (&json!("99"), &json!("new")));
        assert_eq!(next["status"]["step"], 2);
    }
}
