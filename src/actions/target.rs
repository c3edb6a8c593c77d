//! Calls to targets, each made as the runbook's service account, with a deadline, in a pool of their own size.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::{Method, Request};
use kube::{Client, Error};
use serde_json::Value;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use crate::{
    api::v1alpha1::TargetReference,
    runtime::{ApiFailure, RightOfWay, classify, liveness::waiting, places::Places, right_of_way::SLOW},
};

/// As whom EventPulse changes fields (`metadata.managedFields`). Tools that are to leave them alone are told this name.
const FIELD_MANAGER: &str = "eventpulse-actions";

/// Which object, and as whom it is called.
#[derive(Clone, Debug)]
pub(super) struct TargetCall<'a> {
    pub namespace: &'a str,
    pub object: &'a TargetReference,
    /// The resource of its kind.
    pub resource: &'a str,
    pub account: &'a str,
    pub timeout: Duration,
}

/// Why a call gave no object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallError {
    /// Its name can be no name; nothing was sent.
    Unsupported(String),
    /// What the API server said, or did not. `causes`: a 422 that names fields, which is no failed `test`.
    Api { failure: ApiFailure, causes: bool },
}

/// The account's name as the API server knows it.
pub(super) fn user_of(namespace: &str, account: &str) -> String {
    format!("system:serviceaccount:{namespace}:{account}")
}

/// The most calls of one runbook to one kind of target at once: one whose calls hang leaves places for the others.
const OF_ONE_MAX: usize = 4;
/// The most actions of one runbook and kind that work, or wait for one of its calls: it leaves places among those that work, too.
const TURNS_OF_ONE_MAX: usize = 64;
/// The most of them that are known to hang (promise 6); of one more it is found out again.
const SLOW_MAX: usize = 4_096;

/// A bounded number of calls at once: a hung target API holds up no other service, and no other runbook (bulkhead).
#[derive(Clone)]
pub(super) struct Targets {
    client: Client,
    way: RightOfWay,
    places: Arc<Places>,
    /// By runbook and target kind, as the breakers: whose calls are under way or wait.
    lanes: Arc<Mutex<HashMap<String, Arc<Lane>>>>,
}

struct Lane {
    places: Arc<Places>,
    turns: Arc<Places>,
    /// Its last call was held up. The next one is no reason for anybody else to wait either.
    slow: AtomicBool,
}

impl Lane {
    fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }
}

/// The right to make calls, one after the other. What holds for the target may have changed while it was waited for.
pub(super) struct Slot {
    // In the order in which they are given back.
    _places: [Option<OwnedSemaphorePermit>; 2],
    lane: Arc<Lane>,
}

/// The right to work on an action of a runbook and kind of target.
pub(super) struct Turn {
    _place: Option<OwnedSemaphorePermit>,
    _lane: Arc<Lane>,
}

impl Targets {
    pub(super) fn new(client: Client, way: RightOfWay, concurrency: usize) -> Self {
        Self { client, way, places: Arc::new(Places::new(concurrency)), lanes: Arc::default() }
    }

    /// How many calls are under way.
    pub(super) fn in_flight(&self) -> usize {
        self.places.taken()
    }

    /// Waits for a free call for this runbook and kind of target; one that is urgent goes before those that are not.
    pub(super) async fn slot(&self, key: &str, urgent: bool) -> Slot {
        let lane = self.lane(key);
        let own = waiting(lane.places.take(urgent)).await;
        Slot { _places: [waiting(self.places.take(urgent)).await, own], lane }
    }

    /// Waits until not too many of this runbook and kind of target are worked on; one that is urgent goes before those that are not.
    pub(super) async fn turn(&self, key: &str, urgent: bool) -> Turn {
        let lane = self.lane(key);
        Turn { _place: waiting(lane.turns.take(urgent)).await, _lane: lane }
    }

    fn lane(&self, key: &str) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let are_few = lanes.len() < SLOW_MAX;
        // Nobody calls, or waits to, and it does not hang: it is as good as a new one. No more stay than there are actions under way.
        lanes.retain(|name, lane| name == key || Arc::strong_count(lane) > 1 || lane.is_slow() && are_few);
        let places = |count| Arc::new(Places::new(count));
        let new = || {
            let (places, turns) = (places(OF_ONE_MAX), places(TURNS_OF_ONE_MAX));
            Arc::new(Lane { places, turns, slow: AtomicBool::new(false) })
        };
        Arc::clone(lanes.entry(key.to_owned()).or_insert_with(new))
    }

    /// A quorum read: no resourceVersion is given, so the API server asks etcd.
    pub(super) async fn read(&self, slot: &Slot, call: &TargetCall<'_>) -> Result<Value, CallError> {
        self.request(slot, call, Method::GET, None).await
    }

    /// One JSON Patch. It is sent once: the client has no retries.
    pub(super) async fn patch(&self, slot: &Slot, call: &TargetCall<'_>, patch: &Value) -> Result<Value, CallError> {
        self.request(slot, call, Method::PATCH, Some(patch)).await
    }

    async fn request(
        &self,
        slot: &Slot,
        call: &TargetCall<'_>,
        method: Method,
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        let mut path = path_of(call).map_err(CallError::Unsupported)?;
        let is_patch = body.is_some();
        if is_patch {
            path = format!("{path}?fieldManager={FIELD_MANAGER}");
        }
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            // The API server gives a service account its groups by itself (k8s.io/apiserver, endpoints/filters/impersonation). To
            // name them would need the right to act as any group, `system:masters` too.
            .header("Impersonate-User", user_of(call.namespace, call.account))
            .header("Accept", "application/json");
        if is_patch {
            request = request.header("Content-Type", "application/json-patch+json");
        }
        let body = body.map(Value::to_string).unwrap_or_default().into_bytes();
        let request = request.body(body).map_err(|error| CallError::Unsupported(error.to_string()))?;
        let answer = tokio::time::timeout(call.timeout, self.client.request::<Value>(request));
        let began = Instant::now();
        let answer = match (slot.lane.is_slow(), is_patch) {
            (true, _) => answer.await,
            (false, true) => self.way.last(answer).await,
            (false, false) => self.way.first(answer).await,
        };
        slot.lane.slow.store(began.elapsed() >= SLOW, Ordering::Relaxed);
        match answer {
            Ok(Ok(object)) => Ok(object),
            Ok(Err(error)) => Err(CallError::Api { failure: classify(&error), causes: has_causes(&error) }),
            Err(_) => {
                let failure = ApiFailure::Unknown(format!("no answer within {} ms", call.timeout.as_millis()));
                Err(CallError::Api { failure, causes: false })
            }
        }
    }
}

fn has_causes(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.details.as_ref().is_some_and(|details| !details.causes.is_empty()))
}

/// The name comes from labels of an alert, so it is checked before it becomes part of a path. The rest is what the API server serves.
fn path_of(call: &TargetCall<'_>) -> Result<String, String> {
    let TargetReference { api_version, kind, name } = call.object;
    if !is_subdomain(name) {
        let name: String = name.chars().take(80).collect();
        return Err(format!("{name:?} can be no name of a {kind}"));
    }
    let root = if api_version.contains('/') { "apis" } else { "api" };
    Ok(format!("/{root}/{api_version}/namespaces/{}/{}/{name}", call.namespace, call.resource))
}

/// RFC 1123, as Kubernetes checks names.
fn is_subdomain(name: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let part = |part: &str| {
        let bytes = part.as_bytes();
        !bytes.is_empty()
            && bytes.iter().all(|b| alphanumeric(*b) || *b == b'-')
            && alphanumeric(bytes[0])
            && alphanumeric(bytes[bytes.len() - 1])
    };
    name.len() <= 253 && name.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use eventpulse_fake_api::{FakeApi, Fault};
    use futures::FutureExt as _;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::runtime::Metrics;

    #[tokio::test]
    async fn one_runbook_whose_calls_hang_leaves_places_for_the_others() {
        let targets = Targets::new(FakeApi::new().client(), RightOfWay::new(&Metrics::default()), 16);
        let mut hanging = Vec::new();
        while let Some(slot) = targets.slot("hung", true).now_or_never() {
            hanging.push(slot);
        }
        assert_eq!((hanging.len(), targets.in_flight()), (OF_ONE_MAX, OF_ONE_MAX));
        let others: Vec<Slot> = ["a", "b", "c"]
            .iter()
            .flat_map(|key| (0..OF_ONE_MAX).map(move |_| *key))
            .map(|key| targets.slot(key, false).now_or_never().unwrap())
            .collect();
        assert!(targets.slot("d", false).now_or_never().is_none(), "all are taken");
        drop((others, hanging.pop()));
        assert!(targets.slot("hung", false).now_or_never().is_some(), "who waits for its own goes on");
        drop(hanging);
        assert_eq!(targets.in_flight(), 0);
        drop(targets.slot("e", false).await);
        assert_eq!(targets.lanes.lock().unwrap().len(), 1, "what nobody uses is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_runbook_whose_calls_hang_holds_up_records_once_and_not_with_each_call() {
        let api = FakeApi::new();
        api.on_request(|_| Fault::Hold(Arc::new(Semaphore::new(0))));
        let way = RightOfWay::new(&Metrics::default());
        let targets = Targets::new(api.client(), way.clone(), 16);
        let object = TargetReference { api_version: "apps/v1".into(), kind: "Deployment".into(), name: "svc-a".into() };
        let timeout = Duration::from_secs(10);
        let call = TargetCall { namespace: "shop", object: &object, resource: "deployments", account: "a", timeout };
        let mut waited = Vec::new();
        for hangs in [true, true, false, false] {
            if !hangs {
                api.no_faults();
            }
            let slot = targets.slot("a", false).await;
            let (_, record) = tokio::join!(targets.patch(&slot, &call, &Value::Null), async {
                let began = Instant::now();
                tokio::task::yield_now().await;
                way.record(false, async {}).await;
                began.elapsed() > Duration::from_millis(1)
            });
            waited.push((record, slot.lane.is_slow()));
            drop(slot);
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        let slow: Vec<bool> = waited.iter().map(|(_, slow)| *slow).collect();
        assert_eq!(slow, [true, true, false, false], "until one is answered at once");
        assert_eq!([waited[0].0, waited[1].0], [true, false]);
    }

    #[tokio::test]
    async fn of_more_runbooks_that_hang_than_are_kept_it_is_found_out_again() {
        let targets = Targets::new(FakeApi::new().client(), RightOfWay::new(&Metrics::default()), 16);
        for n in 0..=SLOW_MAX {
            targets.lane(&format!("hung-{n}")).slow.store(true, Ordering::Relaxed);
        }
        assert!(targets.lanes.lock().unwrap().len() <= SLOW_MAX);
    }

    #[test]
    fn a_name_from_a_label_cannot_lead_elsewhere() {
        let path = |api_version: &str, name: &str| {
            let object =
                TargetReference { api_version: api_version.into(), kind: "Deployment".into(), name: name.into() };
            let timeout = Duration::from_secs(1);
            path_of(&TargetCall { namespace: "shop", object: &object, resource: "deployments", account: "a", timeout })
        };
        assert_eq!(path("apps/v1", "svc-a.b").unwrap(), "/apis/apps/v1/namespaces/shop/deployments/svc-a.b");
        assert_eq!(path("v1", "svc-a").unwrap(), "/api/v1/namespaces/shop/deployments/svc-a");
        for name in [
            "",
            "../x",
            "a/b",
            "a/../../secrets/s",
            "a?b",
            "A",
            "a b",
            "-a",
            "a..b",
            ".",
            "a%2fb",
            "ä",
            &"a".repeat(254),
        ] {
            assert!(path("apps/v1", name).is_err(), "{name:?}");
        }
    }
}
