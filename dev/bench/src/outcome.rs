//! What a scenario has shown: values with their goals and floors, judged here and nowhere else.

use std::{collections::BTreeMap, fmt};

use clap::ValueEnum;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    latencies::{Latencies, Summary},
    machine::Machine,
};

/// The log that EventPulse ran on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Bus {
    /// A broker of its own.
    Kafka,
    /// One SQLite file.
    Embedded,
}

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bus::Kafka => "kafka",
            Bus::Embedded => "embedded",
        })
    }
}

/// What a value should be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Goal {
    /// Not more.
    AtMost(f64),
    /// Not less.
    AtLeast(f64),
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::AtMost(goal) => write!(f, "≤ {}", number(*goal)),
            Goal::AtLeast(goal) => write!(f, "≥ {}", number(*goal)),
        }
    }
}

/// Whether a goal is met.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// There is no goal.
    NoGoal,
    /// It is.
    Met,
    /// It is not; the value is so many times the goal.
    Missed(f64),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::NoGoal => f.write_str("–"),
            Verdict::Met => f.write_str("met"),
            Verdict::Missed(times) => write!(f, "MISSED: {times:.2} × the goal"),
        }
    }
}

/// The least that the parts on a value's path take by themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// What is on the path, like `fsync + 2 × hop`.
    pub path: String,
    /// The sum of their medians, in the row's unit.
    pub value: f64,
}

/// One value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// Its unit: `ms`, `alerts/s`, `MiB`, …
    pub unit: String,
    /// The value. Not a number where nothing could be measured, which meets no goal.
    #[serde(with = "or_null")]
    pub value: f64,
    /// What it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
    /// What it can be at best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Floor>,
    /// What else one has to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// JSON has no NaN.
mod or_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}

impl Row {
    /// Without goal and floor.
    pub fn new(what: impl Into<String>, value: f64, unit: &str) -> Self {
        Self { what: what.into(), unit: unit.into(), value, goal: None, floor: None, note: None }
    }

    /// With this goal.
    pub fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    /// With this floor.
    pub fn floor(mut self, floor: Floor) -> Self {
        self.floor = Some(floor);
        self
    }

    /// With this remark.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// How many times its floor it is.
    pub fn ratio(&self) -> Option<f64> {
        self.floor.as_ref().filter(|floor| floor.value > 0.0).map(|floor| self.value / floor.value)
    }

    /// Whether its goal is met.
    pub fn verdict(&self) -> Verdict {
        let (met, goal) = match self.goal {
            None => return Verdict::NoGoal,
            // What is not a number is on no side of a goal.
            Some(Goal::AtMost(goal)) => (self.value <= goal, goal),
            Some(Goal::AtLeast(goal)) => (self.value >= goal, goal),
        };
        if met { Verdict::Met } else { Verdict::Missed(self.value / goal) }
    }
}

/// Something over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// What.
    pub name: String,
    /// Its unit; series of one unit share a plot.
    pub unit: String,
    /// Seconds since the start, and the value.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// At most so many points are kept: a plot shows no more.
    const POINTS: usize = 400;

    /// Every so-manieth where there are too many.
    pub fn new(name: &str, unit: &str, points: Vec<(f64, f64)>) -> Self {
        let step = points.len().div_ceil(Self::POINTS).max(1);
        Self { name: name.into(), unit: unit.into(), points: points.into_iter().step_by(step).collect() }
    }
}

/// All that is said of one scenario on one bus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Its name.
    pub scenario: String,
    /// The log; none where there is no log in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<Bus>,
    /// When it began.
    pub started: Timestamp,
    /// How long all of it took.
    pub took_s: f64,
    /// Shortened, so that it shows only that it works.
    pub quick: bool,
    /// What was measured.
    pub commit: String,
    /// Where.
    pub machine: Machine,
    /// Versions of the parts.
    pub versions: Vec<String>,
    /// Whether etcd wrote to disk before it answered.
    pub etcd_fsync: bool,
    /// Load average before.
    pub load_before: f64,
    /// The highest load average while it was measured; this load's own part is in it.
    pub load_during: f64,
    /// Processors used on average, by process.
    pub processors: BTreeMap<String, f64>,
    /// Floors, before and after the measurement together.
    pub floors: BTreeMap<String, Summary>,
    /// The values.
    pub rows: Vec<Row>,
    /// Whole distributions, in ms.
    pub latencies: BTreeMap<String, Summary>,
    /// The same for plots.
    pub curves: BTreeMap<String, Vec<(f64, f64)>>,
    /// What went on over time.
    pub series: Vec<Series>,
    /// Why it says nothing of EventPulse.
    pub invalid: Vec<String>,
    /// What was lost, done twice or not done: then speed does not matter.
    pub failures: Vec<String>,
    /// What else one has to know.
    pub notes: Vec<String>,
}

impl Outcome {
    /// Where nothing has been measured yet.
    pub fn new(scenario: &str, bus: Option<Bus>, started: Timestamp) -> Self {
        Self {
            scenario: scenario.into(),
            bus,
            started,
            took_s: 0.0,
            quick: false,
            commit: String::new(),
            machine: Machine::default(),
            versions: Vec::new(),
            etcd_fsync: false,
            load_before: 0.0,
            load_during: 0.0,
            processors: BTreeMap::new(),
            floors: BTreeMap::new(),
            rows: Vec::new(),
            latencies: BTreeMap::new(),
            curves: BTreeMap::new(),
            series: Vec::new(),
            invalid: Vec::new(),
            failures: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// A distribution, for the table of latencies and for the plot.
    pub fn add_latencies(&mut self, name: &str, latencies: &Latencies) {
        self.latencies.insert(name.into(), latencies.summary());
        self.curves.insert(name.into(), latencies.curve());
    }

    /// Something that must hold, and what to say where it does not.
    pub fn require(&mut self, holds: bool, failure: impl FnOnce() -> String) {
        if !holds {
            self.failures.push(failure());
        }
    }

    /// Its row of this name.
    pub fn row(&self, what: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.what == what)
    }

    /// What to print beside a row: a goal that is met by a run that lost something, or by one that is not valid, is not met.
    pub fn judge(&self, row: &Row) -> String {
        match row.verdict() {
            Verdict::NoGoal => Verdict::NoGoal.to_string(),
            _ if !self.failures.is_empty() => "FAILED".into(),
            _ if !self.invalid.is_empty() => "invalid".into(),
            verdict => verdict.to_string(),
        }
    }
}

/// As people read it: three digits that matter, and no more than the value has.
pub fn number(value: f64) -> String {
    let magnitude = value.abs();
    if !value.is_finite() {
        return "not measured".into();
    }
    let text = match magnitude {
        m if m >= 1_000.0 => {
            let digits = format!("{:.0}", magnitude);
            let mut text = String::new();
            for (i, digit) in digits.chars().enumerate() {
                if i > 0 && (digits.len() - i) % 3 == 0 {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
        m if m >= 100.0 => format!("{magnitude:.0}"),
        m if m >= 10.0 => trim(format!("{magnitude:.1}")),
        _ => trim(format!("{magnitude:.2}")),
    };
    if value < 0.0 { format!("-{text}") } else { text }
}

fn trim(text: String) -> String {
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_up_to_itself_and_missed_by_so_much() {
        let row = |value: f64, goal| Row::new("p50", value, "ms").goal(goal).verdict();
        assert_eq!(row(25.0, Goal::AtMost(25.0)), Verdict::Met);
        assert_eq!(row(50.0, Goal::AtMost(25.0)), Verdict::Missed(2.0));
        assert_eq!(row(100.0, Goal::AtLeast(100.0)), Verdict::Met);
        assert_eq!(row(25.0, Goal::AtLeast(100.0)).to_string(), "MISSED: 0.25 × the goal");
        assert!(matches!(row(f64::NAN, Goal::AtMost(1.0)), Verdict::Missed(_)), "what was not measured meets no goal");
        assert_eq!(Row::new("p50", 1.0, "ms").verdict(), Verdict::NoGoal);
    }

    #[test]
    fn a_run_that_lost_something_has_met_nothing() {
        let mut outcome = Outcome::new("x", None, Timestamp::UNIX_EPOCH);
        let row = Row::new("p50", 1.0, "ms").goal(Goal::AtMost(2.0));
        assert_eq!(outcome.judge(&row), "met");
        outcome.invalid.push("slow".into());
        assert_eq!(outcome.judge(&row), "invalid");
        outcome.require(true, || unreachable!());
        outcome.require(false, || "lost".into());
        assert_eq!(outcome.judge(&row), "FAILED");
        assert_eq!(outcome.judge(&Row::new("p50", 1.0, "ms")), "–");
    }

    #[test]
    fn a_row_is_compared_with_its_floor() {
        let floor = |value| Floor { path: "fsync".into(), value };
        assert_eq!(Row::new("p50", 5.0, "ms").floor(floor(2.0)).ratio(), Some(2.5));
        assert_eq!(Row::new("p50", 5.0, "ms").floor(floor(0.0)).ratio(), None);
    }

    #[test]
    fn numbers_have_three_digits_that_matter() {
        let cases =
            [(0.0, "0"), (0.4567, "0.46"), (9.999, "10"), (12.34, "12.3"), (123.4, "123"), (20_000.0, "20,000")];
        for (value, text) in cases.into_iter().chain([(1_234_567.0, "1,234,567"), (-1_500.0, "-1,500"), (2.5, "2.5")]) {
            assert_eq!(number(value), text);
        }
        assert_eq!(number(f64::NAN), "not measured");
    }

    #[test]
    fn an_outcome_is_read_as_it_was_written() {
        let mut outcome = Outcome::new("react", Some(Bus::Kafka), "2026-01-01T12:00:00Z".parse().unwrap());
        outcome.add_latencies("all", &Latencies::of([std::time::Duration::from_millis(3)]));
        outcome.series.push(Series::new("memory", "MiB", (0..1_000).map(|i| (f64::from(i), 1.0)).collect()));
        outcome.rows.push(Row::new("p50", 3.0, "ms").goal(Goal::AtMost(25.0)).note("x"));
        let line = serde_json::to_string(&outcome).unwrap();
        assert!(!line.contains('\n') && outcome.series[0].points.len() <= 400);
        assert_eq!(serde_json::from_str::<Outcome>(&line).unwrap(), outcome);
        let unmeasured = serde_json::to_string(&Row::new("p50", f64::NAN, "ms")).unwrap();
        assert!(serde_json::from_str::<Row>(&unmeasured).unwrap().value.is_nan(), "{unmeasured}");
    }
}
