//! The audit trail's document has a row for each field of a record, and one for each kind.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use syn::{Fields, Item};

use super::{root, source};

/// What is put around a record, and by its chain.
const AROUND: [&str; 7] = ["v", "time", "replica", "chain", "seq", "prev", "hash"];

pub(super) fn check() -> Result<()> {
    let document = std::fs::read_to_string(root().join("docs/audit.md"))?;
    let files = source::files()?;
    let file = files
        .iter()
        .find(|file| file.path.ends_with("audit/src/record.rs"));
    let file = file.context("record.rs of the audit trail")?;

    let fields = named_by(&document, "## Fields");
    let mut expected: BTreeSet<_> = AROUND.map(str::to_owned).into();
    expected.extend(members(file, "Record").context("the fields of a record")?);
    ensure!(
        fields == expected,
        "docs/audit.md, \"Fields\": not explained {:?}, no field {:?}",
        expected.difference(&fields).collect::<Vec<_>>(),
        fields.difference(&expected).collect::<Vec<_>>()
    );

    let kinds = named_by(&document, "## Which records there are");
    let expected = members(file, "Kind").context("the kinds of records")?;
    ensure!(
        kinds == expected,
        "docs/audit.md has the kinds {kinds:?}, the code {expected:?}"
    );
    Ok(())
}

/// The names of a struct's fields, or of an enum's variants as they are written.
fn members(file: &source::File, name: &str) -> Option<BTreeSet<String>> {
    file.syntax.items.iter().find_map(|item| match item {
        Item::Struct(it) if it.ident == name => {
            let Fields::Named(fields) = &it.fields else {
                return None;
            };
            let names = fields.named.iter().filter_map(|field| field.ident.as_ref());
            Some(names.map(ToString::to_string).collect())
        }
        Item::Enum(it) if it.ident == name => {
            let names = it
                .variants
                .iter()
                .map(|it| it.ident.to_string().to_lowercase());
            Some(names.collect())
        }
        _ => None,
    })
}

/// What the first column of the table below a heading names.
fn named_by(document: &str, heading: &str) -> BTreeSet<String> {
    let rows = document
        .lines()
        .skip_while(|line| *line != heading)
        .skip_while(|line| !line.starts_with("|---"))
        .take_while(|line| !line.starts_with("## "));
    let cells = rows.filter_map(|row| row.strip_prefix("| `")?.split(" |").next());
    cells
        .flat_map(|cell| cell.split('`').step_by(2))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}
