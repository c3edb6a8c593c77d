//! One lane for each channel, so that a dead one holds up no other: only so many tries of one channel are under way at once, and what
//! finds its lane full stands in line without holding a worker. A channel whose last try failed is tried with one message at a time, so
//! that many dead ones leave workers for the others.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use crate::events::NamespacedName;

/// The most channels that are known to fail (promise 6); one more is taken for a healthy one.
const FAILING_MAX: usize = 4096;

/// The lanes of all channels.
#[derive(Clone)]
pub(super) struct Lanes(Arc<Inner>);

struct Inner {
    width: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lanes: HashMap<NamespacedName, Lane>,
    failing: HashSet<NamespacedName>,
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
        Self(Arc::new(Inner { width: width.max(1), state: Mutex::default() }))
    }

    /// A pass; or none, and the notification stands in line until [`Lanes::next`] gives it out.
    pub fn enter(&self, channel: &NamespacedName, notification: &NamespacedName) -> Option<Pass> {
        let mut state = self.lock();
        let width = self.width(&state, channel);
        let lane = state.lanes.entry(channel.clone()).or_default();
        if lane.busy < width {
            lane.busy += 1;
            return Some(Pass { lanes: self.clone(), channel: channel.clone() });
        }
        if lane.in_line.insert(notification.clone()) {
            lane.line.push_back(notification.clone());
        }
        None
    }

    /// Those that stand first in a lane, as many as it has room for. Asked whenever something of the channel came to an end, so a line
    /// always moves.
    pub fn next(&self, channel: &NamespacedName) -> Vec<NamespacedName> {
        let mut state = self.lock();
        let width = self.width(&state, channel);
        let Some(lane) = state.lanes.get_mut(channel) else { return Vec::new() };
        let room = width.saturating_sub(lane.busy).min(lane.line.len());
        let next: Vec<NamespacedName> = lane.line.drain(..room).collect();
        lane.in_line.retain(|name| !next.contains(name));
        if lane.busy == 0 && next.is_empty() {
            state.lanes.remove(channel);
        }
        next
    }

    /// Whether the channel's last try failed in a way that a later one may not.
    pub fn tell(&self, channel: &NamespacedName, failing: bool) {
        let failing_now = &mut self.lock().failing;
        if !failing {
            failing_now.remove(channel);
        } else if failing_now.len() < FAILING_MAX {
            failing_now.insert(channel.clone());
        }
    }

    /// The channels whose last try failed. Those that are not there any more are forgotten.
    pub fn failing(&self, is_there: impl Fn(&NamespacedName) -> bool) -> Vec<NamespacedName> {
        let failing = &mut self.lock().failing;
        failing.retain(is_there);
        let mut names: Vec<NamespacedName> = failing.iter().cloned().collect();
        names.sort();
        names
    }

    /// How many tries are under way, how many messages stand in line, and how many channels fail.
    pub fn depths(&self) -> (usize, usize, usize) {
        let state = self.lock();
        let (sending, in_line) = state
            .lanes
            .values()
            .fold((0, 0), |(sending, in_line), lane| (sending + lane.busy, in_line + lane.line.len()));
        (sending, in_line, state.failing.len())
    }

    fn width(&self, state: &State, channel: &NamespacedName) -> usize {
        if state.failing.contains(channel) { 1 } else { self.0.width }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(lane) = self.lanes.lock().lanes.get_mut(&self.channel) {
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
        assert_eq!(lanes.next(&dead), []);
        assert_eq!(lanes.depths(), (1, 2, 0));
        drop(pass);
        assert_eq!(lanes.next(&dead), [name("b")]);
        // One that has left the line may stand in it again.
        let pass = lanes.enter(&dead, &name("b")).unwrap();
        assert!(lanes.enter(&dead, &name("b")).is_none());
        drop(pass);
        assert_eq!(
            [lanes.next(&dead), lanes.next(&dead), lanes.next(&dead)],
            [vec![name("c")], vec![name("b")], vec![]]
        );
        assert!(!lanes.lock().lanes.contains_key(&dead), "an empty lane is forgotten");
    }

    #[test]
    fn a_channel_that_fails_is_tried_with_one_message_at_a_time_until_one_succeeds() {
        let lanes = Lanes::new(4);
        let channel = name("dead");
        let enter = |notification: &str| lanes.enter(&channel, &name(notification));
        lanes.tell(&channel, true);
        let probe = enter("a").unwrap();
        assert!(enter("b").is_none() && enter("c").is_none());
        lanes.tell(&channel, false);
        drop(probe);
        assert_eq!(lanes.next(&channel), [name("b"), name("c")]);
        let _passes = [enter("b").unwrap(), enter("c").unwrap()];
    }

    #[test]
    fn of_more_failing_channels_than_are_kept_one_is_taken_for_healthy() {
        let lanes = Lanes::new(4);
        (0..=FAILING_MAX).for_each(|n| lanes.tell(&name(&format!("dead-{n}")), true));
        assert_eq!(lanes.depths(), (0, 0, FAILING_MAX));
        let beyond = name(&format!("dead-{FAILING_MAX}"));
        let _passes = [lanes.enter(&beyond, &name("a")).unwrap(), lanes.enter(&beyond, &name("b")).unwrap()];
    }
}
