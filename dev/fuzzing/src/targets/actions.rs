//! Actions: the ring of a target, and what is planned, judged and fenced for whatever object and whatever record of earlier plans.

use eventpulse::{
    actions::{
        judge::{Verdict, judge, needs_fence},
        plan::{Refusal, Subject, TargetState, fence, plan},
        ring::{Mark, RING_MAX, Ring},
    },
    api::v1alpha1::{ANNOTATION_APPLIED, Action, ActionPlan, Workload},
    events::ActionId,
};
use json_patch::{Patch, patch};
use serde::Deserialize;
use serde_json::Value;

use crate::check::{after, is_kept, is_told, now};

fn id(text: &str) -> ActionId {
    ActionId::try_from(text.to_owned()).expect("an id")
}

pub(crate) fn ring(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let ring = match Ring::parse(Some(text)) {
        Ok(ring) => ring,
        Err(error) => {
            let told = error.to_string();
            is_told(&told, 256);
            return assert!(told.contains(ANNOTATION_APPLIED) && told.contains("remove it"), "{told}");
        }
    };
    assert_eq!(Ring::parse(Some(&ring.to_string())).as_ref(), Ok(&ring), "what is written reads otherwise");
    let mut filled = ring.clone();
    for i in 0..=RING_MAX {
        let entry = id(&format!("fuzzed-{i}"));
        let mark = if i % 2 == 0 { Mark::Applied } else { Mark::Aborted };
        let before = filled.counter;
        match filled.with(&entry, mark, after(600), now()) {
            Ok(next) => filled = next,
            Err(full) => return is_told(&full, 256),
        }
        assert_ne!(filled.counter, before, "the counter stands still");
        assert!(filled.mark(&entry).is_some(), "{filled} has no {entry}");
        assert_eq!(Ring::parse(Some(&filled.to_string())).as_ref(), Ok(&filled), "what is written reads otherwise");
    }
    panic!("the ring takes more than {RING_MAX} entries: {filled}");
}

/// What an action finds: its own record, and the object.
#[derive(Deserialize)]
struct Found {
    action: Action,
    #[serde(default)]
    object: Value,
}

pub(crate) fn action(data: &[u8]) {
    let Ok(Found { action, object }) = serde_json::from_slice::<Found>(data) else { return };
    is_kept(&action);
    let kinds = [
        Workload::known("apps/v1", "Deployment"),
        Workload::known("apps/v1", "DaemonSet"),
        Some(Workload::autoscaler()),
        Workload::custom("widgets", ".spec.size.replicas"),
    ];
    for kind in kinds.into_iter().flatten() {
        match TargetState::read(&object, &kind) {
            Ok(state) => acts(&action, &object, &state, &kind),
            Err(error) => is_told(&error, 256),
        }
    }
}

fn acts(action: &Action, object: &Value, state: &TargetState, kind: &Workload) {
    let id = action.metadata.name.clone().and_then(|name| ActionId::try_from(name).ok()).unwrap_or(id("fuzzed"));
    let plans = action.status.as_ref().map(|status| status.plans.as_slice()).unwrap_or_default();
    let verdict = judge(&id, plans, state);
    if plans.iter().all(|plan| plan.uid == state.uid) {
        let mark = state.ring.as_ref().ok().and_then(|ring| ring.mark(&id));
        assert_eq!(verdict == Verdict::Applied, mark == Some(Mark::Applied), "{verdict:?} with {mark:?}");
        assert!(needs_fence(plans) || !matches!(verdict, Verdict::Unknown(_)), "unknown, and nothing was sent");
    } else {
        assert_eq!(verdict, Verdict::Replaced);
    }
    let deadline = action.spec.deadline;
    if let Ok(patch) = fence(&id, state, deadline, now())
        && let Some(after) = applied(&patch, object, kind)
    {
        assert!(after.ring.expect("a ring of ours").mark(&id).is_some(), "a fence that is no mark");
    }
    let Some(runbook) = &action.spec.runbook else { return };
    let subject = Subject { state, object: None, undone: action.spec.plan.as_ref().or(plans.first()) };
    match plan(&id, runbook, &subject, deadline, "fuzzed", now()) {
        Ok(planned) => {
            is_kept(&planned.plan);
            is_one_effect(&id, &planned.plan, object, state, kind, &planned.patch);
        }
        Err(Refusal::Known(mark)) => assert_eq!(state.ring.as_ref().ok().and_then(|ring| ring.mark(&id)), Some(mark)),
        Err(refusal) => is_told(&refusal, 512),
    }
}

/// A plan that was sent is known by its target, whether it took effect or not, and is never made a second time (promise 2).
fn is_one_effect(
    id: &ActionId,
    plan: &ActionPlan,
    object: &Value,
    state: &TargetState,
    kind: &Workload,
    patch: &Value,
) {
    let open = std::slice::from_ref(plan);
    assert_eq!(judge(id, open, state), Verdict::NotApplied, "nothing has changed");
    let Some(patched) = applied(patch, object, kind) else { return };
    if plan.to.is_some() {
        assert_eq!(patched.count, plan.to, "the number is another one");
    }
    assert_eq!(judge(id, open, &patched), Verdict::Applied, "it took effect");
    // Somebody rewinds the annotation, and the object has changed: nobody can know.
    let mut rewound = patched;
    rewound.ring.clone_from(&state.ring);
    rewound.resource_version.push('0');
    rewound.generation = state.generation.map(|generation| generation.wrapping_add(1));
    assert!(matches!(judge(id, open, &rewound), Verdict::Unknown(_)), "an effect would come twice");
}

/// The object after the patch; none where the API server would refuse it, because a part that every such object has is missing.
fn applied(operations: &Value, object: &Value, kind: &Workload) -> Option<TargetState> {
    let operations: Patch = serde_json::from_value(operations.clone()).expect("a JSON Patch");
    assert!(operations.0.len() <= 8, "{} operations", operations.0.len());
    let mut patched = object.clone();
    patch(&mut patched, &operations).ok()?;
    Some(TargetState::read(&patched, kind).expect("what is patched can be read"))
}
