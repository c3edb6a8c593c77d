//! What the standard variables say (OpenTelemetry, "Environment variable specification" and "OTLP exporter configuration"). Nothing is
//! exported unless they ask for it; a value that cannot be used is an error that names its variable.

use std::{path::PathBuf, time::Duration};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};

/// What is exported, and where to. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Spans.
    pub traces: Option<Endpoint>,
    /// Points of metrics.
    pub metrics: Option<Endpoint>,
    /// How long between two exports of them, where it is said.
    pub metrics_interval: Option<Duration>,
    /// Log records.
    pub logs: Option<Endpoint>,
    /// Which traces are recorded.
    pub sampler: Sampler,
    /// What all telemetry says of this process, in addition to the service's name.
    pub resource: Vec<(String, String)>,
    /// The service's name.
    pub service_name: String,
}

/// Where a signal goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// The whole URL.
    pub url: String,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// How long an export may take.
    pub timeout: Duration,
    /// PEM: the certificates that the receiver's must be signed by, in place of the system's.
    pub certificate: Option<Vec<u8>>,
}

/// How OTLP is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// Protobuf in HTTP requests.
    HttpProtobuf,
}

impl Protocol {
    /// As OTEL_EXPORTER_OTLP_PROTOCOL has it.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Grpc => "grpc",
            Protocol::HttpProtobuf => "http/protobuf",
        }
    }
}

/// Which traces are recorded. It is decided where a trace begins, and carried with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// A trace that somebody else began is recorded if that one says so.
    pub parent_based: bool,
    /// Of the traces that are decided here, which part, from 0 to 1.
    pub ratio: f64,
}

impl Default for Sampler {
    fn default() -> Self {
        Self { parent_based: true, ratio: 1.0 }
    }
}

impl Sampler {
    /// Whether a trace that begins here is recorded. By its id alone, so that every process says the same.
    pub fn samples(&self, trace_id: &[u8; 16]) -> bool {
        let mut low = [0; 8];
        low.copy_from_slice(&trace_id[8..]);
        // 63 bits, as the other SDKs compare them.
        let place = u64::from_be_bytes(low) >> 1;
        self.ratio >= 1.0 || (place as f64) < self.ratio * (1_u64 << 63) as f64
    }

    /// The same of one whose beginning was `recorded` by whoever began it.
    pub fn goes_on(&self, trace_id: &[u8; 16], recorded: bool) -> bool {
        if self.parent_based { recorded } else { self.samples(trace_id) }
    }
}

/// A variable that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {problem}")]
pub struct SettingError {
    name: String,
    problem: String,
}

impl SettingError {
    /// The variable.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is wrong with it, and what to do.
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

fn wrong<T>(name: &str, problem: impl Into<String>) -> Result<T, SettingError> {
    Err(SettingError { name: name.to_owned(), problem: problem.into() })
}

const SIGNALS: [&str; 3] = ["TRACES", "METRICS", "LOGS"];
const TIMEOUT_DEFAULT_MS: u64 = 10_000;
const CERTIFICATE_BYTES_MAX: u64 = 1 << 20;
/// What the exporters read themselves: whole numbers, most of them milliseconds.
const NUMBERS: [&str; 10] = [
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BLRP_SCHEDULE_DELAY",
    "OTEL_BLRP_EXPORT_TIMEOUT",
    "OTEL_BLRP_MAX_QUEUE_SIZE",
    "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_METRIC_EXPORT_TIMEOUT",
];

/// The process's variables, or a test's. One that is empty is as good as not set.
pub struct Variables<'a>(pub &'a dyn Fn(&str) -> Option<String>);

impl Settings {
    /// Of this process. A variable that is no UTF-8 is read as far as it is, and is then refused by what it says.
    pub fn from_environment() -> Result<Self, SettingError> {
        Self::read(&Variables(&|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())))
    }

    /// Checks all variables, also those of signals that are not exported.
    pub fn read(variables: &Variables<'_>) -> Result<Self, SettingError> {
        for name in NUMBERS {
            variables.number(name, 1)?;
        }
        let disabled = match variables.get("OTEL_SDK_DISABLED").map(|value| value.to_ascii_lowercase()).as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => return wrong("OTEL_SDK_DISABLED", format!("{other:?} is neither true nor false")),
        };
        let [traces, metrics, logs] = SIGNALS.map(|signal| variables.endpoint(signal));
        let (traces, mut metrics, logs) = (traces?, metrics?, logs?);
        let metrics_interval = variables.number("OTEL_METRIC_EXPORT_INTERVAL", 1)?.map(Duration::from_millis);
        // The SDK knows one deadline of a request: the earlier of the two that there are.
        if let (Some(metrics), Some(ms)) = (&mut metrics, variables.number("OTEL_METRIC_EXPORT_TIMEOUT", 1)?) {
            metrics.timeout = metrics.timeout.min(Duration::from_millis(ms));
        }
        variables.temporality()?;
        let mut resource = variables.resource()?;
        let named = resource.iter().position(|(name, _)| name == "service.name").map(|at| resource.remove(at).1);
        let service_name = variables.get("OTEL_SERVICE_NAME").or(named).unwrap_or_else(|| "eventpulse".into());
        let on = |endpoint: Option<Endpoint>| endpoint.filter(|_| !disabled);
        let sampler = variables.sampler()?;
        let (traces, metrics, logs) = (on(traces), on(metrics), on(logs));
        Ok(Self { traces, metrics, metrics_interval, logs, sampler, resource, service_name })
    }
}

impl Variables<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.trim().is_empty()).map(|value| value.trim().to_owned())
    }

    fn number(&self, name: &str, least: u64) -> Result<Option<u64>, SettingError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match text.parse::<u64>() {
            Ok(number) if number >= least => Ok(Some(number)),
            _ => wrong(name, format!("{text:?} is no whole number from {least}")),
        }
    }

    /// The signal's own variable, else the one for all signals; with the name of the one that is set.
    fn of_signal(&self, signal: &str, what: &str) -> Option<(String, String)> {
        let names = [format!("OTEL_EXPORTER_OTLP_{signal}_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")];
        names.into_iter().find_map(|name| self.get(&name).map(|value| (name, value)))
    }

    fn endpoint(&self, signal: &str) -> Result<Option<Endpoint>, SettingError> {
        let protocol = match self.of_signal(signal, "PROTOCOL") {
            None => Protocol::HttpProtobuf,
            Some((_, text)) if text == "http/protobuf" => Protocol::HttpProtobuf,
            Some((_, text)) if text == "grpc" => Protocol::Grpc,
            Some((name, text)) => return wrong(&name, format!("{text:?} is neither grpc nor http/protobuf")),
        };
        let url = self.url(signal, protocol)?;
        let timeout_ms = match self.of_signal(signal, "TIMEOUT") {
            Some((name, _)) => self.number(&name, 1)?.unwrap_or(TIMEOUT_DEFAULT_MS),
            None => TIMEOUT_DEFAULT_MS,
        };
        if let Some((name, text)) = self.of_signal(signal, "HEADERS") {
            check_headers(&name, &text)?;
        }
        if let Some((name, text)) = self.of_signal(signal, "COMPRESSION").filter(|(_, text)| text != "none") {
            return wrong(&name, format!("{text:?} is not supported: leave it out, or say none"));
        }
        for what in ["CLIENT_CERTIFICATE", "CLIENT_KEY"] {
            if let Some((name, _)) = self.of_signal(signal, what) {
                return wrong(&name, "is not supported: authenticate with a header (OTEL_EXPORTER_OTLP_HEADERS)");
            }
        }
        let certificate = self.of_signal(signal, "CERTIFICATE");
        let certificate = certificate.map(|(name, file)| read_certificate(&name, file.into())).transpose()?;
        let name = format!("OTEL_{signal}_EXPORTER");
        let wanted = match self.get(&name).as_deref() {
            None => url.is_some(),
            Some("otlp") => true,
            Some("none") => false,
            Some(other) => return wrong(&name, format!("{other:?} is not supported: otlp or none")),
        };
        if !wanted {
            return Ok(None);
        }
        let url = url.unwrap_or_else(|| match protocol {
            Protocol::Grpc => "http://localhost:4317".into(),
            Protocol::HttpProtobuf => format!("http://localhost:4318/v1/{}", signal.to_ascii_lowercase()),
        });
        Ok(Some(Endpoint { url, protocol, timeout: Duration::from_millis(timeout_ms), certificate }))
    }

    /// As the specification has it: a signal's own is taken as it is, the one for all gets the signal's path over HTTP.
    fn url(&self, signal: &str, protocol: Protocol) -> Result<Option<String>, SettingError> {
        let Some((name, mut text)) = self.of_signal(signal, "ENDPOINT") else { return Ok(None) };
        let is_url = |text: &str| {
            let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
            rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':']))
                && text.parse::<hyper::Uri>().is_ok_and(|uri| uri.host().is_some())
        };
        // A password may stand in it: it is not repeated.
        if !is_url(&text) {
            return wrong(&name, "is no URL that begins with http:// or https://, like http://collector:4318");
        }
        if protocol == Protocol::HttpProtobuf && name == "OTEL_EXPORTER_OTLP_ENDPOINT" {
            text = format!("{}/v1/{}", text.trim_end_matches('/'), signal.to_ascii_lowercase());
        }
        Ok(Some(text))
    }

    /// The exporter reads it itself, but would only warn of what it does not know.
    fn temporality(&self) -> Result<(), SettingError> {
        let name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        match self.get(name).map(|text| text.to_ascii_lowercase()).as_deref() {
            None | Some("cumulative" | "delta" | "lowmemory") => Ok(()),
            Some(other) => wrong(name, format!("{other:?} is none of cumulative, delta and lowmemory")),
        }
    }

    fn sampler(&self) -> Result<Sampler, SettingError> {
        let (name, argument) = ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG");
        let text = self.get(name).unwrap_or_else(|| "parentbased_always_on".into());
        let parent_based = text.starts_with("parentbased_");
        let ratio = match text.trim_start_matches("parentbased_") {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => {
                let given = self.get(argument).unwrap_or_else(|| "1".into());
                match given.parse::<f64>() {
                    Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
                    _ => return wrong(argument, format!("{given:?} is no number from 0 to 1")),
                }
            }
            _ => {
                return wrong(
                    name,
                    format!(
                        "{text:?} is not supported: always_on, always_off, traceidratio, or one of them behind parentbased_"
                    ),
                );
            }
        };
        Ok(Sampler { parent_based, ratio })
    }

    fn resource(&self) -> Result<Vec<(String, String)>, SettingError> {
        let name = "OTEL_RESOURCE_ATTRIBUTES";
        let Some(text) = self.get(name) else { return Ok(Vec::new()) };
        let pairs = text.split(',').filter(|pair| !pair.trim().is_empty()).map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), decode(value.trim()))),
            _ => wrong(name, format!("{pair:?} is no KEY=VALUE")),
        });
        pairs.collect()
    }
}

/// What is secret in a header is its value: an error says its place only.
fn check_headers(name: &str, text: &str) -> Result<(), SettingError> {
    for (index, pair) in text.split(',').enumerate().filter(|(_, pair)| !pair.trim().is_empty()) {
        let known = pair.split_once('=').is_some_and(|(key, value)| {
            hyper::header::HeaderName::from_bytes(key.trim().as_bytes()).is_ok()
                && hyper::header::HeaderValue::from_str(&decode(value.trim())).is_ok()
        });
        if !known {
            return wrong(name, format!("entry {} is no NAME=VALUE of a header", index + 1));
        }
    }
    Ok(())
}

fn read_certificate(name: &str, file: PathBuf) -> Result<Vec<u8>, SettingError> {
    let problem = |why: String| SettingError { name: name.to_owned(), problem: format!("{}: {why}", file.display()) };
    let length = std::fs::metadata(&file).map_err(|error| problem(error.to_string()))?.len();
    if length > CERTIFICATE_BYTES_MAX {
        return Err(problem(format!("has {length} bytes, at most {CERTIFICATE_BYTES_MAX} are read")));
    }
    let pem = std::fs::read(&file).map_err(|error| problem(error.to_string()))?;
    let certificates: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| problem(error.to_string()))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|error| problem(error.to_string()))?;
    }
    if certificates.is_empty() {
        return Err(problem("holds no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----".into()));
    }
    Ok(pem)
}

/// Percent-encoding (W3C Baggage), as far as it is one.
fn decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        match code.filter(|_| *byte == b'%').and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Settings::read(&Variables(&get)).map_err(|error| error.to_string())
    }

    #[test]
    fn without_variables_nothing_is_exported() {
        let settings = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]).unwrap();
        assert_eq!((settings.traces, settings.metrics, settings.logs), (None, None, None));
        assert_eq!(settings.service_name, "eventpulse");
    }

    #[test]
    fn the_endpoint_for_all_switches_all_on_and_a_signals_own_goes_before_it() {
        let settings = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/otlp/"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://logs:1/x"),
            ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "500"),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_SERVICE_NAME", "pulse"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,team=a%2Cb, k8s.namespace.name=shop"),
        ])
        .unwrap();
        assert_eq!(settings.traces.clone().unwrap().url, "http://collector:4318/otlp/v1/traces");
        let protocol = settings.traces.unwrap().protocol;
        assert_eq!((protocol, protocol.name()), (Protocol::HttpProtobuf, "http/protobuf"));
        let logs = settings.logs.unwrap();
        assert_eq!((logs.url.as_str(), logs.timeout), ("https://logs:1/x", Duration::from_millis(500)));
        assert_eq!((settings.metrics, settings.service_name.as_str()), (None, "pulse"));
        assert_eq!(settings.resource[0], ("team".to_owned(), "a,b".to_owned()));
        assert_eq!(settings.resource.len(), 2);
    }

    #[test]
    fn an_exporter_alone_goes_to_where_a_collector_is_by_default() {
        let settings = read(&[("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).unwrap();
        assert_eq!(settings.traces.unwrap().url, "http://localhost:4317");
        assert_eq!(settings.logs, None);
        let disabled = [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "otlp")];
        assert_eq!(read(&disabled).unwrap().traces, None);
    }

    #[test]
    fn a_broken_value_is_named() {
        for (name, value, says) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", "is no URL"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://", "is no URL"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a b", "is no URL"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://user:hunter2@x", "is no URL"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "\"http/json\" is neither"),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "GRPC", "\"GRPC\" is neither"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "\"10s\" is no whole number"),
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "0", "\"0\" is no whole number from 1"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b,authorization", "entry 2 is no NAME=VALUE"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=hunter2", "entry 1 is no NAME=VALUE"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=hunter2%0d%0ab", "entry 1 is no NAME=VALUE"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "\"gzip\" is not supported"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem", "/nowhere/ca.pem: No such file"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k", "is not supported"),
            ("OTEL_TRACES_EXPORTER", "zipkin", "\"zipkin\" is not supported"),
            ("OTEL_METRICS_EXPORTER", "prometheus", "\"prometheus\" is not supported"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote", "\"jaeger_remote\" is not supported"),
            ("OTEL_SDK_DISABLED", "yes", "\"yes\" is neither true nor false"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "\"-1\" is no whole number"),
            ("OTEL_BLRP_SCHEDULE_DELAY", "1.5", "\"1.5\" is no whole number"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "60s", "\"60s\" is no whole number from 1"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "0", "\"0\" is no whole number from 1"),
            ("OTEL_METRIC_EXPORT_TIMEOUT", "-5", "\"-5\" is no whole number from 1"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "diff", "\"diff\" is none of cumulative"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c", "\"c\" is no KEY=VALUE"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.starts_with(&format!("{name}: {says}")) && !error.contains("hunter2"), "{value}: {error}");
        }
        for value in ["2", "-0.1", "NaN", "x"] {
            let error =
                read(&[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", value)]).unwrap_err();
            assert!(error.starts_with("OTEL_TRACES_SAMPLER_ARG: "), "{error}");
        }
    }

    #[test]
    fn metrics_have_an_interval_and_the_earlier_of_two_deadlines() {
        let of = |ms: &'static str| {
            let settings = read(&[
                ("OTEL_METRICS_EXPORTER", "otlp"),
                ("OTEL_METRIC_EXPORT_INTERVAL", " 500 "),
                ("OTEL_METRIC_EXPORT_TIMEOUT", ms),
                ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "3000"),
                ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Delta"),
            ]);
            let settings = settings.unwrap();
            assert_eq!((settings.traces, settings.logs), (None, None));
            (settings.metrics_interval, settings.metrics.unwrap().timeout)
        };
        let ms = Duration::from_millis;
        assert_eq!(of("2000"), (Some(ms(500)), ms(2000)));
        assert_eq!(of("4000"), (Some(ms(500)), ms(3000)));
        assert_eq!(read(&[("OTEL_METRICS_EXPORTER", "otlp")]).unwrap().metrics_interval, None);
    }

    #[test]
    fn a_file_without_a_certificate_is_none() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "hello", "-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n"] {
            let file = dir.path().join("ca.pem");
            std::fs::write(&file, text).unwrap();
            let error = read(&[("OTEL_EXPORTER_OTLP_CERTIFICATE", file.to_str().unwrap())]).unwrap_err();
            assert!(
                error.starts_with("OTEL_EXPORTER_OTLP_CERTIFICATE: ") && error.contains("ca.pem"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_file_of_certificates_beyond_its_bound_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        std::fs::File::create(&file).unwrap().set_len(CERTIFICATE_BYTES_MAX + 1).unwrap();
        let error = read(&[("OTEL_EXPORTER_OTLP_CERTIFICATE", file.to_str().unwrap())]).unwrap_err();
        assert!(error.ends_with("has 1048577 bytes, at most 1048576 are read"), "{error}");
    }

    #[test]
    fn samplers_say_which_traces_are_recorded() {
        let sampler = |name: &str, ratio: &str| {
            read(&[("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", ratio)]).unwrap().sampler
        };
        let low = |byte: u8| [0, 0, 0, 0, 0, 0, 0, 0, byte, 0, 0, 0, 0, 0, 0, 1];
        let half = sampler("parentbased_traceidratio", "0.5");
        assert!(half.samples(&low(0x7f)) && !half.samples(&low(0x80)));
        assert!(half.goes_on(&low(0xff), true) && !half.goes_on(&low(0), false));
        let always = sampler("always_on", "");
        assert!(always.samples(&low(0xff)) && always.goes_on(&low(0xff), false));
        let never = sampler("always_off", "");
        assert!(!never.samples(&low(0)) && !never.goes_on(&low(0), true));
    }
}
