//! Promise 2: at most one committed effect for each action, recorded with it in one write; claimed before it, planned before it, and
//! what the Action says in the end is what happened.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    ACTION_ENDS, Findings, Observed, Write,
    view::{list, named, ring, text, time},
};

/// A change of a target that EventPulse made.
struct Effect<'a> {
    at: Timestamp,
    write: &'a Write,
}

pub(crate) fn judge(observed: &Observed, found: &mut Findings) {
    let mut effects: BTreeMap<String, Vec<Effect>> = BTreeMap::new();
    for write in observed.writes.iter().filter(|write| write.is_effect()) {
        let (before, after) = (ring(write.before.as_ref()), ring(write.after.as_ref()));
        let new: Vec<&String> = after.0.iter().filter(|id| !before.0.contains(id)).collect();
        let what = changed(write);
        match new.as_slice() {
            [id] if before.1.contains(id) => {
                found.add(format!("{what} for the action {id}, which had been given up on this target"));
            }
            [id] => effects.entry((*id).clone()).or_default().push(Effect { at: write.at, write }),
            [] => found.add(format!("{what}, and no action is recorded with it")),
            many => found.add(format!("{what}, and {} actions are recorded with it", many.len())),
        }
    }
    let actions = observed.last_of("actions");
    let by_id: BTreeMap<&str, &Value> =
        actions.iter().map(|(name, (object, _))| (name.1.as_str(), object.as_ref())).collect();
    for (id, effects) in &effects {
        if effects.len() > 1 {
            let times: Vec<String> = effects.iter().map(|effect| effect.at.to_string()).collect();
            found.add(format!("the action {id} took effect {} times: {}", effects.len(), times.join(", ")));
        }
        match by_id.get(id.as_str()) {
            None => found.add(format!("the action {id} took effect, and there was never an Action of its name")),
            Some(action) => effects.iter().for_each(|effect| {
                planned(observed, id, effect, found);
                in_time(id, action, effect, found);
            }),
        }
    }
    for (id, action) in by_id {
        let effects = effects.get(id).map_or(&[][..], Vec::as_slice);
        // What was done to an object that is gone is gone with it.
        let lasting = effects.iter().filter(|effect| !is_gone(observed, effect)).count();
        agrees(id, action, (effects.len(), lasting), found);
    }
    ends_once(observed, found);
}

impl Write {
    /// Whether EventPulse changed what a target does; a mark in its annotation alone does not.
    pub fn is_effect(&self) -> bool {
        let (Some(before), Some(after)) = (&self.before, &self.after) else { return false };
        self.ours && self.account.is_some() && before.get("spec") != after.get("spec")
    }
}

fn changed(write: &Write) -> String {
    let replicas = |object: Option<&std::sync::Arc<Value>>| {
        object.and_then(|object| object.pointer("/spec/replicas")).map_or_else(|| "?".into(), Value::to_string)
    };
    let (from, to) = (replicas(write.before.as_ref()), replicas(write.after.as_ref()));
    format!("{} {} was changed at {} ({from} → {to} replicas)", write.kind, named(&write.object), write.at)
}

/// The plan that was sent stood in the Action before it was: the target's very uid and resourceVersion.
fn planned(observed: &Observed, id: &str, effect: &Effect, found: &mut Findings) {
    let Some(target) = &effect.write.before else { return };
    let (uid, version) = (text(target, "/metadata/uid"), text(target, "/metadata/resourceVersion"));
    let stood = observed
        .writes
        .iter()
        .take_while(|write| !std::ptr::eq(*write, effect.write))
        .filter(|write| write.kind == "actions" && write.object.1 == id)
        .filter_map(|write| write.after.as_ref())
        .any(|action| {
            let plans = action.pointer("/spec/plan").into_iter().chain(list(action, "/status/plans"));
            plans.into_iter().any(|plan| text(plan, "/uid") == uid && text(plan, "/resourceVersion") == version)
        });
    if !stood {
        found.add(format!(
            "the action {id} changed {} at version {version}, a plan that it had not recorded",
            named(&effect.write.object)
        ));
    }
}

/// It was done for the target that was there when it was decided, and planned before its deadline.
fn in_time(id: &str, action: &Value, effect: &Effect, found: &mut Findings) {
    let (decided, deadline) = (time(action, "/spec/decidedAt"), time(action, "/spec/deadline"));
    let created = effect.write.before.as_ref().and_then(|target| time(target, "/metadata/creationTimestamp"));
    if created.zip(decided).is_some_and(|(created, decided)| created > decided) {
        found.add(format!(
            "the action {id} changed {}, which was created after the decision",
            named(&effect.write.object)
        ));
    }
    let plans = action.pointer("/spec/plan").into_iter().chain(list(action, "/status/plans"));
    let late =
        |plan: &Value| time(plan, "/plannedAt").zip(deadline).is_some_and(|(planned, deadline)| planned >= deadline);
    if plans.into_iter().any(late) {
        found.add(format!("the action {id} was planned past its deadline"));
    }
}

/// Whether the very object that was changed was removed since.
fn is_gone(observed: &Observed, effect: &Effect) -> bool {
    let uid = |object: Option<&std::sync::Arc<Value>>| {
        object.map(|object| text(object, "/metadata/uid").to_owned()).unwrap_or_default()
    };
    let of = uid(effect.write.before.as_ref());
    observed
        .writes
        .iter()
        .any(|write| write.after.is_none() && write.kind == effect.write.kind && uid(write.before.as_ref()) == of)
}

/// What an Action says that has ended, and what happened: how many effects there were, and how many of them are to be seen.
fn agrees(id: &str, action: &Value, (effects, lasting): (usize, usize), found: &mut Findings) {
    let (phase, reason) = (text(action, "/status/phase"), text(action, "/status/reason"));
    match phase {
        "Completed" if effects == 0 => {
            let (of, target) = (text(action, "/spec/step"), text(action, "/spec/target/name"));
            found.add(format!("the action {id} is Completed and took no effect ({of} of {target})"));
        }
        "Failed" if lasting > 0 && reason != "OutcomeUnknown" => {
            found.add(format!("the action {id} is Failed ({reason}) and took effect"));
        }
        "Skipped" if effects > 0 => found.add(format!("the action {id} is Skipped ({reason}) and took effect")),
        _ => {}
    }
}

/// An Action that has ended stays as it ended, and nothing is done for it any more.
fn ends_once(observed: &Observed, found: &mut Findings) {
    let mut ended: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for write in &observed.writes {
        if write.is_effect() {
            let (before, after) = (ring(write.before.as_ref()), ring(write.after.as_ref()));
            for id in after.0.iter().filter(|id| !before.0.contains(id)) {
                // Whoever says that nobody can know does not say that nothing comes.
                if let Some((phase, reason)) = ended.get(id.as_str()).filter(|(_, reason)| *reason != "OutcomeUnknown")
                {
                    found.add(format!(
                        "the action {id} took effect at {}, after it had ended {phase} {reason}",
                        write.at
                    ));
                }
            }
        }
        if write.kind != "actions" {
            continue;
        }
        let Some(after) = &write.after else {
            // Another one of its name is another object, which has yet to end.
            ended.remove(write.object.1.as_str());
            continue;
        };
        let now = (text(after, "/status/phase"), text(after, "/status/reason"));
        let id = write.object.1.as_str();
        match ended.get(id) {
            Some(before) if *before != now => {
                found.add(format!("the action {id} had ended {before:?} and was made {now:?} at {}", write.at));
            }
            _ => {}
        }
        if ACTION_ENDS.contains(&now.0) {
            ended.entry(id).or_insert(now);
        }
    }
}
