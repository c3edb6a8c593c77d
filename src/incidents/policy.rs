//! Whether an admission policy holds `spec.decidedBy` to the authenticated user. Without it names in the history are `unverified`.
//!
//! In: the policy and the binding as they are in the cluster. Out: since when both are as `config/policy/` has them.

use std::{fmt::Debug, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use kube::{Api, Resource};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::watch;

use crate::runtime::{
    ApiFailure, Context,
    kube_api::{CALL_TIMEOUT, call},
};

/// The name of the policy and of its binding.
pub const POLICY_NAME: &str = "eventpulse-incident-decisions";
const MANIFEST: &str = include_str!("../../config/policy/incident-decisions.yaml");
/// How soon an API server that did not answer is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What is known about the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyState {
    /// Nobody has answered yet.
    Unknown,
    /// It is missing, or not as it should be.
    Missing,
    /// It holds since then.
    Since(Timestamp),
}

impl PolicyState {
    /// Since when names are held to the authenticated user.
    pub fn verified_since(self) -> Option<Timestamp> {
        match self {
            PolicyState::Since(time) => Some(time),
            PolicyState::Unknown | PolicyState::Missing => None,
        }
    }
}

/// The two objects of the manifest, as JSON.
fn wanted() -> Vec<Value> {
    serde_norway::Deserializer::from_str(MANIFEST).filter_map(|document| Value::deserialize(document).ok()).collect()
}

/// Since when the policy holds: both objects must be exactly what the manifest says, because a narrower binding or a weaker
/// expression would verify nothing.
pub fn holds(policy: &ValidatingAdmissionPolicy, binding: &ValidatingAdmissionPolicyBinding) -> Option<Timestamp> {
    let wanted = wanted();
    let [wanted_policy, wanted_binding] = wanted.as_slice() else { return None };
    let same = same_spec(policy, wanted_policy) && same_spec(binding, wanted_binding);
    let created = |time: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| time.map(|time| time.0);
    let policy = created(policy.metadata.creation_timestamp.as_ref())?;
    let binding = created(binding.metadata.creation_timestamp.as_ref())?;
    same.then(|| policy.max(binding))
}

fn same_spec<T: Serialize>(live: &T, wanted: &Value) -> bool {
    serde_json::to_value(live).is_ok_and(|live| pruned(&live["spec"]) == pruned(&wanted["spec"]))
}

/// Without empty lists and maps: the server writes some that nobody gave, and reads both the same.
fn pruned(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), pruned(value)))
            .filter(|(_, value)| !matches!(value, Value::Null) && value.as_object().is_none_or(|map| !map.is_empty()))
            .filter(|(_, value)| value.as_array().is_none_or(|list| !list.is_empty()))
            .collect(),
        Value::Array(items) => items.iter().map(pruned).collect(),
        other => other.clone(),
    }
}

/// Asks now and then, until shutdown. What does not answer leaves the state as it was.
pub async fn watch_policy(ctx: Context, interval: Duration, state: watch::Sender<PolicyState>) {
    loop {
        let found = look(&ctx).await;
        let wait = match found {
            Ok(found) => {
                if state.send_replace(found) != found {
                    say(found);
                }
                interval
            }
            Err(error) => {
                tracing::warn!(%error, "The admission policy could not be read; it is tried again.");
                RETRY_INTERVAL
            }
        };
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn say(state: PolicyState) {
    match state {
        PolicyState::Since(_) => tracing::info!("An admission policy verifies who decides about incidents."),
        PolicyState::Unknown | PolicyState::Missing => tracing::info!(
            policy = POLICY_NAME,
            "No admission policy verifies who decides about incidents; the history says `unverified`. See config/policy."
        ),
    }
}

async fn look(ctx: &Context) -> Result<PolicyState, ApiFailure> {
    let policy = read::<ValidatingAdmissionPolicy>(ctx).await?;
    let binding = read::<ValidatingAdmissionPolicyBinding>(ctx).await?;
    let since = policy.zip(binding).and_then(|(policy, binding)| holds(&policy, &binding));
    Ok(since.map_or(PolicyState::Missing, PolicyState::Since))
}

/// None where there is none, and where it may not be read: then nobody vouches for it.
async fn read<K>(ctx: &Context) -> Result<Option<K>, ApiFailure>
where
    K: Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope> + Clone + Debug + DeserializeOwned,
{
    match call(CALL_TIMEOUT, Api::<K>::all(ctx.kube.clone()).get(POLICY_NAME)).await {
        Ok(found) => Ok(Some(found)),
        Err(failure @ (ApiFailure::Refused { .. } | ApiFailure::NotFound(_) | ApiFailure::Malformed(_))) => {
            tracing::debug!(%failure, "The admission policy cannot be read.");
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn live() -> (Value, Value) {
        let mut objects = wanted();
        for (object, created) in objects.iter_mut().zip(["2026-01-01T00:00:00Z", "2026-01-01T00:00:09Z"]) {
            object["metadata"]["creationTimestamp"] = json!(created);
        }
        let binding = objects.pop().unwrap();
        (objects.pop().unwrap(), binding)
    }

    fn since((policy, binding): (Value, Value)) -> Option<Timestamp> {
        holds(&serde_json::from_value(policy).unwrap(), &serde_json::from_value(binding).unwrap())
    }

    #[test]
    fn the_manifest_itself_holds_since_its_younger_half() {
        assert_eq!(since(live()), Some("2026-01-01T00:00:09Z".parse().unwrap()));
    }

    #[test]
    fn a_changed_policy_verifies_nothing() {
        let changes: [(&str, Value); 6] = [
            ("/0/spec/failurePolicy", json!("Ignore")),
            ("/0/spec/validations/0/expression", json!("true")),
            ("/0/spec/matchConstraints/namespaceSelector", json!({"matchLabels": {"checked": "yes"}})),
            ("/1/spec/validationActions", json!(["Warn"])),
            ("/1/spec/matchResources", json!({"namespaceSelector": {"matchLabels": {"checked": "yes"}}})),
            ("/1/spec/policyName", json!("another")),
        ];
        for (path, value) in changes {
            let (policy, binding) = live();
            let mut both = json!([policy, binding]);
            let (parent, field) = path.rsplit_once('/').unwrap();
            both.pointer_mut(parent).unwrap()[field] = value;
            assert_eq!(since((both[0].clone(), both[1].clone())), None, "{path}");
        }
    }
}
