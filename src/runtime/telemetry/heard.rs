//! What a thread says, for tests of what lines carry.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::Value;
use tracing::{Dispatch, Event, Subscriber, dispatcher::DefaultGuard, subscriber::NoSubscriber};
use tracing_subscriber::{
    Layer, Registry,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use super::log::{Remembering, told};

/// The lines of the thread that made it, as long as it lives.
pub struct Heard {
    lines: Lines,
    _while: DefaultGuard,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Value>>>);

/// From now on.
pub fn listen() -> Heard {
    // With one subscriber only, a line that another thread comes to first would be taken for one that nobody wants.
    static SECOND: OnceLock<Dispatch> = OnceLock::new();
    SECOND.get_or_init(|| Dispatch::new(NoSubscriber::default()));
    let lines = Lines::default();
    let subscriber = Registry::default().with(Remembering).with(lines.clone());
    Heard { lines, _while: subscriber.set_default() }
}

impl Heard {
    /// The first line with this message: its fields, and those of what it was said in.
    pub fn line(&self, message: &str) -> Option<Value> {
        let lines = self.lines.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().find(|line| line["message"] == message).cloned()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let (message, own, around) = told(event, &ctx);
        let mut line = around.0;
        line.extend(own.0);
        line.insert("message".to_owned(), message.into());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Value::Object(line));
    }
}
