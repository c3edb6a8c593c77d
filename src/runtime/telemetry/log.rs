//! Log lines: sentences with fields, for people or as JSON, each with the ids of what it belongs to (`trace_id`, `span_id`, `alert_id`,
//! `incident_id`, `action_id`), which stand in the spans that it was said in. What is said is chosen by a filter, which can be changed
//! while the process runs.

use std::{
    fmt::{Debug, Write as _},
    io::{IsTerminal, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use opentelemetry::{
    Key, SpanId, TraceFlags, TraceId,
    logs::{AnyValue, LogRecord as _, Logger as _, Severity},
};
use opentelemetry_sdk::logs::SdkLogger;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

/// What is said by default: everything from `info`, but what the Kubernetes client says of its own calls; whoever made the call says
/// what it means.
const DEFAULT_FILTER: &str = "info,kube_client=off";
/// How often the filter's file is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const FILTER_BYTES_MAX: u64 = 16 << 10;
/// What carries telemetry itself: exported, its lines would make further ones without end.
const CARRIERS: [&str; 8] = ["opentelemetry", "hyper", "hyper_util", "tonic", "h2", "reqwest", "tower", "rustls"];

/// How the log is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// One JSON object a line, in place of lines for people.
    pub json: bool,
    /// What is said; by default [`DEFAULT_FILTER`].
    pub filter: Option<String>,
    /// A file that holds the filter while it is there, and goes before `filter`.
    pub filter_file: Option<PathBuf>,
}

/// A filter that cannot be used. Then the one before it stays.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no filter of the log, like info,eventpulse::rules=debug: {problem}")]
pub struct FilterError {
    text: String,
    problem: String,
}

impl LogSettings {
    /// What a filter is made of must be one.
    pub fn check(text: &str) -> Result<(), FilterError> {
        parse(text).map(drop)
    }

    /// The filter to begin with. A file that cannot be used yet is said and followed.
    fn first_filter(&self) -> Result<EnvFilter, FilterError> {
        parse(self.filter.as_deref().unwrap_or(DEFAULT_FILTER))
    }
}

fn parse(text: &str) -> Result<EnvFilter, FilterError> {
    let wrong = |problem: String| FilterError { text: text.chars().take(200).collect(), problem };
    // The parser takes an empty text for "say errors only", which is hardly what an empty file means.
    let trimmed: String =
        text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(",");
    if trimmed.is_empty() {
        return Err(wrong("it is empty".into()));
    }
    // Some nonsense, like `in fo`, is taken for the name of a target of which everything is said.
    if trimmed.contains(|c: char| c.is_whitespace() || c.is_control()) && !trimmed.contains('[') {
        return Err(wrong("it holds blanks".into()));
    }
    EnvFilter::builder().parse(&trimmed).map_err(|error| wrong(error.to_string()))
}

/// The filter of the running process. Cheap to clone.
#[derive(Clone)]
pub struct LogFilter {
    reload: Option<reload::Handle<EnvFilter, Registry>>,
    base: String,
}

impl LogFilter {
    /// Replaces it; a broken one changes nothing.
    pub fn set(&self, text: &str) -> Result<(), FilterError> {
        let filter = parse(text)?;
        if let Some(reload) = &self.reload {
            // Whoever could be told that there is no log any more would be told by it.
            let _ = reload.reload(filter);
        }
        Ok(())
    }
}

/// Sets the process's log up. A second call changes nothing.
pub(super) fn init(settings: &LogSettings, exporter: Option<SdkLogger>) -> Result<LogFilter, FilterError> {
    let base = settings.filter.clone().unwrap_or_else(|| DEFAULT_FILTER.into());
    let (filter, reload) = reload::Layer::new(settings.first_filter()?);
    let lines = Lines { json: settings.json, colours: !settings.json && std::io::stderr().is_terminal() };
    let exported = exporter.map(Exported);
    // An error means that a log is set up already, as it is in tests.
    let set = tracing_subscriber::registry().with(filter).with(Remembering).with(lines).with(exported).try_init();
    Ok(LogFilter { reload: set.is_ok().then_some(reload), base })
}

/// Until shutdown, the filter is what the file says. A file is read by its name each time, as one that is mounted from a ConfigMap is
/// replaced. While it is not there the filter is what the process was started with; a broken one is said once, and changes nothing.
pub async fn follow_filter_file(filter: LogFilter, file: PathBuf, shutdown: CancellationToken) {
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    let mut last = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = look.tick() => {}
        }
        let now = read(&file).await;
        if last.as_ref() != Some(&now) {
            apply(&filter, &file, &now, last.is_none());
            last = Some(now);
        }
    }
}

/// Whether the file, where it is there, holds a filter; else what is wrong with it.
pub async fn check_filter_file(file: &Path) -> Result<(), String> {
    match read(file).await? {
        Some(text) => LogSettings::check(&text).map_err(|error| error.to_string()),
        None => Ok(()),
    }
}

async fn read(file: &Path) -> Result<Option<String>, String> {
    match tokio::fs::metadata(file).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
        Ok(metadata) if metadata.len() > FILTER_BYTES_MAX => {
            return Err(format!("has {} bytes, at most {FILTER_BYTES_MAX} are read", metadata.len()));
        }
        Ok(_) => {}
    }
    tokio::fs::read_to_string(file).await.map(Some).map_err(|error| error.to_string())
}

fn apply(filter: &LogFilter, file: &Path, found: &Result<Option<String>, String>, first: bool) {
    let file = file.display();
    match found {
        Ok(None) if first => tracing::info!(%file, filter = filter.base, "The log's filter file is not there yet."),
        Ok(None) => {
            let _ = filter.set(&filter.base); // It was one when the process started.
            tracing::info!(%file, filter = filter.base, "The log's filter file is gone: it says what it said at first.");
        }
        Ok(Some(text)) => match filter.set(text) {
            Ok(()) => tracing::info!(%file, filter = text.trim(), "The log's filter was read."),
            Err(error) => tracing::error!(%file, %error, "The log's filter stays as it was."),
        },
        Err(error) => {
            tracing::error!(%file, error, "The log's filter file cannot be read; the filter stays as it was.")
        }
    }
}

/// The fields of a span, and of those around it the inner one's.
#[derive(Clone, Default)]
pub(super) struct Fields(pub Map<String, Value>);

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().trim_start_matches("r#").to_owned(), value);
    }
}

/// Keeps the fields of spans for the layers behind it.
pub(super) struct Remembering;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Remembering {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let outer = span.parent().and_then(|parent| parent.extensions().get::<Fields>().cloned());
        let mut fields = outer.unwrap_or_default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }
}

/// Of a line: its message, its own fields, and those of the spans that it was said in.
pub(super) fn told<S: Subscriber + for<'a> LookupSpan<'a>>(
    event: &Event<'_>,
    ctx: &Context<'_, S>,
) -> (String, Fields, Fields) {
    let mut own = Fields::default();
    event.record(&mut own);
    let message = match own.0.remove("message") {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let around = ctx.event_span(event).and_then(|span| span.extensions().get::<Fields>().cloned());
    let mut around = around.unwrap_or_default();
    around.0.retain(|name, _| !own.0.contains_key(name));
    (message, own, around)
}

/// Writes lines on standard error.
struct Lines {
    json: bool,
    colours: bool,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let (message, own, around) = told(event, &ctx);
        let (at, metadata) = (format!("{:.6}", Timestamp::now()), event.metadata());
        let line = if self.json {
            json_line(&at, *metadata.level(), metadata.target(), message, own, around)
        } else {
            text_line(&at, *metadata.level(), self.colours, &message, &own, &around)
        };
        // In one write, so that lines of several threads are never mixed. Nobody is left to be told that it failed.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

fn json_line(at: &str, level: Level, target: &str, message: String, own: Fields, around: Fields) -> String {
    let mut line = around.0;
    line.extend(own.0);
    for (name, value) in [("timestamp", at), ("level", level.as_str()), ("target", target)] {
        line.insert(name.to_owned(), value.into());
    }
    line.insert("message".to_owned(), message.into());
    format!("{}\n", Value::Object(line))
}

fn text_line(at: &str, level: Level, colours: bool, message: &str, own: &Fields, around: &Fields) -> String {
    let colour = match level {
        Level::ERROR => "31",
        Level::WARN => "33",
        Level::INFO => "32",
        Level::DEBUG => "34",
        Level::TRACE => "35",
    };
    let mut line = if colours {
        format!("\x1b[2m{at}\x1b[0m \x1b[{colour}m{level:>5}\x1b[0m ")
    } else {
        format!("{at} {level:>5} ")
    };
    push_plain(&mut line, message);
    for (name, value) in own.0.iter().chain(&around.0) {
        let _ = write!(line, " {name}="); // Writing to a string cannot fail.
        match value {
            // As it is where nothing in it could be taken for the next field, or for a line of its own.
            Value::String(text)
                if !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || ":/.-_@+[]".contains(c)) =>
            {
                line.push_str(text);
            }
            other => line.push_str(&other.to_string()),
        }
    }
    line.push('\n');
    line
}

/// What others wrote must not make a line of its own, or speak to the terminal.
fn push_plain(line: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
}

/// Exports lines as log records.
struct Exported(SdkLogger);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Exported {
    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let metadata = event.metadata();
        let crate_name = metadata.target().split("::").next().unwrap_or_default();
        if CARRIERS.contains(&crate_name) || crate_name.starts_with("opentelemetry") {
            return;
        }
        let (message, own, around) = told(event, &ctx);
        let mut record = self.0.create_log_record();
        record.set_timestamp(Timestamp::now().into());
        record.set_severity_number(severity(*metadata.level()));
        record.set_severity_text(metadata.level().as_str());
        record.set_target(metadata.target());
        record.set_body(AnyValue::String(message.into()));
        let mut fields = around.0;
        fields.extend(own.0);
        if let Some((trace, span)) = trace_of(&mut fields) {
            record.set_trace_context(trace, span, Some(TraceFlags::SAMPLED));
        }
        record.add_attributes(fields.into_iter().map(|(name, value)| (Key::from(name), any(value))));
        self.0.emit(record);
    }
}

/// Takes the ids of trace and span out, which a log record has places for.
fn trace_of(fields: &mut Map<String, Value>) -> Option<(TraceId, SpanId)> {
    let trace = fields.get("trace_id").and_then(Value::as_str).and_then(|text| TraceId::from_hex(text).ok())?;
    let span = fields.get("span_id").and_then(Value::as_str).and_then(|text| SpanId::from_hex(text).ok());
    fields.remove("trace_id");
    fields.remove("span_id");
    Some((trace, span.unwrap_or(SpanId::INVALID)))
}

fn severity(level: Level) -> Severity {
    match level {
        Level::ERROR => Severity::Error,
        Level::WARN => Severity::Warn,
        Level::INFO => Severity::Info,
        Level::DEBUG => Severity::Debug,
        Level::TRACE => Severity::Trace,
    }
}

fn any(value: Value) -> AnyValue {
    match value {
        Value::Bool(value) => AnyValue::Boolean(value),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => AnyValue::Int(whole),
            None => AnyValue::Double(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => AnyValue::String(text.into()),
        other => AnyValue::String(other.to_string().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_filter_is_none() {
        for text in ["", " \n", "info,,x=y=z=", "in fo", "eventpulse=loud", "a[b", "\u{1b}[31m"] {
            let error = parse(text).map(|filter| filter.to_string()).unwrap_err().to_string();
            assert!(error.contains("is no filter of the log") && !error.contains('\u{1b}'), "{text:?}: {error}");
        }
        for text in ["info", "debug\n", "info,eventpulse::rules=trace", "info,\n kube_client=off,\n"] {
            assert!(parse(text).is_ok(), "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_filter_file_beyond_its_bound_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("filter");
        let text = |bytes: u64| format!("info{}", " ".repeat(usize::try_from(bytes).unwrap() - 4));
        std::fs::write(&file, text(FILTER_BYTES_MAX)).unwrap();
        assert_eq!(check_filter_file(&file).await, Ok(()));
        std::fs::write(&file, text(FILTER_BYTES_MAX + 1)).unwrap();
        assert_eq!(check_filter_file(&file).await, Err("has 16385 bytes, at most 16384 are read".into()));
    }

    fn fields(pairs: &[(&str, Value)]) -> Fields {
        Fields(pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }

    #[test]
    fn a_line_has_its_own_fields_and_those_around_it_and_stays_one_line() {
        let own = fields(&[("result", "done\nx".into()), ("message", "another".into())]);
        let around = fields(&[("trace_id", "0af7".into()), ("attempt", 2.into())]);
        let line = text_line("T", Level::INFO, false, "It\nended\u{1b}[2J.", &own, &around);
        assert_eq!(line, "T  INFO It\\nended\\u{1b}[2J. message=another result=\"done\\nx\" attempt=2 trace_id=0af7\n");
        let line = json_line("T", Level::WARN, "eventpulse::x", "It ended.".into(), own, around);
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line.lines().count(), 1);
        for (name, expected) in [
            ("message", "It ended."),
            ("level", "WARN"),
            ("trace_id", "0af7"),
            ("result", "done\nx"),
            ("timestamp", "T"),
        ] {
            assert_eq!(value[name], expected, "{line}");
        }
    }
}
