//! Takes what the outbox holds to the log, in order, and removes it when the log has acknowledged it. What cannot be removed holds up nothing:
//! it is published once, and removed when the disk takes that.

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
/// On a disk that is almost full fewer rows may be removed at once: so many times fewer with each try.
const FEWER: usize = 8;
const DISK_RETRY: Duration = Duration::from_millis(500);

/// Until shutdown, and then once more: what can be published before the process ends is.
pub(super) async fn relay(ctx: Context, outbox: Arc<Outbox>) {
    let mut relay = Relay { ctx, outbox, acknowledged: 0, is_clear: true };
    loop {
        let last_round = relay.ctx.shutdown.is_cancelled();
        while relay.batch().await {}
        if !relay.is_clear {
            relay.clear().await;
        }
        if last_round {
            relay.outbox.close().await;
            return;
        }
        tokio::select! {
            () = relay.ctx.shutdown.cancelled() => {}
            () = waiting(relay.outbox.appended()) => {}
            () = tokio::time::sleep(DISK_RETRY), if !relay.is_clear => {}
        }
    }
}

struct Relay {
    ctx: Context,
    outbox: Arc<Outbox>,
    /// The place up to which the log has acknowledged everything.
    acknowledged: i64,
    /// Whether all that was acknowledged is out of the file.
    is_clear: bool,
}

impl Relay {
    /// True when there may be more.
    async fn batch(&mut self) -> bool {
        let (ctx, outbox) = (&self.ctx, &self.outbox);
        let held = match outbox.oldest_after(self.acknowledged, BATCH).await {
            Ok(held) => held,
            Err(error) => {
                ctx.health.not_ready("outbox", format!("it cannot be read: {error}"));
                tokio::time::sleep(DISK_RETRY).await;
                return !ctx.shutdown.is_cancelled();
            }
        };
        outbox.note_oldest(held.first());
        let Some(last) = held.last().map(|held| held.seq) else { return false };
        let source = ctx.source();
        let (mut records, mut letters) = (Vec::with_capacity(held.len()), Vec::new());
        for row in &held {
            match row.record(&source) {
                Ok(record) => records.push(record),
                Err(problem) => letters.push(letter_of(row, problem)),
            }
        }
        if mutated(Mutant::RelayedBeforeAcknowledged) && outbox.remove_through(last, BATCH).await.is_err() {
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
        self.acknowledged = last;
        self.clear().await;
        true
    }

    /// Removes what was acknowledged, as far as the disk takes it.
    async fn clear(&mut self) {
        // One more than there can be says that there is no more.
        let mut at_once = BATCH + 1;
        self.is_clear = loop {
            match self.outbox.remove_through(self.acknowledged, at_once).await {
                Ok(removed) if removed < at_once => break true,
                Ok(_) => {}
                Err(error) if error.is_transient() && at_once > 1 => at_once = (at_once / FEWER).max(1),
                Err(error) => {
                    self.ctx.health.not_ready("outbox", format!("it cannot be written: {error}"));
                    break false;
                }
            }
        };
        if self.is_clear {
            reached(Point::AlertsRemoved, "");
            self.ctx.health.ready("outbox");
        }
    }
}

/// Somebody was told that this row is accepted: what cannot be read of it any more is at least kept for a person.
fn letter_of(row: &Held, problem: String) -> DeadLetter {
    let (bytes, origin) = (row.text.clone().into(), format!("row {} of ingest's outbox", row.seq));
    dead_letter_of(&bytes, DeadLetterReason::InvalidData, problem, origin, BTreeMap::new(), None)
}
