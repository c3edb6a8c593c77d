//! One replica: a supervisor with its services, as `eventpulse run` starts them, on ports of the simulator.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use eventpulse::{
    bus::BusConfig,
    config::{Config, Service},
    ingest::IngestConfig,
    runtime::{
        Deadlines, Ending, Health, Metrics, Stop, Supervisor, TaskFailure, Tasks,
        api_metrics::ApiMetrics,
        random::Random,
        supervisor::{Clients, Parts},
        telemetry::Tracer,
    },
    services,
};
use futures::FutureExt;
use tokio::sync::mpsc;
use tower::Layer;

use crate::{
    gate::Gate,
    ports::{
        api::ApiPort,
        log::{LogPort, Members},
        network::{Door, Net},
    },
    world::{Skewed, World},
};

/// How it ended, once it has.
type Ended = Arc<Mutex<Option<Result<Ending, TaskFailure>>>>;

/// See the module's text.
pub(crate) struct Replica {
    pub name: Arc<str>,
    pub services: Vec<Service>,
    pub gate: Gate,
    pub door: Door,
    pub clock: Arc<Skewed>,
    pub members: Members,
    stop: mpsc::UnboundedSender<()>,
    ended: Ended,
}

/// Stops when it is told to.
struct Told(mpsc::UnboundedReceiver<()>);

#[async_trait]
impl Stop for Told {
    async fn next(&mut self) -> (&'static str, u8) {
        match self.0.recv().await {
            Some(()) => ("SIGTERM", 15),
            None => std::future::pending().await,
        }
    }
}

impl Replica {
    /// Starts it.
    pub(crate) fn start(world: &Arc<World>, name: &str, services: Vec<Service>) -> anyhow::Result<Self> {
        world.timeline.note(name, "starts");
        let (gate, door, clock) = (Gate::default(), Door::new(), Skewed::new(&world.time));
        let name: Arc<str> = name.into();
        let wrapping = gate.clone();
        let (tasks, failures) = Tasks::wrapped(move |task| wrapping.task(task));
        let (of_clients, gate_of_clients, of) = (Arc::clone(world), gate.clone(), Arc::clone(&name));
        let clients: Clients = Arc::new(move |service, metrics| {
            let who: Arc<str> = format!("{of}/{service}").into();
            let server = of_clients.api.service(&who);
            let port = ApiPort { world: Arc::clone(&of_clients), gate: gate_of_clients.clone(), server, who };
            Ok(kube::Client::new(ApiMetrics::new(service, metrics).layer(port), "default"))
        });
        let members = Members::default();
        let bus = LogPort {
            world: Arc::clone(world),
            gate: gate.clone(),
            who: Arc::clone(&name),
            members: Arc::clone(&members),
        };
        let parts = Parts {
            tasks,
            failures,
            health: Health::default(),
            metrics: Metrics::default(),
            tracer: Tracer::default(),
            bus: Arc::new(bus),
            clients,
            clock: Arc::clone(&clock) as _,
            random: Arc::new(Random::from_seed(world.chance.next())),
            deadlines: Deadlines::default(),
        };
        let supervisor = Supervisor::new(parts);
        let config = config(services.clone(), world.log_partitions());
        let net = Net { world: Arc::clone(world), gate: gate.clone(), who: Arc::clone(&name), door: door.clone() };
        for service in &services {
            services::start(&supervisor, *service, &config, &net)?;
        }
        let (stop, told) = mpsc::unbounded_channel();
        let ended = Ended::default();
        let tell = Arc::clone(&ended);
        let run = async move {
            let result = supervisor.run(&mut Told(told)).await;
            *tell.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        };
        tokio::spawn(gate.task(run.boxed()));
        Ok(Self { name, services, gate, door, clock, members, stop, ended })
    }

    /// As SIGTERM does.
    pub(crate) fn stop(&self) {
        // One that has ended hears nothing.
        let _ = self.stop.send(());
    }

    /// How it ended; none: it runs, or was killed.
    pub(crate) fn ended(&self) -> Option<Result<Ending, TaskFailure>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether another one has to be started in its place.
    pub(crate) fn is_over(&self) -> bool {
        self.gate.is_killed() || self.ended().is_some()
    }

    pub(crate) fn runs(&self, service: Service) -> bool {
        self.services.contains(&service)
    }
}

fn config(services: Vec<Service>, partitions: u32) -> Config {
    Config {
        services,
        bus: BusConfig::Memory { partitions },
        admin_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        log: Default::default(),
        telemetry: Default::default(),
        deadlines: Deadlines::default(),
        ingest: IngestConfig { allow_unauthenticated: true, ..IngestConfig::default() },
        rules: Default::default(),
        actions: Default::default(),
        incidents: Default::default(),
        notify: Default::default(),
    }
}
