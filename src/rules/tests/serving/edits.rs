//! Edits of a rule while an incident of it is open: its alerts go on and end where they are known.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::events::AlertStatus;

/// The group of `firing(1, …)` under the seed scenario's rule.
fn group_of_a(running: &Running) -> AlertGroup {
    let name = Scenario::seed().key().correlation.to_string();
    let group = running.test.api.get(GROUPS, "shop", &name).expect("the group of svc-a");
    serde_json::from_value(group).unwrap()
}

fn edit(api: &FakeApi, change: impl FnOnce(&mut Rule)) {
    put_rule(
        api,
        &rule_with(|rule| {
            rule.metadata.generation = Some(4);
            change(rule);
        }),
    );
}

/// Other alerts tell when the service has heard of an edit.
async fn is_heard(running: &Running, what: &str, mut heard: impl FnMut(&Running) -> bool) {
    let mut service = 100;
    until(what, || {
        service += 1;
        let (bus, record) = (running.bus.clone(), elsewhere(service).encode().unwrap());
        tokio::spawn(async move { bus.publish(vec![record]).await });
        heard(running).then_some(())
    })
    .await;
}

fn no_rule(running: &Running) -> bool {
    running.ledger().iter().any(|entry| entry.reason == DecisionReason::NoRule)
}

/// What the ledger says of `firing(1, 0)`, and of its end.
fn entries_of_a(running: &Running, status: AlertStatus) -> Vec<(Option<String>, DecisionReason)> {
    let alert_id = firing(1, 0).raised().alert_id;
    let ledger = running.ledger().into_iter();
    let ours = ledger.filter(|entry| entry.alert_id == alert_id && entry.status == status);
    ours.map(|entry| (entry.rule.map(|rule| rule.name), entry.reason)).collect()
}

async fn ends_with_its_alert(running: &Running, end: i64) {
    let incident = group_of_a(running).spec.episode.expect("it is open").incident_id;
    running.tell(&[resolved(1, 0, end); 2]).await;
    let is_over = |event: &Event| event.payload.incident().is_some_and(|header| header.incident_id == incident);
    until("its end", || running.events(Topic::IncidentResolved).iter().any(is_over).then_some(())).await;
    running.consumed(Topic::AlertRaised).await;
    assert!(group_of_a(running).spec.episode.is_none());
    let entries = entries_of_a(running, AlertStatus::Resolved);
    assert_eq!(entries.first(), Some(&(Some("cpu-high".into()), DecisionReason::Resolved)));
    assert!(entries.iter().all(|(rule, _)| rule.is_some()), "it is in the ledger for no rule, too: {entries:?}");
}

async fn with_an_incident() -> Running {
    let running = Running::seed();
    running.tell(&[firing(1, 0).until(240)]).await;
    assert_eq!(running.reasons(1).await, [DecisionReason::Opened]);
    running.consumed(Topic::AlertRaised).await;
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_of_a_deleted_rule_ends_with_its_alert() {
    let running = with_an_incident().await;
    running.test.api.remove(RULES, "shop", "cpu-high");
    is_heard(&running, "the deletion", no_rule).await;
    ends_with_its_alert(&running, 50).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_of_a_deleted_rule_ends_with_its_alert_after_a_restart() {
    let running = with_an_incident().await;
    running.test.api.remove(RULES, "shop", "cpu-high");
    let (api, bus) = running.stop().await;
    let running = Running::start(api, bus);
    ends_with_its_alert(&running, 50).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_whose_rule_matches_other_alerts_now_ends_with_its_alert() {
    let running = with_an_incident().await;
    edit(&running.test.api, |rule| rule.spec.r#match.matchers[1] = "severity=\"critical\"".into());
    is_heard(&running, "the edit", no_rule).await;
    ends_with_its_alert(&running, 50).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_whose_rule_is_broken_goes_on_with_its_alert_and_ends_with_it() {
    let running = with_an_incident().await;
    edit(&running.test.api, |rule| rule.spec.r#match.matchers[0] = "alertname=~\"(\"".into());
    is_heard(&running, "the edit", no_rule).await;
    running.test.clock.advance(SignedDuration::from_secs(300));
    running.tell(&[firing(1, 0).until(540).accepted(300)]).await;
    running.consumed(Topic::AlertRaised).await;
    let expires_at = |running: &Running| {
        let fingerprint = firing(1, 0).raised().fingerprint;
        let alerts = group_of_a(running).spec.alerts;
        alerts.iter().find(|alert| alert.fingerprint == fingerprint).and_then(|alert| alert.expires_at)
    };
    assert_eq!(expires_at(&running), Some(at(840)), "the repetition did not count");
    let firing = entries_of_a(&running, AlertStatus::Firing);
    assert!(firing.iter().all(|(rule, _)| rule.is_some()), "{firing:?}");
    ends_with_its_alert(&running, 310).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_not_grouped_anew_while_its_incident_is_open() {
    let running = with_an_incident().await;
    edit(&running.test.api, |rule| rule.spec.group_by = vec!["service".into(), "pod".into()]);
    let by_pod = |running: &Running| {
        running.test.api.all(GROUPS).iter().any(|group| group["spec"]["groupBy"].get("pod").is_some())
    };
    is_heard(&running, "the edit", by_pod).await;
    running.tell(&[firing(1, 0).until(245).accepted(5)]).await;
    running.consumed(Topic::AlertRaised).await;
    let alert_id = firing(1, 0).raised().alert_id;
    let of_a = |event: &Event| {
        event.payload.incident().is_some_and(|header| header.alerts.iter().any(|alert| alert.alert_id == alert_id))
    };
    let opened = running.events(Topic::IncidentOpened).into_iter().filter(of_a).count();
    assert_eq!(opened, 1, "a second incident opened beside the first");
    ends_with_its_alert(&running, 50).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_whose_end_does_not_hold_the_condition_ends_all_the_same() {
    let api = FakeApi::new();
    put_rule(&api, &rule_with(|rule| rule.spec.r#match.conditions[0].expression = "alert.status == 'firing'".into()));
    let running = Running::start(api, MemoryBus::new(4));
    running.tell(&[firing(1, 0)]).await;
    assert_eq!(running.reasons(1).await, [DecisionReason::Opened]);
    running.consumed(Topic::AlertRaised).await;
    ends_with_its_alert(&running, 50).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_expires_while_the_log_cannot_be_read() {
    let api = FakeApi::new();
    put_rule(&api, &rule(CPU_HIGH));
    let running = Running::start_with(api, MemoryBus::new(4), |config| config.takeover_grace = Duration::from_secs(10));
    running.tell(&[firing(1, 0).until(240)]).await;
    running.consumed(Topic::AlertRaised).await;
    running.test.clock.advance(SignedDuration::from_secs(10));
    let is_open = |running: &Running| running.group().unwrap().spec.episode.is_some();
    running.bus.set_available(false);
    running.test.clock.advance(SignedDuration::from_secs(600));
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(is_open(&running), "it expired during the outage");
    // Its repetitions waited with their sender.
    running.bus.set_available(true);
    running.tell(&[firing(1, 0).until(840).accepted(600)]).await;
    running.consumed(Topic::AlertRaised).await;
    running.test.clock.advance(SignedDuration::from_secs(11));
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(is_open(&running), "it expired although it was repeated");
    running.test.clock.advance(SignedDuration::from_secs(541));
    until("its expiry", || (!is_open(&running)).then_some(())).await;
    running.stop().await;
}

/// Like a policy webhook that is away and fails every write to one namespace.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_whose_writes_fail_holds_up_no_timer_of_another() {
    let api = FakeApi::new();
    let only = |matcher: &str, namespace: &str| {
        rule_with(|rule| {
            rule.metadata.namespace = Some(namespace.into());
            rule.spec.r#match.matchers.push(matcher.into());
        })
    };
    put_rule(&api, &only("pod!=\"pod-9\"", "shop"));
    put_rule(&api, &only("pod=\"pod-9\"", "bad"));
    let running = Running::start_with(api, MemoryBus::new(4), |config| config.takeover_grace = Duration::from_secs(10));
    running.tell(&[firing(1, 0).until(240)]).await;
    running.consumed(Topic::AlertRaised).await;
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    running.test.api.on_request(move |seen| {
        let is_bad = seen.method != http::Method::GET && seen.path.contains("/namespaces/bad/");
        count.fetch_add(usize::from(is_bad), Ordering::SeqCst);
        if is_bad { Fault::Answer(500) } else { Fault::None }
    });
    running.tell(&[firing(9, 0)]).await;
    until("a write that fails", || (refused.load(Ordering::SeqCst) > 1).then_some(())).await;
    running.test.clock.advance(SignedDuration::from_secs(541));
    until("the expiry of the other one", || {
        running.test.clock.advance(SignedDuration::from_millis(5));
        (running.bus.records(Topic::IncidentResolved).len() == 1).then_some(())
    })
    .await;
    running.test.api.no_faults();
    running.consumed(Topic::AlertRaised).await;
    running.stop().await;
}
