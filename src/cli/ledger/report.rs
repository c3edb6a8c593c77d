//! What an account comes to, as it is said. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::{
    account::{Account, Balance, Contradiction, Counts, Missing, Place, Reasons, word},
    read::Span,
    search::{Known, Lacking},
};
use crate::{
    bus::history,
    cli::reasons,
    events::{AlertDecided, Topic},
};

/// What is known beside the account.
pub(super) struct Totals {
    pub(super) span: Span,
    pub(super) records: u64,
    pub(super) lags: Vec<Lag>,
    pub(super) notes: Vec<String>,
}

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// From when on.
    pub(super) since: Timestamp,
    /// Until when.
    pub(super) until: Timestamp,
    /// How many records were read.
    pub(super) records: u64,
    /// Whether everything is accounted for.
    pub(super) accounted: bool,
    /// The accepted alerts.
    pub(super) alerts: Alerts,
    /// Records of alert.raised that are no alerts.
    pub(super) unusable: Unusable,
    /// Decisions, one for each alert and rule, or one where none matched.
    pub(super) decisions: Decisions,
    /// The same for each rule.
    pub(super) rules: Vec<OfRule>,
    /// Dead letters, of whatever.
    pub(super) dead_letters: Vec<Letters>,
    /// Accepted alerts without a reason.
    pub(super) missing: Vec<MissingAlert>,
    /// Records of alert.raised that are no alerts, without a dead letter.
    pub(super) missing_records: Vec<MissingRecord>,
    /// Decisions that contradict the first one of their alert and rule.
    pub(super) contradictions: Vec<Decided>,
    /// Decisions of alerts that were never raised.
    pub(super) never_raised: Vec<Decided>,
    /// How far rules has come in alert.raised.
    pub(super) lag: Vec<Lag>,
    /// What could not be read.
    pub(super) notes: Vec<String>,
}

/// How they add up: accepted = decided + deadLetters + underWay + missing + outOfSight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Alerts {
    pub(super) accepted: u64,
    pub(super) decided: u64,
    /// They have no reason, and a dead letter.
    pub(super) dead_letters: u64,
    /// Rules has not worked them off yet.
    pub(super) under_way: u64,
    /// When the log took the oldest of these.
    pub(super) oldest_under_way: Option<Timestamp>,
    pub(super) missing: u64,
    /// The log has let go of what would tell.
    pub(super) out_of_sight: u64,
    /// Decided in this time, and accepted before it: no part of the sum.
    pub(super) accepted_before: u64,
    /// Decided, and never raised: no part of the sum.
    pub(super) never_raised: u64,
}

/// See [`Report::unusable`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Unusable {
    pub(super) records: u64,
    pub(super) dead_letters: u64,
    pub(super) under_way: u64,
    pub(super) missing: u64,
}

/// See [`Report::decisions`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Decisions {
    /// The first of each alert and rule: the sum of the reasons.
    pub(super) counted: u64,
    pub(super) reasons: BTreeMap<String, u64>,
    /// Further records that say the same, or that it was said.
    pub(super) repetitions: u64,
    /// Further records of alerts that were told again or had been left open.
    pub(super) decided_anew: u64,
    /// Further records that contradict the first.
    pub(super) contradictions: u64,
    /// Records of alert.decided that are no decisions.
    pub(super) unreadable: u64,
}

/// See [`Report::rules`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OfRule {
    /// `namespace/name`; none where no rule matched.
    pub(super) rule: Option<String>,
    pub(super) counted: u64,
    pub(super) reasons: BTreeMap<String, u64>,
}

/// See [`Report::dead_letters`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Letters {
    pub(super) reason: String,
    /// The topic of ours that it was for; none for what came from outside.
    pub(super) topic: Option<&'static str>,
    pub(super) count: u64,
}

/// See [`Report::missing`]. Where its record has gone meanwhile, only the place is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MissingAlert {
    /// Where its first record stands.
    pub(super) origin: String,
    /// When the log took that.
    pub(super) logged_at: Timestamp,
    #[serde(flatten)]
    pub(super) alert: Option<Known>,
}

/// See [`Report::missing_records`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MissingRecord {
    pub(super) origin: String,
    pub(super) logged_at: Timestamp,
}

/// A decision that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Decided {
    /// Where it stands.
    pub(super) origin: String,
    #[serde(rename = "eventID")]
    pub(super) event_id: String,
    #[serde(rename = "alertID")]
    pub(super) alert_id: String,
    pub(super) source: String,
    pub(super) fingerprint: String,
    pub(super) status: &'static str,
    pub(super) rule: Option<String>,
    pub(super) reason: String,
    #[serde(rename = "incidentID")]
    pub(super) incident_id: Option<String>,
    /// What the first decision says, which counts.
    pub(super) first_reason: Option<String>,
}

/// How far rules has come in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Lag {
    pub(super) partition: u32,
    /// The oldest record.
    pub(super) first: u64,
    /// The record that it goes on with; none where it has stored nothing, and begins with the oldest.
    pub(super) next: Option<u64>,
    /// One after the newest record.
    pub(super) end: u64,
}

impl From<history::Progress> for Lag {
    fn from(progress: history::Progress) -> Self {
        let history::Progress { partition, first, next, end } = progress;
        Self { partition, first, next, end }
    }
}

impl Report {
    /// `account` must have been [balanced](Account::balance).
    pub(super) fn new(totals: Totals, account: &Account, balance: &Balance, lacking: Lacking) -> Self {
        let counts = &account.counts;
        let Totals { span, records, lags, notes } = totals;
        let out_of_sight = lacking.missing_out_of_sight;
        let decided_before = balance.missing.len() as u64 - lacking.missing - out_of_sight;
        let alerts = Alerts {
            accepted: balance.accepted,
            decided: balance.decided + decided_before,
            dead_letters: balance.buried,
            under_way: balance.under_way,
            oldest_under_way: balance.oldest_under_way,
            missing: lacking.missing,
            out_of_sight,
            accepted_before: lacking.raised_before + lacking.raised_out_of_sight,
            never_raised: lacking.never_raised,
        };
        let unusable = Unusable {
            records: counts.raised_unusable,
            dead_letters: counts.raised_unusable - counts.unusable_under_way - counts.unusable_missing,
            under_way: counts.unusable_under_way,
            missing: counts.unusable_missing,
        };
        let problems = alerts.missing + alerts.never_raised + unusable.missing + counts.contradictions;
        Self {
            since: span.since,
            until: span.now,
            records,
            accounted: problems == 0,
            alerts,
            unusable,
            decisions: decisions(counts),
            rules: rules(counts),
            dead_letters: letters(counts),
            missing: lacking.missing_named.into_iter().map(missing_alert).collect(),
            missing_records: account.unread().iter().map(missing_record).collect(),
            contradictions: account.contradictions.iter().map(contradiction).collect(),
            never_raised: lacking
                .never_raised_named
                .iter()
                .map(|(place, decided)| said(*place, decided, None))
                .collect(),
            lag: lags,
            notes,
        }
    }

    /// What is not accounted for, in a line; none where everything is.
    pub(super) fn problem(&self) -> Option<String> {
        let of = |count: u64, what: &str| (count > 0).then(|| format!("{count} {what}"));
        let parts: Vec<String> = [
            of(self.alerts.missing, "accepted alerts have no reason"),
            of(self.unusable.missing, "records of alert.raised are no alerts and have no dead letter"),
            of(self.decisions.contradictions, "decisions contradict an earlier one"),
            of(self.alerts.never_raised, "alerts were decided and never raised"),
        ]
        .into_iter()
        .flatten()
        .collect();
        (!parts.is_empty()).then(|| format!("not everything is accounted for: {}", parts.join("; ")))
    }

    /// How many records rules is behind, where that is known.
    pub(super) fn behind(&self) -> Option<u64> {
        let behind = self.lag.iter().map(|lag| lag.end.saturating_sub(lag.next.unwrap_or_default().max(lag.first)));
        behind.reduce(|all, behind| all + behind)
    }
}

fn decisions(counts: &Counts) -> Decisions {
    Decisions {
        counted: sum(&counts.reasons),
        reasons: words(&counts.reasons),
        repetitions: counts.repetitions,
        decided_anew: counts.decided_anew,
        contradictions: counts.contradictions,
        unreadable: counts.decisions_unreadable,
    }
}

fn rules(counts: &Counts) -> Vec<OfRule> {
    let of = |rule: Option<String>, reasons: &Reasons| OfRule { rule, counted: sum(reasons), reasons: words(reasons) };
    let named = counts.rules.iter().map(|(rule, reasons)| of(rule.as_ref().map(ToString::to_string), reasons));
    let mut rules: Vec<OfRule> = named.collect();
    if !counts.other_rules.is_empty() {
        rules.push(of(Some("all other rules".into()), &counts.other_rules));
    }
    rules.sort_by(|a, b| (b.counted, &a.rule).cmp(&(a.counted, &b.rule)));
    rules
}

fn letters(counts: &Counts) -> Vec<Letters> {
    let letters = counts.letters.iter().map(|((reason, topic), count)| Letters {
        reason: reasons::word(reason),
        topic: topic.map(Topic::name),
        count: *count,
    });
    letters.collect()
}

fn missing_alert((missing, known): (Missing, Option<Known>)) -> MissingAlert {
    MissingAlert { origin: origin(Topic::AlertRaised, missing.place), logged_at: missing.taken, alert: known }
}

fn missing_record(missing: &Missing) -> MissingRecord {
    MissingRecord { origin: origin(Topic::AlertRaised, missing.place), logged_at: missing.taken }
}

fn contradiction(found: &Contradiction) -> Decided {
    said(found.place, &found.decided, Some(reasons::word(&found.first)))
}

fn said(place: Place, decided: &AlertDecided, first_reason: Option<String>) -> Decided {
    Decided {
        origin: origin(Topic::AlertDecided, place),
        event_id: decided.alert_event_id.to_string(),
        alert_id: decided.alert_id.to_string(),
        source: decided.source.clone(),
        fingerprint: decided.fingerprint.clone(),
        status: word(decided.status),
        rule: decided.rule.as_ref().map(ToString::to_string),
        reason: reasons::word(&decided.reason),
        incident_id: decided.incident_id.as_ref().map(ToString::to_string),
        first_reason,
    }
}

fn origin(topic: Topic, place: Place) -> String {
    format!("{topic}/{}@{}", place.partition, place.offset)
}

fn sum(reasons: &Reasons) -> u64 {
    reasons.values().sum()
}

fn words(counted: &Reasons) -> BTreeMap<String, u64> {
    counted.iter().map(|(reason, count)| (reasons::word(reason), *count)).collect()
}
