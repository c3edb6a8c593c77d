//! The state machine, case by case, and over generated histories of several replicas that die, freeze and overtake each other.

use proptest::prelude::*;

use super::*;
use crate::{
    api::v1alpha1::Notification,
    notify::testing::{at, noon, spec},
    runtime::{Owned, Rank},
};

fn asker(me: &str, now: Timestamp) -> Asker<'_> {
    Asker { me, claiming: None, now, jitter: 1.0 }
}

fn ready() -> Readiness {
    Readiness::Ready(Duration::from_secs(10))
}

fn claim(current: Option<&NotificationSpec>, me: &str, now: Timestamp) -> NotificationSpec {
    match begin(current, Some(&spec()), &ready(), asker(me, now)) {
        Move::Claim(spec) => *spec,
        other => panic!("no claim but {other:?}"),
    }
}

fn later(seconds: i64) -> Timestamp {
    noon() + SignedDuration::from_secs(seconds)
}

fn refused(reason: &str, retry_after: Option<u64>) -> Outcome {
    Outcome::Refused { reason: reason.into(), retry_after: retry_after.map(Duration::from_secs) }
}

#[test]
fn a_first_try_is_claimed_and_settled() {
    let claimed = claim(None, "a", noon());
    assert_eq!((claimed.phase, claimed.tries, claimed.duplicate_possible), (NotificationPhase::Sending, 1, false));
    assert_eq!((claimed.sender.as_deref(), claimed.send_until), (Some("a"), Some(later(15))));
    let (done, said) = settle(&claimed, 1, &Outcome::Delivered, asker("a", later(1))).unwrap();
    assert_eq!(
        (done.phase, said, done.delivered_at),
        (NotificationPhase::Delivered, Some(Said::Delivered), Some(later(1)))
    );
    assert_eq!((done.sender.is_none(), done.send_until, next_look(&done)), (true, None, None));
    assert_eq!(begin(Some(&done), Some(&spec()), &ready(), asker("b", later(2))), Move::Nothing);
    assert_eq!(settle(&done, 1, &Outcome::Delivered, asker("b", later(2))), None);
}

#[test]
fn another_replica_waits_for_the_senders_time_and_then_marks_its_copy() {
    let claimed = claim(None, "a", noon());
    assert_eq!(begin(Some(&claimed), Some(&spec()), &ready(), asker("b", later(14))), Move::Nothing);
    assert_eq!(next_look(&claimed), Some(later(15)));
    let second = claim(Some(&claimed), "b", later(15));
    assert_eq!((second.tries, second.duplicate_possible, second.sender.as_deref()), (2, true, Some("b")));
    // The first one comes back and knows better: no further copy is needed.
    let (done, said) = settle(&second, 1, &Outcome::Delivered, asker("a", later(20))).unwrap();
    assert_eq!((done.phase, said), (NotificationPhase::Delivered, Some(Said::Delivered)));
    // But a failure that it met is no longer its to tell.
    assert_eq!(settle(&second, 1, &refused("x", None), asker("a", later(20))), None);
    assert_eq!(
        settle(&second, 1, &refused("x", None), asker("b", later(20))),
        None,
        "an earlier try of the same replica"
    );
}

#[test]
fn people_wait_for_the_claim_and_for_nothing_that_is_written_after_it() {
    let rank = |spec: &NotificationSpec| Notification { metadata: Default::default(), spec: spec.clone() }.rank();
    let claimed = claim(None, "a", noon());
    assert_eq!(rank(&claimed), Rank::Record { precedes_message: true });
    for outcome in [Outcome::Delivered, refused("x", None)] {
        let (next, _) = settle(&claimed, 1, &outcome, asker("a", later(1))).unwrap();
        assert_eq!(rank(&next), Rank::LAST, "{outcome:?}");
    }
}

#[test]
fn a_claim_whose_answer_was_lost_is_known_again_and_nobody_elses_is() {
    let claimed = claim(None, "a", noon());
    let own = Asker { claiming: Some(1), ..asker("a", later(1)) };
    assert_eq!(begin(Some(&claimed), Some(&spec()), &ready(), own), Move::Claimed);
    for other in [Asker { claiming: Some(2), ..own }, Asker { claiming: None, ..own }, Asker { me: "b", ..own }] {
        assert_eq!(begin(Some(&claimed), Some(&spec()), &ready(), other), Move::Nothing, "{other:?}");
    }
}

#[test]
fn a_failed_try_waits_as_long_as_it_is_asked_to_and_no_longer_than_the_deadline() {
    let claimed = claim(None, "a", noon());
    let due = |outcome: &Outcome, tries: i32, jitter: f64| {
        let current = NotificationSpec { tries, ..claimed.clone() };
        let (next, said) = settle(&current, tries, outcome, Asker { jitter, ..asker("a", noon()) }).unwrap();
        assert_eq!((next.phase, said, next.sender.is_none()), (NotificationPhase::Waiting, None, true));
        next.due.unwrap()
    };
    assert_eq!(due(&refused("x", None), 1, 1.0), later(1));
    assert_eq!(due(&refused("x", None), 3, 1.0), later(4));
    assert_eq!(due(&refused("x", None), 3, 0.5), later(2));
    assert_eq!(due(&refused("x", None), 30, 1.0), later(300));
    assert_eq!(due(&refused("x", None), i32::MAX, 0.0), noon());
    assert_eq!(due(&refused("x", Some(30)), 1, 1.0), later(31));
    assert_eq!(due(&refused("x", Some(u64::MAX)), 1, 1.0), claimed.deadline);
    // An hour at most, also where there would be time for more.
    let patient = NotificationSpec { deadline: later(24 * 3600), ..claimed.clone() };
    let (next, _) = settle(&patient, 1, &refused("x", Some(u64::MAX)), asker("a", noon())).unwrap();
    assert_eq!(next.due, Some(later(3600 + 1)));
    assert_eq!(due(&Outcome::NotSent, 1, 1.0), noon());
}

#[test]
fn only_what_may_have_been_accepted_marks_the_next_copy() {
    let claimed = claim(None, "a", noon());
    let after = |outcome: &Outcome| settle(&claimed, 1, outcome, asker("a", noon())).unwrap().0;
    assert!(!after(&refused("HTTP 429", None)).duplicate_possible);
    assert!(!after(&Outcome::NotSent).duplicate_possible);
    assert_eq!(after(&Outcome::NotSent).tries, 0);
    assert!(after(&Outcome::Unknown { reason: "no answer".into(), retry_after: None }).duplicate_possible);
    let marked = after(&Outcome::Unknown { reason: "no answer".into(), retry_after: None });
    assert!(claim(Some(&marked), "a", later(2)).duplicate_possible);
}

#[test]
fn a_message_ends_at_its_deadline_or_when_it_is_rejected() {
    let claimed = claim(None, "a", noon());
    let (rejected, said) =
        settle(&claimed, 1, &Outcome::Rejected { reason: "HTTP 404 no_service".into() }, asker("a", noon())).unwrap();
    assert_eq!((rejected.phase, said), (NotificationPhase::Failed, Some(Said::Failed)));
    assert_eq!(rejected.last_error.as_deref(), Some("HTTP 404 no_service"));

    let (waiting, _) = settle(&claimed, 1, &refused("HTTP 429", None), asker("a", noon())).unwrap();
    let deadline = claimed.deadline;
    let Move::Write(failed, said) = begin(Some(&waiting), None, &ready(), asker("b", deadline)) else { panic!() };
    assert_eq!((failed.phase, said), (NotificationPhase::Failed, Some(Said::Failed)));
    assert_eq!((failed.last_error.as_deref(), failed.finished_at), (Some("HTTP 429"), Some(deadline)));

    // A sender at work may still succeed: the deadline waits for it.
    let late = NotificationSpec { send_until: Some(deadline + SignedDuration::from_secs(5)), ..claimed.clone() };
    assert_eq!(begin(Some(&late), None, &ready(), asker("b", deadline)), Move::Nothing);
    let Move::Write(failed, _) =
        begin(Some(&late), None, &ready(), asker("b", deadline + SignedDuration::from_secs(5)))
    else {
        panic!()
    };
    assert!(failed.duplicate_possible);
}

#[test]
fn what_is_first_seen_past_its_deadline_is_stale_and_says_nothing() {
    let Move::Write(stale, said) = begin(None, Some(&spec()), &ready(), asker("a", spec().deadline)) else { panic!() };
    assert_eq!((stale.phase, said, stale.tries), (NotificationPhase::Stale, None, 0));
    assert_eq!(begin(Some(&stale), Some(&spec()), &ready(), asker("a", spec().deadline)), Move::Nothing);
    assert_eq!(begin(None, None, &ready(), asker("a", noon())), Move::Nothing);
}

#[test]
fn a_busy_channel_is_no_failure_and_a_broken_one_is() {
    let Move::Write(waiting, _) = begin(None, Some(&spec()), &Readiness::Busy, asker("a", noon())) else { panic!() };
    assert_eq!((waiting.phase, waiting.tries, waiting.last_error.as_deref()), (NotificationPhase::Waiting, 0, None));
    assert_eq!(begin(Some(&waiting), None, &Readiness::Busy, asker("a", noon())), Move::Nothing);

    let broken = Readiness::NotReady("Secret shop/slack is not there".into());
    let Move::Write(waiting, said) = begin(None, Some(&spec()), &broken, asker("a", noon())) else { panic!() };
    assert_eq!((waiting.tries, said, waiting.due), (1, None, Some(later(1))));
    assert_eq!(waiting.last_error.as_deref(), Some("Secret shop/slack is not there"));
    assert!(!waiting.duplicate_possible);
}

#[test]
fn a_state_that_somebody_has_edited_into_nonsense_still_comes_to_an_end() {
    let nonsense = NotificationSpec {
        phase: NotificationPhase::Sending,
        sender: None,
        send_until: None,
        tries: i32::MAX,
        ..spec()
    };
    assert_eq!(next_look(&nonsense), Some(Timestamp::MIN));
    let claimed = claim(Some(&nonsense), "a", noon());
    assert_eq!(claimed.tries, i32::MAX);
    let past = NotificationSpec { deadline: at("-009999-01-02T01:59:59Z"), ..nonsense };
    assert!(matches!(begin(Some(&past), None, &ready(), asker("a", noon())), Move::Write(_, Some(Said::Failed))));
    let error =
        settle(&claimed, i32::MAX, &refused(&"x".repeat(5_000), None), asker("a", noon())).unwrap().0.last_error;
    assert_eq!(error.unwrap().len(), NOTIFICATION_ERROR_MAX);
}

/// What happens next to one of the replicas.
#[derive(Clone, Debug)]
enum Happening {
    /// The replica looks at the notification, and writes what it decides.
    Look { replica: usize, readiness: u8 },
    /// The replica sends, if it has a claim and its time is not over.
    Send { replica: usize, outcome: u8 },
    /// The replica writes down what became of its try.
    Settle { replica: usize },
    /// The replica dies, and forgets everything; another incarnation takes its place.
    Die { replica: usize },
    /// Time passes.
    Pass { seconds: i64 },
}

fn happening() -> impl Strategy<Value = Happening> {
    let replica = || 0..3_usize;
    prop_oneof![
        4 => (replica(), 0..8_u8).prop_map(|(replica, readiness)| Happening::Look { replica, readiness }),
        4 => (replica(), 0..6_u8).prop_map(|(replica, outcome)| Happening::Send { replica, outcome }),
        4 => replica().prop_map(|replica| Happening::Settle { replica }),
        1 => replica().prop_map(|replica| Happening::Die { replica }),
        2 => (0..40_i64).prop_map(|seconds| Happening::Pass { seconds }),
    ]
}

#[derive(Default)]
struct Replica {
    incarnation: usize,
    /// What it has claimed and not sent.
    claimed: Option<NotificationSpec>,
    /// What it has sent and not written down.
    sent: Option<(i32, Outcome)>,
}

/// A copy that left: whether it was marked, and whether it may have been accepted.
struct Copy {
    marked: bool,
    accepted: bool,
    possible: bool,
}

struct World {
    now: Timestamp,
    state: Option<NotificationSpec>,
    replicas: [Replica; 3],
    copies: Vec<Copy>,
    said: Vec<Said>,
}

impl World {
    fn new() -> Self {
        Self { now: noon(), state: None, replicas: Default::default(), copies: Vec::new(), said: Vec::new() }
    }

    fn me(&self, replica: usize) -> String {
        format!("{replica}-{}", self.replicas[replica].incarnation)
    }

    fn happen(&mut self, happening: &Happening) {
        match *happening {
            Happening::Pass { seconds } => self.now += SignedDuration::from_secs(seconds),
            Happening::Die { replica } => {
                let incarnation = self.replicas[replica].incarnation + 1;
                self.replicas[replica] = Replica { incarnation, ..Replica::default() };
            }
            Happening::Look { replica, readiness } => self.look(replica, readiness),
            Happening::Send { replica, outcome } => self.send(replica, outcome),
            Happening::Settle { replica } => self.settle(replica),
        }
    }

    fn look(&mut self, replica: usize, readiness: u8) {
        // One worker for each key: a replica does not look while it is at it.
        if self.replicas[replica].claimed.is_some() || self.replicas[replica].sent.is_some() {
            return;
        }
        let readiness = match readiness {
            0 => Readiness::Busy,
            1 => Readiness::NotReady("no Secret".into()),
            _ => ready(),
        };
        let me = self.me(replica);
        match begin(self.state.as_ref(), Some(&spec()), &readiness, asker(&me, self.now)) {
            Move::Nothing | Move::Claimed => {}
            Move::Claim(spec) => {
                self.replicas[replica].claimed = Some((*spec).clone());
                self.state = Some(*spec);
            }
            Move::Write(spec, said) => {
                self.said.extend(said);
                self.state = Some(*spec);
            }
        }
    }

    fn send(&mut self, replica: usize, outcome: u8) {
        let Some(claimed) = self.replicas[replica].claimed.take() else { return };
        let outcome = if claimed.send_until.is_some_and(|until| self.now >= until) {
            Outcome::NotSent
        } else {
            let (outcome, accepted, possible) = match outcome {
                0 => (refused("HTTP 429", Some(3)), false, false),
                1 => (Outcome::Unknown { reason: "no answer".into(), retry_after: None }, true, true),
                2 => (Outcome::Unknown { reason: "HTTP 502".into(), retry_after: None }, false, true),
                3 => (Outcome::Rejected { reason: "HTTP 404".into() }, false, false),
                _ => (Outcome::Delivered, true, true),
            };
            self.copies.push(Copy { marked: claimed.duplicate_possible, accepted, possible });
            outcome
        };
        self.replicas[replica].sent = Some((claimed.tries, outcome));
    }

    fn settle(&mut self, replica: usize) {
        let Some((tries, outcome)) = self.replicas[replica].sent.take() else { return };
        let me = self.me(replica);
        let Some(current) = &self.state else { return };
        if let Some((next, said)) = settle(current, tries, &outcome, asker(&me, self.now)) {
            self.said.extend(said);
            self.state = Some(next);
        }
    }

    /// Nobody disturbs any more: one replica goes on until there is nothing left to do.
    fn finish(&mut self) {
        for _ in 0..2_000 {
            self.settle(0);
            self.send(0, 5);
            self.settle(0);
            self.look(0, 2);
            match self.state.as_ref().map(next_look) {
                Some(None) => return,
                Some(Some(time)) => self.now = self.now.max(time),
                None => {}
            }
        }
        panic!("never comes to an end: {:?}", self.state);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Promise 4: a copy that follows one which may have been accepted is marked; one end, said once; and it comes to an end.
    #[test]
    fn no_copy_follows_another_unmarked_and_there_is_one_end(happenings in prop::collection::vec(happening(), 0..60)) {
        let mut world = World::new();
        for happening in &happenings {
            world.happen(happening);
        }
        world.finish();
        for later in 1..world.copies.len() {
            if world.copies[..later].iter().any(|copy| copy.possible) {
                prop_assert!(world.copies[later].marked, "copy {later} is not marked");
            }
        }
        prop_assert!(world.said.len() <= 1, "said {:?}", world.said);
        let state = world.state.unwrap();
        prop_assert!(state.phase.is_terminal());
        let said = match state.phase {
            NotificationPhase::Delivered => vec![Said::Delivered],
            NotificationPhase::Failed => vec![Said::Failed],
            _ => vec![],
        };
        prop_assert_eq!(&world.said, &said);
        if state.phase == NotificationPhase::Delivered {
            prop_assert!(world.copies.iter().any(|copy| copy.accepted));
        }
    }
}
