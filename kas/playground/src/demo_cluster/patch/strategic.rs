//! Strategic merge: lists of named things are merged item by item.

use serde_json::{Map, Value};

const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

/// Merges `patch` into `target`, obeying the patch's directives.
pub(super) fn merge(target: &mut Value, patch: &Map<String, Value>) {
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            *target = Value::Object(plain(patch));
            return;
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return;
        }
        Some(_) | None => {}
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else {
        return;
    };
    retain(target, patch);
    for (name, change) in patch {
        field(target, name, change);
    }
    for (name, order) in patch {
        let listed = name.strip_prefix(ORDER).zip(order.as_array());
        if let Some((name, order)) = listed {
            reorder(target, name, order);
        }
    }
}

fn plain(patch: &Map<String, Value>) -> Map<String, Value> {
    let fields = patch.iter().filter(|(name, _)| !name.starts_with('$'));
    fields
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn retain(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    if let Some(kept) = patch.get("$retainKeys").and_then(Value::as_array) {
        target.retain(|name, _| kept.iter().any(|kept| kept == name.as_str()));
    }
}

fn field(target: &mut Map<String, Value>, name: &str, change: &Value) {
    if let Some(list) = name.strip_prefix(DELETE) {
        let gone = change.as_array().map(Vec::as_slice).unwrap_or_default();
        if let Some(Value::Array(items)) = target.get_mut(list) {
            items.retain(|item| !gone.contains(item));
        }
        return;
    }
    if name.starts_with('$') {
        return;
    }
    match change {
        Value::Null => {
            target.shift_remove(name);
        }
        Value::Object(change) => {
            merge(target.entry(name).or_insert(Value::Null), change);
        }
        Value::Array(items) => merge_list(target, name, items),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            target.insert(name.to_owned(), change.clone());
        }
    }
}

fn merge_list(target: &mut Map<String, Value>, name: &str, changes: &[Value]) {
    let current = target
        .entry(name)
        .or_insert_with(|| Value::Array(Vec::new()));
    if name == "finalizers" {
        add_missing(current, changes);
        return;
    }
    let key = merge_key(name, changes);
    match (key, current) {
        (Some(key), Value::Array(current)) => merge_items(current, key, changes),
        (_, current) => *current = Value::Array(changes.to_vec()),
    }
}

fn add_missing(current: &mut Value, changes: &[Value]) {
    if let Value::Array(current) = current {
        for change in changes {
            if !current.contains(change) {
                current.push(change.clone());
            }
        }
    }
}

/// The field that tells the items of a list apart; `None` for lists replaced as a whole.
fn merge_key(list: &str, items: &[Value]) -> Option<&'static str> {
    match list {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "secrets" => Some("name"),
        "conditions" | "addresses" => Some("type"),
        "volumeMounts" => Some("mountPath"),
        "volumeDevices" => Some("devicePath"),
        "ownerReferences" => Some("uid"),
        "hostAliases" | "podIPs" => Some("ip"),
        "topologySpreadConstraints" => Some("topologyKey"),
        "ports" => ["containerPort", "port"]
            .into_iter()
            .find(|key| !items.is_empty() && items.iter().all(|item| item.get(key).is_some())),
        _ => None,
    }
}

fn merge_items(current: &mut Vec<Value>, key: &str, changes: &[Value]) {
    let replaced = changes.iter().any(|one| directive(one, "replace"));
    if replaced {
        current.clear();
    }
    for change in changes {
        let Some(fields) = change.as_object() else {
            continue;
        };
        let place = current.iter().position(|item| item[key] == change[key]);
        match place {
            Some(place) if directive(change, "delete") => {
                current.remove(place);
            }
            Some(place) => merge(&mut current[place], fields),
            None if fields.contains_key("$patch") => {}
            None => {
                let mut item = Value::Null;
                merge(&mut item, fields);
                current.push(item);
            }
        }
    }
}

fn directive(item: &Value, wanted: &str) -> bool {
    item.get("$patch").and_then(Value::as_str) == Some(wanted)
}

/// Puts the items into the patch's order; items that it does not name come last.
fn reorder(target: &mut Map<String, Value>, list: &str, order: &[Value]) {
    let Some(Value::Array(items)) = target.get_mut(list) else {
        return;
    };
    let place = |item: &Value| {
        let named = |one: &Value| match merge_key(list, std::slice::from_ref(one)) {
            Some(key) => one[key] == item[key],
            None => one == item,
        };
        order.iter().position(named).unwrap_or(order.len())
    };
    items.sort_by_key(place);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(mut object: Value, patch: Value) -> Value {
        merge(&mut object, patch.as_object().unwrap());
        object
    }

    #[test]
    fn containers_are_merged_by_name() {
        let after = patched(
            json!({"containers": [{"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]},
                                  {"name": "b", "image": "b:1"}]}),
            json!({"containers": [{"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "2"}]}]}),
        );

        assert_eq!(
            after,
            json!({"containers": [
                {"name": "a", "image": "a:2",
                 "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
                {"name": "b", "image": "b:1"}]})
        );
    }

    #[test]
    fn directives_delete_replace_and_order_items() {
        let after = patched(
            json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}],
                   "strategy": {"type": "RollingUpdate", "rollingUpdate": {}},
                   "finalizers": ["x", "y"]}),
            json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "d"}, {"name": "a"}],
                   "containers": [{"name": "b", "$patch": "delete"}, {"name": "d"}],
                   "strategy": {"$retainKeys": ["type"], "type": "Recreate"},
                   "$deleteFromPrimitiveList/finalizers": ["x"],
                   "finalizers": ["z"]}),
        );

        assert_eq!(
            after,
            json!({"containers": [{"name": "c"}, {"name": "d"}, {"name": "a"}],
                   "strategy": {"type": "Recreate"},
                   "finalizers": ["y", "z"]})
        );
    }

    #[test]
    fn ports_are_told_apart_by_what_they_are() {
        let after = patched(
            json!({"ports": [{"port": 80, "name": "web"}]}),
            json!({"ports": [{"port": 80, "targetPort": 8080}, {"port": 81}]}),
        );

        assert_eq!(
            after,
            json!({"ports": [{"port": 80, "name": "web", "targetPort": 8080}, {"port": 81}]})
        );
    }

    #[test]
    fn other_lists_are_replaced_and_nulls_remove() {
        let after = patched(
            json!({"args": ["a"], "x": 1}),
            json!({"args": ["b"], "x": null}),
        );

        assert_eq!(after, json!({"args": ["b"]}));
    }
}
