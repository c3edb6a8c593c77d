//! Which request is what, and what the server knows of.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use serde_json::{Map, Value};

use crate::{
    answer::{Answer, Refusal, page, respond, whole},
    api::FakeApi,
    apply::Owners,
    commit::Origin,
    discovery,
    kinds::{DEFINITIONS, Kind},
    metadata,
    patch::{APPLY_PATCH, JSON_PATCH, MERGE_PATCH},
    path::{Query, Target},
    service::{Call, Form},
    state::State,
    watch::{self, Following},
};

/// The largest body, in bytes.
const BODY_MAX: usize = 3 * 1024 * 1024;
const JSON: &str = "application/json";

/// What a request comes to.
enum Outcome {
    Whole(u16, Bytes),
    Watch(Following),
}

impl FakeApi {
    /// Serves a request.
    pub(crate) fn answer(&self, call: Call) -> Answer {
        let at = self.now();
        let outcome = {
            let mut state = self.state();
            let Some(target) = Target::parse(&call.seen.path) else {
                return match state.discover(&call.seen.path) {
                    Some(found) => whole(200, found.to_string().into()),
                    None => unknown_path(),
                };
            };
            match state.kinds.get(&target.collection) {
                // What definitions make does not answer for paths of another scope.
                Some(kind) if kind.custom && !is_in_scope(&kind, &target, &call.seen.method) => return unknown_path(),
                Some(kind) => state.serve(&kind, &target, call, at),
                None if state.kinds.has_root(Kind::root(&target.collection)) => Err(Refusal::no_such_resource()),
                None => return unknown_path(),
            }
        };
        match outcome {
            Ok(Outcome::Whole(code, text)) => whole(code, text),
            Ok(Outcome::Watch(following)) => respond(200, JSON, watch::body(self.clone(), following)),
            Err(refusal) => refusal.answer(),
        }
    }
}

/// Of a path at which nothing is served the server says so in no `Status`.
fn unknown_path() -> Answer {
    page(404, "text/plain; charset=utf-8", "404 page not found\n")
}

impl State {
    fn discover(&self, path: &str) -> Option<Value> {
        let definitions = self.collections.get(DEFINITIONS).map(|collection| &collection.objects);
        discovery::answer(definitions.into_iter().flatten().map(|(_, definition)| &*definition.value), path)
    }

    fn serve(
        &mut self,
        kind: &Arc<Kind>,
        target: &Target,
        call: Call,
        at: jiff::Timestamp,
    ) -> Result<Outcome, Refusal> {
        let query = Query::parse(&call.seen.query);
        let method = call.seen.method.clone();
        check_path(kind, target, &method)?;
        check_body(&call)?;
        let of_deletion = if method == Method::DELETE { &*call.seen.body } else { &Value::Null };
        check_options(&query, of_deletion)?;
        let origin = Origin {
            caller: call.seen.caller,
            user: call.seen.impersonated,
            method: call.seen.method,
            path: call.seen.path,
            index: Some(call.seen.index),
            at,
        };
        let body = call.seen.body;
        match (method, &target.name) {
            (Method::GET, Some(_)) => Ok(Outcome::Whole(200, self.read(kind, target)?.text())),
            (Method::GET, None) if query.is_set("watch") => self.watch(kind, target, &query).map(Outcome::Watch),
            (Method::GET, None) => Ok(Outcome::Whole(200, self.list(kind, target, &query)?)),
            // Custom kinds do not mind a name in the path.
            (Method::POST, name) if name.is_none() || (kind.custom && target.subresource.is_none()) => {
                let object = object_of(kind, body)?;
                Ok(Outcome::Whole(201, self.create(kind, target, object, Owners::default(), &origin)?.text()))
            }
            (Method::PUT, Some(_)) => {
                let object = object_of(kind, body)?;
                Ok(Outcome::Whole(200, self.replace(kind, target, object, &origin)?.text()))
            }
            (Method::PATCH, Some(_)) => {
                let (created, object) = self.patch(kind, target, &body, &call.content_type, &query, &origin)?;
                Ok(Outcome::Whole(if created { 201 } else { 200 }, object.text()))
            }
            (Method::DELETE, Some(_)) => Ok(Outcome::Whole(200, self.delete(kind, target, &body, &origin)?)),
            (Method::PUT | Method::PATCH, None) if kind.custom => Err(Refusal::bad_request("name must be provided")),
            _ => Err(Refusal::method_not_allowed(kind)),
        }
    }
}

/// What is served below a collection: its objects in their scope, and the status where it is a subresource.
fn check_path(kind: &Kind, target: &Target, method: &Method) -> Result<(), Refusal> {
    let name = target.name.as_deref().unwrap_or_default();
    match target.subresource.as_deref() {
        _ if !is_in_scope(kind, target, method) => Err(Refusal::no_such_resource()),
        None => Ok(()),
        Some("status") if kind.status => match *method {
            Method::GET | Method::PUT | Method::PATCH => Ok(()),
            _ => Err(Refusal::method_not_allowed(kind)),
        },
        Some(_) => Err(Refusal::no_such_subresource(kind, name)),
    }
}

/// Whether the path is of a namespace as the kind is. All namespaces are read at once.
fn is_in_scope(kind: &Kind, target: &Target, method: &Method) -> bool {
    match &target.namespace {
        Some(_) => kind.namespaced,
        None => !kind.namespaced || (*method == Method::GET && target.name.is_none()),
    }
}

/// Whether its format is one that this kind of request may have, and whether it can be read.
fn check_body(call: &Call) -> Result<(), Refusal> {
    let content_type = call.content_type.as_str();
    let known: &[&str] = match call.seen.method {
        Method::PATCH => &[JSON_PATCH, MERGE_PATCH, APPLY_PATCH],
        Method::POST | Method::PUT => &["", JSON],
        Method::DELETE if call.body != Form::Empty => &["", JSON],
        _ => return Ok(()),
    };
    if !known.contains(&content_type) {
        return Err(Refusal::unsupported_media_type(content_type, known));
    }
    if call.size > BODY_MAX {
        return Err(Refusal::too_large(format!("Request entity is too large: limit is {BODY_MAX}")));
    }
    match call.body {
        Form::Json => Ok(()),
        Form::Empty | Form::Other => Err(Refusal::bad_request("the body of the request is no JSON")),
    }
}

/// Refuses what would be stored all the same, and options of a deletion that are none.
fn check_options(query: &Query, of_deletion: &Value) -> Result<(), Refusal> {
    let in_options = of_deletion["dryRun"].as_array().is_some_and(|list| !list.is_empty());
    if query.get("dryRun").is_some() || in_options {
        return Err(Refusal::bad_request("dryRun: the API server in memory knows no dry runs"));
    }
    let preconditions = &of_deletion["preconditions"];
    let texts = [&preconditions["uid"], &preconditions["resourceVersion"], &of_deletion["propagationPolicy"]];
    let is_readable = of_deletion.is_null() || of_deletion.is_object();
    if is_readable && texts.iter().all(|text| text.is_null() || text.is_string()) {
        return Ok(());
    }
    Err(Refusal::bad_request("the body of the request is no DeleteOptions"))
}

/// The object that a body says, if it can be one of this kind.
fn object_of(kind: &Kind, body: Arc<Value>) -> Result<Value, Refusal> {
    let mut object = Arc::unwrap_or_clone(body);
    let Some(fields) = object.as_object_mut() else {
        return Err(Refusal::bad_request("the object provided is unrecognized: an object is expected"));
    };
    is_of_kind(kind, fields).map_err(Refusal::bad_request)?;
    match metadata::unreadable(&object) {
        Some(why) => Err(Refusal::bad_request(why)),
        None => Ok(object),
    }
}

/// What a body does not say of its kind is that of the path; but for custom kinds, which have to say it.
fn is_of_kind(kind: &Kind, fields: &mut Map<String, Value>) -> Result<(), String> {
    let wanted = [("apiVersion", kind.api_version()), ("kind", kind.kind.clone())];
    for (field, wanted) in wanted.into_iter().filter(|(_, wanted)| !wanted.is_empty()) {
        match fields.get(field).and_then(Value::as_str).unwrap_or_default() {
            said if said == wanted => {}
            "" if !kind.custom => drop(fields.insert(field.to_owned(), wanted.into())),
            said => {
                return Err(format!("the {field} in the data ({said}) does not match the expected {field} ({wanted})"));
            }
        }
    }
    Ok(())
}
