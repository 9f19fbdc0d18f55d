//! Discovery: which groups, versions and resources there are.

use serde_json::{Value, json};

use super::failure::Failure;
use super::kinds::{self, Kind};

const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// Resources that are asked, not stored: group, plural and kind.
const REVIEWS: &[(&str, &str, &str)] = &[
    (
        "authentication.k8s.io",
        "selfsubjectreviews",
        "SelfSubjectReview",
    ),
    (
        "authorization.k8s.io",
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
    ),
    (
        "authorization.k8s.io",
        "selfsubjectrulesreviews",
        "SelfSubjectRulesReview",
    ),
];

/// The `/version` document.
pub(crate) fn version() -> Value {
    json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0-kas-demo",
           "gitCommit": "", "gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z",
           "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64"})
}

/// The document at a path below `/api` or `/apis`; `aggregated` where the client accepts all in one.
pub(crate) fn document(path: &[String], aggregated: bool) -> Result<Value, Failure> {
    let words: Vec<&str> = path.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["api"] if aggregated => Ok(aggregate(|group| group.is_empty())),
        ["apis"] if aggregated => Ok(aggregate(|group| !group.is_empty())),
        ["api"] => Ok(json!({"kind": "APIVersions", "versions": ["v1"],
                             "serverAddressByClientCIDRs": []})),
        ["apis"] => Ok(json!({"kind": "APIGroupList", "apiVersion": "v1",
                              "groups": named_groups().map(group).collect::<Vec<_>>()})),
        ["apis", name] => named_groups()
            .find(|group| group == name)
            .map(group)
            .ok_or_else(Failure::no_such_path),
        ["api", "v1"] => Ok(resources("")),
        ["apis", name, "v1"] if groups().contains(name) => Ok(resources(name)),
        _ => Err(Failure::no_such_path()),
    }
}

/// Every group: those of stored kinds and those of reviews.
pub(crate) fn groups() -> Vec<&'static str> {
    let mut groups = kinds::groups();
    groups.extend(REVIEWS.iter().map(|(group, _, _)| *group));
    groups.dedup();
    groups
}

fn named_groups() -> impl Iterator<Item = &'static str> {
    groups().into_iter().filter(|group| !group.is_empty())
}

fn group(name: &'static str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": name,
           "versions": [version], "preferredVersion": version})
}

fn of_group(group: &str) -> impl Iterator<Item = &'static Kind> {
    kinds::all()
        .map(|id| id.info())
        .filter(move |kind| kind.group == group)
}

fn resources(group: &str) -> Value {
    let mut resources: Vec<Value> = of_group(group).flat_map(resource).collect();
    for (_, plural, kind) in REVIEWS.iter().filter(|(of, _, _)| *of == group) {
        resources.push(json!({"name": plural, "singularName": kind.to_lowercase(),
                              "namespaced": false, "kind": kind, "verbs": ["create"]}));
    }
    let version = if group.is_empty() {
        "v1".to_owned()
    } else {
        format!("{group}/v1")
    };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version,
           "resources": resources})
}

fn resource(kind: &'static Kind) -> Vec<Value> {
    let mut main = json!({"name": kind.plural, "singularName": kind.singular,
                          "namespaced": kind.namespaced, "kind": kind.kind, "verbs": VERBS});
    if !kind.short_names.is_empty() {
        main["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        main["categories"] = json!(kind.categories);
    }
    let subresources = kind.subresources.iter().map(|sub| {
        let mut entry = json!({"name": format!("{}/{}", kind.plural, sub.name),
                               "singularName": "", "namespaced": kind.namespaced,
                               "kind": kind.kind, "verbs": sub.verbs});
        if let Some((group, version, body)) = sub.body {
            entry["kind"] = json!(body);
            entry["group"] = json!(group);
            entry["version"] = json!(version);
        }
        entry
    });
    std::iter::once(main).chain(subresources).collect()
}

fn aggregate(wanted: impl Fn(&str) -> bool) -> Value {
    let items: Vec<_> = groups()
        .into_iter()
        .filter(|group| wanted(group))
        .map(aggregated_group)
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
           "metadata": {}, "items": items})
}

fn aggregated_group(group: &'static str) -> Value {
    let mut resources: Vec<_> = of_group(group).map(aggregated_resource).collect();
    for (_, plural, kind) in REVIEWS.iter().filter(|(of, _, _)| *of == group) {
        resources.push(json!({"resource": plural, "scope": "Cluster",
            "responseKind": {"group": "", "version": "", "kind": kind},
            "singularResource": kind.to_lowercase(), "verbs": ["create"]}));
    }
    let mut metadata = json!({"creationTimestamp": null});
    if !group.is_empty() {
        metadata["name"] = json!(group);
    }
    json!({"metadata": metadata,
           "versions": [{"version": "v1", "freshness": "Current", "resources": resources}]})
}

fn aggregated_resource(kind: &'static Kind) -> Value {
    let own = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let subresources: Vec<_> = kind
        .subresources
        .iter()
        .map(|sub| {
            let body = sub.body.map_or_else(
                || own.clone(),
                |(group, version, kind)| json!({"group": group, "version": version, "kind": kind}),
            );
            json!({"subresource": sub.name, "responseKind": body, "verbs": sub.verbs})
        })
        .collect();
    json!({"resource": kind.plural, "responseKind": own,
           "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
           "singularResource": kind.singular, "verbs": VERBS,
           "shortNames": kind.short_names, "categories": kind.categories,
           "subresources": subresources})
}
