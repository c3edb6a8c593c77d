//! Which finished objects are deleted: those that ended long ago, and of each namespace the oldest beyond a count (promise 6); never
//! one that is not finished, or before the time until which it tells a repetition (promise 5). One rule for every kind.
//!
//! [`expired`] is pure; [`sweep`] carries it out.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::{
    Context, Owned, Store, StoreError,
    metrics::catalogue::RETENTION_DELETED,
    watch_cache::{name_of, version_of},
};

/// The most objects of one kind that one sweep deletes: a flood that ends together is not deleted together.
pub const DELETES_MAX: usize = 500;
/// With so many to delete, deleting is no tidying any more that waits until there is little else to do: it is a record like others.
const BEHIND: usize = 100;
/// So many of them at once then.
const BEHIND_AT_ONCE: usize = 8;
/// How long it may go on.
const DELETES_SPAN: Duration = Duration::from_secs(10);

/// An object that has come to its end.
#[derive(Clone, Debug)]
pub struct Finished<K> {
    /// The object.
    pub object: Arc<K>,
    /// When it ended.
    pub at: Timestamp,
    /// Until when it stays, whatever its age and however many there are.
    pub needed_until: Timestamp,
}

/// How long and how many.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long after its end an object is kept.
    pub ttl: SignedDuration,
    /// The most finished ones of one namespace: no tenant's flood evicts another's.
    pub count: usize,
}

/// Why an object is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// It ended long enough ago.
    Ttl,
    /// There are too many that ended later.
    Count,
}

impl Expired {
    /// A bounded label for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Expired::Ttl => "ttl",
            Expired::Count => "count",
        }
    }
}

/// The finished ones of `all`. `ended` tells when an object ended, and until when it stays; none of one that is not finished.
pub fn finished<K>(
    all: Vec<Arc<K>>,
    ended: impl Fn(&K) -> Option<(Timestamp, Timestamp)>,
) -> impl Iterator<Item = Finished<K>> {
    all.into_iter().filter_map(move |object| {
        let (at, needed_until) = ended(&object)?;
        Some(Finished { object, at, needed_until })
    })
}

/// Those of `all` to delete now, those that ended first before the others. `all` are the finished ones of every replica: only so a
/// namespace's count is one.
pub fn expired<K: Owned>(
    all: impl IntoIterator<Item = Finished<K>>,
    limits: Limits,
    now: Timestamp,
) -> Vec<(Arc<K>, Expired)> {
    let mut by_namespace: BTreeMap<String, Vec<Finished<K>>> = BTreeMap::new();
    for finished in all {
        by_namespace.entry(finished.object.meta().namespace.clone().unwrap_or_default()).or_default().push(finished);
    }
    let mut expired = Vec::new();
    for mut finished in by_namespace.into_values() {
        finished.sort_by(|a, b| (a.at, &a.object.meta().name).cmp(&(b.at, &b.object.meta().name)));
        let beyond = finished.len().saturating_sub(limits.count);
        for (place, one) in finished.into_iter().enumerate() {
            let why = if now.duration_since(one.at) >= limits.ttl {
                Expired::Ttl
            } else if place < beyond {
                Expired::Count
            } else {
                break;
            };
            if one.needed_until <= now {
                expired.push((one.at, one.object, why));
            }
        }
    }
    expired.sort_by(|(a, left, _), (b, right, _)| (a, &left.meta().name).cmp(&(b, &right.meta().name)));
    expired.into_iter().map(|(_, object, why)| (object, why)).collect()
}

/// What one kind's sweep goes by.
pub struct Sweep<E, O> {
    /// The kind's label in metrics.
    pub kind: &'static str,
    /// How long and how many.
    pub limits: Limits,
    /// See [`finished`].
    pub ended: E,
    /// Whether this replica may delete it.
    pub may_delete: O,
}

/// Deletes of one kind what is to be deleted now and may be.
pub async fn sweep<K, E, O>(ctx: &Context, store: &Store<K>, sweep: Sweep<E, O>)
where
    K: Owned,
    E: Fn(&K) -> Option<(Timestamp, Timestamp)>,
    O: Fn(&K) -> bool,
{
    let Sweep { kind, limits, ended, may_delete } = sweep;
    let mut over = expired(finished(store.list(), ended), limits, ctx.clock.now());
    over.retain(|(object, _)| may_delete(object));
    delete(ctx, store, kind, over).await;
}

/// Deletes the first of these, as many as a sweep may. One that was changed meanwhile stays.
async fn delete<K: Owned>(ctx: &Context, store: &Store<K>, kind: &'static str, expired: Vec<(Arc<K>, Expired)>) {
    let (until, behind) = (Instant::now() + DELETES_SPAN, expired.len() >= BEHIND);
    let at_once = if behind { BEHIND_AT_ONCE } else { 1 };
    let delete_one = |(object, why): (Arc<K>, Expired)| async move {
        let _turn = if behind || Instant::now() >= until { None } else { ctx.way.tidy().await };
        if ctx.shutdown.is_cancelled() || Instant::now() >= until {
            return;
        }
        match store.delete(&object).await {
            Ok(true) => {
                store.cache().remove(&name_of(object.as_ref()), version_of(object.as_ref()));
                ctx.metrics.count(&RETENTION_DELETED, [kind, why.label()], 1);
                tracing::debug!(kind, name = %name_of(object.as_ref()), reason = why.label(), "A finished object was deleted.");
            }
            Ok(false) | Err(StoreError::Shutdown) => {}
            Err(error) => tracing::warn!(kind, %error, "A finished object could not be deleted; it is tried again."),
        }
    };
    stream::iter(expired.into_iter().take(DELETES_MAX)).for_each_concurrent(at_once, delete_one).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1alpha1::{AlertGroup, AlertGroupSpec};

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(hours * 3600).unwrap()
    }

    fn finished(namespace: &str, name: &str, ended: i64, needed_until: i64) -> Finished<AlertGroup> {
        let spec: AlertGroupSpec = serde_json::from_value(serde_json::json!({
            "ruleRef": {"name": "r"}, "correlationID": "c", "changedAt": "2026-01-01T00:00:00Z"
        }))
        .unwrap();
        let mut group = AlertGroup::new(name, spec);
        group.metadata.namespace = Some(namespace.into());
        Finished { object: Arc::new(group), at: at(ended), needed_until: at(needed_until) }
    }

    fn told(all: &[Finished<AlertGroup>], count: usize, now: i64) -> Vec<(String, Expired)> {
        let limits = Limits { ttl: SignedDuration::from_hours(48), count };
        let expired = expired(all.to_vec(), limits, at(now));
        expired.into_iter().map(|(group, why)| (name_of(group.as_ref()).to_string(), why)).collect()
    }

    #[test]
    fn after_its_time_and_not_before_and_the_oldest_first() {
        let all = [finished("shop", "b", 11, 0), finished("other", "a", 10, 0), finished("shop", "c", 12, 0)];
        assert_eq!(told(&all, 10, 57), []);
        let named = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), Expired::Ttl)).collect::<Vec<_>>();
        assert_eq!(told(&all, 10, 59), named(&["other/a", "shop/b"]));
        assert_eq!(told(&all, 10, 99), named(&["other/a", "shop/b", "shop/c"]));
    }

    #[test]
    fn beyond_the_count_the_oldest_of_a_namespace_go_in_the_same_order_everywhere() {
        let mut all: Vec<_> = (0..5).map(|n| finished("shop", &format!("g{n}"), 10 + n / 2, 0)).collect();
        all.push(finished("other", "x", 1, 0));
        let count = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), Expired::Count)).collect::<Vec<_>>();
        assert_eq!(told(&all, 2, 13), count(&["shop/g0", "shop/g1", "shop/g2"]));
        all.reverse();
        assert_eq!(told(&all, 2, 13), count(&["shop/g0", "shop/g1", "shop/g2"]));
    }

    /// What is still needed keeps its place in the count, and neither age nor number takes it away.
    #[test]
    fn what_still_tells_a_repetition_stays() {
        let all = [finished("shop", "a", 10, 100), finished("shop", "b", 11, 12), finished("shop", "c", 12, 0)];
        assert_eq!(told(&all, 1, 20), [("shop/b".to_owned(), Expired::Count)]);
        assert_eq!(told(&all, 0, 99), [("shop/b".to_owned(), Expired::Ttl), ("shop/c".to_owned(), Expired::Ttl)]);
        assert_eq!(told(&all, 5, 100).len(), 3);
    }

    /// So many of them, by the API server and by the store.
    fn there(
        test: &crate::testing::TestContext,
        store: &Store<AlertGroup>,
        count: usize,
    ) -> Vec<(Arc<AlertGroup>, Expired)> {
        let put = |n| {
            let group = finished("shop", &format!("g{n}"), 0, 0).object;
            let put = test.api.put("/apis/eventpulse.io/v1alpha1/alertgroups", serde_json::to_value(&*group).unwrap());
            let group: AlertGroup = serde_json::from_value(put).unwrap();
            (store.cache().upsert(group), Expired::Ttl)
        };
        (0..count).map(put).collect()
    }

    /// Under a load that never ends it would otherwise delete one in half a second, and be ever further behind.
    #[tokio::test(start_paused = true)]
    async fn a_sweep_that_is_far_behind_does_not_wait_for_quiet() {
        for (count, all) in [(BEHIND, true), (BEHIND - 1, false)] {
            let test = crate::testing::TestContext::new("rules", std::sync::Arc::new(crate::bus::MemoryBus::new(1)));
            let store = Store::<AlertGroup>::new(&test.ctx);
            let way = test.ctx.way.clone();
            let load = tokio::spawn(async move {
                loop {
                    way.first(tokio::time::sleep(Duration::from_millis(20))).await;
                }
            });
            delete(&test.ctx, &store, "alertgroup", there(&test, &store, count)).await;
            load.abort();
            assert_eq!(store.list().is_empty(), all, "{} of {count} are left", store.list().len());
        }
    }

    #[tokio::test]
    async fn a_sweep_deletes_no_more_than_its_part() {
        let bus = std::sync::Arc::new(crate::bus::MemoryBus::new(1));
        let test = crate::testing::TestContext::new("rules", bus);
        let store = Store::<AlertGroup>::new(&test.ctx);
        delete(&test.ctx, &store, "alertgroup", there(&test, &store, DELETES_MAX + 10)).await;
        assert_eq!((store.list().len(), test.api.seen().len()), (10, DELETES_MAX));
        assert!(store.list().iter().all(|group| name_of(group.as_ref()).name.len() == 4), "the oldest went first");
        let told = test.ctx.metrics.encode().unwrap();
        assert!(told.contains("eventpulse_retention_deleted_total{kind=\"alertgroup\",reason=\"ttl\"} 500"), "{told}");
    }
}
