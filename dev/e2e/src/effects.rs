//! What was really done to workloads, by the API server's own audit log: whatever EventPulse believes, this is what happened.

use std::{collections::BTreeMap, fmt};

use eventpulse_env::ControlPlane;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// A write that the API server answered with 2xx. One whose caller died meanwhile is a 504 in the log, committed or not, and not here.
#[derive(Clone, Debug)]
pub struct Committed {
    /// When it was answered.
    pub at: Timestamp,
    /// `create`, `patch`, `update`, …
    pub verb: String,
    /// `deployments`, `incidents/status`, …
    pub resource: String,
    /// The object.
    pub name: String,
    /// Who: the account that was impersonated, where one was.
    pub user: String,
    /// The body.
    pub request: Value,
    /// The object's resourceVersion after it: etcd's revision, so that it tells the order of all writes. 0 where it is not logged.
    pub version: u64,
}

impl Committed {
    fn read(line: &str) -> Option<Self> {
        let event: Value = serde_json::from_str(line).ok()?;
        let code = event["responseStatus"]["code"].as_i64()?;
        if !(200..300).contains(&code) {
            return None;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &event["objectRef"];
        let subresource = object["subresource"].as_str().map(|name| format!("/{name}")).unwrap_or_default();
        let user = event["impersonatedUser"]["username"].as_str().or(event["user"]["username"].as_str());
        let named = [&object["name"], &event["responseObject"]["metadata"]["name"]];
        Some(Self {
            at: event["stageTimestamp"].as_str()?.parse().ok()?,
            verb: text(&event["verb"]),
            resource: text(&object["resource"]) + &subresource,
            name: named.into_iter().find_map(Value::as_str).unwrap_or_default().to_owned(),
            user: user.unwrap_or_default().to_owned(),
            request: event["requestObject"].clone(),
            version: text(&event["responseObject"]["metadata"]["resourceVersion"]).parse().unwrap_or_default(),
        })
    }

    fn change(&self, pointer: &str) -> Option<&Value> {
        let changes = self.request.as_array()?.iter().filter(|operation| operation["op"] != "test");
        changes.into_iter().find(|operation| operation["path"].as_str().is_some_and(|path| path.starts_with(pointer)))
    }

    /// The action that this write is the effect of: it changes what an action may change, and signs the ring. None for a fence.
    pub fn effect_of(&self) -> Option<String> {
        self.change("/spec/")?;
        let ring = self.change("/metadata/annotations/eventpulse.io~1applied-actions")?["value"].as_str()?;
        let last = ring.rsplit(' ').next()?;
        Some(last.split(':').next()?.to_owned())
    }

    /// Whether this write puts its object into this phase.
    pub fn is_phase(&self, phase: &str) -> bool {
        self.request["status"]["phase"] == phase
    }

    /// Whether this write is a fence.
    pub fn is_fence(&self) -> bool {
        self.change("/metadata/annotations/eventpulse.io~1applied-actions")
            .is_some_and(|change| change["value"].as_str().is_some_and(|ring| ring.ends_with(":aborted")))
    }
}

/// What the main job is about: how long after an alert was accepted the target was changed, the incident resolved, and people told.
/// No test fails by it; whoever reads the output sees when it is slow.
pub struct Speed(Vec<(String, SignedDuration)>);

/// What EventPulse promises on a quiet machine.
const QUICK: SignedDuration = SignedDuration::from_secs(1);

impl Speed {
    /// By the audit log, which must have bodies. `accepted` is when the webhook answered, `told` when the message was received.
    pub fn since(accepted: Timestamp, plane: &ControlPlane, told: Timestamp) -> Self {
        let writes = committed(plane, "");
        let first = |is: &dyn Fn(&Committed) -> bool| writes.iter().find(|write| is(write));
        let mut moments = Vec::new();
        if let Some(effect) = first(&|write| write.effect_of().is_some()) {
            let replicas = effect.change("/spec/replicas").map(|change| format!(" with {} replicas", change["value"]));
            moments.push((format!("{}{} committed", effect.name, replicas.unwrap_or_default()), effect.at));
        }
        if let Some(resolved) = first(&|write| write.resource == "incidents/status" && write.is_phase("Resolved")) {
            moments.push(("incident Resolved".to_owned(), resolved.at));
        }
        moments.push(("message received".to_owned(), told));
        Self(moments.into_iter().map(|(what, at)| (what, at.duration_since(accepted))).collect())
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, after) in &self.0 {
            writeln!(f, "    alert accepted → {what}: {} ms", after.as_millis())?;
        }
        match self.0.iter().map(|(_, after)| *after).max() {
            Some(slowest) if slowest > QUICK => writeln!(
                f,
                "    *** SLOW: this should take less than {} s, and took {:.1} s. Is the machine busy? ***",
                QUICK.as_secs(),
                slowest.as_secs_f32()
            ),
            _ => Ok(()),
        }
    }
}

/// Every committed write of a resource, in the order of the log; of every resource with an empty name.
pub fn committed(plane: &ControlPlane, resource: &str) -> Vec<Committed> {
    let text = std::fs::read_to_string(plane.audit_log()).unwrap_or_default();
    text.lines().filter_map(Committed::read).filter(|write| resource.is_empty() || write.resource == resource).collect()
}

/// How many committed effects each action had, on whatever kind: promise 2 says one at most.
pub fn effects_by_action(plane: &ControlPlane) -> BTreeMap<String, usize> {
    let mut effects = BTreeMap::new();
    for action in committed(plane, "").iter().filter_map(Committed::effect_of) {
        *effects.entry(action).or_default() += 1;
    }
    effects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_slow_is_said_loudly() {
        let speed = |ms: &[i64]| {
            let moments = ms.iter().map(|ms| ("done".to_owned(), SignedDuration::from_millis(*ms)));
            Speed(moments.collect()).to_string()
        };
        assert_eq!(speed(&[41, 990]), "    alert accepted → done: 41 ms\n    alert accepted → done: 990 ms\n");
        let slow = speed(&[1_500, 2]);
        assert!(
            slow.contains("done: 1500 ms\n") && slow.contains("*** SLOW: ") && slow.contains("took 1.5 s"),
            "{slow}"
        );
    }
}
