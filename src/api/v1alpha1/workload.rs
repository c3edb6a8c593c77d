//! Kinds that actions act on: what each of them has, in one table. What is not in it may be a custom kind, of which the API server
//! tells.

use std::borrow::Cow;

use super::StepType;

/// Where a kind keeps the number that a `Scale` changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// JSON pointer to the number.
    pub pointer: Cow<'static, str>,
    /// What the API server takes it for where it is not set; none where nobody can say.
    pub default: Option<i64>,
    /// The least that it may be.
    pub least: i64,
    /// JSON pointer to the most that it may be, where the object says so itself.
    pub most: Option<&'static str>,
    /// JSON pointer to the number in use, where that may be above it: what is to be raised is raised from there.
    pub in_use: Option<&'static str>,
}

/// What a kind of object has of what an action needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its resource, as in the API server's paths.
    pub resource: Cow<'static, str>,
    /// Where its replicas are counted; none for a kind that cannot be scaled.
    pub count: Option<Count>,
    /// Whether it rolls its pods when the annotations of `/spec/template` change.
    pub restarts: bool,
    /// Annotation with its revision. Without one, generation and template tell what was rolled back.
    pub revision: Option<&'static str>,
    /// Whether every change of its spec lets `metadata.generation` grow, on every API server. Where it does not, only an unmoved
    /// resourceVersion shows that nothing was changed.
    pub keeps_generation: bool,
}

/// One line of the table.
struct Line {
    api_version: &'static str,
    kind: &'static str,
    resource: &'static str,
    scales: bool,
    restarts: bool,
    revision: Option<&'static str>,
}

/// A DaemonSet has a pod for each node and no replicas. ReplicaSets and ReplicationControllers leave running pods as they are when
/// their template changes. Generations, read in kubernetes' own sources (`PrepareForUpdate` of each kind): all of these let it grow
/// with the spec; a Deployment with its annotations too.
const TABLE: [Line; 5] = [
    Line {
        api_version: "apps/v1",
        kind: "Deployment",
        resource: "deployments",
        scales: true,
        restarts: true,
        revision: Some("deployment.kubernetes.io/revision"),
    },
    Line {
        api_version: "apps/v1",
        kind: "StatefulSet",
        resource: "statefulsets",
        scales: true,
        restarts: true,
        revision: None,
    },
    Line {
        api_version: "apps/v1",
        kind: "DaemonSet",
        resource: "daemonsets",
        scales: false,
        restarts: true,
        revision: None,
    },
    Line {
        api_version: "apps/v1",
        kind: "ReplicaSet",
        resource: "replicasets",
        scales: true,
        restarts: false,
        revision: None,
    },
    Line {
        api_version: "v1",
        kind: "ReplicationController",
        resource: "replicationcontrollers",
        scales: true,
        restarts: false,
        revision: None,
    },
];

/// For people: what `Restart` acts on.
const RESTARTS: &str = "apps/v1 Deployment, StatefulSet and DaemonSet";
/// For people: what `Scale` and `ScaleBack` act on.
const SCALES: &str = "apps/v1 Deployment, StatefulSet and ReplicaSet, v1 ReplicationController, and custom kinds with a scale \
                      subresource";

impl Workload {
    /// What the table has of a kind.
    pub fn known(api_version: &str, kind: &str) -> Option<Self> {
        let line = TABLE.iter().find(|line| line.api_version == api_version && line.kind == kind)?;
        Some(Self {
            resource: line.resource.into(),
            count: line.scales.then(|| Count {
                pointer: "/spec/replicas".into(),
                default: Some(1),
                least: 0,
                most: None,
                in_use: None,
            }),
            restarts: line.restarts,
            revision: line.revision,
            keeps_generation: true,
        })
    }

    /// A HorizontalPodAutoscaler (autoscaling/v2): its least number of replicas is what an action may change. It has no generation
    /// on API servers without the feature `HPAGeneration`.
    pub fn autoscaler() -> Self {
        Self {
            resource: "horizontalpodautoscalers".into(),
            count: Some(Count {
                pointer: "/spec/minReplicas".into(),
                default: Some(1),
                least: 1,
                most: Some("/spec/maxReplicas"),
                in_use: Some("/status/desiredReplicas"),
            }),
            restarts: false,
            revision: None,
            keeps_generation: false,
        }
    }

    /// A custom kind, as its definition has it: `replicas_path` like `.spec.replicas`. None for a path that cannot be one.
    pub fn custom(resource: &str, replicas_path: &str) -> Option<Self> {
        let parts: Vec<&str> = replicas_path.strip_prefix('.')?.split('.').collect();
        // As the API server checks definitions: below the spec, no lists.
        let is_field = |part: &&str| !part.is_empty() && !part.contains(['[', ']', '/', '~', '\'', '"', '*', '@']);
        if parts.len() < 2 || parts[0] != "spec" || !parts.iter().all(is_field) {
            return None;
        }
        Some(Self {
            resource: resource.to_owned().into(),
            count: Some(Count {
                pointer: format!("/{}", parts.join("/")).into(),
                default: None,
                least: 0,
                most: None,
                in_use: None,
            }),
            restarts: false,
            revision: None,
            keeps_generation: true,
        })
    }

    /// Whether an API version may be of a custom kind: their groups have a dot (`apiextensions.k8s.io`), and none of Kubernetes' own
    /// groups with one has a kind that scales.
    pub fn may_be_custom(api_version: &str) -> bool {
        api_version.split_once('/').is_some_and(|(group, _)| group.contains('.') && !group.ends_with(".k8s.io"))
    }

    /// Why a step of this type cannot act on this kind; none where it can.
    pub fn refuses(&self, step: StepType, api_version: &str, kind: &str) -> Option<String> {
        match step {
            StepType::Scale | StepType::ScaleBack if self.count.is_none() => {
                Some(format!("{api_version} {kind} has no replicas to scale; {step:?} acts on {SCALES}"))
            }
            StepType::Restart if !self.restarts => {
                Some(format!("{api_version} {kind} cannot be restarted; Restart acts on {RESTARTS}"))
            }
            _ => None,
        }
    }
}

/// Whether a step may act on a kind, as far as the table knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// It can.
    Fits(Workload),
    /// It cannot, whatever the API server serves.
    Unfit(String),
    /// It may be a custom kind: the API server has to be asked.
    Ask,
}

impl StepType {
    /// Whether a step of this type can act on objects of this API version and kind.
    pub fn fitness(self, api_version: &str, kind: &str) -> Fitness {
        match Workload::known(api_version, kind) {
            Some(known) => match known.refuses(self, api_version, kind) {
                Some(why) => Fitness::Unfit(why),
                None => Fitness::Fits(known),
            },
            None if self != StepType::Restart && Workload::may_be_custom(api_version) => Fitness::Ask,
            None => {
                let acts_on = if self == StepType::Restart { RESTARTS } else { SCALES };
                Fitness::Unfit(format!("{self:?} cannot act on {api_version} {kind}; supported: {acts_on}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_step_can_do_to_each_kind_is_told_by_one_table() {
        use StepType::{Restart, Scale, ScaleBack};
        for (api_version, kind, scales, restarts) in [
            ("apps/v1", "Deployment", true, true),
            ("apps/v1", "StatefulSet", true, true),
            ("apps/v1", "DaemonSet", false, true),
            ("apps/v1", "ReplicaSet", true, false),
            ("v1", "ReplicationController", true, false),
        ] {
            for (step, fits) in [(Scale, scales), (ScaleBack, scales), (Restart, restarts)] {
                let fitness = step.fitness(api_version, kind);
                assert_eq!(matches!(fitness, Fitness::Fits(_)), fits, "{step:?} {kind}: {fitness:?}");
                assert_eq!(matches!(&fitness, Fitness::Unfit(why) if why.contains(kind)), !fits, "{fitness:?}");
            }
        }
        for (api_version, kind) in [("v1", "Pod"), ("apps/v1", "Job"), ("apps/v2", "Deployment"), ("batch/v1", "Job")] {
            for step in [Scale, ScaleBack, Restart] {
                assert!(matches!(step.fitness(api_version, kind), Fitness::Unfit(_)), "{api_version} {kind}");
            }
        }
        for (step, fitness) in [(Scale, true), (ScaleBack, true), (Restart, false)] {
            assert_eq!(step.fitness("argoproj.io/v1alpha1", "Rollout") == Fitness::Ask, fitness, "{step:?}");
        }
        assert_ne!(Scale.fitness("networking.k8s.io/v1", "Ingress"), Fitness::Ask);
    }

    #[test]
    fn a_path_of_replicas_becomes_a_pointer_or_nothing() {
        for (path, pointer) in [
            (".spec.replicas", Some("/spec/replicas")),
            (".spec.group.size", Some("/spec/group/size")),
            ("spec.replicas", None),
            (".spec", None),
            (".spec.", None),
            (".status.replicas", None),
            (".metadata.generation", None),
            (".spec..replicas", None),
            (".spec.groups[0].replicas", None),
            (".spec['a/b']", None),
            (".spec.a~b", None),
            ("", None),
        ] {
            let found = Workload::custom("widgets", path).and_then(|kind| kind.count).map(|count| count.pointer);
            assert_eq!(found.as_deref(), pointer, "{path}");
        }
    }
}
