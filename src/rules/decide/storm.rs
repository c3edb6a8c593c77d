//! A rule's storm: an incident of its own, in a group of its own, so that what people see, what they are told and what survives a
//! restart is made by the same steps as every incident. It has no alerts, and asks for no action.

use super::{Adopted, Turn, episode::opened};
use crate::{
    api::v1alpha1::{EpisodeEnd, GroupStorm, IncidentEvent},
    events::{AlertId, IncidentId, NotificationContext, ResolvedReason},
};

impl Turn<'_> {
    /// Opens the storm's incident, once for each storm. The object decides: of two replicas that both see it begin one writes it.
    pub(super) fn storm_begins(&mut self, threshold: usize, adopted: Option<&Adopted>) {
        let lasts = self.group.storm.as_ref().is_some_and(|storm| storm.ended_at.is_none());
        let Some(rule) = self.rule.rule.filter(|_| !lasts && self.acts()) else {
            self.certain = true;
            return;
        };
        let plan = rule.storm_plan(threshold);
        let (incident_id, opened_at) = match adopted {
            // Its group was deleted under it.
            Some(adopted) => (adopted.incident_id.clone(), adopted.opened_at),
            None => {
                let began = AlertId::new("storm", self.key.correlation.as_str(), self.now);
                (IncidentId::new(&self.key.rule.name, &self.key.correlation, &began), self.now)
            }
        };
        self.group.storm = Some(GroupStorm { began_at: opened_at, ended_at: None });
        self.group.episode = Some(opened(incident_id, opened_at, plan));
        self.say_opened();
        self.notify(IncidentEvent::Opened, "Opened", NotificationContext::default());
    }

    /// Ends the storm, and its incident, where no person has done so.
    pub(super) fn storm_ends(&mut self) {
        let now = self.now;
        let Some(storm) = self.group.storm.as_mut().filter(|storm| storm.ended_at.is_none()) else {
            self.certain = true;
            return;
        };
        storm.ended_at = Some(now);
        if self.group.episode.is_some() {
            self.say_resolved(ResolvedReason::StormOver);
            let message = Some("The storm is over: alerts of the rule open incidents again.".to_owned());
            self.end(EpisodeEnd::StormOver, NotificationContext { message, ..NotificationContext::default() });
        }
    }
}
