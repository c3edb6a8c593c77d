//! Which groups an alert is for: those that remember it, and for each rule that it matches and that holds it nowhere, the one that
//! the rule says. Pure.
//!
//! An edit of a rule changes the next incident and not the open one (design, section 5): an alert that is part of something goes on
//! and ends there, whether its rule still matches it, groups it otherwise, is broken or is gone.

use super::{
    decide::{GroupKey, known_through},
    input::RaisedAlert,
    matching::RuleMatch,
};
use crate::{
    api::v1alpha1::AlertGroupSpec,
    compile::{GROUP_VALUE_MAX, one_line},
    events::{AlertStatus, NamespacedName},
    expression::ExpressionError,
};

/// One thing to do with an alert.
#[derive(Debug)]
pub(super) enum Route {
    /// It is delivered to a group.
    Group {
        /// The group.
        key: GroupKey,
        /// Whether it may begin something there: the rule matches it.
        matched: bool,
    },
    /// A rule cannot say whether it matches, and no group of it remembers the alert.
    Undecided {
        /// The rule.
        rule: NamespacedName,
        /// Why.
        error: ExpressionError,
    },
}

/// Where an alert goes. `holders` are the groups that remember it; for each rule at most one of all groups may begin something.
pub(super) fn route(raised: &RaisedAlert, matches: Vec<RuleMatch>, mut holders: Vec<GroupKey>) -> Vec<Route> {
    let mut routes = Vec::new();
    for RuleMatch { rule, error } in matches {
        let (held, others): (Vec<_>, Vec<_>) = holders.into_iter().partition(|key| key.rule == rule.name);
        holders = others;
        match error {
            Some(error) if held.is_empty() => routes.push(Route::Undecided { rule: rule.name.clone(), error }),
            Some(_) => routes.extend(held.into_iter().map(|key| Route::Group { key, matched: false })),
            None => {
                let (correlation, group_by) = rule.group_of(&raised.alert.labels, &raised.fingerprint);
                let computed = GroupKey { rule: rule.name.clone(), correlation, group_by };
                // The group of an earlier groupBy that holds it goes before the one of today's: no second incident opens beside.
                let begins = match held.first() {
                    Some(first) if held.iter().all(|key| key.correlation != computed.correlation) => first.clone(),
                    _ => computed,
                };
                let beside = held.into_iter().filter(|key| key.correlation != begins.correlation);
                routes.extend(beside.map(|key| Route::Group { key, matched: false }));
                routes.push(Route::Group { key: begins, matched: true });
            }
        }
    }
    routes.extend(holders.into_iter().map(|key| Route::Group { key, matched: false }));
    routes
}

/// Whether an alert goes on, ends or is repeated in this group: it fires there, is part of its incident, or began before what is
/// known of it there. As everywhere in a group it is known by its fingerprint; a sender that gives one fingerprint to alerts of
/// several groups means several alerts. A group takes no alert of another tenant.
pub(super) fn remembers(namespace: &str, spec: &AlertGroupSpec, raised: &RaisedAlert) -> bool {
    let label = |name: &str| raised.alert.labels.get(name).map_or("", String::as_str);
    let tenant = label("namespace");
    let ours = tenant.is_empty() || tenant == namespace;
    let of_group = || spec.group_by.iter().all(|(name, value)| one_line(label(name), GROUP_VALUE_MAX) == *value);
    let known = || spec.alerts.iter().find(|alert| alert.fingerprint == raised.fingerprint);
    ours && of_group()
        && known().is_some_and(|alert| {
            alert.in_episode || alert.status == AlertStatus::Firing || raised.alert.starts_at <= known_through(alert)
        })
}
