//! How long each stage of the stop may take, and whether all of them fit in what whoever stops the process grants.

use clap::Args;

use super::{ConfigError, wrong};
use crate::{
    api::v1alpha1::Duration,
    runtime::{Deadlines, shutdown::END_MARGIN},
};

const STAGE_MOST: Duration = Duration::from_secs(3600);
/// What was begun is interrupted, or its offsets are not stored, in less.
const WORK_LEAST: Duration = Duration::from_secs(1);

/// The stages of the stop, in their order. Each ends as soon as nothing is left of it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Stopping")]
pub struct ShutdownFlags {
    /// What whoever stops the process grants before it kills: terminationGracePeriodSeconds of the pod. All stages and 2s must fit.
    #[arg(long, env = "EVENTPULSE_TERMINATION_GRACE_PERIOD", default_value = "30s", value_name = "DURATION")]
    pub termination_grace_period: Duration,

    /// Stage 1: how long alerts are still taken after readiness is off, for load balancers that are slow to hear of it.
    #[arg(long, env = "EVENTPULSE_SHUTDOWN_DELAY", default_value = "0s", value_name = "DURATION")]
    pub shutdown_delay: Duration,

    /// Stage 2: no connection is accepted any more; how long requests under way may take to be answered.
    #[arg(long, env = "EVENTPULSE_SHUTDOWN_INTAKE_TIMEOUT", default_value = "3s", value_name = "DURATION")]
    pub shutdown_intake_timeout: Duration,

    /// Stage 3: nothing new is begun; how long actions, messages and writes that were begun may take. What is not finished then is
    /// taken up after the restart, or by another replica.
    #[arg(long, env = "EVENTPULSE_SHUTDOWN_DRAIN_TIMEOUT", default_value = "15s", value_name = "DURATION")]
    pub shutdown_drain_timeout: Duration,

    /// Stage 4: how long the log may take to take the last records and to store the offsets.
    #[arg(long, env = "EVENTPULSE_SHUTDOWN_FLUSH_TIMEOUT", default_value = "5s", value_name = "DURATION")]
    pub shutdown_flush_timeout: Duration,

    /// Stage 5: how long telemetry may take to be handed out.
    #[arg(long, env = "EVENTPULSE_SHUTDOWN_TELEMETRY_TIMEOUT", default_value = "3s", value_name = "DURATION")]
    pub shutdown_telemetry_timeout: Duration,
}

impl ShutdownFlags {
    fn stages(&self) -> [(&'static str, Duration); 5] {
        [
            ("shutdown-delay", self.shutdown_delay),
            ("shutdown-intake-timeout", self.shutdown_intake_timeout),
            ("shutdown-drain-timeout", self.shutdown_drain_timeout),
            ("shutdown-flush-timeout", self.shutdown_flush_timeout),
            ("shutdown-telemetry-timeout", self.shutdown_telemetry_timeout),
        ]
    }

    /// What is wrong with them.
    pub(super) fn problems(&self) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        for (flag, value) in self.stages() {
            let least = if matches!(flag, "shutdown-drain-timeout" | "shutdown-flush-timeout") {
                WORK_LEAST
            } else {
                Duration::from_secs(0)
            };
            if !(least..=STAGE_MOST).contains(&value) {
                problems.push(wrong(flag, format!("{value} is not from {least} to {STAGE_MOST}")));
            }
        }
        let (granted, needed) = (self.termination_grace_period, self.deadlines().total());
        if granted.as_std() < needed {
            let stages: Vec<String> = self.stages().iter().map(|(flag, value)| format!("--{flag} {value}")).collect();
            let needed = written(needed);
            let problem = format!(
                "{granted} is less than {needed}, which is {} + {} to end; shorten one of them, or give at least {needed} here and as \
                 terminationGracePeriodSeconds of the pod, else the process is killed before it is done",
                stages.join(" + "),
                written(END_MARGIN),
            );
            problems.push(wrong("termination-grace-period", problem));
        }
        problems
    }

    /// As the supervisor wants them.
    pub fn deadlines(&self) -> Deadlines {
        Deadlines {
            delay: self.shutdown_delay.as_std(),
            intake: self.shutdown_intake_timeout.as_std(),
            drain: self.shutdown_drain_timeout.as_std(),
            flush: self.shutdown_flush_timeout.as_std(),
            telemetry: self.shutdown_telemetry_timeout.as_std(),
        }
    }
}

/// In the form of the flags.
pub(crate) fn written(duration: std::time::Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: ShutdownFlags,
    }

    fn flags(args: &[&str]) -> ShutdownFlags {
        Line::try_parse_from(std::iter::once("run").chain(args.iter().copied())).unwrap().flags
    }

    fn problems(args: &[&str]) -> Vec<String> {
        flags(args).problems().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_defaults_are_the_supervisors_and_fit() {
        assert_eq!(flags(&[]).deadlines(), Deadlines::default());
        assert_eq!(problems(&[]), Vec::<String>::new());
        assert_eq!(problems(&["--shutdown-drain-timeout=17s"]), Vec::<String>::new());
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_arithmetic() {
        let found = problems(&["--shutdown-drain-timeout=17s1ms"]);
        let [problem] = found.as_slice() else { panic!("{found:?}") };
        for says in [
            "--termination-grace-period: 30s is less than 30s1ms, which is --shutdown-delay 0s + --shutdown-intake-timeout 3s + \
             --shutdown-drain-timeout 17s1ms + --shutdown-flush-timeout 5s + --shutdown-telemetry-timeout 3s + 2s to end;",
            "give at least 30s1ms here and as terminationGracePeriodSeconds",
        ] {
            assert!(problem.contains(says), "{problem}");
        }
        assert_eq!(problems(&["--shutdown-drain-timeout=17s1ms", "--termination-grace-period=31s"]).len(), 0);
        assert_eq!(problems(&["--termination-grace-period=27s999ms"]).len(), 1);
    }

    #[test]
    fn each_stage_has_bounds() {
        let problems = problems(&[
            "--shutdown-drain-timeout=0s",
            "--shutdown-flush-timeout=999ms",
            "--shutdown-delay=1h1ms",
            "--termination-grace-period=2h",
        ]);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].starts_with("--shutdown-delay: 1h1ms is not from 0s to 1h"), "{problems:?}");
        assert!(problems[1].starts_with("--shutdown-drain-timeout: 0s is not from 1s to 1h"), "{problems:?}");
    }
}
