//! A row for each fault: what was done, what came of it, and what the oracle counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

use eventpulse_oracle::Violation;

use crate::{
    faults::{Recovery, Struck},
    observe::counts::Counts,
    stage::{Bus, Totals},
};

/// What became of one fault.
pub(crate) struct Row {
    pub bus: Bus,
    pub name: &'static str,
    pub struck: Struck,
    /// What there was before it, and after it.
    pub before: Totals,
    pub after: Totals,
    pub violations: Vec<Violation>,
    pub took: Duration,
}

/// The heads of [`line`].
pub(crate) fn head() -> String {
    format!(
        "{:<9} {:<21} {:>7} {:>7} {:>9} {:>7} {:>7} {:>8} {:>6} {:>10}  {}",
        "log",
        "fault",
        "struck",
        "alerts",
        "incidents",
        "actions",
        "effects",
        "messages",
        "copies",
        "violations",
        "until it went on"
    )
}

/// One row, for people.
pub(crate) fn line(row: &Row) -> String {
    let more = |of: fn(&Totals) -> usize| of(&row.after).saturating_sub(of(&row.before));
    let mut text = format!(
        "{:<9} {:<21} {:>7} {:>7} {:>9} {:>7} {:>7} {:>8} {:>6} {:>10}  {}",
        row.bus.to_string(),
        row.name,
        row.struck.times,
        more(|totals| totals.alerts),
        more(|totals| totals.incidents),
        more(|totals| totals.actions),
        more(|totals| totals.effects),
        more(|totals| totals.messages),
        more(|totals| totals.marked),
        row.violations.len(),
        recovered(&row.struck)
    );
    let _ = write!(text, " ({:.0} s in all)", row.took.as_secs_f64());
    let undone = undone(row);
    if !undone.is_empty() {
        let _ = write!(text, "\n    not done, with a cause that is seen: {undone}");
    }
    for violation in row.violations.iter().take(10) {
        let _ = write!(text, "\n    {violation}");
    }
    text
}

/// What ended meanwhile otherwise than it should.
fn undone(row: &Row) -> String {
    let more = |(how, count): (&(&'static str, String), &u64)| {
        let (of, ending) = how;
        let more = count.saturating_sub(row.before.outcomes.get(how).copied().unwrap_or(0));
        let is_undone = ["Failed", "Skipped", "Stale"].iter().any(|word| ending.starts_with(word));
        (is_undone && more > 0).then(|| format!("{more} × {of} {ending}"))
    };
    row.after.outcomes.iter().filter_map(more).collect::<Vec<_>>().join(", ")
}

fn recovered(struck: &Struck) -> String {
    struck.recovered.iter().map(Recovery::to_string).collect::<Vec<_>>().join(", ")
}

/// The last lines: what was counted, how soon things went on, what took longer than is wanted, what was left out, and the sum.
pub(crate) fn end(rows: &[Row], left_out: &[String], may_be_left_out: bool) -> String {
    let mut text = counts(rows) + &recoveries(rows);
    for (row, recovery) in rows.iter().flat_map(|row| row.struck.recovered.iter().map(move |recovery| (row, recovery)))
    {
        if recovery.is_missed() {
            let _ = writeln!(text, "MISSED: {} on the log {}: {recovery}", row.name, row.bus);
        }
    }
    for row in rows.iter().filter(|row| !row.violations.is_empty()) {
        let mut of_promise: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for violation in &row.violations {
            of_promise.entry(violation.promise.to_string()).or_default().push(&violation.what);
        }
        for (promise, what) in of_promise {
            let (name, bus, count, first) = (row.name, row.bus, what.len(), what[0]);
            let _ = writeln!(text, "VIOLATED: {name} on the log {bus}: {promise}, {count} times; first {first}");
        }
    }
    for fault in left_out {
        let hint = if may_be_left_out { "" } else { "; it fails the run, but with --allow-left-out" };
        let _ = writeln!(text, "LEFT OUT: {fault}{hint}");
    }
    let violations: usize = rows.iter().map(|row| row.violations.len()).sum();
    let struck: usize = rows.iter().map(|row| row.struck.times).sum();
    let missed = rows.iter().flat_map(|row| &row.struck.recovered).filter(|recovery| recovery.is_missed()).count();
    let _ = write!(
        text,
        "{} faults, struck {struck} times, {violations} violations, {missed} times slower than wanted, {} left out",
        rows.len(),
        left_out.len()
    );
    text
}

/// What one promise is about, and how many there were of it.
type Count = (&'static str, fn(&Counts) -> usize);
const COUNTS: [Count; 4] = [
    ("effects of one action, at most", |counts| counts.effects),
    ("incidents of one episode, at most", |counts| counts.incidents),
    ("copies of one message without a mark, at most", |counts| counts.unmarked),
    ("alerts without a reason", |counts| counts.without_reason),
];

/// Of each log, over all of its faults.
fn counts(rows: &[Row]) -> String {
    let buses: BTreeSet<Bus> = rows.iter().map(|row| row.bus).collect();
    let mut text = format!("\n{:<62}", "at the rest after each fault");
    for bus in &buses {
        let _ = write!(text, " {:>9}", bus.to_string());
    }
    for (what, count) in COUNTS {
        let _ = write!(text, "\n{what:<62}");
        for bus in &buses {
            let of_bus = rows.iter().filter(|row| row.bus == *bus);
            let most = of_bus.map(|row| count(&row.after.counts)).max().unwrap_or(0);
            let _ = write!(text, " {most:>9}");
        }
    }
    text + "\n\n"
}

/// Those of which it is said how long they may take.
fn recoveries(rows: &[Row]) -> String {
    let mut seen: BTreeMap<(&str, Duration), Vec<String>> = BTreeMap::new();
    for recovery in rows.iter().flat_map(|row| &row.struck.recovered) {
        if let Some(wanted) = recovery.wanted {
            let missed = if recovery.is_missed() { " MISSED" } else { "" };
            let after = format!("{:.2}{missed}", recovery.after.as_secs_f64());
            seen.entry((recovery.what, wanted)).or_default().push(after);
        }
    }
    if seen.is_empty() {
        return String::new();
    }
    let mut text = format!("{:<62} {:>9}  seen, in seconds\n", "until it went on", "wanted");
    for ((what, wanted), after) in seen {
        let _ = writeln!(text, "{what:<62} {:>7} s  {}", wanted.as_secs(), after.join(", "));
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use eventpulse_oracle::{Outcomes, Promise};

    use super::*;

    fn row(effects: usize, after: u64) -> Row {
        let wanted = Some(Duration::from_secs(15));
        let recovery = Recovery { what: "another takes over", after: Duration::from_secs(after), wanted };
        let counts = Counts { effects, ..Counts::default() };
        Row {
            bus: Bus::Kafka,
            name: "takeover",
            struck: Struck { times: 2, recovered: vec![recovery] },
            before: Totals::default(),
            after: Totals { counts, ..Totals::default() },
            violations: Vec::new(),
            took: Duration::from_secs(60),
        }
    }

    #[test]
    fn a_row_says_what_was_not_done_meanwhile() {
        let outcomes = |failed: u64| -> Outcomes {
            let of = |how: &str, count| (("an action", how.to_owned()), count);
            [of("Completed", 9), of("Failed Refused", failed), of("Skipped Stale", 1)].into()
        };
        let totals = |failed| Totals { outcomes: outcomes(failed), ..Totals::default() };
        let row = Row { before: totals(2), after: totals(5), ..row(1, 15) };
        let text = line(&row);
        assert!(text.ends_with("not done, with a cause that is seen: 3 × an action Failed Refused"), "{text}");
    }

    #[test]
    fn the_last_lines_say_what_took_too_long_and_what_is_missing() {
        let text = end(&[row(1, 15), row(2, 16)], &["disk-full".to_owned()], false);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines.iter().any(|line| line.starts_with("effects of one action, at most ") && line.ends_with(" 2")),
            "{text}"
        );
        assert!(lines.iter().any(|line| line.ends_with("15 s  15.00, 16.00 MISSED")), "{text}");
        assert!(
            lines.contains(&"MISSED: takeover on the log kafka: another takes over: 16.00 s (≤ 15 s, MISSED)"),
            "{text}"
        );
        assert!(lines.contains(&"LEFT OUT: disk-full; it fails the run, but with --allow-left-out"), "{text}");
        assert_eq!(
            lines.last(),
            Some(&"2 faults, struck 4 times, 0 violations, 1 times slower than wanted, 1 left out"),
            "{text}"
        );
        let what = |what: &str| Violation { promise: Promise::ComesToRest, what: what.to_owned() };
        let broken = Row { violations: vec![what("the action a"), what("the action b")], ..row(1, 15) };
        let text = end(&[broken], &[], false);
        let told = text.lines().any(|line| {
            line.starts_with("VIOLATED: takeover on the log kafka: ") && line.ends_with(", 2 times; first the action a")
        });
        assert!(told, "{text}");
        let allowed = end(&[row(1, 15)], &["disk-full".to_owned()], true);
        assert!(allowed.contains("LEFT OUT: disk-full\n") && !allowed.contains("MISSED"), "{allowed}");
    }
}
