//! The claim: the Action exists before anything is sent, and only one can be created of each id (promise 2).

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use tokio::time::timeout;

use super::{
    look::Asked,
    plan::Planned,
    run::wait_until,
    service::{Actions, CLAIM_SKEW},
};
use crate::{
    api::v1alpha1::{
        Action, ActionSpec, FINALIZER_CLAIM, LABEL_INCIDENT, LABEL_RULE, LocalReference, RunbookSnapshot,
        TargetReference,
    },
    crash_points::{Point, reached},
    events::{ActionRequested, NamespacedName, is_urgent},
    mutants::{Mutant, mutated},
    runtime::{
        ApiFailure, StoreError,
        failing::Operation,
        kube_api::{CALL_TIMEOUT, ask},
        places::without_places,
        random::exponential,
    },
};

/// How long the read for a plan may hold up a claim.
const FIRST_PLAN_TIMEOUT: Duration = Duration::from_secs(2);

/// How young a request is that can hardly come for the second time, after a crash.
const JUST_NOW: SignedDuration = SignedDuration::from_secs(2);

/// One target: its actions run one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TargetKey {
    pub namespace: String,
    pub target: TargetReference,
}

impl TargetKey {
    pub(super) fn of(action: &Action) -> Self {
        Self { namespace: action.metadata.namespace.clone().unwrap_or_default(), target: action.spec.target.clone() }
    }

    /// The key of action.requested: `namespace/kind/name` (design, section 3).
    pub(super) fn event_key(&self) -> String {
        format!("{}/{}/{}", self.namespace, self.target.kind, self.target.name)
    }
}

/// An action's place among those of its target: one that has planned keeps its turn, the others follow by (decidedAt, action_id).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    pub unplanned: bool,
    pub decided_at: Timestamp,
    pub action: String,
}

impl Turn {
    pub(super) fn of(action: &Action) -> Self {
        let planned =
            action.spec.plan.is_some() || action.status.as_ref().is_some_and(|status| !status.plans.is_empty());
        let action_name = action.metadata.name.clone().unwrap_or_default();
        Self { unplanned: !planned, decided_at: action.spec.decided_at, action: action_name }
    }
}

/// The unfinished actions of each target, and plans that were made with their claims and not yet sent.
#[derive(Default)]
pub(super) struct Queues {
    waiting: Mutex<HashMap<TargetKey, BTreeSet<Turn>>>,
    fresh: Mutex<HashMap<NamespacedName, Planned>>,
}

impl Queues {
    /// Puts an action in its place. True when it is the only one of its target.
    pub(super) fn add(&self, key: &TargetKey, turn: Turn) -> bool {
        let mut waiting = lock(&self.waiting);
        let turns = waiting.entry(key.clone()).or_default();
        turns.retain(|known| known.action != turn.action);
        turns.insert(turn);
        turns.len() == 1
    }

    pub(super) fn first(&self, key: &TargetKey) -> Option<Turn> {
        lock(&self.waiting).get(key).and_then(|turns| turns.first().cloned())
    }

    /// The one after which it is this action's turn.
    pub(super) fn before(&self, key: &TargetKey, action: &str) -> Option<Turn> {
        let waiting = lock(&self.waiting);
        let turns = waiting.get(key)?;
        let own = turns.iter().find(|turn| turn.action == action)?;
        turns.range(..own).next_back().cloned()
    }

    pub(super) fn remove(&self, key: &TargetKey, action: &str) {
        let mut waiting = lock(&self.waiting);
        if let Some(turns) = waiting.get_mut(key) {
            turns.retain(|turn| turn.action != action);
            if turns.is_empty() {
                waiting.remove(key);
            }
        }
    }

    /// How many actions are under way or wait.
    pub(super) fn len(&self) -> usize {
        lock(&self.waiting).values().map(BTreeSet::len).sum()
    }

    pub(super) fn keep_plan(&self, name: NamespacedName, planned: Planned) {
        lock(&self.fresh).insert(name, planned);
    }

    pub(super) fn take_plan(&self, name: &NamespacedName) -> Option<Planned> {
        lock(&self.fresh).remove(name)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What became of a claim.
#[derive(Debug)]
pub(super) enum Claim {
    /// The Action exists, created now or before: the request's offset may be stored.
    Exists(Box<Action>),
    /// The API server refuses it for good.
    Refused(ApiFailure),
    /// The process stops.
    Shutdown,
}

impl Actions {
    /// Creates the Action, with its first plan where nothing else of the target waits.
    pub(super) async fn claim(&self, request: &ActionRequested, data: &str, traceparent: Option<String>) -> Claim {
        if !self.is_taken_up().await {
            return Claim::Shutdown;
        }
        let namespace = request.incident.rule.namespace.clone();
        let name = NamespacedName { namespace: namespace.clone(), name: request.action_id.to_string() };
        if let Some(known) = self.store.get(&name) {
            return Claim::Exists(Box::new(known.as_ref().clone()));
        }
        let key = TargetKey { namespace: namespace.clone(), target: request.target.clone() };
        let turn = Turn { unplanned: true, decided_at: request.decided_at, action: name.name.clone() };
        let alone = self.queues.add(&key, turn);
        let (claim, planned) = match self.runbook_when_known(request).await {
            Ok(runbook) => {
                let planned = match &runbook {
                    Some(runbook) if alone => self.first_plan(request, runbook).await,
                    _ => None,
                };
                let action = claim_of(request, data, traceparent, runbook, planned.as_ref());
                (self.create(&name, &action, &request.incident.severity, give_up_at(request)).await, planned)
            }
            Err(none) => (none, None),
        };
        match (&claim, planned) {
            // Only the very object that holds this plan may be run by it.
            (Claim::Exists(stored), Some(planned)) if stored.spec.plan.as_ref() == Some(&planned.plan) => {
                self.queues.keep_plan(name, planned);
            }
            (Claim::Exists(stored), _) if !is_terminal(stored) => {}
            _ => self.queues.remove(&key, &name.name),
        }
        claim
    }

    /// Waits until the unfinished actions of every partition that was taken over are in the queues: until then nobody knows which
    /// one is alone on its target. False on shutdown.
    async fn is_taken_up(&self) -> bool {
        let taken_over = *self.ownership.takeovers().borrow();
        let mut taken_up = self.taken_up.subscribe();
        tokio::select! {
            () = self.ctx.shutdown.cancelled() => false,
            reached = taken_up.wait_for(|count| *count >= taken_over) => reached.is_ok(),
        }
    }

    /// The claim never changes, so that there is no runbook for it must be known, not guessed.
    async fn runbook_when_known(&self, request: &ActionRequested) -> Result<Option<RunbookSnapshot>, Claim> {
        let mut retry = 0;
        loop {
            match self.runbook_of(request).await {
                Ok(runbook) => return Ok(runbook),
                Err(failure) => self.try_later(Some(failure), give_up_at(request), &mut retry).await?,
            }
        }
    }

    /// None when there is anything to say but "this is to be sent": the run finds it again and says it. The claim must not wait for
    /// long, either.
    async fn first_plan(&self, request: &ActionRequested, runbook: &RunbookSnapshot) -> Option<Planned> {
        let now = self.ctx.clock.now();
        if now >= request.deadline && !mutated(Mutant::StaleRuns) || self.breaker_is_open(request) {
            return None;
        }
        let prepare = async {
            let Ok(false) = self.is_suspended(request).await else { return None };
            // What has just been decided is not over yet. An older request may be one that comes again.
            if now.duration_since(request.decided_at) > JUST_NOW {
                let Ok(None) = self.over(request).await else { return None };
            }
            let asked = Asked {
                namespace: &request.incident.rule.namespace,
                request,
                runbook,
                plans: &[],
                beside_breaker: false,
            };
            let target = self.read_state(&asked, &request.target).await.ok()?;
            self.prepare(&asked, &target, None).await.ok()
        };
        timeout(FIRST_PLAN_TIMEOUT, prepare).await.ok()?
    }

    /// Tries until it exists, the server refuses it for good, or `give_up_at`: one namespace in which nothing can be created must
    /// not hold up its partition for ever. Should a late create still land, the Action is found and ends as stale.
    async fn create(&self, name: &NamespacedName, action: &Action, severity: &str, give_up_at: Timestamp) -> Claim {
        let api: Api<Action> = Api::namespaced(self.ctx.kube.clone(), &name.namespace);
        let (urgent, mut retry) = (is_urgent(severity), 0);
        if mutated(Mutant::ClaimNotCreated) {
            self.store.cache().upsert(action.clone());
            return Claim::Exists(Box::new(action.clone()));
        }
        loop {
            let mut problem = None;
            let params = PostParams::default();
            reached(Point::BeforeCreate, "Action");
            let create = ask(&self.ctx.health, CALL_TIMEOUT, api.create(&params, action));
            let create = Box::pin(self.ctx.way.first_write(urgent, create));
            let left = wait_until(give_up_at, self.ctx.clock.now());
            let (created, pause) = self.store.failing().write(&name.namespace, Operation::Create, left, create).await;
            if created.is_ok() {
                reached(Point::Created, "Action");
            }
            match created {
                Ok(created) => {
                    self.store.cache().upsert(created.clone());
                    return Claim::Exists(Box::new(created));
                }
                // What is given up may have taken effect all the same.
                Err(failure) if pause.is_given_up || matches!(failure, ApiFailure::AlreadyExists(_)) => {
                    match self.store.fetch(name).await {
                        Ok(Some(existing)) => return Claim::Exists(Box::new(existing.as_ref().clone())),
                        Ok(None) if pause.is_given_up => return Claim::Refused(failure),
                        Ok(None) => {}
                        Err(StoreError::Refused { failure, .. }) => return Claim::Refused(failure),
                        Err(StoreError::Shutdown) => return Claim::Shutdown,
                    }
                }
                // Not found is the namespace.
                Err(failure @ (ApiFailure::Refused { .. } | ApiFailure::NotFound(_))) => {
                    return Claim::Refused(failure);
                }
                Err(failure) => problem = Some(failure),
            }
            if let Err(none) = self.try_later(problem, give_up_at, &mut retry).await {
                return none;
            }
        }
    }

    /// Waits before the next try; fails when there is none.
    async fn try_later(
        &self,
        problem: Option<ApiFailure>,
        give_up_at: Timestamp,
        retry: &mut u32,
    ) -> Result<(), Claim> {
        let has_failed = matches!(problem, Some(ApiFailure::Failed(_)));
        if let Some(failure) = problem
            && self.ctx.clock.now() >= give_up_at
        {
            return Err(Claim::Refused(failure));
        }
        if self.ctx.shutdown.is_cancelled() {
            return Err(Claim::Shutdown);
        }
        let limit = exponential(self.config.backoff_initial, self.config.backoff_max, *retry);
        let wait = tokio::time::sleep(self.ctx.random.up_to(limit));
        if has_failed {
            without_places(wait).await;
        } else {
            wait.await;
        }
        *retry += 1;
        Ok(())
    }
}

pub(super) fn is_terminal(action: &Action) -> bool {
    action.status.as_ref().is_some_and(|status| status.phase.is_terminal())
}

/// After this, a claim would only say that it came too late. Rules ask again for a step that is overdue.
fn give_up_at(request: &ActionRequested) -> Timestamp {
    request.deadline.saturating_add(CLAIM_SKEW).unwrap_or(request.deadline)
}

fn claim_of(
    request: &ActionRequested,
    data: &str,
    traceparent: Option<String>,
    runbook: Option<RunbookSnapshot>,
    planned: Option<&Planned>,
) -> Action {
    let incident = &request.incident;
    let labels = [
        (LABEL_RULE.to_owned(), incident.rule.name.clone()),
        (LABEL_INCIDENT.to_owned(), incident.incident_id.to_string()),
    ];
    Action {
        metadata: ObjectMeta {
            namespace: Some(incident.rule.namespace.clone()),
            name: Some(request.action_id.to_string()),
            labels: Some(labels.into()),
            finalizers: Some(vec![FINALIZER_CLAIM.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: ActionSpec {
            incident_ref: LocalReference { name: incident.incident_id.to_string() },
            rule_ref: LocalReference { name: incident.rule.name.clone() },
            step: request.step.clone(),
            attempt: i32::try_from(request.attempt).unwrap_or(i32::MAX),
            target: request.target.clone(),
            runbook,
            decided_at: request.decided_at,
            deadline: request.deadline,
            plan: planned.map(|planned| planned.plan.clone()),
            request: data.to_owned(),
            traceparent,
        },
        status: None,
    }
}
