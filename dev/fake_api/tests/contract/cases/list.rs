use serde_json::{Value, json};

use crate::place::{Answer, Place, rule};

async fn five(at: &mut Place<'_>) {
    for name in ["c", "a", "e", "b", "d"] {
        let labels = json!({"app": if name < "c" { "x" } else { "y" }, name: ""});
        at.config_map(name, labels, json!({})).await;
    }
}

fn next(page: &Answer, path: &str) -> String {
    format!("{path}&continue={}", page.meta("continue").as_str().expect("there is more"))
}

pub async fn a_list_is_in_order_and_says_its_kind(at: &mut Place<'_>) {
    let empty = at.get("configmaps").await;
    assert_eq!((&empty.is(200).body["kind"], &empty.body["items"]), (&json!("ConfigMapList"), &json!([])));
    five(at).await;
    let list = at.get("configmaps").await;
    assert_eq!(list.names(), ["a", "b", "c", "d", "e"]);
    assert!(list.body["items"][0].get("kind").is_none(), "Kubernetes' own kinds do not repeat what they are");
    for name in ["b", "a"] {
        at.post("rules", &rule(name)).await.is(201);
    }
    let list = at.get("rules").await;
    assert_eq!((list.names(), &list.body["kind"]), (vec!["a", "b"], &json!("RuleList")));
    assert_eq!(list.body["items"][0]["kind"], "Rule");
}

pub async fn a_label_selector_selects(at: &mut Place<'_>) {
    five(at).await;
    for (selector, wanted) in [
        ("app%3Dx", "ab"),
        ("app%3D%3Dy", "cde"),
        ("app!%3Dy", "ab"),
        ("app%20in%20(x,z)", "ab"),
        ("app%20notin%20(x,z)", "cde"),
        ("c", "c"),
        ("!c", "abde"),
        ("app%3Dy,!c", "de"),
        ("other!%3Dy", "abcde"),
        ("app%3Dnone", ""),
    ] {
        assert_eq!(
            at.get(&format!("configmaps?labelSelector={selector}")).await.names().concat(),
            wanted,
            "{selector}"
        );
    }
}

pub async fn a_field_selector_selects_by_name(at: &mut Place<'_>) {
    five(at).await;
    let own = format!("metadata.namespace%3D{}", at.namespace);
    for (selector, wanted) in [
        ("metadata.name%3Da", "a"),
        ("metadata.name!%3Da", "bcde"),
        ("metadata.name%3Da,metadata.name%3Db", ""),
        (own.as_str(), "abcde"),
        ("metadata.namespace%3Delsewhere", ""),
    ] {
        let wanted: Vec<String> = wanted.chars().map(String::from).collect();
        let path = format!("configmaps?fieldSelector={selector}");
        // The namespace's name is the case's own.
        assert_eq!(at.get(&path).await.names(), wanted, "{selector}");
    }
    at.post("rules", &rule("a")).await.is(201);
    assert_eq!(at.get("rules?fieldSelector=metadata.name%3Da").await.names(), ["a"]);
}

pub async fn a_selector_that_cannot_be_read_is_refused(at: &mut Place<'_>) {
    for query in ["labelSelector=a%20of%20b", "labelSelector=%3Da", "fieldSelector=spec.x%3Da", "fieldSelector=a"] {
        at.get(&format!("configmaps?{query}")).await.refused(400, "BadRequest");
        at.get(&format!("rules?{query}")).await.refused(400, "BadRequest");
    }
}

pub async fn a_list_comes_in_pages(at: &mut Place<'_>) {
    five(at).await;
    let mut path = "configmaps?limit=2".to_owned();
    let mut pages = Vec::new();
    let mut versions = Vec::new();
    loop {
        let page = at.get(&path).await;
        pages.push(page.is(200).names().concat());
        versions.push(page.meta("resourceVersion").clone());
        if page.meta("continue").is_null() {
            break;
        }
        let left = page.meta("remainingItemCount").clone();
        assert_eq!(left, json!(5 - 2 * pages.len()), "{}", page.body["metadata"]);
        path = next(&page, "configmaps?limit=2");
    }
    assert_eq!(pages, ["ab", "cd", "e"]);
    assert!(versions.iter().all(|version| *version == versions[0]), "{versions:?}");
}

pub async fn a_list_in_pages_is_of_one_version(at: &mut Place<'_>) {
    five(at).await;
    let first = at.get("configmaps?limit=2").await;
    at.delete("configmaps/c").await.is(200);
    at.config_map("bb", json!({}), json!({})).await;
    let mut changed = at.get("configmaps/d").await.body;
    changed["data"] = json!({"k": "new"});
    at.put("configmaps/d", &changed).await.is(200);
    let rest = at.get(&next(&first, "configmaps?limit=9")).await;
    assert_eq!(rest.names(), ["c", "d", "e"]);
    assert!(rest.body["items"][1].get("data").is_none(), "as it was then");
    assert_eq!(rest.meta("resourceVersion"), first.meta("resourceVersion"));
    assert_eq!(at.get("configmaps").await.names(), ["a", "b", "bb", "d", "e"]);
}

pub async fn a_selection_comes_in_pages(at: &mut Place<'_>) {
    five(at).await;
    let path = "configmaps?limit=1&labelSelector=app%3Dy";
    let mut page = at.get(path).await;
    let mut names = page.names().concat();
    while page.meta("continue").is_string() {
        assert!(page.meta("remainingItemCount").is_null(), "how many are left is not known of a selection");
        page = at.get(&next(&page, path)).await;
        names += &page.names().concat();
    }
    assert_eq!(names, "cde");
}

pub async fn the_last_page_may_be_full(at: &mut Place<'_>) {
    five(at).await;
    let all = at.get("configmaps?limit=5").await;
    assert_eq!((all.names().len(), all.meta("continue")), (5, &Value::Null));
    let first = at.get("configmaps?limit=3").await;
    let rest = at.get(&next(&first, "configmaps?limit=2")).await;
    assert_eq!((rest.names().concat().as_str(), rest.meta("continue")), ("de", &Value::Null));
}

pub async fn a_continuation_that_can_be_none_is_refused(at: &mut Place<'_>) {
    five(at).await;
    for token in ["x", "e30", "bm8"] {
        at.get(&format!("configmaps?limit=2&continue={token}")).await.refused(400, "BadRequest");
    }
    let first = at.get("configmaps?limit=2").await;
    let version = first.meta("resourceVersion").as_str().unwrap();
    let path = next(&first, &format!("configmaps?limit=2&resourceVersion={version}"));
    at.get(&path).await.refused(400, "BadRequest");
}

pub async fn a_list_of_version_zero_is_given_whole(at: &mut Place<'_>) {
    five(at).await;
    // What a cache knows may be older than the last write; an own read of now makes it know.
    assert_eq!(at.get("configmaps").await.names().len(), 5);
    let list = at.get("configmaps?limit=2&resourceVersion=0").await;
    assert_eq!((list.names().len(), list.meta("continue")), (5, &Value::Null));
}

pub async fn a_list_may_ask_for_no_older_version(at: &mut Place<'_>) {
    five(at).await;
    let last = at.config_map("f", json!({}), json!({})).await;
    let version = last["metadata"]["resourceVersion"].as_str().unwrap();
    let list = at.get(&format!("configmaps?resourceVersion={version}")).await;
    assert_eq!(list.names().concat(), "abcdef");
    // Of a version that nobody has made yet.
    let refused = at.get("configmaps?resourceVersion=999999999").await;
    refused.refused(504, "Timeout").because(&[("ResourceVersionTooLarge", "")]);
}

pub async fn a_version_that_is_none_is_refused(at: &mut Place<'_>) {
    at.get("configmaps?resourceVersion=x").await.is(400);
    at.get("rules?resourceVersion=x").await.is(400);
}
