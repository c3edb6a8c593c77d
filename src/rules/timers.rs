//! When which group has something due, how many of a rule's groups are open, and which groups know an alert. Pure; the service's
//! clock loop and its routing ask it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;

use crate::{
    api::v1alpha1::{AlertGroup, AlertGroupSpec},
    events::NamespacedName,
};

/// An index over the groups of the cache. A group is in it as it was when it last changed; its name and fingerprints are there once,
/// and shared. What has an entry for each group or alert is a tree, as in the cache (`runtime::watch_cache`).
#[derive(Debug, Default)]
pub(super) struct GroupIndex {
    due: BTreeSet<(Timestamp, Arc<NamespacedName>)>,
    groups: BTreeMap<Arc<NamespacedName>, Known>,
    /// Rules that groups name.
    rules: HashSet<Arc<NamespacedName>>,
    /// By rule: how many groups have an open incident, and how many only alerts that wait for one.
    open: HashMap<Arc<NamespacedName>, usize>,
    /// The latter by when their first alert began: in this order they open when a storm has room.
    waiting: HashMap<Arc<NamespacedName>, BTreeSet<(Timestamp, Arc<NamespacedName>)>>,
    /// The rules whose storm goes on.
    storms: BTreeSet<Arc<NamespacedName>>,
    /// By rule: groups that are about to open. What is decided side by side counts before it is written.
    opening: HashMap<NamespacedName, HashSet<NamespacedName>>,
    /// The same of groups that found no place, and are about to wait for one.
    queueing: HashMap<NamespacedName, HashSet<NamespacedName>>,
    /// By fingerprint: the groups that know it.
    knowing: BTreeMap<Arc<str>, Vec<Arc<NamespacedName>>>,
}

#[derive(Debug)]
struct Known {
    due: Option<Timestamp>,
    rule: Arc<NamespacedName>,
    open: bool,
    waiting: Option<Timestamp>,
    storm: bool,
    /// In their order.
    fingerprints: Box<[Arc<str>]>,
}

impl GroupIndex {
    /// Takes a group as it is now; none when it is gone.
    pub fn update(&mut self, name: &NamespacedName, group: Option<&AlertGroup>) {
        let (name, before) = match self.groups.remove_entry(name) {
            Some((name, known)) => (name, Some(known)),
            None => (Arc::new(name.clone()), None),
        };
        if let Some(known) = &before {
            self.take_out_of_orders(&name, known);
        }
        let known = group.map(|group| Known {
            due: group.spec.next_timer,
            rule: self.shared_rule(rule_of(&name.namespace, &group.spec)),
            open: group.spec.episode.is_some() && group.spec.storm.is_none(),
            waiting: waiting_since(&group.spec),
            storm: group.spec.storm.as_ref().is_some_and(|storm| storm.ended_at.is_none()),
            fingerprints: self.shared_fingerprints(&group.spec),
        });
        self.update_knowing(&name, before.as_ref(), known.as_ref());
        let Some(known) = known else { return };
        if let Some(due) = known.due {
            self.due.insert((due, Arc::clone(&name)));
        }
        if known.open {
            *self.open.entry(Arc::clone(&known.rule)).or_default() += 1;
        }
        if let Some(since) = known.waiting {
            self.waiting.entry(Arc::clone(&known.rule)).or_default().insert((since, Arc::clone(&name)));
        }
        if known.storm {
            self.storms.insert(Arc::clone(&known.rule));
        }
        self.groups.insert(name, known);
    }

    fn take_out_of_orders(&mut self, name: &Arc<NamespacedName>, known: &Known) {
        if let Some(due) = known.due {
            self.due.remove(&(due, Arc::clone(name)));
        }
        if known.open {
            less(&mut self.open, &known.rule);
        }
        if let Some(since) = known.waiting
            && let Some(waiting) = self.waiting.get_mut(&known.rule)
        {
            waiting.remove(&(since, Arc::clone(name)));
            if waiting.is_empty() {
                self.waiting.remove(&known.rule);
            }
        }
        if known.storm {
            self.storms.remove(&known.rule);
        }
    }

    fn shared_rule(&mut self, rule: NamespacedName) -> Arc<NamespacedName> {
        if let Some(known) = self.rules.get(&rule) {
            return Arc::clone(known);
        }
        let rule = Arc::new(rule);
        self.rules.insert(Arc::clone(&rule));
        rule
    }

    fn shared_fingerprints(&self, spec: &AlertGroupSpec) -> Box<[Arc<str>]> {
        let shared = |fingerprint: &str| {
            self.knowing
                .get_key_value(fingerprint)
                .map_or_else(|| Arc::from(fingerprint), |(known, _)| Arc::clone(known))
        };
        let mut fingerprints: Vec<Arc<str>> = spec.alerts.iter().map(|alert| shared(&alert.fingerprint)).collect();
        fingerprints.sort_unstable();
        fingerprints.dedup();
        fingerprints.into()
    }

    fn update_knowing(&mut self, name: &Arc<NamespacedName>, before: Option<&Known>, after: Option<&Known>) {
        let before = before.map_or(&[][..], |known| &known.fingerprints);
        let after = after.map_or(&[][..], |known| &known.fingerprints);
        for forgotten in before.iter().filter(|old| after.binary_search(old).is_err()) {
            if let Some(groups) = self.knowing.get_mut(forgotten) {
                groups.retain(|group| group != name);
                if groups.is_empty() {
                    self.knowing.remove(forgotten);
                }
            }
        }
        for new in after.iter().filter(|new| before.binary_search(new).is_err()) {
            // Nearly always it is the only one; a Vec that grows makes room for four.
            let groups = self.knowing.entry(Arc::clone(new)).or_insert_with(|| Vec::with_capacity(1));
            if !groups.contains(name) {
                groups.push(Arc::clone(name));
            }
        }
    }

    /// The groups that know an alert, whatever became of it there.
    pub fn groups_that_know(&self, fingerprint: &str) -> Vec<NamespacedName> {
        self.knowing.get(fingerprint).into_iter().flatten().map(|name| NamespacedName::clone(name)).collect()
    }

    /// Forgets everything, before all groups are looked at anew. What is being decided is no group yet, and stays.
    pub fn clear(&mut self) {
        let (opening, queueing) = (std::mem::take(&mut self.opening), std::mem::take(&mut self.queueing));
        *self = Self { opening, queueing, ..Self::default() };
    }

    /// Takes a place among a rule's open groups for one that may open; false when so many have none left. It keeps the place until
    /// [`GroupIndex::release`] or [`GroupIndex::settle`].
    pub fn reserve(&mut self, rule: &NamespacedName, group: &NamespacedName, most: usize) -> bool {
        let is_counted = |name: &NamespacedName| self.groups.get(name).is_some_and(|known| known.open);
        let opening = self.opening.get(rule).into_iter().flatten();
        let others = opening.filter(|name| *name != group && !is_counted(name)).count();
        let fits = self.open_groups(rule) + others < most;
        let decided = if fits { &mut self.opening } else { &mut self.queueing };
        decided.entry(rule.clone()).or_default().insert(group.clone());
        fits
    }

    /// The group does not open.
    pub fn release(&mut self, rule: &NamespacedName, group: &NamespacedName) {
        take_out(&mut self.opening, rule, group);
    }

    /// What was decided of the group is in the index, or was not written.
    pub fn settle(&mut self, rule: &NamespacedName, group: &NamespacedName) {
        take_out(&mut self.opening, rule, group);
        take_out(&mut self.queueing, rule, group);
    }

    /// Every rule that has an open group, and how many.
    pub fn open_by_rule(&self) -> impl Iterator<Item = (&NamespacedName, usize)> {
        self.open.iter().map(|(rule, open)| (rule.as_ref(), *open))
    }

    /// The rules whose storm goes on.
    pub fn storms(&self) -> &BTreeSet<Arc<NamespacedName>> {
        &self.storms
    }

    /// The groups of a rule that wait, those first whose alerts began first.
    pub fn waiting_of(&self, rule: &NamespacedName) -> impl Iterator<Item = &NamespacedName> {
        self.waiting.get(rule).into_iter().flatten().map(|(_, name)| name.as_ref())
    }

    /// How many groups of a rule have an open incident.
    pub fn open_groups(&self, rule: &NamespacedName) -> usize {
        self.open.get(rule).copied().unwrap_or_default()
    }

    /// How many groups of a rule, beside this one, have no incident and no cooldown but alerts that wait for an incident, or are about
    /// to.
    pub fn waiting_beside(&self, rule: &NamespacedName, group: &NamespacedName) -> usize {
        let waits = |name: &NamespacedName| self.groups.get(name).is_some_and(|known| known.waiting.is_some());
        let queueing = self.queueing.get(rule).into_iter().flatten();
        let about_to = queueing.filter(|name| *name != group && !waits(name)).count();
        self.waiting.get(rule).map_or(0, BTreeSet::len).saturating_sub(usize::from(waits(group))) + about_to
    }

    /// Takes the groups out that have something due. Each comes back with its next change, or when everything is looked at anew.
    pub fn take_due(&mut self, now: Timestamp) -> Vec<NamespacedName> {
        let mut taken = Vec::new();
        while self.due.first().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, name)) = self.due.pop_first() {
                if let Some(known) = self.groups.get_mut(&name) {
                    known.due = None;
                }
                taken.push(NamespacedName::clone(&name));
            }
        }
        taken
    }

    /// The next time at which something is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(due, _)| *due)
    }
}

/// Since when a group waits for nothing but room, or for its rule to be taken up again. What a cooldown holds has a timer of its own.
fn waiting_since(spec: &AlertGroupSpec) -> Option<Timestamp> {
    let held = spec.alerts.iter().filter(|alert| alert.facts.is_some()).map(|alert| alert.starts_at);
    held.min().filter(|_| spec.episode.is_none() && spec.cooldown_until.is_none())
}

fn take_out(
    groups: &mut HashMap<NamespacedName, HashSet<NamespacedName>>,
    rule: &NamespacedName,
    group: &NamespacedName,
) {
    if let Some(of_rule) = groups.get_mut(rule) {
        of_rule.remove(group);
        if of_rule.is_empty() {
            groups.remove(rule);
        }
    }
}

fn less(counts: &mut HashMap<Arc<NamespacedName>, usize>, rule: &NamespacedName) {
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
