//! `kas.yaml`: the keys of the sections (`section!`), their defaults as `kas check-config` tells them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use syn::{
    Attribute, Expr, ExprLit, Ident, Item, ItemEnum, Lit, LitStr, Macro, Token, Type, Visibility,
    braced,
    parse::{Parse, ParseStream},
    visit::Visit,
};
use tests::programs;
use tokio::process::Command;

use super::{
    cell, head,
    source::{self, Kind, docs, serde_value},
};

/// The section that is the whole file.
const ROOT: &str = "Config";
/// Files that have every section, between them: what is not required has its default then.
const FILES: [&str; 2] = [
    "standalone: {file: agents.yaml}
agent: {kubernetes_api: {}, events: {webhooks: [{url: 'https://example.com/', secret_file: s}]}}
observability: {tracing: {otlp_endpoint: 'https://example.com/'}}
redis: {sentinel: {master_name: m, addresses: ['h:1'], tls: {}}, tls: {enabled: true}}
api: {listen: {authentication_secret_file: s}}
private_api: {listen: {authentication_secret_file: s}}
audit:
  sinks: [{file: {path: f}}, {syslog: {address: 'tls://h:1'}}, {http: {url: 'http://h/'}}]
  recording: {folder: f}
",
    "gitlab: {address: 'http://example.com/', authentication_secret_file: s}\n",
];

/// One `section!`.
struct Section {
    name: String,
    keys: Vec<Key>,
}

/// One of its keys.
struct Key {
    name: String,
    about: String,
    kind: Kind,
    default: Default,
}

/// What stands behind `=`.
#[derive(Debug, Clone)]
enum Default {
    /// Nothing: the key is required.
    Required,
    /// That it may be absent.
    None,
    /// This.
    Bool(bool),
    /// What the program tells.
    Told,
}

impl From<Option<Expr>> for Default {
    fn from(written: Option<Expr>) -> Self {
        match written {
            None => Self::Required,
            Some(Expr::Path(path)) if path.path.is_ident("None") => Self::None,
            Some(Expr::Lit(ExprLit {
                lit: Lit::Bool(value),
                ..
            })) => Self::Bool(value.value),
            Some(_) => Self::Told,
        }
    }
}

impl Parse for Section {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        input.call(Attribute::parse_outer)?;
        input.parse::<Visibility>()?;
        input.parse::<Token![struct]>()?;
        let name = input.parse::<Ident>()?.to_string();
        if input.parse::<Option<Token![:]>>()?.is_some() {
            input.parse::<Ident>()?;
        }
        let inside;
        braced!(inside in input);
        let mut keys = Vec::new();
        while !inside.is_empty() {
            let about = docs(&inside.call(Attribute::parse_outer)?);
            inside.parse::<Visibility>()?;
            let name = inside.parse::<Ident>()?.to_string();
            inside.parse::<Token![:]>()?;
            let kind = Kind::from(&inside.parse::<Type>()?);
            let default = match inside.parse::<Option<Token![=]>>()? {
                Some(_) => Some(inside.parse()?),
                None => None,
            };
            let default = default.into();
            inside.parse::<Option<Token![,]>>()?;
            keys.push(Key {
                name,
                about,
                kind,
                default,
            });
        }
        // `check = …;` and `or = …;`
        while !input.is_empty() {
            input.parse::<Ident>()?;
            input.parse::<Token![=]>()?;
            input.parse::<Ident>()?;
            input.parse::<Token![;]>()?;
        }
        Ok(Self { name, keys })
    }
}

/// Why keys have no effect, as `reasons!` has it.
struct Reasons(Vec<(String, String)>);

impl Parse for Reasons {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut reasons = Vec::new();
        while !input.is_empty() {
            let name = input.parse::<Ident>()?.to_string();
            input.parse::<Token![=]>()?;
            reasons.push((name, input.parse::<LitStr>()?.value()));
            input.parse::<Token![;]>()?;
        }
        Ok(Self(reasons))
    }
}

/// All that the source says of the file.
#[derive(Default)]
struct Known {
    sections: BTreeMap<String, Section>,
    words: BTreeMap<String, Vec<String>>,
    reasons: BTreeMap<String, String>,
    errors: Vec<String>,
}

impl<'ast> Visit<'ast> for Known {
    fn visit_macro(&mut self, call: &'ast Macro) {
        if call.path.is_ident("section") {
            match call.parse_body::<Section>() {
                Ok(section) => {
                    let name = section.name.clone();
                    if self.sections.insert(name.clone(), section).is_some() {
                        self.errors.push(format!("there are two sections {name}"));
                    }
                }
                Err(error) => self.errors.push(error.to_string()),
            }
        } else if call.path.is_ident("reasons") {
            match call.parse_body::<Reasons>() {
                Ok(Reasons(reasons)) => self.reasons.extend(reasons),
                Err(error) => self.errors.push(error.to_string()),
            }
        }
    }

    fn visit_item_enum(&mut self, item: &'ast ItemEnum) {
        let style = serde_value(&item.attrs, "rename_all");
        let plain = item.variants.iter().all(|it| it.fields.is_empty());
        if plain && (style.as_deref() == Some("snake_case") || renamed(item)) {
            let words = item.variants.iter().map(|it| {
                serde_value(&it.attrs, "rename").unwrap_or_else(|| snake(&it.ident.to_string()))
            });
            self.words.insert(item.ident.to_string(), words.collect());
        }
    }
}

fn renamed(item: &ItemEnum) -> bool {
    item.variants
        .iter()
        .all(|it| serde_value(&it.attrs, "rename").is_some())
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

/// A row of the reference.
struct Row {
    path: String,
    kind: String,
    default: String,
    about: String,
    no_effect: Option<String>,
}

impl Known {
    /// The rows of a section and of all below.
    fn rows(
        &self,
        section: &Section,
        path: &str,
        trees: &[Value],
        rows: &mut Vec<Row>,
    ) -> Result<()> {
        for key in &section.keys {
            let path = match path {
                "" => key.name.clone(),
                path => format!("{path}.{}", key.name),
            };
            let (name, is_list, no_effect) = self.inside(&key.kind, &path)?;
            let below = self.sections.get(&name);
            if let (Some(below), None) = (below, &no_effect) {
                let path = format!("{path}{}", if is_list { "[]" } else { "" });
                self.rows(below, &path, trees, rows)?;
                continue;
            }
            rows.push(Row {
                kind: self.kind(&name, is_list, &path)?,
                default: default(key, &path, trees),
                about: key.about.clone(),
                no_effect,
                path,
            });
        }
        Ok(())
    }

    /// The name of what a key holds, whether it is a list of that, and why it has no effect.
    fn inside(&self, kind: &Kind, path: &str) -> Result<(String, bool, Option<String>)> {
        let (mut kind, mut is_list, mut no_effect) = (kind, false, None);
        loop {
            match (&kind.name[..], &kind.of[..]) {
                ("Option", [below]) => kind = below,
                ("Vec", [below]) => (is_list, kind) = (true, below),
                ("NoEffect", [below, why]) => {
                    let reason = self.reasons.get(&why.name);
                    no_effect = Some(
                        reason
                            .with_context(|| format!("{path}: no reason {}", why.name))?
                            .clone(),
                    );
                    kind = below;
                }
                _ => return Ok((kind.name.clone(), is_list, no_effect)),
            }
        }
    }

    fn kind(&self, name: &str, is_list: bool, path: &str) -> Result<String> {
        let one = match name {
            "bool" => "`true` or `false`".to_owned(),
            "u32" | "SeriesLimit" => "number".to_owned(),
            "f64" | "Share" => "decimal number".to_owned(),
            "PathBuf" | "FilePath" => "file".to_owned(),
            "Seconds" | "PositiveSeconds" => "duration".to_owned(),
            "WebhookUrl" | "HttpUrl" => "URL".to_owned(),
            "PathPrefix" => "path".to_owned(),
            "ProxyNetwork" => "network".to_owned(),
            "Origin" => "origin".to_owned(),
            "ResponseHeader" => "header's name".to_owned(),
            "String" | "NonEmpty" | "Secret" | "SyslogAddress" => "text".to_owned(),
            "Workspaces" | "Anything" => "anything".to_owned(),
            name if self.sections.contains_key(name) => "section".to_owned(),
            name => match self.words.get(name) {
                Some(words) => words
                    .iter()
                    .map(|it| format!("`{it}`"))
                    .collect::<Vec<_>>()
                    .join(", "),
                None => bail!("{path}: what may stand for {name} is not known here"),
            },
        };
        Ok(match is_list {
            true => format!("list of {one}s"),
            false => one,
        })
    }
}

/// What a key is without being written: a literal of the source, else what the program says.
fn default(key: &Key, path: &str, trees: &[Value]) -> String {
    match key.default {
        Default::Required => return "required".to_owned(),
        Default::None => return String::new(),
        Default::Bool(value) => return format!("`{value}`"),
        Default::Told => {}
    }
    match trees.iter().find_map(|tree| at(tree, path)) {
        Some(value) => match value.as_str() {
            Some("") => String::new(),
            Some(text) => format!("`{text}`"),
            None => format!("`{value}`"),
        },
        None => String::new(),
    }
}

/// The value at a path; in a list, of the first item that has it.
fn at<'a>(tree: &'a Value, path: &str) -> Option<&'a Value> {
    let (first, rest) = match path.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    };
    let below = tree.get(first.trim_end_matches("[]"))?;
    let Some(rest) = rest else {
        return Some(below);
    };
    match below {
        Value::Array(items) => items.iter().find_map(|item| at(item, rest)),
        below => at(below, rest),
    }
}

/// The effective configuration of a file. Whether a server would start with it does not matter.
async fn effective(text: &str, folder: &Path) -> Result<Value> {
    let file: PathBuf = folder.join("kas.yaml");
    std::fs::write(&file, text)?;
    let mut command = Command::new(programs::kas()?);
    let output = command
        .arg("check-config")
        .arg(&file)
        .kill_on_drop(true)
        .output()
        .await?;
    let shown = String::from_utf8(output.stdout)?;
    ensure!(
        !shown.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_saphyr::from_str(&shown)?)
}

pub(super) async fn page() -> Result<String> {
    let mut known = Known::default();
    for file in source::files()? {
        let sections = file
            .syntax
            .items
            .iter()
            .filter(|item| !matches!(item, Item::Mod(_)));
        sections.for_each(|item| known.visit_item(item));
    }
    ensure!(known.errors.is_empty(), "{:#?}", known.errors);
    let folder = tempfile::tempdir()?;
    let mut trees = Vec::new();
    for text in FILES {
        trees.push(effective(text, folder.path()).await?);
    }
    let whole = known.sections.get(ROOT).context("the whole file")?;
    let mut page = head(
        "kas.yaml",
        "The configuration file of kas. Whatever is absent, `null`, an empty text or the number zero stands for the\n\
         default. Durations are seconds with an `s`: `300s`, `0.5s`. In a path, `[]` stands for each item of a list.\n\
         `kas check-config kas.yaml` prints what a file means, with every default, and `kas doctor kas.yaml` looks at all\n\
         that it names. What can change without a restart: [Reload](../production.md#reload).",
    );
    let mut all = Vec::new();
    for key in &whole.keys {
        let mut rows = Vec::new();
        let one = Section {
            name: String::new(),
            keys: vec![Key {
                name: key.name.clone(),
                about: key.about.clone(),
                kind: key.kind.clone(),
                default: key.default.clone(),
            }],
        };
        known.rows(&one, "", &trees, &mut rows)?;
        if rows.iter().all(|row| row.no_effect.is_some()) {
            all.extend(rows);
            continue;
        }
        // Writing to a string does not fail.
        let _ = write!(
            page,
            "\n## {}\n\n{}\n\n| key | value | default | |\n|---|---|---|---|\n",
            key.name, key.about
        );
        for row in rows {
            if row.no_effect.is_some() {
                all.push(row);
                continue;
            }
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} |",
                row.path,
                row.kind,
                row.default,
                cell(&row.about)
            );
        }
    }
    page += "\n## Keys without effect\n\nKeys of GitLab's kas that are read and do nothing here; `kas check-config` names those of a file.\n\n\
             | key | why |\n|---|---|\n";
    for row in all {
        let why = row.no_effect.unwrap_or_default();
        let _ = writeln!(page, "| `{}` | {} |", row.path, cell(&why));
    }
    Ok(page)
}
