//! `make demo`: an alert comes in, a Deployment is scaled, an incident is resolved, a message is sent. On a real control plane.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use eventpulse_e2e::Shop;
use eventpulse_env::{ControlPlaneOptions, Environment};
use eventpulse_testkit::alerts::{Alert, webhook};
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
    /// Leave everything running, and say how to look around.
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bus {
    Embedded,
    Kafka,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    tokio::select! {
        result = demo(&cli) => result,
        // What was started ends with this process.
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted; everything that was started is stopped"),
    }
}

async fn demo(cli: &Cli) -> anyhow::Result<()> {
    let begin = Instant::now();
    println!("EventPulse: from an alert to a resolved incident\n");
    step("Starting a real Kubernetes control plane on this machine (built once; nothing of yours is looked at)");
    let environment =
        Environment::builder("demo").control_plane(ControlPlaneOptions::default()).kafka(cli.bus == Bus::Kafka);
    let environment = environment.keep(cli.keep).start().await?;
    step("Applying the custom resources and the example shop: a Deployment, a rule, two runbooks, a channel");
    let shop = Shop::furnish(environment).await?;
    step("Starting EventPulse");
    let mut launcher = shop.launcher("eventpulse").detached(cli.keep);
    if cli.bus == Bus::Kafka {
        launcher = launcher.kafka(&shop.environment.kafka().bootstrap(), "");
    }
    let eventpulse = launcher.start(START_TIMEOUT).await?;
    println!("    svc-a has {} replicas", shop.replicas("svc-a"));
    step("Alertmanager's webhook delivers an alert: CPU of svc-a is above 90 %");
    let posted = Timestamp::now();
    let body = webhook(&[Alert::cpu_high("svc-a", posted)]);
    let reply = eventpulse.post("webhooks/alertmanager", &body).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    anyhow::ensure!(reply.is_success(), "the webhook answered {}", reply.text());
    println!("    {}", reply.text().trim());
    step("What follows, as the incident's history has it (times since the alert was posted)");
    tell(&shop, posted).await?;
    let messages = shop.sink.wait_for(1, STORY_TIMEOUT).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let message = messages.first().map(|message| message.json()).unwrap_or_default();
    step("The message that the Slack-compatible endpoint received");
    println!("    {}", message["blocks"][0]["text"]["text"].as_str().unwrap_or("(no headline)"));
    step("The end");
    let plane = shop.environment.plane();
    print!("\n$ kubectl get incidents -n shop\n{}", plane.run_kubectl(&["get", "incidents", "-n", "shop"])?);
    print!(
        "\n$ kubectl get deployment svc-a -n shop\n{}",
        plane.run_kubectl(&["get", "deployment", "svc-a", "-n", "shop"])?
    );
    println!("\nThe demo took {:.1} s.", begin.elapsed().as_secs_f32());
    if cli.keep {
        println!("\nEverything goes on running. Look around:");
        println!("  export KUBECONFIG={}", plane.kubeconfig().display());
        println!("  kubectl get eventpulse -n shop");
        println!("  curl {}", eventpulse.admin_url("readyz?verbose"));
        println!("Logs and pids are in {}.", shop.environment.dir().display());
        return Ok(());
    }
    eventpulse.stop(START_TIMEOUT).await;
    shop.environment.stop().await;
    Ok(())
}

fn step(text: &str) {
    println!("\n==> {text}");
}

/// Prints each entry of the history once, until the incident is resolved and its message delivered.
async fn tell(shop: &Shop, posted: Timestamp) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut told = BTreeSet::new();
    loop {
        let incident = shop.get("incidents").into_iter().next().unwrap_or_default();
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
