//! What else lives in the cluster: the Deployment controller, and people who change things.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    coverage::Fault,
    scenario::{DEPLOYMENTS, NAMESPACE, collection, deployment},
    world::World,
};

/// Where a Deployment's controller counts its templates.
const REVISION: &str = "deployment.kubernetes.io/revision";

/// The Deployment controller, as far as EventPulse can see it: a new template makes a new revision, some time later, and what has been
/// seen stands in `observedGeneration`, later still. Until it is dropped.
pub(crate) async fn control(world: Arc<World>) {
    let mut templates: BTreeMap<String, Value> = BTreeMap::new();
    loop {
        sleep(world.chance.time(Duration::from_millis(20), Duration::from_millis(900))).await;
        for mut deployment in world.api.all(DEPLOYMENTS) {
            let uid = deployment["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            let template = deployment["spec"]["template"].clone();
            let is_new = templates.get(&uid) != Some(&template);
            if is_new {
                templates.insert(uid, template);
                let revision = deployment["metadata"]["annotations"][REVISION].as_str();
                let next = revision.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) + 1;
                set_annotation(&mut deployment, next);
                grow(&mut deployment);
            } else if deployment["status"]["observedGeneration"] != deployment["metadata"]["generation"] {
                deployment["status"]["observedGeneration"] = deployment["metadata"]["generation"].clone();
            } else {
                continue;
            }
            world.api.put(DEPLOYMENTS, deployment);
        }
    }
}

fn set_annotation(deployment: &mut Value, revision: u64) {
    if !deployment["metadata"]["annotations"].is_object() {
        deployment["metadata"]["annotations"] = json!({});
    }
    deployment["metadata"]["annotations"][REVISION] = json!(revision.to_string());
}

/// The generation of an object whose wish has changed.
fn grow(object: &mut Value) {
    object["metadata"]["generation"] = json!(object["metadata"]["generation"].as_i64().unwrap_or(1) + 1);
}

fn some_target(world: &World) -> Option<Value> {
    world.chance.pick(&world.api.all(DEPLOYMENTS)).cloned()
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Somebody scales a target.
pub(crate) fn scale(world: &World) {
    let Some(mut target) = some_target(world) else { return };
    let replicas = world.chance.between(1, 9);
    world.reached(Fault::TargetChanged);
    world.timeline.note("somebody", format_args!("scales {} to {replicas}", name_of(&target)));
    target["spec"]["replicas"] = json!(replicas);
    grow(&mut target);
    world.api.put(DEPLOYMENTS, target);
}

/// Somebody deletes a target and creates another one of its name.
pub(crate) async fn replace(world: &World) {
    let Some(target) = some_target(world) else { return };
    let name = name_of(&target);
    world.reached(Fault::TargetReplaced);
    world.timeline.note("somebody", format_args!("deletes {name} and creates it anew"));
    world.api.remove(DEPLOYMENTS, NAMESPACE, &name);
    sleep(world.chance.time(Duration::ZERO, Duration::from_secs(3))).await;
    world.api.put(DEPLOYMENTS, deployment(&name));
}

/// Somebody sets a target back to what it was at some time: template and annotations, as `kubectl rollout undo` and `replace` do.
pub(crate) fn rewind(world: &World) {
    let Some(mut target) = some_target(world) else { return };
    let uid = target["metadata"]["uid"].clone();
    let earlier: Vec<_> = world
        .api
        .commits()
        .into_iter()
        .filter_map(|commit| commit.after)
        .filter(|object| object["kind"] == "Deployment" && object["metadata"]["uid"] == uid)
        .collect();
    let Some(earlier) = world.chance.pick(&earlier) else { return };
    world.reached(Fault::TargetRewound);
    world.timeline.note("somebody", format_args!("sets {} back", name_of(&target)));
    target["metadata"]["annotations"] = earlier["metadata"]["annotations"].clone();
    target["spec"]["template"] = earlier["spec"]["template"].clone();
    grow(&mut target);
    world.api.put(DEPLOYMENTS, target);
}

/// A person acknowledges an incident, or resolves it.
pub(crate) fn decide(world: &World) {
    let incidents = collection("incidents");
    let Some(mut incident) = world.chance.pick(&world.api.all(&incidents)).cloned() else { return };
    let what = if world.chance.permille(500) { "acknowledged" } else { "resolved" };
    world.reached(Fault::Decided);
    world.timeline.note("somebody", format_args!("sets spec.{what} of {}", name_of(&incident)));
    incident["spec"][what] = json!(true);
    incident["spec"]["decidedBy"] = json!("alice");
    grow(&mut incident);
    world.api.put(&incidents, incident);
}

/// Somebody suspends a rule for a while.
pub(crate) async fn suspend(world: &World) {
    let rules = collection("rules");
    let Some(rule) = world.chance.pick(&world.api.all(&rules)).cloned() else { return };
    world.reached(Fault::RuleSuspended);
    for suspend in [true, false] {
        world.timeline.note("somebody", format_args!("sets spec.suspend of {} to {suspend}", name_of(&rule)));
        let Some(mut rule) = world.api.get(&rules, NAMESPACE, &name_of(&rule)) else { return };
        rule["spec"]["suspend"] = json!(suspend);
        grow(&mut rule);
        world.api.put(&rules, rule);
        if suspend {
            sleep(world.chance.time(Duration::from_secs(1), Duration::from_secs(40))).await;
        }
    }
}

/// Somebody deletes what rules remembers of a group whose incident is open, and which has nothing more to say.
pub(crate) fn forget_group(world: &World) {
    let groups = collection("alertgroups");
    let is_open = |group: &Value| {
        group["spec"]["episode"].is_object() && group["spec"]["outbox"].as_array().is_none_or(Vec::is_empty)
    };
    let open: Vec<Value> = world.api.all(&groups).into_iter().filter(is_open).collect();
    let Some(group) = world.chance.pick(&open) else { return };
    world.reached(Fault::GroupDeleted);
    world.timeline.note("somebody", format_args!("deletes the group {}", name_of(group)));
    world.api.remove(&groups, NAMESPACE, &name_of(group));
}
