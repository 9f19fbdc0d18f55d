//! The patch formats of the Kubernetes API: merge, strategic merge and JSON patch.

use serde_json::{Map, Value};

use super::failure::Failure;

mod json_patch;
mod strategic;

/// How a patch changes an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Merge,
    Strategic,
    Json,
    /// Server-side apply; merges as a strategic patch does and makes what is missing.
    Apply,
}

impl Format {
    /// The format that a `Content-Type` names.
    pub(crate) fn of(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/json-patch+json" => Some(Self::Json),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }

    /// The object after the patch.
    pub(crate) fn apply(self, object: &Value, patch: &Value) -> Result<Value, Failure> {
        let mut object = object.clone();
        match self {
            Self::Merge => merge(&mut object, fields(patch)?),
            Self::Strategic | Self::Apply => strategic::merge(&mut object, fields(patch)?),
            Self::Json => json_patch::apply(&mut object, patch)?,
        }
        Ok(object)
    }
}

fn fields(patch: &Value) -> Result<&Map<String, Value>, Failure> {
    patch
        .as_object()
        .ok_or_else(|| Failure::bad_request("the patch is not an object"))
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Map<String, Value>) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else {
        return;
    };
    for (name, change) in patch {
        match change {
            Value::Null => {
                target.shift_remove(name);
            }
            Value::Object(change) => {
                merge(target.entry(name.as_str()).or_insert(Value::Null), change);
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                target.insert(name.clone(), change.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(format: Format, object: Value, patch: Value) -> Value {
        format.apply(&object, &patch).unwrap()
    }

    #[test]
    fn merge_patches_set_and_remove_fields() {
        let after = patched(
            Format::Merge,
            json!({"a": {"b": 1, "c": 2}, "l": [1, 2]}),
            json!({"a": {"b": null, "d": {"e": null, "f": 3}}, "l": [3]}),
        );

        assert_eq!(after, json!({"a": {"c": 2, "d": {"f": 3}}, "l": [3]}));
    }

    #[test]
    fn a_patch_that_is_no_object_is_refused() {
        let refused = Format::Merge.apply(&json!({}), &json!([1]));

        assert_eq!(refused.unwrap_err().code, 400);
    }
}
