//! An incident from its opening to its end: the ladder, the messages, what closes.

use jiff::{SignedDuration, Timestamp};

use super::{Adopted, Turn, alerts::is_closed, count};
use crate::{
    api::v1alpha1::{
        EndedEpisode, Episode, EpisodeEnd, GroupAlert, IncidentEvent, LadderStep, Repetition, ResolveOn, RuleSnapshot,
        StepOutcome, StepState,
    },
    compile::{Plan, one_line},
    events::{
        ActionCompleted, ActionFailed, ActionFailureReason, ActionId, AlertStatus, IncidentHeader, IncidentId,
        IncidentPhase, IncidentUpdated, NotificationContext, ResolvedReason, UpdateCause,
    },
    expression::{AlertFacts, Scope},
    mutants::{Mutant, mutated},
    rules::input::{RaisedAlert, plus},
};

/// How long after its deadline a step should have answered.
const OVERDUE_GRACE_S: i64 = 60;
/// Which try of a step it is. A step is tried once: what follows a failure is the next step. Only one that a suspended rule let go
/// before anything was sent is asked for anew.
const FIRST_ATTEMPT: i32 = 1;
/// So often at most (promise 6); then it counts as failed.
const ATTEMPTS_MAX: i32 = 8;
/// How long after it was let go for the second time; then twice as long each time, so that its tries last longer than a watch may be
/// behind (two minutes in all).
const ASKED_ANEW_AFTER: SignedDuration = SignedDuration::from_secs(2);
/// The most bytes of what another service says, in a message's context.
const MESSAGE_MAX: usize = 256;

impl Turn<'_> {
    /// Opens an incident from one alert. Everything that waits belongs to it, too (promise 3).
    pub(super) fn open(&mut self, mut alert: GroupAlert, plan: Plan, traceparent: Option<String>) {
        let incident_id = IncidentId::new(&self.key.rule.name, &self.key.correlation, &alert.alert_id);
        // One that was held back says nothing of how fast we are.
        let accepted_at = alert.facts.is_none().then_some(alert.accepted_at);
        alert.in_episode = true;
        alert.facts = None;
        self.store_alert(alert);
        for waiting in self.group.alerts.iter_mut().filter(|alert| is_waiting(alert)) {
            waiting.in_episode = true;
            waiting.facts = None;
        }
        self.group.cooldown_until = None;
        self.group.episode = Some(Episode {
            accepted_at,
            alert_count: count(&self.group.alerts, |alert| alert.in_episode),
            traceparent,
            ..opened(incident_id, self.now, plan)
        });
        self.say_opened();
        self.notify(IncidentEvent::Opened, "Opened", NotificationContext::default());
        self.request_next_step();
    }

    /// Opens from an alert that was held back and still fires, when nothing holds it any more.
    pub(super) fn open_held(&mut self) {
        let cooling = self.group.cooldown_until.is_some_and(|until| self.now < until);
        let held = cooling || self.rule.storm || self.rule.behind || !self.acts();
        let Some(rule) = self.rule.rule.filter(|_| !held) else { return };
        let mut waiting: Vec<GroupAlert> =
            self.group.alerts.iter().filter(|alert| is_waiting(alert) && alert.facts.is_some()).cloned().collect();
        waiting.sort_by(|a, b| (a.starts_at, &a.fingerprint).cmp(&(b.starts_at, &b.fingerprint)));
        for alert in waiting {
            let Some(facts) = &alert.facts else { continue };
            let scope = Scope::default().with_alert(&AlertFacts {
                labels: &facts.labels,
                annotations: &facts.annotations,
                status: alert.status,
                starts_at: alert.starts_at,
                ends_at: alert.ends_at,
                fingerprint: &alert.fingerprint,
                source: &alert.source,
            });
            // The rule may have been edited since, so that it does not match any more.
            if !rule.matches_labels(&facts.labels) || !rule.conditions_hold(&scope).unwrap_or_default() {
                continue;
            }
            if let Ok(plan) = rule.plan(&scope, &facts.labels) {
                self.open(alert, plan, None);
                return;
            }
        }
    }

    /// Takes an incident over that is open under the same correlation, so that no second one opens (promise 3).
    pub(super) fn adopt(&mut self, adopted: &Adopted, raised: &RaisedAlert) {
        let scope = crate::rules::matching::scope_of(&raised.alert, &raised.fingerprint);
        let rule = self.rule.rule.and_then(|rule| rule.plan(&scope, &raised.alert.labels).ok()).map(|plan| plan.rule);
        let rule = rule.unwrap_or(RuleSnapshot {
            uid: String::new(),
            generation: 0,
            resolve_on: ResolveOn::AlertResolved,
            ladder: Vec::new(),
            on_resolved: Vec::new(),
            notifications: Vec::new(),
            cooldown: Default::default(),
            expire_after: crate::api::v1alpha1::Duration::from_millis(
                u64::try_from(self.expire_after().as_millis()).unwrap_or_default(),
            ),
        });
        let now = self.now;
        let steps = adopted_steps(adopted, &rule, now);
        // Nothing is under way: either its first step was never requested, or the one after a failure was not.
        let next = rule.ladder.get(steps.len());
        let step_pending = adopted.phase < IncidentPhase::Failed
            && adopted.steps.iter().all(|(_, _, outcome)| *outcome == StepOutcome::Failed)
            && next.is_some_and(|next| steps.iter().all(|step| step.step != next.name));
        let expires_at = plus(now, self.expire_after());
        for link in &adopted.alerts {
            self.store_alert(GroupAlert {
                fingerprint: link.fingerprint.clone(),
                source: raised.alert.source.clone(),
                alert_id: link.alert_id.clone(),
                starts_at: link.starts_at,
                last_starts_at: link.starts_at,
                ends_at: (link.status == AlertStatus::Resolved).then_some(now),
                status: link.status,
                accepted_at: adopted.opened_at,
                expires_at: (link.status == AlertStatus::Firing).then_some(expires_at),
                in_episode: true,
                closed_through: None,
                facts: None,
            });
        }
        self.group.episode = Some(Episode {
            incident_id: adopted.incident_id.clone(),
            opened_at: adopted.opened_at,
            accepted_at: None,
            severity: adopted.severity.clone(),
            summary: adopted.summary.clone(),
            phase: adopted.phase,
            alert_count: count(&self.group.alerts, |alert| alert.in_episode),
            approximate: false,
            traceparent: raised.traceparent.clone(),
            rule,
            steps,
            step_pending,
            pending_until: None,
            failed_at: (adopted.phase == IncidentPhase::Failed).then_some(now),
            repetitions: Vec::new(),
            expired: false,
        });
        if adopted.phase == IncidentPhase::Failed {
            self.start_repetitions();
        }
    }

    pub(super) fn completed(&mut self, result: &ActionCompleted) {
        let Some(index) = self.step_of(&result.incident, &result.action_id, &result.step, result.attempt) else {
            return;
        };
        let Some(episode) = &mut self.group.episode else { return };
        let step = &mut episode.steps[index];
        if step.outcome == StepOutcome::Completed {
            self.certain = true;
            return;
        }
        step.outcome = StepOutcome::Completed;
        step.overdue_at = None;
        episode.step_pending = false;
        episode.pending_until = None;
        if result.resolves {
            let context = NotificationContext {
                target: Some(result.target.display()),
                step: Some(result.step.clone()),
                message: Some(cut(&result.what)),
                ..NotificationContext::default()
            };
            self.end(EpisodeEnd::ActionCompleted, context);
        }
    }

    pub(super) fn failed(&mut self, result: &ActionFailed) {
        if result.reason == ActionFailureReason::IncidentResolved {
            // Whoever resolved it says so by itself; nothing follows from a step that nobody needs any more.
            self.certain = true;
            return;
        }
        let Some(index) = self.step_of(&result.incident, &result.action_id, &result.step, result.attempt) else {
            return;
        };
        let Some(episode) = &mut self.group.episode else { return };
        let step = &mut episode.steps[index];
        let known = step.outcome != StepOutcome::Requested && !mutated(Mutant::KnownFailureCounts);
        if known {
            self.certain = true;
            return;
        }
        step.outcome = StepOutcome::Failed;
        step.reason = Some(result.reason);
        step.overdue_at = None;
        if result.reason == ActionFailureReason::Suspended && step.attempt < ATTEMPTS_MAX {
            // Nothing was sent: the step waits for the rule, as one does that was never requested.
            let again = u32::try_from(step.attempt - FIRST_ATTEMPT).unwrap_or(0).checked_sub(1);
            let wait = again.map(|again| ASKED_ANEW_AFTER.saturating_mul(2_i32.saturating_pow(again)));
            episode.step_pending = index + 1 == episode.steps.len();
            episode.pending_until = wait.filter(|_| episode.step_pending).map(|wait| plus(self.now, wait));
            return;
        }
        let last = index + 1 == episode.steps.len();
        let next = episode.rule.ladder.get(episode.steps.len()).map(|step| step.name.clone());
        let ends = result.ends_ladder || next.is_none();
        let context = NotificationContext {
            target: Some(result.target.display()),
            step: Some(result.step.clone()),
            reason: serde_json::to_value(result.reason).ok().and_then(|value| value.as_str().map(str::to_owned)),
            message: Some(cut(&result.message)),
            next_step: next.filter(|_| !ends),
            repetition: 0,
        };
        let occurrence = format!("ActionFailed/{}/{}", result.step, result.attempt);
        self.notify(IncidentEvent::ActionFailed, &occurrence, context.clone());
        if ends {
            self.fail(context);
        } else if last {
            self.request_next_step();
        }
    }

    /// From incident.updated only a person's decision counts.
    pub(super) fn updated(&mut self, update: &IncidentUpdated) {
        if update.cause != UpdateCause::Decision || !update.resolved {
            self.certain = true;
            return;
        }
        let Some(episode) = &self.group.episode else { return };
        if episode.incident_id != update.incident.incident_id {
            return;
        }
        let message = update.decided_by.as_ref().map(|who| format!("resolved by {who}"));
        self.end(EpisodeEnd::Decision, NotificationContext { message, ..NotificationContext::default() });
    }

    /// The step that a result is for; none when it is for another incident, or another attempt.
    fn step_of(&self, incident: &IncidentHeader, action: &ActionId, step: &str, attempt: u32) -> Option<usize> {
        let episode = self.group.episode.as_ref()?;
        let ours = ActionId::new(&self.key.rule.namespace, &episode.incident_id, step, attempt);
        if episode.incident_id != incident.incident_id || &ours != action {
            return None;
        }
        episode.steps.iter().position(|known| known.step == step && u32::try_from(known.attempt) == Ok(attempt))
    }

    /// The next step waited because the rule was suspended.
    pub(super) fn request_pending_step(&mut self) {
        let is_due =
            |episode: &Episode| episode.step_pending && episode.pending_until.is_none_or(|until| until <= self.now);
        if self.acts() && self.group.episode.as_ref().is_some_and(is_due) {
            self.request_next_step();
        }
    }

    /// The rule may have been taken up again: whoever waits for that waits no longer.
    pub(super) fn rule_changed(&mut self) {
        self.certain = true;
        if let Some(episode) = &mut self.group.episode {
            episode.pending_until = None;
        }
    }

    /// Requests the step after those that were requested. A suspended rule lets it wait.
    fn request_next_step(&mut self) {
        let (acts, now) = (self.acts(), self.now);
        let Some(episode) = &mut self.group.episode else { return };
        let let_go = episode
            .steps
            .last()
            .filter(|step| step.reason == Some(ActionFailureReason::Suspended) && step.attempt < ATTEMPTS_MAX);
        let attempt = let_go.map_or(FIRST_ATTEMPT, |step| step.attempt.saturating_add(1));
        let index = episode.steps.len() - usize::from(let_go.is_some());
        let Some(step) = episode.rule.ladder.get(index) else { return };
        episode.step_pending = !acts;
        episode.pending_until = None;
        if !acts {
            return;
        }
        let deadline = plus(now, step.deadline.as_signed());
        episode.steps.truncate(index);
        episode.steps.push(StepState {
            step: step.name.clone(),
            attempt,
            decided_at: now,
            deadline,
            outcome: StepOutcome::Requested,
            reason: None,
            overdue_at: Some(overdue_after(deadline, 0)),
            asked_again: 0,
        });
        episode.phase = episode.phase.max(IncidentPhase::Mitigating);
        let context = NotificationContext {
            target: Some(step.target.display()),
            step: Some(step.name.clone()),
            ..NotificationContext::default()
        };
        self.say_requested(index);
        // A step that is asked for anew was told of.
        if index == 0 && attempt == FIRST_ATTEMPT {
            self.notify(IncidentEvent::Mitigating, "Mitigating", context);
        }
    }

    /// The ladder is at its end without success.
    fn fail(&mut self, context: NotificationContext) {
        let now = self.now;
        let Some(episode) = &mut self.group.episode else { return };
        episode.phase = IncidentPhase::Failed;
        episode.failed_at = Some(now);
        episode.step_pending = false;
        episode.pending_until = None;
        self.notify(IncidentEvent::Failed, "Failed/0", context);
        self.start_repetitions();
    }

    fn start_repetitions(&mut self) {
        let now = self.now;
        let Some(episode) = &mut self.group.episode else { return };
        let mut repetitions: Vec<Repetition> = Vec::new();
        for notification in &episode.rule.notifications {
            let known = |r: &Repetition| r.channel == notification.channel && r.template == notification.template;
            if let Some(interval) = notification.repeat_interval
                && notification.events.contains(&IncidentEvent::Failed)
                && !repetitions.iter().any(known)
            {
                repetitions.push(Repetition {
                    channel: notification.channel.clone(),
                    template: notification.template.clone(),
                    count: 0,
                    next_at: plus(now, interval.as_signed()),
                });
            }
        }
        episode.repetitions = repetitions;
    }

    /// Ends the incident when none of its alerts fires any more.
    pub(super) fn finish_when_clear(&mut self) {
        let mut ours = self.group.alerts.iter().filter(|alert| alert.in_episode).peekable();
        let clear = ours.peek().is_some() && ours.all(|alert| alert.status == AlertStatus::Resolved);
        let Some(episode) = self.group.episode.as_ref().filter(|_| clear) else { return };
        let (how, reason) = if episode.expired {
            (EpisodeEnd::AlertsExpired, ResolvedReason::AlertsExpired)
        } else {
            (EpisodeEnd::AlertsResolved, ResolvedReason::AlertsResolved)
        };
        self.say_resolved(reason);
        self.end(how, NotificationContext::default());
    }

    /// Ends the incident: its alerts' repetitions are known from now on, and the cooldown begins.
    pub(super) fn end(&mut self, how: EpisodeEnd, mut context: NotificationContext) {
        // `Debug` of a member without fields is its name.
        context.reason = Some(format!("{how:?}"));
        self.notify(IncidentEvent::Resolved, "Resolved", context);
        self.say_requested_on_resolved();
        let Some(episode) = self.group.episode.take() else { return };
        for alert in self.group.alerts.iter_mut().filter(|alert| alert.in_episode) {
            alert.in_episode = false;
            let end = alert.ends_at.filter(|_| alert.status == AlertStatus::Resolved);
            alert.closed_through = alert.closed_through.max(Some(alert.last_starts_at)).max(end);
        }
        let cooldown = episode.rule.cooldown.as_signed();
        self.group.cooldown_until = (!cooldown.is_zero()).then(|| plus(self.now, cooldown));
        self.group.last_episode = Some(EndedEpisode { incident_id: episode.incident_id, ended_at: self.now, how });
    }
}

/// An incident that has just opened, without an alert.
pub(super) fn opened(incident_id: IncidentId, opened_at: Timestamp, plan: Plan) -> Episode {
    Episode {
        incident_id,
        opened_at,
        accepted_at: None,
        severity: plan.severity,
        summary: plan.summary,
        phase: IncidentPhase::Open,
        alert_count: 0,
        approximate: false,
        traceparent: None,
        rule: plan.rule,
        steps: Vec::new(),
        step_pending: false,
        pending_until: None,
        failed_at: None,
        repetitions: Vec::new(),
        expired: false,
    }
}

/// The steps of an incident that is taken over, as far as the ladder has them, in its order.
fn adopted_steps(adopted: &Adopted, rule: &RuleSnapshot, now: Timestamp) -> Vec<StepState> {
    let steps = adopted.steps.iter().filter_map(|(name, attempt, outcome)| {
        let step = rule.ladder.iter().find(|step| &step.name == name)?;
        let deadline = plus(adopted.opened_at, step.deadline.as_signed());
        let overdue_at = (*outcome == StepOutcome::Requested).then(|| overdue_after(deadline.max(now), 0));
        Some(StepState {
            step: name.clone(),
            attempt: *attempt,
            decided_at: adopted.opened_at,
            deadline,
            outcome: *outcome,
            reason: None,
            overdue_at,
            asked_again: 0,
        })
    });
    let mut steps: Vec<StepState> = steps.collect();
    let place = |step: &StepState| rule.ladder.iter().position(|known| known.name == step.step);
    steps.sort_by_key(|step| (place(step), std::cmp::Reverse(step.attempt)));
    // Of a step that was asked for anew the last attempt.
    steps.dedup_by(|later, first| later.step == first.step);
    steps
}

/// What others say, in a message that is one of many in one object.
fn cut(text: &str) -> String {
    one_line(text, MESSAGE_MAX)
}

/// Whether an alert fires and belongs to no incident, neither open nor ended.
pub(super) fn is_waiting(alert: &GroupAlert) -> bool {
    alert.status == AlertStatus::Firing && !alert.in_episode && !is_closed(alert)
}

/// When a step is asked for again, after it was asked for again `times` times: ever more seldom.
pub(super) fn overdue_after(deadline: Timestamp, times: i32) -> Timestamp {
    let seconds = OVERDUE_GRACE_S << times.clamp(0, 6);
    plus(deadline, jiff::SignedDuration::from_secs(seconds))
}

/// The step at a place of the ladder.
pub(super) fn step_at(episode: &Episode, index: usize) -> Option<&LadderStep> {
    episode.rule.ladder.get(index)
}
