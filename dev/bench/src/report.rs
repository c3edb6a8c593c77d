//! The results as people and programs read them: a table on the terminal, `latest.json` (one line), `README.md` with plots.

use std::{fmt::Write as _, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::{
    latencies::Summary,
    outcome::{Outcome, Row, Verdict, number},
    plot,
    scenarios::{ALL, Scenario},
};

const JSON: &str = "latest.json";
const README: &str = "README.md";
/// Written by hand: what was found and tried. The README takes it in.
const FINDINGS: &str = "findings.md";

/// All results that are known, newest of each scenario and bus.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Results {
    outcomes: Vec<Outcome>,
}

impl Results {
    /// Those of before, where a later run has not measured the same again.
    fn read(path: &Path) -> anyhow::Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| {
                format!(
                    "{} is not what this command writes; remove it, or say with --out where else to write",
                    path.display()
                )
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    fn with(mut self, played: &[Outcome]) -> Self {
        for outcome in played {
            self.outcomes.retain(|old| (&old.scenario, old.bus) != (&outcome.scenario, outcome.bus));
            self.outcomes.push(outcome.clone());
        }
        let place = |outcome: &Outcome| ALL.iter().position(|scenario| scenario.name == outcome.scenario);
        self.outcomes.sort_by_key(|outcome| (place(outcome), outcome.bus));
        self
    }
}

/// Writes JSON, README and plots, each scenario with its newest result.
pub fn write(dir: &Path, played: &[Outcome]) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let results = Results::read(&dir.join(JSON))?.with(played);
    let mut text = String::new();
    head(&mut text, &results.outcomes);
    for outcome in &results.outcomes {
        remove_plots(dir, outcome)?;
        let plots = plot::draw(outcome, dir)?;
        section(&mut text, outcome, &plots);
    }
    match std::fs::read_to_string(dir.join(FINDINGS)) {
        Ok(findings) => text.push_str(&findings),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("read {FINDINGS}")),
    }
    write_whole(dir, README, text.trim_end().to_owned() + "\n")?;
    write_whole(dir, JSON, serde_json::to_string(&results)? + "\n")
}

/// A file is there whole or as it was: an interrupted run leaves no half of one.
fn write_whole(dir: &Path, name: &str, text: String) -> anyhow::Result<()> {
    let (path, partial) = (dir.join(name), dir.join(format!(".{name}.partial")));
    std::fs::write(&partial, text).with_context(|| format!("write {}", partial.display()))?;
    std::fs::rename(&partial, &path).with_context(|| format!("write {}", path.display()))
}

fn remove_plots(dir: &Path, outcome: &Outcome) -> anyhow::Result<()> {
    let prefix = plot::prefix(outcome);
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(&prefix) && name.ends_with(".svg") {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn named(outcome: &Outcome) -> String {
    outcome.bus.map_or_else(|| outcome.scenario.clone(), |bus| format!("{} on {bus}", outcome.scenario))
}

fn value(row: &Row) -> String {
    format!("{} {}", number(row.value), row.unit)
}

fn floor(row: &Row) -> (String, String) {
    let floor = row.floor.as_ref().map_or_else(String::new, |floor| format!("{} {}", number(floor.value), row.unit));
    (floor, row.ratio().map_or_else(String::new, |ratio| format!("{ratio:.2} ×")))
}

fn goal(row: &Row) -> String {
    row.goal.map_or_else(String::new, |goal| format!("{goal} {}", row.unit))
}

/// One scenario for the terminal.
pub fn table(outcome: &Outcome) -> String {
    let mut lines = vec![["", "goal", "result", "floor", "ratio", "verdict"].map(str::to_owned)];
    for row in &outcome.rows {
        let (floor, ratio) = floor(row);
        lines.push([row.what.clone(), goal(row), value(row), floor, ratio, outcome.judge(row)]);
    }
    let mut widths = [0; 6];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = format!("\n{}\n", named(outcome));
    for line in &lines {
        let mut row = String::from(" ");
        for (i, (cell, width)) in line.iter().zip(widths).enumerate() {
            let fill = " ".repeat(width - cell.chars().count());
            // Texts to the left, numbers to the right.
            let _ = if [0, 5].contains(&i) { write!(row, " {cell}{fill} ") } else { write!(row, " {fill}{cell} ") };
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    for failure in &outcome.failures {
        let _ = writeln!(text, "  FAILED: {failure}");
    }
    for invalid in &outcome.invalid {
        let _ = writeln!(text, "  invalid: {invalid}");
    }
    for note in &outcome.notes {
        let _ = writeln!(text, "  {note}");
    }
    text
}

/// All goals in a few lines.
pub fn summary(outcomes: &[Outcome]) -> String {
    let (mut met, mut text) = (0, String::new());
    for (outcome, row) in outcomes.iter().flat_map(|outcome| outcome.rows.iter().map(move |row| (outcome, row))) {
        match outcome.judge(row).as_str() {
            "met" => met += 1,
            "–" => {}
            verdict => {
                let _ = writeln!(
                    text,
                    "  {}: {}: {} (goal {}): {verdict}",
                    named(outcome),
                    row.what,
                    value(row),
                    goal(row)
                );
            }
        }
    }
    let missed = text.lines().count();
    format!("{met} goals met, {missed} not{}\n{text}", if missed == 0 { "." } else { ":" })
}

fn head(text: &mut String, outcomes: &[Outcome]) {
    text.push_str(
        "# Benchmarks\n\n<!-- Written by `make bench`. By hand: findings.md. -->\n\n`make bench` measures all of this again (`make help` has its \
         options) and writes this page, `latest.json` and the plots. Load is open-loop: when each request is meant to be sent is fixed \
         beforehand, latency counts from there, and a run whose generator fell behind is marked as invalid. Latencies are HDR \
         histograms. Floors are the same parts by themselves, measured directly before and after in the same run: `fsync` is 4 KiB \
         appended and `fdatasync` where EventPulse's data is, `hop` a record from produce to a waiting consumer of the same broker, \
         `create`, `read` and `patch` one call each to the same API server. A log that writes again where it has written before can be \
         faster than an append to a file that grows: a ratio to `fsync` may be below 1. The time of a patch is the API server's own, from its \
         audit log: when it had answered. A p99's floor is the p99 of the sum of the same parts, each drawn for itself. Rates, counts and \
         memory have no such floor; the rate of actions has a plain client's beside it. Load generator, control plane, broker and EventPulse share the one machine.\n\n",
    );
    text.push_str("| | goal | result | floor | ratio | verdict |\n|---|--:|--:|--:|--:|---|\n");
    for outcome in outcomes {
        for row in outcome.rows.iter().filter(|row| row.goal.is_some()) {
            let (floor, ratio) = floor(row);
            let verdict = outcome.judge(row);
            let verdict =
                if row.verdict() == Verdict::Met && verdict == "met" { verdict } else { format!("**{verdict}**") };
            let what = cell(&format!("[{}](#{}): {}", named(outcome), named(outcome).replace(' ', "-"), row.what));
            let _ = writeln!(text, "| {what} | {} | {} | {floor} | {ratio} | {verdict} |", goal(row), value(row));
        }
    }
    let commits: std::collections::BTreeSet<&str> = outcomes.iter().map(|outcome| outcome.commit.as_str()).collect();
    if commits.len() > 1 {
        text.push_str("\nNot all were measured on the same commit: each says its own.\n");
    }
    text.push('\n');
}

fn section(text: &mut String, outcome: &Outcome, plots: &[(String, String)]) {
    let what = Scenario::named(&outcome.scenario).map_or("", |scenario| scenario.what);
    let _ = writeln!(text, "## {}\n\n{what}.\n", named(outcome));
    let machine = &outcome.machine;
    let _ = writeln!(
        text,
        "{}{} · commit {} · {} cores ({}), {} MiB, Linux {} · etcd's fsync {} · load average {:.2} before, {:.2} at most meanwhile\n",
        if outcome.quick { "**Shortened: shows only that it works.** " } else { "" },
        outcome.started.strftime("%Y-%m-%d %H:%M UTC"),
        outcome.commit,
        machine.cores,
        machine.processor,
        machine.memory_mib,
        machine.kernel,
        if outcome.etcd_fsync { "on" } else { "off" },
        outcome.load_before,
        outcome.load_during
    );
    for (mark, problems) in [("FAILED", &outcome.failures), ("Invalid", &outcome.invalid)] {
        for problem in problems {
            let _ = writeln!(text, "**{mark}:** {}\n", cell(problem));
        }
    }
    text.push_str("| | goal | result | floor | ratio | verdict |\n|---|--:|--:|--:|--:|---|\n");
    for row in &outcome.rows {
        let (floor, ratio) = floor(row);
        let note = row.note.as_ref().map_or_else(String::new, |note| format!(" ({note})"));
        let path = row.floor.as_ref().map_or_else(String::new, |floor| format!(" (floor: {})", floor.path));
        let what = cell(&format!("{}{note}{path}", row.what));
        let _ =
            writeln!(text, "| {what} | {} | {} | {floor} | {ratio} | {} |", goal(row), value(row), outcome.judge(row));
    }
    text.push('\n');
    distributions(text, "latency, ms", &outcome.latencies);
    distributions(text, "floor, ms", &outcome.floors);
    for note in &outcome.notes {
        let _ = writeln!(text, "- {}", cell(note));
    }
    if !outcome.processors.is_empty() {
        let each: Vec<String> = outcome.processors.iter().map(|(name, used)| format!("{name} {used:.2}")).collect();
        let _ = writeln!(text, "- Processors used on average: {}.", each.join(", "));
    }
    if !outcome.versions.is_empty() {
        let _ = writeln!(text, "- Parts: {}.", cell(&outcome.versions.join("; ")));
    }
    text.push('\n');
    for (title, file) in plots {
        let _ = writeln!(text, "![{title} of {}]({file})\n", named(outcome));
    }
}

fn distributions(text: &mut String, what: &str, of: &std::collections::BTreeMap<String, Summary>) {
    if of.is_empty() {
        return;
    }
    let _ = writeln!(text, "| {what} | count | p50 | p90 | p99 | p99.9 | max |\n|---|--:|--:|--:|--:|--:|--:|");
    for (name, s) in of {
        let numbers = [s.p50, s.p90, s.p99, s.p999, s.max].map(number).join(" | ");
        let _ = writeln!(text, "| {} | {} | {numbers} |", cell(name), number(s.count as f64));
    }
    text.push('\n');
}

/// A text in a table: one line, and its bars are no borders.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::{
        latencies::Latencies,
        outcome::{Bus, Floor, Goal},
    };

    fn outcome(scenario: &str, bus: Option<Bus>, p50: f64) -> Outcome {
        let mut outcome = Outcome::new(scenario, bus, Timestamp::UNIX_EPOCH);
        let floor = Floor { path: "fsync + 2 × hop".into(), value: 10.0 };
        outcome.rows.push(Row::new("p50", p50, "ms").goal(Goal::AtMost(25.0)).floor(floor).note("a | b"));
        outcome.rows.push(Row::new("p99.9", 1_234.0, "ms"));
        outcome.add_latencies("all", &Latencies::of((1..200).map(Duration::from_millis)));
        outcome
    }

    /// `make bench REPORT=1` writes it anew.
    #[test]
    fn the_results_that_are_published_are_what_was_measured_and_found() {
        let dir = crate::stage::root().join("docs/bench");
        let copy = tempfile::tempdir().unwrap();
        for name in [JSON, FINDINGS] {
            std::fs::copy(dir.join(name), copy.path().join(name)).unwrap();
        }
        write(copy.path(), &[]).unwrap();
        let text = |dir: &Path| std::fs::read_to_string(dir.join(README)).unwrap();
        assert_eq!(text(copy.path()), text(&dir), "docs/bench/README.md is not of latest.json and findings.md");
    }

    #[test]
    fn the_table_shows_goal_result_ratio_and_verdict_in_columns() {
        let text = table(&outcome("react", Some(Bus::Kafka), 50.0));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1..],
            [
                "react on kafka",
                "            goal    result  floor   ratio  verdict",
                "  p50    ≤ 25 ms     50 ms  10 ms  5.00 ×  MISSED: 2.00 × the goal",
                "  p99.9           1,234 ms                 –",
            ]
        );
        let mut failed = outcome("react", None, 5.0);
        failed.failures.push("one was lost".into());
        failed.notes.push("a remark".into());
        let text = table(&failed);
        assert!(text.contains("FAILED: one was lost\n  a remark\n") && !text.contains("met"), "{text}");
    }

    #[test]
    fn the_summary_names_what_is_not_met() {
        let outcomes = [outcome("react", None, 5.0), outcome("burst", Some(Bus::Embedded), 50.0)];
        assert_eq!(
            summary(&outcomes),
            "1 goals met, 1 not:\n  burst on embedded: p50: 50 ms (goal ≤ 25 ms): MISSED: 2.00 × the goal\n"
        );
        assert_eq!(summary(&outcomes[..1]), "1 goals met, 0 not.\n");
    }

    #[test]
    fn a_later_run_takes_the_place_of_the_same_scenario_only() {
        let dir = tempfile::tempdir().unwrap();
        let results = || Results::read(&dir.path().join(JSON)).unwrap().outcomes;
        std::fs::write(dir.path().join("react-kafka-old.svg"), "").unwrap();
        std::fs::write(dir.path().join(FINDINGS), "## What was tried\n\nThis.\n").unwrap();
        let first = [outcome("burst", Some(Bus::Kafka), 1.0), outcome("react", Some(Bus::Kafka), 2.0)];
        write(dir.path(), &first).unwrap();
        write(dir.path(), &[outcome("react", Some(Bus::Embedded), 4.0), outcome("react", Some(Bus::Kafka), 50.0)])
            .unwrap();
        let found: Vec<_> = results().iter().map(|o| (o.scenario.clone(), o.bus, o.rows[0].value)).collect();
        let (kafka, embedded) = (Some(Bus::Kafka), Some(Bus::Embedded));
        let expected = [("react", kafka, 50.0), ("react", embedded, 4.0), ("burst", kafka, 1.0)];
        assert_eq!(found, expected.map(|(name, bus, value)| (name.to_owned(), bus, value)));
        let json = std::fs::read_to_string(dir.path().join(JSON)).unwrap();
        assert_eq!(json.lines().count(), 1, "one line");
        let readme = std::fs::read_to_string(dir.path().join(README)).unwrap();
        for part in [
            "| [react on kafka](#react-on-kafka): p50 | ≤ 25 ms | 50 ms | 10 ms | 5.00 × | **MISSED: 2.00 × the goal** |",
            "p50 (a \\| b) (floor: fsync + 2 × hop)",
            "![Latency by percentile of react on kafka](react-kafka-latency.svg)",
            "etcd's fsync off",
            "## What was tried\n\nThis.\n",
        ] {
            assert!(readme.contains(part), "{part}: {readme}");
        }
        assert!(!dir.path().join("react-kafka-old.svg").exists(), "a plot of before is left");
    }

    #[test]
    fn what_is_no_result_is_named_with_a_remedy_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(JSON), "{\"outcomes\": 7}").unwrap();
        let error = format!("{:#}", write(dir.path(), &[outcome("react", None, 1.0)]).unwrap_err());
        assert!(error.contains(JSON) && error.contains("remove it") && error.contains("--out"), "{error}");
        assert_eq!(std::fs::read_to_string(dir.path().join(JSON)).unwrap(), "{\"outcomes\": 7}");
    }
}
