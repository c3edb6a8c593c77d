//! `make demo`: an alert comes in, a Deployment is scaled, an incident is resolved, a message is sent. On a real control plane.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use eventpulse_e2e::{Shop, effects::Speed};
use eventpulse_env::{
    ControlPlane, ControlPlaneOptions, Environment, InstanceName, Process, Spec, Tool, Tools, free_port,
    until_interrupted,
};
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    eventpulse::{EventPulse, Launcher},
    sink::Sink,
};
use jiff::Timestamp;
use serde_json::Value;

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STORY_TIMEOUT: Duration = Duration::from_secs(60);

/// The main job on a real control plane, told as it happens.
#[derive(Parser)]
#[command(name = "eventpulse-demo", version)]
struct Cli {
    /// The log.
    #[arg(long, value_enum, default_value = "embedded")]
    bus: Bus,
    /// Leave everything running, and say how to look around and how to stop it.
    #[arg(long)]
    keep: bool,
    /// The name of what is left running: several can run at once.
    #[arg(long, default_value = "demo")]
    name: InstanceName,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Takes messages as Slack would, and prints them: a program of its own, so that it can outlive the demo.
    #[command(hide = true)]
    Sink {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bus {
    Embedded,
    Kafka,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Sink { listen }) => until_interrupted(take_messages(listen)).await,
        None => until_interrupted(demo(&cli)).await,
    }
}

async fn take_messages(listen: SocketAddr) -> anyhow::Result<()> {
    Sink::start_on(listen).await?.print_messages(false).await;
    Ok(())
}

async fn demo(cli: &Cli) -> anyhow::Result<()> {
    let begin = Instant::now();
    println!("EventPulse: from an alert to a resolved incident\n");
    step("Starting a real Kubernetes control plane on this machine (built once; nothing of yours is looked at)");
    let environment = start_environment(cli).await?;
    let plane = environment.plane();
    step("Applying the custom resources and the example shop: a Deployment, a rule, two runbooks, a channel");
    let sink_port = free_port();
    let sink = start_sink(environment.dir(), sink_port, cli.keep).await?;
    Shop::apply_to(plane, &format!("http://127.0.0.1:{sink_port}/services/T000/B000/demo")).await?;
    step("Starting EventPulse");
    let mut launcher = Launcher::new("eventpulse", environment.dir(), &plane.kubeconfig()).detached(cli.keep);
    if cli.bus == Bus::Kafka {
        launcher = launcher.kafka(&environment.kafka().bootstrap(), "");
    }
    let eventpulse = launcher.start(START_TIMEOUT).await?;
    println!("    svc-a has {} replicas", replicas(plane).await);
    step("Alertmanager's webhook delivers an alert: CPU of svc-a is above 90 %");
    let posted = Timestamp::now();
    let body = webhook(&[Alert::cpu_high("svc-a", posted)]);
    let reply = eventpulse.post("webhooks/alertmanager", &body).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let accepted = Timestamp::now();
    anyhow::ensure!(reply.is_success(), "the webhook answered {}", reply.text());
    println!("    {}", reply.text().trim());
    step("What follows, as the incident's history has it (times since the alert was posted)");
    tell(plane, posted).await?;
    step("The message that the Slack-compatible endpoint received");
    let (message, told) = first_message(&sink).await?;
    print!("{message}");
    step("The end");
    for args in [&["get", "incidents", "-n", "shop"][..], &["get", "deployment", "svc-a", "-n", "shop"]] {
        print!("\n$ kubectl {}\n{}", args.join(" "), plane.kubectl_with(args, "").await?);
    }
    print!("\nHow fast it was:\n{}", Speed::since(accepted, plane, told));
    println!("\nThe story took {:.1} s, the start of the control plane included.", begin.elapsed().as_secs_f32());
    if cli.keep {
        look_around(cli, &environment, &eventpulse)?;
        environment.leave();
        return Ok(());
    }
    eventpulse.stop(START_TIMEOUT).await;
    environment.stop().await;
    Ok(())
}

async fn start_environment(cli: &Cli) -> anyhow::Result<Environment> {
    // The audit log says when the Deployment was really changed.
    let options = ControlPlaneOptions { audit_bodies: true, ..ControlPlaneOptions::default() };
    let mut environment = Environment::builder("demo").control_plane(options).kafka(cli.bus == Bus::Kafka);
    if cli.keep {
        let (name, dir) = (&cli.name, cli.name.dir());
        anyhow::ensure!(!dir.exists(), "an instance {name} runs already; stop it with `{}`", stop_command(name));
        environment = environment.keep(true).dir(dir);
    }
    Ok(environment.start().await?)
}

/// The receiver of messages is this very program, as a process of its own.
async fn start_sink(dir: &Path, port: u16, detached: bool) -> anyhow::Result<Process> {
    let spec = Spec::new("sink", std::env::current_exe().context("this program's own file")?, dir)
        .args(["sink".to_owned(), format!("--listen=127.0.0.1:{port}")])
        .detached(detached);
    let sink = Process::spawn(spec)?;
    sink.wait_for_port(port, START_TIMEOUT).await?;
    Ok(sink)
}

/// As the sink printed it, where an empty line ends it; and when it came, which its first line says.
async fn first_message(sink: &Process) -> anyhow::Result<(String, Timestamp)> {
    sink.wait_for_log("\n\n", STORY_TIMEOUT).await?;
    let log = sink.log();
    let (message, _) = log.split_once("\n\n").unwrap_or((&log, ""));
    let at = message.split_once(" at ").and_then(|(_, rest)| rest.split_whitespace().next());
    let at = at.and_then(|at| at.parse().ok()).with_context(|| format!("a message without its time: {message}"))?;
    Ok((message.lines().map(|line| format!("    {line}\n")).collect(), at))
}

fn look_around(cli: &Cli, environment: &Environment, eventpulse: &EventPulse) -> anyhow::Result<()> {
    let kubectl = Tools::new().program(Tool::Kubernetes, "kubectl")?;
    let dir = environment.dir();
    println!("\nEverything goes on running. Look around:");
    println!("  export KUBECONFIG={}", environment.plane().kubeconfig().display());
    println!("  {} get eventpulse -n shop", kubectl.display());
    println!("  curl '{}'", eventpulse.admin_url("readyz?verbose"));
    println!("  tail -f {}      # the messages", dir.join("sink.log").display());
    println!("Alerts go to {}. Logs and pids are in {}.", eventpulse.url("webhooks/alertmanager"), dir.display());
    println!("Stop it with `{}`.", stop_command(&cli.name));
    Ok(())
}

fn stop_command(name: &InstanceName) -> String {
    format!("make env-down ARGS=\"--name {name}\"")
}

async fn replicas(plane: &ControlPlane) -> i64 {
    let deployments = Shop::objects(plane, "deployments").await;
    let found = deployments.iter().find(|deployment| deployment["metadata"]["name"] == "svc-a");
    found.and_then(|deployment| deployment["spec"]["replicas"].as_i64()).unwrap_or(-1)
}

fn step(text: &str) {
    println!("\n==> {text}");
}

/// Prints each entry of the history once, until the incident is resolved and its message delivered.
async fn tell(plane: &ControlPlane, posted: Timestamp) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut told = BTreeSet::new();
    loop {
        let incident = Shop::objects(plane, "incidents").await.into_iter().next().unwrap_or_default();
        let entries = incident["status"]["history"].as_array().cloned().unwrap_or_default();
        for entry in &entries {
            if told.insert(entry["id"].to_string()) {
                println!("    {}", line(entry, posted));
            }
        }
        let delivered = entries.iter().any(|entry| entry["event"] == "notification.delivered");
        if incident["status"]["phase"] == "Resolved" && delivered {
            return Ok(());
        }
        anyhow::ensure!(begin.elapsed() < STORY_TIMEOUT, "the incident was not resolved in time: {incident:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn line(entry: &Value, posted: Timestamp) -> String {
    let text = |field: &str| entry[field].as_str().unwrap_or_default();
    let after = text("time").parse::<Timestamp>().context("time").map(|time| time.duration_since(posted).as_millis());
    format!(
        "{:>6} ms  {:<24} {}\n               by {}",
        after.unwrap_or_default(),
        text("event"),
        text("what"),
        text("by")
    )
}
