//! An account as text for people. Pure.

use std::{collections::BTreeMap, fmt::Write as _};

use jiff::Timestamp;

use super::{
    account::NAMED_MAX,
    report::{Decided, MissingAlert, Report},
};
use crate::cli::printable;

/// How many rules, and how many of each kind of problem, are printed; `-o json` has more.
const SHOWN: usize = 20;

/// As it is printed.
pub(super) fn text(report: &Report) -> String {
    let second = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ");
    let mut text = format!("{} to {}: {} records\n", second(report.since), second(report.until), report.records);
    // Writing to a String cannot fail.
    let _ = write!(text, "\n{}\n{}", alert_lines(report), decision_lines(report));
    if !report.dead_letters.is_empty() {
        let _ = write!(text, "\nDead letters\n");
        for letters in &report.dead_letters {
            let of = letters.topic.unwrap_or("no topic of ours");
            row(&mut text, &format!("{} ({of})", letters.reason), letters.count, "");
        }
    }
    list(
        &mut text,
        "Missing: accepted and worked off, without a reason",
        report.alerts.missing,
        &report.missing,
        missing,
    );
    list(
        &mut text,
        "Missing: no alert, and no dead letter",
        report.unusable.missing,
        &report.missing_records,
        |record| format!("{}, on the log since {}", record.origin, record.logged_at),
    );
    let contradictions = report.decisions.contradictions;
    list(&mut text, "Contradictions: the first decision counts", contradictions, &report.contradictions, decided);
    list(&mut text, "Decided and never raised", report.alerts.never_raised, &report.never_raised, decided);
    if !report.notes.is_empty() {
        let _ = write!(text, "\nNot all is known\n");
        for note in &report.notes {
            let _ = writeln!(text, "  {}", printable(note));
        }
    }
    let under_way = report.alerts.under_way + report.unusable.under_way;
    match (report.accounted, under_way) {
        (false, _) => {}
        (true, 0) => text.push_str("\nEverything is accounted for.\n"),
        (true, _) => text.push_str("\nNothing is missing; what is under way has no reason yet.\n"),
    }
    text
}

fn row(text: &mut String, what: &str, count: u64, note: &str) {
    let line = format!("  {:<34} {count:>10}  {note}", printable(what));
    text.push_str(line.trim_end());
    text.push('\n');
}

fn alert_lines(report: &Report) -> String {
    let alerts = &report.alerts;
    let mut text = String::from("Alerts\n");
    row(&mut text, "accepted", alerts.accepted, "");
    row(&mut text, "= decided", alerts.decided, "");
    row(&mut text, "+ dead letters", alerts.dead_letters, "");
    let oldest = alerts.oldest_under_way.map(|taken| format!("the oldest on the log since {taken}"));
    row(&mut text, "+ under way", alerts.under_way, &oldest.unwrap_or_default());
    row(&mut text, "+ missing", alerts.missing, "");
    if alerts.out_of_sight > 0 {
        row(&mut text, "+ out of sight", alerts.out_of_sight, "the log no longer holds what would tell");
    }
    if alerts.accepted_before > 0 {
        row(&mut text, "accepted before, decided since", alerts.accepted_before, "");
    }
    if report.unusable.records > 0 {
        let unusable = &report.unusable;
        row(&mut text, "records that are no alerts", unusable.records, "");
        row(&mut text, "= dead letters", unusable.dead_letters, "");
        row(&mut text, "+ under way", unusable.under_way, "");
        row(&mut text, "+ missing", unusable.missing, "");
    }
    if let Some(behind) = report.behind() {
        let note = if behind == 0 { "rules has read everything" } else { "records that rules has before it" };
        row(&mut text, "lag", behind, note);
    }
    text
}

fn decision_lines(report: &Report) -> String {
    let decisions = &report.decisions;
    let mut text = String::from("Decisions: for each rule that an alert matched, or one where none did\n");
    row(&mut text, "counted", decisions.counted, "");
    for (reason, count) in &decisions.reasons {
        row(&mut text, &format!("  {reason}"), *count, "");
    }
    for (what, count) in [
        ("repetitions", decisions.repetitions),
        ("decided anew", decisions.decided_anew),
        ("contradictions", decisions.contradictions),
        ("unreadable", decisions.unreadable),
    ] {
        if count > 0 || what == "repetitions" {
            row(&mut text, what, count, "");
        }
    }
    if !report.rules.is_empty() {
        text.push_str("\nRules\n");
    }
    for of in report.rules.iter().take(SHOWN) {
        row(&mut text, of.rule.as_deref().unwrap_or("no rule"), of.counted, &in_a_line(&of.reasons));
    }
    if report.rules.len() > SHOWN {
        let _ = writeln!(text, "  and {} more; -o json prints them", report.rules.len() - SHOWN);
    }
    text
}

fn in_a_line(reasons: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    parts.join(", ")
}

/// `count` is of all of them, of which some are named.
fn list<T>(text: &mut String, title: &str, count: u64, named: &[T], line: impl Fn(&T) -> String) {
    if count == 0 {
        return;
    }
    let _ = write!(text, "\n{title}\n");
    for one in named.iter().take(SHOWN) {
        let _ = writeln!(text, "  {}", printable(&line(one)));
    }
    let hidden = count.saturating_sub(SHOWN as u64);
    if hidden > 0 {
        let _ = writeln!(text, "  and {hidden} more; -o json prints the first {NAMED_MAX}");
    }
}

fn missing(missing: &MissingAlert) -> String {
    let Some(alert) = &missing.alert else {
        return format!("{}, on the log since {}; its record has gone meanwhile", missing.origin, missing.logged_at);
    };
    format!(
        "{} {} {}, accepted {}, at {}: alert {} of {}, event {}",
        alert.alertname,
        alert.fingerprint,
        alert.status,
        alert.accepted_at,
        missing.origin,
        alert.alert_id,
        alert.source,
        alert.event_id
    )
}

fn decided(decided: &Decided) -> String {
    let first = decided.first_reason.as_ref().map(|first| format!(" after {first}")).unwrap_or_default();
    let rule = decided.rule.as_ref().map_or("no rule".to_owned(), |rule| format!("rule {rule}"));
    let incident = decided.incident_id.as_ref().map(|id| format!(", incident {id}")).unwrap_or_default();
    format!(
        "{}{first} at {}: {rule}{incident}, alert {} of {}, fingerprint {}, {}, event {}",
        decided.reason,
        decided.origin,
        decided.alert_id,
        decided.source,
        decided.fingerprint,
        decided.status,
        decided.event_id
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::v1alpha1::Duration,
        cli::ledger::{
            account::{Account, Balance, Digest, Missing, Place, Progress},
            read::Span,
            report::Totals,
            search::{Known, Lacking},
        },
        events::AlertStatus,
    };

    fn report(missing: usize) -> Report {
        let now: Timestamp = "2026-01-02T03:04:05.678Z".parse().unwrap();
        let place = |offset: usize| Place { partition: 3, offset: offset as u64 };
        let of = |offset| {
            let known = Known {
                event_id: format!("event-{offset}"),
                alert_id: "id".into(),
                source: "prom".into(),
                fingerprint: "ab".into(),
                alertname: "A\n\u{1b}[2J".into(),
                status: "firing",
                accepted_at: now,
            };
            (Missing { place: place(offset), taken: now }, Some(known))
        };
        let missing_named: Vec<_> = (0..missing).map(of).collect();
        let key = Digest::of_alert("id", AlertStatus::Firing);
        let balance = Balance {
            accepted: missing as u64 + 2,
            decided: 1,
            under_way: 1,
            oldest_under_way: Some(now),
            missing: missing_named.iter().map(|(missing, _)| (key, *missing)).collect(),
            ..Balance::default()
        };
        let lacking = Lacking { missing: missing as u64, missing_named, ..Lacking::default() };
        let span =
            Span { since: now, now, grace: Duration::from_secs(30), topic_retention: Duration::from_secs(86_400) };
        let totals = Totals { span, records: 7, lags: Vec::new(), notes: vec!["note\r1".into()] };
        Report::new(totals, &Account::new(Progress::default()), &balance, lacking)
    }

    #[test]
    fn what_somebody_else_wrote_moves_no_cursor_and_a_long_list_is_cut() {
        let report = report(SHOWN + 3);
        let text = text(&report);
        assert!(text.starts_with("2026-01-02T03:04:05Z to 2026-01-02T03:04:05Z: 7 records\n"), "{text}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(text.contains("  A  [2J ab firing, accepted 2026-01-02T03:04:05.678Z, at alert.raised/3@0: alert id of prom, event event-0\n"));
        assert!(
            text.contains("  and 3 more; -o json prints the first 1000\n") && text.contains("  note 1\n"),
            "{text}"
        );
        assert!(!text.contains("accounted for") && !text.contains("Nothing is missing"), "{text}");
        let problem = format!("not everything is accounted for: {} accepted alerts have no reason", SHOWN + 3);
        assert_eq!(report.problem(), Some(problem));
    }

    #[test]
    fn what_is_under_way_is_not_called_accounted_for() {
        let report = report(0);
        assert_eq!(report.problem(), None);
        assert!(text(&report).ends_with("\nNothing is missing; what is under way has no reason yet.\n"));
    }
}
