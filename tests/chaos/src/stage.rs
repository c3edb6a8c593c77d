//! The real parts with the setting on them: a control plane, a log, one or two replicas of EventPulse behind proxies, a receiver of messages;
//! and what can be seen of all that.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use eventpulse_e2e::Shop;
use eventpulse_env::{ControlPlaneOptions, Environment};
use eventpulse_oracle::{ACTION_ENDS, NOTIFICATION_ENDS, Observed, Outcomes, Promise, Record, Violation, judge};
use eventpulse_testkit::{
    alerts::Alert,
    eventpulse::{EventPulse, Launcher, find_binary},
    proxy::{Fault, Proxy, When},
    sink::Answer,
    tcp::TcpProxy,
};
use jiff::Timestamp;
use serde_json::Value;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    disk::{Disk, is_in_namespace},
    load::{Load, Senders, now},
    observe::{self, audit::Audit, counts::Counts, etcd::Etcd, log, timeline},
    setting::{Kind, Setting},
};

const START: Duration = Duration::from_secs(60);
/// How long something may be left to do after a fault in which nothing moves.
const REST: Duration = Duration::from_secs(240);
/// Between the end of a fault and everything being over, though it still moves: a busy machine is slow, and slow is not lost.
const REST_AT_MOST: Duration = Duration::from_secs(900);
/// What will not go away by waiting is told when it has stood for so long.
const CERTAIN: Duration = Duration::from_secs(10);
/// How long a probe may take before it is told as lost.
const PROBE: Duration = Duration::from_secs(180);
const HOOK: &str = "/hooks/chaos";
/// Whoever posts there is told that it is gone for good.
const GONE: &str = "/hooks/gone";
/// New alerts a second.
const RATE: f64 = 5.0;

/// The log that the services talk on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Bus {
    /// One process, one file.
    Embedded,
    /// A broker, two replicas.
    Kafka,
}

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bus::Embedded => "embedded",
            Bus::Kafka => "kafka",
        })
    }
}

/// A replica of EventPulse, which reaches the API server through this proxy only.
pub(crate) struct Replica {
    pub proxy: Proxy,
    pub launcher: Launcher,
    /// None: it is not there at the moment.
    pub process: Option<EventPulse>,
}

/// Alerts that have a target of their own each.
pub(crate) struct Probes {
    kind: Kind,
    services: Vec<String>,
    starts_at: Timestamp,
}

/// How much of everything there is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub alerts: usize,
    pub incidents: usize,
    pub actions: usize,
    pub effects: usize,
    pub messages: usize,
    pub marked: usize,
    pub counts: Counts,
    /// How everything ended.
    pub outcomes: Outcomes,
}

/// See the module's text.
pub(crate) struct Stage {
    pub bus: Bus,
    /// Whether less is done of each fault.
    pub short: bool,
    pub replicas: Vec<Replica>,
    /// What the data directories are on, where that is allowed. It goes before the directory that it is in.
    disk: Option<Disk>,
    pub shop: Shop,
    pub senders: Senders,
    /// Before the broker.
    pub broker: TcpProxy,
    pub etcd: Etcd,
    audit: Audit,
    /// What was on the log before somebody took it away.
    past: Vec<Record>,
    /// When everything on the log was given to the services once more.
    pub repeated_at: Option<Timestamp>,
    /// How many of each kind there were.
    probes: HashMap<Kind, usize>,
    seed: u64,
}

impl Stage {
    /// Starts everything.
    pub(crate) async fn open(bus: Bus, short: bool, seed: u64) -> Result<Self> {
        let broker = TcpProxy::start().await.context("listen before the broker")?;
        let options = ControlPlaneOptions { audit_bodies: true, json_in_etcd: true, ..ControlPlaneOptions::default() };
        let builder = Environment::builder(format!("chaos-{bus}")).control_plane(options);
        let builder = if bus == Bus::Kafka { builder.kafka_behind(broker.address().port()) } else { builder };
        let environment = builder.start().await?;
        let etcd = Etcd::follow(environment.plane().etcd_address());
        let audit = Audit::new(&environment.plane().audit_log());
        if bus == Bus::Kafka {
            broker.lead_to(environment.kafka().proxied());
        }
        let shop = Shop::furnish(environment).await?;
        shop.sink.always(GONE, Some(Answer::status(410)));
        let (plane, dir) = (shop.environment.plane(), shop.environment.dir());
        Setting::apply(plane, &shop.sink.url(HOOK), &shop.sink.url(GONE), dir).await?;
        let disk = is_in_namespace().then(|| Disk::mount(&shop.environment.dir().join("disk"))).transpose()?;
        let mut stage = Self {
            bus,
            short,
            replicas: Vec::new(),
            disk,
            shop,
            senders: Senders::default(),
            broker,
            etcd,
            audit,
            past: Vec::new(),
            repeated_at: None,
            probes: HashMap::new(),
            seed,
        };
        // Rules take only what began after they were created, which the API server says in whole seconds.
        sleep(Duration::from_secs(1)).await;
        for _ in 0..if bus == Bus::Kafka { 2 } else { 1 } {
            stage.add_replica().await?;
        }
        Ok(stage)
    }

    /// One more replica, ready. Gives its place.
    pub(crate) async fn add_replica(&mut self) -> Result<usize> {
        let name = format!("r{}", self.replicas.len() + 1);
        let (proxy, launcher) = self.shop.proxied(&name).await?;
        calm(&proxy);
        let launcher = match self.bus {
            Bus::Embedded => launcher.data_dir(&self.data_dir()),
            Bus::Kafka => {
                launcher.data_dir(&self.data_dir().with_file_name(&name)).kafka(&self.broker.address().to_string(), "")
            }
        };
        self.replicas.push(Replica { proxy, launcher, process: None });
        let place = self.replicas.len() - 1;
        self.start(place).await?;
        Ok(place)
    }

    /// Where the embedded log is.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.disk().unwrap_or(self.shop.environment.dir()).join("data")
    }

    /// The file system that the data directories have to themselves.
    pub(crate) fn disk(&self) -> Option<&Path> {
        self.disk.as_ref().map(Disk::path)
    }

    /// Starts a replica that is not there, and waits until it is ready.
    pub(crate) async fn start(&mut self, place: usize) -> Result<()> {
        self.spawn(place, self.replicas[place].launcher.clone())?;
        self.ready(place).await
    }

    /// The same by another launcher, without waiting.
    pub(crate) fn spawn(&mut self, place: usize, launcher: Launcher) -> Result<()> {
        self.replicas[place].process = Some(launcher.spawn()?);
        self.update_doors();
        Ok(())
    }

    /// Waits until a replica is ready.
    pub(crate) async fn ready(&self, place: usize) -> Result<()> {
        Ok(self.process(place)?.wait_ready(START).await?)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, place: usize) {
        if let Some(process) = self.replicas[place].process.take() {
            process.kill();
        }
        self.update_doors();
    }

    /// SIGTERM, and waits for its end.
    pub(crate) async fn stop(&mut self, place: usize) -> Result<()> {
        let process = self.replicas[place].process.take();
        self.update_doors();
        if let Some(process) = process
            && !process.stop(Duration::from_secs(35)).await
        {
            bail!("{} did not end in order: {}", process.process().name(), process.process().last_lines());
        }
        Ok(())
    }

    /// A replica's process.
    pub(crate) fn process(&self, place: usize) -> Result<&EventPulse> {
        self.replicas[place].process.as_ref().context("this replica is not running")
    }

    /// Alerts go to all that run.
    fn update_doors(&self) {
        self.send_to_all_but(None);
    }

    /// Alerts go to all that run, but to this one.
    pub(crate) fn send_to_all_but(&self, avoided: Option<usize>) {
        let others = self.replicas.iter().enumerate().filter(|(place, _)| Some(*place) != avoided);
        let running = others.filter_map(|(_, replica)| replica.process.as_ref());
        self.senders.set_doors(running.map(|process| process.url("webhooks/alertmanager")).collect());
    }

    /// For whatever is drawn.
    pub(crate) fn next_seed(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(1);
        self.seed
    }

    /// Every fault is over: all pass, all run.
    pub(crate) async fn calm(&mut self) -> Result<()> {
        self.broker.pass();
        self.shop.sink.always(HOOK, None);
        for place in 0..self.replicas.len() {
            let replica = &self.replicas[place];
            calm(&replica.proxy);
            match &replica.process {
                Some(process) if process.process().exited().is_some() => {
                    bail!("r{} has ended by itself: {}", place + 1, process.process().last_lines());
                }
                Some(process) => process.process().thaw(),
                None => self.start(place).await?,
            }
        }
        for place in 0..self.replicas.len() {
            self.ready(place).await?;
        }
        Ok(())
    }

    /// Stops everything.
    pub(crate) async fn close(mut self) {
        for replica in &mut self.replicas {
            if let Some(process) = replica.process.take() {
                process.kill();
            }
        }
        drop(self.disk.take());
        self.shop.environment.stop().await;
    }

    /// How the receiver of messages answers from now on.
    pub(crate) fn receiver(&self, answer: Answer) {
        self.shop.sink.always(HOOK, Some(answer));
    }

    /// Alerts from now on.
    pub(crate) fn load(&mut self) -> Load {
        let seed = self.next_seed();
        Load::start(&self.senders, RATE, seed)
    }

    /// Sends so many alerts with a target of their own each, and returns when they are taken.
    pub(crate) async fn raise(&mut self, count: usize) -> Result<Probes> {
        let probes = self.probes(Kind::Probe, count)?;
        self.repeat(&probes).await;
        Ok(probes)
    }

    /// So many of this kind that nobody was told of yet.
    pub(crate) fn probes(&mut self, kind: Kind, count: usize) -> Result<Probes> {
        let last = self.probes.entry(kind).or_default();
        let first = std::mem::replace(last, *last + count);
        ensure!(*last <= kind.targets(), "there are more alerts of their own than targets: {kind:?}");
        let services = (first..*last).map(|number| Setting::service(kind, number)).collect();
        Ok(Probes { kind, services, starts_at: now() })
    }

    /// Tells of them again.
    pub(crate) async fn repeat(&self, probes: &Probes) {
        self.tell(probes, None).await;
    }

    /// They have ended.
    pub(crate) async fn resolve(&self, probes: &Probes) {
        self.tell(probes, Some(now())).await;
    }

    /// Tells that they fire, or have ended; returns when each was taken.
    pub(crate) fn tell(
        &self,
        probes: &Probes,
        ended_at: Option<Timestamp>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let mut sending = JoinSet::new();
        for service in &probes.services {
            let alert = Alert::firing(probes.kind.alert(), probes.starts_at).label("service", service);
            let alert = alert.label("severity", "critical");
            let alert = if let Some(at) = ended_at { alert.resolved(at) } else { alert };
            let senders = self.senders.clone();
            sending.spawn(async move { senders.send(&alert).await });
        }
        async move { while sending.join_next().await.is_some() {} }
    }

    /// Waits until each target of theirs was acted on.
    pub(crate) async fn acted(&self, probes: &Probes) -> Result<()> {
        let began = Instant::now();
        loop {
            let targets = self.etcd.objects("deployments");
            let acted: BTreeSet<&str> = targets
                .iter()
                .filter(|target| observe::is_acted_on(target))
                .filter_map(|target| target.pointer("/metadata/name")?.as_str())
                .collect();
            let missing: Vec<&String> = probes.services.iter().filter(|name| !acted.contains(name.as_str())).collect();
            if missing.is_empty() {
                return Ok(());
            }
            ensure!(began.elapsed() < PROBE, "not acted on within {} s: {missing:?}", PROBE.as_secs());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// All of it: how long it takes from sending so many alerts until the last of them was acted on.
    pub(crate) async fn probe(&mut self, count: usize) -> Result<Duration> {
        let began = Instant::now();
        let probes = self.raise(count).await?;
        self.acted(&probes).await?;
        let took = began.elapsed();
        self.resolve(&probes).await;
        Ok(took)
    }

    /// Waits until nothing is under way, though alerts may still fire: all is told, all that was asked for has ended, all is read.
    pub(crate) async fn quiet(&self) -> Result<()> {
        let (mut calm, mut patience) = (0, Patience::default());
        while calm < 3 {
            let left = (self.unread().await?, self.busy());
            let (unread, busy) = left;
            ensure!(!patience.is_over(left), "it did not become quiet: {unread} records unread, {busy} objects busy");
            calm = if left == (0, 0) { calm + 1 } else { 0 };
            sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    /// How many records the services have yet to read.
    async fn unread(&self) -> Result<usize> {
        match self.bus {
            Bus::Embedded => log::unread_of_file(&self.data_dir()),
            Bus::Kafka => Ok(self.shop.environment.kafka().client().lag().await?),
        }
    }

    /// How many objects have something to tell, or have not come to their end.
    fn busy(&self) -> usize {
        let of = |kind: &str, path: &str, ends: &[&str]| {
            let is_busy = |object: &Value| {
                let phase = object.pointer(path).and_then(Value::as_str).unwrap_or_default();
                let tells = |part: &str| object[part]["outbox"].as_array().is_some_and(|outbox| !outbox.is_empty());
                (!ends.is_empty() && !ends.contains(&phase)) || tells("spec") || tells("status")
            };
            self.etcd.objects(kind).iter().filter(|object| is_busy(object)).count()
        };
        of("actions", "/status/phase", &ACTION_ENDS)
            + of("notifications", "/spec/phase", &NOTIFICATION_ENDS)
            + of("alertgroups", "", &[])
            + of("incidents", "", &[])
    }

    /// The Actions that have not come to their end.
    pub(crate) fn unfinished_actions(&self) -> BTreeSet<String> {
        let actions = self.etcd.objects("actions").into_iter();
        let has_ended = |action: &Value| action["status"]["phase"].as_str().is_some_and(|it| ACTION_ENDS.contains(&it));
        let unfinished = actions.filter(|action| !has_ended(action));
        unfinished.filter_map(|action| Some(action["metadata"]["name"].as_str()?.to_owned())).collect()
    }

    /// Waits until this holds.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<()> {
        let began = Instant::now();
        while !holds(self) {
            ensure!(began.elapsed() < REST, "{what}: not within {} s", REST.as_secs());
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Everything that can be seen.
    pub(crate) async fn observe(&mut self) -> Result<Observed> {
        self.audit.read()?;
        let mut records = self.past.clone();
        records.extend(self.records().await?);
        Ok(Observed {
            accepted: self.senders.accepted(),
            broken: self.senders.broken(),
            writes: self.etcd.changes()?.into_iter().map(|change| observe::write(change, &self.audit)).collect(),
            records,
            messages: self.shop.sink.received_on(HOOK).iter().map(observe::message).collect(),
            repeated_at: self.repeated_at,
            rules_of: Some(Setting::rules_of()),
            asks_of: Setting::asks_of(),
            possible: Setting::possible(),
            clocks_agree: true,
            at_rest: true,
        })
    }

    /// Every record that the log holds now.
    pub(crate) async fn records(&self) -> Result<Vec<Record>> {
        match self.bus {
            Bus::Embedded => log::of_file(&self.data_dir()),
            Bus::Kafka => log::of_kafka(&self.shop.environment.kafka().client()).await,
        }
    }

    /// Somebody is about to take these topics away: what they hold now was on the log.
    pub(crate) async fn remember_records(&mut self, topics: &[&str]) -> Result<()> {
        let records = self.records().await?;
        self.past.extend(records.into_iter().filter(|record| topics.contains(&record.topic.as_str())));
        Ok(())
    }

    /// Waits until the oracle has nothing to say, every alert having ended; gives what it still says at last.
    pub(crate) async fn rest(&mut self) -> Result<(Totals, Vec<Violation>)> {
        let mut patience = Patience::default();
        let mut standing: HashMap<String, Instant> = HashMap::new();
        loop {
            let looked = Instant::now();
            let observed = self.observe().await?;
            let violations = judge(&observed);
            let passing = |violation: &Violation| {
                matches!(violation.promise, Promise::ComesToRest | Promise::NothingLost | Promise::OneIncident)
            };
            // Of two things that belong together one may be seen later than the other.
            let standing_now = violations.iter().filter(|violation| !passing(violation)).map(|violation| {
                (violation.what.clone(), standing.get(&violation.what).copied().unwrap_or_else(Instant::now))
            });
            standing = standing_now.collect();
            let certain = standing.values().any(|since| since.elapsed() > CERTAIN);
            if violations.is_empty() {
                return Ok((totals(&observed), violations));
            }
            let left: Vec<String> = violations.iter().map(|violation| violation.what.clone()).collect();
            if patience.is_over(left) || certain {
                let path = timeline::keep(&observed, &std::env::temp_dir(), &self.bus.to_string())?;
                println!("What was seen is kept in {}.", path.display());
                return Ok((totals(&observed), violations));
            }
            // After half an hour a look takes a second by itself; the processors are the parts'.
            sleep(looked.elapsed().max(Duration::from_secs(1))).await;
        }
    }
}

/// With what takes as long as it takes: for as long as it moves, and not for ever.
struct Patience<L> {
    began: Instant,
    moved: Instant,
    left: Option<L>,
}

impl<L> Default for Patience<L> {
    fn default() -> Self {
        let now = Instant::now();
        Self { began: now, moved: now, left: None }
    }
}

impl<L: PartialEq> Patience<L> {
    /// With this left to do.
    fn is_over(&mut self, left: L) -> bool {
        let left = Some(left);
        if left != self.left {
            (self.left, self.moved) = (left, Instant::now());
        }
        self.moved.elapsed() > REST || self.began.elapsed() > REST_AT_MOST
    }
}

/// Everything passes but what is never let through.
fn calm(proxy: &Proxy) {
    proxy.clear();
    proxy.freeze_watches(false);
    proxy.rule("refused", When::any().is(Setting::refuses), Fault::Answer(503));
}

fn totals(observed: &Observed) -> Totals {
    let mut distinct = observed.accepted.clone();
    distinct.sort();
    distinct.dedup();
    let created =
        |kind: &str| observed.writes.iter().filter(|write| write.kind == kind && write.before.is_none()).count();
    let mut keys: BTreeMap<&str, usize> = BTreeMap::new();
    for message in observed.messages.iter().filter(|message| message.taken) {
        *keys.entry(&message.key).or_default() += 1;
    }
    Totals {
        alerts: distinct.len(),
        incidents: created("incidents"),
        actions: created("actions"),
        effects: observed.writes.iter().filter(|write| write.is_effect()).count(),
        messages: keys.len(),
        marked: keys.values().map(|copies| copies - 1).sum(),
        counts: Counts::of(observed),
        outcomes: observed.outcomes(),
    }
}

/// The binary that has crash points, beside this one.
pub(crate) fn subject() -> Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("eventpulse-with-crash-points");
    if !beside.is_file() {
        bail!("{} is not there; `make chaos` builds it", beside.display());
    }
    // So that a missing release is told before anything is started.
    find_binary()?;
    Ok(beside)
}
