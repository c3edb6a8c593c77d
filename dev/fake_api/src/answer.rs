//! Answers, and what the server says when it refuses (k8s.io/apimachinery/pkg/api/errors).

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use serde_json::{Map, Value, json};

use crate::kinds::Kind;

/// The body of an answer: at once, or as it comes.
pub type AnswerBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// A whole answer.
pub(crate) type Answer = Response<AnswerBody>;

/// A request that is refused, as a `Status`.
#[derive(Debug)]
pub(crate) struct Refusal {
    code: u16,
    reason: &'static str,
    message: String,
    details: Option<Box<Details>>,
}

#[derive(Debug, Default)]
struct Details {
    name: String,
    group: String,
    kind: String,
    causes: Vec<Cause>,
    retry_after_s: u32,
    /// For a list that cannot go on where it was: where it can.
    resume: Option<String>,
}

/// A field, and what is wrong with it.
#[derive(Debug)]
pub(crate) struct Cause {
    reason: &'static str,
    field: String,
    message: String,
}

impl Cause {
    pub(crate) fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: "FieldValueInvalid", field: field.into(), message: message.into() }
    }

    pub(crate) fn required(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: "FieldValueRequired", field: field.into(), message: message.into() }
    }

    pub(crate) fn forbidden(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: "FieldValueForbidden", field: field.into(), message: message.into() }
    }

    pub(crate) fn too_long(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: "FieldValueTooLong", field: field.into(), message: message.into() }
    }

    pub(crate) fn owned(field: impl Into<String>, by: &str) -> Self {
        Self { reason: "FieldManagerConflict", field: field.into(), message: format!("conflict with \"{by}\"") }
    }
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = self.details.get_or_insert_default();
        (details.group, details.kind, details.name) = (group.to_owned(), kind.to_owned(), name.to_owned());
        self
    }

    fn because(mut self, causes: Vec<Cause>) -> Self {
        self.details.get_or_insert_default().causes = causes;
        self
    }

    pub(crate) fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", kind.resource());
        Self::new(404, "NotFound", message).about(&kind.group, &kind.plural, name)
    }

    pub(crate) fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.resource());
        Self::new(409, "AlreadyExists", message).about(&kind.group, &kind.plural, name)
    }

    pub(crate) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.resource());
        Self::new(409, "Conflict", message).about(&kind.group, &kind.plural, name)
    }

    /// Of a deletion, which names the kind in place of the resource.
    pub(crate) fn precondition(kind: &Kind, name: &str, why: &str) -> Self {
        Self::conflict(kind, name, why).about(&kind.group, &kind.kind, name)
    }

    /// Of a server-side apply.
    pub(crate) fn apply_conflict(causes: Vec<Cause>) -> Self {
        let plural = if causes.len() == 1 { "" } else { "s" };
        Self::new(409, "Conflict", format!("Apply failed with {} conflict{plural}", causes.len())).because(causes)
    }

    /// `kind` is what the refusal names, which is not always the kind.
    pub(crate) fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let why: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let message = format!("{kind} \"{name}\" is invalid: {}", why.join(", "));
        Self::new(422, "Invalid", message).about(group, kind, name).because(causes)
    }

    /// A JSON Patch that does not apply, a failed `test` among them: without causes, and it does not say why.
    pub(crate) fn patch_does_not_apply() -> Self {
        Self::new(422, "Invalid", "the server rejected our request due to an error in our request").because(Vec::new())
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn terminating(kind: &Kind, name: &str, namespace: &str) -> Self {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let cause = Cause {
            reason: "NamespaceTerminating",
            field: "metadata.namespace".into(),
            message: format!("namespace {namespace} is being terminated"),
        };
        let message = format!("{} \"{name}\" is forbidden: {why}", kind.resource());
        Self::new(403, "Forbidden", message).about(&kind.group, &kind.plural, name).because(vec![cause])
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// A list that cannot go on as it was when it began; with `resume` it goes on as it is now.
    pub(crate) fn expired_list(resume: String) -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list \
                       without the continue parameter.";
        let mut refusal = Self::expired(message);
        refusal.details.get_or_insert_default().resume = Some(resume);
        refusal
    }

    pub(crate) fn version_ahead(asked: u64, current: u64) -> Self {
        let cause = Cause {
            reason: "ResourceVersionTooLarge",
            field: String::new(),
            message: "Too large resource version".into(),
        };
        let message = format!("Too large resource version: {asked}, current: {current}");
        let mut refusal = Self::new(504, "Timeout", message).because(vec![cause]);
        refusal.details.get_or_insert_default().retry_after_s = 1;
        refusal
    }

    /// Of a path below a group that is served.
    pub(crate) fn no_such_resource() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource").because(Vec::new())
    }

    pub(crate) fn no_such_subresource(kind: &Kind, name: &str) -> Self {
        if kind.custom { Self::not_found(kind, name) } else { Self::no_such_resource() }
    }

    pub(crate) fn method_not_allowed(kind: &Kind) -> Self {
        let refusal =
            Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
        if kind.custom { refusal.about(&kind.group, &kind.plural, "") } else { refusal.because(Vec::new()) }
    }

    pub(crate) fn unsupported_media_type(content_type: &str, known: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format ({content_type}) - accepted media types include: {}",
            known.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// An error that nobody has thought of: without a reason.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    /// A fault on request.
    pub(crate) fn fault(code: u16, retry_after_s: u32) -> Self {
        let reason = match code {
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            409 => "Conflict",
            410 => "Expired",
            413 => "RequestEntityTooLarge",
            422 => "Invalid",
            429 => "TooManyRequests",
            500 => "InternalError",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "Fault",
        };
        let mut refusal = Self::new(code, reason, "a fault on request");
        refusal.details.get_or_insert_default().retry_after_s = retry_after_s;
        refusal
    }

    /// A fault on request that names a field, as a schema does.
    pub(crate) fn faulty_field() -> Self {
        Self::invalid("", "Fault", "", vec![Cause::invalid("spec.replicas", "a fault on request")])
    }

    /// As it is sent.
    pub(crate) fn status(&self) -> Value {
        let mut meta = Map::new();
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = json!(self.reason);
        }
        if let Some(details) = &self.details {
            if let Some(resume) = &details.resume {
                meta.insert("continue".into(), json!(resume));
            } else {
                status["details"] = details.to_value();
            }
        }
        status["metadata"] = Value::Object(meta);
        status
    }

    pub(crate) fn answer(&self) -> Answer {
        let mut answer = whole(self.code, self.status().to_string().into());
        let seconds = self.details.as_ref().map_or(0, |details| details.retry_after_s);
        if seconds > 0 {
            answer.headers_mut().insert("retry-after", seconds.into());
        }
        answer
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (field, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind)] {
            if !text.is_empty() {
                map.insert(field.into(), json!(text));
            }
        }
        let cause = |cause: &Cause| {
            let mut map = Map::from_iter([
                ("reason".to_owned(), json!(cause.reason)),
                ("message".to_owned(), json!(cause.message)),
            ]);
            if !cause.field.is_empty() {
                map.insert("field".into(), json!(cause.field));
            }
            Value::Object(map)
        };
        if !self.causes.is_empty() {
            map.insert("causes".into(), self.causes.iter().map(cause).collect());
        }
        if self.retry_after_s > 0 {
            map.insert("retryAfterSeconds".into(), json!(self.retry_after_s));
        }
        Value::Object(map)
    }
}

/// A JSON document.
pub(crate) fn whole(code: u16, text: Bytes) -> Answer {
    respond(code, "application/json", Full::new(text).map_err(|never| match never {}).boxed_unsync())
}

/// What is answered by something that knows nothing of Kubernetes, or for a path of which the server has heard nothing.
pub(crate) fn page(code: u16, content_type: &'static str, text: &'static str) -> Answer {
    let body = Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync();
    respond(code, content_type, body)
}

pub(crate) fn respond(code: u16, content_type: &'static str, body: AnswerBody) -> Answer {
    let mut answer = Response::new(body);
    // Codes are ours, or a test's that wrote one that is none.
    *answer.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static(content_type));
    answer
}
