//! Server-side apply, as far as EventPulse uses it: a manager says what it wants, takes back what it said before and says no more, and
//! is told when somebody else has said otherwise (kubernetes.io/docs/reference/using-api/server-side-apply).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    answer::Cause,
    fields::{Path, leaves, merge},
};

/// Who applies, and to what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Manager {
    pub(crate) name: String,
    pub(crate) subresource: Option<String>,
}

/// Who has said which field of an object. A field that no apply has said, or that an update has written since, is an updater's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owners {
    applied: BTreeMap<Manager, BTreeSet<Path>>,
    /// What of it no updater has said as well.
    only_applied: BTreeSet<Path>,
}

/// How a conflict names those who do not apply.
const UPDATER: &str = "an update";

impl Owners {
    /// After somebody who does not apply has written: what he changed is his.
    pub(crate) fn after_update(&self, before: &Value, after: &Value) -> Self {
        let mut owners = self.clone();
        let is_kept = |path: &Path| path.get(before) == path.get(after);
        for fields in owners.applied.values_mut() {
            fields.retain(is_kept);
        }
        owners.applied.retain(|_, fields| !fields.is_empty());
        owners.only_applied.retain(is_kept);
        owners
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.applied.is_empty()
    }

    /// Who else has said this field.
    fn another<'a>(&'a self, manager: &Manager, path: &Path) -> Option<&'a str> {
        let others = self.applied.iter().filter(|(known, _)| *known != manager);
        let other = others.filter(|(_, fields)| fields.contains(path)).map(|(known, _)| known.name.as_str()).next();
        other.or_else(|| (!self.only_applied.contains(path)).then_some(UPDATER))
    }

    /// Takes a field from everybody but the one who applies it.
    fn take(&mut self, manager: &Manager, path: &Path) {
        for (known, fields) in &mut self.applied {
            if known != manager {
                fields.remove(path);
            }
        }
        self.only_applied.insert(path.clone());
    }
}

/// Gives the object as it is then and who owns its fields, or what somebody else has said otherwise. `config` has no fields that
/// cannot be applied.
pub(crate) fn apply(
    live: &Value,
    owners: &Owners,
    manager: &Manager,
    config: &Value,
    force: bool,
) -> Result<(Value, Owners), Vec<Cause>> {
    let wanted = leaves(config);
    let mut object = live.clone();
    merge(&mut object, config);
    let mut owners = owners.clone();
    let mut conflicts = Vec::new();
    for path in &wanted {
        match path.get(live) {
            None => drop(owners.only_applied.insert(path.clone())),
            Some(_) if path.is_item() => {}
            there if there == path.get(&object) => {}
            Some(_) => {
                if let Some(other) = owners.another(manager, path).filter(|_| !force) {
                    conflicts.push(Cause::owned(path.to_string(), other));
                }
                owners.take(manager, path);
            }
        }
    }
    if !conflicts.is_empty() {
        return Err(conflicts);
    }
    let said = owners.applied.insert(manager.clone(), wanted.clone()).unwrap_or_default();
    for path in said.difference(&wanted) {
        // It goes when nobody else has said it, or anything in it.
        let by_others = owners.applied.values().flatten().any(|known| known.is_below(path));
        if !by_others && owners.only_applied.contains(path) {
            path.remove(&mut object);
        }
    }
    let Owners { applied, only_applied } = &mut owners;
    applied.retain(|_, fields| !fields.is_empty());
    only_applied.retain(|path| path.get(&object).is_some());
    Ok((object, owners))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manager(name: &str) -> Manager {
        Manager { name: name.into(), subresource: None }
    }

    fn applied(live: &Value, owners: &Owners, by: &str, config: &Value) -> (Value, Owners) {
        apply(live, owners, &manager(by), config, false).unwrap()
    }

    #[test]
    fn a_manager_takes_back_what_it_says_no_more_and_nothing_else() {
        let live = json!({"data": {"theirs": "1"}});
        let (first, owners) = applied(&live, &Owners::default(), "a", &json!({"data": {"x": "1", "y": "1"}}));
        assert_eq!(first, json!({"data": {"theirs": "1", "x": "1", "y": "1"}}));
        let (second, owners) = applied(&first, &owners, "a", &json!({"data": {"y": "2"}}));
        assert_eq!(second, json!({"data": {"theirs": "1", "y": "2"}}));
        let (third, _) = applied(&second, &owners, "a", &json!({}));
        assert_eq!(third, live);
    }

    #[test]
    fn what_somebody_else_has_said_is_a_conflict_unless_it_is_forced() {
        let live = json!({"data": {"x": "1"}});
        let (a, b) = (manager("a"), manager("b"));
        let conflicts = apply(&live, &Owners::default(), &a, &json!({"data": {"x": "2"}}), false).unwrap_err();
        assert_eq!(conflicts.len(), 1);
        let (second, owners) = apply(&live, &Owners::default(), &a, &json!({"data": {"x": "2"}}), true).unwrap();
        let conflicts = apply(&second, &owners, &b, &json!({"data": {"x": "3"}}), false).unwrap_err();
        assert!(format!("{conflicts:?}").contains("conflict with \\\"a\\\""), "{conflicts:?}");
        let (third, owners) = apply(&second, &owners, &b, &json!({"data": {"x": "3"}}), true).unwrap();
        assert_eq!(third["data"]["x"], "3");
        // It was taken from `a`, which takes nothing back now.
        let (fourth, _) = apply(&third, &owners, &a, &json!({}), false).unwrap();
        assert_eq!(fourth, third);
    }

    #[test]
    fn an_update_takes_over_what_it_changes() {
        let (first, owners) = applied(&json!({}), &Owners::default(), "a", &json!({"data": {"x": "1", "y": "1"}}));
        let edited = json!({"data": {"x": "9", "y": "1"}});
        let owners = owners.after_update(&first, &edited);
        assert!(apply(&edited, &owners, &manager("a"), &json!({"data": {"x": "1"}}), false).is_err());
        let (back, _) = applied(&edited, &owners, "a", &json!({}));
        assert_eq!(back, json!({"data": {"x": "9"}}));
    }

    #[test]
    fn a_field_that_two_have_said_stays_until_both_take_it_back() {
        let config = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let (first, owners) = applied(&json!({}), &Owners::default(), "a", &config);
        let (second, owners) = applied(&first, &owners, "b", &config);
        let (third, owners) = applied(&second, &owners, "a", &json!({}));
        assert_eq!(third, first);
        let (fourth, owners) = applied(&third, &owners, "b", &json!({}));
        assert_eq!((fourth, owners.is_empty()), (json!({}), true));
    }
}
