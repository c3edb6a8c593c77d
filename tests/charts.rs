//! The chart's values, its schema and its README tell of the same; the API server and Helm judge the rest, end to end.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::Path};

use eventpulse::{bus::EmbeddedConfig, ingest::IngestConfig};
use serde_json::{Value, json};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/eventpulse").join(path)).unwrap()
}

/// Objects that are the user's to fill, or Kubernetes' own: told of as a whole.
const WHOLE: [&str; 5] = ["resources", "livenessProbe", "readinessProbe", "podSecurityContext", "securityContext"];

/// Every value by its path, like `image.tag`.
fn leaves(prefix: &str, value: &Value, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() && !WHOLE.contains(&prefix) => {
            for (name, value) in fields {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                leaves(&path, value, found);
            }
        }
        _ => drop(found.insert(prefix.to_owned(), value.clone())),
    }
}

fn values() -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    leaves("", &serde_norway::from_str(&read("values.yaml")).unwrap(), &mut found);
    found
}

#[test]
fn the_readme_tells_of_every_value_with_its_default_and_of_no_other() {
    let readme = read("README.md");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let told: BTreeMap<&str, &str> =
        rows.map(|(name, rest)| (name, rest.split(" | ").next().unwrap().trim_matches('`'))).collect();
    let values = values();
    for (path, default) in &values {
        let row = told.get(path.as_str()).unwrap_or_else(|| panic!("README.md has no row for {path}"));
        let default = default.as_str().filter(|text| !text.is_empty()).map_or(default.to_string(), str::to_owned);
        if !["podSecurityContext", "securityContext"].contains(&path.as_str()) {
            assert_eq!(*row, default, "README.md, the default of {path}");
        }
    }
    let strangers: Vec<&&str> =
        told.keys().filter(|name| !values.contains_key(**name) && !name.starts_with("kafka.brokers")).collect();
    assert!(strangers.is_empty(), "README.md has rows for {strangers:?}, which values.yaml has not");
}

#[test]
fn the_schema_knows_every_value_takes_the_defaults_and_refuses_strangers_at_every_level() {
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let mut told = BTreeMap::new();
    properties("", &schema, &mut told);
    for path in values().keys() {
        assert!(told.contains_key(path), "values.schema.json has no {path}");
    }
    let validator = jsonschema::validator_for(&schema).unwrap();
    let defaults: Value = serde_norway::from_str(&read("values.yaml")).unwrap();
    let problems: Vec<String> = validator.iter_errors(&defaults).map(|error| error.to_string()).collect();
    assert!(problems.is_empty(), "{problems:?}");
    for (path, object) in told.iter().filter(|(_, one)| one.get("properties").is_some()) {
        assert_eq!(object["additionalProperties"], false, "a misspelt value of {path:?} would be taken in silence");
    }
}

#[test]
fn values_that_kubernetes_or_a_registry_would_refuse_are_refused_by_the_schema() {
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for (path, value, is_taken) in [
        ("/image/repository", json!("registry.example.com:5000/team/event-pulse"), true),
        ("/image/repository", json!("localhost/eventpulse"), true),
        ("/image/repository", json!("eventpulse"), true),
        ("/image/repository", json!("eventpulse:1.0"), false),
        ("/image/repository", json!("registry.example.com:5000/eventpulse:1"), false),
        ("/image/repository", json!("registry.example.com/eventpulse@sha256:00"), false),
        ("/livenessProbe", json!({"periodSeconds": 1, "terminationGracePeriodSeconds": 5}), true),
        ("/livenessProbe", json!({"periodSeconds": 0}), false),
        ("/livenessProbe", json!({"successThreshold": 2}), false),
        ("/readinessProbe", json!({"successThreshold": 2, "initialDelaySeconds": 0}), true),
        ("/readinessProbe", json!({"timeoutSeconds": 0}), false),
        ("/readinessProbe", json!({"periodSecond": 5}), false),
    ] {
        let mut values: Value = serde_norway::from_str(&read("values.yaml")).unwrap();
        *values.pointer_mut(path).unwrap() = value.clone();
        assert_eq!(validator.is_valid(&values), is_taken, "{path} {value}");
    }
}

fn properties(prefix: &str, schema: &Value, found: &mut BTreeMap<String, Value>) {
    found.insert(prefix.to_owned(), schema.clone());
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        properties(&path, inner, found);
    }
}

#[test]
fn every_value_of_config_becomes_a_flag_that_the_program_has() {
    let (helpers, program) = (read("templates/_helpers.tpl"), read("../../src/config.rs"));
    let line = helpers.lines().find_map(|line| line.strip_prefix("{{- $flags := dict ")).unwrap();
    let words: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
    let mut keys = Vec::new();
    for pair in words.chunks(2) {
        let [flag, key] = pair else { panic!("{pair:?} is no flag with its value") };
        assert!(program.contains(&format!("pub {}: ", flag.replace('-', "_"))), "there is no --{flag}");
        keys.push(format!("config.{key}"));
    }
    keys.sort();
    let values: Vec<String> = values().into_keys().filter(|path| path.starts_with("config.")).collect();
    assert_eq!(keys, values);
}

#[test]
fn the_disk_holds_what_outbox_and_log_may_hold_with_room_for_their_files() {
    let bytes = |text: &str| text.strip_suffix("Gi").unwrap().parse::<u64>().unwrap() << 30;
    let manager = read("../../config/manager/manager.yaml");
    let (_, claim) = manager.split_once("storage: ").unwrap();
    let held = IngestConfig::default().outbox_max_bytes.max(EmbeddedConfig::new(".").max_bytes);
    for size in [values()["persistence.size"].as_str().unwrap(), claim.split('}').next().unwrap()] {
        assert!(bytes(size) >= held / 4 * 5, "{size} for {held} bytes and what a file needs beside them");
    }
}

#[test]
fn the_charts_have_the_version_of_the_program() {
    for chart in ["../eventpulse", "../eventpulse-crds"] {
        let chart: Value = serde_norway::from_str(&read(&format!("{chart}/Chart.yaml"))).unwrap();
        for field in ["version", "appVersion"] {
            assert_eq!(chart[field], env!("CARGO_PKG_VERSION"), "{field} of {}", chart["name"]);
        }
    }
    let kustomization: Value = serde_norway::from_str(&read("../../config/manager/kustomization.yaml")).unwrap();
    assert_eq!(kustomization["images"][0]["newTag"], env!("CARGO_PKG_VERSION"));
}
