//! Accounts of histories that are made up: whatever is repeated, told again, read in part or let go by the log, what is lacking is
//! exactly what was taken away.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::{
    cli::ledger::search::{Horizon, Lacking, Search},
    events::{AlertId, AlertRaised, EventId, IncidentId},
};

const PARTITIONS: u32 = 3;

/// What becomes of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Decided,
    Buried,
    Lost,
}

#[derive(Clone, Debug)]
struct Story {
    /// In minutes after the alert before.
    after: i64,
    /// In minutes: each telling after the one before, and its decision after it.
    tellings: Vec<(i64, i64)>,
    rules: usize,
    fate: Fate,
    /// How often the last record of alert.raised, and what was decided of it, comes again.
    copies: usize,
}

fn stories() -> impl Strategy<Value = Vec<Story>> {
    let fate = prop_oneof![8 => Just(Fate::Decided), 1 => Just(Fate::Buried), 1 => Just(Fate::Lost)];
    let tellings = prop::collection::vec((0_i64..90, 0_i64..30), 1..4);
    let story = (0_i64..40, tellings, 0_usize..3, fate, 0_usize..3);
    let story = story.prop_map(|(after, tellings, rules, fate, copies)| Story { after, tellings, rules, fate, copies });
    prop::collection::vec(story, 1..25)
}

fn minute(minute: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap() + SignedDuration::from_mins(minute)
}

fn alert(number: usize, began: i64, accepted: i64) -> RaisedAlert {
    let raised = AlertRaised {
        alert_id: None,
        source: "prom".into(),
        fingerprint: Some(format!("f{number}")),
        status: AlertStatus::Firing,
        labels: BTreeMap::from([("alertname".to_owned(), format!("A{number}"))]),
        annotations: BTreeMap::new(),
        starts_at: minute(began),
        ends_at: None,
        generator_url: None,
        accepted_at: minute(accepted),
    };
    let id = EventId::new("alert.raised", &number.to_string(), "");
    RaisedAlert::read(id, None, raised, Timestamp::MAX).unwrap()
}

fn decision(of: &RaisedAlert, rule: Option<usize>, reason: DecisionReason) -> AlertDecided {
    let rule = rule.map(|rule| NamespacedName { namespace: "shop".into(), name: format!("rule-{rule}") });
    let incident = (reason == DecisionReason::Opened)
        .then(|| IncidentId::try_from(format!("incident-{}", of.fingerprint)).unwrap());
    AlertDecided {
        alert_id: of.alert_id.clone(),
        alert_event_id: of.event_id.clone(),
        source: of.alert.source.clone(),
        fingerprint: of.fingerprint.clone(),
        starts_at: of.alert.starts_at,
        status: of.alert.status,
        rule,
        reason,
        incident_id: incident,
        detail: String::new(),
    }
}

/// The three topics, each record with the time at which the log took it.
#[derive(Clone, Debug, Default)]
struct Log {
    raised: Vec<(Place, i64, RaisedAlert)>,
    letters: Vec<(i64, Place)>,
    decided: Vec<(Place, i64, AlertDecided)>,
}

impl Log {
    fn of(stories: &[Story]) -> Self {
        let mut log = Self::default();
        let mut now = 0;
        for (number, story) in stories.iter().enumerate() {
            now += story.after;
            log.tell(number, now, story);
        }
        // Places in the order of time, as a log has them.
        let mut next: BTreeMap<u32, u64> = BTreeMap::new();
        log.raised.sort_by_key(|(_, taken, _)| *taken);
        for (place, ..) in &mut log.raised {
            let offset = next.entry(place.partition).or_default();
            place.offset = *offset;
            *offset += 1;
        }
        next.clear();
        log.decided.sort_by_key(|(_, taken, _)| *taken);
        for (place, ..) in &mut log.decided {
            let offset = next.entry(place.partition).or_default();
            place.offset = *offset;
            *offset += 1;
        }
        let is_buried = |alert: &RaisedAlert| {
            let number: usize = alert.fingerprint[1..].parse().unwrap();
            stories[number].fate == Fate::Buried
        };
        let buried = log.raised.iter().filter(|(_, _, alert)| is_buried(alert));
        log.letters = buried.map(|(place, taken, _)| (*taken, *place)).collect();
        log
    }

    fn tell(&mut self, number: usize, began: i64, story: &Story) {
        let place = Place { partition: number as u32 % PARTITIONS, offset: 0 };
        let (mut accepted, mut decided) = (began, began);
        for (telling, (after, until_decided)) in story.tellings.iter().enumerate() {
            accepted += after;
            // One alert's are decided in their order.
            decided = decided.max(accepted + until_decided);
            let alert = alert(number, began, accepted);
            let is_last = telling + 1 == story.tellings.len();
            for copy in 0..=if is_last { story.copies } else { 0 } {
                self.raised.push((place, accepted, alert.clone()));
                if story.fate != Fate::Decided {
                    continue;
                }
                decided += copy as i64;
                let mut say = |rule, reason| self.decided.push((place, decided, decision(&alert, rule, reason)));
                match story.rules {
                    0 => say(None, DecisionReason::NoRule),
                    rules => (0..rules).for_each(|rule| {
                        let is_first = telling == 0 && copy == 0;
                        say(Some(rule), if is_first { DecisionReason::Opened } else { DecisionReason::Repeated });
                    }),
                }
            }
        }
    }

    /// What an account of everything since this minute comes to. `kept` is the minute before which the log may have let go.
    fn account(&self, since: i64, next: Option<u64>, kept: i64) -> (Balance, Lacking, Counts) {
        let ends = (0..PARTITIONS).map(|partition| (partition, next.unwrap_or(u64::MAX)));
        let mut account = Account::new(Progress { next: ends.collect(), graced_from: Timestamp::MAX });
        let since = |taken: i64| taken >= since;
        for (number, (_, place)) in self.letters.iter().filter(|(taken, _)| since(*taken)).enumerate() {
            account.letter(&format!("letter-{number}"), "eventpulse/rules", letter(*place));
        }
        for (place, taken, alert) in self.raised.iter().filter(|(_, taken, _)| since(*taken)) {
            account.raised(*place, minute(*taken), Some(alert));
        }
        for (place, taken, decided) in self.decided.iter().filter(|(_, taken, _)| since(*taken)) {
            account.decided(*place, Some((minute(*taken), decided.clone())));
        }
        let balance = account.balance().unwrap();
        let horizon = || Horizon::new(minute(kept));
        let mut search = Search::new(balance.missing.clone(), account.take_orphans(), horizon(), horizon());
        if search.is_needed() {
            self.raised.iter().for_each(|(place, taken, alert)| search.raised(*place, minute(*taken), Some(alert)));
            let mut say = |place, taken, decided: &AlertDecided| search.decided(place, taken, Some(decided.clone()));
            self.decided.iter().for_each(|(place, taken, decided)| say(*place, minute(*taken), decided));
        }
        (balance, search.end(), account.counts)
    }

    fn alerts(&self, since: i64) -> BTreeSet<AlertId> {
        let read = self.raised.iter().filter(|(_, taken, _)| *taken >= since);
        read.map(|(_, _, alert)| alert.alert_id.clone()).collect()
    }
}

fn letter(place: Place) -> DeadLetter {
    DeadLetter {
        reason: DeadLetterReason::InvalidAlert,
        message: String::new(),
        origin: format!("alert.raised/{}@{}", place.partition, place.offset),
        headers: BTreeMap::new(),
        key: None,
        data: String::new(),
        truncated: false,
    }
}

fn named(lacking: &Lacking) -> BTreeSet<String> {
    lacking.missing_named.iter().map(|(_, known)| known.as_ref().unwrap().alert_id.clone()).collect()
}

proptest! {
    #[test]
    fn what_is_missing_is_what_has_no_decision_and_no_letter(stories in stories()) {
        let log = Log::of(&stories);
        let (balance, lacking, counts) = log.account(i64::MIN, None, i64::from(i32::MIN));
        let with = |fate: Fate| stories.iter().filter(|story| story.fate == fate).count() as u64;
        prop_assert_eq!(balance.accepted, stories.len() as u64);
        prop_assert_eq!((balance.decided, balance.buried), (with(Fate::Decided), with(Fate::Buried)));
        prop_assert_eq!((balance.under_way, lacking.missing), (0, with(Fate::Lost)));
        prop_assert_eq!((lacking.never_raised, lacking.missing_out_of_sight, counts.contradictions), (0, 0, 0));
        let of_fate = |fate| stories.iter().enumerate().filter(move |(_, story)| story.fate == fate);
        let began = |number: usize| stories[..=number].iter().map(|story| story.after).sum::<i64>();
        let lost = of_fate(Fate::Lost).map(|(number, _)| alert(number, began(number), began(number)).alert_id.to_string());
        prop_assert_eq!(named(&lacking), lost.collect::<BTreeSet<_>>());
        // For each rule once, however often it was told or came again.
        let pairs: usize = of_fate(Fate::Decided).map(|(_, story)| story.rules.max(1)).sum();
        prop_assert_eq!(counts.reasons.values().sum::<u64>(), pairs as u64);
        prop_assert_eq!(counts.reasons.get(&DecisionReason::Repeated), None);
        prop_assert_eq!(counts.repetitions, (log.decided.len() - pairs) as u64);
        prop_assert_eq!(counts.rules.values().flat_map(BTreeMap::values).sum::<u64>(), pairs as u64);
    }

    #[test]
    fn whenever_an_account_begins_nothing_is_missed_that_stands_before_it(stories in stories(), since in 0_i64..1_500) {
        let log = Log::of(&stories);
        let (balance, lacking, counts) = log.account(since, None, i64::from(i32::MIN));
        prop_assert_eq!(balance.accepted, log.alerts(since).len() as u64);
        prop_assert_eq!(balance.decided + balance.buried + balance.under_way + balance.missing.len() as u64, balance.accepted);
        let is_lost = |id: &AlertId| log.decided.iter().all(|(_, _, decided)| decided.alert_id != *id);
        let buried = |id: &AlertId| log.letters.iter().any(|(taken, place)| {
            *taken >= since && log.raised.iter().any(|(at, _, alert)| at == place && alert.alert_id == *id)
        });
        let lost: BTreeSet<_> = log.alerts(since).into_iter().filter(|id| is_lost(id) && !buried(id)).collect();
        prop_assert_eq!(named(&lacking), lost.iter().map(ToString::to_string).collect::<BTreeSet<_>>());
        prop_assert_eq!((lacking.never_raised, counts.contradictions), (0, 0));
    }

    #[test]
    fn what_the_log_has_let_go_is_no_alarm(mut stories in stories(), gone in 0_i64..1_500, since in 0_i64..1_500) {
        stories.iter_mut().filter(|story| story.fate == Fate::Lost).for_each(|story| story.fate = Fate::Decided);
        let mut log = Log::of(&stories);
        log.raised.retain(|(_, taken, _)| *taken >= gone);
        log.letters.retain(|(taken, _)| *taken >= gone);
        log.decided.retain(|(_, taken, _)| *taken >= gone);
        let (_, lacking, counts) = log.account(since, None, gone);
        prop_assert_eq!((lacking.missing, lacking.never_raised, counts.contradictions), (0, 0, 0));
    }

    #[test]
    fn a_decision_that_is_withheld_or_an_alert_that_is_taken_away_is_named(stories in stories(), which in any::<prop::sample::Index>()) {
        let log = Log::of(&stories);
        prop_assume!(!log.decided.is_empty());
        let taken = log.decided[which.index(log.decided.len())].2.clone();
        let is_taken = |id: &AlertId| *id == taken.alert_id;
        // A partition without its first record has let go of something: of what is older nobody can know.
        prop_assume!(log.raised.iter().all(|(place, _, alert)| place.offset > 0 || !is_taken(&alert.alert_id)));
        prop_assume!(log.decided.iter().all(|(place, _, decided)| place.offset > 0 || !is_taken(&decided.alert_id)));
        let before = log.account(i64::MIN, None, i64::from(i32::MIN)).1;
        let withheld = Log { decided: log.decided.iter().filter(|(_, _, decided)| !is_taken(&decided.alert_id)).cloned().collect(), ..log.clone() };
        let lacking = withheld.account(i64::MIN, None, i64::from(i32::MIN)).1;
        prop_assert_eq!(lacking.missing, before.missing + 1);
        prop_assert!(named(&lacking).contains(taken.alert_id.as_str()));
        let stolen = Log { raised: log.raised.iter().filter(|(_, _, alert)| !is_taken(&alert.alert_id)).cloned().collect(), ..log.clone() };
        let lacking = stolen.account(i64::MIN, None, i64::from(i32::MIN)).1;
        prop_assert_eq!((lacking.missing, lacking.never_raised), (before.missing, 1));
        prop_assert_eq!(&lacking.never_raised_named[0].1.alert_id, &taken.alert_id);
    }

    #[test]
    fn what_rules_has_not_read_is_under_way_and_not_missing(stories in stories(), next in 0_u64..12) {
        let mut log = Log::of(&stories);
        log.decided.clear();
        log.letters.clear();
        let (balance, lacking, _) = log.account(i64::MIN, Some(next), i64::from(i32::MIN));
        let mut first: BTreeMap<AlertId, u64> = BTreeMap::new();
        for (place, _, alert) in &log.raised {
            first.entry(alert.alert_id.clone()).or_insert(place.offset);
        }
        prop_assert_eq!(balance.under_way, first.values().filter(|offset| **offset >= next).count() as u64);
        prop_assert_eq!(balance.under_way + lacking.missing, balance.accepted);
    }
}

/// Of one alert and rule: the first decision, a further one, and whether the alert was told once.
#[test]
fn a_contradiction_is_what_no_repetition_and_no_later_telling_explains() {
    use DecisionReason::*;
    let decision = |reason, incident| super::Decision { reason, incident };
    for (first, further, once, again) in [
        ((Opened, 1), (Opened, 1), Further::Repetition, Further::Repetition),
        ((Opened, 1), (Repeated, 2), Further::Repetition, Further::Repetition),
        ((Joined, 1), (Stale, 0), Further::Repetition, Further::Repetition),
        ((Opened, 1), (Opened, 2), Further::Contradiction, Further::Anew),
        ((Opened, 1), (Joined, 1), Further::Contradiction, Further::Anew),
        ((Repeated, 1), (Opened, 2), Further::Contradiction, Further::Anew),
        ((Resolved, 1), (NothingToResolve, 0), Further::Contradiction, Further::Anew),
        ((NoRule, 0), (NoRule, 0), Further::Repetition, Further::Repetition),
        ((Cooldown, 0), (Opened, 1), Further::Anew, Further::Anew),
        ((Suspended, 0), (Cooldown, 0), Further::Anew, Further::Anew),
        ((Storm, 0), (Joined, 1), Further::Anew, Further::Anew),
        ((Refused, 0), (Opened, 1), Further::Anew, Further::Anew),
        ((Stale, 0), (Opened, 1), Further::Anew, Further::Anew),
        ((Invalid, 0), (Opened, 1), Further::Anew, Further::Anew),
    ] {
        let (before, after) = (decision(first.0, first.1), decision(further.0, further.1));
        assert_eq!((judge(before, after, true), judge(before, after, false)), (once, again), "{first:?} {further:?}");
    }
}

#[test]
fn a_contradiction_is_named_and_the_first_decision_counts() {
    let raised = alert(1, 0, 0);
    let at = |offset| Place { partition: 0, offset };
    let mut account = Account::new(Progress::default());
    account.raised(at(0), minute(0), Some(&raised));
    account.decided(at(0), Some((minute(1), decision(&raised, Some(1), DecisionReason::Opened))));
    account.decided(at(1), Some((minute(2), decision(&raised, Some(2), DecisionReason::Joined))));
    let joined = decision(&raised, Some(1), DecisionReason::Joined);
    account.decided(at(2), Some((minute(3), joined.clone())));
    assert_eq!(
        account.contradictions,
        [Contradiction { place: at(2), decided: joined, first: DecisionReason::Opened }]
    );
    assert_eq!(account.counts.reasons, BTreeMap::from([(DecisionReason::Opened, 1), (DecisionReason::Joined, 1)]));
    // Told again, or told before what was read, it may be decided anew.
    for (accepted, time) in [(5, 6), (0, -1)] {
        let mut account = Account::new(Progress::default());
        account.raised(at(0), minute(0), Some(&raised));
        account.raised(at(1), minute(accepted), Some(&alert(1, 0, accepted)));
        for (offset, reason) in [(0, DecisionReason::Opened), (1, DecisionReason::Joined)] {
            account.decided(at(offset), Some((minute(time), decision(&raised, Some(1), reason))));
        }
        assert_eq!((account.counts.contradictions, account.counts.decided_anew), (0, 1));
    }
}

#[test]
fn a_record_that_is_no_alert_is_accounted_for_by_its_dead_letter() {
    let at = |offset| Place { partition: 2, offset };
    let mut account = Account::new(Progress { next: BTreeMap::from([(2, 3)]), graced_from: Timestamp::MAX });
    account.letter("a", "eventpulse/rules", letter(at(0)));
    account.letter("a", "eventpulse/rules", letter(at(0)));
    // A topic of others may be called as ours is.
    account.letter("b", "eventpulse/ingest", letter(at(1)));
    for offset in 0..4 {
        account.raised(at(offset), minute(0), None);
    }
    let counts = &account.counts;
    assert_eq!((counts.raised_unusable, counts.unusable_missing, counts.unusable_under_way), (4, 2, 1));
    assert_eq!(account.unread().iter().map(|missing| missing.place).collect::<Vec<_>>(), [at(1), at(2)]);
    let letters = [Some(Topic::AlertRaised), None].map(|topic| ((DeadLetterReason::InvalidAlert, topic), 1));
    assert_eq!(counts.letters, BTreeMap::from(letters));
}

#[test]
fn a_decision_that_the_log_refused_is_found_in_its_dead_letter() {
    let raised = alert(1, 0, 0);
    let mut account = Account::new(Progress::default());
    let data = serde_json::to_vec(&decision(&raised, None, DecisionReason::NoRule)).unwrap();
    let origin = "alert.decided abc of eventpulse/rules".to_owned();
    let refused = DeadLetter { origin, data: BASE64.encode(data), ..letter(Place { partition: 0, offset: 0 }) };
    account.letter("a", "eventpulse/rules", refused);
    account.raised(Place { partition: 0, offset: 0 }, minute(0), Some(&raised));
    let balance = account.balance().unwrap();
    assert_eq!((balance.accepted, balance.decided), (1, 1));
    assert_eq!(account.counts.reasons, BTreeMap::from([(DecisionReason::NoRule, 1)]));
}

#[test]
fn where_it_is_not_known_how_far_rules_has_come_a_moment_of_grace_holds() {
    let mut account = Account::new(Progress { next: BTreeMap::new(), graced_from: minute(10) });
    for (number, taken) in [(1, 9), (2, 10)] {
        let place = Place { partition: 0, offset: number as u64 };
        account.raised(place, minute(taken), Some(&alert(number, 0, taken)));
    }
    let balance = account.balance().unwrap();
    assert_eq!((balance.under_way, balance.oldest_under_way, balance.missing.len()), (1, Some(minute(10)), 1));
}

#[test]
fn an_account_that_would_hold_too_much_says_so_and_counts_nothing_wrong() {
    let mut account = Account::new(Progress::default());
    for number in 0..=RULES_MAX as u64 {
        let rule = NamespacedName { namespace: "shop".into(), name: format!("rule-{number}") };
        account.count(Some(rule), DecisionReason::Opened);
    }
    assert_eq!((account.counts.rules.len(), account.counts.other_rules.values().sum::<u64>()), (RULES_MAX, 1));
    assert!(account.holds("alerts", ALERTS_MAX - 1, ALERTS_MAX) && account.balance().is_ok());
    assert!(!account.holds("alerts", ALERTS_MAX, ALERTS_MAX));
    let error = account.balance().unwrap_err().to_string();
    assert!(error.contains("more than 1000000 alerts") && error.contains("--since"), "{error}");
}

/// The bound of the documentation is of a hundred bytes for each.
#[test]
fn an_alert_and_a_decision_are_of_a_fixed_size() {
    assert!(size_of::<(Digest, Alert)>() <= 64 && size_of::<(Digest, Decision)>() <= 40);
}
