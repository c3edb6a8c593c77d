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

#[test]
fn every_test_that_is_named_is_there() {
    let mut code = String::new();
    let mut folders: Vec<PathBuf> = ["src", "tests", "dev"].map(|folder| root().join(folder)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                code.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let tests = rows().into_iter().flat_map(|row| row.tests);
    let missing: BTreeSet<String> = tests.filter(|test| !code.contains(&format!("fn {test}("))).collect();
    assert!(missing.is_empty(), "docs/bounds.md names tests that are not there: {missing:#?}");
}

/// The rooms that hold nothing but bounds are in the table whole.
#[test]
fn every_bound_of_an_alert_and_of_a_request_is_in_the_table() {
    let places: BTreeSet<String> = rows().into_iter().flat_map(|row| row.places).collect();
    for file in ["events/bounds.rs", "ingest/bounds.rs"] {
        for line in read(Path::new("src").join(file)).lines() {
            let Some((name, _)) = line.strip_prefix("pub const ").and_then(|rest| rest.split_once(':')) else {
                continue;
            };
            assert!(places.contains(&format!("{file}:{name}")), "{file}: {name} is not in docs/bounds.md");
        }
    }
}

#[test]
fn a_number_is_read_as_it_is_meant() {
    assert_eq!(numbers("1 MiB, 5,000 alerts, 10 s and 2 h"), [1_048_576.0, 5_000.0, 10.0, 7_200.0]);
    assert_eq!(evaluate("2 << 20"), Some(2_097_152.0));
    assert_eq!(evaluate("SignedDuration::from_hours(24 * 7)"), Some(604_800.0));
    assert_eq!(evaluate("Some(Duration::from_millis(1_500))"), Some(1.5));
    assert_eq!((evaluate("usize"), evaluate("MAX_RECORD_BYTES")), (None, None));
}
