//! Which notification asks for something next, by time. Pure.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;

use crate::events::NamespacedName;

/// Times at which notifications are to be looked at: at most one for each.
#[derive(Debug, Default)]
pub(super) struct Due {
    order: BTreeSet<(Timestamp, NamespacedName)>,
    times: HashMap<NamespacedName, Timestamp>,
}

impl Due {
    /// Sets or, with none, forgets the time of one.
    pub fn set(&mut self, name: &NamespacedName, time: Option<Timestamp>) {
        let before = match time {
            Some(time) => self.times.insert(name.clone(), time),
            None => self.times.remove(name),
        };
        if let Some(before) = before {
            self.order.remove(&(before, name.clone()));
        }
        if let Some(time) = time {
            self.order.insert((time, name.clone()));
        }
    }

    /// Sets the time of one that has none.
    pub fn set_where_none(&mut self, name: &NamespacedName, time: Option<Timestamp>) {
        if !self.times.contains_key(name) {
            self.set(name, time);
        }
    }

    /// Takes out all whose time has come.
    pub fn take(&mut self, now: Timestamp) -> Vec<NamespacedName> {
        let mut due = Vec::new();
        while let Some((time, _)) = self.order.first()
            && *time <= now
            && let Some((_, name)) = self.order.pop_first()
        {
            self.times.remove(&name);
            due.push(name);
        }
        due
    }

    /// The first time.
    pub fn next(&self) -> Option<Timestamp> {
        self.order.first().map(|(time, _)| *time)
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.order.clear();
        self.times.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_due_once_at_its_last_time() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let name = |name: &str| NamespacedName { namespace: "shop".into(), name: name.into() };
        let mut due = Due::default();
        due.set(&name("a"), Some(at(5)));
        due.set(&name("b"), Some(at(3)));
        due.set(&name("a"), Some(at(9)));
        due.set(&name("c"), Some(at(1)));
        due.set(&name("c"), None);
        assert_eq!((due.next(), due.take(at(8))), (Some(at(3)), vec![name("b")]));
        assert_eq!((due.take(at(8)), due.take(at(9))), (vec![], vec![name("a")]));
        assert_eq!(due.next(), None);
    }
}
