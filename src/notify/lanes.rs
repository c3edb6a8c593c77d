//! One lane for each channel, so that a dead one holds up no other: only so many tries of one channel are under way at once, and what
//! finds its lane full stands in line without holding a worker. A channel whose last try failed is left alone for a while, the longer the
//! more tries failed, and is then tried with one message at a time: what waits for it waits untried, and is sent once when it is back.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    events::NamespacedName,
    runtime::{random::exponential, retry_budget::RetryBudget},
};

/// The most channels that are known to fail, and of which retries are counted (promise 6); one more is taken for a healthy one.
const FAILING_MAX: usize = 4096;
/// How long a channel is left alone after its first try that failed, and at most.
const PAUSE_INITIAL: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

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
    failing: HashMap<NamespacedName, Failing>,
    retries: HashMap<NamespacedName, Retries>,
}

#[derive(Default)]
struct Lane {
    busy: usize,
    line: VecDeque<NamespacedName>,
    in_line: HashSet<NamespacedName>,
}

/// A channel whose last try failed.
struct Failing {
    /// Tries that failed since the last one that did not.
    failures: u32,
    left_alone_until: Instant,
}

/// What a channel is sent again.
#[derive(Default)]
struct Retries {
    budget: RetryBudget,
    /// Tries that failed and were not repeated yet. What waits for another reason is no retry, though it was tried: nothing was sent.
    owed: u32,
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

    /// Those that stand first in a lane, as many as it has room for. Asked whenever something of the channel came to an end, and when it
    /// has been left alone for long enough, so a line always moves.
    pub fn next(&self, channel: &NamespacedName) -> Vec<NamespacedName> {
        let mut state = self.lock();
        let width = self.width(&state, channel);
        let Some(lane) = state.lanes.get_mut(channel) else { return Vec::new() };
        let room = width.saturating_sub(lane.busy).min(lane.line.len());
        let next: Vec<NamespacedName> = lane.line.drain(..room).collect();
        lane.in_line.retain(|name| !next.contains(name));
        if lane.busy == 0 && next.is_empty() && lane.line.is_empty() {
            state.lanes.remove(channel);
        }
        next
    }

    /// A try of the channel has failed in a way that a later one may not. Gives for how long it is left alone: then [`Lanes::next`] is to
    /// be asked. `asked` is what the receiver itself has asked for.
    pub fn failed(&self, channel: &NamespacedName, asked: Option<Duration>) -> Duration {
        let mut state = self.lock();
        if state.failing.len() >= FAILING_MAX && !state.failing.contains_key(channel) {
            return Duration::ZERO;
        }
        if state.retries.len() < FAILING_MAX || state.retries.contains_key(channel) {
            let retries = state.retries.entry(channel.clone()).or_default();
            retries.owed = retries.owed.saturating_add(1);
            retries.budget.was_taken(false);
        }
        let (now, failing) = (Instant::now(), &mut state.failing);
        let known = failing.entry(channel.clone()).or_insert(Failing { failures: 0, left_alone_until: now });
        let pause = exponential(PAUSE_INITIAL, PAUSE_MAX, known.failures).max(asked.unwrap_or_default().min(PAUSE_MAX));
        known.failures = known.failures.saturating_add(1);
        known.left_alone_until = now + pause;
        pause
    }

    /// A try of the channel has succeeded, or has said nothing of it.
    pub fn works(&self, channel: &NamespacedName) {
        let mut state = self.lock();
        state.failing.remove(channel);
        if let Some(retries) = state.retries.get_mut(channel) {
            retries.budget.was_taken(true);
        }
    }

    /// A message is sent for the first time.
    pub fn first_try(&self, channel: &NamespacedName, now: Timestamp) {
        if let Some(retries) = self.lock().retries.get_mut(channel) {
            retries.budget.call(now);
        }
    }

    /// Whether a message may be sent again now.
    pub fn may_retry(&self, channel: &NamespacedName, now: Timestamp) -> bool {
        let known = &mut self.lock().retries;
        known.retain(|_, retries| retries.owed > 0 || !retries.budget.is_full(now));
        let Some(retries) = known.get_mut(channel).filter(|retries| retries.owed > 0) else { return true };
        let may = retries.budget.take(now);
        retries.owed -= u32::from(may);
        may
    }

    /// The channels whose last try failed. Those that are not there any more are forgotten.
    pub fn failing(&self, is_there: impl Fn(&NamespacedName) -> bool) -> Vec<NamespacedName> {
        let failing = &mut self.lock().failing;
        failing.retain(|channel, _| is_there(channel));
        let mut names: Vec<NamespacedName> = failing.keys().cloned().collect();
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
        match state.failing.get(channel) {
            None => self.0.width,
            Some(failing) if Instant::now() < failing.left_alone_until => 0,
            Some(_) => 1,
        }
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

    #[tokio::test(start_paused = true)]
    async fn a_channel_that_fails_is_tried_with_one_message_at_a_time_until_one_succeeds() {
        let lanes = Lanes::new(4);
        let channel = name("dead");
        let enter = |notification: &str| lanes.enter(&channel, &name(notification));
        tokio::time::advance(lanes.failed(&channel, None)).await;
        let probe = enter("a").unwrap();
        assert!(enter("b").is_none() && enter("c").is_none());
        lanes.works(&channel);
        drop(probe);
        assert_eq!(lanes.next(&channel), [name("b"), name("c")]);
        let _passes = [enter("b").unwrap(), enter("c").unwrap()];
    }

    #[test]
    fn of_more_failing_channels_than_are_kept_one_is_taken_for_healthy() {
        let lanes = Lanes::new(4);
        for n in 0..=FAILING_MAX {
            lanes.failed(&name(&format!("dead-{n}")), None);
        }
        assert_eq!(lanes.depths(), (0, 0, FAILING_MAX));
        let beyond = name(&format!("dead-{FAILING_MAX}"));
        let _passes = [lanes.enter(&beyond, &name("a")).unwrap(), lanes.enter(&beyond, &name("b")).unwrap()];
    }

    #[tokio::test(start_paused = true)]
    async fn a_channel_that_fails_is_left_alone_for_longer_and_longer() {
        let lanes = Lanes::new(4);
        let channel = name("dead");
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let pause = lanes.failed(&channel, None);
            assert!(lanes.enter(&channel, &name("a")).is_none() && lanes.next(&channel).is_empty());
            tokio::time::advance(pause).await;
            assert_eq!(lanes.next(&channel), [name("a")], "the line moves when the pause is over");
            drop(lanes.enter(&channel, &name("a")).unwrap());
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        lanes.works(&channel);
        let _passes = ["a", "b", "c", "d"].map(|message| lanes.enter(&channel, &name(message)).unwrap());
        assert_eq!(lanes.failed(&channel, Some(Duration::from_secs(3))).as_secs(), 3, "as the receiver asks");
        assert_eq!(lanes.failed(&channel, Some(Duration::from_secs(3_600))), PAUSE_MAX);
    }

    #[test]
    fn retries_to_one_channel_have_a_budget_of_their_own() {
        let (lanes, now) = (Lanes::new(4), Timestamp::UNIX_EPOCH);
        let (one, other) = (name("one"), name("other"));
        assert!((0..100).all(|_| lanes.may_retry(&one, now)), "nothing of it was sent");
        for _ in 0..100 {
            lanes.failed(&one, None);
        }
        lanes.failed(&other, None);
        assert_eq!((0..100).filter(|_| lanes.may_retry(&one, now)).count(), 20);
        assert!(lanes.may_retry(&other, now));
        (0..100).for_each(|_| lanes.first_try(&one, now));
        let more = (0..100).filter(|_| lanes.may_retry(&one, now)).count();
        assert!((4..=5).contains(&more), "a twentieth of what is sent for the first time: {more}");
    }
}
