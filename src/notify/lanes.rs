//! One lane for each channel, so that a dead one holds up no other: only so many tries of one channel are under way at once, and what
//! finds its lane full stands in line without holding a worker.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use crate::events::NamespacedName;

/// The lanes of all channels.
#[derive(Clone)]
pub(super) struct Lanes(Arc<Inner>);

struct Inner {
    width: usize,
    lanes: Mutex<HashMap<NamespacedName, Lane>>,
}

#[derive(Default)]
struct Lane {
    busy: usize,
    line: VecDeque<NamespacedName>,
    in_line: HashSet<NamespacedName>,
}

/// The right to send; dropping it makes room.
pub(super) struct Pass {
    lanes: Lanes,
    channel: NamespacedName,
}

impl Lanes {
    /// At most `width` tries of one channel at once.
    pub fn new(width: usize) -> Self {
        Self(Arc::new(Inner { width: width.max(1), lanes: Mutex::default() }))
    }

    /// A pass; or none, and the notification stands in line until [`Lanes::next`] gives it out.
    pub fn enter(&self, channel: &NamespacedName, notification: &NamespacedName) -> Option<Pass> {
        let mut lanes = self.lock();
        let lane = lanes.entry(channel.clone()).or_default();
        if lane.busy < self.0.width {
            lane.busy += 1;
            return Some(Pass { lanes: self.clone(), channel: channel.clone() });
        }
        if lane.in_line.insert(notification.clone()) {
            lane.line.push_back(notification.clone());
        }
        None
    }

    /// The one that stands first in a lane with room. Asked whenever something of the channel came to an end, so a line always moves.
    pub fn next(&self, channel: &NamespacedName) -> Option<NamespacedName> {
        let mut lanes = self.lock();
        let lane = lanes.get_mut(channel)?;
        if lane.busy >= self.0.width {
            return None;
        }
        let next = lane.line.pop_front();
        if let Some(next) = &next {
            lane.in_line.remove(next);
        } else if lane.busy == 0 {
            lanes.remove(channel);
        }
        next
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<NamespacedName, Lane>> {
        self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(lane) = self.lanes.lock().get_mut(&self.channel) {
            lane.busy = lane.busy.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> NamespacedName {
        NamespacedName { namespace: "shop".into(), name: name.into() }
    }

    #[test]
    fn a_full_lane_keeps_a_line_and_leaves_the_others_alone() {
        let lanes = Lanes::new(1);
        let (dead, live) = (name("dead"), name("live"));
        let pass = lanes.enter(&dead, &name("a")).unwrap();
        for waiting in ["b", "c", "b"] {
            assert!(lanes.enter(&dead, &name(waiting)).is_none());
        }
        assert!(lanes.enter(&live, &name("d")).is_some());
        assert_eq!(lanes.next(&dead), None);
        drop(pass);
        assert_eq!(lanes.next(&dead), Some(name("b")));
        // One that has left the line may stand in it again.
        let pass = lanes.enter(&dead, &name("b")).unwrap();
        assert!(lanes.enter(&dead, &name("b")).is_none());
        drop(pass);
        assert_eq!([lanes.next(&dead), lanes.next(&dead), lanes.next(&dead)], [Some(name("c")), Some(name("b")), None]);
        assert!(!lanes.lock().contains_key(&dead), "an empty lane is forgotten");
    }
}
