//! `eventpulse-env`: what `make env-up`, `make env-down`, `make env-tools` and `make image` call.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use eventpulse_env::{
    ControlPlaneOptions, Environment, InstanceName, MailOptions, Tool, Tools, stop_instance, until_interrupted,
};

/// Where EventPulse receives alerts when nothing else is said.
const EVENTPULSE: &str = "127.0.0.1:8080";

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
    /// Put the container image together, as an OCI layout and as an archive.
    Image {
        /// The program that goes into it.
        #[arg(long, default_value = "target/release/eventpulse", value_name = "FILE")]
        binary: PathBuf,
        /// Where it goes.
        #[arg(long, default_value = "target/image", value_name = "DIR")]
        out: PathBuf,
    },
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
    name: InstanceName,
}

#[derive(Args)]
struct Up {
    #[command(flatten)]
    name: Name,
    /// A Kafka broker too.
    #[arg(long)]
    kafka: bool,
    /// An Alertmanager too, which sends to an EventPulse on its default port.
    #[arg(long)]
    alertmanager: bool,
    /// A Prometheus too. Its alerts go to the Alertmanager if there is one, else straight to an EventPulse on its default port.
    #[arg(long)]
    prometheus: bool,
    /// An OpenTelemetry Collector too, which writes what it gets into files.
    #[arg(long)]
    otelcol: bool,
    /// A mail server too, which takes mail after STARTTLS and shows it to you.
    #[arg(long)]
    mail: bool,
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
    Mailpit,
    Otelcol,
    Helm,
    Image,
}

impl From<ToolName> for Tool {
    fn from(name: ToolName) -> Self {
        match name {
            ToolName::Kubernetes => Tool::Kubernetes,
            ToolName::Kwok => Tool::Kwok,
            ToolName::Kafka => Tool::Kafka,
            ToolName::Alertmanager => Tool::Alertmanager,
            ToolName::Prometheus => Tool::Prometheus,
            ToolName::Mailpit => Tool::Mailpit,
            ToolName::Otelcol => Tool::Otelcol,
            ToolName::Helm => Tool::Helm,
            ToolName::Image => Tool::Image,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    until_interrupted(run(Cli::parse().command)).await
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(options) => up(options).await,
        Command::Down(Name { name }) => down(&name),
        Command::Image { binary, out } => {
            print!("{}", Tools::new().build_image(&binary, &out).await?);
            Ok(())
        }
        Command::Tools { tools } => {
            let tools: Vec<Tool> =
                if tools.is_empty() { Tool::ALL.to_vec() } else { tools.into_iter().map(Tool::from).collect() };
            Ok(Tools::new().ensure(&tools).await?)
        }
    }
}

async fn up(options: Up) -> anyhow::Result<()> {
    let name = &options.name.name;
    let dir = name.dir();
    anyhow::ensure!(
        !dir.exists(),
        "an instance of this name is there already, in {}; stop it with `make env-down ARGS=\"--name {name}\"`, or give another \
         --name",
        dir.display()
    );
    let started = std::time::Instant::now();
    let environment = Environment::builder(name.to_string())
        .dir(&dir)
        .keep(true)
        .control_plane(ControlPlaneOptions { fsync: options.fsync, ..ControlPlaneOptions::default() })
        .kafka(options.kafka);
    let mut environment = environment.start().await?;
    let mut places = start_monitoring(&mut environment, &options).await?;
    if options.otelcol {
        let collector = environment.start_collector().await?;
        places.push(format!(
            "OpenTelemetry Collector: OTEL_EXPORTER_OTLP_ENDPOINT={} OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or {} and http/protobuf",
            collector.grpc(),
            collector.http()
        ));
    }
    if options.mail {
        let server = environment.start_mail_server("mail", &MailOptions::default()).await?;
        let ca = dir.join("mail-ca.crt");
        places.push(format!(
            "Mail: SMTP with STARTTLS on localhost:{}, whose CA is {}; what came is on {}/api/v1/messages",
            server.port(),
            ca.display(),
            server.url()
        ));
    }
    println!("The environment is up after {:.1} s.", started.elapsed().as_secs_f32());
    for line in environment.versions() {
        println!("  {line}");
    }
    println!("\nLook around:\n  export KUBECONFIG={}", environment.plane().kubeconfig().display());
    println!("  {} get nodes", Tools::new().program(Tool::Kubernetes, "kubectl")?.display());
    if options.kafka {
        println!("  Kafka: {}", environment.kafka().bootstrap());
    }
    for place in places {
        println!("  {place}");
    }
    println!("Logs are in {}. Stop it with `make env-down ARGS=\"--name {name}\"`.", dir.display());
    environment.leave();
    Ok(())
}

/// Gives where they are, for people.
async fn start_monitoring(environment: &mut Environment, options: &Up) -> anyhow::Result<Vec<String>> {
    let mut places = Vec::new();
    // EventPulse takes alerts as an Alertmanager would.
    let mut receiver = EVENTPULSE.to_owned();
    if options.alertmanager {
        let config = format!(
            "route: {{receiver: eventpulse, group_by: ['...'], group_wait: 1s, group_interval: 5s}}\nreceivers:\n- name: \
             eventpulse\n  webhook_configs: [{{url: 'http://{EVENTPULSE}/webhooks/alertmanager', send_resolved: true}}]\n"
        );
        receiver = environment.start_alertmanager("alertmanager", &config).await?.address();
        places.push(format!("Alertmanager: http://{receiver}, which sends to {EVENTPULSE}"));
    }
    if options.prometheus {
        let config = format!(
            "global: {{scrape_interval: 5s, evaluation_interval: 5s}}\nrule_files: [rules.yml]\nalerting:\n  alertmanagers: \
             [{{static_configs: [{{targets: ['{receiver}']}}]}}]\n"
        );
        let rules = environment.dir().join("rules.yml");
        let prometheus = environment.start_prometheus(&config, "groups: []\n").await?;
        let address = prometheus.address();
        places.push(format!(
            "Prometheus: http://{address}, which sends to {receiver}; alerting rules go into {}, then `kill -HUP {}`",
            rules.display(),
            prometheus.process().pid()
        ));
    }
    Ok(places)
}

fn down(name: &InstanceName) -> anyhow::Result<()> {
    let dir = name.dir();
    anyhow::ensure!(dir.exists(), "there is no instance {:?}", name.to_string());
    let stopped = stop_instance(&dir)?;
    println!("Stopped {stopped} processes of the instance {name}.");
    Ok(())
}
