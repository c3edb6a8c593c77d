//! What is done with many objects now and then, and nobody waits for: outboxes that others left, what can be tidied, what is over.

use std::{collections::HashSet, time::Duration};

use jiff::SignedDuration;
use kube::api::{DeleteParams, Preconditions};
use tokio::time::{Instant, timeout};

use super::{Owned, Rank, Step, Store, StoreError, refused};
use crate::{
    crash_points::{Point, reached},
    events::NamespacedName,
    mutants::{Mutant, mutated},
    runtime::{
        ApiFailure,
        failing::Operation,
        watch_cache::{name_of, version_of},
    },
};

/// An outbox that is older than this is published and cleared by the holder of its partition.
pub(super) const SWEEP_AGE: SignedDuration = SignedDuration::from_secs(2);
/// An outbox that is older than this is cleared however much else there is to do.
pub(super) const CLEAR_AGE: SignedDuration = SignedDuration::from_mins(10);
/// How many objects' outboxes a sweep publishes together.
const SWEEP_PUBLISH_BATCH: usize = 256;
/// How many objects are tidied at most in one go, how long that may go on, and how long one may take.
const TIDY_MAX: usize = 512;
const TIDY_SPAN: Duration = Duration::from_millis(500);
const TIDY_TIMEOUT: Duration = Duration::from_secs(5);

impl<K: Owned> Store<K> {
    /// Publishes what objects of ours still have to say, for every outbox that is older than [`SWEEP_AGE`], and then clears what is
    /// acknowledged: when there is little else to do, because that is only tidiness, but in the end also when there is not. Called every
    /// now and then, and after a takeover.
    pub async fn sweep(&self, owns: impl Fn(&K) -> bool) -> Result<(), StoreError> {
        self.forget_what_others_cleared();
        let now = self.ctx.clock.now();
        let is_older = |object: &K, than: SignedDuration| {
            let oldest = object.outbox().iter().map(|entry| entry.time).min();
            oldest.is_some_and(|oldest| now.duration_since(oldest) >= than)
        };
        let mut due = self.list();
        due.retain(|object| is_older(object, SWEEP_AGE) && owns(object) && !mutated(Mutant::TakeoverNotPublished));
        for objects in due.chunks(SWEEP_PUBLISH_BATCH) {
            self.publish_outboxes(objects.iter().map(|object| (name_of(object.as_ref()), object.outbox()))).await?;
        }
        let is_calm = self.ctx.way.is_calm();
        let of = due.iter().filter(|object| is_calm || is_older(object.as_ref(), CLEAR_AGE));
        let names = of.map(|object| name_of(object.as_ref())).collect();
        self.tidy(names, |current| match current {
            Some(object) if !object.outbox().is_empty() => Step::Write { object: object.clone(), publish: Vec::new() },
            _ => Step::Unchanged { publish: Vec::new() },
        })
        .await
    }

    /// Does to many objects what nobody waits for, one after the other, and a part of them at a time. What cannot be done soon is left for
    /// the next time, and with it the rest of its namespace: one in which nothing can be written holds up no other.
    pub async fn tidy(
        &self,
        mut names: Vec<NamespacedName>,
        decide: impl Fn(Option<&K>) -> Step<K> + Sync,
    ) -> Result<(), StoreError> {
        // Another order each time, so that those in front are not always the same.
        let start = self.ctx.random.next_u64() % names.len().max(1) as u64;
        names.rotate_left(usize::try_from(start).unwrap_or(0));
        names.truncate(TIDY_MAX);
        let mut stuck = HashSet::new();
        let mut until = Instant::now() + TIDY_SPAN;
        for name in names {
            if Instant::now() >= until {
                // Whoever tidies has more to do than this.
                break;
            }
            let begin = Instant::now();
            if !self.tidy_one(name, &decide, &mut stuck).await? {
                until += begin.elapsed();
            }
        }
        Ok(())
    }

    /// False when it cannot be written now.
    async fn tidy_one(
        &self,
        name: NamespacedName,
        decide: &(impl Fn(Option<&K>) -> Step<K> + Sync),
        stuck: &mut HashSet<String>,
    ) -> Result<bool, StoreError> {
        if self.ctx.shutdown.is_cancelled() {
            return Err(StoreError::Shutdown);
        }
        if stuck.contains(&name.namespace) {
            return Ok(false);
        }
        let _turn = self.ctx.way.tidy().await;
        reached(Point::BeforeClear, &K::kind(&()));
        match timeout(TIDY_TIMEOUT, self.transact(&name, decide)).await {
            Ok(Err(StoreError::Shutdown)) => Err(StoreError::Shutdown),
            Ok(Ok(_)) => {
                reached(Point::Cleared, &K::kind(&()));
                Ok(true)
            }
            Ok(Err(error)) if !error.is_of_the_server() => Ok(true),
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(kind = %K::kind(&()), object = %name, "It cannot be written now; it is tried again later.");
                stuck.insert(name.namespace);
                Ok(false)
            }
        }
    }

    /// Deletes this very version of the object; one that is gone or has changed is left alone. True when it was deleted.
    pub async fn delete(&self, object: &K) -> Result<bool, StoreError> {
        let name = name_of(object);
        let preconditions =
            Preconditions { uid: object.meta().uid.clone(), resource_version: object.meta().resource_version.clone() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        reached(Point::BeforeDelete, &K::kind(&()));
        let api = self.api(&name);
        let delete = Box::pin(self.ask(Rank::LAST, api.delete(&name.name, &params)));
        match self.failing.write(&name.namespace, Operation::Delete, Duration::ZERO, delete).await.0 {
            Ok(_) => {
                reached(Point::Deleted, &K::kind(&()));
                self.acknowledged().remove(&name);
                Ok(true)
            }
            Err(ApiFailure::NotFound(_)) => {
                self.cache.remove(&name, version_of(object));
                Ok(false)
            }
            Err(failure @ ApiFailure::Refused { .. }) => Err(refused::<K>(&name, failure)),
            Err(_) => Ok(false),
        }
    }
}
