//! What goes on while a load runs, once a second: memory, load average, and EventPulse's own counters.

use std::time::{Duration, Instant};

use eventpulse_testkit::{client, eventpulse::EventPulse};
use tokio::task::JoinHandle;

use crate::{
    machine::{self, Memory, Usage},
    outcome::{Outcome, Series},
    stage::Stage,
};

/// More of a processor than this used by others: the run is not of EventPulse alone.
const OTHERS_MAX: f64 = 0.3;

/// One second.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Since the watch began.
    pub at_s: f64,
    /// EventPulse's memory.
    pub memory: Memory,
    /// Load average.
    pub load: f64,
    /// Alerts decided so far.
    pub decided: f64,
    /// Alerts accepted so far, as EventPulse itself counts.
    pub accepted: f64,
}

/// Counts once a second until it is ended or dropped.
pub struct Watch {
    task: JoinHandle<()>,
    samples: tokio::sync::watch::Receiver<Vec<Sample>>,
    usage: Usage,
    load_before: f64,
    started: Instant,
}

impl Watch {
    /// Of the EventPulse that runs on this stage.
    pub fn begin(stage: &Stage) -> anyhow::Result<Self> {
        let eventpulse = stage.running()?;
        let (pid, url) = (eventpulse.process().pid(), eventpulse.admin_url("metrics"));
        let (sender, samples) = tokio::sync::watch::channel(Vec::new());
        let (started, load_before) = (Instant::now(), machine::load_average());
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            loop {
                ticks.tick().await;
                let text = client::get(&url).await.map(|reply| reply.text()).unwrap_or_default();
                let counted = |name, labels| sum(&text, name, labels);
                let sample = Sample {
                    at_s: started.elapsed().as_secs_f64(),
                    memory: machine::memory(pid),
                    load: machine::load_average(),
                    decided: counted("eventpulse_alerts_decided_total", ""),
                    accepted: counted("eventpulse_ingest_alerts_total", "result=\"accepted\""),
                };
                sender.send_modify(|all| all.push(sample));
            }
        });
        Ok(Self { task, samples, usage: Usage::begin(stage.processes()), load_before, started })
    }

    /// What was seen so far.
    pub fn samples(&self) -> Vec<Sample> {
        self.samples.borrow().clone()
    }

    /// Who has used the processors so far.
    pub fn used_until_now(&self, outcome: &mut Outcome) {
        outcome.processors = self.usage.end();
        let others = outcome.processors.get(machine::OTHERS).copied().unwrap_or(0.0);
        if others > OTHERS_MAX {
            outcome.notes.push(format!(
                "Other programs used {others:.2} processors meanwhile: the machine was not quiet, and every value is worse for it."
            ));
        }
    }

    /// Puts load and memory into the outcome; `offset_s` is when the load began, after the watch did.
    pub fn end(self, outcome: &mut Outcome, begin: Instant) -> Vec<Sample> {
        let samples = self.samples();
        let offset = begin.saturating_duration_since(self.started).as_secs_f64();
        outcome.load_before = self.load_before;
        outcome.load_during = samples.iter().map(|sample| sample.load).fold(0.0, f64::max);
        let memory = samples.iter().map(|sample| (sample.at_s - offset, sample.memory.resident_mib)).collect();
        outcome.series.push(Series::new("eventpulse", "MiB", memory));
        samples
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A metric's sum over all labels that hold this text.
fn sum(text: &str, name: &str, labels: &str) -> f64 {
    let of_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let lines = text.lines().filter(of_it).filter(|line| line.contains(labels));
    // OpenMetrics may have an exemplar behind a `#`.
    lines.filter_map(|line| line.split(" # ").next()?.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// A counter as it is now.
pub async fn metric(eventpulse: &EventPulse, name: &str, labels: &str) -> f64 {
    sum(&eventpulse.metrics().await, name, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_with_and_without_exemplars() {
        let text = "# TYPE a counter\na_total{x=\"1\"} 2\na_total{x=\"2\"} 3 # {trace_id=\"7\"} 0.5 1.0\na_total_more 9\nb 4\n";
        assert_eq!((sum(text, "a_total", ""), sum(text, "a_total", "x=\"2\""), sum(text, "b", "")), (5.0, 3.0, 4.0));
        assert_eq!(sum("", "a_total", ""), 0.0);
    }
}
