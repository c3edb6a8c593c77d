//! What is to be done about one notification: a pure state machine over its resource.
//!
//! In: the state as it was read, what a try would need, the time, jitter. Out: the next state, and what it says. The caller writes by
//! compare-and-swap and decides again when that fails; nothing is sent whose claim was not written first (promise 4).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::v1alpha1::{NOTIFICATION_ERROR_MAX, NotificationPhase, NotificationSpec},
    mutants::{Mutant, mutated},
};

/// How long after a try's own time limit its sender may still write down what became of it.
pub const SETTLE_GRACE: SignedDuration = SignedDuration::from_secs(5);
const BACKOFF_INITIAL: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// The longest wait that a channel can ask for; the deadline bounds it too.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// What became of a try to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The channel accepted the message.
    Delivered,
    /// The channel accepted it for some of its recipients, and will not be asked again for the others.
    DeliveredInPart {
        /// Who does not get it and why, without secrets.
        reason: String,
    },
    /// The channel did not accept it, for sure; a later try may succeed.
    Refused {
        /// Why, without secrets.
        reason: String,
        /// How long the channel asks to wait.
        retry_after: Option<Duration>,
    },
    /// Nobody can know whether it was accepted.
    Unknown {
        /// Why, without secrets.
        reason: String,
        /// How long the channel asks to wait.
        retry_after: Option<Duration>,
    },
    /// It will never be accepted.
    Rejected {
        /// Why, without secrets.
        reason: String,
    },
    /// The time of the claim was over before anything was sent.
    NotSent,
}

/// What the state asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// Nothing any more.
    Over,
    /// Nothing before this time.
    Wait(Timestamp),
    /// A try.
    Try,
    /// Its deadline has passed.
    Expire,
}

/// What the state asks for now; `deadline` counts where there is no state yet.
pub fn outlook(current: Option<&NotificationSpec>, deadline: Timestamp, now: Timestamp) -> Outlook {
    let deadline = current.map_or(deadline, |spec| spec.deadline);
    let since = match current {
        None => now,
        Some(spec) => match spec.phase {
            NotificationPhase::Delivered | NotificationPhase::Failed | NotificationPhase::Stale => {
                return Outlook::Over;
            }
            // The sender may be at it: nobody else decides before its time is over, not even that the deadline has passed.
            NotificationPhase::Sending => spec.send_until.unwrap_or(now),
            NotificationPhase::Waiting => spec.due.unwrap_or(now).min(deadline),
        },
    };
    match since {
        since if now < since => Outlook::Wait(since),
        _ if now >= deadline => Outlook::Expire,
        _ => Outlook::Try,
    }
}

/// When the state asks for something by itself. None when it is over.
pub fn next_look(spec: &NotificationSpec) -> Option<Timestamp> {
    match outlook(Some(spec), spec.deadline, Timestamp::MIN) {
        Outlook::Over => None,
        Outlook::Wait(time) => Some(time),
        Outlook::Try | Outlook::Expire => Some(Timestamp::MIN),
    }
}

/// Whether a try can begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can, and is over after this time.
    Ready(Duration),
    /// The channel has as many tries under way as it may have. That is no failure.
    Busy,
    /// It cannot: the channel or its Secret is missing or broken, which a person can mend before the deadline.
    NotReady(String),
}

/// What a new state says to the other services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// notification.delivered.
    Delivered,
    /// notification.failed.
    Failed,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Move {
    /// Nothing now.
    Nothing,
    /// Write this, and then send.
    Claim(Box<NotificationSpec>),
    /// The claim that this worker has tried to write is written: send.
    Claimed,
    /// Write this.
    Write(Box<NotificationSpec>, Option<Said>),
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// This incarnation of this replica; no other ever has the same.
    pub me: &'a str,
    /// The try that this worker has tried to claim and has not sent: its write may have succeeded without an answer.
    pub claiming: Option<i32>,
    /// The time.
    pub now: Timestamp,
    /// From 0 to 1: full jitter.
    pub jitter: f64,
}

/// The next step before a try. `first` is the state that a request begins with; without one there is nothing to begin.
pub fn begin(
    current: Option<&NotificationSpec>,
    first: Option<&NotificationSpec>,
    readiness: &Readiness,
    asker: Asker<'_>,
) -> Move {
    let Some(base) = current.or(first) else { return Move::Nothing };
    if is_own_claim(current, asker) {
        return Move::Claimed;
    }
    let mut next = base.clone();
    match outlook(current, base.deadline, asker.now) {
        Outlook::Over | Outlook::Wait(_) => return Move::Nothing,
        Outlook::Expire if current.is_none() => {
            finish(&mut next, NotificationPhase::Stale, asker.now);
            return Move::Write(Box::new(next), None);
        }
        Outlook::Expire => {
            note_lost_sender(&mut next);
            next.last_error.get_or_insert_with(|| "no try was possible before its deadline".to_owned());
            finish(&mut next, NotificationPhase::Failed, asker.now);
            return Move::Write(Box::new(next), Some(Said::Failed));
        }
        Outlook::Try => {}
    }
    note_lost_sender(&mut next);
    match readiness {
        Readiness::Busy if current.is_some() => Move::Nothing,
        Readiness::Busy => {
            wait(&mut next, asker.now);
            Move::Write(Box::new(next), None)
        }
        Readiness::NotReady(reason) => {
            next.tries = next.tries.saturating_add(1);
            next.last_error = Some(cut(reason));
            let due = plus(asker.now, backoff(next.tries, asker.jitter));
            wait(&mut next, due);
            Move::Write(Box::new(next), None)
        }
        Readiness::Ready(limit) => {
            next.phase = NotificationPhase::Sending;
            next.tries = next.tries.saturating_add(1);
            next.sender = Some(asker.me.to_owned());
            next.send_until = Some(plus(plus(asker.now, *limit), SETTLE_GRACE.unsigned_abs()));
            next.due = None;
            Move::Claim(Box::new(next))
        }
    }
}

/// The next state after a try. `tries` is the number of the claimed try. None: it stays as it is.
pub fn settle(
    current: &NotificationSpec,
    tries: i32,
    outcome: &Outcome,
    asker: Asker<'_>,
) -> Option<(NotificationSpec, Option<Said>)> {
    let ours = current.phase == NotificationPhase::Sending
        && current.sender.as_deref() == Some(asker.me)
        && current.tries == tries;
    let mut next = current.clone();
    match outcome {
        // Whoever has claimed it meanwhile: it was accepted, and no further copy is needed.
        Outcome::Delivered | Outcome::DeliveredInPart { .. } if !current.phase.is_terminal() => {
            if let Outcome::DeliveredInPart { reason } = outcome {
                next.last_error = Some(cut(reason));
            }
            next.delivered_at = Some(asker.now);
            finish(&mut next, NotificationPhase::Delivered, asker.now);
            return Some((next, Some(Said::Delivered)));
        }
        _ if !ours => return None,
        Outcome::Delivered | Outcome::DeliveredInPart { .. } => return None,
        Outcome::NotSent => {
            next.tries = next.tries.saturating_sub(1);
            wait(&mut next, asker.now);
        }
        Outcome::Rejected { reason } => {
            next.last_error = Some(cut(reason));
            finish(&mut next, NotificationPhase::Failed, asker.now);
            return Some((next, Some(Said::Failed)));
        }
        Outcome::Refused { reason, retry_after } | Outcome::Unknown { reason, retry_after } => {
            next.duplicate_possible |= matches!(outcome, Outcome::Unknown { .. }) && !mutated(Mutant::CopyNotMarked);
            next.last_error = Some(cut(reason));
            let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
            // Jitter is added to what was asked for, so that many who were told the same do not come back together.
            let due = plus(plus(asker.now, asked), backoff(tries, asker.jitter));
            wait(&mut next, due);
        }
    }
    Some((next, None))
}

fn is_own_claim(current: Option<&NotificationSpec>, asker: Asker<'_>) -> bool {
    current.is_some_and(|spec| {
        spec.phase == NotificationPhase::Sending
            && spec.sender.as_deref() == Some(asker.me)
            && asker.claiming == Some(spec.tries)
    })
}

/// A sender whose time is over may have sent: what follows is possibly a second copy.
fn note_lost_sender(next: &mut NotificationSpec) {
    if next.phase == NotificationPhase::Sending && next.sender.is_some() {
        next.duplicate_possible = !mutated(Mutant::CopyNotMarked);
        next.last_error = Some("its sender stopped before it wrote down whether the channel accepted it".into());
    }
}

fn wait(next: &mut NotificationSpec, due: Timestamp) {
    next.phase = NotificationPhase::Waiting;
    next.due = Some(due.min(next.deadline));
    next.sender = None;
    next.send_until = None;
}

fn finish(next: &mut NotificationSpec, phase: NotificationPhase, now: Timestamp) {
    next.phase = phase;
    next.finished_at = Some(now);
    next.due = None;
    next.sender = None;
    next.send_until = None;
}

/// Full jitter: anything up to a limit that doubles with each try.
fn backoff(tries: i32, jitter: f64) -> Duration {
    let doublings = u32::try_from(tries.saturating_sub(1)).unwrap_or(0).min(30);
    BACKOFF_INITIAL.saturating_mul(1 << doublings).min(BACKOFF_MAX).mul_f64(jitter.clamp(0.0, 1.0))
}

/// In whole milliseconds: what is written to a resource and read back is the same time.
fn plus(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::from_millis(i64::try_from(by.as_millis()).unwrap_or(i64::MAX));
    time.saturating_add(by).unwrap_or(Timestamp::MAX)
}

fn cut(text: &str) -> String {
    text.chars().take(NOTIFICATION_ERROR_MAX).collect()
}

#[cfg(test)]
#[path = "deliver_tests.rs"]
mod tests;
