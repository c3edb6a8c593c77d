//! `eventpulse crds`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::out::print;
use crate::api::crds::documents;

#[derive(Args, Debug)]
pub(super) struct CrdsArgs {
    /// Write one file a kind into this directory, instead of all to standard output.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn crds(args: &CrdsArgs) -> anyhow::Result<()> {
    let documents = documents().context("generate the custom resource definitions")?;
    let Some(dir) = &args.out else {
        return print(&documents.iter().map(|(_, yaml)| format!("---\n{yaml}\n")).collect::<String>());
    };
    std::fs::create_dir_all(dir).with_context(|| format!("--out {}", dir.display()))?;
    for (name, yaml) in documents {
        let path = dir.join(name);
        std::fs::write(&path, yaml).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
