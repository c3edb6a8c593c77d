use std::{collections::BTreeMap, sync::Arc};

use super::fixtures::*;
use crate::{
    api::v1alpha1::{ParameterValue, Rule},
    compile::{CompiledRule, FieldError, Plan, compile},
    rules::RuleSet,
};

fn errors(change: impl FnOnce(&mut Rule)) -> Vec<String> {
    compile(&rule_with(change)).map(|_| Vec::new()).unwrap_or_else(|e| e.iter().map(FieldError::to_string).collect())
}

#[test]
fn everything_that_is_wrong_is_said_with_its_field() {
    let all = errors(|rule| {
        rule.spec.r#match.matchers = vec!["alertname=\"a\"".into(), "foo".into(), "a=~\"(\"".into()];
        rule.spec.r#match.conditions[0].expression = "alert.labels.".into();
        rule.spec.incident.severity = "$(".into();
        rule.spec.incident.summary = "$(alarm)".into();
        rule.spec.actions[0].target_ref.name = "Not_a_name".into();
        rule.spec.actions[0].parameters[0].value = "$(params.x)".into();
        rule.spec.actions[1].name = "add-replica".into();
    });
    let fields: Vec<&str> = all.iter().map(|error| error.split(": ").next().unwrap()).collect();
    assert_eq!(
        fields,
        [
            "spec.match.matchers[1]",
            "spec.match.matchers[2]",
            "spec.match.conditions[has-service].expression",
            "spec.incident.severity",
            "spec.incident.summary",
            "spec.actions[add-replica].targetRef.name",
            "spec.actions[add-replica].parameters[delta].value",
            "spec.actions",
        ],
        "{all:#?}"
    );
    assert!(all[4].ends_with("at character 3: there is no alarm here, only alert"), "{}", all[4]);
    assert!(all[6].contains("there is no params here"), "{}", all[6]);
}

#[test]
fn a_rule_needs_a_short_name_and_something_to_match() {
    assert!(errors(|rule| rule.metadata.name = Some("r".repeat(40))).is_empty());
    assert!(errors(|rule| rule.metadata.name = Some("r".repeat(41)))[0].starts_with("metadata.name: "));
    assert!(errors(|rule| rule.spec.r#match = Default::default())[0].starts_with("spec.match: "));
}

fn plan(change: impl FnOnce(&mut BTreeMap<String, String>)) -> Result<Plan, String> {
    let mut raised = firing(0, 0).raised();
    change(&mut raised.alert.labels);
    raised.alert.annotations.clear();
    let scope = crate::rules::matching::scope_of(&raised.alert, &raised.fingerprint);
    compiled(&rule(CPU_HIGH)).plan(&scope, &raised.alert.labels).map_err(|e| e.to_string())
}

#[test]
fn what_only_people_read_is_replaced_and_what_is_done_is_exact() {
    let replaced = plan(|labels| drop(labels.remove("severity"))).unwrap();
    assert_eq!((replaced.severity.as_str(), replaced.summary.as_str()), ("none", "CPUHigh"));
    assert!(replaced.note.contains("spec.incident.summary, at character 1: there is no \"summary\" here"));
    assert!(
        plan(|labels| drop(labels.remove("service")))
            .unwrap_err()
            .starts_with("spec.actions[add-replica].targetRef.name")
    );
    for hostile in ["", "../secrets", "A", "a b", "a/b", "-a", "a..b", "a\n", "ä", &"a".repeat(254)] {
        let result = plan(|labels| drop(labels.insert("service".into(), hostile.into())));
        assert!(result.is_err(), "{hostile:?} became the name of a target");
    }
    assert_eq!(plan(|_| ()).unwrap().rule.ladder[0].target.display(), "Deployment/svc-a");
}

#[test]
fn what_a_rule_computes_is_bounded() {
    let of = |change: &dyn Fn(&mut Rule), value: &str| {
        let mut raised = firing(0, 0).raised();
        raised.alert.annotations.insert("summary".into(), value.into());
        let scope = crate::rules::matching::scope_of(&raised.alert, &raised.fingerprint);
        compiled(&rule_with(change)).plan(&scope, &raised.alert.labels).map_err(|error| error.to_string())
    };
    let summary = "$(alert.annotations.summary)";
    let long = of(&|rule| rule.spec.incident.severity = summary.into(), &"x".repeat(5_000)).unwrap();
    assert_eq!((long.severity.len(), long.summary.len()), (128, 1_024));
    // What is done is exact: a value that is too long is none.
    let first = |rule: &mut Rule| rule.spec.actions[0].parameters[0].value = summary.into();
    assert_eq!(of(&first, &"x".repeat(1_024)).unwrap().rule.ladder[0].parameters[0].value.len(), 1_024);
    assert!(of(&first, &"x".repeat(1_025)).unwrap_err().starts_with("spec.actions[add-replica].parameters[delta]"));
    let many = |rule: &mut Rule| {
        let named = |number| ParameterValue { name: format!("p{number}"), value: summary.into() };
        for action in &mut rule.spec.actions {
            action.parameters = (0..16).map(named).collect();
        }
    };
    assert!(of(&many, &"x".repeat(500)).is_ok());
    assert!(of(&many, &"x".repeat(512)).unwrap_err().contains("more than 16384 bytes together"));
    let labels: BTreeMap<String, String> = [("service".to_owned(), "x".repeat(5_000))].into();
    let (_, group) = compiled(&rule(CPU_HIGH)).group_of(&labels, "ab");
    assert_eq!(group.values().map(String::len).collect::<Vec<_>>(), [256]);
}

fn set(rules: Vec<Rule>) -> RuleSet {
    RuleSet::new(rules.iter().map(|rule| Arc::new(compiled(rule))).collect())
}

fn matched(set: &RuleSet, labels: &[(&str, &str)]) -> Vec<String> {
    let mut raised = firing(0, 0).raised();
    raised.alert.labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    set.matches(&raised.alert, &raised.fingerprint)
        .into_iter()
        .map(|found| format!("{}{}", found.rule.name, if found.error.is_some() { " error" } else { "" }))
        .collect()
}

fn named(namespace: &str, name: &str, matchers: &[&str], condition: Option<&str>) -> Rule {
    rule_with(|rule| {
        rule.metadata.namespace = Some(namespace.into());
        rule.metadata.name = Some(name.into());
        rule.spec.r#match.matchers = matchers.iter().map(|text| (*text).to_owned()).collect();
        match condition {
            Some(text) => rule.spec.r#match.conditions[0].expression = text.into(),
            None => rule.spec.r#match.conditions.clear(),
        }
    })
}

#[test]
fn an_alert_matches_rules_of_its_tenant_only() {
    let set = set(vec![
        named("shop", "equal", &["alertname=\"A\""], None),
        named("shop", "regex", &["alertname=~\"A|B\""], None),
        named("bank", "equal", &["alertname=\"A\""], None),
        named("bank", "regex", &["alertname=~\"A|B\""], None),
    ]);
    assert_eq!(matched(&set, &[("alertname", "A"), ("namespace", "shop")]), ["shop/equal", "shop/regex"]);
    assert_eq!(matched(&set, &[("alertname", "A"), ("namespace", "bank")]), ["bank/equal", "bank/regex"]);
    assert_eq!(matched(&set, &[("alertname", "A"), ("namespace", "else")]), Vec::<String>::new());
    let all = ["bank/equal", "bank/regex", "shop/equal", "shop/regex"];
    assert_eq!(matched(&set, &[("alertname", "A")]), all);
    assert_eq!(matched(&set, &[("alertname", "A"), ("namespace", "")]), all);
    assert_eq!(matched(&set, &[("alertname", "B"), ("namespace", "shop")]), ["shop/regex"]);
}

#[test]
fn the_index_finds_what_a_scan_would_find() {
    let set = set(vec![
        named("shop", "a", &["alertname=\"A\"", "team=\"x\""], None),
        named("shop", "b", &["alertname=\"A\"", "team!=\"x\""], None),
        named("shop", "c", &["team=\"\""], None),
        named("shop", "d", &["alertname!~\"A|B\""], None),
        named("shop", "e", &["alertname=\"A\""], Some("alert.labels.team == 'x'")),
        named("shop", "f", &["alertname=\"A\""], Some("has(alert.labels.team)")),
    ]);
    assert_eq!(matched(&set, &[("alertname", "A"), ("team", "x")]), ["shop/a", "shop/e", "shop/f"]);
    assert_eq!(matched(&set, &[("alertname", "A")]), ["shop/b", "shop/c", "shop/e error"]);
    assert_eq!(matched(&set, &[("alertname", "C"), ("team", "y")]), ["shop/d"]);
}

#[test]
fn of_a_thousand_rules_only_the_candidates_are_looked_at() {
    let many: Vec<Rule> = (0..1000)
        .map(|i| named("shop", &format!("r{i}"), &["severity=\"page\"", &format!("alertname=\"A{i}\"")], None))
        .collect();
    let set = set(many);
    let labels: BTreeMap<String, String> =
        [("severity", "page"), ("alertname", "A7")].iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
    assert_eq!(set.candidates(&labels).len(), 1, "the rarer label is the one that is indexed");
    assert_eq!(matched(&set, &[("severity", "page"), ("alertname", "A7")]), ["shop/r7"]);
}

#[test]
fn a_group_is_made_of_the_rule_and_the_values_of_its_labels() {
    let by_service = compiled(&rule(CPU_HIGH));
    let by_nothing = compiled(&rule_with(|rule| rule.spec.group_by.clear()));
    let group = |rule: &CompiledRule, pod: u8| {
        let raised = firing(pod, 0).raised();
        rule.group_of(&raised.alert.labels, &raised.fingerprint).0
    };
    assert_eq!(group(&by_service, 0), group(&by_service, 1));
    assert_ne!(group(&by_nothing, 0), group(&by_nothing, 1));
    assert_ne!(group(&by_service, 0), group(&by_nothing, 0));
}
