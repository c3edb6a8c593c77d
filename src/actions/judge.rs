//! What the target tells about plans whose answer never came. Never is anything sent again blindly (promise 2).

use super::{plan::TargetState, ring::Mark};
use crate::{
    api::v1alpha1::ActionPlan,
    events::ActionId,
    mutants::{Mutant, mutated},
};

/// What is known of an action after its target was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing of it took effect. It may be planned (again).
    NotApplied,
    /// It took effect.
    Applied,
    /// It was fenced: nothing of it took effect, and nothing can.
    Aborted,
    /// The planned target is gone; another object has its name.
    Replaced,
    /// Nobody can know: the annotation's history is broken between a send and now.
    Unknown(String),
}

/// Judges by the target as it is. A plan without a recorded outcome may have been sent, and may even still be on its way.
///
/// Absent from the ring, a plan did not take effect only if nothing of the target's spec has changed since: what an action does is a
/// change of the spec, every such change lets the generation grow, and no one who rewinds the annotation (`kubectl rollout undo`,
/// `kubectl replace`) lets it shrink. Of a kind that does not keep its generation only an unmoved resourceVersion says as much.
pub fn judge(id: &ActionId, plans: &[ActionPlan], target: &TargetState) -> Verdict {
    if plans.iter().any(|plan| plan.uid != target.uid) && !mutated(Mutant::UidIgnored) {
        return Verdict::Replaced;
    }
    let open: Vec<&ActionPlan> = plans.iter().filter(|plan| plan.outcome.is_none()).collect();
    let ring = match &target.ring {
        Ok(ring) => ring,
        Err(_) if open.is_empty() => return Verdict::NotApplied,
        Err(error) => return Verdict::Unknown(error.to_string()),
    };
    match ring.mark(id).filter(|_| !mutated(Mutant::RingNotRead)) {
        Some(Mark::Applied) => return Verdict::Applied,
        Some(Mark::Aborted) => return Verdict::Aborted,
        None => {}
    }
    for plan in open {
        let changed = [
            ("counter of its annotation", plan.ring_counter == ring.counter),
            ("pod template", plan.template_hash == target.template_hash),
            ("revision", plan.revision == target.revision),
            ("generation", plan.generation == target.generation),
            ("resourceVersion", plan.generation.is_some() || plan.resource_version == target.resource_version),
        ];
        if let Some((what, _)) = changed.into_iter().find(|(_, same)| !same)
            && !mutated(Mutant::RewindNotSeen)
        {
            let since = plan.planned_at;
            return Verdict::Unknown(format!(
                "the target's {what} has changed since the patch planned at {since}, whose answer is unknown"
            ));
        }
    }
    Verdict::NotApplied
}

/// Whether a late patch of these plans could still land, so that a fence is needed before the action is given up.
pub fn needs_fence(plans: &[ActionPlan]) -> bool {
    plans.iter().any(|plan| plan.outcome.is_none()) && !mutated(Mutant::FenceSkipped)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        actions::plan::{
            fence,
            tests::{deployment, read},
        },
        api::v1alpha1::{ANNOTATION_APPLIED, PlanOutcome},
    };

    fn id() -> ActionId {
        ActionId::try_from("abc".to_owned()).unwrap()
    }

    fn state(object: &Value) -> TargetState {
        read(object)
    }

    fn planned_for(object: &Value) -> ActionPlan {
        let target = state(object);
        ActionPlan {
            sender: "me".into(),
            planned_at: "2026-01-01T12:00:00Z".parse().unwrap(),
            what: "3 → 4".into(),
            object: None,
            from: Some(3),
            to: Some(4),
            uid: target.uid.clone(),
            resource_version: target.resource_version.clone(),
            generation: target.generation,
            revision: target.revision.clone(),
            template_hash: target.template_hash.clone(),
            ring_counter: target.ring.map_or(0, |ring| ring.counter),
            outcome: None,
        }
    }

    fn changed(change: impl Fn(&mut Value)) -> Value {
        let mut object = deployment(3);
        change(&mut object);
        object
    }

    #[test]
    fn an_open_plan_is_planned_again_only_if_nothing_of_the_target_has_changed() {
        let plans = [planned_for(&deployment(3))];
        assert_eq!(judge(&id(), &plans, &state(&deployment(3))), Verdict::NotApplied);
        let status_only = changed(|object| object["metadata"]["resourceVersion"] = json!("99"));
        assert_eq!(judge(&id(), &plans, &state(&status_only)), Verdict::NotApplied);
        for object in [
            changed(|object| object["metadata"]["generation"] = json!(3)),
            changed(|object| object["spec"]["template"]["spec"] = json!({"a": 1})),
            changed(|object| object["metadata"]["annotations"] = json!({"deployment.kubernetes.io/revision": "2"})),
            changed(|object| object["metadata"]["annotations"] = json!({ANNOTATION_APPLIED: "1 other:5"})),
            changed(|object| object["metadata"]["annotations"] = json!({ANNOTATION_APPLIED: "edited"})),
        ] {
            assert!(matches!(judge(&id(), &plans, &state(&object)), Verdict::Unknown(_)), "{object}");
        }
    }

    #[test]
    fn the_ring_decides_whatever_else_has_changed() {
        let plans = [planned_for(&deployment(3))];
        for (ring, verdict) in [("7 abc:5", Verdict::Applied), ("7 abc:5:aborted", Verdict::Aborted)] {
            let object = changed(|object| {
                object["metadata"]["generation"] = json!(9);
                object["metadata"]["annotations"] = json!({ANNOTATION_APPLIED: ring});
            });
            assert_eq!(judge(&id(), &plans, &state(&object)), verdict);
        }
    }

    #[test]
    fn a_judge_that_misses_what_the_target_says_is_noticed() {
        let plans = [planned_for(&deployment(3))];
        let applied = changed(|object| {
            object["metadata"]["generation"] = json!(9);
            object["metadata"]["annotations"] = json!({ANNOTATION_APPLIED: "7 abc:5"});
        });
        let rewound = changed(|object| object["metadata"]["generation"] = json!(9));
        let another = changed(|object| object["metadata"]["uid"] = json!("another"));
        for (mutant, object) in
            [(Mutant::RingNotRead, applied), (Mutant::RewindNotSeen, rewound), (Mutant::UidIgnored, another)]
        {
            let judged = || judge(&id(), &plans, &state(&object));
            assert_ne!(judged(), crate::mutants::with(mutant, judged), "{mutant:?}");
        }
    }

    #[test]
    fn a_plan_that_its_sender_saw_refused_needs_neither_knowledge_nor_a_fence() {
        let mut plan = planned_for(&deployment(3));
        plan.outcome = Some(PlanOutcome::Conflict);
        let moved = changed(|object| object["metadata"]["generation"] = json!(5));
        assert_eq!(judge(&id(), &[plan.clone()], &state(&moved)), Verdict::NotApplied);
        assert!(!needs_fence(&[plan.clone()]));
        assert!(needs_fence(&[plan, planned_for(&deployment(3))]));
    }

    #[test]
    fn another_object_of_the_same_name_is_not_the_target() {
        let other = changed(|object| object["metadata"]["uid"] = json!("u2"));
        assert_eq!(judge(&id(), &[planned_for(&deployment(3))], &state(&other)), Verdict::Replaced);
        assert_eq!(judge(&id(), &[], &state(&other)), Verdict::NotApplied);
    }

    #[test]
    fn a_fenced_target_is_judged_aborted() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let mut object = deployment(3);
        let patch = fence(&id(), &state(&object), now, now).unwrap();
        json_patch::patch(&mut object, &serde_json::from_value::<json_patch::Patch>(patch).unwrap()).unwrap();
        assert_eq!(judge(&id(), &[planned_for(&deployment(3))], &state(&object)), Verdict::Aborted);
    }
}
