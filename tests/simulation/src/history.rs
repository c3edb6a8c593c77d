//! One history: set up, let it go wrong, let it come to rest, tell everything again, stop, judge.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use eventpulse::config::Service;
use eventpulse_fake_api::Commit;
use eventpulse_oracle::{ACTION_ENDS, NOTIFICATION_ENDS, Observed, Outcomes, Write, judge};
use jiff::Timestamp;
use serde_json::Value;
use tokio::{
    runtime::{Builder, RngSeed},
    time::{Instant, sleep},
};

use crate::{
    alerts,
    chance::Chance,
    chaos, cluster,
    coverage::Fault,
    entropy,
    fleet::Fleet,
    ports::log::append,
    scenario::{Scenario, collection},
    world::World,
};

/// Nothing may happen for so long before a history is at rest.
const QUIET: Duration = Duration::from_secs(35);
/// How long it may take to come to rest.
const REST_MAX: Duration = Duration::from_secs(3600);
/// How long replicas may take to stop.
const STOP_MAX: Duration = Duration::from_secs(40);

/// What became of a history.
pub(crate) struct Outcome {
    pub seed: u64,
    /// Of everything that happened.
    pub hash: u64,
    /// What must not be.
    pub violations: Vec<String>,
    /// What happened; empty unless it was asked for.
    pub lines: Vec<String>,
    /// The faults that were reached.
    pub faults: BTreeMap<Fault, u64>,
    /// What became of everything.
    pub outcomes: Outcomes,
    /// How long it took by its own time.
    pub virtual_time: Duration,
    /// How many writes EventPulse made.
    pub writes: usize,
}

/// Runs it on this thread, which should be one of its own: what it draws on is seeded for good. `keep`: the lines too.
pub(crate) fn run(seed: u64, keep: bool) -> Outcome {
    entropy::seed(seed);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()))
        .build();
    match runtime {
        Ok(runtime) => {
            let (mut outcome, world) = runtime.block_on(history(seed, keep));
            drop(runtime);
            // Twenty thousand histories are to find room in memory, and a service that is stopped is to let go of everything.
            if world.strong_count() > 0 {
                outcome.violations.push(format!("{} that were stopped hold on to everything", world.strong_count()));
            }
            outcome
        }
        Err(error) => Outcome {
            seed,
            hash: 0,
            violations: vec![format!("the runtime did not start: {error}")],
            lines: Vec::new(),
            faults: BTreeMap::new(),
            outcomes: Outcomes::new(),
            virtual_time: Duration::ZERO,
            writes: 0,
        },
    }
}

async fn history(seed: u64, keep: bool) -> (Outcome, Weak<World>) {
    let began = Instant::now();
    let chance = Chance::new(seed);
    let partitions = u32::try_from(chance.between(1, 4)).unwrap_or(1);
    let world = World::new(chance, partitions, keep);
    let scenario = Scenario::new(&world.chance);
    scenario.apply(&world.api);
    let controller = tokio::spawn(cluster::control(Arc::clone(&world)));
    // Rules take only what was accepted after they were created, which the API server says in whole seconds.
    sleep(Duration::from_secs(2)).await;
    let fleet = Fleet::start(&world, replicas(&world));
    let keeper = tokio::spawn(Arc::clone(&fleet).keep());
    let plan = chaos::Plan::new(&world);
    plan.begin(&world);
    let raging = tokio::spawn(chaos::rage(Arc::clone(&world), Arc::clone(&fleet), plan));
    let span = world.chance.time(Duration::from_secs(10), Duration::from_secs(60));
    alerts::send(Arc::clone(&world), Arc::clone(&fleet), scenario.clone(), span).await;
    sleep(world.chance.time(Duration::ZERO, span)).await;
    raging.abort();
    // Its last step may still hold something back.
    let _ = raging.await;
    chaos::calm(&world, &fleet);
    let mut violations = Vec::new();
    let mut at_rest = rest(&world, &mut violations).await;
    let mut repeated_at = None;
    if at_rest && !plan.forgets {
        repeated_at = Some(world.time.now());
        repeat(&world).await;
        at_rest = rest(&world, &mut violations).await;
    }
    keeper.abort();
    for name in fleet.stop(STOP_MAX).await {
        violations.push(format!("{name} did not stop within {} s", STOP_MAX.as_secs()));
    }
    controller.abort();
    violations.extend(fleet.failures());
    // An incident whose group somebody deleted may have nobody who hears of its end.
    let at_rest = at_rest && !plan.forgets;
    let observed = observe(&world, &scenario, &plan, at_rest, repeated_at);
    violations.extend(judge(&observed).iter().map(ToString::to_string));
    let writes = observed.writes.iter().filter(|write| write.ours).count();
    let (hash, lines) = world.timeline.end();
    let faults = world.coverage.counts();
    let (outcomes, virtual_time) = (observed.outcomes(), began.elapsed());
    let outcome = Outcome { seed, hash, violations, lines, faults, outcomes, virtual_time, writes };
    (outcome, Arc::downgrade(&world))
}

/// All in one process, several of them, or each service apart.
fn replicas(world: &World) -> Vec<Vec<Service>> {
    let all = Service::ALL.to_vec();
    match world.chance.below(4) {
        0 => vec![all],
        1 => vec![all.clone(), all],
        2 => vec![all.clone(), all.clone(), all],
        _ => {
            let (front, back) = all.split_at(2);
            vec![front.to_vec(), back.to_vec(), back.to_vec(), front.to_vec()]
        }
    }
}

/// Until nothing has happened for a while.
async fn rest(world: &World, violations: &mut Vec<String>) -> bool {
    let until = Instant::now() + REST_MAX;
    let mut since = Instant::now();
    let mut happened = world.timeline.happened();
    while Instant::now() < until {
        if since.elapsed() >= QUIET && !is_waiting(world) {
            return true;
        }
        sleep(Duration::from_secs(5)).await;
        let now = world.timeline.happened();
        if std::mem::replace(&mut happened, now) != now {
            since = Instant::now();
        }
    }
    violations.push(format!("it did not come to rest within {} s", REST_MAX.as_secs()));
    false
}

/// Whether something has a time at which it goes on: a message that waits for its next try, an action that waits for its turn.
fn is_waiting(world: &World) -> bool {
    let waits = |plural: &str, path: &str, ends: &[&str]| {
        let objects = world.api.objects(&collection(plural));
        objects.iter().any(|object| {
            let phase = object.pointer(path).and_then(Value::as_str).unwrap_or_default();
            !ends.contains(&phase)
        })
    };
    waits("notifications", "/spec/phase", &NOTIFICATION_ENDS) || waits("actions", "/status/phase", &ACTION_ENDS)
}

/// Everything on the log comes once more, in any order.
async fn repeat(world: &World) {
    world.timeline.note("broker", "gives everything once more");
    let mut records = chaos::everything(&world.log);
    world.chance.shuffle(&mut records);
    if let Err(error) = append(world, "broker", records).await {
        world.timeline.note("broker", format_args!("does not take it: {error}"));
    }
}

fn observe(
    world: &World,
    scenario: &Scenario,
    plan: &chaos::Plan,
    at_rest: bool,
    repeated_at: Option<Timestamp>,
) -> Observed {
    Observed {
        accepted: world.accepted().clone(),
        // What is no alert becomes a dead letter in ingest, whose outbox is not in the simulator.
        broken: Vec::new(),
        writes: world.api.commits().into_iter().map(write).collect(),
        records: world.published().clone(),
        messages: world.messages().clone(),
        repeated_at,
        rules_of: Some(scenario.rules_of.clone()),
        asks_of: scenario.asks_of(),
        possible: plan.possible(),
        clocks_agree: !plan.clocks,
        at_rest,
    }
}

fn write(commit: Commit) -> Write {
    let object = commit.after.as_ref().or(commit.before.as_ref());
    let text = |path: &str| {
        object.and_then(|object| object.pointer(path)).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let object = (text("/metadata/namespace"), text("/metadata/name"));
    Write {
        at: commit.at,
        // Replicas are called r1, r2 and so on.
        ours: commit.caller.starts_with('r'),
        account: commit.user,
        kind: plural(&commit.path),
        object,
        before: commit.before,
        after: commit.after,
    }
}

/// The collection that a path is of.
fn plural(path: &str) -> String {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let skipped = match parts.next() {
        Some("apis") => 2,
        _ => 1,
    };
    let rest: Vec<&str> = parts.skip(skipped).collect();
    let plural = match rest.as_slice() {
        ["namespaces", _, plural, ..] => plural,
        [plural, ..] => plural,
        [] => "",
    };
    (*plural).to_owned()
}
