//! Readiness: each service says, part by part, what it waits for. Liveness is the supervisor's.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Metrics, metrics::catalogue::READY};

/// By service and part: why it is not ready, where it is not.
type Parts = BTreeMap<(&'static str, &'static str), Option<String>>;

/// What every service of the process says about itself.
#[derive(Clone, Debug, Default)]
pub struct Health {
    parts: Arc<Mutex<Parts>>,
    troubles: Arc<Mutex<BTreeMap<(&'static str, &'static str), String>>>,
}

impl Health {
    /// The part of one service. It is not ready before it says so.
    pub fn service(&self, service: &'static str) -> ServiceHealth {
        let health = ServiceHealth { all: self.clone(), service };
        health.not_ready("service", "starting");
        health
    }

    /// Every part of every service, and why it is not ready, where it is not.
    pub fn report(&self) -> Vec<(String, Option<String>)> {
        self.lock().iter().map(|((service, part), reason)| (format!("{service}/{part}"), reason.clone())).collect()
    }

    /// What is wrong outside, by service and part, while the process itself works.
    pub fn troubles(&self) -> Vec<(String, String)> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.iter().map(|((service, part), text)| (format!("{service}/{part}"), text.clone())).collect()
    }

    /// Whether everything is ready.
    pub fn is_ready(&self) -> bool {
        self.lock().values().all(Option::is_none)
    }

    /// Whether every part of each service is ready.
    pub fn services(&self) -> BTreeMap<&'static str, bool> {
        let mut services = BTreeMap::new();
        for ((service, _), reason) in self.lock().iter() {
            *services.entry(*service).or_insert(true) &= reason.is_none();
        }
        services
    }

    /// Has the metrics tell who is ready.
    pub fn measure(&self, metrics: &Metrics) {
        let health = self.clone();
        metrics.on_sample(move |metrics| {
            for (service, ready) in health.services() {
                metrics.set(&READY, [service], ready.into());
            }
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where one service says what it waits for.
#[derive(Clone, Debug)]
pub struct ServiceHealth {
    all: Health,
    service: &'static str,
}

impl ServiceHealth {
    /// This part works.
    pub fn ready(&self, part: &'static str) {
        if self.all.lock().insert((self.service, part), None).is_some_and(|reason| reason.is_some()) {
            tracing::info!(service = self.service, part, "Ready.");
        }
    }

    /// Whether this part works, as far as anybody has said.
    pub fn works(&self, part: &'static str) -> bool {
        self.all.lock().get(&(self.service, part)).is_none_or(Option::is_none)
    }

    /// What a part suffers from that taking this process out of service would not mend; none: nothing. It stays ready.
    pub fn trouble(&self, part: &'static str, text: Option<String>) {
        let mut troubles = self.all.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        match text {
            Some(text) => drop(troubles.insert((self.service, part), text)),
            None => drop(troubles.remove(&(self.service, part))),
        }
    }

    /// This part does not work, and why: what is missing and what to do.
    pub fn not_ready(&self, part: &'static str, reason: impl Into<String>) {
        let reason = reason.into();
        let before = self.all.lock().insert((self.service, part), Some(reason.clone()));
        if before.flatten().as_ref() != Some(&reason) {
            tracing::info!(service = self.service, part, reason, "Not ready.");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_every_part_is() {
        let health = Health::default();
        let rules = health.service("rules");
        assert!(!health.is_ready());
        rules.ready("service");
        rules.not_ready("watch", "CRD rules.eventpulse.io is not served");
        assert!(!health.is_ready());
        assert_eq!(health.report()[1].1.as_deref(), Some("CRD rules.eventpulse.io is not served"));
        let metrics = Metrics::default();
        health.measure(&metrics);
        assert!(metrics.encode().unwrap().contains("eventpulse_ready{service=\"rules\"} 0"));
        rules.ready("watch");
        assert!(health.is_ready());
        assert!(metrics.encode().unwrap().contains("eventpulse_ready{service=\"rules\"} 1"));
    }
}
