//! The services of one process, started. `eventpulse run` and the simulator call the same function: what they put in its place is
//! the log, the way to the API server, the clock, the random source and the network, and nothing else.

use std::{future::Future, io, net::SocketAddr};

use tokio::net::TcpListener;

use crate::{
    actions,
    bus::Consumes,
    config::{Config, Service},
    config_status, incidents, ingest,
    notify::{self, NotifyError, Outside},
    rules,
    runtime::{Supervisor, Tasks, http_server::Listener, liveness::LOOP_BOUND},
};

/// The network, as far as the services reach through it.
pub trait Network {
    /// A port that is bound.
    type Listener: Listener;

    /// Binds the port that alerts are received on.
    fn listen(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::Listener>> + Send + 'static;

    /// The ways that messages take, by this proxy.
    fn outside(&self, proxy: Option<&str>) -> Result<Outside, NotifyError>;
}

/// The machine's own.
pub struct Machine;

impl Network for Machine {
    type Listener = TcpListener;

    fn listen(&self, address: SocketAddr) -> impl Future<Output = io::Result<TcpListener>> + Send + 'static {
        TcpListener::bind(address)
    }

    fn outside(&self, proxy: Option<&str>) -> Result<Outside, NotifyError> {
        Outside::of_the_machine(proxy)
    }
}

/// What a service consumes of our topics; none for one that takes from elsewhere.
pub fn consumes(service: Service) -> Option<Consumes> {
    match service {
        Service::Rules => Some(rules::CONSUMES),
        Service::Actions => Some(actions::CONSUMES),
        Service::Incidents => Some(incidents::CONSUMES),
        Service::Notify => Some(notify::CONSUMES),
        Service::Ingest | Service::Config => None,
    }
}

/// Starts one service. It ends with the supervisor; should it fail, the supervisor is told why.
pub fn start(supervisor: &Supervisor, service: Service, config: &Config, network: &impl Network) -> kube::Result<()> {
    let (ctx, tasks) = (supervisor.context(service.name())?, supervisor.tasks());
    match service {
        // It takes from outside: it is stopped before the others.
        Service::Ingest => {
            let ingest = ingest::run(ctx, config.ingest.clone(), network.listen(config.ingest.listen));
            tasks.of_intake().spawn("ingest", followed(&tasks, "ingest", ingest));
        }
        Service::Rules => tasks.spawn("rules", rules::run(ctx, config.rules.clone())),
        Service::Actions => tasks.spawn("actions", actions::run(ctx, config.actions.clone())),
        Service::Incidents => tasks.spawn("incidents", incidents::run(ctx, config.incidents.clone())),
        Service::Notify => {
            let (config, outside) = (config.notify.clone(), network.outside(config.notify.proxy.as_deref()));
            tasks.spawn("notify", async move { notify::run(ctx, config, outside?).await });
        }
        Service::Config => tasks.spawn("config", followed(&tasks, "config", config_status::run(ctx))),
    }
    Ok(())
}

/// One whose service is a loop itself; those of the others are followed one by one.
fn followed<F: Future>(tasks: &Tasks, name: &'static str, service: F) -> impl Future<Output = F::Output> + use<F> {
    tasks.liveness().follow(name, LOOP_BOUND, service)
}
