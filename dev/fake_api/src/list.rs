//! Lists, in pages of one version (k8s.io/apiserver/pkg/storage/continue.go).

use std::{borrow::Cow, ops::Bound, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    answer::{Cause, Refusal},
    kinds::Kind,
    path::{Query, Target},
    selector::Selection,
    state::{Collection, Objects, State, Stored},
};

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// Where a list goes on.
#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    /// Negative: as it is now.
    rv: i64,
    /// The first key that may be on the next page, below the namespace that was asked for.
    start: String,
}

impl State {
    pub(crate) fn list(&self, kind: &Kind, target: &Target, query: &Query) -> Result<Bytes, Refusal> {
        let selection = Selection::parse(target.namespace.as_deref(), query)?;
        let asked = parse_version(query.get("resourceVersion")).map_err(Refusal::bad_request)?;
        let limit: usize = match query.get("limit").unwrap_or("0").parse::<i64>() {
            // What the server has at hand anyway is given whole.
            _ if query.get("resourceVersion") == Some("0") => 0,
            Ok(limit) => usize::try_from(limit).unwrap_or(0),
            Err(_) => return Err(Refusal::bad_request("limit: a number is expected")),
        };
        let prefix = target.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let none = Collection::default();
        let collection = self.collections.get(&target.collection).unwrap_or(&none);
        let (objects, version, start) = match query.get("continue") {
            None => match self.check_version(asked, limit, query)? {
                Some(version) => {
                    let expired = || Refusal::expired(format!("The resourceVersion {version} is too old"));
                    (Some(self.objects_at(collection, version).ok_or_else(expired)?), Some(version), None)
                }
                None => (None, None, None),
            },
            Some(_) if asked.is_some_and(|asked| asked > 0) => {
                return Err(Refusal::bad_request("specifying resource version is not allowed when using continue"));
            }
            Some(token) => {
                let token = read_token(token)?;
                let start = format!("{prefix}{}", token.start);
                match u64::try_from(token.rv) {
                    Err(_) => (None, None, Some(start)),
                    Ok(version) => {
                        let objects = self.objects_at(collection, version);
                        let objects = objects.ok_or_else(|| Refusal::expired_list(write_token(-1, &token.start)))?;
                        (Some(objects), Some(version), Some(start))
                    }
                }
            }
        };
        let version = version.unwrap_or(self.version);
        let objects = objects.as_deref().unwrap_or(&collection.objects);
        let page = page(objects, &selection, &prefix, start, limit);
        let mut meta = Map::from_iter([("resourceVersion".to_owned(), json!(version.to_string()))]);
        if let Some((next, left)) = page.next {
            let start = next.strip_prefix(prefix.as_str()).unwrap_or(&next);
            let version = i64::try_from(version).unwrap_or(i64::MAX);
            meta.insert("continue".into(), json!(write_token(version, start)));
            if selection.is_whole() {
                meta.insert("remainingItemCount".into(), json!(left));
            }
        } else if kind.custom {
            // It is always there.
            meta.insert("continue".into(), json!(""));
        }
        Ok(whole_list(kind, &Value::Object(meta), &page.items))
    }

    /// The version that a first page has to be of, where it need not be that of now.
    fn check_version(&self, asked: Option<u64>, limit: usize, query: &Query) -> Result<Option<u64>, Refusal> {
        let Some(asked) = asked.filter(|asked| *asked > 0) else { return Ok(None) };
        if asked > self.version {
            return Err(Refusal::version_ahead(asked, self.version));
        }
        match query.get("resourceVersionMatch") {
            Some("NotOlderThan") => Ok(None),
            // A page of a version is of that one.
            None => Ok(Some(asked).filter(|_| limit > 0)),
            Some("Exact") => Ok(Some(asked)),
            Some(other) => {
                let cause =
                    Cause::invalid("resourceVersionMatch", format!("{other:?}: Exact or NotOlderThan is expected"));
                Err(Refusal::invalid("meta.k8s.io", "ListOptions", "", vec![cause]))
            }
        }
    }

    fn objects_at<'a>(&self, collection: &'a Collection, version: u64) -> Option<Cow<'a, Objects>> {
        (version >= self.compacted).then(|| collection.at(version)).flatten()
    }
}

struct Page {
    items: Vec<Arc<Stored>>,
    /// The first key of the next page, and how many objects there are from there on.
    next: Option<(String, usize)>,
}

fn page(objects: &Objects, selection: &Selection, prefix: &str, start: Option<String>, limit: usize) -> Page {
    let from = Bound::Included(start.unwrap_or_else(|| prefix.to_owned()));
    let mut rest = objects.range((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
    let mut items = Vec::new();
    let mut last = None;
    while limit == 0 || items.len() < limit {
        let Some((key, object)) = rest.next() else { return Page { items, next: None } };
        if selection.takes(&object.value) {
            items.push(Arc::clone(object));
            last = Some(key);
        }
    }
    let left = rest.count();
    // The next page begins right after the last object of this one.
    let next = last.filter(|_| left > 0).map(|last| (format!("{last}\0"), left));
    Page { items, next }
}

fn whole_list(kind: &Kind, meta: &Value, items: &[Arc<Stored>]) -> Bytes {
    let name = if kind.kind.is_empty() { "List".to_owned() } else { format!("{}List", kind.kind) };
    let head = format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{meta},\"items\":[",
        json!(name),
        json!(kind.api_version())
    );
    let mut text = head.into_bytes();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        text.extend_from_slice(&item.item(kind));
    }
    text.extend_from_slice(b"]}");
    text.into()
}

/// None where no version is asked for.
pub(crate) fn parse_version(text: Option<&str>) -> Result<Option<u64>, String> {
    let Some(text) = text else { return Ok(None) };
    text.parse().map(Some).map_err(|_| format!("resourceVersion: {text:?} is no version"))
}

fn write_token(version: i64, start: &str) -> String {
    let token = Token { v: TOKEN_VERSION.into(), rv: version, start: start.into() };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn read_token(text: &str) -> Result<Token, Refusal> {
    let invalid = || Refusal::bad_request("continue key is not valid");
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid())?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
    let is_one = token.v == TOKEN_VERSION && token.rv != 0 && !token.start.is_empty() && !token.start.contains("..");
    if is_one { Ok(token) } else { Err(invalid()) }
}
