//! `eventpulse generate`: what `make generate` calls. The drift tests compare its output with the repository's files.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::{install, out::print, reasons};
use crate::{api::crds, events::schemas, runtime::metrics::describe};

#[derive(Args, Debug)]
pub(super) struct GenerateArgs {
    /// The repository's root.
    #[arg(default_value = ".")]
    root: PathBuf,
}

pub(super) fn generate(args: &GenerateArgs) -> anyhow::Result<()> {
    let read = |path: &str| std::fs::read_to_string(args.root.join(path)).with_context(|| path.to_owned());
    let (rbac, policy) = (read(install::RBAC)?, read(install::POLICY)?);
    let definitions = crds::documents()?;
    let install = install::documents(&definitions, &rbac, &policy)?;
    let crds = definitions.into_iter().map(|(name, text)| (PathBuf::from("crds").join(name), text));
    let events = schemas::documents()?.into_iter().map(|(name, text)| (PathBuf::from("docs/events").join(name), text));
    let metrics = (PathBuf::from("docs/metrics.md"), describe::document());
    let reasons = (PathBuf::from("docs/reasons.md"), reasons::document());
    for (path, text) in crds.chain(events).chain([metrics, reasons]).chain(install) {
        let path = args.root.join(path);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        }
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        print(&format!("{}\n", path.display()))?;
    }
    Ok(())
}
