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
mod run;

use std::io::{IsTerminal as _, Write as _};

use clap::{Parser, Subcommand};

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
    /// It reads the token file and looks at the data directory, as `run` would; it asks neither the brokers nor the API
    /// server. Everything that is wrong is said at once, and the exit code is 2.
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
    /// Write the files of the repository that are generated: CRDs, event schemas and examples, lists of metrics and reasons, parts of the charts.
    #[command(hide = true)]
    Generate(generate::GenerateArgs),
}

/// Runs the command that was given.
pub fn dispatch(cli: Cli) -> anyhow::Result<Ending> {
    match cli.command {
        Command::Run(flags) => return run::run(flags.resolve()?),
        Command::Crds(args) => crds::crds(&args)?,
        Command::CheckConfig(flags) => check_config::check_config(*flags)?,
        Command::Explain(args) => explain::explain(&args)?,
        Command::Ledger(args) => ledger::ledger(&args)?,
        Command::DeadLetters(args) => dead_letters::dead_letters(&args)?,
        Command::Generate(args) => generate::generate(&args)?,
    }
    Ok(Ending::Orderly)
}

/// What the process exits with: 0 in order; 1 failed; 2 for flags that do not do, as for those that clap refuses; 128 and the
/// signal's number, as shells have it, when a second signal ended it at once.
pub fn exit_code(ended: &anyhow::Result<Ending>) -> u8 {
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
