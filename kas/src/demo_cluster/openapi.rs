//! OpenAPI v3: as much as `kubectl apply` checks and `kubectl explain` prints.

use serde_json::{Map, Value, json};

use super::discovery;
use super::failure::Failure;
use super::kinds::{self, Kind};

/// The index, or the document of one group.
pub(crate) fn document(path: &[String]) -> Result<Value, Failure> {
    let words: Vec<&str> = path.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => Ok(index()),
        ["api", "v1"] => Ok(group_document("")),
        ["apis", group, "v1"] if discovery::groups().contains(group) => Ok(group_document(group)),
        _ => Err(Failure::no_such_path()),
    }
}

fn place(group: &str) -> String {
    if group.is_empty() {
        return "api/v1".to_owned();
    }
    format!("apis/{group}/v1")
}

fn index() -> Value {
    let paths: Map<String, Value> = discovery::groups()
        .into_iter()
        .map(place)
        .map(|place| {
            let entry = json!({"serverRelativeURL": format!("/openapi/v3/{place}")});
            (place, entry)
        })
        .collect();
    json!({"paths": paths})
}

fn group_document(group: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for kind in kinds::all().map(|id| id.info()) {
        if kind.group == group {
            paths.insert(path(kind), operations(kind));
            schemas.insert(schema_name(kind), schema(kind));
        }
    }
    json!({"openapi": "3.0.0", "info": {"title": "kas demo cluster", "version": "v1.33.0"},
           "paths": paths, "components": {"schemas": schemas}})
}

fn path(kind: &Kind) -> String {
    let namespace = if kind.namespaced {
        "namespaces/{namespace}/"
    } else {
        ""
    };
    format!("/{}/{namespace}{}/{{name}}", place(kind.group), kind.plural)
}

fn group_version_kind(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn operations(kind: &Kind) -> Value {
    let parameter = |name: &str| {
        json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}})
    };
    let parameters = ["dryRun", "fieldManager", "fieldValidation"].map(parameter);
    json!({
        "get": {"x-kubernetes-action": "get", "responses": {"200": {"description": "OK"}},
                "x-kubernetes-group-version-kind": group_version_kind(kind)},
        "patch": {"x-kubernetes-action": "patch", "responses": {"200": {"description": "OK"}},
                  "parameters": parameters,
                  "x-kubernetes-group-version-kind": group_version_kind(kind)},
    })
}

fn schema_name(kind: &Kind) -> String {
    let group = kind.group.split('.').next().unwrap_or_default();
    let group = if group.is_empty() { "core" } else { group };
    format!("io.k8s.api.{group}.{}.{}", kind.version, kind.kind)
}

fn schema(kind: &Kind) -> Value {
    let mut properties = Map::new();
    for (name, what) in [
        ("apiVersion", "The group and version of this object."),
        ("kind", "The kind of this object."),
    ] {
        properties.insert(
            name.to_owned(),
            json!({"type": "string", "description": what}),
        );
    }
    for (name, what) in sections(kind) {
        properties.insert(
            (*name).to_owned(),
            json!({"type": "object", "description": what}),
        );
    }
    json!({"type": "object", "properties": properties,
           "description": format!("{} as the demo cluster keeps it; the fields are those of Kubernetes 1.33, \
                                   which the demo cluster does not list in full.", kind.kind),
           "x-kubernetes-group-version-kind": [group_version_kind(kind)]})
}

fn sections(kind: &Kind) -> &'static [(&'static str, &'static str)] {
    const METADATA: (&str, &str) = ("metadata", "Name, namespace, labels and annotations.");
    match kind.kind {
        "ConfigMap" | "Secret" => &[METADATA, ("data", "The entries, by name.")],
        "ServiceAccount" | "Event" | "Endpoints" | "EndpointSlice" => &[METADATA],
        "Role" | "ClusterRole" => &[METADATA, ("rules", "What the role allows.")],
        "RoleBinding" | "ClusterRoleBinding" => &[METADATA, ("roleRef", "The role that is bound.")],
        _ => &[
            METADATA,
            ("spec", "What is wanted."),
            ("status", "What there is; written by the demo cluster."),
        ],
    }
}
