//! `eventpulse replay`: everything that the log still holds is given to services again.
//!
//! In: how far the services' groups have come, and what the log holds. Out: their stored offsets, set back, and a table for people or
//! JSON. Parts: the flags (`args`), and pure: which offset becomes which (`plan`), how it is printed (`render`).

mod args;
mod plan;
mod render;

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use jiff::Timestamp;

pub(super) use self::args::ReplayArgs;
use self::plan::{Held, Plan};
use super::{
    flags::{Output, is_absent},
    out::{print, print_json},
};
use crate::{
    bus::{BusConfig, BusError, Consumes, beside, history},
    config::ConfigErrors,
};

/// Sets the groups back, and prints what comes again.
pub(super) fn replay(args: &ReplayArgs) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let bus = args.log.to_read()?;
    let since = args.since.map(|since| since.begin(now));
    if let Some(since) = since.filter(|since| *since > now) {
        return Err(ConfigErrors::of("since", format!("{since} lies in the future")).into());
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the async runtime")?;
    runtime.block_on(set_back(args, bus, since))
}

async fn set_back(args: &ReplayArgs, bus: BusConfig, since: Option<Timestamp>) -> anyhow::Result<()> {
    let consumed = args.consumed();
    let groups: BTreeSet<&'static str> = consumed.iter().map(|one| one.group).collect();
    let in_use = match beside::check_idle(bus.clone(), groups).await {
        Ok(()) => None,
        Err(BusError::InUse(problem)) if args.dry_run => Some(problem),
        Err(BusError::InUse(problem)) => bail!("{}", running(&problem)),
        Err(error) => return Err(error.into()),
    };
    let mut held = Vec::new();
    for one in &consumed {
        held.extend(look(&bus, one, since).await?);
    }
    let plan = Plan::new(since, held);
    let offsets = plan.offsets();
    if !args.dry_run && !offsets.is_empty() {
        beside::store_offsets(bus, offsets).await.map_err(|error| match error {
            BusError::InUse(problem) => anyhow::anyhow!("{}", running(&problem)),
            error => anyhow::Error::from(error).context(
                "not every group was set back, and some may have been; the same command again does no harm, because what comes twice \
                 changes nothing",
            ),
        })?;
    }
    match args.output {
        Output::Text => print(&render::text(&plan, args.dry_run, in_use.as_deref())),
        Output::Json => print_json(&render::json(&plan, args.dry_run, in_use.as_deref())),
    }
}

fn running(problem: &str) -> String {
    format!(
        "EventPulse is running, and nothing was changed: {problem}; then give this command again, and start it after that"
    )
}

/// What the log holds of a group's topics, and how far the group has come.
async fn look(bus: &BusConfig, consumes: &Consumes, since: Option<Timestamp>) -> Result<Vec<Held>, anyhow::Error> {
    let mut held = Vec::new();
    for topic in consumes.topics {
        let found = history::progress(bus.clone(), consumes.group, *topic).await?;
        if found.is_empty() {
            return Err(is_absent(*topic));
        }
        let begins = match since {
            Some(since) => Some(history::begin(bus.clone(), *topic, since).await?),
            None => None,
        };
        held.extend(found.into_iter().map(|progress| Held {
            group: consumes.group,
            topic: *topic,
            begin: match &begins {
                None => progress.first,
                Some(begins) => begins.get(&progress.partition).copied().flatten().unwrap_or(progress.end),
            },
            progress,
        }));
    }
    Ok(held)
}
