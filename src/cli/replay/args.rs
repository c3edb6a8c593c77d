//! The flags of `eventpulse replay`.

use clap::{Args, ValueEnum as _};

use crate::{
    bus::Consumes,
    cli::flags::{Output, Since},
    config::{LogFlags, Service},
    services::consumes,
};

#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct ReplayArgs {
    /// The services that are given everything again: rules, actions, incidents, notify.
    #[arg(long, required = true, value_delimiter = ',', value_parser = parse_service, value_name = "SERVICES")]
    services: Vec<Service>,

    /// From when on: how long ago, or a time like 2026-01-02T03:04:05Z, by the times at which the log took the records. Without it,
    /// everything that the log still holds.
    #[arg(long, value_name = "DURATION | TIME")]
    pub(super) since: Option<Since>,

    #[command(flatten)]
    pub(super) log: LogFlags,

    /// Say what would come again, and change nothing; also while EventPulse runs.
    #[arg(long)]
    pub(super) dry_run: bool,

    /// How it is printed.
    #[arg(long, short, value_enum, default_value_t)]
    pub(super) output: Output,
}

impl ReplayArgs {
    /// What the services consume, each once.
    pub(super) fn consumed(&self) -> Vec<Consumes> {
        let mut services = self.services.clone();
        services.sort();
        services.dedup();
        services.into_iter().filter_map(consumes).collect()
    }
}

fn parse_service(text: &str) -> Result<Service, String> {
    let known = Service::from_str(text, false).ok().filter(|service| consumes(*service).is_some());
    known.ok_or_else(|| {
        let services = Service::ALL.into_iter().filter(|service| consumes(*service).is_some());
        let names: Vec<&str> = services.map(Service::name).collect();
        format!("{text:?} is no service that consumes topics of EventPulse; there are {}", names.join(", "))
    })
}
