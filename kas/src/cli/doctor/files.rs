//! Every file that the configuration names, and the end of the certificates in them.

use std::path::Path;

use runtime::doctor::{Report, check_certificates};
use serde_json::Value;

use super::HERE;

/// Looks at the files of an effective configuration.
pub(super) fn examine(effective: &Value, report: &mut Report) {
    let mut named = Vec::new();
    collect(effective, "", &mut named);
    for (key, file) in named {
        check_certificates(report, HERE, &key, Path::new(&file));
    }
}

/// Keys whose values are files.
fn collect(value: &Value, path: &str, named: &mut Vec<(String, String)>) {
    let below = |key: &str| match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    };
    match value {
        Value::Object(section) => {
            for (key, value) in section {
                match value {
                    Value::String(file) if key == "file" || key.ends_with("_file") => {
                        named.push((below(key), file.clone()));
                    }
                    _ => collect(value, &below(key), named),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, path, named)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_wherever_they_are_named() {
        let effective = serde_json::json!({
            "standalone": {"file": "a"},
            "agent": {"listen": {"key_file": "b", "address": ":1"}, "events": {"webhooks": [{"secret_file": "c"}]}},
        });
        let mut named = Vec::new();

        collect(&effective, "", &mut named);

        let pair = |key: &str, file: &str| (key.to_owned(), file.to_owned());
        let expected = [
            pair("standalone.file", "a"),
            pair("agent.listen.key_file", "b"),
            pair("agent.events.webhooks.secret_file", "c"),
        ];
        assert_eq!(named, expected);
    }
}
