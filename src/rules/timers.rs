//! When which group has something due, how many of a rule's groups are open, and which groups know an alert. Pure; the service's
//! clock loop and its routing ask it.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;

use crate::{
    api::v1alpha1::{AlertGroup, AlertGroupSpec},
    events::NamespacedName,
};

/// An index over the groups of the cache. A group is in it as it was when it last changed.
#[derive(Debug, Default)]
pub(super) struct GroupIndex {
    due: BTreeSet<(Timestamp, NamespacedName)>,
    groups: HashMap<NamespacedName, Known>,
    /// By rule: how many groups have an open incident, and how many only alerts that wait for one.
    open: HashMap<NamespacedName, usize>,
    waiting: HashMap<NamespacedName, usize>,
    /// By fingerprint: the groups that know it.
    knowing: HashMap<String, BTreeSet<NamespacedName>>,
}

#[derive(Debug)]
struct Known {
    due: Option<Timestamp>,
    rule: NamespacedName,
    open: bool,
    waiting: bool,
    fingerprints: HashSet<String>,
}

impl GroupIndex {
    /// Takes a group as it is now; none when it is gone.
    pub fn update(&mut self, name: &NamespacedName, group: Option<&AlertGroup>) {
        let before = self.groups.remove(name);
        if let Some(known) = &before {
            if let Some(due) = known.due {
                self.due.remove(&(due, name.clone()));
            }
            if known.open {
                less(&mut self.open, &known.rule);
            }
            if known.waiting {
                less(&mut self.waiting, &known.rule);
            }
        }
        let known = group.map(|group| Known {
            due: group.spec.next_timer,
            rule: rule_of(&name.namespace, &group.spec),
            open: group.spec.episode.is_some(),
            waiting: group.spec.episode.is_none() && group.spec.alerts.iter().any(|alert| alert.facts.is_some()),
            fingerprints: group.spec.alerts.iter().map(|alert| alert.fingerprint.clone()).collect(),
        });
        self.update_knowing(name, before.as_ref(), known.as_ref());
        let Some(known) = known else { return };
        if let Some(due) = known.due {
            self.due.insert((due, name.clone()));
        }
        if known.open {
            *self.open.entry(known.rule.clone()).or_default() += 1;
        }
        if known.waiting {
            *self.waiting.entry(known.rule.clone()).or_default() += 1;
        }
        self.groups.insert(name.clone(), known);
    }

    fn update_knowing(&mut self, name: &NamespacedName, before: Option<&Known>, after: Option<&Known>) {
        let none = HashSet::new();
        let before = before.map_or(&none, |known| &known.fingerprints);
        let after = after.map_or(&none, |known| &known.fingerprints);
        for forgotten in before.difference(after) {
            if let Some(groups) = self.knowing.get_mut(forgotten) {
                groups.remove(name);
                if groups.is_empty() {
                    self.knowing.remove(forgotten);
                }
            }
        }
        for new in after.difference(before) {
            self.knowing.entry(new.clone()).or_default().insert(name.clone());
        }
    }

    /// The groups that know an alert, whatever became of it there.
    pub fn groups_that_know(&self, fingerprint: &str) -> Vec<NamespacedName> {
        self.knowing.get(fingerprint).into_iter().flatten().cloned().collect()
    }

    /// Forgets everything, before all groups are looked at anew.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many groups of a rule have an open incident.
    pub fn open_groups(&self, rule: &NamespacedName) -> usize {
        self.open.get(rule).copied().unwrap_or_default()
    }

    /// How many groups of a rule have no incident, but alerts that wait for one.
    pub fn waiting_groups(&self, rule: &NamespacedName) -> usize {
        self.waiting.get(rule).copied().unwrap_or_default()
    }

    /// Takes the groups out that have something due. Each comes back with its next change, or when everything is looked at anew.
    pub fn take_due(&mut self, now: Timestamp) -> Vec<NamespacedName> {
        let mut taken = Vec::new();
        while self.due.first().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, name)) = self.due.pop_first() {
                if let Some(known) = self.groups.get_mut(&name) {
                    known.due = None;
                }
                taken.push(name);
            }
        }
        taken
    }

    /// The next time at which something is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(due, _)| *due)
    }
}

fn less(counts: &mut HashMap<NamespacedName, usize>, rule: &NamespacedName) {
    if let Some(count) = counts.get_mut(rule) {
        *count -= 1;
        if *count == 0 {
            counts.remove(rule);
        }
    }
}

/// The rule of a group.
pub(super) fn rule_of(namespace: &str, spec: &AlertGroupSpec) -> NamespacedName {
    NamespacedName { namespace: namespace.to_owned(), name: spec.rule_ref.name.clone() }
}
