//! A process dies or stops, and another one goes on from what it finds: the Action, and the ring on the target (promise 2).

use std::{collections::HashSet, sync::Mutex};

use super::*;
use crate::mutants::{self, Mutant};

fn ring(api: &FakeApi) -> String {
    let object = api.get(DEPLOYMENTS, "shop", "svc-a").unwrap();
    object["metadata"]["annotations"][ANNOTATION_APPLIED].as_str().unwrap_or_default().to_owned()
}

/// Lets everything run that can, so that what was held arrives.
async fn settle() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

/// What becomes of a write while both the process and the API server work, by the number of the patch that it is.
type Story = fn(&Seen, usize) -> Fault;

/// A process dies at this write of the story: it never learns what became of it, nor writes anything more.
#[derive(Clone, Copy, Debug)]
struct Death {
    dies_at: usize,
    after_commit: bool,
}

impl Death {
    /// For each of these writes, before it has arrived and after.
    fn at_each_of(writes: std::ops::Range<usize>) -> impl Iterator<Item = Self> {
        writes.flat_map(|dies_at| [false, true].map(|after_commit| Self { dies_at, after_commit }))
    }

    /// Gives the number of writes that were asked for, and what lets those arrive that are held.
    fn awaits(self, api: &FakeApi, story: Story) -> (Arc<AtomicUsize>, Arc<tokio::sync::Semaphore>) {
        let (writes, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Semaphore::new(0)));
        let (asked, patches, held) = (Arc::clone(&writes), AtomicUsize::new(0), Arc::clone(&gate));
        api.on_request(move |seen| {
            if !seen.is_write() {
                return Fault::None;
            }
            let patch = if is_patch(seen) { patches.fetch_add(1, Ordering::SeqCst) } else { 0 };
            match asked.fetch_add(1, Ordering::SeqCst) {
                write if write < self.dies_at => story(seen, patch),
                write if write == self.dies_at && self.after_commit => Fault::CommitThenAnswer(504),
                _ => Fault::Hold(Arc::clone(&held)),
            }
        });
        (writes, gate)
    }

    /// One process dies; another one takes over, with an API server that works again. Gives the Action as it ends.
    async fn happens_in(self, kind: Kind, api: &FakeApi, story: Story) -> Value {
        let bus = Arc::new(MemoryBus::new(3));
        let first = start(&bus, api);
        let (writes, gate) = self.awaits(api, story);
        let request = kind.request(&first);
        bus.publish(vec![record_of(&request)]).await.unwrap();
        until("the process dies", || writes.load(Ordering::SeqCst) > self.dies_at).await;
        settle().await;
        first.ctx.shutdown.cancel();
        api.no_faults();
        let second = start(&bus, api);
        bus.publish(vec![record_of(&request)]).await.unwrap();
        let action = ended(api).await;
        // What the first one had sent arrives late.
        gate.add_permits(100);
        settle().await;
        stop(second).await;
        let took_effect = phase(&action) == "Completed";
        assert!(took_effect || phase(&action) == "Failed", "{kind:?} {self:?}: {action:#}");
        assert_eq!(kind.number(api), if took_effect { 4 } else { 3 }, "{kind:?} {self:?}: {action:#}");
        action
    }
}

#[tokio::test]
async fn whatever_write_a_process_dies_at_another_one_ends_the_action_with_one_effect() {
    let works: Story = |_, _| Fault::None;
    // The first try is refused for now: a later plan is recorded, sent, told.
    let works_later: Story = |seen, patch| if is_patch(seen) && patch == 0 { Fault::Answer(503) } else { Fault::None };
    for kind in KINDS {
        // The claim, the patch, the result.
        for death in Death::at_each_of(0..3) {
            let action = death.happens_in(kind, &kind.cluster(), works).await;
            assert_eq!(phase(&action), "Completed", "{kind:?} {death:?}: {action:#}");
        }
        for death in Death::at_each_of(2..5) {
            let action = death.happens_in(kind, &kind.cluster(), works_later).await;
            assert_eq!(phase(&action), "Completed", "{kind:?} {death:?}: {action:#}");
        }
    }
}

/// Whoever takes an action over has its own plan on record before it sends.
#[tokio::test]
async fn a_takeover_without_a_plan_of_its_own_is_noticed() {
    for (mutant, recorded) in [(None, 2), (Some(Mutant::TakeoverNotPlanned), 0)] {
        let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
        let (patches, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Semaphore::new(0)));
        let (sent, held) = (Arc::clone(&patches), Arc::clone(&gate));
        api.on_request(move |seen| {
            if !is_patch(seen) {
                return Fault::None;
            }
            sent.fetch_add(1, Ordering::SeqCst);
            Fault::Hold(Arc::clone(&held))
        });
        let first = start(&bus, &api);
        let request = request(&first);
        bus.publish(vec![record_of(&request)]).await.unwrap();
        until("it is sent", || patches.load(Ordering::SeqCst) == 1).await;
        first.ctx.shutdown.cancel();
        mutants::choose(mutant);
        let second = TestContext::with_api("actions", bus.clone(), api.clone());
        // Another process, and not one that draws the same name.
        second.ctx.random.next_u64();
        second.ctx.tasks.spawn("actions", run(second.ctx.clone(), config()));
        bus.publish(vec![record_of(&request)]).await.unwrap();
        until("it is sent again", || patches.load(Ordering::SeqCst) == 2).await;
        let plans = action_of(&api, &request)["status"]["plans"].as_array().map_or(0, Vec::len);
        mutants::choose(None);
        assert_eq!(plans, recorded, "{mutant:?}");
        api.no_faults();
        gate.add_permits(100);
        ended(&api).await;
        stop(second).await;
    }
}

#[tokio::test]
async fn whatever_write_a_process_dies_at_while_it_gives_up_nothing_is_sent_after_the_fence() {
    let never_works: Story = |seen, _| if changes_replicas(seen) { Fault::Answer(503) } else { Fault::None };
    for kind in KINDS {
        // Three tries with their plans are the writes 1 to 5. Then it says that it fences, fences, and says how it ended.
        for death in Death::at_each_of(1..9) {
            let api = kind.cluster();
            let action = death.happens_in(kind, &api, never_works).await;
            if death.dies_at >= 6 {
                let reason = action["status"]["reason"].as_str();
                assert_eq!(reason, Some("RetriesExhausted"), "{kind:?} {death:?}: {action:#}");
                assert!(kind.ring(&api).ends_with(":aborted"), "{kind:?} {death:?}: {}", kind.ring(&api));
            }
        }
    }
}

#[tokio::test]
async fn whatever_write_a_process_dies_at_while_it_tidies_up_another_one_tidies_and_says_nothing_new() {
    // The outbox is cleared, and later the claim is let go.
    for death in Death::at_each_of(0..2) {
        let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
        let first = start(&bus, &api);
        let request = request(&first);
        bus.publish(vec![record_of(&request)]).await.unwrap();
        ended(&api).await;
        let (writes, gate) = death.awaits(&api, |_, _| Fault::None);
        let later = jiff::SignedDuration::from_mins(11);
        first.clock.advance(later);
        until("the process dies", || writes.load(Ordering::SeqCst) > death.dies_at).await;
        settle().await;
        first.ctx.shutdown.cancel();
        api.no_faults();
        let second = start(&bus, &api);
        second.clock.advance(later);
        let is_empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
        until("all is tidy", || {
            let action = action_of(&api, &request);
            is_empty(&action["status"]["outbox"]) && is_empty(&action["metadata"]["finalizers"])
        })
        .await;
        gate.add_permits(100);
        settle().await;
        assert_eq!((phase(&action_of(&api, &request)), replicas(&api)), ("Completed", 4), "{death:?}");
        let said = bus.records(Topic::ActionCompleted);
        assert!(said.iter().all(|record| record.headers == said[0].headers), "{death:?}: {said:?}");
        assert!(bus.records(Topic::ActionFailed).is_empty());
        stop(second).await;
    }
}

/// Somebody removed the Action's finalizer by hand, or restored a backup; then its request comes again.
#[tokio::test]
async fn an_action_whose_claim_is_gone_is_told_by_the_ring_and_sends_nothing() {
    for (mark, ends, reason) in [("", "Completed", None), (":aborted", "Failed", Some("RetriesExhausted"))] {
        let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
        let test = start(&bus, &api);
        let request = request(&test);
        let mut object = deployment(4);
        object["metadata"]["annotations"] =
            json!({ANNOTATION_APPLIED: format!("5 {}:{}{mark}", request.action_id, request.deadline.as_second())});
        api.put(DEPLOYMENTS, object);
        bus.publish(vec![record_of(&request)]).await.unwrap();
        let action = ended(&api).await;
        assert_eq!((phase(&action), action["status"]["reason"].as_str()), (ends, reason), "{action:#}");
        assert!(!api.seen().iter().any(is_patch));
        assert_eq!(replicas(&api), 4);
        stop(test).await;
    }
}

/// The clock stands still, so the budget for retries is never filled up again.
#[tokio::test(start_paused = true)]
async fn what_took_effect_before_a_takeover_is_ended_at_once_however_much_it_is() {
    const MANY: usize = 100;
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let names: Vec<String> = (0..MANY).map(|i| format!("svc-{i}")).collect();
    for name in &names {
        api.put(DEPLOYMENTS, deployment_named(name));
    }
    let first = start_with(&bus, &api, ActionsConfig { target_concurrency: MANY, ..config() });
    // Every patch takes effect, and the process learns of none.
    let (patched, never) = (Mutex::new(HashSet::new()), Arc::new(tokio::sync::Semaphore::new(0)));
    api.on_request(move |seen| {
        let mut patched = patched.lock().unwrap();
        if is_patch(seen) {
            patched.insert(seen.path.clone());
            return Fault::DropAnswer;
        }
        if patched.contains(&seen.path) { Fault::Hold(Arc::clone(&never)) } else { Fault::None }
    });
    let requests: Vec<ActionRequested> = names.iter().map(|name| request_for(&first, name)).collect();
    bus.publish(requests.iter().map(record_of).collect()).await.unwrap();
    until("all have taken effect", || {
        api.all(DEPLOYMENTS).iter().filter(|object| object["spec"]["replicas"] == json!(4)).count() == MANY
    })
    .await;
    first.ctx.shutdown.cancel();
    api.no_faults();
    let second = start(&bus, &api);
    until("all are ended", || api.all(ACTIONS).iter().filter(|action| phase(action) == "Completed").count() == MANY)
        .await;
    assert_eq!(api.seen().iter().filter(|seen| is_patch(seen)).count(), MANY);
    stop(second).await;
}

#[tokio::test]
async fn a_process_that_stops_while_it_fences_leaves_the_fence_and_its_reason_to_the_next_one() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let first = start_with(&bus, &api, ActionsConfig { fence_timeout: Duration::from_secs(600), ..config() });
    let patches = AtomicUsize::new(0);
    api.on_request(move |seen| match is_patch(seen).then(|| patches.fetch_add(1, Ordering::SeqCst)) {
        None => Fault::None,
        Some(1) => Fault::Answer(403),
        Some(_) => Fault::Answer(503),
    });
    let request = request(&first);
    bus.publish(vec![record_of(&request)]).await.unwrap();
    until("it is fencing", || phase(&action_of(&api, &request)) == "Fencing").await;
    stop(first).await;
    let left = action_of(&api, &request);
    assert_eq!(phase(&left), "Fencing", "a shutdown is no knowledge of the outcome");
    api.no_faults();
    let sent = || api.seen().iter().filter(|seen| changes_replicas(seen)).count();
    let sent_before = sent();
    let second = start(&bus, &api);
    bus.publish(vec![record_of(&request)]).await.unwrap();
    let action = ended(&api).await;
    assert_eq!((action["status"]["reason"].as_str(), replicas(&api)), (Some("Forbidden"), 3), "{action:#}");
    assert_eq!(action["status"]["message"], left["status"]["message"]);
    assert_eq!(sent(), sent_before, "what is given up is not tried again");
    assert!(ring(&api).ends_with(":aborted"));
    stop(second).await;
}

#[tokio::test]
async fn an_action_that_is_deleted_while_it_tries_stops_and_is_fenced() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let test = start(&bus, &api);
    let (request, deleted) = (request(&test), api.clone());
    let id = request.action_id.to_string();
    api.on_request(move |seen| {
        if !changes_replicas(seen) {
            return Fault::None;
        }
        let mut action = deleted.get(ACTIONS, "shop", &id).unwrap();
        action["metadata"]["deletionTimestamp"] = json!("2026-01-01T12:00:00Z");
        deleted.put(ACTIONS, action);
        Fault::Answer(503)
    });
    bus.publish(vec![record_of(&request)]).await.unwrap();
    let action = ended(&api).await;
    assert_eq!((phase(&action), action["status"]["message"].as_str()), ("Failed", Some("the Action was deleted")));
    assert_eq!(api.seen().iter().filter(|seen| changes_replicas(seen)).count(), 1);
    assert!(ring(&api).ends_with(":aborted"), "{}", ring(&api));
    stop(test).await;
}

#[tokio::test]
async fn an_action_that_is_gone_while_it_tries_sends_nothing_more_until_it_is_requested_again() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let test = start(&bus, &api);
    let (request, removed) = (request(&test), api.clone());
    let id = request.action_id.to_string();
    api.on_request(move |seen| {
        if !changes_replicas(seen) {
            return Fault::None;
        }
        removed.remove(ACTIONS, "shop", &id);
        Fault::Answer(503)
    });
    let sent = || api.seen().iter().filter(|seen| changes_replicas(seen)).count();
    bus.publish(vec![record_of(&request)]).await.unwrap();
    until("it is sent", || sent() == 1).await;
    let is_look = |seen: &Seen| seen.method == Method::GET && seen.path.ends_with(request.action_id.as_str());
    until("it is looked for", || api.seen().iter().any(is_look)).await;
    settle().await;
    assert_eq!(sent(), 1);
    api.no_faults();
    bus.publish(vec![record_of(&request)]).await.unwrap();
    let action = ended(&api).await;
    assert_eq!((phase(&action), sent(), replicas(&api)), ("Completed", 2, 4), "{action:#}");
    stop(test).await;
}
