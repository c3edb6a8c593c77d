//! Which rules an alert matches: an index, so that a thousand rules cost no more than a few. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::compile::CompiledRule;
use crate::{
    events::{AlertRaised, NamespacedName},
    expression::{AlertFacts, ExpressionError, Scope},
    matcher::Operator,
};

/// Every usable rule, indexed. Immutable: a change of one rule makes a new set.
#[derive(Debug, Default)]
pub struct RuleSet {
    rules: Vec<Arc<CompiledRule>>,
    by_name: HashMap<NamespacedName, usize>,
    /// By a label's name and value that the rule needs: its rarest equality matcher.
    by_label: HashMap<String, HashMap<String, Vec<usize>>>,
    /// Rules without an equality matcher, by their namespace.
    others: BTreeMap<String, Vec<usize>>,
}

/// What one rule says of an alert that its matchers match.
#[derive(Clone, Debug)]
pub struct RuleMatch {
    /// The rule.
    pub rule: Arc<CompiledRule>,
    /// Why its conditions could not be decided, where they could not.
    pub error: Option<ExpressionError>,
}

impl RuleSet {
    /// Indexes the rules.
    pub fn new(mut rules: Vec<Arc<CompiledRule>>) -> Self {
        rules.sort_by(|a, b| a.name.cmp(&b.name));
        let mut frequency: HashMap<(&str, &str), usize> = HashMap::new();
        for rule in &rules {
            for pair in equalities(rule) {
                *frequency.entry(pair).or_default() += 1;
            }
        }
        let mut by_name = HashMap::new();
        let mut by_label: HashMap<String, HashMap<String, Vec<usize>>> = HashMap::new();
        let mut others: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, rule) in rules.iter().enumerate() {
            by_name.insert(rule.name.clone(), index);
            match equalities(rule).min_by_key(|pair| frequency.get(pair)) {
                Some((name, value)) => {
                    by_label.entry(name.into()).or_default().entry(value.into()).or_default().push(index);
                }
                None => others.entry(rule.name.namespace.clone()).or_default().push(index),
            }
        }
        Self { rules, by_name, by_label, others }
    }

    /// A rule by its name.
    pub fn get(&self, name: &NamespacedName) -> Option<&Arc<CompiledRule>> {
        self.by_name.get(name).and_then(|index| self.rules.get(*index))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules that an alert matches, in the order of their names, and those that could not say.
    pub fn matches(&self, alert: &AlertRaised, fingerprint: &str) -> Vec<RuleMatch> {
        let mut found: Vec<usize> = self.candidates(&alert.labels);
        found.sort_unstable();
        let mut scope = None;
        found
            .into_iter()
            .filter_map(|index| self.rules.get(index))
            .filter(|rule| rule.matches_labels(&alert.labels))
            .filter_map(|rule| {
                let held = if rule.has_conditions() {
                    rule.conditions_hold(scope.get_or_insert_with(|| scope_of(alert, fingerprint)))
                } else {
                    Ok(true)
                };
                match held {
                    Ok(false) => None,
                    Ok(true) => Some(RuleMatch { rule: Arc::clone(rule), error: None }),
                    Err(error) => Some(RuleMatch { rule: Arc::clone(rule), error: Some(error) }),
                }
            })
            .collect()
    }

    pub(super) fn candidates(&self, labels: &BTreeMap<String, String>) -> Vec<usize> {
        let by_label = labels.iter().filter_map(|(name, value)| self.by_label.get(name)?.get(value)).flatten();
        match labels.get("namespace").filter(|namespace| !namespace.is_empty()) {
            Some(namespace) => by_label.chain(self.others.get(namespace).into_iter().flatten()).copied().collect(),
            None => by_label.chain(self.others.values().flatten()).copied().collect(),
        }
    }
}

/// Labels that an alert must carry with this very value. An empty value is no such thing: a missing label matches it.
fn equalities(rule: &CompiledRule) -> impl Iterator<Item = (&str, &str)> {
    rule.matchers()
        .iter()
        .filter(|matcher| matcher.operator() == Operator::Equal && !matcher.value().is_empty())
        .map(|matcher| (matcher.name(), matcher.value()))
}

/// The values that a rule's expressions speak of.
pub fn scope_of(alert: &AlertRaised, fingerprint: &str) -> Scope {
    Scope::default().with_alert(&AlertFacts {
        labels: &alert.labels,
        annotations: &alert.annotations,
        status: alert.status,
        starts_at: alert.starts_at,
        ends_at: alert.ends_at,
        fingerprint,
        source: &alert.source,
    })
}
