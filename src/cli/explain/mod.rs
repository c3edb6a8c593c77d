//! `eventpulse explain`: the story of an alert, an incident or an action, told from the resources and the log.
//!
//! In: an id, the API server as kubectl finds it, the log. Out: a timeline for people, or JSON. It reads, and changes nothing. Parts:
//! what is read (`gather`, `log`), and pure: why rules matched (`rules`), what happened (`timeline`), what is waited for (`waiting`),
//! how it is printed (`render`).

mod gather;
mod log;
mod render;
mod rules;
mod story;
mod timeline;
mod waiting;

#[cfg(test)]
mod tests;

use anyhow::{Context as _, bail};
use clap::Args;
use jiff::Timestamp;

pub use self::rules::RuleReason;
use super::{
    flags::Output,
    out::{print, print_json},
};
use crate::{api::v1alpha1::Duration, config::LogFlags};

#[derive(Args, Clone, Debug)]
pub(super) struct ExplainArgs {
    /// A fingerprint or an alert id (both in alert.raised and alert.decided), or the name of an Incident, an Action or a Notification.
    #[arg(value_name = "FINGERPRINT | ALERT_ID | INCIDENT | ACTION", value_parser = parse_subject)]
    subject: String,

    #[command(flatten)]
    log: LogFlags,

    /// Look at this namespace only. Without it at all of them, or at the context's where only that one may be read.
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// How far back the log is read.
    #[arg(long, default_value = "24h", value_name = "DURATION")]
    since: Duration,

    /// Read the resources only.
    #[arg(long)]
    no_log: bool,

    /// Print every rule that was tried, also those of other namespaces, instead of the nearest.
    #[arg(long)]
    all_rules: bool,

    /// Print every repetition of an alert, instead of one line for all.
    #[arg(long)]
    repetitions: bool,

    /// How it is printed.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// Ids are labels, and Alertmanager's fingerprints are hexadecimal: whatever else was meant, it is none of them.
fn parse_subject(text: &str) -> Result<String, String> {
    // As kubectl prints names: `incident.eventpulse.io/cpu-high-x2a4`.
    let name = text.rsplit('/').next().unwrap_or_default();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (4..=63).contains(&name.len()) && name.chars().all(allowed) {
        Ok(name.to_owned())
    } else {
        Err("a fingerprint, an alert id, or the name of an Incident or Action is 4 to 63 characters of a-z, 0-9 and -; \
             `kubectl get incidents,actions -A` lists names"
            .into())
    }
}

/// Tells it, or fails where nothing is known of the id.
pub(super) fn explain(args: &ExplainArgs) -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the async runtime")?;
    let now = Timestamp::now();
    let gathered = runtime.block_on(gather::gather(args, now));
    // A plugin of the kubeconfig that does not answer must not keep the command.
    runtime.shutdown_background();
    let facts = gathered?;
    let story = story::tell(&args.subject, &facts, args.repetitions, now);
    if story.is_empty() {
        let notes: String = story.notes.iter().map(|note| format!("\n- {note}")).collect();
        let place =
            args.namespace.as_ref().map(|namespace| format!(" in the namespace {namespace}")).unwrap_or_default();
        bail!(
            "nothing is known of {}{place}: no Incident, Action or Notification has this name, and no alert of the last {} this id or \
             fingerprint (`--since` reads further back){notes}",
            args.subject,
            args.since
        );
    }
    match args.output {
        Output::Text => print(&render::text(&story, args.all_rules)),
        Output::Json => print_json(&story),
    }
}
