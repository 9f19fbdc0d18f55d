//! Writes a tree of values as YAML, for people.

use serde_json::Value;

/// The text of a value, in blocks.
#[must_use]
pub fn write(value: &Value) -> String {
    let mut text = String::new();
    block(&mut text, value, 0);
    text
}

fn block(text: &mut String, value: &Value, depth: usize) {
    let Value::Object(map) = value else {
        text.push_str(&flow(value));
        return;
    };
    for (key, value) in map {
        text.push_str(&"  ".repeat(depth));
        text.push_str(key);
        match value {
            Value::Object(below) if !below.is_empty() => {
                text.push_str(":\n");
                block(text, value, depth + 1);
            }
            _ => {
                text.push_str(": ");
                text.push_str(&flow(value));
                text.push('\n');
            }
        }
    }
}

/// A value on one line. JSON is YAML, so whatever is not plain is JSON.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether a text means itself without quotes, and nothing else.
fn is_plain(text: &str) -> bool {
    let seconds = text.strip_suffix('s').is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    });
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && !text.ends_with(':')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/._:-".contains(&b));
    let reserved = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    seconds || (word && !reserved.contains(&text.to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_that_would_mean_something_else_are_quoted() {
        let value = json!({"a": {"b": "plain/x", "c": "true", "d": "", "e": "5"}, "f": ["x"], "g": "5s", "h": {}});

        assert_eq!(
            write(&value),
            "a:\n  b: plain/x\n  c: \"true\"\n  d: \"\"\n  e: \"5\"\nf: [\"x\"]\ng: 5s\nh: {}\n"
        );
    }
}
