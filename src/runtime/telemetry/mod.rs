//! What the process tells of itself: log lines on standard error, and, when the standard variables of OpenTelemetry ask for it, spans,
//! metrics and log records over OTLP ([telemetry](../../../docs/telemetry.md)).
//!
//! In: the settings, and [`Span`]s that services have finished. Out: lines and OTLP requests. A receiver that is away slows, blocks and
//! fails nothing: what it does not take waits in bounded queues, and is dropped when they are full. Nothing else knows OpenTelemetry.

mod export;
#[cfg(test)]
pub mod heard;
mod log;
mod meters;
mod settings;
mod span;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use opentelemetry::{KeyValue, logs::LoggerProvider};
use opentelemetry_sdk::{
    Resource,
    logs::{BatchLogProcessor, SdkLoggerProvider},
    metrics::SdkMeterProvider,
    trace::{BatchSpanProcessor, SpanProcessor},
};

pub use export::ExportError;
pub use log::{FilterError, LogFilter, LogSettings, check_filter_file, follow_filter_file};
pub use settings::{Endpoint, Protocol, Sampler, SettingError, Settings, Variables};
pub use span::{
    ACTION_ID, ALERT_ID, AttributeValue, INCIDENT_ID, Ids, NOTIFICATION_ID, Processing, Span, SpanKind, SpanSink,
    Tracer, scope,
};

use super::Metrics;

const SCOPE: &str = "eventpulse";

/// The process's telemetry. To be [shut down](Telemetry::shut_down) last of all.
pub struct Telemetry {
    spans: Option<Arc<BatchSpanProcessor>>,
    logs: Option<SdkLoggerProvider>,
    metrics: Option<SdkMeterProvider>,
    sampler: Sampler,
    filter: LogFilter,
}

/// Why it could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// An exporter.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The log's filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
}

impl Telemetry {
    /// Sets the log up, and what is exported. To be called once, within the async runtime, which carries gRPC.
    pub fn start(settings: &Settings, log: &LogSettings) -> Result<Self, TelemetryError> {
        let resource = resource_of(settings);
        let logs = settings.logs.as_ref().map(|endpoint| {
            let processor = BatchLogProcessor::builder(export::logs(endpoint)?).build();
            let provider = SdkLoggerProvider::builder().with_resource(resource.clone()).with_log_processor(processor);
            Ok::<_, ExportError>(provider.build())
        });
        let logs = logs.transpose()?;
        let filter = log::init(log, logs.as_ref().map(|provider| provider.logger(SCOPE)))?;
        let spans = settings.traces.as_ref().map(|endpoint| {
            let mut processor = BatchSpanProcessor::builder(export::spans(endpoint)?).build();
            processor.set_resource(&resource);
            Ok::<_, ExportError>(Arc::new(processor))
        });
        let interval = settings.metrics_interval;
        let metrics = settings.metrics.as_ref().map(|endpoint| export::metrics(endpoint, interval, resource.clone()));
        let (spans, metrics) = (spans.transpose()?, metrics.transpose()?);
        Ok(Self { spans, logs, metrics, sampler: settings.sampler, filter })
    }

    /// Where services put the spans that they have finished.
    pub fn tracer(&self) -> Tracer {
        let sink = self.spans.clone().map(|spans| Arc::new(span::Exported(spans)) as Arc<dyn SpanSink>);
        Tracer::new(sink, self.sampler)
    }

    /// Has these metrics read every now and then and exported, where that is asked for. To be called once, before anything is observed.
    pub fn export_metrics(&self, metrics: &Metrics) {
        if let Some(provider) = &self.metrics {
            meters::export(provider, metrics);
        }
    }

    /// The log's filter, to change it while the process runs.
    pub fn log_filter(&self) -> LogFilter {
        self.filter.clone()
    }

    /// Exports what waits, within a deadline. Last of all, so that the end of everything else is told; not on a thread of the async
    /// runtime, which must go on to carry it.
    pub fn shut_down(self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        let mut ended = Vec::new();
        if let Some(metrics) = self.metrics {
            ended.push(("metrics", metrics.shutdown_with_timeout(left())));
        }
        if let Some(spans) = self.spans {
            ended.push(("traces", spans.shutdown_with_timeout(left())));
        }
        if let Some(logs) = self.logs {
            ended.push(("logs", logs.shutdown_with_timeout(left())));
        }
        // On standard error: whoever takes the exported lines is not there.
        for (signal, error) in ended.into_iter().filter_map(|(signal, ended)| Some((signal, ended.err()?))) {
            tracing::warn!(signal, %error, "Some telemetry was not handed out in time; it is lost.");
        }
    }
}

/// What all telemetry says of this process.
fn resource_of(settings: &Settings) -> Resource {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let instance = format!("{host}-{}", std::process::id());
    let known = [
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", instance.as_str()),
        ("host.name", host),
        ("telemetry.sdk.name", "opentelemetry"),
        ("telemetry.sdk.language", "rust"),
    ];
    let given = settings.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    // What people have said goes before what was found out.
    let known = known.into_iter().filter(|(name, _)| !settings.resource.iter().any(|(given, _)| given == name));
    Resource::builder_empty()
        .with_attributes(known.map(|(name, value)| KeyValue::new(name, value.to_owned())))
        .with_attributes(given)
        .with_attribute(KeyValue::new("service.name", settings.service_name.clone()))
        .build()
}
