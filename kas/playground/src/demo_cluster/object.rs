//! Reading the parts of a Kubernetes object that every kind has.

use std::io;

use serde_json::{Map, Value, json};

/// The API of tables and of metadata alone.
pub(crate) const META: &str = "meta.k8s.io/v1";

/// A string inside the object, `""` when it is not there.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A whole number inside the object, 0 when it is not there.
pub(crate) fn number(object: &Value, pointer: &str) -> i64 {
    object
        .pointer(pointer)
        .and_then(Value::as_i64)
        .unwrap_or_default()
}

/// A list inside the object, empty when it is not there.
pub(crate) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// A map inside the object, `None` when it is not there.
pub(crate) fn map<'a>(object: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    object.pointer(pointer).and_then(Value::as_object)
}

/// `metadata.name`.
pub(crate) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// `metadata.namespace`, `""` for cluster-scoped objects.
pub(crate) fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

/// `metadata.uid`.
pub(crate) fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// Whether a deletion of the object is under way.
pub(crate) fn deleting(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}

/// Whether finalizers keep the object after its deletion.
pub(crate) fn finalized_by_others(object: &Value) -> bool {
    !list(object, "/metadata/finalizers").is_empty()
}

/// Whether `uid` is the owner of the object.
pub(crate) fn owned_by(object: &Value, uid: &str) -> bool {
    list(object, "/metadata/ownerReferences")
        .iter()
        .any(|owner| text(owner, "/uid") == uid)
}

/// The object's metadata alone.
pub(crate) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": META,
           "metadata": object["metadata"]})
}

/// A controller's reference to `owner`, for the objects that it makes.
pub(crate) fn owner_reference(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"], "kind": owner["kind"],
        "name": name(owner), "uid": uid(owner),
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// Sets `object.parent.field`, making the parent when it is not there.
pub(crate) fn set(object: &mut Value, parent: &str, field: &str, value: Value) {
    let Some(fields) = object.as_object_mut() else {
        return;
    };
    let parent = fields.entry(parent).or_insert_with(|| json!({}));
    if let Some(parent) = parent.as_object_mut() {
        parent.insert(field.to_owned(), value);
    }
}

/// Removes `object.parent.field`.
pub(crate) fn unset(object: &mut Value, parent: &str, field: &str) {
    if let Some(parent) = object.get_mut(parent).and_then(Value::as_object_mut) {
        parent.shift_remove(field);
    }
}

/// How many bytes the object takes as JSON.
pub(crate) fn size(object: &Value) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, object).expect("counting never fails, keys are strings");
    count.0
}
