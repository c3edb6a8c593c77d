use serde_json::json;
use tokio::time::timeout;

use super::{
    upkeep::{CLEAR_AGE, SWEEP_AGE},
    *,
};
use crate::{
    api::v1alpha1::AlertGroup,
    bus::MemoryBus,
    events::{AlertRaised, AlertStatus, EventId, Topic, example},
    mutants,
    runtime::places::{self, Places},
    testing::{Fault, TestContext},
};

const GROUPS: &str = "/apis/eventpulse.io/v1alpha1/alertgroups";

fn test_context() -> TestContext {
    TestContext::new("rules", Arc::new(MemoryBus::new(1)))
}

fn name() -> NamespacedName {
    NamespacedName { namespace: "shop".into(), name: "g".into() }
}

fn group() -> AlertGroup {
    let meta = json!({"namespace": "shop", "name": "g"});
    let spec = json!({"ruleRef": {"name": "r"}, "correlationID": "c", "changedAt": "2026-01-01T12:00:00Z"});
    let group = json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": "AlertGroup", "metadata": meta, "spec": spec});
    serde_json::from_value(group).unwrap()
}

fn event() -> Event {
    let time = "2026-01-01T12:00:00Z".parse().unwrap();
    let alert = AlertRaised {
        alert_id: None,
        source: "prom".into(),
        fingerprint: None,
        status: AlertStatus::Firing,
        labels: [("alertname".to_owned(), "CPUHigh".to_owned())].into(),
        annotations: Default::default(),
        starts_at: time,
        ends_at: None,
        generator_url: None,
        accepted_at: time,
    };
    Event {
        id: EventId::new("alert.raised", "x", "firing"),
        time,
        source: "test".into(),
        subject: "x".into(),
        key: "x".into(),
        traceparent: None,
        payload: alert.into(),
    }
}

fn api_server(test: &TestContext) -> Option<String> {
    test.health.report().into_iter().find(|(part, _)| part == "rules/api server").expect("the server was asked").1
}

/// Answers these requests, one after the other, with faults; then it serves.
fn faults(test: &TestContext, faults: Vec<Fault>) {
    let left = Mutex::new(faults.into_iter());
    test.api.on_request(move |_| lock(&left).next().unwrap_or(Fault::None));
}

#[tokio::test]
async fn an_object_that_is_gone_for_the_server_is_gone_from_the_cache() {
    let test = test_context();
    let store = Store::<AlertGroup>::new(&test.ctx);
    let mut ghost = group();
    ghost.metadata.resource_version = Some("5".into());
    store.cache().upsert(ghost.clone());
    assert!(!store.delete(&ghost).await.unwrap());
    assert!(store.get(&name()).is_none());
    store.cache().upsert(ghost);
    assert!(store.fetch(&name()).await.unwrap().is_none());
    assert!(store.get(&name()).is_none());
}

#[tokio::test(start_paused = true)]
async fn what_was_written_while_it_was_looked_for_in_vain_is_kept() {
    let test = test_context();
    let store = Store::<AlertGroup>::new(&test.ctx);
    let writer = Arc::clone(&store);
    test.api.on_request(move |_| {
        let mut written = group();
        written.metadata.resource_version = Some("7".into());
        writer.cache().upsert(written);
        Fault::None
    });
    assert!(store.fetch(&name()).await.unwrap().is_none());
    assert!(store.get(&name()).is_some());
}

#[tokio::test(start_paused = true)]
async fn any_answer_of_the_server_says_that_it_can_be_worked_with() {
    for code in [403, 404, 422] {
        let test = test_context();
        let store = Store::<AlertGroup>::new(&test.ctx);
        faults(&test, vec![Fault::Refuse, Fault::Answer(404), Fault::Answer(code)]);
        let written = store.transact(&name(), |_| Step::Write { object: group(), publish: Vec::new() }).await;
        assert!(matches!(written, Err(StoreError::Refused { .. })), "{code}: refused, or its namespace is missing");
        assert_eq!(api_server(&test), None, "{code}");
    }
    let test = test_context();
    let store = Store::<AlertGroup>::new(&test.ctx);
    faults(&test, vec![Fault::Refuse, Fault::Page(404), Fault::Answer(401), Fault::Answer(404)]);
    assert!(store.fetch(&name()).await.unwrap().is_none());
    assert_eq!((api_server(&test), test.api.seen().len()), (None, 4));
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_forbidden_is_waited_for_and_told() {
    let test = test_context();
    let store = Store::<AlertGroup>::new(&test.ctx);
    test.api.put(GROUPS, serde_json::to_value(group()).unwrap());
    test.api.on_request(|_| Fault::Answer(403));
    let group_name = name();
    let fetch = store.fetch(&group_name);
    tokio::pin!(fetch);
    assert!(timeout(Duration::from_secs(60), fetch.as_mut()).await.is_err());
    assert!(api_server(&test).is_some_and(|why| why.contains("403")));
    test.api.no_faults();
    assert!(fetch.await.unwrap().is_some());
    assert_eq!(api_server(&test), None);
}

#[tokio::test]
async fn what_another_replica_cleared_is_forgotten() {
    let bus: Arc<MemoryBus> = Arc::new(MemoryBus::new(1));
    let test = TestContext::new("rules", bus.clone());
    let other = TestContext::with_api("rules", bus, test.api.clone());
    let (store, others) = (Store::<AlertGroup>::new(&test.ctx), Store::<AlertGroup>::new(&other.ctx));
    let write = |publish: Vec<Event>| {
        let mut publish = Some(publish);
        move |current: Option<&AlertGroup>| Step::Write {
            object: current.cloned().unwrap_or_else(group),
            publish: publish.take().unwrap_or_default(),
        }
    };
    store.transact(&name(), write(vec![event()])).await.unwrap();
    assert_eq!(store.acknowledged().len(), 1);
    // The other one publishes it too, and clears it with its next write.
    others.fetch(&name()).await.unwrap();
    others.transact(&name(), |_| Step::Unchanged { publish: Vec::new() }).await.unwrap();
    others.transact(&name(), write(Vec::new())).await.unwrap();
    store.sweep(|_| false).await.unwrap();
    assert_eq!(store.acknowledged().len(), 1, "this one's cache still holds the entry");
    store.fetch(&name()).await.unwrap();
    store.sweep(|_| false).await.unwrap();
    assert!(store.acknowledged().is_empty());
}

/// What another writer still has to say stays in the object, and is said by this one too.
#[tokio::test]
async fn a_write_that_drops_what_others_have_to_say_is_noticed() {
    for (mutant, kept) in [(None, 1), (Some(Mutant::OthersEntriesDropped), 0)] {
        let bus: Arc<MemoryBus> = Arc::new(MemoryBus::new(1));
        let test = TestContext::new("rules", bus.clone());
        let other = TestContext::with_api("rules", bus, test.api.clone());
        let (store, others) = (Store::<AlertGroup>::new(&test.ctx), Store::<AlertGroup>::new(&other.ctx));
        let said = |_: Option<&AlertGroup>| Step::Write { object: group(), publish: vec![event()] };
        others.transact(&name(), said).await.unwrap();
        store.fetch(&name()).await.unwrap();
        mutants::choose(mutant);
        let again =
            |current: Option<&AlertGroup>| Step::Write { object: current.cloned().unwrap(), publish: Vec::new() };
        let written = store.transact(&name(), again).await.unwrap().unwrap();
        mutants::choose(None);
        assert_eq!(written.outbox().len(), kept, "{mutant:?}");
    }
}

/// What an object has to say stays in it until the log has it.
#[tokio::test(start_paused = true)]
async fn an_outbox_that_is_cleared_before_the_log_has_it_is_noticed() {
    for (mutant, kept) in [(None, 1), (Some(Mutant::ClearedBeforeAcknowledged), 0)] {
        let bus: Arc<MemoryBus> = Arc::new(MemoryBus::new(1));
        bus.set_available(false);
        let test = TestContext::new("rules", bus);
        let store = Store::<AlertGroup>::new(&test.ctx);
        mutants::choose(mutant);
        let said = |_: Option<&AlertGroup>| Step::Write { object: group(), publish: vec![event()] };
        let again =
            |current: Option<&AlertGroup>| Step::Write { object: current.cloned().unwrap(), publish: Vec::new() };
        // Both are written, and what the first one has to say cannot be said.
        assert!(timeout(Duration::from_secs(1), store.transact(&name(), said)).await.is_err());
        drop(timeout(Duration::from_secs(1), store.transact(&name(), again)).await);
        mutants::choose(None);
        assert_eq!(store.get(&name()).unwrap().outbox().len(), kept, "{mutant:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_patience_that_the_server_asks_for_does_not_hold_up_the_shutdown() {
    let test = test_context();
    let store = Store::<AlertGroup>::new(&test.ctx);
    test.api.on_request(|_| Fault::Throttle(3_600));
    let began = tokio::time::Instant::now();
    let name = name();
    let stop = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        test.ctx.shutdown.cancel();
    };
    let (fetched, ()) = tokio::join!(store.fetch(&name), stop);
    assert!(matches!(fetched, Err(StoreError::Shutdown)));
    assert_eq!(began.elapsed().as_secs(), 1);
    assert!(api_server(&test).is_some_and(|why| why.contains("throttled")));
}

/// What leads to a target is out before the work on anything else can be in its way; the rest follows when the way is free.
#[tokio::test(start_paused = true)]
async fn a_request_for_an_action_is_published_before_what_was_decided_with_it() {
    let bus = Arc::new(MemoryBus::new(1));
    let test = TestContext::new("rules", bus.clone());
    let store = Store::<AlertGroup>::new(&test.ctx);
    let way = test.ctx.way.clone();
    let on_the_way = tokio::spawn(async move { way.first(tokio::time::sleep(Duration::from_millis(70))).await });
    let group_name = name();
    let publish = vec![event(), example(Topic::ActionRequested), example(Topic::IncidentOpened)];
    let written = store.transact(&group_name, |_| Step::Write { object: group(), publish: publish.clone() });
    tokio::pin!(written);
    assert!(timeout(Duration::from_millis(60), written.as_mut()).await.is_err(), "it is not done before all is said");
    let said = |topic| bus.records(topic).len();
    assert_eq!((said(Topic::ActionRequested), said(Topic::IncidentOpened), said(Topic::AlertRaised)), (1, 0, 0));
    on_the_way.await.unwrap();
    written.await.unwrap();
    assert_eq!((said(Topic::ActionRequested), said(Topic::IncidentOpened), said(Topic::AlertRaised)), (1, 1, 1));
}

/// Clearing is only tidiness: it waits for a calm, and in the end for nothing.
#[tokio::test(start_paused = true)]
async fn an_outbox_is_cleared_in_a_calm_and_after_ten_minutes_without_one() {
    for calm in [true, false] {
        let test = test_context();
        let store = Store::<AlertGroup>::new(&test.ctx);
        let event = Event { time: test.ctx.clock.now(), ..event() };
        let publish = vec![event];
        store.transact(&name(), |_| Step::Write { object: group(), publish: publish.clone() }).await.unwrap();
        let way = test.ctx.way.clone();
        let busy = tokio::spawn(async move {
            loop {
                way.first(tokio::time::sleep(Duration::from_millis(900))).await;
            }
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        if calm {
            busy.abort();
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let is_clear = || store.get(&name()).unwrap().outbox().is_empty();
        test.clock.advance(SWEEP_AGE);
        store.sweep(|_| true).await.unwrap();
        assert_eq!(is_clear(), calm);
        test.clock.advance(CLEAR_AGE);
        store.sweep(|_| true).await.unwrap();
        assert!(is_clear());
        busy.abort();
    }
}

/// A namespace's admission webhook may be away for hours.
#[tokio::test(start_paused = true)]
async fn a_write_that_the_server_fails_in_leaves_its_place_to_others_and_ends_by_name() {
    let test = test_context();
    let store = Store::<AlertGroup>::new(&test.ctx);
    let fails = || test.api.on_request(|seen| if seen.method == "GET" { Fault::None } else { Fault::Answer(500) });
    let (here, elsewhere) = (name(), NamespacedName { namespace: "bank".into(), name: "g".into() });
    let write = async |at: &NamespacedName| {
        let object = |current: Option<&AlertGroup>| {
            let mut object = current.cloned().unwrap_or_else(group);
            object.metadata.namespace = Some(at.namespace.clone());
            object
        };
        store.transact(at, |current| Step::Write { object: object(current), publish: Vec::new() }).await
    };
    let waits = async |at: &NamespacedName| timeout(Duration::from_secs(600), write(at)).await.is_err();
    let is_refused = |written: Result<_, StoreError>| matches!(written, Err(StoreError::Refused { .. }));
    fails();
    let places = Arc::new(Places::new(1));
    let began = Instant::now();
    let mut written = Box::pin(places::work(async {
        let _place = places.hold(places.take(false).await, false);
        write(&here).await
    }));
    assert!(timeout(FAILED_MAX / 2, written.as_mut()).await.is_err());
    assert_eq!(places.taken(), 0);
    assert!(is_refused(written.await));
    assert!((FAILED_MAX..FAILED_MAX + FAILED_BACKOFF_MAX).contains(&began.elapsed()), "{:?}", began.elapsed());
    // Whatever waits behind it is not to wait as long.
    let began = Instant::now();
    assert!(is_refused(write(&here).await));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    test.api.no_faults();
    assert!(is_refused(write(&here).await), "nothing is tried for a while");
    fails();
    assert!(waits(&elsewhere).await, "another namespace's");
    test.api.no_faults();
    tokio::time::sleep(FAILED_BACKOFF_MAX).await;
    assert!(write(&here).await.is_ok());
    fails();
    assert!(waits(&here).await, "it could be written meanwhile");
}

/// Its answer was 500, and it took effect: then it is not refused.
#[tokio::test(start_paused = true)]
async fn what_was_given_up_is_read_once_more() {
    let test = test_context();
    let store = Store::<AlertGroup>::new(&test.ctx);
    let api = test.api.clone();
    test.api.on_request(move |seen| {
        if seen.method == "GET" {
            return Fault::None;
        }
        api.put(GROUPS, serde_json::to_value(group()).unwrap());
        Fault::Answer(500)
    });
    // Another one was given up, so that the next try is the last.
    let fails = async { Err::<(), _>(ApiFailure::Failed(String::new())) };
    let (_, pause) = store.failing().write("shop", Operation::Create, Duration::ZERO, fails).await;
    assert!(pause.is_given_up);
    let name = name();
    let written = store.transact(&name, |current| match current {
        Some(_) => Step::Unchanged { publish: Vec::new() },
        None => Step::Write { object: group(), publish: Vec::new() },
    });
    tokio::time::sleep(FAILED_BACKOFF_MAX).await;
    assert!(written.await.unwrap().is_some());
}
