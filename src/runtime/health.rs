//! Readiness: each service says, part by part, what it waits for. Whether its loops go on is a matter of [`liveness`](super::liveness).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::watch;

use super::{Metrics, metrics::catalogue::READY};

/// What is the process's own and no service's.
const PROCESS: &str = "process";
/// The part that tells of a service or of the process as a whole.
const WHOLE: &str = "service";
/// The part that tells of the log.
const LOG: &str = "bus";

/// What every service of the process says about itself. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<Said>>);

#[derive(Debug, Default)]
struct Said {
    parts: BTreeMap<Key, State>,
    troubles: BTreeMap<Key, String>,
    /// Services that take their work also while the log is away.
    without_log: BTreeSet<&'static str>,
    /// How often a part has come back, for those who wait for that.
    returns: BTreeMap<Key, watch::Sender<u64>>,
}

/// Service and part.
type Key = (&'static str, &'static str);

/// How a part is doing.
#[derive(Clone, Debug)]
enum State {
    /// It works; what there is to know of it, and when it was last told.
    Ready(Option<String>, Instant),
    /// It does not: why, and since when.
    NotReady(String, Instant),
}

impl State {
    fn reason(&self) -> Option<&str> {
        match self {
            State::Ready(..) => None,
            State::NotReady(reason, _) => Some(reason),
        }
    }
}

impl Health {
    /// The part of one service. It is not ready before it says so.
    pub fn service(&self, service: &'static str) -> ServiceHealth {
        let health = ServiceHealth { all: self.clone(), service };
        health.not_ready(WHOLE, "starting");
        health
    }

    /// What is no service's: the process itself, and the log.
    pub fn process(&self) -> ServiceHealth {
        self.service(PROCESS)
    }

    /// Every part of every service, and why it is not ready, where it is not.
    pub fn report(&self) -> Vec<(String, Option<String>)> {
        let said = self.lock();
        let part = |((service, part), state): (&Key, &State)| {
            (format!("{service}/{part}"), state.reason().map(ToOwned::to_owned))
        };
        said.parts.iter().map(part).collect()
    }

    /// What is wrong outside, by service and part, while the process itself works.
    pub fn troubles(&self) -> Vec<(String, String)> {
        let said = self.lock();
        said.troubles.iter().map(|((service, part), text)| (format!("{service}/{part}"), text.clone())).collect()
    }

    /// Whether everything is ready.
    pub fn is_ready(&self) -> bool {
        self.lock().parts.values().all(|state| state.reason().is_none())
    }

    /// Whether a service can do what it is asked: its own parts, and those of the process that it needs. None for one that this
    /// process does not run.
    pub fn is_service_ready(&self, service: &str) -> Option<bool> {
        let said = self.lock();
        let concerns = said.parts.iter().filter(|(key, _)| said.concerns(service, key));
        said.is_there(service).then(|| concerns.into_iter().all(|(_, state)| state.reason().is_none()))
    }

    /// Whether every part of each service, and of the process, is ready.
    pub fn services(&self) -> BTreeMap<&'static str, bool> {
        let mut services = BTreeMap::new();
        for ((service, _), state) in &self.lock().parts {
            *services.entry(*service).or_insert(true) &= state.reason().is_none();
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

    /// The services of this process.
    pub fn service_names(&self) -> Vec<&'static str> {
        let services: BTreeSet<&str> = self.lock().parts.keys().map(|(service, _)| *service).collect();
        services.into_iter().filter(|service| *service != PROCESS).collect()
    }

    /// A line for each part that is not ready, then for each trouble outside; with `all` also for those that are. Of one service, or
    /// of all.
    pub fn lines(&self, service: Option<&str>, all: bool) -> Vec<String> {
        let said = self.lock();
        let wanted = |key: &Key| service.is_none_or(|service| said.concerns(service, key));
        let parts =
            said.parts.iter().filter(|(key, _)| wanted(key)).filter_map(|((service, part), state)| match state {
                State::NotReady(reason, since) => {
                    Some(format!("[-] {service}/{part}: {reason} (for {} s)", since.elapsed().as_secs()))
                }
                State::Ready(Some(note), _) if all => Some(format!("[+] {service}/{part}: {note}")),
                State::Ready(None, _) if all => Some(format!("[+] {service}/{part}")),
                State::Ready(..) => None,
            });
        let troubles = said.troubles.iter().filter(|(key, _)| wanted(key));
        parts.chain(troubles.map(|((service, part), text)| format!("[!] {service}/{part}: {text}"))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Said {
    fn is_there(&self, service: &str) -> bool {
        service != PROCESS && self.parts.keys().any(|(of, _)| *of == service)
    }

    /// Whether a part says something about whether this service can be used.
    fn concerns(&self, service: &str, (of, part): &Key) -> bool {
        let log = *part != LOG || !self.without_log.contains(service);
        log && (*of == service || *of == PROCESS)
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
        self.set_ready(part, None);
    }

    /// This part works, and what there is to know of it, like how full it is.
    pub fn ready_with(&self, part: &'static str, note: impl Into<String>) {
        self.set_ready(part, Some(note.into()));
    }

    fn set_ready(&self, part: &'static str, note: Option<String>) {
        let is_back = {
            let mut said = self.all.lock();
            let before = said.parts.insert((self.service, part), State::Ready(note, Instant::now()));
            let is_back = before.is_some_and(|state| state.reason().is_some());
            if is_back && let Some(returns) = said.returns.get(&(self.service, part)) {
                returns.send_modify(|count| *count += 1);
            }
            is_back
        };
        if is_back {
            tracing::info!(service = self.service, part, "Ready.");
        }
    }

    /// This service takes its work also while the log is away: that makes it no less ready.
    pub fn works_without_log(&self) {
        self.all.lock().without_log.insert(self.service);
    }

    /// Whether this part works, as far as anybody has said.
    pub fn works(&self, part: &'static str) -> bool {
        self.all.lock().parts.get(&(self.service, part)).is_none_or(|state| state.reason().is_none())
    }

    /// Whether somebody has said since then that this part works, and nobody that it does not.
    pub fn has_worked_since(&self, part: &'static str, then: Instant) -> bool {
        let said = self.all.lock();
        matches!(said.parts.get(&(self.service, part)), Some(State::Ready(_, at)) if *at >= then)
    }

    /// Counts from now on how often this part works again after it did not.
    pub fn returns(&self, part: &'static str) -> watch::Receiver<u64> {
        self.all.lock().returns.entry((self.service, part)).or_default().subscribe()
    }

    /// What a part suffers from that taking this process out of service would not mend; none: nothing. It stays ready.
    pub fn trouble(&self, part: &'static str, text: Option<String>) {
        let mut said = self.all.lock();
        match text {
            Some(text) => drop(said.troubles.insert((self.service, part), text)),
            None => drop(said.troubles.remove(&(self.service, part))),
        }
    }

    /// This part does not work, and why: what is missing and what to do.
    pub fn not_ready(&self, part: &'static str, reason: impl Into<String>) {
        let reason = reason.into();
        let is_new = {
            let mut said = self.all.lock();
            let before = said.parts.get(&(self.service, part));
            let since = match before {
                Some(State::NotReady(_, since)) => *since,
                Some(State::Ready(..)) | None => Instant::now(),
            };
            let is_new = before.and_then(State::reason) != Some(&reason);
            said.parts.insert((self.service, part), State::NotReady(reason.clone(), since));
            is_new
        };
        if is_new {
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

    #[test]
    fn whoever_waits_for_a_part_hears_that_it_is_back() {
        let health = Health::default();
        let (rules, actions) = (health.service("rules"), health.service("actions"));
        let returns = actions.returns("api server");
        let count = || *returns.borrow();
        actions.ready("api server");
        assert_eq!(count(), 0, "it was never away");
        actions.not_ready("api server", "no answer");
        actions.not_ready("api server", "503");
        rules.not_ready("api server", "503");
        rules.ready("api server");
        assert_eq!(count(), 0, "another service's");
        actions.ready("api server");
        actions.ready("api server");
        assert_eq!(count(), 1);
    }

    #[test]
    fn a_service_is_ready_for_itself_and_one_that_needs_no_log_without_it() {
        let health = Health::default();
        let (process, ingest, rules) = (health.process(), health.service("ingest"), health.service("rules"));
        let ready = |service| health.is_service_ready(service);
        assert_eq!((ready("ingest"), ready("rules")), (Some(false), Some(false)));
        for part in [&process, &ingest, &rules] {
            part.ready("service");
            part.ready("bus");
        }
        ingest.works_without_log();
        ingest.ready_with("outbox", "7 of 10 alerts wait");
        assert_eq!((ready("ingest"), ready("rules"), health.is_ready()), (Some(true), Some(true), true));
        for away in [&process, &ingest] {
            away.not_ready("bus", "no broker answers");
            assert_eq!((ready("ingest"), health.is_ready()), (Some(true), false));
        }
        assert_eq!(ready("rules"), Some(false), "it needs the log");
        assert_eq!(health.lines(Some("ingest"), false), Vec::<String>::new());
        assert_eq!(
            health.lines(Some("ingest"), true),
            ["[+] ingest/outbox: 7 of 10 alerts wait", "[+] ingest/service", "[+] process/service"]
        );
        assert_eq!(health.lines(Some("rules"), false), ["[-] process/bus: no broker answers (for 0 s)"]);
        process.not_ready("service", "stopping");
        assert_eq!(ready("ingest"), Some(false), "who stops takes nothing");
        assert_eq!((ready("process"), ready("notify"), health.service_names()), (None, None, vec!["ingest", "rules"]));
    }
}
