//! `eventpulse ledger`: what was accepted against the reasons that were given, from the log alone.
//!
//! In: the log. Out: a table for people or JSON, and an error where something is not accounted for. It reads, and changes nothing.
//! Parts: what is read (`read`), and pure: the account (`account`), what stands outside of it (`search`), what is said (`report`,
//! `render`).

mod account;
mod read;
mod render;
mod report;
mod search;

use anyhow::{Context as _, bail};
use clap::Args;
use jiff::Timestamp;

use super::{
    flags::{Output, Since},
    out::{print, print_json},
};
use crate::{api::v1alpha1::Duration, config::LogFlags};

#[derive(Args, Clone, Debug)]
pub(super) struct LedgerArgs {
    /// From when on: how long ago, or a time like 2026-01-02T03:04:05Z.
    #[arg(long, default_value = "24h", value_name = "DURATION | TIME")]
    since: Since,

    #[command(flatten)]
    log: LogFlags,

    /// As given to `run`: an alert that is older than this may have left the log, and is not missed there.
    #[arg(long, env = "EVENTPULSE_TOPIC_RETENTION", default_value = "24h", value_name = "DURATION")]
    topic_retention: Duration,

    /// For how long an alert without a reason counts as under way where it cannot be read how far rules has come.
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    grace: Duration,

    /// How it is printed.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// Prints the account, and fails where something is not accounted for.
pub(super) fn ledger(args: &LedgerArgs) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let bus = args.log.to_read()?;
    let since = args.since.begin(now);
    if since > now {
        return Err(crate::config::ConfigErrors::of("since", format!("{since} lies in the future")).into());
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the async runtime")?;
    let span = read::Span { since, now, grace: args.grace, topic_retention: args.topic_retention };
    let report = runtime.block_on(read::read(&bus, span)).with_context(|| read_failed(args))?;
    match args.output {
        Output::Text => print(&render::text(&report))?,
        Output::Json => print_json(&report)?,
    }
    match report.problem() {
        None => Ok(()),
        Some(problem) => bail!("{problem}"),
    }
}

fn read_failed(args: &LedgerArgs) -> &'static str {
    if args.log.kafka_brokers.is_empty() {
        "the embedded log stands on the machine that has --data-dir (in a cluster: kubectl exec, in EventPulse's pod); for Kafka give \
         --kafka-brokers"
    } else {
        "the account needs alert.raised, alert.decided and dead.letter"
    }
}
