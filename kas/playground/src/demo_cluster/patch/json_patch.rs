//! JSON patch, RFC 6902.

use serde_json::Value;

use super::super::failure::Failure;
use super::super::object;

/// Operations beyond this number are refused, as the real server does.
const MAX_OPERATIONS: usize = 10_000;

/// Deeper paths are refused: nested patches must not outgrow the stack.
const MAX_DEPTH: usize = 128;

/// Copies may not make an object larger than this.
const MAX_RESULT_BYTES: usize = 3 << 19;

/// Applies every operation in order; the object is half-changed when one fails.
pub(super) fn apply(object: &mut Value, patch: &Value) -> Result<(), Failure> {
    let operations = patch.as_array().ok_or_else(malformed)?;
    if operations.len() > MAX_OPERATIONS {
        return Err(malformed());
    }
    operations.iter().try_for_each(|one| operate(object, one))
}

fn operate(object: &mut Value, operation: &Value) -> Result<(), Failure> {
    let path = operation["path"].as_str().ok_or_else(malformed)?;
    match operation["op"].as_str().unwrap_or_default() {
        "add" => add(object, path, value(operation)?),
        "remove" => remove(object, path).map(drop),
        "replace" => {
            let place = object.pointer_mut(path).ok_or_else(|| missing(path))?;
            *place = value(operation)?;
            Ok(())
        }
        "test" if object.pointer(path) == operation.get("value") => Ok(()),
        "test" => Err(Failure::bad_request(format!(
            "testing value at {path} failed"
        ))),
        "copy" => {
            let from = from(operation)?;
            let copied = object.pointer(from).cloned();
            add(object, path, copied.ok_or_else(|| missing(from))?)?;
            within_size(object)
        }
        "move" => {
            let moved = remove(object, from(operation)?)?;
            add(object, path, moved)
        }
        _ => Err(malformed()),
    }
}

fn value(operation: &Value) -> Result<Value, Failure> {
    operation.get("value").cloned().ok_or_else(malformed)
}

fn from(operation: &Value) -> Result<&str, Failure> {
    operation["from"].as_str().ok_or_else(malformed)
}

fn add(object: &mut Value, path: &str, value: Value) -> Result<(), Failure> {
    let Some((parent, last)) = path.rsplit_once('/') else {
        *object = value;
        return Ok(());
    };
    if path.split('/').count() > MAX_DEPTH {
        return Err(malformed());
    }
    match object.pointer_mut(parent) {
        Some(Value::Object(fields)) => {
            fields.insert(unescape(last), value);
            Ok(())
        }
        Some(Value::Array(items)) if last == "-" => {
            items.push(value);
            Ok(())
        }
        Some(Value::Array(items)) => match last.parse::<usize>() {
            Ok(index) if index <= items.len() => {
                items.insert(index, value);
                Ok(())
            }
            Ok(_) | Err(_) => Err(missing(path)),
        },
        Some(_) | None => Err(missing(path)),
    }
}

fn within_size(object: &Value) -> Result<(), Failure> {
    if object::size(object) > MAX_RESULT_BYTES {
        return Err(Failure::too_large(MAX_RESULT_BYTES));
    }
    Ok(())
}

fn remove(object: &mut Value, path: &str) -> Result<Value, Failure> {
    let (parent, last) = path.rsplit_once('/').ok_or_else(malformed)?;
    let removed = match object.pointer_mut(parent) {
        Some(Value::Object(fields)) => fields.shift_remove(&unescape(last)),
        Some(Value::Array(items)) => last
            .parse::<usize>()
            .ok()
            .filter(|index| *index < items.len())
            .map(|index| items.remove(index)),
        Some(_) | None => None,
    };
    removed.ok_or_else(|| missing(path))
}

fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

fn missing(path: &str) -> Failure {
    Failure::bad_request(format!(
        "the JSON patch names a path that is not there: {path:?}"
    ))
}

fn malformed() -> Failure {
    Failure::bad_request("the JSON patch cannot be understood")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_do_what_they_say() {
        let mut object = json!({"a": {"x/y": 1}, "l": [1, 3]});

        apply(
            &mut object,
            &json!([
                {"op": "test", "path": "/a/x~1y", "value": 1},
                {"op": "add", "path": "/l/1", "value": 2},
                {"op": "add", "path": "/l/-", "value": 4},
                {"op": "remove", "path": "/l/0"},
                {"op": "replace", "path": "/a/x~1y", "value": 9},
                {"op": "copy", "from": "/a/x~1y", "path": "/c"},
                {"op": "move", "from": "/c", "path": "/d"},
            ]),
        )
        .unwrap();

        assert_eq!(object, json!({"a": {"x/y": 9}, "l": [2, 3, 4], "d": 9}));
    }

    #[test]
    fn copies_and_nesting_have_limits() {
        let mut object = json!({"l": ["x".repeat(1000)]});
        let list = json!({"op": "copy", "from": "/l", "path": "/l/-"});
        let bomb = Value::Array(vec![list; 30]);
        let deep = "/a".repeat(MAX_DEPTH);

        assert_eq!(apply(&mut object, &bomb).unwrap_err().code, 413);
        assert!(object::size(&object) <= 3 * MAX_RESULT_BYTES);
        let refused = apply(
            &mut object,
            &json!([{"op": "add", "path": deep, "value": 1}]),
        );
        assert_eq!(refused.unwrap_err().code, 400);
    }

    #[test]
    fn paths_that_are_not_there_are_refused() {
        for operation in [
            json!({"op": "remove", "path": "/nothing"}),
            json!({"op": "add", "path": "/l/7", "value": 1}),
            json!({"op": "replace", "path": "/x", "value": 1}),
            json!({"op": "test", "path": "/l", "value": 1}),
            json!({"op": "dance", "path": "/l"}),
            json!({"op": "remove", "path": ""}),
        ] {
            let refused = apply(&mut json!({"l": [1]}), &json!([operation]));
            assert_eq!(refused.unwrap_err().code, 400, "{operation}");
        }
    }
}
