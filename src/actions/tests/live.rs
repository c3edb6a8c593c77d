//! What people change while an action waits, and what the watches have not shown yet.

use super::*;

const WATCH_OF_RULES: &str = "actions/watch Rule";
const WATCH_OF_AUTOSCALERS: &str = "actions/watch HorizontalPodAutoscaler";

fn is_watch(seen: &Seen, collection: &str) -> bool {
    seen.path == collection && seen.query.contains("watch=")
}

fn is_of(seen: &Seen, collection: &str) -> bool {
    seen.method == Method::GET && seen.path == collection
}

fn suspend(api: &FakeApi, suspended: bool) {
    let mut rule = api.get(RULES, "shop", "cpu-high").unwrap();
    rule["spec"]["suspend"] = json!(suspended);
    api.put(RULES, rule);
}

async fn until_broken(test: &TestContext, watch: &str) {
    until("the watch is broken", || {
        test.health.report().iter().any(|(part, reason)| part == watch && reason.is_some())
    })
    .await;
}

/// A rule and its runbook are applied, and the request is there before this process' watches have shown either.
#[tokio::test(start_paused = true)]
async fn what_was_just_applied_is_asked_of_the_api_server_before_an_action_ends_for_want_of_it() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let (rule, runbook) = (api.get(RULES, "shop", "cpu-high").unwrap(), api.get(RUNBOOKS, "shop", "scale-up").unwrap());
    api.remove(RULES, "shop", "cpu-high");
    api.remove(RUNBOOKS, "shop", "scale-up");
    api.on_request(|seen| {
        let slow_watch = is_watch(seen, RULES) || is_watch(seen, RUNBOOKS);
        if slow_watch { Fault::Silence } else { Fault::None }
    });
    let test = start(&bus, &api);
    until("both are listed, and their watches say nothing", || {
        [RULES, RUNBOOKS].iter().all(|collection| api.seen().iter().any(|seen| is_watch(seen, collection)))
    })
    .await;
    api.put(RULES, rule);
    api.put(RUNBOOKS, runbook);
    bus.publish(vec![record_of(&request(&test))]).await.unwrap();
    let action = ended(&api).await;
    assert_eq!((action["status"]["phase"].as_str(), replicas(&api)), (Some("Completed"), 4), "{action:#}");
    test.ctx.shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_is_suspended_while_its_watch_is_broken_starts_nothing() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let test = start(&bus, &api);
    until("it has begun", || test.health.is_ready()).await;
    api.on_request(|seen| if is_of(seen, RULES) { Fault::Answer(500) } else { Fault::None });
    api.break_watches();
    until_broken(&test, WATCH_OF_RULES).await;
    suspend(&api, true);
    bus.publish(vec![record_of(&request(&test))]).await.unwrap();
    let action = ended(&api).await;
    assert_eq!(action["status"]["reason"].as_str(), Some("Suspended"), "{action:#}");
    assert!(!api.seen().iter().any(is_patch));
    test.ctx.shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn an_action_waits_visibly_while_its_rule_cannot_be_read() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let test = start(&bus, &api);
    until("it has begun", || test.health.is_ready()).await;
    api.on_request(|seen| {
        let of_rules = seen.method == Method::GET && seen.path.contains("/rules");
        if of_rules { Fault::Answer(500) } else { Fault::None }
    });
    api.break_watches();
    until_broken(&test, WATCH_OF_RULES).await;
    let request = request(&test);
    bus.publish(vec![record_of(&request)]).await.unwrap();
    until("it shows what it waits for", || {
        action_of(&api, &request)["status"]["waitingFor"] == json!("the rule cpu-high, which cannot be read now")
    })
    .await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!api.seen().iter().any(is_patch), "nobody knows whether the rule is suspended");
    assert_eq!(status_writes(&api, &request), 1);
    api.no_faults();
    until("it completes", || phase(&action_of(&api, &request)) == "Completed").await;
    test.ctx.shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn whether_an_autoscaler_governs_is_asked_before_it_ends_an_action_and_while_its_watch_is_broken() {
    for (governed_before, governed_now, ends) in [(true, false, "Completed"), (false, true, "Failed")] {
        let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
        let known = |governed: bool| match governed {
            true => drop(api.put(AUTOSCALERS, autoscaler())),
            false => api.remove(AUTOSCALERS, "shop", "svc-a"),
        };
        known(governed_before);
        let test = start(&bus, &api);
        until("it has begun", || test.health.is_ready()).await;
        api.on_request(|seen| if is_of(seen, AUTOSCALERS) { Fault::Answer(500) } else { Fault::None });
        api.break_watches();
        until_broken(&test, WATCH_OF_AUTOSCALERS).await;
        known(governed_now);
        bus.publish(vec![record_of(&request(&test))]).await.unwrap();
        let action = ended(&api).await;
        assert_eq!(action["status"]["phase"].as_str(), Some(ends), "{action:#}");
        test.ctx.shutdown.cancel();
    }
}
