//! The three steps of every service, written once (design, section 5):
//!
//! 1. write the owned object, new state and outbox together, with the resourceVersion that it was decided from; on 409 read again
//!    and decide again;
//! 2. publish the outbox, acknowledged by all;
//! 3. the caller acknowledges its inputs, when every entry present is acknowledged.
//!
//! A write removes only entries whose acknowledgement its own writer has seen. All others are carried over, and published with
//! the writer's own (promises 1 and 5).
//!
//! Here are the decision and the write; `outbox` is what an object still has to say, `upkeep` what is done with many now and then.

mod outbox;
#[cfg(test)]
mod tests;
mod upkeep;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kube::{Api, api::PostParams};
use serde::Serialize;
use tokio::{sync::broadcast, time::Instant};

use super::{
    ApiFailure, Context, WatchCache,
    failing::{FAILED_BACKOFF_MAX, FAILED_MAX, Failing, Operation, Pause},
    kube_api::{CALL_TIMEOUT, ask, find},
    metrics::catalogue::RETRIES,
    places::without_places,
    random::exponential,
    watch_cache::{Cached, forget_managed_fields, version_of},
};
use crate::{
    api::v1alpha1::{OUTBOX_MAX, OutboxEntry},
    crash_points::{Point, reached},
    events::{Event, NamespacedName},
    mutants::{Mutant, mutated},
};

const BACKOFF_INITIAL: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Who goes first at the API server ([`RightOfWay`](super::RightOfWay)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// The write is on the way to a target, so that nothing else is to hold it up, and what is urgent goes before the rest.
    ToTarget {
        /// See [`is_urgent`](crate::events::is_urgent).
        urgent: bool,
    },
    /// It only tells of something.
    Record {
        /// People are told after it, so it goes before other records.
        precedes_message: bool,
    },
}

impl Rank {
    /// Nobody waits for it.
    pub const LAST: Self = Rank::Record { precedes_message: false };
}

/// A kind that one service owns: its claim, its memory and its outbox at once.
pub trait Owned: Cached + Serialize {
    /// Whether state and outbox live in the status subresource (Incident, Action), or the whole object is written at once.
    const STATUS_SUBRESOURCE: bool;
    /// The most entries of its outbox; a write that would exceed it publishes first what is carried over (promise 6).
    const OUTBOX_LIMIT: usize = OUTBOX_MAX;
    /// What it still has to say.
    fn outbox(&self) -> &[OutboxEntry];
    /// Replaces what it still has to say.
    fn set_outbox(&mut self, entries: Vec<OutboxEntry>);
    /// What its write, in this state, goes before.
    fn rank(&self) -> Rank {
        Rank::LAST
    }
    /// Takes out, before it is kept in memory, what neither a decision nor a write needs (promise 6).
    fn forget_unread(&mut self) {
        forget_managed_fields(self);
    }
}

/// What a decision wants done.
#[derive(Debug)]
pub enum Step<K> {
    /// The object stays as it is. The state is read past every cache before this is believed, because "I know nothing of it" must
    /// not rest on a cache that lags.
    Nothing {
        /// Events that need no memory: derived from the input alone, so a repetition is the same event.
        publish: Vec<Event>,
    },
    /// The object stays as it is, and an older state would have said the same: no read is needed.
    Unchanged {
        /// As above.
        publish: Vec<Event>,
    },
    /// A new state, with the events that belong to it. For kinds with a status subresource this writes the status (and creates
    /// the object where there is none).
    Write {
        /// The object with its new state; its outbox is filled in by the store.
        object: K,
        /// Joins the outbox of this write.
        publish: Vec<Event>,
    },
    /// For kinds with a status subresource: metadata or spec change (a finalizer). Says nothing.
    WriteMain {
        /// The object with its new metadata or spec.
        object: K,
    },
}

/// Why an object was not written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The API server refuses it for good, or has failed in it for [`FAILED_MAX`], or what it holds cannot be read: this input ends as
    /// `refused`.
    #[error("{kind} {name}: {failure}")]
    Refused {
        /// The kind.
        kind: String,
        /// The object.
        name: NamespacedName,
        /// What the server said.
        failure: ApiFailure,
    },
    /// The process stops. Nothing may be acknowledged.
    #[error("the process stops")]
    Shutdown,
}

impl StoreError {
    /// Whether it was given up because the server failed in it for too long, whatever it was.
    pub fn is_of_the_server(&self) -> bool {
        matches!(self, StoreError::Refused { failure: ApiFailure::Failed(_), .. })
    }
}

/// The objects of one owned kind.
pub struct Store<K> {
    ctx: Context,
    cache: Arc<WatchCache<K>>,
    /// By object: ids of outbox entries whose acknowledgement this writer has seen.
    acknowledged: Mutex<BTreeMap<NamespacedName, HashSet<String>>>,
    failing: Failing,
}

enum Attempt<K> {
    Written(Arc<K>),
    Again,
    /// For too long the server has failed in it. Whether it took effect nobody knows.
    GivenUp(ApiFailure),
}

impl<K> Attempt<K> {
    fn given_up(self) -> Option<ApiFailure> {
        if let Attempt::GivenUp(failure) = self { Some(failure) } else { None }
    }
}

/// How often a write was tried.
#[derive(Default)]
struct Tries {
    retries: u32,
    /// How long it has been tried since the server failed in it for the first time.
    failed: Duration,
}

impl<K: Owned> Store<K> {
    /// Hand [`Store::run`] to the tasks.
    pub fn new(ctx: &Context) -> Arc<Self> {
        Arc::new(Self {
            ctx: ctx.clone(),
            cache: WatchCache::projected(K::forget_unread),
            acknowledged: Mutex::default(),
            failing: Failing::new(&ctx.shutdown),
        })
    }

    /// Follows the watch until shutdown.
    pub async fn run(self: Arc<Self>) {
        Arc::clone(&self.cache).run(self.ctx.clone()).await;
    }

    /// Waits for the first complete list.
    pub async fn ready(&self) {
        self.cache.ready().await;
    }

    /// The newest known version, by watch or own write.
    pub fn get(&self, name: &NamespacedName) -> Option<Arc<K>> {
        self.cache.get(name)
    }

    /// Every known object.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.cache.list()
    }

    /// Names of objects that appeared, changed or went.
    pub fn changes(&self) -> broadcast::Receiver<NamespacedName> {
        self.cache.changes()
    }

    /// The cache itself, for its state.
    pub fn cache(&self) -> &Arc<WatchCache<K>> {
        &self.cache
    }

    /// Reads past every cache (a quorum read). None where there is no such object.
    pub async fn fetch(&self, name: &NamespacedName) -> Result<Option<Arc<K>>, StoreError> {
        // What enters the cache after this, the watch will take out.
        let known = self.get(name).map_or(0, |known| version_of(known.as_ref()));
        let object = read(&self.ctx, name).await?;
        if object.is_none() {
            self.cache.remove(name, known);
        }
        Ok(object.map(|object| self.cache.upsert(object)))
    }

    /// Reads, decides, writes and publishes, until it is done. `decide` is called again whenever the object has changed meanwhile,
    /// so it must be a function of its argument and of the inputs alone. Gives the object as it is then.
    pub async fn transact<F>(&self, name: &NamespacedName, mut decide: F) -> Result<Option<Arc<K>>, StoreError>
    where
        F: FnMut(Option<&K>) -> Step<K> + Send,
    {
        let mut current = self.get(name);
        let mut fresh = false;
        let mut tries = Tries::default();
        let mut given_up: Option<ApiFailure> = None;
        loop {
            let step = decide(current.as_deref());
            if let (Step::Write { .. } | Step::WriteMain { .. }, Some(failure)) = (&step, &given_up) {
                return Err(refused::<K>(name, failure.clone()));
            }
            let (object, publish) = match step {
                Step::Nothing { .. } if !fresh => {
                    current = self.fetch(name).await?;
                    fresh = true;
                    continue;
                }
                Step::Nothing { publish } | Step::Unchanged { publish } => {
                    return self.publish_unchanged(name, current, publish).await;
                }
                Step::WriteMain { object } => match self.write_main(name, object, &mut tries).await? {
                    Attempt::Written(object) => return Ok(Some(object)),
                    attempt => {
                        given_up = attempt.given_up();
                        current = self.fetch(name).await?;
                        fresh = true;
                        continue;
                    }
                },
                Step::Write { object, publish } => (object, publish),
            };
            let Some(outbox) = self.next_outbox(name, current.as_deref(), &publish).await? else { continue };
            match self.write(name, current.as_deref(), object, outbox, &mut tries).await? {
                Attempt::Written(object) => {
                    self.publish_outbox(name, object.outbox()).await?;
                    return Ok(Some(object));
                }
                attempt => {
                    given_up = attempt.given_up();
                    current = self.fetch(name).await?;
                    fresh = true;
                }
            }
        }
    }

    /// Where the server fails in writes of this kind.
    pub fn failing(&self) -> &Failing {
        &self.failing
    }

    async fn write(
        &self,
        name: &NamespacedName,
        current: Option<&K>,
        mut object: K,
        outbox: Vec<OutboxEntry>,
        tries: &mut Tries,
    ) -> Result<Attempt<K>, StoreError> {
        let (written, unwritten) = match mutated(Mutant::OutboxNotWritten) {
            false => (outbox, None),
            true => (Vec::new(), Some(outbox)),
        };
        object.set_outbox(written);
        let rank = object.rank();
        let api = self.api(name);
        let params = PostParams::default();
        let base = match current {
            Some(current) => version_of(current).to_string(),
            None => {
                reached(Point::BeforeCreate, &K::kind(&()));
                let create = Box::pin(self.ask(rank, api.create(&params, &object)));
                let created = match self.in_turn(name, Operation::Create, tries, create).await {
                    Ok(created) => created,
                    // What is not found is the namespace: waiting for one that is gone would hold up its partition for ever.
                    Err((failure @ ApiFailure::NotFound(_), _)) => return Err(refused::<K>(name, failure)),
                    Err((failure, pause)) => return self.not_written(name, failure, pause, tries).await,
                };
                reached(Point::Created, &K::kind(&()));
                let stored = self.cache.upsert(created);
                if !K::STATUS_SUBRESOURCE {
                    return Ok(Attempt::Written(stored));
                }
                version_of(stored.as_ref()).to_string()
            }
        };
        object.meta_mut().resource_version = Some(base);
        if mutated(Mutant::ConflictOverwritten)
            && let Some(newest) =
                api.get(&name.name).await.ok().and_then(|newest| newest.meta().resource_version.clone())
        {
            object.meta_mut().resource_version = Some(newest);
        }
        // Memory has only a part of them; of what a write does not say the API server keeps all.
        object.meta_mut().managed_fields = None;
        reached(Point::BeforeWrite, &K::kind(&()));
        let replace = Box::pin(async {
            if K::STATUS_SUBRESOURCE {
                self.ask(rank, api.replace_status(&name.name, &params, &object)).await
            } else {
                self.ask(rank, api.replace(&name.name, &params, &object)).await
            }
        });
        match self.in_turn(name, Operation::State, tries, replace).await {
            Ok(mut stored) => {
                reached(Point::Written, &K::kind(&()));
                self.forget_cleared(name, &stored);
                if let Some(unwritten) = unwritten {
                    stored.set_outbox(unwritten);
                }
                Ok(Attempt::Written(self.cache.upsert(stored)))
            }
            Err((failure, pause)) => self.not_written(name, failure, pause, tries).await,
        }
    }

    async fn write_main(
        &self,
        name: &NamespacedName,
        mut object: K,
        tries: &mut Tries,
    ) -> Result<Attempt<K>, StoreError> {
        object.meta_mut().managed_fields = None;
        reached(Point::BeforeRelease, "");
        let (api, params) = (self.api(name), PostParams::default());
        let replace = Box::pin(self.ask(Rank::LAST, api.replace(&name.name, &params, &object)));
        match self.in_turn(name, Operation::Main, tries, replace).await {
            Ok(stored) => {
                reached(Point::Released, "");
                Ok(Attempt::Written(self.cache.upsert(stored)))
            }
            Err((failure, pause)) => self.not_written(name, failure, pause, tries).await,
        }
    }

    /// A write, and what there is to do before the next one when it fails.
    async fn in_turn<T>(
        &self,
        name: &NamespacedName,
        operation: Operation,
        tries: &mut Tries,
        write: impl Future<Output = Result<T, ApiFailure>>,
    ) -> Result<T, (ApiFailure, Pause)> {
        let began = Instant::now();
        let patience = FAILED_MAX.saturating_sub(tries.failed);
        let (result, pause) = self.failing.write(&name.namespace, operation, patience, write).await;
        result.map_err(|failure| {
            if let ApiFailure::Failed(_) = failure {
                tries.failed += began.elapsed();
            }
            (failure, pause)
        })
    }

    /// What a failed write means: refused for good, or read and decide again, after a wait where the server needs one. An unknown
    /// outcome needs nothing else: if the write took effect, the next decision is made from it.
    async fn not_written(
        &self,
        name: &NamespacedName,
        failure: ApiFailure,
        pause: Pause,
        tries: &mut Tries,
    ) -> Result<Attempt<K>, StoreError> {
        match failure {
            failure @ (ApiFailure::Refused { .. } | ApiFailure::Malformed(_)) => Err(refused::<K>(name, failure)),
            ApiFailure::Conflict(_) | ApiFailure::AlreadyExists(_) if tries.retries < 3 => {
                tries.retries += 1;
                Ok(Attempt::Again)
            }
            failure @ ApiFailure::Failed(_) if pause.is_given_up => Ok(Attempt::GivenUp(failure)),
            failure @ ApiFailure::Failed(_) => {
                let began = Instant::now();
                // Alone or in turn with others.
                tries.retries = tries.retries.max(pause.times);
                without_places(back_off(&self.ctx, &failure, &mut tries.retries, FAILED_BACKOFF_MAX)).await?;
                tries.failed += began.elapsed();
                Ok(Attempt::Again)
            }
            failure => {
                back_off(&self.ctx, &failure, &mut tries.retries, BACKOFF_MAX).await?;
                Ok(Attempt::Again)
            }
        }
    }

    async fn ask<T>(&self, rank: Rank, call: impl Future<Output = kube::Result<T>>) -> Result<T, ApiFailure> {
        let call = ask(&self.ctx.health, CALL_TIMEOUT, call);
        match rank {
            Rank::ToTarget { urgent } => self.ctx.way.first_write(urgent, call).await,
            Rank::Record { precedes_message } => self.ctx.way.record(precedes_message, call).await,
        }
    }

    fn api(&self, name: &NamespacedName) -> Api<K> {
        Api::namespaced(self.ctx.kube.clone(), &name.namespace)
    }
}

/// Reads an object past every cache (a quorum read), until the API server answers. None where there is none.
pub async fn read<K: Cached>(ctx: &Context, name: &NamespacedName) -> Result<Option<K>, StoreError> {
    let api = Api::namespaced(ctx.kube.clone(), &name.namespace);
    let mut retry = 0;
    loop {
        match find(&ctx.health, &api, &name.name).await {
            Ok(object) => return Ok(object),
            Err(failure @ (ApiFailure::Refused { .. } | ApiFailure::Malformed(_))) => {
                return Err(refused::<K>(name, failure));
            }
            Err(failure) => back_off(ctx, &failure, &mut retry, BACKOFF_MAX).await?,
        }
    }
}

async fn back_off(ctx: &Context, failure: &ApiFailure, retry: &mut u32, max: Duration) -> Result<(), StoreError> {
    if ctx.shutdown.is_cancelled() {
        return Err(StoreError::Shutdown);
    }
    ctx.metrics.count(&RETRIES, [ctx.service, failure.category()], 1);
    let asked = if let ApiFailure::Throttled { after: Some(after), .. } = failure { *after } else { Duration::ZERO };
    let wait = asked + ctx.random.up_to(exponential(BACKOFF_INITIAL, max, *retry));
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        // What was begun is tried once more, at once.
        () = ctx.shutdown.cancelled() => {}
    }
    *retry += 1;
    Ok(())
}

fn refused<K: Cached>(name: &NamespacedName, failure: ApiFailure) -> StoreError {
    StoreError::Refused { kind: K::kind(&()).into_owned(), name: name.clone(), failure }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
