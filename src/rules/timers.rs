//! When which group has something due, and how many of a rule's groups are open. Pure; the service's clock loop asks it.

use std::collections::{BTreeSet, HashMap};

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
    open: HashMap<NamespacedName, usize>,
}

#[derive(Debug)]
struct Known {
    due: Option<Timestamp>,
    rule: NamespacedName,
    open: bool,
}

impl GroupIndex {
    /// Takes a group as it is now; none when it is gone.
    pub fn update(&mut self, name: &NamespacedName, group: Option<&AlertGroup>) {
        if let Some(known) = self.groups.remove(name) {
            if let Some(due) = known.due {
                self.due.remove(&(due, name.clone()));
            }
            if known.open
                && let Some(count) = self.open.get_mut(&known.rule)
            {
                *count -= 1;
                if *count == 0 {
                    self.open.remove(&known.rule);
                }
            }
        }
        let Some(group) = group else { return };
        let known = Known {
            due: group.spec.next_timer,
            rule: rule_of(&name.namespace, &group.spec),
            open: group.spec.episode.is_some(),
        };
        if let Some(due) = known.due {
            self.due.insert((due, name.clone()));
        }
        if known.open {
            *self.open.entry(known.rule.clone()).or_default() += 1;
        }
        self.groups.insert(name.clone(), known);
    }

    /// Forgets everything, before all groups are looked at anew.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many groups of a rule have an open incident.
    pub fn open_groups(&self, rule: &NamespacedName) -> usize {
        self.open.get(rule).copied().unwrap_or_default()
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

/// The rule of a group.
pub(super) fn rule_of(namespace: &str, spec: &AlertGroupSpec) -> NamespacedName {
    NamespacedName { namespace: namespace.to_owned(), name: spec.rule_ref.name.clone() }
}
