//! The scenarios: each is one of the measures that EventPulse is held to, plays on a stage of its own, and fails when something was
//! lost, done twice or not done, however fast it was.

mod apart;
mod flow;
mod idle;
mod intake;
mod matching;
mod memory;
mod patches;
mod react;
mod replay;
mod retries;
mod storm;
mod waiting;
mod webhook;
mod writes;

use std::time::Duration;

use crate::{
    outcome::{Bus, Outcome},
    run::Options,
};

/// What can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Its name, for `--only`.
    pub name: &'static str,
    /// What it measures, for people.
    pub what: &'static str,
    /// The buses that it runs on unless the user says otherwise; none: there is no bus in it.
    pub buses: &'static [Bus],
    /// About how long it takes on one bus, start of the parts included.
    pub takes: Duration,
    /// The same with `--quick`.
    pub takes_quick: Duration,
    /// It is so long that it is played only where it is asked for.
    pub by_name: bool,
}

/// Incidents of one rule: 1,000 open ones are a storm, and further alerts open none. These are well below, however far behind it is.
const OF_A_RULE: u64 = 500;

const BOTH: &[Bus] = &[Bus::Kafka, Bus::Embedded];
const KAFKA: &[Bus] = &[Bus::Kafka];

const fn scenario(
    name: &'static str,
    what: &'static str,
    buses: &'static [Bus],
    takes_s: u64,
    takes_quick_s: u64,
) -> Scenario {
    let (takes, takes_quick) = (Duration::from_secs(takes_s), Duration::from_secs(takes_quick_s));
    Scenario { name, what, buses, takes, takes_quick, by_name: false }
}

/// All of them, in the order in which they run.
pub const ALL: [Scenario; 16] = [
    scenario("matching", "rule matching at 1,000 rules, on one core", &[], 25, 8),
    scenario("react", "alert → Deployment patched, 10 a second over 5 minutes", BOTH, 390, 60),
    scenario("burst", "500 targets at 200 a second", BOTH, 60, 50),
    scenario("webhook", "answers of the webhook at 200 requests a second", KAFKA, 100, 40),
    scenario("single", "requests of one alert, 5,000 a second", KAFKA, 90, 45),
    scenario(
        "intake",
        "20,000 alerts a second for a minute in requests of 50, each of its own and none that a rule matches, and the backlog drained",
        KAFKA,
        240,
        60,
    ),
    scenario(
        "pipeline",
        "10,000 alerts a second for 2 minutes, each of its own, beside 100 rules of other alerts, with the decisions keeping up",
        KAFKA,
        260,
        60,
    ),
    scenario(
        "actions",
        "100 actions a second for 2 minutes, beside a plain client with the same writes",
        KAFKA,
        960,
        80,
    ),
    scenario("writes", "writes to the API for one incident with one action and one message", KAFKA, 260, 70),
    scenario(
        "memory",
        "memory when idle and with 10,000 incidents, and how soon it is ready with them",
        KAFKA,
        560,
        95,
    ),
    scenario("idle", "writes and CPU in 10 minutes with 1,000 incidents and nothing to do", KAFKA, 760, 110),
    scenario(
        "storm",
        "10,000 alerts of 10,000 groups and 20 rules within a second, one of a hundred critical",
        KAFKA,
        180,
        80,
    ),
    scenario(
        "apart",
        "a receiver that hangs, and targets that hang, beside alerts that have nothing to do with them",
        KAFKA,
        640,
        150,
    ),
    scenario("retries", "what retries add where one of five calls fails", KAFKA, 330, 70),
    scenario("retention", "a million alerts, and what is over is kept for a minute", KAFKA, 1_080, 110),
    Scenario {
        by_name: true,
        ..scenario("soak", "an hour of alerts: memory, topics, etcd, SQLite", KAFKA, 3_680, 130)
    },
];

impl Scenario {
    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|scenario| scenario.name == name)
    }

    /// Plays it.
    pub async fn play(self, options: &Options, bus: Option<Bus>) -> anyhow::Result<Outcome> {
        let bus_or = bus.unwrap_or(Bus::Kafka);
        match self.name {
            "matching" => matching::play(options).await,
            "react" => react::play(options, bus_or, react::Reaction::react(options.quick)).await,
            "burst" => react::play(options, bus_or, react::Reaction::burst(options.quick)).await,
            "actions" => react::play(options, bus_or, react::Reaction::actions(options.quick)).await,
            "webhook" => webhook::play(options, bus_or).await,
            "single" => intake::play(options, bus_or, intake::Intake::single(options.quick)).await,
            "intake" => intake::play(options, bus_or, intake::Intake::in_fifties(options.quick)).await,
            "pipeline" => intake::play(options, bus_or, intake::Intake::pipeline(options.quick)).await,
            "writes" => writes::play(options, bus_or).await,
            "memory" => memory::play(options, bus_or).await,
            "idle" => idle::play(options, bus_or).await,
            "storm" => storm::play(options, bus_or).await,
            "apart" => apart::play(options, bus_or).await,
            "retries" => retries::play(options, bus_or).await,
            "retention" => flow::play(options, bus_or, flow::Flow::retention(options.quick)).await,
            "soak" => flow::play(options, bus_or, flow::Flow::soak(options.quick)).await,
            other => anyhow::bail!("{other} is no scenario"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_a_name_of_its_own_and_a_time() {
        for (i, scenario) in ALL.iter().enumerate() {
            assert_eq!(Scenario::named(scenario.name), Some(*scenario), "the name of number {i} is another's");
            assert!(
                scenario.takes_quick < scenario.takes && scenario.name.bytes().all(|byte| byte.is_ascii_lowercase())
            );
        }
        assert_eq!(Scenario::named("nothing"), None);
    }
}
