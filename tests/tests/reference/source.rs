//! The source of the workspace's crates, as far as the reference is made of it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use syn::{
    Attribute, Expr, ExprLit, GenericArgument, Lit, Meta, Path, PathArguments, PathSegment, Type,
};

use super::root;

/// The crates whose source is read.
const CRATES: [&str; 4] = ["agentk", "kas", "router", "runtime"];
/// Files of tests and of what is no part of the server.
const NOT_READ: [&str; 4] = ["tests", "tests.rs", "playground", "fuzzing.rs"];

/// A file, read.
pub(super) struct File {
    /// Its path from the root.
    pub(super) path: PathBuf,
    /// What it says.
    pub(super) syntax: syn::File,
}

/// All of them, by their paths.
pub(super) fn files() -> Result<Vec<File>> {
    let mut paths = Vec::new();
    for folder in CRATES {
        collect(&root().join(folder), &mut paths)?;
    }
    paths.sort();
    let read = paths.into_iter().map(|path| {
        let text = std::fs::read_to_string(&path).context("source")?;
        let syntax = syn::parse_file(&text).with_context(|| path.display().to_string())?;
        let path = path.strip_prefix(root())?.to_owned();
        Ok(File { path, syntax })
    });
    read.collect()
}

fn collect(folder: &std::path::Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| NOT_READ.contains(&name)) {
            continue;
        }
        if path.is_dir() {
            collect(&path, found)?;
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// The doc comment among attributes, in one line.
pub(super) fn docs(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| {
        let Meta::NameValue(pair) = &attribute.meta else {
            return None;
        };
        pair.path.is_ident("doc").then(|| literal(&pair.value))?
    });
    let lines: Vec<_> = lines.map(|line| line.trim().to_owned()).collect();
    lines.join(" ").trim().to_owned()
}

/// The text of a literal.
pub(super) fn literal(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Lit(ExprLit {
            lit: Lit::Str(text),
            ..
        }) => Some(text.value()),
        _ => None,
    }
}

/// The value of `key = "…"` in attributes `#[serde(…)]`.
pub(super) fn serde_value(attributes: &[Attribute], key: &str) -> Option<String> {
    let mut value = None;
    for attribute in attributes.iter().filter(|it| it.path().is_ident("serde")) {
        // Other keys of other forms are no mistake of this one.
        let _ = attribute.parse_nested_meta(|meta| {
            let text = meta.value().and_then(|it| it.parse::<syn::LitStr>());
            if meta.path.is_ident(key) {
                value = text.ok().map(|it| it.value());
            }
            Ok(())
        });
    }
    value
}

/// A type's name and the types that it is made with: `Option<Vec<T>>` is `Option` of `Vec` of `T`.
#[derive(Debug, Clone, Default)]
pub(super) struct Kind {
    /// The last part of its path; empty for what is no path.
    pub(super) name: String,
    /// What stands in angle brackets.
    pub(super) of: Vec<Kind>,
}

impl From<&Type> for Kind {
    fn from(kind: &Type) -> Self {
        match kind {
            Type::Path(path) => Self::from(&path.path),
            _ => Self::default(),
        }
    }
}

impl From<&Path> for Kind {
    fn from(path: &Path) -> Self {
        path.segments.last().map_or_else(Self::default, Self::from)
    }
}

impl From<&PathSegment> for Kind {
    fn from(last: &PathSegment) -> Self {
        let name = last.ident.to_string();
        let PathArguments::AngleBracketed(arguments) = &last.arguments else {
            return Self {
                name,
                of: Vec::new(),
            };
        };
        let types = arguments.args.iter().filter_map(|argument| match argument {
            GenericArgument::Type(kind) => Some(kind.into()),
            _ => None,
        });
        Self {
            name,
            of: types.collect(),
        }
    }
}
