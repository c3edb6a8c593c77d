//! `docs/bounds.md` says what the code says: each number of it is that of the constant, default or flag beside it, and each test that
//! it names is there.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

struct Row {
    what: String,
    bound: String,
    places: Vec<String>,
    tests: Vec<String>,
}

fn in_backticks(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn rows() -> Vec<Row> {
    let text = read("docs/bounds.md");
    let cells = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what |"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [what, bound, places, _, tests] = cells[..] else { panic!("no row of five: {line}") };
        Row { what: what.into(), bound: bound.into(), places: in_backticks(places), tests: in_backticks(tests) }
    };
    cells.map(row).collect()
}

/// The numbers of a cell, in bytes, seconds or pieces: `1 MiB, 5,000 alerts, 10 s`.
fn numbers(cell: &str) -> Vec<f64> {
    let words: Vec<&str> = cell.split_whitespace().collect();
    let mut found = Vec::new();
    for (place, word) in words.iter().enumerate() {
        let digits: String = word.trim_end_matches(',').replace(',', "");
        let Ok(number) = digits.parse::<f64>() else { continue };
        let unit = if word.ends_with(',') { "" } else { words.get(place + 1).copied().unwrap_or("") };
        found.push(number * factor(unit.trim_end_matches(',')));
    }
    found
}

fn factor(unit: &str) -> f64 {
    match unit {
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        "min" => 60.0,
        "h" => 3600.0,
        "days" => 24.0 * 3600.0,
        _ => 1.0,
    }
}

/// What stands in the code: `path:NAME`, or a flag's default.
fn in_code(place: &str) -> f64 {
    if let Some(flag) = place.strip_prefix("--") {
        return default_of(flag);
    }
    let (path, name) = place.split_once(':').unwrap_or_else(|| panic!("{place} is no path:NAME"));
    let text = read(Path::new("src").join(path));
    let is_name = |line: &str, before: &str| line.strip_prefix(before).is_some_and(|rest| rest.starts_with(':'));
    let value = text.lines().find_map(|line| {
        let line = line.trim();
        let constant = line
            .split_once("const ")
            .filter(|(before, rest)| (before.is_empty() || before.starts_with("pub")) && is_name(rest, name));
        let field = || is_name(line, name).then(|| line.split_once(": ")).flatten();
        match constant {
            Some((_, rest)) => Some(rest.split_once(" = ")?.1.trim_end_matches(';').to_owned()),
            // A field of a struct's definition has a type there, and no number.
            None => {
                field().map(|(_, rest)| rest.trim_end_matches(',').to_owned()).filter(|text| evaluate(text).is_some())
            }
        }
    });
    let value = value.unwrap_or_else(|| panic!("{place} is not in the code"));
    evaluate(&value).unwrap_or_else(|| panic!("{place} is {value}, which is no number that this test can read"))
}

fn default_of(flag: &str) -> f64 {
    let text = read("src/config.rs");
    let field = format!("pub {}: ", flag.replace('-', "_"));
    let before = &text[..text.find(&field).unwrap_or_else(|| panic!("there is no flag --{flag}"))];
    let attribute = &before[before.rfind("#[arg(").unwrap()..];
    let (_, given) = attribute.split_once("default_value").unwrap_or_else(|| panic!("--{flag} has no default"));
    let given = given.split_once(" = ").unwrap().1;
    match given.strip_prefix('"') {
        Some(text) => {
            let text = text.split('"').next().unwrap();
            let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap());
            number.parse::<f64>().unwrap() * factor(if unit == "m" { "min" } else { unit })
        }
        None => evaluate(given.split([',', ')']).next().unwrap()).unwrap(),
    }
}

/// An expression of numbers with `*`, `+` and `<<`, or a duration of one, in seconds.
fn evaluate(text: &str) -> Option<f64> {
    let text = text.trim().trim_start_matches("Some(").trim_start_matches("jiff::");
    if let Some((_, call)) = text.split_once("Duration::from_") {
        let (unit, rest) = call.split_once('(')?;
        let factor = match unit {
            "secs" => 1.0,
            "mins" => 60.0,
            "hours" => 3600.0,
            "millis" => 0.001,
            _ => return None,
        };
        return Some(evaluate(rest.trim_end_matches(')'))? * factor);
    }
    let mut sides = text.split("<<").map(sum);
    let first = sides.next()??;
    sides.try_fold(first, |value, by| Some(value * 2_f64.powf(by?)))
}

fn sum(text: &str) -> Option<f64> {
    text.split('+').map(product).sum()
}

fn product(text: &str) -> Option<f64> {
    text.split('*').map(|number| number.trim().replace('_', "").parse::<f64>().ok()).product()
}

#[test]
fn every_number_is_that_of_the_code() {
    let rows = rows();
    assert!(rows.len() > 50, "{} rows were read", rows.len());
    let mut wrong = Vec::new();
    for Row { what, bound, places, .. } in &rows {
        let (told, coded) = (numbers(bound), places.iter().map(|place| in_code(place)).collect::<Vec<_>>());
        if told != coded {
            wrong.push(format!("{what}: docs/bounds.md says {told:?} ({bound}), the code says {coded:?} ({places:?})"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every file of Rust in these folders.
fn files(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    files
}

#[test]
fn every_test_that_is_named_is_there() {
    let code: String = files(&["src", "tests", "dev"]).into_iter().map(|(_, text)| text).collect();
    let tests = rows().into_iter().flat_map(|row| row.tests);
    let missing: BTreeSet<String> = tests.filter(|test| !code.contains(&format!("fn {test}("))).collect();
    assert!(missing.is_empty(), "docs/bounds.md names tests that are not there: {missing:#?}");
}

/// What is named as a bound, and is none of its own. By place, or by name alone for what several files have.
const NO_BOUNDS: [(&str, &str); 33] = [
    ("BACKOFF_MAX", "a pause between two tries: nothing is kept for it"),
    ("TICK_MAX", "how often the clock is asked"),
    ("OUTBOX_LIMIT", "of an object's outbox, as the row says, or fewer"),
    ("actions/breaker.rs:DOUBLED_MAX", "of a pause that the breaker's own time bounds"),
    ("actions/ring.rs:COUNTER_MAX", "a number that takes the same room however large it is"),
    ("actions/run.rs:WAITING_FOR_MAX", "what the schema takes, to which a text is cut"),
    ("api/v1alpha1/duration.rs:MILLIS_MAX", "what GEP-2257 can write"),
    ("bus/embedded/storage.rs:RECORDS", "a name"),
    ("bus/kafka/connection.rs:MAX_MESSAGE_BYTES", "a record's bound with Kafka's own framing"),
    ("bus/kafka/member.rs:BURST", "when offsets are looked after, of a queue that has its bound"),
    ("bus/kafka/offsets.rs:NAMED_MAX", "the width of a line for people"),
    ("cli/dead_letters/render.rs:PROBLEM_MAX", "the width of a table for people"),
    ("cli/explain/render.rs:VALUE_MAX", "the width of a line for people"),
    ("config.rs:RETENTION_MOST", "the range of a flag, which is told when it is refused"),
    ("config.rs:GRACE_MOST", "the range of a flag"),
    ("config.rs:TOPIC_NAME_MAX", "what Kafka takes as a topic's name"),
    ("config/brokers.rs:HOST_MAX", "what DNS takes as a host's name"),
    ("config/shutdown.rs:STAGE_MOST", "the range of a flag"),
    ("config_status/reconcile.rs:TRIES_MAX", "tries at once, before the next round"),
    ("config_status/validate/rule.rs:PARAMETER_LEN_MAX", "that of compile/rule.rs, looked at before it is computed"),
    ("expression/cost.rs:PARAMETER_BYTES", "what the cost of an expression is reckoned with"),
    ("expression/mod.rs:PROBLEM_LEN_MAX", "of an error for people, which a status bounds"),
    ("incidents/fold.rs:SKEW_MAX", "when a time is taken for nonsense"),
    ("incidents/said.rs:AHEAD_MAX", "when a time is taken for nonsense"),
    ("ingest/relay.rs:BATCH", "how much of the outbox goes at once"),
    ("rules/decide/alerts.rs:CLOCKS_DIFFER_MAX", "when a time is no evidence"),
    ("rules/decide/alerts.rs:COUNT_MAX", "a number that takes the same room however large it is"),
    ("runtime/group_commit.rs:HEAD_BYTES", "the head of SQLite's file"),
    ("runtime/kube_api.rs:FOREIGN_TEXT_MAX", "of an error for people, which a status bounds"),
    ("runtime/store/upkeep.rs:SWEEP_PUBLISH_BATCH", "how much of a sweep is done at once"),
    ("runtime/store/upkeep.rs:TIDY_MAX", "how much of a sweep is done at once"),
    ("runtime/watch_cache.rs:EARLY_ENDS_MAX", "when a watch is taken for none"),
    ("runtime/watch_cache.rs:SILENCE_MAX", "when a watch is taken for broken"),
];

/// Whether a constant's name says that something ends there.
fn names_a_bound(name: &str) -> bool {
    let ends =
        ["MAX", "BYTES", "LIMIT", "ONCE", "MOST", "QUEUE", "BATCH", "TOGETHER", "CONCURRENCY", "RECORDS", "BURST"];
    name.starts_with("MAX_") || name.split('_').next_back().is_some_and(|last| ends.contains(&last))
}

/// The constants of a file of `src/`, but those of its tests.
fn constants(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines().filter_map(|line| {
        let (before, rest) = line.trim().split_once("const ")?;
        let (name, value) = rest.split_once(':')?;
        let is_one = (before.is_empty() || before.starts_with("pub")) && value.contains('=');
        is_one.then_some(name)
    })
}

#[test]
fn whatever_is_named_as_a_bound_is_in_the_table_or_is_said_to_be_none() {
    let places: BTreeSet<String> = rows().into_iter().flat_map(|row| row.places).collect();
    let (mut missing, mut used, mut found) = (Vec::new(), BTreeSet::new(), 0);
    for (path, text) in files(&["src"]) {
        let path = path.strip_prefix(root().join("src")).unwrap().to_str().unwrap().to_owned();
        if path.contains("tests") {
            continue;
        }
        let whole = ["events/bounds.rs", "ingest/bounds.rs"].contains(&&*path);
        for name in constants(&text).filter(|name| whole || names_a_bound(name)) {
            found += 1;
            let place = format!("{path}:{name}");
            match NO_BOUNDS.iter().find(|(known, _)| *known == name || *known == place) {
                Some((known, _)) => drop(used.insert(*known)),
                None if places.contains(&place) => {}
                None => missing.push(place),
            }
        }
    }
    assert!(found > 120, "{found} were read");
    assert!(missing.is_empty(), "not in docs/bounds.md: {missing:#?}");
    let gone: Vec<&str> = NO_BOUNDS.iter().map(|(known, _)| *known).filter(|known| !used.contains(known)).collect();
    assert!(gone.is_empty(), "said to be no bounds, and not there: {gone:#?}");
}

#[test]
fn a_number_is_read_as_it_is_meant() {
    assert_eq!(numbers("1 MiB, 5,000 alerts, 10 s and 2 h"), [1_048_576.0, 5_000.0, 10.0, 7_200.0]);
    assert_eq!(evaluate("2 << 20"), Some(2_097_152.0));
    assert_eq!(evaluate("SignedDuration::from_hours(24 * 7)"), Some(604_800.0));
    assert_eq!(evaluate("Some(Duration::from_millis(1_500))"), Some(1.5));
    assert_eq!((evaluate("usize"), evaluate("MAX_RECORD_BYTES")), (None, None));
}
