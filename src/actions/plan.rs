//! What is to be sent: one JSON Patch that tests uid and resourceVersion, makes the change and writes the ring. Effect and record
//! are one write (promise 2).

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    keepers::Keepers,
    ring::{MalformedRing, Mark, Ring, RingFull},
};
use crate::{
    api::v1alpha1::{
        ANNOTATION_APPLIED, ActionPlan, Count, ResolvedScale, RunbookSnapshot, StepType, TargetReference, Workload,
    },
    events::ActionId,
    mutants::{Mutant, mutated},
};

/// How long after the deadline an entry of the ring stays: late patches and redelivered requests end long before.
pub const RING_SKEW: SignedDuration = SignedDuration::from_mins(10);
/// Template annotation of a restart. Its value is the action's id: the same restart twice would be one.
pub const ANNOTATION_RESTARTED_BY: &str = "eventpulse.io/restarted-by";

/// An object that may be patched, as it was read: the fields that decide. Which of them a kind has is told by its [`Workload`].
#[derive(Clone, Debug, PartialEq)]
pub struct TargetState {
    /// Its uid.
    pub uid: String,
    /// Its version.
    pub resource_version: String,
    /// Grows with every change of its spec; none where its kind does not keep it.
    pub generation: Option<i64>,
    /// When it was created.
    pub created_at: Timestamp,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// The number that a `Scale` changes; none where it has none.
    pub count: Option<i64>,
    /// The most that the number may be, where the object says so.
    pub most: Option<i64>,
    /// The number that is in use, where that may be another one.
    pub in_use: Option<i64>,
    /// Its revision, where it has one.
    pub revision: Option<String>,
    /// Hash of its pod template, where it has one.
    pub template_hash: Option<String>,
    /// The annotation.
    pub ring: Result<Ring, MalformedRing>,
    /// Who keeps it as somebody else wants it, where anybody does.
    pub kept: Keepers,
    /// Why its pods would not follow a change of their template.
    pub stands: Option<&'static str>,
    kind: Workload,
    has_annotations: bool,
    template_has_annotations: bool,
}

/// The answer is no object with the fields that every workload has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the target's {0} is missing or no valid value")]
pub struct UnreadableTarget(&'static str);

impl TargetState {
    /// Reads what the API server answered for an object of this kind.
    pub fn read(object: &Value, kind: &Workload) -> Result<Self, UnreadableTarget> {
        let meta = &object["metadata"];
        let text = |field: &'static str| meta[field].as_str().map(str::to_owned).ok_or(UnreadableTarget(field));
        let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64);
        let created = text("creationTimestamp")?;
        let template = &object["spec"]["template"];
        let generation = meta["generation"].as_i64();
        if kind.keeps_generation && generation.is_none() {
            return Err(UnreadableTarget("generation"));
        }
        Ok(Self {
            uid: text("uid")?,
            resource_version: text("resourceVersion")?,
            generation: generation.filter(|_| kind.keeps_generation),
            created_at: created.parse().map_err(|_| UnreadableTarget("creationTimestamp"))?,
            deleting: !meta["deletionTimestamp"].is_null(),
            count: kind.count.as_ref().and_then(|count| match object.pointer(&count.pointer) {
                None | Some(Value::Null) => count.default,
                Some(found) => found.as_i64(),
            }),
            most: kind.count.as_ref().and_then(|count| number(count.most?)),
            in_use: kind.count.as_ref().and_then(|count| number(count.in_use?)),
            revision: kind.revision.and_then(|name| meta["annotations"][name].as_str().map(str::to_owned)),
            template_hash: template.is_object().then(|| hash(template)),
            ring: Ring::parse(meta["annotations"][ANNOTATION_APPLIED].as_str()),
            kept: Keepers::of(object, kind.count.as_ref().map(|count| count.pointer.as_ref())),
            stands: why_it_stands(&object["spec"]),
            kind: kind.clone(),
            has_annotations: meta["annotations"].is_object(),
            template_has_annotations: template["metadata"]["annotations"].is_object(),
        })
    }
}

fn why_it_stands(spec: &Value) -> Option<&'static str> {
    if spec["paused"] == json!(true) {
        return Some("it is paused, so its pods stay as they are: resume it");
    }
    let on_delete = spec["updateStrategy"]["type"] == "OnDelete";
    on_delete.then_some("its update strategy is OnDelete, so its pods stay as they are until somebody deletes them")
}

fn hash(value: &Value) -> String {
    // serde_json's maps are sorted, so the same template has the same text.
    data_encoding::HEXLOWER.encode(&Sha256::digest(value.to_string().as_bytes())[..8])
}

/// Why there is nothing to send.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The target is at its bound already.
    #[error("{0}")]
    NothingToDo(String),
    /// Its annotation was edited.
    #[error(transparent)]
    Malformed(#[from] MalformedRing),
    /// Its ring is full: wait.
    #[error(transparent)]
    Full(#[from] RingFull),
    /// The runbook does not say what to do.
    #[error("{0}")]
    Invalid(String),
    /// What is to be taken back is not as it was left.
    #[error("{0}")]
    Changed(String),
    /// The ring has the action already: nothing of it may be sent (again), whatever else is known of it.
    #[error("the target's annotation says that the action is {0:?}")]
    Known(Mark),
}

/// A plan and its patch.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// To be recorded before it is sent.
    pub plan: ActionPlan,
    /// To be sent then.
    pub patch: Value,
}

/// What is to be changed.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The object, as it was read.
    pub state: &'a TargetState,
    /// Its name, where it is not the target itself but the target's autoscaler.
    pub object: Option<&'a TargetReference>,
    /// The plan that is to be taken back, for `ScaleBack`.
    pub undone: Option<&'a ActionPlan>,
}

/// Plans the step for its subject as it is.
pub fn plan(
    id: &ActionId,
    runbook: &RunbookSnapshot,
    subject: &Subject<'_>,
    deadline: Timestamp,
    sender: &str,
    now: Timestamp,
) -> Result<Planned, Refusal> {
    let target = subject.state;
    let ring = target.ring.clone()?;
    if let Some(mark) = ring.mark(id)
        && !mutated(Mutant::RingNotRead)
    {
        return Err(Refusal::Known(mark));
    }
    let (what, to, change) = match runbook.r#type {
        StepType::Scale => {
            let scale =
                runbook.scale.as_ref().ok_or_else(|| Refusal::Invalid("a step of type Scale without scale".into()))?;
            let (count, from) = counted(target)?;
            let to = count_after(scale, from, target, count)?;
            (format!("{from} → {to}"), Some(to), set(count, to))
        }
        StepType::ScaleBack => {
            let undone = subject.undone.ok_or_else(|| Refusal::Invalid("undoes no other step".into()))?;
            let (count, from) = counted(target)?;
            let to = undo(undone, target).map_err(Refusal::Changed)?;
            (format!("{from} → {to}, back to what it was"), Some(to), set(count, to))
        }
        StepType::Restart => match target.stands {
            Some(why) => return Err(Refusal::NothingToDo(why.into())),
            None => ("restarted".to_owned(), None, restart(id, target)),
        },
    };
    let what = match subject.object {
        Some(object) => format!("by its {}: minReplicas {what}", object.display()),
        None => what,
    };
    let ring = ring.with(id, Mark::Applied, deadline.saturating_add(RING_SKEW).unwrap_or(deadline), now)?;
    let plan = ActionPlan { from: to.and(target.count), to, ..record(subject, what, sender, now) };
    Ok(Planned { plan, patch: guarded(target, change, &ring) })
}

fn counted(target: &TargetState) -> Result<(&Count, i64), Refusal> {
    let count = target.kind.count.as_ref().ok_or_else(|| Refusal::Invalid("its kind has no replicas".into()))?;
    let missing = || Refusal::NothingToDo(format!("it has no number at {}: set one first", count.pointer));
    Ok((count, target.count.ok_or_else(missing)?))
}

fn set(count: &Count, to: i64) -> Vec<Value> {
    vec![json!({"op": "add", "path": count.pointer, "value": to})]
}

/// The number to which a plan that took effect is taken back, if its object is as that left it: nobody else's change is undone. The
/// patch was one write upon the planned version, so the generation after it is known.
fn undo(undone: &ActionPlan, target: &TargetState) -> Result<i64, String> {
    let (Some(from), Some(to)) = (undone.from, undone.to) else {
        return Err("the step to be undone has changed no number of replicas".into());
    };
    if undone.uid != target.uid {
        return Err("it was deleted and created again since".into());
    }
    if target.count != Some(to) {
        let now = target.count.map_or_else(|| "nothing".into(), |count| count.to_string());
        return Err(format!("somebody changed {to}, as the step left it, to {now} since"));
    }
    let as_left = match (undone.generation, target.generation) {
        (Some(before), Some(now)) => before.checked_add(1) == Some(now),
        _ => target.ring.as_ref().is_ok_and(|ring| undone.ring_counter.checked_add(1) == Some(ring.counter)),
    };
    if !as_left {
        return Err("it was changed since the step left it, although its number is the same".into());
    }
    Ok(from)
}

/// The fence: writes into the ring that the action is given up, so that no late patch of it can land.
pub fn fence(id: &ActionId, target: &TargetState, deadline: Timestamp, now: Timestamp) -> Result<Value, Refusal> {
    let ring =
        target.ring.clone()?.with(id, Mark::Aborted, deadline.saturating_add(RING_SKEW).unwrap_or(deadline), now)?;
    Ok(guarded(target, Vec::new(), &ring))
}

fn record(subject: &Subject<'_>, what: String, sender: &str, now: Timestamp) -> ActionPlan {
    let target = subject.state;
    ActionPlan {
        sender: sender.to_owned(),
        planned_at: now,
        what,
        object: subject.object.cloned(),
        from: None,
        to: None,
        uid: target.uid.clone(),
        resource_version: target.resource_version.clone(),
        generation: target.generation,
        revision: target.revision.clone(),
        template_hash: target.template_hash.clone(),
        ring_counter: target.ring.as_ref().map_or(0, |ring| ring.counter),
        outcome: None,
    }
}

fn count_after(scale: &ResolvedScale, from: i64, target: &TargetState, count: &Count) -> Result<i64, Refusal> {
    let wanted = match (scale.delta, scale.replicas) {
        // An autoscaler that has gone above its least number would not be moved by a least number below that.
        (Some(delta), None) if delta > 0 => from.max(target.in_use.unwrap_or(from)).saturating_add(i64::from(delta)),
        (Some(delta), None) => from.saturating_add(i64::from(delta)),
        (None, Some(replicas)) => i64::from(replicas),
        _ => return Err(Refusal::Invalid("exactly one of delta and replicas is needed".into())),
    };
    let least = i64::from(scale.min_replicas.unwrap_or(0)).max(count.least);
    let most = scale.max_replicas.map(i64::from).into_iter().chain(target.most).min();
    let to = wanted.min(most.unwrap_or(i64::from(i32::MAX))).max(least);
    let beyond = target.most.is_some_and(|most| to > most);
    // A bound must not turn a step around: nobody asks for one replica more and wants three fewer.
    let turned = scale.delta.is_some_and(|delta| to.cmp(&from) == 0.cmp(&delta));
    if to == from || turned || beyond {
        let bounds = format!("bounds {least} to {}", most.map_or("none".into(), |most| most.to_string()));
        return Err(Refusal::NothingToDo(format!("{from} replicas, {wanted} wanted, {bounds}")));
    }
    Ok(to)
}

fn restart(id: &ActionId, target: &TargetState) -> Vec<Value> {
    let annotations = "/spec/template/metadata/annotations";
    let mut change = Vec::new();
    if !target.template_has_annotations {
        change.push(json!({"op": "add", "path": annotations, "value": {}}));
    }
    let path = format!("{annotations}/{}", escape(ANNOTATION_RESTARTED_BY));
    change.push(json!({"op": "add", "path": path, "value": id.as_str()}));
    change
}

/// The tests come first: a failed one is answered with 422, and nothing is changed.
fn guarded(target: &TargetState, change: Vec<Value>, ring: &Ring) -> Value {
    let mut patch = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": target.uid}),
        json!({"op": "test", "path": "/metadata/resourceVersion", "value": target.resource_version}),
    ];
    if mutated(Mutant::VersionNotTested) {
        patch.pop();
    }
    if mutated(Mutant::UidNotTested) {
        patch.clear();
    }
    patch.extend(change);
    if mutated(Mutant::RingNotWritten) {
        return Value::Array(patch);
    }
    if !target.has_annotations {
        patch.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
    }
    let path = format!("/metadata/annotations/{}", escape(ANNOTATION_APPLIED));
    patch.push(json!({"op": "add", "path": path, "value": ring.to_string()}));
    Value::Array(patch)
}

/// RFC 6901: `~` and `/` within one part of a pointer.
fn escape(part: &str) -> String {
    part.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::v1alpha1::{CircuitBreaker, Duration, GitOps, Retry, UnderAutoscaler};

    pub(in crate::actions) fn deployment(replicas: i64) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"namespace": "shop", "name": "svc-a", "uid": "u1", "resourceVersion": "7", "generation": 1,
                         "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"replicas": replicas, "template": {"metadata": {"labels": {"app": "svc-a"}}, "spec": {}}},
        })
    }

    fn runbook(r#type: StepType, scale: Option<ResolvedScale>) -> RunbookSnapshot {
        RunbookSnapshot {
            name: "scale-up".into(),
            service_account_name: "remediator".into(),
            step: "scale".into(),
            r#type,
            scale,
            timeout: Duration::from_secs(30),
            retry: Retry::default(),
            circuit_breaker: CircuitBreaker::default(),
            git_ops: GitOps::default(),
        }
    }

    fn bounds(min_replicas: Option<i32>, max_replicas: Option<i32>) -> ResolvedScale {
        let under_autoscaler = UnderAutoscaler::default();
        ResolvedScale { delta: None, replicas: None, min_replicas, max_replicas, under_autoscaler }
    }

    fn by(delta: i32, min: Option<i32>, max: Option<i32>) -> RunbookSnapshot {
        let scale = ResolvedScale { delta: Some(delta), replicas: None, ..bounds(min, max) };
        runbook(StepType::Scale, Some(scale))
    }

    fn to(replicas: i32, min: Option<i32>, max: Option<i32>) -> RunbookSnapshot {
        let scale = ResolvedScale { delta: None, replicas: Some(replicas), ..bounds(min, max) };
        runbook(StepType::Scale, Some(scale))
    }

    fn id() -> ActionId {
        ActionId::try_from("abc".to_owned()).unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-01T12:00:00Z".parse().unwrap()
    }

    fn of(state: &TargetState) -> Subject<'_> {
        Subject { state, object: None, undone: None }
    }

    pub(in crate::actions) fn read(object: &Value) -> TargetState {
        let (api_version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        TargetState::read(object, &Workload::known(api_version, kind).unwrap()).unwrap()
    }

    fn plan_for(runbook: &RunbookSnapshot, object: &Value) -> Result<Planned, Refusal> {
        plan(&id(), runbook, &of(&read(object)), now(), "me", now())
    }

    fn apply(object: &Value, patch: &Value) -> Result<Value, json_patch::PatchError> {
        let mut object = object.clone();
        json_patch::patch(&mut object, &serde_json::from_value::<json_patch::Patch>(patch.clone()).unwrap())?;
        Ok(object)
    }

    #[test]
    fn a_scale_changes_replicas_and_writes_the_ring_in_one_patch() {
        let object = deployment(3);
        let planned = plan_for(&by(1, None, Some(10)), &object).unwrap();
        let after = apply(&object, &planned.patch).unwrap();
        assert_eq!((after["spec"]["replicas"].as_i64(), planned.plan.what.as_str()), (Some(4), "3 → 4"));
        let state = read(&after);
        assert_eq!(state.ring.unwrap().mark(&id()), Some(Mark::Applied));
        assert_eq!(state.template_hash, planned.plan.template_hash);
    }

    #[test]
    fn a_restart_changes_the_template_only_and_keeps_its_annotations() {
        let mut object = deployment(3);
        object["spec"]["template"]["metadata"]["annotations"] = json!({"a": "b"});
        object["metadata"]["annotations"] = json!({"c": "d"});
        let planned = plan_for(&runbook(StepType::Restart, None), &object).unwrap();
        let after = apply(&object, &planned.patch).unwrap();
        assert_eq!(
            after["spec"]["template"]["metadata"]["annotations"],
            json!({"a": "b", ANNOTATION_RESTARTED_BY: "abc"})
        );
        assert_eq!((&after["metadata"]["annotations"]["c"], &after["spec"]["replicas"]), (&json!("d"), &json!(3)));
    }

    #[test]
    fn bounds_hold_and_never_turn_a_step_around() {
        for (delta, min, max, from, to) in [
            (1, None, Some(10), 3, Some(4)),
            (5, None, Some(6), 3, Some(6)),
            (1, None, Some(3), 3, None),
            (1, None, Some(2), 3, None),
            (-1, Some(3), None, 3, None),
            (-1, Some(5), None, 3, None),
            (-5, None, None, 3, Some(0)),
            (-5, None, None, 0, None),
        ] {
            let planned = plan_for(&by(delta, min, max), &deployment(from));
            let got = planned.ok().map(|planned| planned.plan.what);
            assert_eq!(got, to.map(|to| format!("{from} → {to}")), "{delta} {min:?} {max:?}");
        }
    }

    #[test]
    fn a_scale_to_a_number_goes_up_or_down_to_it_within_the_bounds() {
        for (replicas, min, max, from, after) in [
            (7, None, None, 3, Some(7)),
            (1, None, None, 3, Some(1)),
            (0, None, None, 3, Some(0)),
            (7, None, Some(5), 3, Some(5)),
            (0, Some(2), None, 3, Some(2)),
            (3, None, None, 3, None),
            (7, None, Some(3), 3, None),
            (7, None, Some(5), 9, Some(5)),
        ] {
            let planned = plan_for(&to(replicas, min, max), &deployment(from));
            let got = planned.ok().map(|planned| planned.plan.what);
            assert_eq!(got, after.map(|to| format!("{from} → {to}")), "{replicas} {min:?} {max:?} from {from}");
        }
    }

    /// Whoever writes a custom resource, or edits an Action, may write any number.
    #[test]
    fn the_largest_numbers_are_numbers_too() {
        for (delta, from) in [(1, i64::MAX), (-1, i64::MIN), (i32::MIN, i64::MIN)] {
            assert!(matches!(plan_for(&by(delta, None, None), &deployment(from)), Err(Refusal::NothingToDo(_))));
        }
        let object = deployment(4);
        let undone = |generation: i64| ActionPlan {
            from: Some(3),
            to: Some(4),
            generation: Some(generation),
            ring_counter: i64::MAX,
            ..plan_for(&by(1, None, None), &object).unwrap().plan
        };
        let state = read(&object);
        let back = |undone: &ActionPlan| {
            let subject = Subject { undone: Some(undone), ..of(&state) };
            plan(&id(), &runbook(StepType::ScaleBack, None), &subject, now(), "me", now())
        };
        assert!(matches!(back(&undone(i64::MAX)), Err(Refusal::Changed(_))));
        assert!(back(&undone(0)).is_ok());
    }

    #[test]
    fn what_the_ring_knows_is_not_planned_again() {
        for (ring, mark) in [("7 abc:5", Mark::Applied), ("7 abc:5:aborted", Mark::Aborted)] {
            let mut object = deployment(3);
            object["metadata"]["annotations"] = json!({ANNOTATION_APPLIED: ring});
            assert_eq!(plan_for(&by(1, None, None), &object), Err(Refusal::Known(mark)));
            assert_eq!(plan_for(&runbook(StepType::Restart, None), &object), Err(Refusal::Known(mark)));
        }
    }

    #[test]
    fn a_plan_that_misses_what_the_ring_knows_is_noticed() {
        let mut object = deployment(3);
        object["metadata"]["annotations"] = json!({ANNOTATION_APPLIED: "7 abc:5"});
        let planned = || plan_for(&by(1, None, None), &object).is_ok();
        assert_eq!((planned(), crate::mutants::with(Mutant::RingNotRead, planned)), (false, true));
    }

    /// Each of the two tests of a patch alone keeps it from an object that has the target's name and is another one.
    #[test]
    fn a_patch_that_tests_neither_uid_nor_version_is_noticed() {
        let lands = |uid: &str, version: &str| {
            let mut object = deployment(3);
            (object["metadata"]["uid"], object["metadata"]["resourceVersion"]) = (json!(uid), json!(version));
            apply(&object, &plan_for(&by(1, None, None), &deployment(3)).unwrap().patch).is_ok()
        };
        assert_eq!(
            (lands("u1", "7"), lands("u1", "8"), lands("u2", "7"), lands("u2", "8")),
            (true, false, false, false)
        );
        assert!(!crate::mutants::with(Mutant::VersionNotTested, || lands("u2", "8")));
        assert!(crate::mutants::with(Mutant::UidNotTested, || lands("u2", "8")));
    }

    #[test]
    fn an_edited_annotation_is_refused_by_plan_and_fence() {
        let mut object = deployment(3);
        object["metadata"]["annotations"] = json!({ANNOTATION_APPLIED: "mine"});
        assert!(matches!(plan_for(&by(1, None, None), &object), Err(Refusal::Malformed(_))));
        let state = read(&object);
        assert!(matches!(fence(&id(), &state, now(), now()), Err(Refusal::Malformed(_))));
    }

    #[test]
    fn after_the_fence_a_late_patch_does_not_apply() {
        let object = deployment(3);
        let late = plan_for(&by(1, None, None), &object).unwrap().patch;
        let fence = fence(&id(), &read(&object), now(), now()).unwrap();
        let mut fenced = apply(&object, &fence).unwrap();
        fenced["metadata"]["resourceVersion"] = json!("8");
        assert_eq!(read(&fenced).ring.unwrap().mark(&id()), Some(Mark::Aborted));
        assert!(apply(&fenced, &late).is_err());
    }

    proptest! {
        #[test]
        fn a_patch_applies_once_to_the_very_object_it_was_planned_for(
            from in 0_i64..50, delta in prop_oneof![-5_i32..=-1, 1_i32..=5], version in 1_u32..9, uid in 1_u8..4, annotated: bool,
        ) {
            let mut object = deployment(from);
            if annotated {
                object["metadata"]["annotations"] = json!({"x/y~z": "1"});
            }
            if let Ok(planned) = plan_for(&by(delta, None, None), &object) {
                let mut other = object.clone();
                other["metadata"]["resourceVersion"] = json!(version.to_string());
                other["metadata"]["uid"] = json!(format!("u{uid}"));
                let applied = apply(&other, &planned.patch);
                prop_assert_eq!(applied.is_ok(), version == 7 && uid == 1);
                let mut once = apply(&object, &planned.patch).unwrap();
                once["metadata"]["resourceVersion"] = json!("8");
                prop_assert!(apply(&once, &planned.patch).is_err());
                prop_assert_eq!(once["spec"]["replicas"].as_i64().unwrap(), (from + i64::from(delta)).max(0));
            }
        }
    }
}
