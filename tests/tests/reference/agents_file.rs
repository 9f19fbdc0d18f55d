//! The standalone control plane's file, from its schema.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use super::{cell, head, root};

pub(super) fn page() -> Result<String> {
    let text = std::fs::read_to_string(root().join("docs/agents.schema.json"))?;
    let schema: Value = serde_json::from_str(&text)?;
    let mut page = head(
        "agents.yaml",
        "The file of the standalone control plane (`standalone.file`): agents, users, services, issuers and access\n\
         rules, with what [agents.schema.json](../agents.schema.json) says of them. How they work together:\n\
         [People and access](../access.md).",
    );
    table(&mut page, "The file", &schema);
    let parts = schema["$defs"].as_object().context("$defs")?;
    for (name, part) in parts {
        if part["properties"].is_object() {
            table(&mut page, name, part);
        } else {
            let about = part["description"].as_str().unwrap_or_default();
            // Writing to a string does not fail.
            let _ = write!(page, "\n## {name}\n\n{}\n", plain(about));
            let words = words(part);
            if !words.is_empty() {
                let _ = write!(page, "\nOne of {}.\n", words.join(", "));
            }
        }
    }
    Ok(page)
}

fn table(page: &mut String, name: &str, part: &Value) {
    let about = part["description"].as_str().unwrap_or_default();
    let _ = write!(
        page,
        "\n## {name}\n\n{}\n\n| key | value | |\n|---|---|---|\n",
        plain(about)
    );
    let required = part["required"].as_array().cloned().unwrap_or_default();
    let empty = Map::new();
    for (key, property) in part["properties"].as_object().unwrap_or(&empty) {
        let about = property["description"].as_str().unwrap_or_default();
        let needed = match required.iter().any(|it| it == key) {
            true => ", required",
            false => "",
        };
        let _ = writeln!(
            page,
            "| `{key}` | {}{needed} | {} |",
            value(property),
            cell(about)
        );
    }
}

fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a key may hold, in words.
fn value(property: &Value) -> String {
    if let Some(name) = property["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap_or_default();
        return format!("[{name}](#{})", name.to_lowercase());
    }
    for choice in ["anyOf", "oneOf"] {
        if let Some(choices) = property[choice].as_array() {
            let choices = choices.iter().filter(|it| it["type"] != "null");
            return choices.map(value).collect::<Vec<_>>().join(" or ");
        }
    }
    if property["additionalProperties"].is_object() || property["patternProperties"].is_object() {
        return "a map".to_owned();
    }
    let words = words(property);
    if !words.is_empty() {
        return words.join(", ");
    }
    let kinds = match &property["type"] {
        Value::String(kind) => vec![kind.clone()],
        Value::Array(kinds) => kinds
            .iter()
            .filter_map(|it| it.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    };
    let kinds = kinds.iter().filter(|kind| *kind != "null");
    let named = kinds.map(|kind| match kind.as_str() {
        "array" => format!("a list of {}", value(&property["items"])),
        "integer" => "a number".to_owned(),
        "string" if property["format"] == "date-time" => "a time (RFC 3339)".to_owned(),
        "string" => "a text".to_owned(),
        "boolean" => "`true` or `false`".to_owned(),
        other => other.to_owned(),
    });
    let named: Vec<_> = named.collect();
    match named.is_empty() {
        true => "anything".to_owned(),
        false => named.join(" or "),
    }
}

/// The words that it may be, if it may only be words.
fn words(part: &Value) -> Vec<String> {
    let of = |it: &Value| it.as_str().map(|word| format!("`{word}`"));
    if let Some(words) = part["enum"].as_array() {
        return words.iter().filter_map(of).collect();
    }
    if let Some(word) = of(&part["const"]) {
        return vec![word];
    }
    let choices = part["oneOf"].as_array().into_iter().flatten();
    choices.flat_map(words).collect()
}
