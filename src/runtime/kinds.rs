//! Custom kinds that can be scaled, as the API server tells of them: by discovery the resource of a kind, by its definition the path
//! of its replicas. The scale subresource itself is never used: it could not carry the record of an action (promise 2).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::{APIGroup, APIResource, APIResourceList},
};
use kube::{Api, Client};
use tokio::time::Instant;

use super::{
    ApiFailure,
    kube_api::{CALL_TIMEOUT, call},
};
use crate::api::v1alpha1::{Fitness, StepType, Workload};

/// How long an answer is believed: definitions hardly ever change.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// How long a no is believed: a definition may just be on its way.
const REFUSED_FOR: Duration = Duration::from_secs(2);
/// The most kinds that are remembered (promise 6).
const KINDS_MAX: usize = 256;

type Known = Result<Workload, String>;

/// Asks the API server, and remembers for a while.
pub struct Kinds {
    client: Client,
    known: Mutex<HashMap<(String, String), (Instant, Known)>>,
}

impl Kinds {
    /// Asks as this client.
    pub fn new(client: Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// What a kind has of what a step of this type needs, or why such a step cannot act on it. Fails while nobody can say.
    pub async fn fit(&self, step: StepType, api_version: &str, kind: &str) -> Result<Known, ApiFailure> {
        match step.fitness(api_version, kind) {
            Fitness::Fits(known) => Ok(Ok(known)),
            Fitness::Unfit(why) => Ok(Err(why)),
            Fitness::Ask => self.custom(api_version, kind).await,
        }
    }

    async fn custom(&self, api_version: &str, kind: &str) -> Result<Known, ApiFailure> {
        let key = (api_version.to_owned(), kind.to_owned());
        if let Some((at, known)) = self.lock().get(&key) {
            let believed = if known.is_ok() { KNOWN_FOR } else { REFUSED_FOR };
            if at.elapsed() < believed {
                return Ok(known.clone());
            }
        }
        let found = self.ask(api_version, kind).await?;
        let mut known = self.lock();
        if known.len() >= KINDS_MAX {
            known.clear();
        }
        known.insert(key, (Instant::now(), found.clone()));
        Ok(found)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), (Instant, Known)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, api_version: &str, kind: &str) -> Result<Known, ApiFailure> {
        let Some((group, version)) = api_version.split_once('/') else {
            return Ok(Err(format!("{api_version} is no group and version")));
        };
        // The list of all groups, because a group that is not served is answered with a 404 that is no Status, as a proxy may answer.
        let groups = call(CALL_TIMEOUT, self.client.list_api_groups()).await?;
        let is_served = |group: &APIGroup| group.versions.iter().any(|known| known.group_version == api_version);
        if !groups.groups.iter().any(is_served) {
            return Ok(Err(format!("the API server serves no {api_version}")));
        }
        let served = call(CALL_TIMEOUT, self.client.list_api_group_resources(api_version)).await?;
        let resource = match resource_of(&served, kind) {
            Ok(resource) => resource,
            Err(why) => return Ok(Err(format!("{api_version} {kind} {why}"))),
        };
        let name = format!("{resource}.{group}");
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let definition = match call(CALL_TIMEOUT, definitions.get(&name)).await {
            Ok(definition) => definition,
            Err(ApiFailure::NotFound(_)) => {
                return Ok(Err(format!("{api_version} {kind} has no CustomResourceDefinition {name}")));
            }
            // As with every read of ours: that is somebody's to grant, and waited for.
            Err(failure @ ApiFailure::Refused { .. }) => return Err(ApiFailure::Unknown(failure.to_string())),
            Err(failure) => return Err(failure),
        };
        Ok(workload_of(&definition, version, &resource).ok_or_else(|| {
            format!("{api_version} {kind}: its CustomResourceDefinition {name} has no scale.specReplicasPath")
        }))
    }
}

/// The resource of a kind, if it is of a namespace and has a scale subresource.
fn resource_of(served: &APIResourceList, kind: &str) -> Result<String, &'static str> {
    let of_kind = |resource: &&APIResource| resource.kind == kind && !resource.name.contains('/');
    let found = served.resources.iter().find(of_kind).ok_or("is not served by the API server")?;
    if !found.namespaced {
        return Err("is of the whole cluster, and rules act in their namespace");
    }
    let scale = format!("{}/scale", found.name);
    let scales = served.resources.iter().any(|resource| resource.name == scale);
    scales.then(|| found.name.clone()).ok_or("has no scale subresource, so nobody can say where its replicas are")
}

fn workload_of(definition: &CustomResourceDefinition, version: &str, resource: &str) -> Option<Workload> {
    let version = definition.spec.versions.iter().find(|known| known.name == version)?;
    let scale = version.subresources.as_ref()?.scale.as_ref()?;
    Workload::custom(resource, &scale.spec_replicas_path)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{FakeApi, Fault};

    const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

    fn definition(scope: &str, subresources: Value) -> Value {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "widgets.example.com"},
            "spec": {"group": "example.com", "scope": scope, "names": {"plural": "widgets", "kind": "Widget"},
                "versions": [{"name": "v1", "served": true, "storage": true, "subresources": subresources}]}})
    }

    fn scale(path: &str) -> Value {
        json!({"status": {}, "scale": {"specReplicasPath": path, "statusReplicasPath": ".status.replicas"}})
    }

    #[tokio::test(start_paused = true)]
    async fn a_custom_kind_is_found_with_the_path_of_its_replicas_and_asked_for_once() {
        let api = FakeApi::new();
        api.put(DEFINITIONS, definition("Namespaced", scale(".spec.size.wanted")));
        let kinds = Kinds::new(api.client());
        for _ in 0..3 {
            let found = kinds.fit(StepType::Scale, "example.com/v1", "Widget").await.unwrap().unwrap();
            assert_eq!(found.resource, "widgets");
            assert_eq!(found.count.unwrap().pointer, "/spec/size/wanted");
        }
        assert_eq!(api.seen().len(), 3, "once each: groups, resources, definition");
        tokio::time::advance(KNOWN_FOR).await;
        api.put(DEFINITIONS, definition("Namespaced", scale(".spec.replicas")));
        let found = kinds.fit(StepType::Scale, "example.com/v1", "Widget").await.unwrap().unwrap();
        assert_eq!(found.count.unwrap().pointer, "/spec/replicas");
    }

    #[tokio::test(start_paused = true)]
    async fn of_more_kinds_than_are_remembered_all_are_asked_for_anew() {
        let kinds = Kinds::new(FakeApi::new().client());
        for number in 0..=KINDS_MAX {
            let kind = format!("Kind{number}");
            kinds.fit(StepType::Scale, "example.com/v1", &kind).await.unwrap().unwrap_err();
            assert!(kinds.lock().len() <= KINDS_MAX, "{kind}");
        }
        assert_eq!(kinds.lock().len(), 1);
    }

    #[tokio::test]
    async fn what_cannot_be_scaled_is_refused_and_says_why() {
        for (definition, api_version, kind, says) in [
            (None, "example.com/v1", "Widget", "serves no example.com/v1"),
            (Some(definition("Namespaced", scale(".spec.replicas"))), "example.com/v1", "Gadget", "is not served"),
            (Some(definition("Cluster", scale(".spec.replicas"))), "example.com/v1", "Widget", "whole cluster"),
            (Some(definition("Namespaced", json!({"status": {}}))), "example.com/v1", "Widget", "no scale subresource"),
            (Some(definition("Namespaced", scale(".status.x"))), "example.com/v1", "Widget", "specReplicasPath"),
            (None, "v1", "Pod", "supported"),
        ] {
            let api = FakeApi::new();
            if let Some(definition) = definition {
                api.put(DEFINITIONS, definition);
            }
            let refused = Kinds::new(api.client()).fit(StepType::Scale, api_version, kind).await.unwrap().unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
        let api = FakeApi::new();
        let refused = Kinds::new(api.client()).fit(StepType::Restart, "example.com/v1", "Widget").await.unwrap();
        assert!(refused.unwrap_err().contains("Widget") && api.seen().is_empty());
    }

    #[tokio::test]
    async fn while_nobody_can_say_nobody_guesses() {
        for fault in [Fault::Answer(503), Fault::Answer(403), Fault::Page(404), Fault::Refuse] {
            let api = FakeApi::new();
            api.put(DEFINITIONS, definition("Namespaced", scale(".spec.replicas")));
            let (broken, kinds) = (fault.clone(), Kinds::new(api.client()));
            api.on_request(move |seen| if seen.path.starts_with(DEFINITIONS) { broken.clone() } else { Fault::None });
            assert!(kinds.fit(StepType::Scale, "example.com/v1", "Widget").await.is_err());
            api.no_faults();
            assert!(kinds.fit(StepType::Scale, "example.com/v1", "Widget").await.unwrap().is_ok());
        }
    }
}
