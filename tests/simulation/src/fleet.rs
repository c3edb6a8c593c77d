//! All replicas of a history, and what becomes of them: one that is over is started again after a while.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eventpulse::config::Service;
use tokio::time::sleep;

use crate::{chance::Chance, ports::network::Door, replica::Replica, world::World};

/// How often it is looked whether one has to be started again.
const LOOK: Duration = Duration::from_millis(500);

/// See the module's text.
pub(crate) struct Fleet {
    world: Arc<World>,
    replicas: Mutex<Vec<Replica>>,
    /// What no replica may do: a task of it failed, or it did not start.
    failures: Mutex<Vec<String>>,
    /// How many were started in all.
    started: Mutex<usize>,
}

impl Fleet {
    /// Starts as many as there are lists of services.
    pub(crate) fn start(world: &Arc<World>, of: Vec<Vec<Service>>) -> Arc<Self> {
        let fleet = Self {
            world: Arc::clone(world),
            replicas: Mutex::default(),
            failures: Mutex::default(),
            started: Mutex::new(0),
        };
        of.into_iter().for_each(|services| fleet.add(services));
        Arc::new(fleet)
    }

    fn add(&self, services: Vec<Service>) {
        let number = {
            let mut started = lock(&self.started);
            *started += 1;
            *started
        };
        match Replica::start(&self.world, &format!("r{number}"), services) {
            Ok(replica) => lock(&self.replicas).push(replica),
            Err(error) => lock(&self.failures).push(format!("a replica did not start: {error:#}")),
        }
    }

    /// Until it is dropped: starts another one in the place of each that is over.
    pub(crate) async fn keep(self: Arc<Self>) {
        loop {
            sleep(LOOK).await;
            if self.replicas().iter().any(Replica::is_over) {
                sleep(self.world.chance.time(Duration::ZERO, Duration::from_secs(8))).await;
                self.replace();
            }
        }
    }

    /// Starts another one in the place of each that is over, now.
    pub(crate) fn replace(&self) {
        let over: Vec<Replica> = {
            let mut replicas = self.replicas();
            let (over, run) = std::mem::take(&mut *replicas).into_iter().partition(Replica::is_over);
            *replicas = run;
            over
        };
        for replica in over {
            self.note_end(&replica);
            self.add(replica.services);
        }
    }

    fn note_end(&self, replica: &Replica) {
        if let Some(Err(failure)) = replica.ended() {
            lock(&self.failures).push(format!("{}: {failure}", replica.name));
        }
    }

    pub(crate) fn replicas(&self) -> MutexGuard<'_, Vec<Replica>> {
        lock(&self.replicas)
    }

    /// The door of any replica that runs this service.
    pub(crate) fn door(&self, chance: &Chance, service: Service) -> Option<Door> {
        let replicas = self.replicas();
        let doors: Vec<Door> =
            replicas.iter().filter(|replica| replica.runs(service)).map(|replica| replica.door.clone()).collect();
        chance.pick(&doors).cloned()
    }

    /// Stops all in order. Gives those that have not ended in time.
    pub(crate) async fn stop(&self, limit: Duration) -> Vec<String> {
        self.replicas().iter().for_each(Replica::stop);
        let until = tokio::time::Instant::now() + limit;
        while tokio::time::Instant::now() < until && !self.replicas().iter().all(Replica::is_over) {
            sleep(LOOK).await;
        }
        let replicas = self.replicas();
        replicas.iter().for_each(|replica| self.note_end(replica));
        replicas.iter().filter(|replica| !replica.is_over()).map(|replica| replica.name.to_string()).collect()
    }

    /// What no replica may do and one did.
    pub(crate) fn failures(&self) -> Vec<String> {
        lock(&self.failures).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
