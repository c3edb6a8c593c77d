//! The values that an expression can speak of.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
};

use cel::{Context, Env, Value, objects::Key};
use jiff::Timestamp;

use super::{order::add_in_order, patterns::add_matches};
use crate::events::AlertStatus;

/// A name that an expression may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variable {
    /// `alert`: `labels`, `annotations`, `status` (`firing` or `resolved`), `startsAt`, `endsAt` where it is given,
    /// `fingerprint`, `source`.
    Alert,
    /// `params`: a runbook's parameters, by name.
    Params,
}

/// Everything that `alert` may have.
pub(super) const ALERT_FIELDS: [&str; 7] =
    ["labels", "annotations", "status", "startsAt", "endsAt", "fingerprint", "source"];

impl Variable {
    /// As an expression writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Variable::Alert => "alert",
            Variable::Params => "params",
        }
    }
}

/// What an expression can know of an alert.
#[derive(Clone, Copy, Debug)]
pub struct AlertFacts<'a> {
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: &'a BTreeMap<String, String>,
    /// Whether it goes on.
    pub status: AlertStatus,
    /// When it began.
    pub starts_at: Timestamp,
    /// When it ended or will be taken as ended, where that is given.
    pub ends_at: Option<Timestamp>,
    /// Alertmanager's fingerprint.
    pub fingerprint: &'a str,
    /// The sender's configured name.
    pub source: &'a str,
}

/// A runbook's parameter, of the type that the runbook declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// A whole number.
    Integer(i64),
    /// A text.
    String(String),
}

/// The values for one evaluation. Built once for an alert and used for all of its expressions.
pub struct Scope(pub(super) Context<'static, 'static>);

impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scope")
    }
}

impl Default for Scope {
    fn default() -> Self {
        Self(Context::with_env(Arc::clone(env())))
    }
}

impl Scope {
    /// Sets `alert`.
    pub fn with_alert(mut self, alert: &AlertFacts<'_>) -> Self {
        let status = match alert.status {
            AlertStatus::Firing => "firing",
            AlertStatus::Resolved => "resolved",
        };
        let mut fields = vec![
            ("labels", texts(alert.labels)),
            ("annotations", texts(alert.annotations)),
            ("status", text(status)),
            ("startsAt", time(alert.starts_at)),
            ("fingerprint", text(alert.fingerprint)),
            ("source", text(alert.source)),
        ];
        if let Some(ends_at) = alert.ends_at {
            fields.push(("endsAt", time(ends_at)));
        }
        self.0.add_variable_from_value(Variable::Alert.name(), map(fields.into_iter()));
        self
    }

    /// Sets `params`.
    pub fn with_params(mut self, params: &BTreeMap<String, Parameter>) -> Self {
        let fields = params.iter().map(|(name, value)| {
            let value = match value {
                Parameter::Integer(number) => Value::Int(*number),
                Parameter::String(value) => text(value),
            };
            (name.as_str(), value)
        });
        self.0.add_variable_from_value(Variable::Params.name(), map(fields));
        self
    }
}

/// The standard functions and macros of CEL, with `matches` for patterns that are compiled and maps in order, and nothing beside them.
pub(super) fn env() -> &'static Arc<Env> {
    static ENV: OnceLock<Arc<Env>> = OnceLock::new();
    ENV.get_or_init(|| {
        let mut env = Env::stdlib();
        // They fail only where the library declares the same; then expressions with a pattern or a macro fail, which the tests show.
        let _ = add_matches(&mut env);
        let _ = add_in_order(&mut env);
        Arc::new(env)
    })
}

fn text(value: &str) -> Value {
    Value::String(Arc::new(value.to_owned()))
}

fn texts(values: &BTreeMap<String, String>) -> Value {
    map(values.iter().map(|(name, value)| (name.as_str(), text(value))))
}

fn map<'a>(fields: impl Iterator<Item = (&'a str, Value)>) -> Value {
    let map: HashMap<Key, Value> =
        fields.map(|(name, value)| (Key::String(Arc::new(name.to_owned())), value)).collect();
    Value::Map(cel::objects::Map { map: Arc::new(map) })
}

/// A CEL timestamp. Times beyond what it can hold (years 1 to 9999) are given as text.
fn time(at: Timestamp) -> Value {
    match chrono::DateTime::from_timestamp_millis(at.as_millisecond()) {
        Some(time) => Value::Timestamp(time.fixed_offset()),
        None => text(&at.to_string()),
    }
}
