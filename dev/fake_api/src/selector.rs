//! Label and field selectors (k8s.io/apimachinery/pkg/labels and fields), and what a list or a watch is about.

use serde_json::Value;

use crate::{answer::Refusal, path::Query};

/// What is asked for of a collection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// None: of all namespaces.
    pub(crate) namespace: Option<String>,
    labels: Vec<Requirement>,
    fields: Vec<FieldTerm>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldTerm {
    /// `name` or `namespace`
    field: &'static str,
    value: String,
    equal: bool,
}

impl Selection {
    pub(crate) fn parse(namespace: Option<&str>, query: &Query) -> Result<Self, Refusal> {
        let labels = requirements(query.get("labelSelector").unwrap_or_default())
            .map_err(|error| Refusal::bad_request(format!("unable to parse requirement of labelSelector: {error}")))?;
        let fields = field_terms(query.get("fieldSelector").unwrap_or_default()).map_err(Refusal::bad_request)?;
        Ok(Self { namespace: namespace.map(str::to_owned), labels, fields })
    }

    /// Whether an object of the collection is asked for.
    pub(crate) fn takes(&self, object: &Value) -> bool {
        let meta = &object["metadata"];
        let text = |field: &str| meta[field].as_str().unwrap_or_default();
        self.namespace.as_ref().is_none_or(|wanted| text("namespace") == wanted)
            && self.fields.iter().all(|term| (text(term.field) == term.value) == term.equal)
            && self.labels.iter().all(|requirement| requirement.holds(&meta["labels"]))
    }

    /// Whether it is about everything of its namespace.
    pub(crate) fn is_whole(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

impl Requirement {
    fn holds(&self, labels: &Value) -> bool {
        let label = labels.get(&self.key).and_then(Value::as_str);
        let among = |values: &[String]| label.is_some_and(|label| values.iter().any(|value| value == label));
        match &self.test {
            Test::In(values) => among(values),
            Test::NotIn(values) => !among(values),
            Test::Exists => label.is_some(),
            Test::Absent => label.is_none(),
        }
    }
}

fn requirements(text: &str) -> Result<Vec<Requirement>, String> {
    terms(text).into_iter().map(requirement).collect()
}

/// Splits at commas that are not within parentheses.
fn terms(text: &str) -> Vec<&str> {
    let (mut terms, mut depth, mut begin) = (Vec::new(), 0_u32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                terms.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[begin..]);
    let is_empty = terms.len() == 1 && terms[0].trim().is_empty();
    if is_empty { Vec::new() } else { terms }
}

fn requirement(term: &str) -> Result<Requirement, String> {
    let term = term.trim();
    let one = |value: &str| vec![value.trim().to_owned()];
    let (key, test) = if let Some((key, value)) = term.split_once("!=") {
        (key, Test::NotIn(one(value)))
    } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (key, Test::In(one(value)))
    } else if let Some(key) = term.strip_prefix('!') {
        (key, Test::Absent)
    } else if let Some((key, rest)) = term.split_once(char::is_whitespace) {
        let rest = rest.trim();
        let list = |word: &str| rest.strip_prefix(word).and_then(|rest| values(rest.trim()));
        match (list("notin"), list("in")) {
            (Some(values), _) => (key, Test::NotIn(values)),
            (None, Some(values)) => (key, Test::In(values)),
            (None, None) => return Err(format!("{term:?}: in (…) or notin (…) is expected")),
        }
    } else {
        (term, Test::Exists)
    };
    let key = key.trim();
    let named = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if key.is_empty() || !key.chars().all(named) {
        return Err(format!("{key:?} is no label's name"));
    }
    let valued = |value: &String| value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if let Test::In(values) | Test::NotIn(values) = &test
        && let Some(value) = values.iter().find(|value| !valued(value))
    {
        return Err(format!("{value:?} is no label's value"));
    }
    Ok(Requirement { key: key.to_owned(), test })
}

fn values(text: &str) -> Option<Vec<String>> {
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    Some(inner.split(',').map(|value| value.trim().to_owned()).collect())
}

fn field_terms(text: &str) -> Result<Vec<FieldTerm>, String> {
    terms(text).into_iter().map(field_term).collect()
}

fn field_term(term: &str) -> Result<FieldTerm, String> {
    let (name, value, equal) = if let Some((name, value)) = term.split_once("!=") {
        (name, value, false)
    } else if let Some((name, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (name, value, true)
    } else {
        return Err(format!("invalid selector: {term:?}; can't understand it"));
    };
    let field = match name {
        "metadata.name" => "name",
        "metadata.namespace" => "namespace",
        other => return Err(format!("field label not supported: {other}")),
    };
    Ok(FieldTerm { field, value: value.to_owned(), equal })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn takes(query: &str, object: &Value) -> Option<bool> {
        Selection::parse(Some("shop"), &Query::parse(query)).ok().map(|selection| selection.takes(object))
    }

    #[test]
    fn a_selection_takes_what_its_selectors_say() {
        let object =
            json!({"metadata": {"name": "a", "namespace": "shop", "labels": {"app": "x", "example.com/tier": "1"}}});
        for (query, wanted) in [
            ("", Some(true)),
            ("labelSelector=app%3Dx", Some(true)),
            ("labelSelector=app%3D%3Dx,example.com%2Ftier", Some(true)),
            ("labelSelector=app%3Dy", Some(false)),
            ("labelSelector=app!%3Dy,other!%3Dx", Some(true)),
            ("labelSelector=app+in+(x,y)", Some(true)),
            ("labelSelector=app+notin+(x,y)", Some(false)),
            ("labelSelector=other+notin+(x)", Some(true)),
            ("labelSelector=!other", Some(true)),
            ("labelSelector=!app", Some(false)),
            ("labelSelector=app+of+(x)", None),
            ("labelSelector=app%3Da%2Fb", None),
            ("labelSelector=%3Dx", None),
            ("fieldSelector=metadata.name%3Da", Some(true)),
            ("fieldSelector=metadata.name!%3Da", Some(false)),
            ("fieldSelector=metadata.namespace%3Dother", Some(false)),
            ("fieldSelector=spec.x%3Da", None),
            ("fieldSelector=metadata.name", None),
        ] {
            assert_eq!(takes(query, &object), wanted, "{query}");
        }
        let elsewhere = json!({"metadata": {"name": "a", "namespace": "other"}});
        assert_eq!(takes("", &elsewhere), Some(false));
    }
}
