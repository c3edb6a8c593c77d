//! Rule matching at 1,000 rules: EventPulse's own functions, on one core, called as the service calls them.

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    machine,
    outcome::{Goal, Outcome, Row},
    probe,
    run::Options,
    stage::say,
};

const RULES: &str = "1000";
const MICROS: f64 = 10.0;
const PER_SECOND: f64 = 100_000.0;

pub(super) async fn play(options: &Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("matching", None, Timestamp::now());
    outcome.load_before = machine::load_average();
    let seconds = if options.quick { "1" } else { "5" };
    say(&format!("{RULES} rules, 20,000 different alerts, {seconds} s for each part"));
    let line = probe::run(options, &["matching", "--rules", RULES, "--seconds", seconds]).await?;
    outcome.load_during = machine::load_average();
    let ns = |part: &str, field: &str| line[part][field].as_f64().unwrap_or(f64::NAN) / 1e3;
    outcome.rows = vec![
        Row::new("an alert, mean", ns("usual", "meanNs"), "µs").goal(Goal::AtMost(MICROS)),
        Row::new("an alert, p50", ns("usual", "p50Ns"), "µs"),
        Row::new("an alert, p99", ns("usual", "p99Ns"), "µs"),
        Row::new("alerts a core", value(&line, "usual", "perSecond"), "alerts/s").goal(Goal::AtLeast(PER_SECOND)),
        Row::new("an alert, mean, where the index cannot help", ns("alike", "meanNs"), "µs")
            .note("all 1,000 rules ask for the same label and differ in a pattern: nobody writes such rules; no goal"),
        Row::new("one rule compiled", line["compileNs"].as_f64().unwrap_or(f64::NAN) / 1e3, "µs").note(
            "once for each version of a rule; an alert costs a fraction of it, so nothing is compiled for an alert",
        ),
        Row::new("the index of all rules built", line["indexNs"].as_f64().unwrap_or(f64::NAN) / 1e3, "µs")
            .note("once for each change of any rule"),
    ];
    let matches = value(&line, "usual", "matchesAnAlert");
    outcome.require(matches > 0.1, || format!("{matches} rules matched an alert on average: nothing was measured"));
    Ok(outcome)
}

fn value(line: &Value, part: &str, field: &str) -> f64 {
    line[part][field].as_f64().unwrap_or(f64::NAN)
}
