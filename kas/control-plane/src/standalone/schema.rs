//! The published schema of the file, `docs/agents.schema.json`.

/// A JSON Schema, for editors: an editor that reads YAML checks the file as it is written.
pub const SCHEMA: &str = include_str!("../../../../docs/agents.schema.json");

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::standalone::file::Document;

    /// `UPDATE_SCHEMA=1 cargo test -p control-plane --lib schema` writes it.
    #[test]
    fn the_published_schema_is_that_of_the_file() {
        let schema = schemars::schema_for!(Document<serde_json::Value>);
        let schema = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/agents.schema.json");
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(file, &schema).unwrap();
            return;
        }
        assert!(
            schema == SCHEMA,
            "docs/agents.schema.json is older than the file's form: {schema}"
        );
    }
}
