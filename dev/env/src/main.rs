//! `eventpulse-env`: what `make env-up`, `make env-down` and `make env-tools` call.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use eventpulse_env::{ControlPlaneOptions, Environment, Tool, Tools, cache_dir, process::stop_recorded};

/// A real control plane, Kafka, Alertmanager and Prometheus on this machine, on loopback only.
///
/// Nothing is installed system-wide and no cluster of yours is looked at. Tools are built once, into $EVENTPULSE_CACHE or
/// ~/.cache/eventpulse.
#[derive(Parser)]
#[command(name = "eventpulse-env", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start an instance that goes on running, and say how to look around.
    Up(Up),
    /// Stop an instance by the pids that were recorded.
    Down(Name),
    /// Build tools into the cache. Without names, all of them.
    Tools {
        /// Which.
        tools: Vec<ToolName>,
    },
}

#[derive(Args)]
struct Name {
    /// The instance: several can run at once.
    #[arg(long, default_value = "default")]
    name: String,
}

#[derive(Args)]
struct Up {
    #[command(flatten)]
    name: Name,
    /// A Kafka broker too.
    #[arg(long)]
    kafka: bool,
    /// etcd writes to disk before it answers, as in production.
    #[arg(long)]
    fsync: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ToolName {
    Kubernetes,
    Kwok,
    Kafka,
    Alertmanager,
    Prometheus,
}

impl From<ToolName> for Tool {
    fn from(name: ToolName) -> Self {
        match name {
            ToolName::Kubernetes => Tool::Kubernetes,
            ToolName::Kwok => Tool::Kwok,
            ToolName::Kafka => Tool::Kafka,
            ToolName::Alertmanager => Tool::Alertmanager,
            ToolName::Prometheus => Tool::Prometheus,
        }
    }
}

fn instance_dir(name: &str) -> PathBuf {
    cache_dir().join("instances").join(name)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Up(options) => up(options).await,
        Command::Down(Name { name }) => down(&name),
        Command::Tools { tools } => {
            let tools: Vec<Tool> =
                if tools.is_empty() { Tool::ALL.to_vec() } else { tools.into_iter().map(Tool::from).collect() };
            Tools::new().ensure(&tools)?;
            Ok(())
        }
    }
}

async fn up(options: Up) -> anyhow::Result<()> {
    let dir = instance_dir(&options.name.name);
    anyhow::ensure!(
        !dir.exists(),
        "an instance of this name is there already, in {}; stop it with `make env-down`, or give another --name",
        dir.display()
    );
    let started = std::time::Instant::now();
    let environment = Environment::builder(&options.name.name)
        .dir(&dir)
        .keep(true)
        .control_plane(ControlPlaneOptions { fsync: options.fsync, ..ControlPlaneOptions::default() })
        .kafka(options.kafka);
    let environment = tokio::select! {
        environment = environment.start() => environment.inspect_err(|_| { let _ = stop_all(&dir); })?,
        _ = tokio::signal::ctrl_c() => {
            stop_all(&dir)?;
            anyhow::bail!("interrupted; what was started is stopped");
        }
    };
    println!("The environment is up after {:.1} s.", started.elapsed().as_secs_f32());
    for line in environment.versions() {
        println!("  {line}");
    }
    println!("\nLook around:\n  export KUBECONFIG={}", environment.plane().kubeconfig().display());
    println!("  {} get nodes", Tools::new().program(Tool::Kubernetes, "kubectl")?.display());
    if options.kafka {
        println!("  Kafka: {}", environment.kafka().bootstrap());
    }
    println!("Logs are in {}. Stop it with `make env-down`.", dir.display());
    Ok(())
}

fn down(name: &str) -> anyhow::Result<()> {
    let dir = instance_dir(name);
    anyhow::ensure!(dir.exists(), "there is no instance {name:?}");
    let stopped = stop_all(&dir)?;
    println!("Stopped {stopped} processes of the instance {name:?}.");
    Ok(())
}

/// In the order in which nothing misses what it needs; etcd last.
fn stop_all(dir: &Path) -> anyhow::Result<usize> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir)?.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "pid"));
    files.sort_by_key(|path| match path.file_stem().and_then(|name| name.to_str()) {
        Some("etcd") => 2,
        Some("kube-apiserver") => 1,
        _ => 0,
    });
    let stopped = files.iter().filter(|file| stop_recorded(file, Duration::from_secs(15))).count();
    std::fs::remove_dir_all(dir)?;
    Ok(stopped)
}
