use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;
use tokio::sync::Semaphore;

use super::*;
use crate::{
    bus::MemoryBus,
    testing::{Fault, Seen, TestContext},
};

fn object(name: &str, version: u64, uid: &str) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.namespace = Some("shop".into());
    object.metadata.name = Some(name.into());
    object.metadata.uid = Some(uid.into());
    object.metadata.resource_version = Some(version.to_string());
    object
}

fn name(name: &str) -> NamespacedName {
    NamespacedName { namespace: "shop".into(), name: name.into() }
}

fn cache() -> Arc<WatchCache<ConfigMap>> {
    WatchCache::new()
}

#[test]
fn a_slow_watch_does_not_take_back_what_was_written() {
    let cache = cache();
    cache.upsert(object("a", 9, "u"));
    assert_eq!(version_of(cache.upsert(object("a", 10, "u")).as_ref()), 10);
    assert_eq!(version_of(cache.upsert(object("a", 9, "u")).as_ref()), 10);
    cache.remove(&name("a"), 9);
    assert!(cache.get(&name("a")).is_some());
    cache.remove(&name("a"), 11);
    assert!(cache.get(&name("a")).is_none());
}

#[test]
fn what_nobody_reads_is_not_kept() {
    let managed = || {
        let mut object = object("a", 9, "u");
        object.metadata.managed_fields = Some(vec![Default::default()]);
        object.data = Some([("key".into(), "value".into())].into());
        object
    };
    let cache = cache();
    for kept in [cache.upsert(managed()), cache.get(&name("a")).unwrap()] {
        assert_eq!(kept.metadata.managed_fields, None);
        assert!(kept.data.is_some());
    }
    let cache = WatchCache::projected(|object: &mut ConfigMap| object.data = None);
    cache.upsert(managed());
    let kept = cache.get(&name("a")).unwrap();
    assert_eq!(kept.data, None);
    assert!(kept.metadata.managed_fields.is_some());
}

/// What is kept may be a type of its own, and goes by the same versions.
#[test]
fn a_cache_may_keep_only_what_it_makes_of_an_object() {
    #[derive(Clone, Debug)]
    struct Brief(Option<String>, u64, usize);

    impl Kept for Brief {
        fn uid(&self) -> Option<&str> {
            self.0.as_deref()
        }

        fn version(&self) -> u64 {
            self.1
        }
    }

    let cache: Arc<WatchCache<ConfigMap, Brief>> = WatchCache::keeping(|object: ConfigMap| {
        let entries = object.data.as_ref().map_or(0, |data| data.len());
        Brief(object.metadata.uid.clone(), version_of(&object), entries)
    });
    let put = |named: &str, version: u64, entries: usize| {
        let mut object = object(named, version, "u");
        object.data = Some((0..entries).map(|n| (n.to_string(), String::new())).collect());
        cache.upsert(object);
    };
    let largest = |least: usize| cache.find_max(|_, brief| (brief.2 >= least).then_some(brief.2));
    put("a", 9, 2);
    put("b", 10, 1);
    assert_eq!(largest(0), Some(name("a")));
    put("a", 8, 5);
    assert_eq!(largest(3), None, "an older version counts for nothing");
    put("b", 11, 4);
    assert_eq!(largest(3), Some(name("b")));
    cache.remove(&name("b"), 11);
    assert_eq!(largest(0), Some(name("a")));
}

#[tokio::test]
async fn a_reader_that_is_too_far_behind_is_told_so() {
    let cache = cache();
    let mut changes = cache.changes();
    for version in 0..=CHANGES_MAX as u64 {
        cache.upsert(object("a", version + 1, "u"));
    }
    let lagged = changes.recv().await;
    assert!(matches!(lagged, Err(broadcast::error::RecvError::Lagged(1))), "{lagged:?}");
    assert_eq!(changes.recv().await.unwrap(), name("a"));
}

#[test]
fn an_object_of_the_same_name_and_another_uid_is_another_object() {
    let cache = cache();
    cache.upsert(object("a", 10, "old"));
    cache.upsert(object("a", 12, "new"));
    assert_eq!(cache.get(&name("a")).unwrap().metadata.uid.as_deref(), Some("new"));
}

#[test]
fn a_new_list_removes_what_is_gone_and_keeps_what_was_written_since() {
    let cache = cache();
    for (name, version) in [("listed", 5), ("gone", 3), ("gone-last", 7), ("own", 9)] {
        cache.upsert(object(name, version, name));
    }
    let mut changes = cache.changes();
    cache.retain_listed(&[name("listed")].into(), &HashSet::new(), 8);
    assert_eq!(names(&cache), ["listed", "own"]);
    let mut told = [changes.try_recv().unwrap().name, changes.try_recv().unwrap().name];
    told.sort();
    assert_eq!(told, ["gone", "gone-last"]);
}

const CONFIG_MAPS: &str = "/api/v1/configmaps";

/// A cache that follows an API server with these objects.
async fn following(objects: &[&str]) -> (Arc<WatchCache<ConfigMap>>, TestContext) {
    let test = TestContext::new("rules", Arc::new(MemoryBus::new(1)));
    for name in objects {
        test.api.put(CONFIG_MAPS, json!({"metadata": {"namespace": "shop", "name": name}}));
    }
    let cache = cache();
    test.ctx.tasks.spawn_infallible("watch", Arc::clone(&cache).run(test.ctx.clone()));
    is(&cache, WatchState::Following).await;
    (cache, test)
}

async fn is(cache: &WatchCache<ConfigMap>, wanted: WatchState) {
    let mut state = cache.state();
    let reached = state.wait_for(|state| *state == wanted);
    timeout(Duration::from_secs(600), reached).await.expect("the state is reached").unwrap();
}

fn names(cache: &WatchCache<ConfigMap>) -> Vec<String> {
    let mut names: Vec<String> = cache.list().iter().map(|object| object.name_any()).collect();
    names.sort();
    names
}

fn why(test: &TestContext) -> String {
    test.health
        .report()
        .into_iter()
        .find(|(part, _)| part == "rules/watch")
        .and_then(|(_, why)| why)
        .unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn what_is_deleted_while_the_watch_is_broken_is_gone_after_it() {
    for (objects, deleted, left) in [
        (&["only"] as &[&str], "only", &[] as &[&str]),
        (&["older", "newest"], "newest", &["older"]),
        (&["oldest", "newer"], "oldest", &["newer"]),
    ] {
        let (cache, test) = following(objects).await;
        assert_eq!(cache.len(), objects.len());
        test.api.on_request(|_| Fault::Refuse);
        test.api.break_watches();
        is(&cache, WatchState::Broken).await;
        test.api.remove(CONFIG_MAPS, "shop", deleted);
        test.api.no_faults();
        is(&cache, WatchState::Following).await;
        assert_eq!(names(&cache), left);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_the_server_ends_in_its_time_is_resumed_and_misses_nothing() {
    let (cache, test) = following(&["a"]).await;
    for name in ["b", "c"] {
        tokio::time::sleep(Duration::from_secs(30)).await;
        test.api.put(CONFIG_MAPS, json!({"metadata": {"namespace": "shop", "name": name}}));
        while cache.get(&self::name(name)).is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let lists = test.api.seen().iter().filter(|seen| !seen.query.contains("watch=")).count();
    assert_eq!(lists, 1, "it never had to begin anew");
}

/// A silent server must not look like one at which nothing happens.
#[tokio::test(start_paused = true)]
async fn a_server_that_answers_nothing_breaks_the_watch_within_30_s() {
    let never = Arc::new(Semaphore::new(0));
    let is_watch = |seen: &Seen| seen.query.contains("watch=");
    let hold = move || Fault::Hold(Arc::clone(&never));
    type Hook = Box<dyn Fn(&Seen) -> Fault + Send + Sync>;
    let (list, start) = (hold.clone(), hold);
    let cases: [(Hook, &str); 5] = [
        (Box::new(move |seen| if is_watch(seen) { Fault::Refuse } else { list() }), "no answer within"),
        (Box::new(move |seen| if is_watch(seen) { start() } else { Fault::None }), "no answer within"),
        (Box::new(move |seen| if is_watch(seen) { Fault::Silence } else { Fault::None }), "nothing came for 25 s"),
        (Box::new(move |seen| if is_watch(seen) { Fault::Ended } else { Fault::None }), "as soon as it had begun"),
        (Box::new(|_| Fault::Page(404)), "is not served by this API server"),
    ];
    for (hook, reason) in cases {
        let (cache, test) = following(&["a"]).await;
        // From now on the connection is there, and nobody answers.
        test.api.on_request(hook);
        test.api.break_watches();
        let broken = async {
            is(&cache, WatchState::Broken).await;
            while !why(&test).contains(reason) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(30), broken).await.unwrap_or_else(|_| panic!("{reason}: {}", why(&test)));
        test.api.no_faults();
        test.api.put(CONFIG_MAPS, json!({"metadata": {"namespace": "shop", "name": "b"}}));
        while names(&cache) != ["a", "b"] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        is(&cache, WatchState::Following).await;
    }
}

#[test]
fn an_object_that_cannot_be_read_is_left_out_and_told_until_it_is_mended() {
    let cache = cache();
    let apply = |value: serde_json::Value| {
        let object: DeserializeGuard<ConfigMap> = serde_json::from_value(value).unwrap();
        cache.apply(WatchEvent::Modified(object), &mut String::new()).unwrap();
    };
    let meta =
        |version: &str| serde_json::json!({"name": "a", "namespace": "shop", "uid": "u", "resourceVersion": version});
    apply(serde_json::json!({"metadata": meta("5"), "data": {"a": "b"}}));
    apply(serde_json::json!({"metadata": meta("6"), "data": 7}));
    assert!(cache.is_empty(), "what was known before is not what its author says now");
    assert_eq!(cache.invalid(&name("a")).unwrap().metadata.resource_version.as_deref(), Some("6"));
    assert_eq!(cache.invalid_names(), [name("a")]);
    apply(serde_json::json!({"metadata": meta("7"), "data": {"a": "c"}}));
    assert!(cache.invalid(&name("a")).is_none() && cache.get(&name("a")).is_some());
}

#[test]
fn a_definition_that_is_missing_is_named_with_its_remedy() {
    let page = ApiFailure::Unknown("404 without a Status of the API server: 404 page not found".into());
    let missing = what_is_missing::<crate::api::v1alpha1::Rule>(&page);
    let remedy = "CRD rules.eventpulse.io is not served; apply it: eventpulse crds | kubectl apply --server-side -f -";
    assert!(missing.starts_with(remedy), "{missing}");
    let away = ApiFailure::Unknown("no answer within 10000 ms".into());
    let text = what_is_missing::<crate::api::v1alpha1::Rule>(&away);
    assert_eq!(text, "watch of rules: unavailable: no answer within 10000 ms");
}
