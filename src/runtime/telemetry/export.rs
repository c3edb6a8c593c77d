//! Exporters over OTLP. What the settings do not say (headers, sizes of queues and batches) the exporters read from the standard
//! variables themselves.

use std::{
    fmt::{self, Debug},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use opentelemetry_otlp::{
    LogExporter, MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
    tonic_types::transport::{Certificate, ClientTlsConfig},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::LogBatch,
    metrics::{PeriodicReader, SdkMeterProvider, Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    trace::SpanData,
};

use super::settings::{Endpoint, Protocol};

/// Why an exporter could not be made.
#[derive(Debug, thiserror::Error)]
#[error("export {signal} over OTLP: {problem}")]
pub struct ExportError {
    signal: &'static str,
    problem: String,
}

fn failed(signal: &'static str) -> impl Fn(String) -> ExportError {
    move |problem| ExportError { signal, problem }
}

macro_rules! exporter {
    ($exporter:ident, $endpoint:expr, $signal:literal) => {{
        let (endpoint, failed) = ($endpoint, failed($signal));
        match endpoint.protocol {
            Protocol::Grpc => {
                let builder =
                    $exporter::builder().with_tonic().with_endpoint(&endpoint.url).with_timeout(endpoint.timeout);
                match tls(endpoint) {
                    Some(tls) => builder.with_tls_config(tls).build(),
                    None => builder.build(),
                }
            }
            Protocol::HttpProtobuf => $exporter::builder()
                .with_http()
                .with_http_client(client(endpoint).map_err(&failed)?)
                .with_endpoint(&endpoint.url)
                .with_timeout(endpoint.timeout)
                .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                .build(),
        }
        .map_err(|error| failed(error.to_string()))
    }};
}

pub(super) fn spans(endpoint: &Endpoint) -> Result<Told<SpanExporter>, ExportError> {
    exporter!(SpanExporter, endpoint, "traces").map(|exporter| Told::new(exporter, "traces"))
}

pub(super) fn logs(endpoint: &Endpoint) -> Result<Told<LogExporter>, ExportError> {
    exporter!(LogExporter, endpoint, "logs").map(|exporter| Told::new(exporter, "logs"))
}

/// `interval` between two exports, where it is not the SDK's own of a minute.
pub(super) fn metrics(
    endpoint: &Endpoint,
    interval: Option<Duration>,
    resource: Resource,
) -> Result<SdkMeterProvider, ExportError> {
    let exporter = exporter!(MetricExporter, endpoint, "metrics")?;
    let reader = PeriodicReader::builder(Told::new(exporter, "metrics")).with_interval(interval.unwrap_or_default());
    let reader = reader.build();
    Ok(SdkMeterProvider::builder().with_resource(resource).with_reader(reader).build())
}

fn tls(endpoint: &Endpoint) -> Option<ClientTlsConfig> {
    if !endpoint.url.starts_with("https://") {
        return None;
    }
    let config = ClientTlsConfig::new();
    Some(match &endpoint.certificate {
        Some(pem) => config.ca_certificate(Certificate::from_pem(pem)),
        None => config.with_native_roots(),
    })
}

/// A blocking client, which the exporters' own threads use. It must be made on a thread that is not the async runtime's.
fn client(endpoint: &Endpoint) -> Result<reqwest::blocking::Client, String> {
    let (timeout, certificate) = (endpoint.timeout, endpoint.certificate.clone());
    let made = std::thread::spawn(move || {
        let mut builder = reqwest::blocking::Client::builder().timeout(timeout);
        if let Some(pem) = certificate {
            builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem)?);
        }
        builder.build()
    });
    let made = made.join().map_err(|_| "the HTTP client could not be made".to_owned())?;
    made.map_err(|error| error.to_string())
}

/// An exporter of which it is said once when its receiver takes nothing, and once when it does again. The line goes through the log like
/// any other, and so perhaps into the exporter that failed: as it is said once, that does not feed itself.
pub(super) struct Told<E> {
    exporter: E,
    signal: &'static str,
    failing: Arc<AtomicBool>,
}

impl<E> Told<E> {
    fn new(exporter: E, signal: &'static str) -> Self {
        Self { exporter, signal, failing: Arc::default() }
    }

    fn tell(&self, result: OTelSdkResult) -> OTelSdkResult {
        match (&result, self.failing.swap(result.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => {
                tracing::warn!(signal = self.signal, %error, "Telemetry is not taken; what does not fit the queue is dropped. Nothing else waits for it.");
            }
            (Ok(()), true) => tracing::info!(signal = self.signal, "Telemetry is taken again."),
            _ => {}
        }
        result
    }
}

impl<E> Debug for Told<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Told({})", self.signal)
    }
}

impl<E: opentelemetry_sdk::trace::SpanExporter> opentelemetry_sdk::trace::SpanExporter for Told<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.tell(self.exporter.export(batch).await)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: opentelemetry_sdk::logs::LogExporter> opentelemetry_sdk::logs::LogExporter for Told<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        self.tell(self.exporter.export(batch).await)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Told<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.tell(self.exporter.export(metrics).await)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}
