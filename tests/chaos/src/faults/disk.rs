//! The disk of the data directory is full.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::time::sleep;

use super::Struck;
use crate::stage::Stage;

const PROBES: usize = 4;
/// What is freed meanwhile is filled again.
const AGAIN: Duration = Duration::from_millis(20);

/// Somebody else fills the small file system that all data directories are on. The broker does not answer meanwhile: what is kept until it
/// does is what needs the disk.
pub(super) async fn full(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    let filler = stage.disk().context("the data directories are on no file system of their own")?.join("filler");
    let before = stage.senders.unanswered();
    stage.broker.hold();
    let mut file = File::create(&filler)?;
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        fill(&mut file)?;
        sleep(AGAIN).await;
    }
    let refused = stage.senders.unanswered() - before;
    stage.broker.pass();
    drop(file);
    fs::remove_file(&filler)?;
    ensure!(refused > 0, "no alert was refused while the disk was full");
    let took = stage.probe(PROBES).await?;
    Ok(Struck::times(refused).recovered("there is room again", took))
}

/// Until nothing fits any more.
fn fill(file: &mut File) -> Result<()> {
    loop {
        match file.write(&[0; 4096]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
            Err(error) => bail!(error),
        }
    }
}
