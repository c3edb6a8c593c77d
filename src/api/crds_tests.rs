//! What every definition must have; each test names the path that breaks it.

use super::*;

/// Every schema below a definition's root, with its path like `Rule.spec.actions[].name`.
fn schemas() -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for crd in crds().unwrap() {
        let value = serde_json::to_value(&crd).unwrap();
        walk(crd.spec.names.kind, &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &mut all);
    }
    assert!(all.len() > 100, "only {} schemas were found", all.len());
    all
}

fn walk(path: String, schema: &Value, all: &mut Vec<(String, Value)>) {
    all.push((path.clone(), schema.clone()));
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(format!("{path}.{name}"), property, all);
    }
    if schema["items"].is_object() {
        walk(format!("{path}[]"), &schema["items"], all);
    }
    if schema["additionalProperties"].is_object() {
        walk(format!("{path}{{}}"), &schema["additionalProperties"], all);
    }
}

/// Paths whose schema breaks the rule.
fn broken(rule: impl Fn(&str, &Value) -> bool) -> Vec<String> {
    schemas().into_iter().filter(|(path, schema)| !rule(path, schema)).map(|(path, _)| path).collect()
}

fn none() -> Vec<String> {
    Vec::new()
}

/// Fields of the API machinery itself.
fn of_the_machinery(path: &str) -> bool {
    [".apiVersion", ".kind", ".metadata"].iter().any(|field| path.matches('.').count() == 1 && path.ends_with(field))
}

#[test]
fn every_field_has_a_description() {
    assert_eq!(
        broken(|path, schema| path.ends_with(']')
            || path.ends_with('}')
            || schema["description"].as_str().is_some_and(|text| text.len() > 5)),
        none()
    );
}

#[test]
fn no_description_speaks_of_rust() {
    let words = ["derived type", "`CustomResource`", "[`", "::"];
    assert_eq!(
        broken(|_, schema| !words.iter().any(|word| schema["description"].as_str().unwrap_or_default().contains(word))),
        none()
    );
}

#[test]
fn every_list_says_how_it_merges_and_how_long_it_may_be() {
    let of_list = |schema: &Value| match schema["x-kubernetes-list-type"].as_str() {
        Some("map") => schema["x-kubernetes-list-map-keys"].as_array().is_some_and(|keys| {
            let required = schema["items"]["required"].as_array().cloned().unwrap_or_default();
            !keys.is_empty() && keys.iter().all(|key| required.contains(key))
        }),
        Some("set" | "atomic") => true,
        _ => false,
    };
    assert_eq!(
        broken(|_, schema| schema["type"] != "array" || (of_list(schema) && schema["maxItems"].is_number())),
        none()
    );
}

/// What people write. What EventPulse writes is bounded by the service that writes it (promise 6).
fn of_people(path: &str) -> bool {
    ["Rule.", "Runbook.", "NotificationChannel.", "Incident.spec"].iter().any(|begin| path.starts_with(begin))
}

/// Promise 6, and the budget that the API server gives to CEL: both need to know how long a text can be.
#[test]
fn everything_that_people_write_is_bounded() {
    let text = |schema: &Value| ["maxLength", "enum", "format"].iter().any(|key| !schema[*key].is_null());
    let bounded = |schema: &Value| {
        (schema["type"] != "string" || text(schema))
            && (!schema["additionalProperties"].is_object() || schema["maxProperties"].is_number())
    };
    assert_eq!(broken(|path, schema| !of_people(path) || path.contains(".status") || bounded(schema)), none());
}

/// A field without a value must not be written as `null`: the schema does not allow it.
#[test]
fn nothing_is_written_as_null() {
    fn written<T: JsonSchema>(name: &str, found: &mut Vec<String>) {
        let mut settings = SchemaSettings::draft2020_12().for_serialize();
        settings.inline_subschemas = true;
        let root: Value = settings.into_generator().into_root_schema_for::<T>().into();
        nulls(name, &root, found);
    }
    fn nulls(path: &str, schema: &Value, found: &mut Vec<String>) {
        let null = |schema: &Value| {
            schema["type"].as_array().is_some_and(|types| types.contains(&json!("null")))
                || schema["anyOf"].as_array().is_some_and(|all| all.iter().any(|one| one["type"] == "null"))
        };
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if null(property) && schema["required"].as_array().is_some_and(|all| all.contains(&json!(name))) {
                found.push(format!("{path}.{name}"));
            }
            for inner in
                [property, &property["items"]].into_iter().chain(property["anyOf"].as_array().into_iter().flatten())
            {
                nulls(&format!("{path}.{name}"), inner, found);
            }
        }
    }
    let mut found = Vec::new();
    written::<RuleSpec>("Rule.spec", &mut found);
    written::<RuleStatus>("Rule.status", &mut found);
    written::<RunbookSpec>("Runbook.spec", &mut found);
    written::<RunbookStatus>("Runbook.status", &mut found);
    written::<NotificationChannelSpec>("NotificationChannel.spec", &mut found);
    written::<NotificationChannelStatus>("NotificationChannel.status", &mut found);
    written::<IncidentSpec>("Incident.spec", &mut found);
    written::<IncidentStatus>("Incident.status", &mut found);
    written::<ActionSpec>("Action.spec", &mut found);
    written::<ActionStatus>("Action.status", &mut found);
    written::<NotificationSpec>("Notification.spec", &mut found);
    written::<AlertGroupSpec>("AlertGroup.spec", &mut found);
    assert_eq!(found, none());
}

#[test]
fn integers_have_formats_that_structural_schemas_know() {
    let formats = [json!("int32"), json!("int64")];
    assert_eq!(broken(|_, schema| schema["type"] != "integer" || formats.contains(&schema["format"])), none());
}

#[test]
fn every_type_is_structural() {
    let typed = |schema: &Value| schema["type"].is_string() || schema["x-kubernetes-int-or-string"] == json!(true);
    assert_eq!(
        broken(|path, schema| of_the_machinery(path)
            || (typed(schema)
                && schema["nullable"].is_null()
                && schema["anyOf"].is_null()
                && schema["oneOf"].is_null())),
        none()
    );
}

#[test]
fn every_value_of_an_enum_is_described() {
    let described = |schema: &Value| {
        let text = schema["description"].as_str().unwrap_or_default();
        schema["enum"].as_array().into_iter().flatten().all(|value| text.contains(value.as_str().unwrap_or("\0")))
    };
    assert_eq!(broken(|_, schema| described(schema)), none());
}

#[test]
fn every_rule_has_a_message_that_names_a_field() {
    let named = |rule: &Value| {
        rule["message"].as_str().is_some_and(|text| {
            text.split_once(": ").is_some_and(|(field, _)| !field.contains(' ') || field.contains(" and "))
        })
    };
    assert_eq!(
        broken(|_, schema| schema["x-kubernetes-validations"].as_array().into_iter().flatten().all(named)),
        none()
    );
}

#[test]
fn kinds_have_their_short_names_and_the_category() {
    let names: Vec<(String, String, String)> = crds()
        .unwrap()
        .into_iter()
        .map(|crd| {
            let names = crd.spec.names;
            (
                names.kind,
                names.short_names.unwrap_or_default().join(","),
                names.categories.unwrap_or_default().join(","),
            )
        })
        .collect();
    let wanted = [
        ("Rule", ""),
        ("Runbook", ""),
        ("NotificationChannel", "nch"),
        ("Incident", "inc"),
        ("Action", "act"),
        ("Notification", "ntf"),
        ("AlertGroup", "ag"),
    ];
    assert_eq!(names, wanted.map(|(kind, short)| (kind.to_owned(), short.to_owned(), "eventpulse".to_owned())));
}

#[test]
fn lines_of_a_paragraph_are_joined_and_paragraphs_stay() {
    assert_eq!(paragraphs("a\nb\n\nc\n- d\n- e\ne"), "a b\n\nc\n- d\n- e e");
}

#[test]
fn unsigned_integers_become_signed_ones_with_a_least_value() {
    let mut schema = json!({"type": "integer", "format": "uint16"});
    complete_schema(&mut schema, &EnumValues::new());
    assert_eq!(schema, json!({"type": "integer", "format": "int32", "minimum": 0}));
}
