//! Every kind of target: the protocol's tests run over all of them.

use super::*;

/// A kind of target, with a step that takes its number from 3 to 4.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    api_version: &'static str,
    kind: &'static str,
    /// Where the object is that is patched.
    pub collection: &'static str,
    /// Where its number is.
    pointer: &'static str,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Scale,
    /// 3 becomes 4 when its template carries the restart.
    Restart,
    /// What is patched is the autoscaler of a Deployment.
    MinReplicas,
}

const fn apps(kind: &'static str, collection: &'static str, step: Step) -> Kind {
    Kind { api_version: "apps/v1", kind, collection, pointer: "/spec/replicas", step }
}

pub(super) const DEPLOYMENT: Kind = apps("Deployment", DEPLOYMENTS, Step::Scale);
pub(super) const AUTOSCALED: Kind =
    Kind { pointer: "/spec/minReplicas", ..apps("Deployment", AUTOSCALERS, Step::MinReplicas) };
const STATEFUL_SETS: &str = "/apis/apps/v1/statefulsets";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub(super) const WIDGET: Kind = Kind {
    api_version: "example.com/v1",
    kind: "Widget",
    collection: "/apis/example.com/v1/widgets",
    pointer: "/spec/size/wanted",
    step: Step::Scale,
};

/// All that the table of kinds has, and a custom one.
pub(super) const KINDS: [Kind; 9] = [
    DEPLOYMENT,
    apps("StatefulSet", STATEFUL_SETS, Step::Scale),
    apps("ReplicaSet", "/apis/apps/v1/replicasets", Step::Scale),
    Kind {
        api_version: "v1",
        kind: "ReplicationController",
        collection: "/api/v1/replicationcontrollers",
        pointer: "/spec/replicas",
        step: Step::Scale,
    },
    WIDGET,
    apps("Deployment", DEPLOYMENTS, Step::Restart),
    apps("StatefulSet", STATEFUL_SETS, Step::Restart),
    apps("DaemonSet", "/apis/apps/v1/daemonsets", Step::Restart),
    AUTOSCALED,
];

impl Kind {
    /// The object that is patched, as it is before.
    pub fn object(self) -> Value {
        if self.step == Step::MinReplicas {
            let mut object = autoscaler();
            object["spec"]["minReplicas"] = json!(3);
            object["metadata"]["uid"] = json!("u-hpa");
            object["metadata"]["labels"] = json!({"app": "svc-a"});
            return object;
        }
        let mut object = deployment(3);
        object["apiVersion"] = json!(self.api_version);
        object["kind"] = json!(self.kind);
        object["metadata"]["labels"] = json!({"app": "svc-a"});
        if self.kind == "Widget" {
            object["spec"] = json!({"size": {"wanted": 3}});
        }
        if self.kind == "DaemonSet" {
            object["spec"].as_object_mut().unwrap().remove("replicas");
        }
        object
    }

    /// The cluster of all tests, with this target and a runbook for it.
    pub fn cluster(self) -> FakeApi {
        let api = cluster();
        match self.step {
            Step::Scale => {}
            Step::Restart => change_runbook(&api, |spec| {
                spec["steps"][0] = json!({"name": "restart", "type": "Restart", "restart": {}});
            }),
            Step::MinReplicas => change_runbook(&api, |spec| {
                spec["steps"][0]["scale"]["underAutoscaler"] = json!("MinReplicas");
            }),
        }
        if self.kind != "Deployment" {
            api.remove(DEPLOYMENTS, "shop", "svc-a");
        }
        api.put(DEFINITIONS, definition());
        api.put(self.collection, self.object());
        api
    }

    pub fn request(self, test: &TestContext) -> ActionRequested {
        let mut request = request(test);
        request.target.api_version = self.api_version.into();
        request.target.kind = self.kind.into();
        request
    }

    /// Whether its step changes a number, which can be put back.
    pub fn scales(self) -> bool {
        self.step != Step::Restart
    }

    pub fn state(self, api: &FakeApi) -> Value {
        api.get(self.collection, "shop", "svc-a").unwrap()
    }

    /// 3 before, 4 when the action has taken effect once.
    pub fn number(self, api: &FakeApi) -> i64 {
        let object = self.state(api);
        match self.step {
            Step::Restart => {
                let annotations = &object["spec"]["template"]["metadata"]["annotations"];
                3 + i64::from(annotations["eventpulse.io/restarted-by"].is_string())
            }
            _ => object.pointer(self.pointer).unwrap().as_i64().unwrap(),
        }
    }

    pub fn ring(self, api: &FakeApi) -> String {
        self.state(api)["metadata"]["annotations"][ANNOTATION_APPLIED].as_str().unwrap_or_default().to_owned()
    }

    /// Runs one request with a fault, and gives the Action as it ended.
    pub async fn with_fault(self, api: &FakeApi, fault: impl Fn(&Seen) -> Fault + Send + Sync + 'static) -> Value {
        with_fault_for(api, |test| self.request(test), fault).await
    }
}

fn definition() -> Value {
    let scale = json!({"status": {}, "scale": {"specReplicasPath": ".spec.size.wanted"}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": scale}]}})
}

#[tokio::test]
async fn every_kind_is_patched_once_where_its_number_is_and_signed_in_the_same_write() {
    for kind in KINDS {
        let api = kind.cluster();
        let action = kind.with_fault(&api, |_| Fault::None).await;
        assert_eq!((phase(&action), kind.number(&api)), ("Completed", 4), "{kind:?}: {action:#}");
        let patches: Vec<Seen> = api.seen().into_iter().filter(is_patch).collect();
        assert_eq!(patches.len(), 1, "{kind:?}");
        assert_eq!(patches[0].query, "fieldManager=eventpulse-actions");
        assert!(!patches[0].path.ends_with("/scale"), "{kind:?}");
        assert!(kind.ring(&api).contains(action["metadata"]["name"].as_str().unwrap()), "{kind:?}");
        let others = api.seen().into_iter().filter(|seen| {
            seen.is_write() && !seen.path.contains("eventpulse.io") && !seen.path.contains("/events.k8s.io/")
        });
        assert_eq!(others.count(), 1, "{kind:?}: nothing else is written");
    }
}

#[tokio::test]
async fn what_a_kind_cannot_do_is_refused_by_its_name() {
    let restart = json!({"name": "restart", "type": "Restart", "restart": {}});
    for (api_version, kind, restarts, says) in [
        ("apps/v1", "DaemonSet", false, "DaemonSet has no replicas"),
        ("apps/v1", "ReplicaSet", true, "ReplicaSet cannot be restarted"),
        ("v1", "ReplicationController", true, "ReplicationController cannot be restarted"),
        ("example.com/v1", "Widget", true, "Restart cannot act on example.com/v1 Widget"),
        ("example.com/v1", "Gadget", false, "Gadget is not served"),
        ("example.com/v2", "Widget", false, "serves no example.com/v2"),
        ("v1", "Pod", false, "Scale cannot act on v1 Pod"),
        ("autoscaling/v1", "HorizontalPodAutoscaler", false, "cannot act on autoscaling/v1"),
        ("autoscaling/v2", "HorizontalPodAutoscaler", false, "cannot act on autoscaling/v2"),
    ] {
        let api = WIDGET.cluster();
        if restarts {
            change_runbook(&api, |spec| spec["steps"][0] = restart.clone());
        }
        let target = |test: &TestContext| {
            let mut request = request(test);
            request.target.api_version = api_version.into();
            request.target.kind = kind.into();
            request
        };
        let action = with_fault_for(&api, target, |_| Fault::None).await;
        let (reason, message) = (&action["status"]["reason"], action["status"]["message"].as_str().unwrap());
        assert!(reason == "InvalidRunbook" && message.contains(says), "{reason} {message}");
        assert!(!api.seen().iter().any(is_patch), "{kind}");
    }
}

#[tokio::test]
async fn an_object_whose_pods_or_replicas_would_not_follow_is_left_alone() {
    let restart = |change: fn(&mut Value)| (KINDS[6], change);
    type Change = fn(&mut Value);
    let cases: [(Kind, Change, &str, &str); 6] = [
        (
            restart(|_| {}).0,
            |object| object["spec"]["updateStrategy"] = json!({"type": "OnDelete"}),
            "NothingToDo",
            "OnDelete",
        ),
        (KINDS[5], |object| object["spec"]["paused"] = json!(true), "NothingToDo", "paused"),
        (WIDGET, |object| object["spec"] = json!({}), "NothingToDo", "no number at /spec/size/wanted"),
        (
            WIDGET,
            |object| object["spec"]["size"]["wanted"] = json!("3"),
            "NothingToDo",
            "no number at /spec/size/wanted",
        ),
        (
            KINDS[2],
            |object| {
                object["metadata"]["ownerReferences"] =
                    json!([{"kind": "Deployment", "name": "svc-a", "controller": true}]);
            },
            "TargetGoverned",
            "controlled by Deployment/svc-a",
        ),
        (
            WIDGET,
            |object| drop(object["metadata"].as_object_mut().unwrap().insert("generation".into(), json!("x"))),
            "Refused",
            "generation",
        ),
    ];
    for (kind, change, reason, says) in cases {
        let api = kind.cluster();
        let mut object = kind.object();
        change(&mut object);
        api.put(kind.collection, object);
        let action = kind.with_fault(&api, |_| Fault::None).await;
        let message = action["status"]["message"].as_str().unwrap_or_default();
        assert!(action["status"]["reason"] == reason && message.contains(says), "{kind:?}: {action:#}");
        assert!(!api.seen().iter().any(is_patch), "{kind:?}");
    }
}

/// While the definition of a kind cannot be read, nobody guesses where its replicas are.
#[tokio::test]
async fn an_action_waits_while_nobody_can_say_what_its_kind_is() {
    let (api, bus) = (WIDGET.cluster(), Arc::new(MemoryBus::new(3)));
    let test = start(&bus, &api);
    api.on_request(|seen| if seen.path.starts_with(DEFINITIONS) { Fault::Answer(403) } else { Fault::None });
    let request = WIDGET.request(&test);
    bus.publish(vec![record_of(&request)]).await.unwrap();
    until("it says what it waits for", || {
        let action = action_of(&api, &request);
        action["status"]["waitingFor"].as_str().is_some_and(|text| text.contains("definition of example.com/v1 Widget"))
    })
    .await;
    api.no_faults();
    until("it completes", || phase(&action_of(&api, &request)) == "Completed").await;
    assert_eq!(WIDGET.number(&api), 4);
    stop(test).await;
}
