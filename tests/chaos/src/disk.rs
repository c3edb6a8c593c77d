//! A small file system for data directories, which can be filled without harm to anybody else: a tmpfs in a mount namespace of this
//! program's own, so that it ends with it however that ends.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// Says to the program, started again, that it is in a namespace of its own.
const MARK: &str = "EVENTPULSE_CHAOS_NAMESPACE";
/// Enough for the embedded log of a whole run.
const SIZE: &str = "size=256m";
const UNSHARE: [&str; 2] = ["--mount", "--map-root-user"];

/// Starts this program again in a mount namespace of its own. Returns where that is not allowed, or has been done.
pub(crate) fn enter_namespace() -> Result<()> {
    let is_allowed = || Command::new("unshare").args(UNSHARE).arg("true").status().is_ok_and(|status| status.success());
    if std::env::var_os(MARK).is_some() || !is_allowed() {
        return Ok(());
    }
    let program = std::env::current_exe()?;
    let error =
        Command::new("unshare").args(UNSHARE).arg(program).args(std::env::args_os().skip(1)).env(MARK, "1").exec();
    Err(error).context("start again by unshare")
}

/// Whether the program is in a namespace of its own.
pub(crate) fn is_in_namespace() -> bool {
    std::env::var_os(MARK).is_some()
}

/// A mounted file system. Dropping it takes it away.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// At this directory, which is made.
    pub(crate) fn mount(place: &Path) -> Result<Self> {
        fs::create_dir_all(place)?;
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "eventpulse-chaos"]).arg(place).status()?;
        ensure!(mounted.success(), "mount a tmpfs at {}", place.display());
        Ok(Self(place.to_owned()))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still has a file open there keeps it until it ends; the namespace takes away the rest.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
