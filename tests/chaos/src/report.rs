//! A row for each fault: what was done, what came of it, and what the oracle counts.

use std::{fmt::Write as _, time::Duration};

use eventpulse_oracle::Violation;

use crate::{
    faults::Struck,
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
    for violation in row.violations.iter().take(10) {
        let _ = write!(text, "\n    {violation}");
    }
    text
}

fn recovered(struck: &Struck) -> String {
    let parts = struck.recovered.iter().map(|(what, after)| format!("{what}: {:.2} s", after.as_secs_f64()));
    parts.collect::<Vec<_>>().join(", ")
}

/// The last line.
pub(crate) fn sum(rows: &[Row], not_run: &[String]) -> String {
    let violations: usize = rows.iter().map(|row| row.violations.len()).sum();
    let struck: usize = rows.iter().map(|row| row.struck.times).sum();
    let skipped = if not_run.is_empty() { String::new() } else { format!("; not run here: {}", not_run.join(", ")) };
    format!("{} faults, struck {struck} times, {violations} violations{skipped}", rows.len())
}
