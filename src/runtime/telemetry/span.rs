//! Spans as values. A service says what it has done, with ids that are derived (see [`TraceContext`]): whoever finishes something that
//! another process began tells the span that this one would have told.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use jiff::Timestamp;
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{Link, SpanContext, SpanKind as OtelKind, Status, TraceState},
};
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor};

use super::{SCOPE, settings::Sampler};
use crate::{
    bus::{Ack, Ending},
    events::{
        Event, HEADER_ID, HEADER_SOURCE, HEADER_SUBJECT, HEADER_TIME, HEADER_TRACEPARENT, HEADER_TRACESTATE, Payload,
        Record, Topic, TraceContext, parent_of,
    },
};

/// The most spans of other traces that one is linked with (promise 6).
const LINKS_MAX: usize = 32;

/// What a span is to the one that it belongs under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Something within.
    Internal,
    /// A request that was answered.
    Server,
    /// A call to somebody else.
    Client,
    /// An event that was put on the log.
    Producer,
    /// An event that was worked on.
    Consumer,
}

/// What an attribute says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeValue {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        AttributeValue::Text(text.to_owned())
    }
}

impl From<String> for AttributeValue {
    fn from(text: String) -> Self {
        AttributeValue::Text(text)
    }
}

impl From<i64> for AttributeValue {
    fn from(number: i64) -> Self {
        AttributeValue::Number(number)
    }
}

/// Something that was done.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Its name, of few different ones.
    pub name: Cow<'static, str>,
    /// Its kind.
    pub kind: SpanKind,
    /// Its trace and itself.
    pub context: TraceContext,
    /// The span that it belongs under; none for the first of a trace.
    pub parent: Option<[u8; 8]>,
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// Semantic conventions' names first, then `eventpulse.…`.
    pub attributes: Vec<(&'static str, AttributeValue)>,
    /// Spans of other traces that it concerns.
    pub links: Vec<TraceContext>,
    /// Why it failed, where it did.
    pub error: Option<String>,
}

impl Span {
    /// One of which nothing else is known yet: without a parent it is the first of its trace.
    pub fn new(
        parent: Option<[u8; 8]>,
        context: TraceContext,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
        start: Timestamp,
        end: Timestamp,
    ) -> Self {
        let name = name.into();
        Self { name, kind, context, parent, start, end, attributes: Vec::new(), links: Vec::new(), error: None }
    }

    /// One that belongs under `parent`.
    pub fn under(
        parent: &TraceContext,
        context: TraceContext,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
        start: Timestamp,
        end: Timestamp,
    ) -> Self {
        Self::new(Some(parent.span_id), context, kind, name, start, end)
    }

    /// With an attribute.
    pub fn with(mut self, name: &'static str, value: impl Into<AttributeValue>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }
}

/// Where finished spans go. Must return at once.
pub trait SpanSink: Send + Sync + 'static {
    /// Takes a span of a trace that is recorded.
    fn take(&self, span: Span);
}

/// Where services put their spans. Cheap to clone; without a sink everything that it does is a test of a pointer.
#[derive(Clone, Default)]
pub struct Tracer {
    sink: Option<Arc<dyn SpanSink>>,
    sampler: Sampler,
}

impl Tracer {
    /// Without a sink nothing is recorded, but traces are begun and sampled all the same: other processes may record them.
    pub fn new(sink: Option<Arc<dyn SpanSink>>, sampler: Sampler) -> Self {
        Self { sink, sampler }
    }

    /// Puts a span away that was made only if its trace is recorded.
    pub fn record(&self, context: &TraceContext, span: impl FnOnce() -> Span) {
        if let Some(sink) = self.sink.as_ref().filter(|_| context.is_sampled()) {
            sink.take(span());
        }
    }

    /// Whether anything is recorded at all.
    pub fn is_recording(&self) -> bool {
        self.sink.is_some()
    }

    /// A trace that begins here, named by what begins it.
    pub fn begin(&self, parts: &[&str]) -> TraceContext {
        TraceContext::root(parts, |trace_id| self.sampler.samples(trace_id))
    }

    /// The context that somebody else gave, with what is recorded here of its trace.
    pub fn go_on(&self, given: TraceContext) -> TraceContext {
        let sampled = self.sampler.goes_on(&given.trace_id, given.is_sampled());
        TraceContext { flags: u8::from(sampled), ..given }
    }

    /// What something is that came from outside, and the span that it belongs under: of the trace that its sender gave, or the first of
    /// one that is named by `name`.
    pub fn come_in(&self, given: Option<TraceContext>, name: &[&str]) -> (TraceContext, Option<[u8; 8]>) {
        match given.map(|given| self.go_on(given)) {
            Some(given) => (given.span(name), Some(given.span_id)),
            None => (self.begin(name), None),
        }
    }

    /// The context of an event that was read; one is begun for an event that came without.
    pub fn context_of(&self, event: &Event) -> TraceContext {
        match TraceContext::read(event.traceparent.as_deref()) {
            Some(given) => self.go_on(given),
            None => self.begin(&["event", event.id.as_str(), &event.time.as_nanosecond().to_string()]),
        }
    }
}

/// What a service makes of one event, while it does.
#[derive(Debug)]
pub struct Processing {
    /// Its span, for what follows from it.
    pub context: TraceContext,
    links: Mutex<Vec<TraceContext>>,
}

impl Processing {
    /// That it concerns a trace that is another's, like that of the incident which an alert joins.
    pub fn link(&self, other: TraceContext) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if other.trace_id != self.context.trace_id && links.len() < LINKS_MAX && !links.contains(&other) {
            links.push(other);
        }
    }
}

impl Tracer {
    /// Begins what a service makes of an event; the span ends when the event is acknowledged.
    pub fn process(
        &self,
        service: &'static str,
        event: &Event,
        ack: Ack,
        clock: &Arc<dyn crate::runtime::clock::Clock>,
    ) -> (Arc<Processing>, Ack) {
        let own = self.context_of(event);
        let processing = Arc::new(Processing { context: own.of_processing(service), links: Mutex::default() });
        if self.sink.is_none() || !own.is_sampled() {
            return (processing, ack);
        }
        let (tracer, started, clock) = (self.clone(), clock.now(), Arc::clone(clock));
        let (topic, attributes) = (event.topic(), attributes_of(event));
        let ended = Arc::clone(&processing);
        let ack = ack.watched(move |ending| {
            if ending == Ending::Returned {
                return;
            }
            tracer.record(&ended.context, || {
                let name = format!("process {topic}");
                let mut span = Span::under(&own, ended.context, SpanKind::Consumer, name, started, clock.now())
                    .with("messaging.operation.name", "process")
                    .with("messaging.operation.type", "process")
                    .with("messaging.consumer.group.name", service);
                span.attributes.extend(attributes);
                span.links.clone_from(&ended.links.lock().unwrap_or_else(PoisonError::into_inner));
                span
            });
        });
        (processing, ack)
    }

    /// An event stands on the log: from when it was decided until the log had it.
    pub fn produced(&self, record: &Record, now: Timestamp) {
        if self.sink.is_none() {
            return;
        }
        let header = |name: &str| {
            let (_, value) = record.headers.iter().rev().find(|(known, _)| known == name)?;
            std::str::from_utf8(value).ok()
        };
        let Some(context) = TraceContext::read(header(HEADER_TRACEPARENT)) else { return };
        self.record(&context, || {
            let decided: Option<Timestamp> = header(HEADER_TIME).and_then(|text| text.parse().ok());
            let subject = header(HEADER_SUBJECT).unwrap_or_default().to_owned();
            let (parent, begin) = (parent_of(header(HEADER_TRACESTATE)), decided.unwrap_or(now).min(now));
            Span::new(parent, context, SpanKind::Producer, format!("send {}", record.topic), begin, now)
                .with("messaging.operation.name", "send")
                .with("messaging.operation.type", "send")
                .with("messaging.system", SYSTEM)
                .with("messaging.destination.name", record.topic.name())
                .with("messaging.message.id", header(HEADER_ID).unwrap_or_default())
                .with("cloudevents.event_source", header(HEADER_SOURCE).unwrap_or_default())
                .with(subject_attribute(record.topic), subject)
        });
    }
}

/// The log is one system for whoever looks at a trace, whatever adapter carries it.
const SYSTEM: &str = "eventpulse";

/// What an event of a topic speaks of.
fn subject_attribute(topic: Topic) -> &'static str {
    match topic {
        Topic::AlertRaised | Topic::AlertDecided => ALERT_ID,
        Topic::ActionRequested | Topic::ActionCompleted | Topic::ActionFailed => ACTION_ID,
        Topic::NotificationRequested | Topic::NotificationDelivered | Topic::NotificationFailed => NOTIFICATION_ID,
        Topic::IncidentOpened | Topic::IncidentResolved | Topic::IncidentUpdated => INCIDENT_ID,
        Topic::DeadLetter => "eventpulse.origin",
    }
}

/// An alert, by its id.
pub const ALERT_ID: &str = "eventpulse.alert_id";
/// An incident, by its id.
pub const INCIDENT_ID: &str = "eventpulse.incident_id";
/// An action, by its id.
pub const ACTION_ID: &str = "eventpulse.action_id";
/// A message, by its id.
pub const NOTIFICATION_ID: &str = "eventpulse.notification_id";

fn attributes_of(event: &Event) -> Vec<(&'static str, AttributeValue)> {
    let mut attributes: Vec<(&'static str, AttributeValue)> = vec![
        ("messaging.system", SYSTEM.into()),
        ("messaging.destination.name", event.topic().name().into()),
        ("messaging.message.id", event.id.as_str().into()),
        ("cloudevents.event_source", event.source.as_str().into()),
        (subject_attribute(event.topic()), event.subject.as_str().into()),
    ];
    if let Some(header) = event.payload.incident() {
        if subject_attribute(event.topic()) != INCIDENT_ID {
            attributes.push((INCIDENT_ID, header.incident_id.as_str().into()));
        }
        attributes.push(("eventpulse.rule", header.rule.to_string().into()));
    }
    if let Payload::AlertDecided(entry) = &event.payload {
        attributes.push(("eventpulse.reason", format!("{:?}", entry.reason).into()));
    }
    attributes
}

/// What a line of the log belongs to. See [`scope`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Ids<'a> {
    /// The alert.
    pub alert: Option<&'a str>,
    /// The incident.
    pub incident: Option<&'a str>,
    /// The action.
    pub action: Option<&'a str>,
    /// The message.
    pub notification: Option<&'a str>,
}

/// Lines that are said within it carry these ids, whether anything is exported or not.
pub fn scope(trace: Option<TraceContext>, ids: Ids<'_>) -> tracing::Span {
    let (trace_id, span_id) = trace.map(|trace| (trace.trace_text(), trace.span_text())).unzip();
    tracing::error_span!(
        "work",
        trace_id,
        span_id,
        alert_id = ids.alert,
        incident_id = ids.incident,
        action_id = ids.action,
        notification_id = ids.notification,
    )
}

/// Hands spans to the exporter's queue; what does not fit there is dropped.
pub(super) struct Exported(pub Arc<BatchSpanProcessor>);

impl SpanSink for Exported {
    fn take(&self, span: Span) {
        self.0.on_end(data_of(span));
    }
}

fn data_of(span: Span) -> SpanData {
    let value = |(name, value): (&'static str, AttributeValue)| match value {
        AttributeValue::Text(text) => KeyValue::new(name, text),
        AttributeValue::Number(number) => KeyValue::new(name, number),
    };
    let mut links = SpanLinks::default();
    links.links = span.links.iter().map(|link| Link::new(context_of(link, true), Vec::new(), 0)).collect();
    SpanData {
        span_context: context_of(&span.context, false),
        parent_span_id: SpanId::from_bytes(span.parent.unwrap_or_default()),
        parent_span_is_remote: matches!(span.kind, SpanKind::Server | SpanKind::Consumer),
        span_kind: match span.kind {
            SpanKind::Internal => OtelKind::Internal,
            SpanKind::Server => OtelKind::Server,
            SpanKind::Client => OtelKind::Client,
            SpanKind::Producer => OtelKind::Producer,
            SpanKind::Consumer => OtelKind::Consumer,
        },
        name: span.name,
        start_time: SystemTime::from(span.start),
        end_time: SystemTime::from(span.end.max(span.start)),
        attributes: span.attributes.into_iter().map(value).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links,
        status: span.error.map_or(Status::Unset, Status::error),
        instrumentation_scope: InstrumentationScope::builder(SCOPE).with_version(env!("CARGO_PKG_VERSION")).build(),
    }
}

fn context_of(context: &TraceContext, remote: bool) -> SpanContext {
    let (trace, span) = (TraceId::from_bytes(context.trace_id), SpanId::from_bytes(context.span_id));
    let flags = if context.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::default() };
    SpanContext::new(trace, span, flags, remote, TraceState::default())
}

#[cfg(test)]
mod tests {
    use tokio::sync::Notify;

    use super::*;
    use crate::{
        bus::AckTracker,
        events::{DeadLetter, DeadLetterReason, EventId},
        runtime::clock::{Clock, ManualClock},
    };

    #[derive(Default)]
    struct Kept(Mutex<Vec<Span>>);

    impl SpanSink for Kept {
        fn take(&self, span: Span) {
            self.0.lock().unwrap().push(span);
        }
    }

    fn event(flags: &str) -> Event {
        Event {
            id: EventId::new("dead.letter", "x", ""),
            time: "2026-01-01T11:59:00Z".parse().unwrap(),
            source: "eventpulse/rules".into(),
            subject: "x".into(),
            key: "x".into(),
            traceparent: Some(format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}")),
            payload: DeadLetter {
                reason: DeadLetterReason::InvalidData,
                message: String::new(),
                origin: "x".into(),
                headers: Default::default(),
                key: None,
                data: String::new(),
                truncated: false,
            }
            .into(),
        }
    }

    fn tracer() -> (Arc<Kept>, Tracer) {
        let kept = Arc::new(Kept::default());
        (Arc::clone(&kept), Tracer::new(Some(kept), Sampler::default()))
    }

    #[test]
    fn what_is_published_again_is_the_same_span_under_the_same_parent() {
        let (kept, tracer) = tracer();
        let record = event("01").encode().unwrap();
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        tracer.produced(&record, now);
        tracer.produced(&record, now);
        tracer.produced(&event("00").encode().unwrap(), now);
        let spans = kept.0.lock().unwrap().clone();
        assert_eq!(spans.len(), 2, "a trace that is not recorded is told by nobody");
        assert_eq!(spans[0], spans[1]);
        assert_eq!(
            spans[0].parent,
            TraceContext::read(event("01").traceparent.as_deref()).map(|parent| parent.span_id)
        );
        assert_eq!((spans[0].start, spans[0].end, spans[0].kind), (event("01").time, now, SpanKind::Producer));
    }

    #[test]
    fn the_work_on_an_event_is_told_when_all_of_it_is_done() {
        let (kept, tracer) = tracer();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new("2026-01-01T12:00:00Z".parse().unwrap()));
        let tracker = AckTracker::new(Arc::new(Notify::new()));
        let read = event("01").encode().unwrap().decode().unwrap();
        let ack = tracker.deliver(1);
        let (processing, ack) = tracer.process("rules", &read, ack, &clock);
        let other = TraceContext::root(&["other"], |_| true);
        for _ in 0..2 {
            processing.link(other);
        }
        processing.link(processing.context.of_action("x"));
        let mut pieces = ack.split(2);
        pieces.pop().unwrap().done();
        assert!(kept.0.lock().unwrap().is_empty(), "half of the work is not done");
        pieces.pop().unwrap().done();
        let spans = kept.0.lock().unwrap().clone();
        let own = TraceContext::read(read.traceparent.as_deref()).unwrap();
        assert_eq!(
            (spans.len(), spans[0].parent, spans[0].context),
            (1, Some(own.span_id), own.of_processing("rules"))
        );
        assert_eq!(spans[0].links, [other], "only spans of other traces, each once");
        let data = data_of(spans[0].clone());
        assert_eq!(data.parent_span_id.to_bytes(), own.span_id);
        assert!(data.span_context.is_sampled() && data.parent_span_is_remote);
    }

    #[test]
    fn a_span_is_linked_with_a_bounded_number_of_others() {
        let (kept, tracer) = tracer();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new("2026-01-01T12:00:00Z".parse().unwrap()));
        let tracker = AckTracker::new(Arc::new(Notify::new()));
        let (processing, ack) = tracer.process("rules", &event("01"), tracker.deliver(1), &clock);
        for number in 0..=LINKS_MAX {
            processing.link(TraceContext::root(&["other", &number.to_string()], |_| true));
        }
        ack.done();
        assert_eq!(kept.0.lock().unwrap()[0].links.len(), LINKS_MAX);
    }

    #[test]
    fn an_event_without_a_trace_begins_one_that_is_the_same_each_time() {
        let (_, tracer) = tracer();
        let without = Event { traceparent: None, ..event("01") };
        assert_eq!(tracer.context_of(&without), tracer.context_of(&without));
        assert!(tracer.context_of(&without).is_sampled());
        let never = Tracer::new(None, Sampler { parent_based: true, ratio: 0.0 });
        assert!(!never.context_of(&without).is_sampled() && never.context_of(&event("01")).is_sampled());
    }
}
