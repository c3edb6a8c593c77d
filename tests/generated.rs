//! Generated files are what the types say. `make generate` repairs them; this test with `GENERATE=1` also removes what is left over.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use eventpulse::cli::install;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn found(folder: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    let files = entries.map(|entry| entry.unwrap()).filter(|entry| entry.path().is_file());
    files.map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())).collect()
}

/// Compares a folder with what should be in it, or writes it when `GENERATE` is set.
fn check(name: &str, wanted: &BTreeMap<String, String>) {
    let folder = folder(name);
    let found = found(&folder);
    if std::env::var_os("GENERATE").is_some() {
        fs::create_dir_all(&folder).unwrap();
        found
            .keys()
            .filter(|file| !wanted.contains_key(*file))
            .for_each(|file| fs::remove_file(folder.join(file)).unwrap());
        wanted.iter().for_each(|(file, text)| fs::write(folder.join(file), text).unwrap());
        return;
    }
    let differing: BTreeSet<String> = wanted
        .keys()
        .chain(found.keys())
        .filter(|file| wanted.get(*file) != found.get(*file))
        .map(|file| format!("{name}/{file}"))
        .collect();
    assert!(differing.is_empty(), "{differing:?} differ from what the types say; run `make generate`");
}

#[test]
fn the_definitions_of_the_custom_resources_are_what_the_types_say() {
    let documents = eventpulse::api::crds::documents().unwrap();
    assert_eq!(documents.len(), 7);
    check("crds", &documents.into_iter().collect());
}

#[test]
fn the_generated_parts_of_charts_and_kustomization_are_what_their_sources_say() {
    let read = |path: &str| fs::read_to_string(folder(path)).unwrap();
    let crds = eventpulse::api::crds::documents().unwrap();
    let made = install::documents(&crds, &read(install::RBAC), &read(install::POLICY)).unwrap();
    assert_eq!(made.len(), crds.len() + 5);
    let generate = std::env::var_os("GENERATE").is_some();
    for (path, text) in &made {
        if generate {
            fs::write(folder(&path.to_string_lossy()), text).unwrap();
        }
        let found = fs::read_to_string(folder(&path.to_string_lossy())).unwrap_or_default();
        assert!(found == *text, "{} differs from its source; run `make generate`", path.display());
    }
    let templates: BTreeSet<PathBuf> =
        found(&folder("charts/eventpulse-crds/templates")).into_keys().map(PathBuf::from).collect();
    let wanted: BTreeSet<PathBuf> = crds.into_iter().map(|(name, _)| PathBuf::from(name)).collect();
    assert_eq!(templates, wanted, "a template that no kind has any more is to be removed");
}

#[test]
fn the_schemas_and_examples_of_the_events_are_what_the_types_say() {
    let documents = eventpulse::events::schemas::documents().unwrap();
    assert!(documents.len() >= 25);
    check("docs/events", &documents.into_iter().collect());
}

#[test]
fn the_list_of_metrics_is_what_the_catalogue_says() {
    let wanted = eventpulse::runtime::metrics::describe::document();
    let path = folder("docs").join("metrics.md");
    if std::env::var_os("GENERATE").is_some() {
        return fs::write(path, wanted).unwrap();
    }
    assert!(fs::read_to_string(path).unwrap_or_default() == wanted, "docs/metrics.md differs; run `make generate`");
}

#[test]
fn the_list_of_reasons_is_what_the_types_say() {
    let wanted = eventpulse::cli::reasons::document();
    let path = folder("docs").join("reasons.md");
    if std::env::var_os("GENERATE").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    assert!(fs::read_to_string(path).unwrap_or_default() == wanted, "docs/reasons.md differs; run `make generate`");
}

/// An alert on a metric that nobody tells never comes.
#[test]
fn the_alerts_on_ourselves_name_metrics_that_there_are() {
    let told: BTreeSet<String> = eventpulse::runtime::metrics::catalogue::all()
        .into_iter()
        .flat_map(|(_, entries)| entries)
        .flat_map(|entry| match entry.kind.name() {
            "counter" => vec![format!("{}_total", entry.name)],
            "histogram" => ["bucket", "count", "sum"].map(|part| format!("{}_{part}", entry.name)).to_vec(),
            _ => vec![entry.name.to_owned()],
        })
        .collect();
    let rules = fs::read_to_string(folder("config/prometheus").join("eventpulse.rules.yaml")).unwrap();
    // Descriptions may name a metric without its ending.
    let expressions = rules
        .lines()
        .filter(|line| !line.contains("description") && !line.contains("        eventpulse_alert_to_rules"));
    let text = expressions.collect::<Vec<_>>().join("\n");
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named: BTreeSet<&str> = words.filter(|word| word.starts_with("eventpulse_")).collect();
    assert!(named.len() > 15, "{named:?}");
    let unknown: Vec<_> = named.into_iter().filter(|name| !told.contains(*name)).collect();
    assert!(unknown.is_empty(), "{unknown:?} are told by nobody");
}

/// What is counted anywhere is in the catalogue, and so in the docs: only it names metrics.
#[test]
fn no_metric_is_named_outside_the_catalogue() {
    let mut folders = vec![folder("src")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.to_string_lossy().into_owned();
            if name.ends_with("metrics/catalogue.rs") || name.contains("test") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            if code.contains("\"eventpulse_") {
                found.push(name);
            }
        }
    }
    assert!(found.is_empty(), "{found:?} name metrics");
}
