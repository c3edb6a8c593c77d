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
/// For so long at most the files of a log have room in themselves.
const ROOM_LEFT: Duration = Duration::from_secs(60);

/// Somebody else fills the small file system that all data directories are on. The broker does not answer meanwhile: what is kept until it
/// does is what needs the disk.
pub(super) async fn full(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    let filler = stage.disk().context("the data directories are on no file system of their own")?.join("filler");
    let before = stage.senders.unanswered();
    stage.broker.hold();
    let mut file = File::create(&filler)?;
    let began = Instant::now();
    let refused = |stage: &Stage| stage.senders.unanswered() - before;
    // What the files have room for in themselves is used up first.
    while began.elapsed() < lasts || refused(stage) == 0 && began.elapsed() < lasts + ROOM_LEFT {
        fill(&mut file)?;
        sleep(AGAIN).await;
    }
    let refused = refused(stage);
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
