//! What is due by itself. Timers are inputs: their due times are in the group, so they survive a restart and a takeover.

use jiff::Timestamp;

use super::{
    Turn,
    episode::{is_waiting, overdue_after},
};
use crate::{
    api::v1alpha1::{AlertGroupSpec, IncidentEvent, StepOutcome, StepState},
    events::{AlertStatus, NotificationContext},
    mutants::{Mutant, mutated},
    rules::input::plus,
};

/// The next time at which something is due in a group.
pub fn next_timer(group: &AlertGroupSpec) -> Option<Timestamp> {
    let expiries = group.alerts.iter().filter_map(|alert| alert.expires_at);
    let cooldown = group.cooldown_until.filter(|_| group.alerts.iter().any(is_waiting));
    // Only a step that has not answered is asked for again, whatever else stands there.
    let waits = |step: &&StepState| step.outcome == StepOutcome::Requested;
    let steps =
        group.episode.iter().flat_map(|episode| &episode.steps).filter(waits).filter_map(|step| step.overdue_at);
    let pending =
        group.episode.iter().filter(|episode| episode.step_pending).filter_map(|episode| episode.pending_until);
    let repetitions = group.episode.iter().flat_map(|episode| &episode.repetitions).map(|again| again.next_at);
    expiries.chain(cooldown).chain(steps).chain(pending).chain(repetitions).min()
}

impl Turn<'_> {
    pub(super) fn timer(&mut self) {
        self.certain = next_timer(&self.group).is_none_or(|due| due > self.now);
        if self.certain {
            return;
        }
        self.expire();
        if self.group.cooldown_until.is_some_and(|until| until <= self.now) {
            self.group.cooldown_until = None;
        }
        if let Some(episode) = &mut self.group.episode
            && episode.pending_until.is_some_and(|until| until <= self.now)
        {
            // Asked for anew now, or, where the rule is suspended, when it changes.
            episode.pending_until = None;
        }
        self.ask_again();
        self.repeat();
    }

    /// Alerts that were not repeated in time are taken as resolved.
    fn expire(&mut self) {
        let now = self.now;
        let mut of_incident = false;
        for alert in &mut self.group.alerts {
            if let Some(at) = alert.expires_at.filter(|at| *at <= now) {
                alert.status = AlertStatus::Resolved;
                // Only what is accepted after that can say that it goes on.
                alert.accepted_at = alert.accepted_at.max(at);
                alert.expires_at = None;
                alert.facts = None;
                of_incident |= alert.in_episode;
            }
        }
        if let Some(episode) = &mut self.group.episode {
            episode.expired |= of_incident;
        }
    }

    /// A step should have answered: it is requested again under the same id. If it ran, its answer is published again; if it was
    /// never seen, it is past its deadline and fails as `stale`, without effect (promise 2).
    fn ask_again(&mut self) {
        let now = self.now;
        let mut again = Vec::new();
        if let Some(episode) = &mut self.group.episode {
            for (index, step) in episode.steps.iter_mut().enumerate() {
                if step.outcome == StepOutcome::Requested && step.overdue_at.is_some_and(|at| at <= now) {
                    step.asked_again = step.asked_again.saturating_add(1);
                    step.overdue_at = Some(overdue_after(now, step.asked_again));
                    again.push(index);
                }
            }
        }
        again.into_iter().for_each(|index| self.say_requested(index));
    }

    /// A failed incident is told again: once after an outage, not once for each interval of it.
    fn repeat(&mut self) {
        let now = self.now;
        let acts = self.acts();
        let mut due = Vec::new();
        if let Some(episode) = &mut self.group.episode {
            let notifications = &episode.rule.notifications;
            for again in episode.repetitions.iter_mut().filter(|again| again.next_at <= now) {
                let of_this = |n: &&crate::api::v1alpha1::SnapshotNotification| {
                    n.channel == again.channel && n.template == again.template && n.repeat_interval.is_some()
                };
                let interval = notifications.iter().find(of_this).and_then(|n| n.repeat_interval);
                // An interval of nothing would never be over; the schema's least is a second.
                let interval_ms = interval.unwrap_or_default().as_millis().max(1_000);
                let missed = now.duration_since(again.next_at).as_millis() / i128::from(interval_ms);
                let steps = i64::try_from(missed).unwrap_or(i64::MAX).saturating_add(1);
                let steps = if mutated(Mutant::OutageRepeatsAll) { 1 } else { steps };
                let ahead = jiff::SignedDuration::from_millis(steps.saturating_mul(interval_ms));
                again.next_at = plus(again.next_at, ahead);
                if acts {
                    again.count = again.count.saturating_add(1);
                    due.push((again.channel.clone(), again.template.clone(), again.count));
                }
            }
        }
        for (channel, template, count) in due {
            let repetition = u32::try_from(count).unwrap_or(u32::MAX);
            let context = NotificationContext { repetition, ..NotificationContext::default() };
            self.notify_one(&channel, &template, IncidentEvent::Failed, &format!("Failed/{count}"), context);
        }
    }
}
