//! The commands. In: the command line. Out: an exit code, and errors that say what to do.

mod check_config;
mod crds;
mod dead_letters;
pub mod explain;
mod flags;
mod generate;
pub mod install;
mod ledger;
mod out;
mod preflight;
pub mod reasons;
mod replay;
mod run;

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::{
    CommandFactory as _, Parser, Subcommand,
    builder::StyledStr,
    error::{ContextKind, ContextValue},
};

use crate::{
    config::{ConfigErrors, RunFlags},
    runtime::Ending,
};

/// Alerts become incidents, actions and notifications inside a Kubernetes cluster.
///
/// Prometheus or Alertmanager sends alerts; rules, runbooks and notification channels are custom resources; incidents are custom
/// resources too: `kubectl get incidents`. The API server is found as kubectl finds it: KUBECONFIG, ~/.kube/config, or the
/// account of the pod.
#[derive(Debug, Parser)]
#[command(name = "eventpulse", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the services.
    ///
    /// Without brokers the log is embedded: one file, one process, nothing else to install.
    ///
    ///   eventpulse run --data-dir /var/lib/eventpulse --auth-token-file /etc/eventpulse/token
    ///
    /// With Kafka the services may run apart, in any number of replicas:
    ///
    ///   eventpulse run --services rules,actions --kafka-brokers kafka:9092
    ///
    /// SIGTERM and SIGINT stop it in order, a second one ends it at once. It exits with 0 when it was stopped, 1 when it
    /// could not start or one of its tasks failed (the last line says why), 2 when a flag does not do, and 128 and the
    /// signal's number when it was ended at once.
    #[command(verbatim_doc_comment)]
    Run(Box<RunFlags>),
    /// Print the custom resource definitions.
    ///
    ///   eventpulse crds | kubectl apply --server-side -f -
    #[command(verbatim_doc_comment)]
    Crds(crds::CrdsArgs),
    /// Check the flags and variables of `run` without running anything, and print what is in force.
    ///
    /// It reads the token file, the kubeconfig and certificates, and looks at the data directory, as `run` would; it asks
    /// neither the brokers nor the API server. A value that cannot be read at all, like a number that is none, is said first
    /// and alone; everything else that is wrong is said at once. The exit code is 2.
    ///
    ///   eventpulse check-config --kafka-brokers kafka:9092 --auth-token-file /etc/eventpulse/token
    #[command(verbatim_doc_comment)]
    CheckConfig(Box<RunFlags>),
    /// Tell the story of an alert, an incident or an action: what happened, why, and what is waited for.
    ///
    /// It reads the resources as kubectl does, and the log with the flags of `run`; it changes nothing.
    ///
    ///   eventpulse explain cpu-high-x2a4q7rtzu --kafka-brokers kafka:9092
    ///
    /// A fingerprint shows why a rule did not fire (amtool alert -o extended prints them):
    ///
    ///   eventpulse explain 5ef2b5cd4d2bd1a8 --kafka-brokers kafka:9092
    ///
    /// With the embedded log, in the pod that has it:
    ///
    ///   kubectl exec -n eventpulse-system eventpulse-0 -- eventpulse explain cpu-high-x2a4q7rtzu --data-dir /var/lib/eventpulse
    #[command(verbatim_doc_comment)]
    Explain(Box<explain::ExplainArgs>),
    /// Prove that every accepted alert has its reason: what was accepted equals the sum of the reasons.
    ///
    /// It reads alert.raised, alert.decided and dead.letter with the flags of `run`, joins no group and changes nothing. It exits
    /// with 0 when everything is accounted for, with 1 when an alert is missing or decisions contradict each other (it names
    /// them) or the log cannot be read, and with 2 for flags that do not do: a job can run it every hour.
    ///
    ///   eventpulse ledger --since 24h --kafka-brokers kafka:9092
    ///
    /// With the embedded log, in the pod that has it:
    ///
    ///   kubectl exec -n eventpulse-system eventpulse-0 -- eventpulse ledger --data-dir /var/lib/eventpulse
    #[command(verbatim_doc_comment)]
    Ledger(Box<ledger::LedgerArgs>),
    /// Look at what could not be used, and give it to the services again.
    ///
    ///   eventpulse dead-letters list --reason refused --kafka-brokers kafka:9092
    ///   eventpulse dead-letters show alert.raised/3@1207 --kafka-brokers kafka:9092
    ///   eventpulse dead-letters retry alert.raised/3@1207 --kafka-brokers kafka:9092
    ///
    /// With the embedded log, in the pod that has it:
    ///
    ///   kubectl exec -n eventpulse-system eventpulse-0 -- eventpulse dead-letters list --data-dir /var/lib/eventpulse
    #[command(verbatim_doc_comment)]
    DeadLetters(Box<dead_letters::DeadLettersArgs>),
    /// Give services everything again that the log still holds, and so bring back what was deleted.
    ///
    /// It sets the consumer groups of these services back, never forward; at their next start they are given the records once more. That
    /// changes nothing that is there, and what is missing is written again: `--services incidents` brings back Incidents. Stop the
    /// services before, and start them after. It exits with 1 and changes nothing while they run.
    ///
    ///   eventpulse replay --services incidents --kafka-brokers kafka:9092 --dry-run
    ///   eventpulse replay --services incidents --kafka-brokers kafka:9092
    ///   eventpulse replay --services incidents,rules --since 2h --kafka-brokers kafka:9092
    ///
    /// With the embedded log, where --data-dir is and no EventPulse runs:
    ///
    ///   eventpulse replay --services incidents --data-dir /var/lib/eventpulse
    #[command(verbatim_doc_comment)]
    Replay(Box<replay::ReplayArgs>),
    /// Write the files of the repository that are generated: CRDs, event schemas and examples, lists of metrics and reasons, parts of the charts.
    #[command(hide = true)]
    Generate(generate::GenerateArgs),
}

impl Cli {
    /// Reads the command line and the variables. What cannot be read at all ends the process as clap has it: the first such value, by its
    /// flag and, where it stands in one, its variable.
    fn read() -> Self {
        let given: Vec<String> = std::env::args().collect();
        let is_set = |variable: &str| std::env::var_os(variable).is_some();
        Self::try_parse().unwrap_or_else(|error| with_variable(error, &given, is_set).exit())
    }
}

/// Adds the variable that a value stands in which cannot be read.
fn with_variable(mut error: clap::Error, given: &[String], is_set: impl Fn(&str) -> bool) -> clap::Error {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else { return error };
    // As clap names it: --partitions <PARTITIONS>.
    let Some(flag) = argument.split_whitespace().next().and_then(|word| word.strip_prefix("--")) else { return error };
    let is_given = |one: &String| one.strip_prefix("--").and_then(|one| one.split('=').next()) == Some(flag);
    let variable = variable_of(&Cli::command(), flag).filter(|name| is_set(name) && !given.iter().any(is_given));
    if let Some(variable) = variable {
        let tip = StyledStr::from(format!("it stands in the variable {variable}"));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

fn variable_of(command: &clap::Command, flag: &str) -> Option<String> {
    let own = command.get_arguments().find(|argument| argument.get_long() == Some(flag));
    let variable = own.and_then(|argument| argument.get_env()).map(|name| name.to_string_lossy().into_owned());
    variable.or_else(|| command.get_subcommands().find_map(|inner| variable_of(inner, flag)))
}

/// The whole program: reads what was asked for, does it, and says what it ended with.
pub fn main() -> ExitCode {
    let ended = dispatch(Cli::read());
    if let Err(error) = &ended {
        let lines: String = format!("{error:#}").lines().map(|line| format!("eventpulse: {line}\n")).collect();
        // Where nobody can be told the exit code has to do.
        let _ = std::io::stderr().write_all(lines.as_bytes());
    }
    exit_code(&ended).into()
}

/// Runs the command that was given.
fn dispatch(cli: Cli) -> anyhow::Result<Ending> {
    match cli.command {
        Command::Run(flags) => return run::run(flags.resolve()?),
        Command::Crds(args) => crds::crds(&args)?,
        Command::CheckConfig(flags) => check_config::check_config(*flags)?,
        Command::Explain(args) => explain::explain(&args)?,
        Command::Ledger(args) => ledger::ledger(&args)?,
        Command::DeadLetters(args) => dead_letters::dead_letters(&args)?,
        Command::Replay(args) => replay::replay(&args)?,
        Command::Generate(args) => generate::generate(&args)?,
    }
    Ok(Ending::Orderly)
}

/// What the process exits with: 0 in order; 1 failed; 2 for flags that do not do, as for those that clap refuses; 128 and the
/// signal's number, as shells have it, when a second signal ended it at once.
fn exit_code(ended: &anyhow::Result<Ending>) -> u8 {
    match ended {
        Ok(Ending::Orderly) => 0,
        Ok(Ending::AtOnce(signal)) => 128 + signal,
        Err(error) if error.is::<ConfigErrors>() => 2,
        Err(_) => 1,
    }
}

/// Progress, for whoever waits at a terminal.
fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        // Nobody is left to be told that it failed.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// What somebody else wrote, on one line of a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_cannot_be_read_is_told_with_the_variable_that_it_stands_in() {
        for (args, told) in [
            (&["run", "--outbox-max-alerts", "banana"][..], Some("EVENTPULSE_OUTBOX_MAX_ALERTS")),
            (&["check-config", "--partitions="], Some("EVENTPULSE_PARTITIONS")),
            (&["ledger", "--topic-retention", "x"], Some("EVENTPULSE_TOPIC_RETENTION")),
            (&["ledger", "--grace", "x"], None),
            (&["run", "--no-such-flag"], None),
        ] {
            let line = || std::iter::once("eventpulse").chain(args.iter().copied()).map(str::to_owned);
            let error = || Cli::try_parse_from(line()).unwrap_err();
            // As though the value had come by the variable: the line has no such flag.
            let text = with_variable(error(), &[], |_| true).to_string();
            let tip = told.map(|variable| format!("tip: it stands in the variable {variable}"));
            assert_eq!(text.contains("it stands in the variable"), tip.is_some(), "{text}");
            assert!(tip.is_none_or(|tip| text.contains(&tip)), "{text}");
            let given: Vec<String> = line().collect();
            assert_eq!(with_variable(error(), &given, |_| true).to_string(), error().to_string());
            assert_eq!(with_variable(error(), &[], |_| false).to_string(), error().to_string());
        }
    }
}
