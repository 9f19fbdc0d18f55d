//! OpenAPI v3: as much as `kubectl apply` checks and `kubectl explain` prints.

use serde_json::{Map, Value, json};

use super::discovery;
use super::failure::Failure;
use super::kinds::{self, Kind};
use super::schema::{self, Type};

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
            schemas_of(kind, &mut schemas);
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
    let parameter = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let parameters = ["dryRun", "fieldManager", "fieldValidation"].map(parameter);
    json!({
        "get": {"x-kubernetes-action": "get", "responses": {"200": {"description": "OK"}},
                "x-kubernetes-group-version-kind": group_version_kind(kind)},
        "patch": {"x-kubernetes-action": "patch", "responses": {"200": {"description": "OK"}},
                  "parameters": parameters,
                  "x-kubernetes-group-version-kind": group_version_kind(kind)},
    })
}

/// The schemas of a kind and of everything that it is made of.
fn schemas_of(kind: &Kind, schemas: &mut Map<String, Value>) {
    let mut waiting = vec![kind.kind];
    while let Some(name) = waiting.pop() {
        if schemas.contains_key(name) {
            continue;
        }
        let mut properties = Map::new();
        add_fields(name, &mut properties, &mut waiting);
        let schema = json!({"type": "object", "properties": properties});
        schemas.insert(name.to_owned(), schema);
    }
    let schema = &mut schemas[kind.kind];
    schema["x-kubernetes-group-version-kind"] = json!([group_version_kind(kind)]);
    for field in ["apiVersion", "kind"] {
        schema["properties"][field] = json!({"type": "string"});
    }
}

fn add_fields(of: &str, properties: &mut Map<String, Value>, waiting: &mut Vec<&'static str>) {
    for field in schema::fields(of) {
        match field.flat() {
            Some(inner) => add_fields(inner, properties, waiting),
            None => {
                let property = property(&field.kind, waiting);
                properties.insert(field.name.to_owned(), property);
            }
        }
    }
}

fn property(kind: &Type, waiting: &mut Vec<&'static str>) -> Value {
    match kind {
        Type::Text | Type::IntOrText | Type::Quantity => json!({"type": "string"}),
        Type::Time | Type::MicroTime => json!({"type": "string", "format": "date-time"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Integer => json!({"type": "integer"}),
        Type::Flag => json!({"type": "boolean"}),
        Type::Raw => json!({"type": "object"}),
        Type::Texts => json!({"type": "array", "items": {"type": "string"}}),
        Type::List(item) => json!({"type": "array", "items": property(item, waiting)}),
        Type::Map(value) => {
            json!({"type": "object", "additionalProperties": property(value, waiting)})
        }
        Type::Object(name) => {
            waiting.push(name);
            json!({"$ref": format!("#/components/schemas/{name}")})
        }
    }
}
