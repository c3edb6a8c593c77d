//! A storm on the running service: its bound, its messages, its end, a restart and a second replica in the middle.

use std::collections::BTreeSet;

use super::*;
use crate::api::v1alpha1::Duration as RuleDuration;

const BOUND: usize = 20;
const SERVICES: usize = 60;

fn of_service(service: usize, told: Told) -> Event {
    let mut event = told.event();
    if let Payload::AlertRaised(alert) = &mut event.payload {
        alert.labels.insert("service".into(), format!("svc-{service}"));
    }
    event.key = format!("key-{service}");
    event
}

fn config(config: &mut RulesConfig) {
    config.storm_threshold = BOUND;
    config.storm_calm = RuleDuration::from_secs(60);
}

fn started() -> Running {
    let api = FakeApi::new();
    put_rule(&api, &rule_with(|rule| rule.spec.actions.clear()));
    Running::start_with(api, MemoryBus::new(4), config)
}

impl Running {
    /// The services whose group has an open incident, and those that only wait; the storm's own group apart.
    fn services(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let (mut open, mut waiting) = (BTreeSet::new(), BTreeSet::new());
        for value in self.test.api.all(GROUPS) {
            let group: AlertGroup = serde_json::from_value(value).unwrap();
            let Some(service) = group.spec.group_by.get("service") else { continue };
            if group.spec.episode.is_some() {
                open.insert(service.clone());
            } else if group.spec.alerts.iter().any(|alert| alert.facts.is_some()) {
                waiting.insert(service.clone());
            }
        }
        (open, waiting)
    }

    fn storm(&self) -> Option<AlertGroup> {
        let groups =
            self.test.api.all(GROUPS).into_iter().map(|value| serde_json::from_value::<AlertGroup>(value).unwrap());
        groups.into_iter().find(|group| group.spec.storm.is_some())
    }

    /// Messages about the storm, by their template.
    fn told_of_storm(&self) -> Vec<String> {
        let requested = messages(&self.events(Topic::NotificationRequested)).into_iter();
        let of_storm = requested.filter(|message| message.incident.summary.starts_with("Storm: "));
        let ids: BTreeSet<(String, String)> =
            of_storm.map(|message| (message.template, message.notification_id.to_string())).collect();
        ids.into_iter().map(|(template, _)| template).collect()
    }

    async fn raise_all(&self, services: std::ops::Range<usize>) {
        self.publish(
            services.map(|service| of_service(service, firing(1, i64::try_from(service).unwrap_or(0)))).collect(),
        )
        .await;
    }

    async fn resolve(&self, services: &BTreeSet<String>) {
        let number = |service: &String| service.trim_start_matches("svc-").parse::<usize>().unwrap();
        let ended = services.iter().map(number).map(|n| of_service(n, resolved(1, i64::try_from(n).unwrap_or(0), 100)));
        self.publish(ended.collect()).await;
    }

    async fn is_full(&self) {
        until("the storm", || (self.services().0.len() == BOUND && self.storm().is_some()).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_opens_as_many_as_the_bound_and_each_alert_has_one_reason() {
    let running = started();
    running.test.clock.advance(SignedDuration::from_secs(100));
    running.raise_all(0..SERVICES).await;
    running.consumed(Topic::AlertRaised).await;
    running.is_full().await;
    let reasons: Vec<DecisionReason> = running.ledger().iter().map(|entry| entry.reason).collect();
    let count = |reason| reasons.iter().filter(|one| **one == reason).count();
    assert_eq!((count(DecisionReason::Opened), count(DecisionReason::Storm)), (BOUND, SERVICES - BOUND));
    let (open, waiting) = running.services();
    assert!(open.len() == BOUND && waiting.len() >= BOUND && waiting.len() <= SERVICES - BOUND, "{}", waiting.len());
    until("the message", || (running.told_of_storm() == ["IncidentOpened"]).then_some(())).await;
    assert_eq!(running.bus.records(Topic::ActionRequested).len(), 0);
    let is_told = || running.test.ctx.metrics.encode().unwrap().contains("eventpulse_storms 1").then_some(());
    until("the metric", is_told).await;
    running.stop().await;
}

/// Whatever waits opens in its turn, and never more than the bound are open; a restart and a second replica come in between.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_opens_in_turn_over_a_restart_and_the_end_is_told_once() {
    let running = started();
    running.test.clock.advance(SignedDuration::from_secs(100));
    running.raise_all(0..2 * BOUND).await;
    running.consumed(Topic::AlertRaised).await;
    running.is_full().await;
    until("the message", || (running.told_of_storm().len() == 1).then_some(())).await;
    let (first, waiting) = running.services();
    assert_eq!(waiting.len(), BOUND);
    // Half of them end: as many open, those that began first, and none beyond the bound.
    let ended: BTreeSet<String> = first.iter().take(BOUND / 2).cloned().collect();
    running.resolve(&ended).await;
    until("their successors", || (running.services().1.len() == BOUND / 2).then_some(())).await;
    running.is_full().await;

    let (api, bus) = running.stop().await;
    let running = Running::start_with(api, bus, config);
    let other = TestContext::with_api("rules", Arc::new(running.bus.clone()), running.test.api.clone());
    let mut others = RulesConfig { takeover_grace: Duration::ZERO, ..RulesConfig::default() };
    config(&mut others);
    other.ctx.tasks.spawn("rules", run(other.ctx.clone(), others));
    for test in [&running.test, &other] {
        test.clock.advance(SignedDuration::from_secs(100));
    }
    let (open, _) = running.services();
    running.resolve(&open).await;
    until("the rest", || (running.services().1.is_empty()).then_some(())).await;
    let (open, _) = running.services();
    assert!(open.len() <= BOUND, "{} are open", open.len());
    assert_eq!(running.told_of_storm(), ["IncidentOpened"], "it goes on");
    running.resolve(&open).await;
    until("the end of all", || (running.services().0.is_empty()).then_some(())).await;
    until("the end of the storm", || {
        [&running.test, &other].iter().for_each(|test| test.clock.advance(SignedDuration::from_secs(1)));
        running.storm()?.spec.storm?.ended_at
    })
    .await;
    until("the second message", || (running.told_of_storm() == ["IncidentOpened", "IncidentResolved"]).then_some(()))
        .await;
    let opened = running.events(Topic::IncidentOpened).into_iter();
    let ids: BTreeSet<String> =
        opened.filter_map(|event| Some(event.payload.incident()?.incident_id.to_string())).collect();
    assert_eq!(ids.len(), 2 * BOUND + 1, "each group once, and the storm");
    other.ctx.shutdown.cancel();
    other.ctx.tasks.finished().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_one_rule_holds_up_no_other_rule() {
    let running = started();
    let critical = rule_with(|rule| {
        rule.metadata.name = Some("critical".into());
        rule.spec.r#match.matchers = vec!["alertname=\"Down\"".into()];
        rule.spec.r#match.conditions.clear();
        rule.spec.actions.clear();
    });
    put_rule(&running.test.api, &critical);
    running.test.clock.advance(SignedDuration::from_secs(100));
    running.raise_all(0..500).await;
    running.is_full().await;
    let mut down = of_service(7, firing(9, 0));
    if let Payload::AlertRaised(alert) = &mut down.payload {
        alert.labels.insert("alertname".into(), "Down".into());
    }
    running.publish(vec![down]).await;
    let of_critical = |entry: &AlertDecided| entry.rule.as_ref().is_some_and(|rule| rule.name == "critical");
    let entry = until("the critical one", || running.ledger().into_iter().find(of_critical)).await;
    assert_eq!(entry.reason, DecisionReason::Opened);
    running.stop().await;
}
