//! The architecture, held: who may import whom, which files are pure, who may start a task.
//! It reads the source as text, without comments and without the parts that are compiled for tests only.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Services never import one another (design, section 1).
const SERVICES: [&str; 6] = ["ingest", "rules", "actions", "incidents", "notify", "config_status"];

/// What each shared room may import beside itself. A service may import all of them.
const SHARED: [(&str, &[&str]); 10] = [
    ("api", &["events"]),
    ("events", &["api", "bus", "mutants"]),
    ("bus", &["events", "mutants", "runtime"]),
    ("runtime", &["api", "bus", "crash_points", "events", "mutants"]),
    ("mutants", &[]),
    ("crash_points", &["events"]),
    ("expression", &["events", "matcher"]),
    ("matcher", &[]),
    ("template", &[]),
    ("compile", &["api", "events", "expression", "matcher"]),
];

/// Where things are put together: may import everything.
const TOP: [&str; 6] = ["main.rs", "lib.rs", "cli", "config.rs", "config", "services.rs"];

/// Files and folders that decide and compute, and do nothing else. Each must exist.
const PURE: [&str; 44] = [
    "actions/breaker.rs",
    "actions/judge.rs",
    "actions/keepers.rs",
    "actions/plan.rs",
    "actions/resolve.rs",
    "actions/ring.rs",
    "api",
    "bus/partition.rs",
    "cli/dead_letters/origin.rs",
    "cli/dead_letters/render.rs",
    "cli/dead_letters/retry.rs",
    "cli/ledger/account.rs",
    "cli/ledger/render.rs",
    "cli/ledger/report.rs",
    "cli/ledger/search.rs",
    "cli/replay/plan.rs",
    "cli/replay/render.rs",
    "compile",
    "config_status/reason.rs",
    "config_status/status.rs",
    "config_status/validate",
    "events",
    "expression",
    "incidents/evolve.rs",
    "incidents/facts.rs",
    "incidents/fold.rs",
    "incidents/retention.rs",
    "incidents/said.rs",
    "incidents/text.rs",
    "matcher",
    "notify/deliver.rs",
    "notify/due.rs",
    "notify/record.rs",
    "notify/render.rs",
    "notify/retention.rs",
    "rules/backlog.rs",
    "rules/decide",
    "rules/input.rs",
    "rules/matching.rs",
    "rules/routing.rs",
    "rules/storms.rs",
    "rules/timers.rs",
    "runtime/retry_budget.rs",
    "template",
];

/// What a pure file knows nothing of, and why.
const IMPURE: [(&str, &str); 22] = [
    ("tokio", "the async runtime"),
    ("futures", "the async runtime"),
    ("async fn", "the async runtime"),
    ("rdkafka", "Kafka"),
    ("reqwest", "HTTP"),
    ("axum", "HTTP"),
    ("hyper", "HTTP"),
    ("rusqlite", "the disk"),
    ("std::fs", "the disk"),
    ("std::net", "the network"),
    ("std::process", "processes"),
    ("std::env", "the environment"),
    ("kube::Client", "the Kubernetes client"),
    ("kube::Api", "the Kubernetes client"),
    ("kube::api", "the Kubernetes client"),
    ("kube::client", "the Kubernetes client"),
    ("kube::runtime", "the Kubernetes client"),
    ("Timestamp::now", "the clock"),
    ("SystemTime", "the clock"),
    ("Instant", "the clock"),
    ("rand::", "the random source"),
    ("crate::runtime", "the runtime"),
];

/// How a task or a thread is started. Only these rooms may (style: only the supervisor spawns): the runtime, whose supervisor knows
/// every task, and the log, whose tasks are guarded and tell it when they end.
const SPAWNS: [&str; 6] =
    ["tokio::spawn", "task::spawn", "spawn_blocking", "thread::spawn", "thread::Builder", "JoinSet"];
const MAY_SPAWN: [&str; 2] = ["runtime", "bus"];

/// A case of the bus's contract that is skipped has not held: every adapter runs them all, and none can be switched off.
#[test]
fn the_bus_contract_runs_whole_on_every_adapter() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let read = |file: &str| fs::read_to_string(tests.join(file)).unwrap();
    for (file, line) in [
        ("bus_contract.rs", "\nbus_contract!(memory, Memory);\n"),
        ("bus_contract.rs", "\nbus_contract!(embedded, Embedded);\n"),
        ("bus_contract_kafka.rs", "\nbus_contract!(kafka, Kafka);\n"),
    ] {
        assert!(read(file).contains(line), "tests/{file}: there is no line {line:?}");
    }
    for file in ["bus_contract.rs", "bus_contract_kafka.rs", "contract/mod.rs", "contract/cases.rs"] {
        let text = read(file);
        for switch in ["ignore]", "ignore =", "cfg(", "cfg_attr("] {
            assert!(!text.contains(switch), "tests/{file}: {switch} would skip a case");
        }
    }
    let manifest = fs::read_to_string(tests.join("../Cargo.toml")).unwrap();
    assert!(!manifest.contains("[[test]]") && !manifest.contains("autotests"), "a test file could be left out there");
}

/// The same of the API server's contract: every case is run on the one in memory and on the real one.
#[test]
fn the_contract_of_the_api_server_runs_whole_on_both() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/fake_api/tests");
    let mut files = Vec::new();
    collect(&tests.join("contract"), &mut files);
    assert!(files.len() >= 12, "only {} files were found", files.len());
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        for switch in ["ignore]", "ignore =", "cfg(", "cfg_attr("] {
            assert!(!text.contains(switch), "{}: {switch} would skip a case", file.display());
        }
    }
    let main = fs::read_to_string(tests.join("contract/main.rs")).unwrap();
    for part in
        ["let (fake, real) = (on_the_fake(), on_the_real_one());", "run_all(&Server::Real(", "run_all(&Server::Fake("]
    {
        assert!(main.contains(part), "dev/fake_api/tests/contract/main.rs: there is no {part:?}");
    }
    let manifest = fs::read_to_string(tests.join("../Cargo.toml")).unwrap();
    assert!(!manifest.contains("[[test]]") && !manifest.contains("autotests"), "a test file could be left out there");
}

/// How something outside of the process is changed, in the services and the runtime.
const EFFECTS: [&str; 8] = [
    "api.create(",
    ".replace_status(",
    ".replace(&name.name",
    ".patch_status(",
    ".patch(&slot",
    ".delete(&name.name",
    "bus.publish(",
    "channel.send(",
];
/// Files whose effects have no point beside them, and why.
const WITHOUT_POINTS: [(&str, &str); 3] = [
    ("config_status/reconcile.rs", "nothing depends on a condition"),
    ("ingest/intake.rs", "its caller, ingest/http.rs, has them: AlertsTaken and AlertsKept"),
    ("runtime/kube_events.rs", "best effort: nothing depends on a Kubernetes Event"),
];
/// How many lines before an effect, and after it, its points stand.
const NEAR: usize = 16;

/// Nothing is promised of an effect at which no test has killed the process.
#[test]
fn every_effect_stands_between_two_crash_points() {
    let (mut found, mut bare) = (0, Vec::new());
    for source in sources() {
        let is_without = WITHOUT_POINTS.iter().any(|(path, _)| *path == source.path);
        if is_without || !(SERVICES.contains(&source.room()) || source.room() == "runtime") {
            continue;
        }
        let lines: Vec<&str> = source.shipped().lines().collect();
        let has_point = |lines: &[&str]| lines.iter().any(|line| line.contains("reached(Point::"));
        for (at, line) in lines.iter().enumerate() {
            if !EFFECTS.iter().any(|effect| line.contains(effect)) {
                continue;
            }
            found += 1;
            let before = &lines[at.saturating_sub(NEAR)..at];
            let after = &lines[at + 1..(at + 1 + NEAR).min(lines.len())];
            if !has_point(before) || !has_point(after) {
                bare.push(format!("src/{}: {}", source.path, line.trim()));
            }
        }
    }
    assert!(found >= 9, "only {found} effects were found");
    assert!(bare.is_empty(), "no crash point before, or none after (src/crash_points): {bare:#?}");
}

struct Source {
    /// Below `src`, like `rules/decide/mod.rs`.
    path: String,
    /// Without comments.
    text: String,
    /// Whether it is compiled for tests only.
    test: bool,
}

impl Source {
    fn room(&self) -> &str {
        self.path.split('/').next().unwrap()
    }

    /// Without what is compiled for tests only.
    fn shipped(&self) -> &str {
        if self.test { "" } else { self.text.split("#[cfg(test)]\nmod tests {").next().unwrap() }
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 40, "only {} files were found", files.len());
    files
        .into_iter()
        .map(|file| {
            let path = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&file).unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let test = path.starts_with("testing/") || path.contains("/tests/") || path.ends_with("tests.rs");
            Source { text: code.collect::<Vec<_>>().join("\n"), path, test }
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The rooms that a text names, as `crate::rules::…` or in `crate::{rules::…, bus}`.
fn imports(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => drop(found.insert(first_name(rest))),
            Some(inner) => {
                let (mut depth, mut begin) = (0, 0);
                for (end, c) in inner.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth > 0 => depth -= 1,
                        ',' | '}' if depth == 0 => {
                            found.insert(first_name(inner[begin..end].trim_start()));
                            begin = end + 1;
                            if c == '}' {
                                break;
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found.remove("");
    found
}

fn first_name(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

fn allowed(room: &str) -> Option<BTreeSet<&str>> {
    let shared = SHARED.iter().map(|(name, _)| *name);
    if SERVICES.contains(&room) {
        return Some(shared.chain([room]).collect());
    }
    let (_, others) = SHARED.iter().find(|(name, _)| *name == room)?;
    Some(others.iter().copied().chain([room]).collect())
}

#[test]
fn a_service_never_imports_another_and_a_shared_room_no_service() {
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| !TOP.contains(&source.room()) && source.room() != "testing") {
        let allowed = allowed(source.room())
            .unwrap_or_else(|| panic!("src/{}: the room {} is not known here", source.path, source.room()));
        let text = source.shipped();
        for room in imports(text).iter().filter(|room| !allowed.contains(room.as_str())) {
            broken.push(format!("src/{} imports crate::{room}", source.path));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn pure_files_know_no_clock_no_random_source_and_no_outside() {
    let sources = sources();
    let mut broken = Vec::new();
    for pure in PURE {
        let of = |source: &&Source| source.path == pure || source.path.starts_with(&format!("{pure}/"));
        assert!(
            sources.iter().any(|source| of(&source)),
            "src/{pure} is not there: the list of pure files has to follow"
        );
        for source in sources.iter().filter(of) {
            for (word, what) in IMPURE.iter().filter(|(word, _)| source.shipped().contains(word)) {
                broken.push(format!("src/{} knows {what}: {word}", source.path));
            }
            if imports(source.shipped()).contains("runtime") {
                broken.push(format!("src/{} knows the runtime", source.path));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Services say what they have done as values of ours; what carries them elsewhere can be replaced in one room.
#[test]
fn only_the_room_of_telemetry_knows_opentelemetry() {
    let knows = |source: &&Source| {
        source.shipped().contains("opentelemetry") || source.shipped().contains("tracing_subscriber")
    };
    let known = sources();
    let known: Vec<&str> = known.iter().filter(knows).map(|source| source.path.as_str()).collect();
    let elsewhere = |path: &&&str| !path.starts_with("runtime/telemetry/");
    assert!(known.contains(&"runtime/telemetry/span.rs"), "{known:?}");
    assert_eq!(known.iter().filter(elsewhere).collect::<Vec<_>>(), Vec::<&&str>::new());
}

#[test]
fn only_the_supervisor_and_the_bus_start_tasks() {
    let mut broken = BTreeMap::new();
    for source in sources().iter().filter(|source| !MAY_SPAWN.contains(&source.room())) {
        for word in SPAWNS.iter().filter(|word| source.shipped().contains(**word)) {
            broken.insert(format!("src/{}", source.path), *word);
        }
    }
    assert!(broken.is_empty(), "hand the future to Context::tasks instead: {broken:#?}");
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::rules::decide;\nuse crate::{api::v1alpha1::{Rule, x}, bus, events};\nfn f() { crate::notify::run() }";
    assert_eq!(imports(text).into_iter().collect::<Vec<_>>(), ["api", "bus", "events", "notify", "rules"]);
}

/// What judges the product must not know its code, nor what its tests are made of: it would believe what they believe.
#[test]
fn the_oracle_depends_on_nothing_of_ours() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lock = fs::read_to_string(root.join("Cargo.lock")).unwrap();
    let mut needs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let name = package.split("name = \"").nth(1).unwrap().split('"').next().unwrap();
        let listed = package.split_once("dependencies = [").map_or("", |(_, rest)| rest.split(']').next().unwrap());
        let of = listed.split('"').skip(1).step_by(2).map(|entry| entry.split(' ').next().unwrap());
        needs.entry(name).or_default().extend(of);
    }
    let (mut seen, mut waiting) = (BTreeSet::new(), vec!["eventpulse-oracle"]);
    while let Some(name) = waiting.pop() {
        if seen.insert(name) {
            waiting.extend(needs.get(name).unwrap_or_else(|| panic!("{name} is not in Cargo.lock")));
        }
    }
    let ours: Vec<&&str> = seen.iter().filter(|name| name.starts_with("eventpulse")).collect();
    assert_eq!(ours, [&"eventpulse-oracle"]);
    assert!(seen.contains("serde_json"), "{seen:?}");
}

/// Sabotages and crash points are in tests and in the simulator, and in no program that is shipped.
#[test]
fn no_release_has_mutants_or_crash_points() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap();
    let manifest = read("Cargo.toml");
    let features = manifest.split("[features]").nth(1).unwrap().split("\n[").next().unwrap();
    let has = |line: &str| features.contains(line);
    assert!(has("mutants = []") && has("crash-points = [\"rustix/process\"]") && !has("default"), "{features}");
    let release =
        read("Makefile").lines().skip_while(|line| !line.starts_with("RELEASE =")).take(2).collect::<String>();
    assert!(release.ends_with("build --release --locked --bin eventpulse"), "{release}");
    for crate_of_programs in
        ["dev/demo/Cargo.toml", "dev/e2e/Cargo.toml", "dev/bench/Cargo.toml", "dev/bench/probe/Cargo.toml"]
    {
        let manifest = read(crate_of_programs);
        assert!(!manifest.contains("mutants") && !manifest.contains("crash-points"), "{crate_of_programs}");
    }
}
