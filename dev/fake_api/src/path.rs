//! Paths and queries of the API.

/// `/api/<version>…` or `/apis/<group>/<version>…`, then `[/namespaces/<ns>]/<plural>[/<name>[/<subresource>]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// `/apis/apps/v1/deployments`
    pub(crate) collection: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl Target {
    /// None where it is no path of resources.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (root, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => (format!("/api/{version}"), rest),
            ["apis", group, version, rest @ ..] => (format!("/apis/{group}/{version}"), rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            // A namespace's own subresources.
            ["namespaces", _, "status" | "finalize"] | ["namespaces", _] => (None, rest),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
            rest => (None, rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (plural, None, None),
            [plural, name] => (plural, Some(name), None),
            [plural, name, subresource] => (plural, Some(name), Some(subresource)),
            _ => return None,
        };
        let own = |text: &&str| (*text).to_owned();
        Some(Self {
            collection: format!("{root}/{plural}"),
            namespace,
            name: name.map(own),
            subresource: subresource.map(own),
        })
    }

    /// The place of an object in its collection, in the order of etcd's keys.
    pub(crate) fn key(&self) -> String {
        key(self.namespace.as_deref().unwrap_or_default(), self.name.as_deref().unwrap_or_default())
    }
}

pub(crate) fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// The parameters of a request.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// None where it is absent or empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        found.filter(|value| !value.is_empty())
    }

    /// As Kubernetes reads a boolean: there, and neither `false` nor `0`.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.0.iter().any(|(known, value)| known == name && value != "0" && !value.eq_ignore_ascii_case("false"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str) -> Option<(String, String, String, String)> {
        let target = Target::parse(path)?;
        let text = |part: Option<String>| part.unwrap_or_default();
        Some((target.collection, text(target.namespace), text(target.name), text(target.subresource)))
    }

    #[test]
    fn a_path_has_its_parts_and_a_namespace_is_an_object_too() {
        let of = |a: &str, b: &str, c: &str, d: &str| Some((a.into(), b.into(), c.into(), d.into()));
        for (path, wanted) in [
            ("/api/v1/secrets", of("/api/v1/secrets", "", "", "")),
            ("/api/v1/namespaces", of("/api/v1/namespaces", "", "", "")),
            ("/api/v1/namespaces/shop", of("/api/v1/namespaces", "", "shop", "")),
            ("/api/v1/namespaces/shop/status", of("/api/v1/namespaces", "", "shop", "status")),
            ("/api/v1/namespaces/shop/secrets", of("/api/v1/secrets", "shop", "", "")),
            (
                "/apis/apps/v1/namespaces/shop/deployments/a/status",
                of("/apis/apps/v1/deployments", "shop", "a", "status"),
            ),
            ("/apis/apps/v1/namespaces/shop/deployments/a/status/x", None),
            ("/apis/apps", None),
            ("/api/v1", None),
            ("/version", None),
            ("/", None),
        ] {
            assert_eq!(parts(path), wanted, "{path}");
        }
    }

    #[test]
    fn a_query_is_decoded_and_a_boolean_is_read_as_kubernetes_does() {
        let query = Query::parse("labelSelector=a%2Fb%3Dc,d+in+%28e%29&watch&limit=&x=false&y=1");
        assert_eq!(query.get("labelSelector"), Some("a/b=c,d in (e)"));
        assert_eq!((query.get("limit"), query.get("none")), (None, None));
        assert!(query.is_set("watch") && query.is_set("y") && !query.is_set("x") && !query.is_set("none"));
    }
}
