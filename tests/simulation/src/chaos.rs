//! What goes wrong beside the calls themselves: replicas that are killed, stopped or frozen, clocks that are set, partitions that
//! move, a broker or an API server that is away, and people who change things.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use eventpulse::{
    bus::MemoryBus,
    events::{Record, Topic},
};
use eventpulse_oracle::Possible;
use jiff::SignedDuration;
use tokio::time::sleep;

use crate::{
    cluster,
    coverage::Fault,
    fleet::Fleet,
    gate::Gate,
    ports::log::{Members, append},
    replica::Replica,
    scenario::collection,
    world::{Moment, Rates, World},
};

const GROUPS: [&str; 4] = ["rules", "actions", "incidents", "notify"];
/// How far a group may be set back.
const REWIND_MAX: usize = 12;
/// Frozen for as long as one can be, killed right after, and slow then; in seconds.
const DEAF_S: i64 = 120;
/// How long a patch is waited for that is to be interrupted.
const PATCH_COMES_WITHIN_S: u32 = 20;

/// How much goes wrong in a history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub rates: Rates,
    /// Between two things that go wrong, on average twice this.
    pub every: Duration,
    /// Whether clocks differ.
    pub clocks: bool,
    /// Whether somebody deletes what rules remembers. Then it cannot know what comes again, so nothing old does.
    pub forgets: bool,
}

impl Plan {
    pub(crate) fn new(world: &World) -> Self {
        let chance = &world.chance;
        let rate = |choices: &[u64]| chance.pick(choices).copied().unwrap_or(0);
        Self {
            rates: Rates {
                request: rate(&[0, 5, 20, 60]),
                patch: rate(&[0, 100, 600]),
                watch: rate(&[0, 10, 50]),
                publish: rate(&[0, 10, 60]),
                message: rate(&[0, 100, 500]),
            },
            every: Duration::from_secs(rate(&[1, 3, 8])),
            clocks: chance.permille(300),
            forgets: chance.permille(150),
        }
    }

    /// What it excuses: an alert is older than its rule only by another clock, and an action fails by itself only where calls do.
    pub(crate) fn possible(&self) -> Possible {
        let calls_fail = self.rates.request > 0 || self.rates.patch > 0;
        Possible {
            alerts: if self.clocks { vec!["stale"] } else { Vec::new() },
            actions: if calls_fail { vec!["Refused", "RetriesExhausted"] } else { Vec::new() },
            deaf_s: DEAF_S,
            ..Possible::default()
        }
    }

    /// From now on, until [`calm`].
    pub(crate) fn begin(&self, world: &World) {
        world.set_rates(self.rates);
        let mut at = 0;
        let crashes = (0..world.chance.below(5)).map(|_| {
            at += world.chance.between(1, 60) as u64;
            (at, if world.chance.permille(500) { Moment::Before } else { Moment::After })
        });
        world.set_crashes(crashes.collect::<Vec<_>>());
    }
}

/// Until it is dropped.
pub(crate) async fn rage(world: Arc<World>, fleet: Arc<Fleet>, plan: Plan) {
    loop {
        sleep(world.chance.time(Duration::ZERO, plan.every * 2)).await;
        match world.chance.below(24) {
            0 | 1 => kill(&world, &fleet),
            2 => stop(&world, &fleet),
            3 => freeze(&world, &fleet).await,
            4 => freeze_patch(&world, &fleet).await,
            5 if plan.clocks => set_clock(&world, &fleet),
            6 | 7 => rebalance(&world, &fleet).await,
            8 if !plan.forgets => lose_offsets(&world).await,
            9 | 10 if !plan.forgets => again(&world).await,
            11 => be_away(&world, Fault::BrokerAway).await,
            12 => be_away(&world, Fault::ApiServerAway).await,
            13 => {
                world.reached(Fault::Compacted);
                world.timeline.note("api server", "forgets its history and ends all watches");
                world.api.compact();
                world.api.break_watches();
            }
            14 | 15 => cluster::scale(&world),
            16 => cluster::replace(&world).await,
            17 => cluster::rewind(&world),
            18 => cluster::decide(&world),
            19 => cluster::suspend(&world).await,
            20 if plan.forgets => cluster::forget_group(&world),
            21 | 22 => slow(&world, &fleet).await,
            23 => be_away(&world, Fault::WebhookAway).await,
            _ => {}
        }
    }
}

/// Nothing goes wrong any more.
pub(crate) fn calm(world: &World, fleet: &Fleet) {
    world.timeline.note("", "CALM");
    world.set_rates(Rates::default());
    world.set_crashes([]);
    world.freezes_patch.store(false, Ordering::SeqCst);
    world.api_is_away.store(false, Ordering::SeqCst);
    world.webhook_is_away.store(false, Ordering::SeqCst);
    world.broker_is_away.store(false, Ordering::SeqCst);
    world.log.set_available(true);
    for rule in world.api.all(&collection("rules")) {
        if rule["spec"]["suspend"] == true {
            let mut rule = rule;
            rule["spec"]["suspend"] = false.into();
            world.api.put(&collection("rules"), rule);
        }
    }
    for group in GROUPS {
        for member in world.log.members(group) {
            world.log.hear(group, member, true);
            world.log.slow(group, member, Duration::ZERO);
        }
    }
    for replica in fleet.replicas().iter() {
        replica.clock.set(SignedDuration::ZERO);
        replica.gate.thaw();
    }
    fleet.replace();
}

fn kill(world: &World, fleet: &Fleet) {
    let replicas = fleet.replicas();
    let Some(replica) = world.chance.pick(&replicas) else { return };
    world.crash(&replica.gate, &replica.name, Fault::Killed);
}

fn stop(world: &World, fleet: &Fleet) {
    let replicas = fleet.replicas();
    let Some(replica) = world.chance.pick(&replicas) else { return };
    world.reached(Fault::Stopped);
    world.timeline.note(&replica.name, "is asked to stop");
    replica.stop();
}

/// What of a frozen replica is needed to bring it back.
struct Frozen {
    gate: Gate,
    members: Members,
    name: Arc<str>,
}

impl Frozen {
    fn of(replica: &Replica) -> Self {
        let (gate, members) = (replica.gate.clone(), Arc::clone(&replica.members));
        Self { gate, members, name: Arc::clone(&replica.name) }
    }

    /// Its group gives its partitions to others after a while, and it goes on as if nothing had been.
    async fn pass(self, world: &World) {
        let hear = |is_heard| {
            let members = self.members.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for (group, member) in members {
                world.log.hear(&group, member, is_heard);
            }
        };
        sleep(world.chance.time(Duration::from_millis(10), Duration::from_secs(20))).await;
        if world.chance.permille(700) {
            hear(false);
            sleep(world.chance.time(Duration::from_millis(10), Duration::from_secs(50))).await;
        }
        world.timeline.note(&self.name, "goes on");
        self.gate.thaw();
        sleep(world.chance.time(Duration::ZERO, Duration::from_secs(2))).await;
        hear(true);
    }
}

/// One is frozen, whatever it is at.
async fn freeze(world: &World, fleet: &Fleet) {
    let frozen = {
        let replicas = fleet.replicas();
        let Some(replica) = world.chance.pick(&replicas) else { return };
        Frozen::of(replica)
    };
    world.reached(Fault::Frozen);
    world.timeline.note(&frozen.name, "FROZEN");
    frozen.gate.freeze();
    frozen.pass(world).await;
}

/// The next one that patches a target is frozen in the middle of it.
async fn freeze_patch(world: &World, fleet: &Fleet) {
    world.freezes_patch.store(true, Ordering::SeqCst);
    for _ in 0..PATCH_COMES_WITHIN_S * 10 {
        sleep(Duration::from_millis(100)).await;
        if !world.freezes_patch.load(Ordering::SeqCst) {
            let frozen = fleet.replicas().iter().find(|replica| replica.gate.is_frozen()).map(Frozen::of);
            // It may have been killed since.
            if let Some(frozen) = frozen {
                world.reached(Fault::FrozenUnderWay);
                frozen.pass(world).await;
            }
            return;
        }
    }
    world.freezes_patch.store(false, Ordering::SeqCst);
}

fn set_clock(world: &World, fleet: &Fleet) {
    let replicas = fleet.replicas();
    let Some(replica) = world.chance.pick(&replicas) else { return };
    let seconds = world.chance.between(0, 40) as i64 - 20;
    world.reached(if seconds < 0 { Fault::ClockBack } else { Fault::ClockForward });
    world.timeline.note(&replica.name, format_args!("its clock is {seconds} s off"));
    replica.clock.set(SignedDuration::from_secs(seconds));
}

/// A member is not heard of for a while, and goes on working all the same.
async fn rebalance(world: &World, fleet: &Fleet) {
    let Some((group, member)) = some_member(world, fleet) else { return };
    let moved = world.log.hear(&group, member, false);
    world.timeline.note("broker", format_args!("does not hear of member {member} of {group}: {moved} partitions move"));
    if moved > 0 {
        world.reached(Fault::Rebalanced);
    }
    sleep(world.chance.time(Duration::from_millis(1), Duration::from_secs(10))).await;
    world.log.hear(&group, member, true);
}

/// A member takes its time for every record, so that what it consumes piles up while everything else goes on.
async fn slow(world: &World, fleet: &Fleet) {
    let Some((group, member)) = some_member(world, fleet) else { return };
    let pace = world.chance.time(Duration::from_millis(50), Duration::from_secs(3));
    world.timeline.note("broker", format_args!("member {member} of {group} takes {pace:?} for a record"));
    world.log.slow(&group, member, pace);
    let mut waited = false;
    for _ in 0..world.chance.between(2, 15) {
        sleep(Duration::from_secs(1)).await;
        waited |= world.log.lag(&group) > 1;
    }
    if waited {
        world.reached(Fault::ConsumerSlow);
    }
    world.log.slow(&group, member, Duration::ZERO);
}

fn some_member(world: &World, fleet: &Fleet) -> Option<(String, u64)> {
    let replicas = fleet.replicas();
    let replica = world.chance.pick(&replicas)?;
    let members = replica.members.lock().unwrap_or_else(PoisonError::into_inner);
    world.chance.pick(&members).cloned()
}

/// A whole group begins again some records before where it was.
async fn lose_offsets(world: &World) {
    let Some(group) = world.chance.pick(&GROUPS) else { return };
    let members = world.log.members(group);
    for member in &members {
        world.log.hear(group, *member, false);
    }
    sleep(world.chance.time(Duration::from_millis(5), Duration::from_secs(1))).await;
    let by = world.chance.between(1, REWIND_MAX) as u64;
    if world.log.rewind(group, by) > 0 {
        world.reached(Fault::OffsetsLost);
        world.timeline.note("broker", format_args!("loses the last {by} offsets of {group}"));
    }
    for member in &members {
        world.log.hear(group, *member, true);
    }
}

/// Every record of the log that some service consumes.
pub(crate) fn everything(log: &MemoryBus) -> Vec<Record> {
    Topic::ALL
        .into_iter()
        .filter(|topic| !matches!(topic, Topic::AlertDecided | Topic::DeadLetter))
        .flat_map(|topic| log.records(topic))
        .collect()
}

/// Some record of the log comes once more.
async fn again(world: &World) {
    let Some(record) = world.chance.pick(&everything(&world.log)).cloned() else { return };
    world.reached(Fault::OldRecordAgain);
    if append(world, "broker", vec![record]).await.is_err() {
        world.timeline.note("broker", "does not take it");
    }
}

async fn be_away(world: &World, what: Fault) {
    world.reached(what);
    world.timeline.note("", format_args!("{}", what.text()));
    let flag = match what {
        Fault::BrokerAway => &world.broker_is_away,
        Fault::WebhookAway => &world.webhook_is_away,
        _ => &world.api_is_away,
    };
    flag.store(true, Ordering::SeqCst);
    match what {
        Fault::BrokerAway => world.log.set_available(false),
        Fault::ApiServerAway => world.api.break_watches(),
        _ => {}
    }
    sleep(world.chance.time(Duration::from_millis(50), Duration::from_secs(30))).await;
    flag.store(false, Ordering::SeqCst);
    world.log.set_available(true);
    world.timeline.note("", "is back");
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use eventpulse::bus::{Bus as _, SubscribeOptions, Subscription, SubscriptionEvent};
    use tokio::time::timeout;

    use super::*;

    const GROUP: &str = "rules";

    async fn join(log: &MemoryBus) -> Subscription {
        let options = SubscribeOptions { group: GROUP.into(), topics: vec![Topic::AlertRaised], max_in_flight: 10 };
        log.subscribe(options).await.unwrap()
    }

    /// Takes and acknowledges what comes within this time. Gives how many records.
    async fn take(subscription: &mut Subscription, within: Duration) -> usize {
        let mut taken = 0;
        let all = async {
            while let Some(event) = subscription.next().await {
                if let SubscriptionEvent::Message(delivery) = event {
                    delivery.ack.done();
                    taken += 1;
                }
            }
        };
        assert!(timeout(within, all).await.is_err(), "the membership ended");
        taken
    }

    #[tokio::test(start_paused = true)]
    async fn partitions_move_where_there_is_another_member_and_only_there() {
        let log = MemoryBus::new(2);
        let _first = join(&log).await;
        let member = log.members(GROUP)[0];
        assert_eq!(log.hear(GROUP, member, false), 0);
        assert_eq!(log.hear(GROUP, member, true), 0);
        let _second = join(&log).await;
        assert_eq!(log.hear(GROUP, member, false), 1);
        assert_eq!(log.hear(GROUP, member, false), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_slow_member_consumes_waits_and_comes() {
        let log = MemoryBus::new(1);
        let mut subscription = join(&log).await;
        log.slow(GROUP, log.members(GROUP)[0], Duration::from_secs(1));
        let record =
            Record { topic: Topic::AlertRaised, key: None, headers: Vec::new(), value: Bytes::from_static(b"{}") };
        log.publish(vec![record; 5]).await.unwrap();
        assert_eq!(take(&mut subscription, Duration::from_millis(2_500)).await, 3);
        // The third is finished for the group when the member comes back to it.
        assert_eq!(log.lag(GROUP), 3);
        log.slow(GROUP, log.members(GROUP)[0], Duration::ZERO);
        assert_eq!(take(&mut subscription, Duration::from_secs(2)).await, 2);
        assert_eq!(log.lag(GROUP), 0);
    }
}
