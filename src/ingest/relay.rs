//! Takes what the outbox holds to the log, in order, and removes it when the log has acknowledged it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::outbox::{Held, Outbox};
use crate::{
    crash_points::{Point, reached},
    events::{DeadLetter, DeadLetterReason, dead_letter_of},
    mutants::{Mutant, mutated},
    runtime::{
        Context,
        consume::{publish_dead_letter, publish_until_acknowledged},
        liveness::waiting,
    },
};

const BATCH: usize = 500;
const DISK_RETRY: Duration = Duration::from_millis(500);

/// Until shutdown, and then once more: what can be published before the process ends is.
pub(super) async fn relay(ctx: Context, outbox: Arc<Outbox>) {
    loop {
        let last_round = ctx.shutdown.is_cancelled();
        while relay_batch(&ctx, &outbox).await {}
        if last_round {
            outbox.close().await;
            return;
        }
        tokio::select! {
            () = ctx.shutdown.cancelled() => {}
            () = waiting(outbox.appended()) => {}
        }
    }
}

/// True when there may be more.
async fn relay_batch(ctx: &Context, outbox: &Outbox) -> bool {
    let held = match outbox.oldest(BATCH).await {
        Ok(held) if held.is_empty() => {
            outbox.note_oldest(None);
            return false;
        }
        Ok(held) => held,
        Err(error) => {
            ctx.health.not_ready("outbox", format!("it cannot be read: {error}"));
            tokio::time::sleep(DISK_RETRY).await;
            return !ctx.shutdown.is_cancelled();
        }
    };
    outbox.note_oldest(held.first());
    let source = ctx.source();
    let (mut records, mut letters) = (Vec::with_capacity(held.len()), Vec::new());
    for row in &held {
        match row.record(&source) {
            Ok(record) => records.push(record),
            Err(problem) => letters.push(letter_of(row, problem)),
        }
    }
    let seqs: Vec<i64> = held.iter().map(|held| held.seq).collect();
    if mutated(Mutant::RelayedBeforeAcknowledged) && outbox.remove(seqs.clone()).await.is_err() {
        return false;
    }
    if !records.is_empty() && !publish_until_acknowledged(ctx, records).await {
        return false;
    }
    reached(Point::AlertsRelayed, "");
    for letter in letters {
        if !publish_dead_letter(ctx, letter).await {
            return false;
        }
    }
    if let Err(error) = outbox.remove(seqs).await {
        // It is published again, which changes nothing (promise 5).
        ctx.health.not_ready("outbox", format!("it cannot be written: {error}"));
        tokio::time::sleep(DISK_RETRY).await;
        return !ctx.shutdown.is_cancelled();
    }
    reached(Point::AlertsRemoved, "");
    ctx.health.ready("outbox");
    true
}

/// Somebody was told that this row is accepted: what cannot be read of it any more is at least kept for a person.
fn letter_of(row: &Held, problem: String) -> DeadLetter {
    let (bytes, origin) = (row.text.clone().into(), format!("row {} of ingest's outbox", row.seq));
    dead_letter_of(&bytes, DeadLetterReason::InvalidData, problem, origin, BTreeMap::new(), None)
}
