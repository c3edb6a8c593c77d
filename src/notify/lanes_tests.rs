//! Whoever waits for its turn in its channel's line: when a channel is dead, when a deadline comes first, when the clock is set back.

use super::*;
use crate::testing::Seen;

/// The first call that is like this sets the clock back by ten minutes, and is answered so. Returns what waits for that.
fn set_back_at(
    running: &Running,
    is_like_this: impl Fn(&Seen) -> bool + Send + Sync + 'static,
    answer: fn() -> Fault,
) -> impl Future<Output = ()> {
    let (clock, set_back) = (Arc::clone(&running.test.clock), Arc::new(AtomicBool::new(false)));
    let is_set_back = Arc::clone(&set_back);
    running.test.api.on_request(move |call| {
        if !is_like_this(call) || set_back.swap(true, Ordering::SeqCst) {
            return Fault::None;
        }
        clock.advance(SignedDuration::from_secs(-600));
        answer()
    });
    async move { until("a clock that is set back", || is_set_back.load(Ordering::SeqCst).then_some(())).await }
}

/// It has had so many tries, has no other one before its time comes again, and is delivered then.
async fn waits_for_its_time(running: Running, request: &NotificationRequested, tries: i32) {
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(running.object(request).unwrap().spec.tries, tries);
    running.advance(700);
    running.in_phase(request, NotificationPhase::Delivered).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_channel_holds_up_no_other() {
    let (api, bus, sink) = world("300ms").await;
    // However slow the machine is, only the dead channel's tries end without an answer.
    put_slack(&api, "5m");
    sink.always(HOOK, Some(Answer::hang()));
    let running = Running::start(&api, &bus, 1, 0);
    let dead: Vec<_> = (0..12).map(|i| request("hook", &format!("{i}"))).collect();
    let live: Vec<_> = (0..12).map(|i| request("ops-slack", &format!("{i}"))).collect();
    for (dead, live) in dead.iter().zip(&live) {
        running.ask(dead, "a").await;
        running.ask(live, "a").await;
    }
    sink.wait_for_on(SLACK, live.len(), SOON).await.unwrap();
    let tries = sink.received_on(HOOK).len();
    assert!(tries < dead.len(), "the live channel waited for {tries} tries of the dead one");
    // Nothing is delivered on the dead one, and every request is in a resource all the same.
    running.consumed().await;
    for request in &live {
        running.in_phase(request, NotificationPhase::Delivered).await;
    }
    // The line moves, the slower the longer nothing is taken: what was not tried is sent once, later.
    let was_tried = |request: &&NotificationRequested| {
        running.object(request).is_some_and(|object| object.spec.last_error.is_some())
    };
    until("a try for some", || (dead.iter().filter(was_tried).count() >= 3).then_some(())).await;
    let told = || running.test.health.troubles();
    assert_eq!(told(), [("notify/channels".to_owned(), "messages wait for shop/hook".to_owned())]);
    sink.always(HOOK, None);
    running.advance(600);
    for request in &dead {
        running.in_phase(request, NotificationPhase::Delivered).await;
    }
    assert_eq!(told(), []);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_a_line_that_does_not_move_fails_at_its_deadline() {
    let (api, bus, sink) = world("5m").await;
    sink.always(HOOK, Some(Answer::hang()));
    let running = Running::start(&api, &bus, 1, 0);
    // Two hold the lane.
    let holders: Vec<_> = (0..2).map(|i| request("hook", &format!("{i}"))).collect();
    for holder in &holders {
        running.ask(holder, "a").await;
        running.in_phase(holder, NotificationPhase::Sending).await;
    }
    let in_line: Vec<_> = (2..5).map(|i| request("hook", &format!("{i}"))).collect();
    for request in &in_line {
        running.ask(request, "a").await;
        running.in_phase(request, NotificationPhase::Waiting).await;
    }
    // The line does not move, and the deadline comes all the same.
    running.advance(3_600);
    for request in &in_line {
        let failed = running.in_phase(request, NotificationPhase::Failed).await;
        assert_eq!(failed.spec.last_error.as_deref(), Some("no try was possible before its deadline"));
    }
    // Nothing waits for the two that hang; they end with the test.
}

/// It was due when its time was taken, and is not any more when it is decided.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_takes_no_try_away() {
    let (api, bus, sink) = world("10s").await;
    sink.always(SLACK, Some(Answer::status(503)));
    let running = Running::start(&api, &bus, 1, 0);
    let request = request("ops-slack", "Opened");
    running.ask(&request, "a").await;
    running.in_phase(&request, NotificationPhase::Waiting).await;
    sink.always(SLACK, None);
    let set_back = set_back_at(&running, |call| call.path.ends_with("/secrets/ops-slack"), || Fault::None);
    running.advance(600);
    set_back.await;
    waits_for_its_time(running, &request, 1).await;
}

/// Its turn comes when it is too early by the clock as it is now: it is looked at when its time comes again.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_under_a_line_takes_no_try_away() {
    let (api, bus, sink) = world("1s").await;
    sink.always(HOOK, Some(Answer::hang()));
    let running = Running::start(&api, &bus, 1, 0);
    let [first, second, third] = ["a", "b", "c"].map(|event| request("hook", event));
    // Two hold the lane.
    running.ask(&first, "a").await;
    running.ask(&second, "a").await;
    sink.wait_for_on(HOOK, 2, SOON).await.unwrap();
    running.ask(&third, "a").await;
    running.in_phase(&third, NotificationPhase::Waiting).await;
    running.advance(-600);
    running.in_phase(&first, NotificationPhase::Waiting).await;
    running.in_phase(&second, NotificationPhase::Waiting).await;
    sink.always(HOOK, None);
    waits_for_its_time(running, &third, 0).await;
}

/// Its turn came in time, and by the clock as it is when the claim is written at last it is too early.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_while_a_claim_is_written_takes_no_try_away() {
    let (api, bus, sink) = world("1s").await;
    sink.always(HOOK, Some(Answer::hang()));
    let running = Running::start(&api, &bus, 1, 0);
    let [first, second, third] = ["a", "b", "c"].map(|event| request("hook", event));
    for holder in [&first, &second] {
        running.ask(holder, "a").await;
        running.in_phase(holder, NotificationPhase::Sending).await;
    }
    running.ask(&third, "a").await;
    running.in_phase(&third, NotificationPhase::Waiting).await;
    let name = third.notification_id.to_string();
    let is_its_claim = move |call: &Seen| call.method == "PUT" && call.path.ends_with(&name);
    let set_back = set_back_at(&running, is_its_claim, || Fault::Answer(500));
    sink.always(HOOK, None);
    set_back.await;
    waits_for_its_time(running, &third, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_goes_on_past_one_that_was_deleted_while_it_stood_there() {
    let (api, bus, sink) = world("1s").await;
    sink.always(HOOK, Some(Answer::hang()));
    let running = Running::start(&api, &bus, 1, 0);
    let all: Vec<_> = (0..5).map(|i| request("hook", &format!("{i}"))).collect();
    for (i, request) in all.iter().enumerate() {
        running.ask(request, "a").await;
        running.in_phase(request, if i < 2 { NotificationPhase::Sending } else { NotificationPhase::Waiting }).await;
    }
    api.remove(NOTIFICATIONS, "shop", all[2].notification_id.as_str());
    api.remove(NOTIFICATIONS, "shop", all[3].notification_id.as_str());
    sink.always(HOOK, None);
    // When the two that hang have come to their end, and nobody asks again.
    running.in_phase(&all[4], NotificationPhase::Delivered).await;
    running.stop().await;
}
