//! Notifications: whatever stands in one, it comes to an end at the latest at its deadline, nothing is sent without a claim, and nothing
//! is sent after the end (promise 4).

use std::time::Duration;

use eventpulse::{
    api::v1alpha1::{NotificationPhase, NotificationSpec},
    notify::deliver::{Asker, Move, Outcome, Outlook, Readiness, Said, begin, next_look, outlook, settle},
};
use jiff::Timestamp;

use crate::check::{is_kept, now, reread};

const ME: &str = "notify-0/1";
/// So often at most one is looked at; a try at each, until nothing is left to do.
const LOOKS_MAX: usize = 12;

fn asker(now: Timestamp, claiming: Option<i32>) -> Asker<'static> {
    Asker { me: ME, claiming, now, jitter: 0.5 }
}

fn outcomes() -> [Outcome; 6] {
    let reason = || "HTTP 503".to_owned();
    let retry_after = Some(Duration::from_secs(u64::MAX));
    [
        Outcome::Delivered,
        Outcome::DeliveredInPart { reason: reason() },
        Outcome::Refused { reason: reason(), retry_after },
        Outcome::Unknown { reason: "x".repeat(5_000), retry_after: None },
        Outcome::Rejected { reason: reason() },
        Outcome::NotSent,
    ]
}

pub(crate) fn notification(data: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<NotificationSpec>(data) else { return };
    is_kept(&spec);
    let readiness =
        [Readiness::Ready(Duration::from_secs(10)), Readiness::Busy, Readiness::NotReady("no Secret".into())];
    let times =
        [Some(now()), Some(spec.decided_at), Some(spec.deadline), spec.due, spec.send_until, Some(Timestamp::MAX)];
    for at in times.into_iter().flatten() {
        for readiness in &readiness {
            looks(&spec, readiness, at);
        }
        for current in [None, Some(&spec)] {
            let step = begin(current, Some(&spec), &readiness[0], asker(at, None));
            if let Move::Claim(claimed) = step {
                tried(&claimed, at);
            }
        }
    }
    comes_to_an_end(&spec);
}

/// One look: what it says agrees with what is done.
fn looks(spec: &NotificationSpec, readiness: &Readiness, at: Timestamp) {
    let outlook = outlook(Some(spec), spec.deadline, at);
    assert_eq!(next_look(spec).is_none(), outlook == Outlook::Over, "{outlook:?}, and looked at {:?}", next_look(spec));
    match (outlook, begin(Some(spec), None, readiness, asker(at, None))) {
        (Outlook::Over, Move::Nothing) => assert!(spec.phase.is_terminal(), "{:?} is over", spec.phase),
        (Outlook::Wait(until), Move::Nothing) => assert!(until > at, "waits at {at} until {until}"),
        (Outlook::Expire, Move::Write(next, Some(Said::Failed))) => is_over(&next, NotificationPhase::Failed),
        (Outlook::Try, Move::Claim(next)) => {
            assert_eq!((next.phase, next.sender.as_deref()), (NotificationPhase::Sending, Some(ME)));
            assert!(next.send_until.is_some_and(|until| until > at || until == Timestamp::MAX), "{next:?}");
            is_kept(next.as_ref());
        }
        (Outlook::Try, Move::Write(next, None)) => is_waiting(&next),
        (Outlook::Try, Move::Nothing) => assert_eq!(readiness, &Readiness::Busy),
        (outlook, step) => panic!("{outlook:?} gave {step:?}"),
    }
}

fn is_over(spec: &NotificationSpec, phase: NotificationPhase) {
    assert_eq!(spec.phase, phase);
    assert!(spec.sender.is_none() && spec.due.is_none() && spec.send_until.is_none() && spec.finished_at.is_some());
    assert_eq!((outlook(Some(spec), spec.deadline, Timestamp::MAX), next_look(spec)), (Outlook::Over, None));
    is_kept(spec);
}

fn is_waiting(spec: &NotificationSpec) {
    assert_eq!(spec.phase, NotificationPhase::Waiting);
    assert!(spec.due.is_some_and(|due| due <= spec.deadline), "due {:?}, deadline {}", spec.due, spec.deadline);
    assert!(spec.last_error.as_ref().is_none_or(|error| error.chars().count() <= 1024));
    is_kept(spec);
}

/// What was claimed is sent, and whatever becomes of it, the state says so.
fn tried(claimed: &NotificationSpec, at: Timestamp) {
    // The answer to the claim's write was lost: it is this worker's all the same.
    assert_eq!(begin(Some(claimed), None, &Readiness::Busy, asker(at, Some(claimed.tries))), Move::Claimed);
    for outcome in outcomes() {
        let (next, said) = settle(claimed, claimed.tries, &outcome, asker(at, None)).expect("a claim is settled");
        match (&outcome, said) {
            (Outcome::Delivered | Outcome::DeliveredInPart { .. }, Some(Said::Delivered)) => {
                is_over(&next, NotificationPhase::Delivered);
            }
            (Outcome::Rejected { .. }, Some(Said::Failed)) => is_over(&next, NotificationPhase::Failed),
            (_, None) => is_waiting(&next),
            (outcome, said) => panic!("{outcome:?} said {said:?}"),
        }
        assert!(!matches!(outcome, Outcome::Unknown { .. }) || next.duplicate_possible, "a second copy is not marked");
        let late = settle(&next, claimed.tries, &Outcome::Rejected { reason: "late".into() }, asker(at, None));
        assert_eq!(late, None, "who has no claim any more decides nothing");
    }
}

/// With a channel that never accepts it, it fails at its deadline, however it was left.
fn comes_to_an_end(spec: &NotificationSpec) {
    let mut current = spec.clone();
    let refused = Outcome::Refused { reason: "HTTP 429".into(), retry_after: Some(Duration::from_secs(3600)) };
    for _ in 0..LOOKS_MAX {
        let Some(look) = next_look(&current) else { return };
        let at = look.max(now());
        match begin(Some(&current), None, &Readiness::Ready(Duration::from_secs(10)), asker(at, None)) {
            Move::Claim(claimed) => {
                let settled = settle(&claimed, claimed.tries, &refused, asker(at, None)).expect("a claim is settled");
                current = reread(&settled.0);
            }
            Move::Write(next, _) => current = reread(next.as_ref()),
            step => panic!("{step:?} at {at}, when {current:?} asks for something"),
        }
    }
    let past = current.deadline.max(current.send_until.unwrap_or(current.deadline));
    let last = begin(Some(&current), None, &Readiness::Busy, asker(past, None));
    assert!(matches!(last, Move::Write(_, Some(Said::Failed)) | Move::Nothing), "it never ends: {last:?}");
}
