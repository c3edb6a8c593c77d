//! Which groups an alert is for, after edits of its rule too.

use std::sync::Arc;

use super::fixtures::*;
use crate::{
    api::v1alpha1::{AlertGroup, Rule},
    events::NamespacedName,
    rules::{
        GroupKey, RaisedAlert, RuleSet,
        routing::{Route, remembers, route},
        timers::GroupIndex,
    },
};

fn routes(rules: &[Rule], told: Told, holders: Vec<GroupKey>) -> Vec<(GroupKey, bool)> {
    let set = RuleSet::new(rules.iter().map(|rule| Arc::new(compiled(rule))).collect());
    let raised = told.raised();
    let matches = set.matches(&raised.alert, &raised.fingerprint);
    let routes = route(&raised, matches, holders);
    routes
        .into_iter()
        .map(|route| match route {
            Route::Group { key, matched } => (key, matched),
            Route::Undecided { rule, error } => panic!("{rule}: {error}"),
        })
        .collect()
}

fn by(labels: &[&str]) -> Rule {
    rule_with(|rule| {
        rule.spec.group_by = labels.iter().map(|label| (*label).to_owned()).collect();
    })
}

fn key_by(labels: &[&str], told: Told) -> GroupKey {
    let raised = told.raised();
    let rule = compiled(&by(labels));
    let (correlation, group_by) = rule.group_of(&raised.alert.labels, &raised.fingerprint);
    GroupKey { rule: rule.name, correlation, group_by }
}

#[test]
fn an_alert_goes_to_the_group_that_its_rule_says() {
    let key = Scenario::seed().key();
    assert_eq!(routes(&[rule(CPU_HIGH)], firing(1, 0), vec![]), [(key.clone(), true)]);
    assert_eq!(routes(&[rule(CPU_HIGH)], firing(1, 0), vec![key.clone()]), [(key.clone(), true)]);
    assert!(routes(&[], firing(1, 0), vec![]).is_empty());
    assert_eq!(routes(&[], firing(1, 0), vec![key.clone()]), [(key, false)], "its rule is gone");
}

#[test]
fn an_edit_of_group_by_leaves_an_alert_where_it_is() {
    let (old, new) = (key_by(&["service"], firing(1, 0)), key_by(&["service", "pod"], firing(1, 0)));
    assert_ne!(old, new);
    let rules = [by(&["service", "pod"])];
    assert_eq!(routes(&rules, firing(1, 0), vec![]), [(new.clone(), true)]);
    assert_eq!(routes(&rules, firing(1, 0), vec![old.clone()]), [(old.clone(), true)]);
    // Where both hold it, it begins by the rule as it is, and ends in both.
    assert_eq!(routes(&rules, firing(1, 0), vec![old.clone(), new.clone()]), [(old, false), (new, true)]);
}

#[test]
fn a_condition_that_cannot_say_any_more_leaves_an_alert_where_it_is() {
    let key = Scenario::seed().key();
    let undecided = rule_with(|rule| rule.spec.r#match.conditions[0].expression = "alert.labels.nope == 'x'".into());
    assert_eq!(routes(&[undecided], firing(1, 0), vec![key.clone()]), [(key, false)]);
}

#[test]
fn a_group_remembers_what_fires_what_is_of_its_incident_and_what_is_older() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    group.alert(firing(2, 0));
    let spec = |group: &Scenario| group.group.clone().unwrap();
    assert!(remembers("shop", &spec(&group), &resolved(1, 0, 50).raised()));
    assert!(!remembers("shop", &spec(&group), &firing(3, 0).raised()), "it never heard of it");
    group.alert(resolved(1, 0, 50));
    assert!(remembers("shop", &spec(&group), &firing(1, 70).raised()), "its incident is open");
    group.alert(resolved(2, 0, 60));
    assert!(!group.is_open());
    assert!(remembers("shop", &spec(&group), &firing(1, 40).raised()));
    assert!(!remembers("shop", &spec(&group), &firing(1, 70).raised()), "a new interval is the rule's");
}

#[test]
fn a_group_takes_no_alert_of_another_tenant_and_of_other_labels() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    let spec = group.group.clone().unwrap();
    let with = |name: &str, value: &str| -> RaisedAlert {
        let mut raised = firing(1, 0).raised();
        raised.alert.labels.insert(name.into(), value.into());
        raised
    };
    assert!(remembers("shop", &spec, &with("namespace", "shop")));
    assert!(!remembers("shop", &spec, &with("namespace", "bank")));
    assert!(!remembers("shop", &spec, &with("service", "svc-b")));
}

#[test]
fn the_index_follows_what_a_group_knows_and_whether_it_waits() {
    let name = NamespacedName { namespace: "shop".into(), name: "a-group".into() };
    let rule = NamespacedName { namespace: "shop".into(), name: "cpu-high".into() };
    let fingerprint = |pod| firing(pod, 0).raised().fingerprint;
    let mut index = GroupIndex::default();
    let mut group = Scenario::seed();
    let look = |index: &mut GroupIndex, group: &Scenario| {
        index.update(&name, Some(&AlertGroup::new("a-group", group.group.clone().unwrap())));
        (index.open_groups(&rule), index.waiting_beside(&rule, &rule))
    };
    group.storm = true;
    group.alert(firing(1, 0));
    assert_eq!(look(&mut index, &group), (0, 1));
    assert_eq!(index.groups_that_know(&fingerprint(1)).as_slice(), std::slice::from_ref(&name));
    assert!(index.groups_that_know(&fingerprint(2)).is_empty());
    group.storm = false;
    group.alert(firing(2, 10));
    assert_eq!(look(&mut index, &group), (1, 0));
    assert_eq!(index.groups_that_know(&fingerprint(2)).as_slice(), std::slice::from_ref(&name));
    group.group.as_mut().unwrap().alerts.retain(|alert| alert.fingerprint == fingerprint(2));
    look(&mut index, &group);
    assert!(index.groups_that_know(&fingerprint(1)).is_empty(), "what was forgotten is still known");
    index.update(&name, None);
    assert_eq!((index.open_groups(&rule), index.groups_that_know(&fingerprint(2)).len()), (0, 0));
}
