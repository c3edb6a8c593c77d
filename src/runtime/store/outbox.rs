//! What an object still has to say: carried over until it is acknowledged, published, and cleared by a writer that has seen it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, MutexGuard},
};

use super::{Owned, Store, StoreError, lock};
use crate::{
    api::v1alpha1::OutboxEntry,
    events::{Event, NamespacedName, Record, Topic},
    mutants::{Mutant, mutated},
    runtime::consume::publish_until_acknowledged,
};

impl<K: Owned> Store<K> {
    /// Step 1's outbox: everything of the state it was decided from whose acknowledgement was not seen, and the new entries.
    /// None when the bound makes it necessary to publish first and decide again.
    pub(super) async fn next_outbox(
        &self,
        name: &NamespacedName,
        current: Option<&K>,
        publish: &[Event],
    ) -> Result<Option<Vec<OutboxEntry>>, StoreError> {
        let carried: Vec<OutboxEntry> = {
            let acknowledged = self.acknowledged();
            let seen = acknowledged.get(name);
            let entries = current.map(Owned::outbox).unwrap_or_default();
            let is_carried = |entry: &&OutboxEntry| !seen.is_some_and(|seen| seen.contains(&entry.id));
            entries.iter().filter(is_carried).filter(|_| !mutated(Mutant::OthersEntriesDropped)).cloned().collect()
        };
        let new = entries_of(publish).into_iter().filter(|entry| !carried.iter().any(|old| old.id == entry.id));
        let outbox: Vec<OutboxEntry> = carried.iter().cloned().chain(new).collect();
        if outbox.len() > K::OUTBOX_LIMIT && !carried.is_empty() {
            self.publish_outbox(name, &carried).await?;
            return Ok(None);
        }
        Ok(Some(outbox))
    }

    pub(super) async fn publish_unchanged(
        &self,
        name: &NamespacedName,
        current: Option<Arc<K>>,
        publish: Vec<Event>,
    ) -> Result<Option<Arc<K>>, StoreError> {
        // An input that comes again after a crash changes nothing, but what its first coming had to say may not be out yet.
        let outstanding: Vec<OutboxEntry> = {
            let acknowledged = self.acknowledged();
            let seen = acknowledged.get(name);
            let entries = current.as_deref().map(Owned::outbox).unwrap_or_default();
            entries.iter().filter(|entry| !seen.is_some_and(|seen| seen.contains(&entry.id))).cloned().collect()
        };
        self.publish_outbox(name, &outstanding).await?;
        self.publish_records(entries_of(&publish).iter().filter_map(|entry| self.record(entry)).collect()).await?;
        Ok(current)
    }

    pub(super) async fn publish_outbox(
        &self,
        name: &NamespacedName,
        entries: &[OutboxEntry],
    ) -> Result<(), StoreError> {
        self.publish_outboxes(std::iter::once((name.clone(), entries))).await
    }

    /// What of these outboxes this writer has not seen acknowledged, in one go.
    pub(super) async fn publish_outboxes<'a>(
        &self,
        outboxes: impl Iterator<Item = (NamespacedName, &'a [OutboxEntry])>,
    ) -> Result<(), StoreError> {
        let unseen: Vec<(NamespacedName, Vec<&OutboxEntry>)> = {
            let acknowledged = self.acknowledged();
            outboxes
                .map(|(name, entries)| {
                    let seen = acknowledged.get(&name);
                    let unseen = entries.iter().filter(|entry| !seen.is_some_and(|seen| seen.contains(&entry.id)));
                    let unseen = unseen.collect();
                    (name, unseen)
                })
                .collect()
        };
        if mutated(Mutant::ClearedBeforeAcknowledged) {
            self.note_acknowledged(&unseen);
        }
        let entries = unseen.iter().flat_map(|(_, entries)| entries);
        self.publish_records(entries.filter_map(|entry| self.record(entry)).collect()).await?;
        self.note_acknowledged(&unseen);
        Ok(())
    }

    fn note_acknowledged(&self, seen: &[(NamespacedName, Vec<&OutboxEntry>)]) {
        let mut acknowledged = self.acknowledged();
        for (name, entries) in seen.iter().filter(|(_, entries)| !entries.is_empty()) {
            acknowledged.entry(name.clone()).or_default().extend(entries.iter().map(|entry| entry.id.clone()));
        }
    }

    /// What is on the way to a target goes first and alone, so that the work on everything else does not hold it up.
    async fn publish_records(&self, records: Vec<Record>) -> Result<(), StoreError> {
        let (first, rest): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| record.topic == Topic::ActionRequested);
        if first.is_empty() {
            return self.publish_together(rest).await;
        }
        self.publish_together(first).await?;
        self.ctx.way.let_pass(rest.iter().any(|record| record.topic == Topic::NotificationRequested)).await;
        self.publish_together(rest).await
    }

    async fn publish_together(&self, records: Vec<Record>) -> Result<(), StoreError> {
        if records.is_empty() || publish_until_acknowledged(&self.ctx, records).await {
            Ok(())
        } else {
            Err(StoreError::Shutdown)
        }
    }

    /// An entry that somebody has edited into nonsense is said and left out; it must not hold up the others.
    fn record(&self, entry: &OutboxEntry) -> Option<Record> {
        entry
            .to_record(&self.ctx.source())
            .inspect_err(|error| tracing::error!(%error, "An outbox holds an entry that is no event; it is dropped."))
            .ok()
    }

    /// Entries that are no longer in the object need not be remembered.
    pub(super) fn forget_cleared(&self, name: &NamespacedName, stored: &K) {
        let mut acknowledged = self.acknowledged();
        if acknowledged.get_mut(name).is_some_and(|seen| !keep_held(seen, stored)) {
            acknowledged.remove(name);
        }
    }

    /// The same for objects that another writer cleared or deleted (promise 6). What is forgotten too early is only published again.
    pub(super) fn forget_what_others_cleared(&self) {
        self.acknowledged().retain(|name, seen| self.get(name).is_some_and(|stored| keep_held(seen, stored.as_ref())));
    }

    pub(super) fn acknowledged(&self) -> MutexGuard<'_, BTreeMap<NamespacedName, HashSet<String>>> {
        lock(&self.acknowledged)
    }
}

/// Keeps the ids of entries that the object still holds. False when there are none.
fn keep_held<K: Owned>(seen: &mut HashSet<String>, stored: &K) -> bool {
    seen.retain(|id| stored.outbox().iter().any(|entry| &entry.id == id));
    !seen.is_empty()
}

/// Events as entries. Payloads of ours can always be JSON; one that cannot is said and left out.
fn entries_of(events: &[Event]) -> Vec<OutboxEntry> {
    events
        .iter()
        .filter_map(|event| {
            OutboxEntry::try_from(event)
                .inspect_err(|error| tracing::error!(%error, id = %event.id, "An event cannot be written as JSON."))
                .ok()
        })
        .collect()
}
