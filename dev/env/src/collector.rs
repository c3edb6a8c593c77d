//! The OpenTelemetry Collector: takes OTLP over gRPC and HTTP, and writes what it got into files, a JSON object of OTLP a line.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::{
    error::{Result, at},
    ports::free_port,
    process::{Process, Spec},
    tools::{Tool, Tools},
};

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What telemetry consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Points of metrics.
    Metrics,
    /// Log records.
    Logs,
}

impl Signal {
    /// All of them.
    pub const ALL: [Signal; 3] = [Signal::Traces, Signal::Metrics, Signal::Logs];

    fn name(self) -> &'static str {
        match self {
            Signal::Traces => "traces",
            Signal::Metrics => "metrics",
            Signal::Logs => "logs",
        }
    }
}

/// A running Collector.
pub struct Collector {
    dir: PathBuf,
    grpc: u16,
    http: u16,
    process: Process,
}

impl Collector {
    pub(crate) async fn start(dir: &Path, tools: &Tools, detached: bool) -> Result<Self> {
        let (grpc, http) = (free_port(), free_port());
        let file = dir.join("otelcol.yaml");
        std::fs::write(&file, config(dir, grpc, http)).map_err(at(&file))?;
        let spec = Spec::new("otelcol", tools.program(Tool::Otelcol, "otelcol")?, dir)
            .detached(detached)
            .arg(format!("--config=file:{}", file.display()));
        let process = Process::spawn(spec)?;
        let collector = Self { dir: dir.to_owned(), grpc, http, process };
        collector.listening().await?;
        Ok(collector)
    }

    async fn listening(&self) -> Result<()> {
        self.process.wait_for_port(self.grpc, START_TIMEOUT).await?;
        self.process.wait_for_port(self.http, START_TIMEOUT).await
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT` with the protocol `grpc`.
    pub fn grpc(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc)
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT` with the protocol `http/protobuf`.
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Ends it, and starts it again on its ports.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = self.process.respawn()?;
        self.listening().await
    }

    /// The file that the requests of a signal are in.
    pub fn file(&self, signal: Signal) -> PathBuf {
        file(&self.dir, signal)
    }

    /// Everything that it got of a signal so far, as OTLP/JSON: objects with `resourceSpans`, `resourceMetrics` or `resourceLogs`.
    pub fn received(&self, signal: Signal) -> Result<Vec<Value>> {
        let path = self.file(signal);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.map_err(at(&path))?,
        };
        // The last line may be half written; it is whole the next time.
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }
}

fn file(dir: &Path, signal: Signal) -> PathBuf {
    dir.join(format!("otelcol-{}.jsonl", signal.name()))
}

/// JSON is YAML too. It tells nobody of itself, and opens no further port.
fn config(dir: &Path, grpc: u16, http: u16) -> String {
    let (mut exporters, mut pipelines) = (serde_json::Map::new(), serde_json::Map::new());
    for signal in Signal::ALL {
        let exporter = format!("file/{}", signal.name());
        let path = file(dir, signal);
        exporters
            .insert(exporter.clone(), serde_json::json!({"path": path, "append": true, "flush_interval": "100ms"}));
        pipelines.insert(signal.name().into(), serde_json::json!({"receivers": ["otlp"], "exporters": [exporter]}));
    }
    let endpoint = |port: u16| serde_json::json!({"endpoint": format!("127.0.0.1:{port}")});
    serde_json::json!({
        "receivers": {"otlp": {"protocols": {"grpc": endpoint(grpc), "http": endpoint(http)}}},
        "exporters": exporters,
        "service": {"telemetry": {"metrics": {"level": "none"}}, "pipelines": pipelines},
    })
    .to_string()
}
