//! Metrics, as they are registered: name, type, labels and help.
//!
//! That a running server tells the same is looked at in `tests/tests/monitoring`.

use std::{collections::BTreeMap, fmt::Write};

use anyhow::{Context, Result};
use syn::{
    Expr, ExprForLoop, ExprMethodCall, ExprTuple, ImplItemFn, Item, ItemFn, ItemStruct, ItemType,
    Local, Pat, ReturnType, Type, visit::Visit,
};

use super::{
    cell, head,
    source::{self, Kind, literal},
};

/// What all of agentk's own metrics begin with.
const AGENTK: &str = "agentk_";

/// A metric.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Metric {
    name: String,
    kind: &'static str,
    labels: Vec<String>,
    help: String,
}

/// The types of a file, and the metrics that it registers.
#[derive(Default)]
struct Registered {
    fields: BTreeMap<String, Kind>,
    aliases: BTreeMap<String, Kind>,
    labels: BTreeMap<String, Vec<String>>,
    texts: BTreeMap<String, String>,
    locals: BTreeMap<String, Kind>,
    /// What functions give.
    returns: BTreeMap<String, Kind>,
    kinds: BTreeMap<String, &'static str>,
    found: Vec<Found>,
}

/// A metric whose type is not read yet.
struct Found {
    name: String,
    help: String,
    kind: Option<Kind>,
    told: Option<&'static str>,
    /// Labels that are written out where it is told.
    labels: Vec<String>,
}

impl Found {
    fn told(name: String, help: String, kind: Option<&'static str>) -> Self {
        Self {
            name,
            help,
            kind: None,
            told: kind,
            labels: Vec::new(),
        }
    }
}

/// The kind that `MetricType::…` names.
fn kind_of(expression: &Expr) -> Option<&'static str> {
    let Expr::Path(path) = expression else {
        return None;
    };
    let names: Vec<_> = path
        .path
        .segments
        .iter()
        .rev()
        .map(|it| it.ident.to_string())
        .collect();
    match &names[..] {
        [kind, of, ..] if of == "MetricType" => match &kind[..] {
            "Counter" => Some("counter"),
            "Gauge" => Some("gauge"),
            _ => None,
        },
        _ => None,
    }
}

impl Registered {
    fn text(&self, expression: &Expr) -> Option<String> {
        match expression {
            Expr::Path(path) => self.texts.get(&path.path.get_ident()?.to_string()).cloned(),
            other => literal(other),
        }
    }

    /// The type of what is registered.
    fn kind(&self, expression: &Expr) -> Option<Kind> {
        match expression {
            Expr::MethodCall(call) if call.method == "clone" => self.kind(&call.receiver),
            Expr::Reference(it) => self.kind(&it.expr),
            Expr::Field(field) => match &field.member {
                syn::Member::Named(name) => self.fields.get(&name.to_string()).cloned(),
                syn::Member::Unnamed(number) => self.fields.get(&number.index.to_string()).cloned(),
            },
            // `module::function()`, which is looked for in the file of the module.
            Expr::Call(call) => match &*call.func {
                Expr::Path(path) => {
                    let names = path.path.segments.iter().map(|it| it.ident.to_string());
                    let name = names.collect::<Vec<_>>().join("::");
                    Some(Kind {
                        name,
                        of: Vec::new(),
                    })
                }
                _ => None,
            },
            Expr::Path(path) => self
                .locals
                .get(&path.path.get_ident()?.to_string())
                .cloned(),
            _ => None,
        }
    }

    /// The kind of a type, and its labels.
    fn read(&self, kind: &Kind) -> Option<(&'static str, Vec<String>)> {
        match &kind.name[..] {
            "Family" => {
                let labels = self.labels.get(&kind.of.first()?.name);
                let labels = labels.cloned().unwrap_or_default();
                Some((self.read(kind.of.get(1)?)?.0, labels))
            }
            "Counter" => Some(("counter", Vec::new())),
            "Gauge" => Some(("gauge", Vec::new())),
            "Histogram" | "HistogramWithExemplars" => Some(("histogram", Vec::new())),
            alias => self.read(self.aliases.get(alias)?),
        }
    }
}

impl<'ast> Visit<'ast> for Registered {
    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        let named = item.fields.iter().enumerate().map(|(number, field)| {
            let name = field.ident.as_ref();
            let name = name.map_or_else(|| number.to_string(), ToString::to_string);
            (name, Kind::from(&field.ty))
        });
        let named: Vec<_> = named.collect();
        self.labels.insert(
            item.ident.to_string(),
            named.iter().map(|(name, _)| name.clone()).collect(),
        );
        for (name, kind) in named {
            // Where two types of a file have such a field, the family is what is registered, the other one of it.
            let is_family = kind.name == "Family";
            if is_family || !self.fields.contains_key(&name) {
                self.fields.insert(name, kind);
            }
        }
    }

    fn visit_item_type(&mut self, item: &'ast ItemType) {
        self.aliases
            .insert(item.ident.to_string(), Kind::from(&*item.ty));
    }

    fn visit_item_mod(&mut self, _: &'ast syn::ItemMod) {
        // Tests.
    }

    fn visit_local(&mut self, local: &'ast Local) {
        if let Some(init) = &local.init {
            self.remember(&local.pat, &init.expr);
        }
        syn::visit::visit_local(self, local);
    }

    fn visit_expr_for_loop(&mut self, it: &'ast ExprForLoop) {
        // What its variables stand for is in the list that it goes through.
        if let Pat::Tuple(names) = &*it.pat {
            for name in &names.elems {
                if let Pat::Ident(name) = name {
                    self.texts.remove(&name.ident.to_string());
                }
            }
        }
        syn::visit::visit_expr_for_loop(self, it);
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        let arguments: Vec<_> = call.args.iter().collect();
        match (&call.method.to_string()[..], &arguments[..]) {
            ("register", [name, help, metric]) => {
                if let (Some(name), Some(help)) = (literal(name), self.text(help)) {
                    let kind = self.kind(metric);
                    self.found.push(Found {
                        name,
                        help,
                        kind,
                        told: None,
                        labels: Vec::new(),
                    });
                } else if let (Some(name), Some(help)) = (literal(help), self.text(metric)) {
                    // What another part counts: `parts.register(registry, name, help)`.
                    let kind = self.kind(&call.receiver);
                    self.found.push(Found {
                        name,
                        help,
                        kind,
                        told: None,
                        labels: Vec::new(),
                    });
                }
            }
            ("encode_descriptor", [name, help, _, kind]) => {
                let told = kind_of(kind).or_else(|| match kind {
                    Expr::Path(path) => {
                        self.kinds.get(&path.path.get_ident()?.to_string()).copied()
                    }
                    _ => None,
                });
                if let (Some(name), Some(help)) = (self.text(name), self.text(help)) {
                    self.found.push(Found::told(name, help, told));
                }
            }
            _ => {}
        }
        syn::visit::visit_expr_method_call(self, call);
        // `family.encode(encoder.encode_descriptor(…)?)`: what was just found is that family.
        if call.method == "encode" {
            let kind = self.kind(&call.receiver);
            if let Some(found) = self.found.last_mut().filter(|it| it.kind.is_none()) {
                found.kind = kind.filter(|kind| kind.name == "Family");
            }
        }
    }

    fn visit_expr_tuple(&mut self, tuple: &'ast ExprTuple) {
        let items: Vec<_> = tuple.elems.iter().collect();
        if let ([name, value], Some(found)) = (&items[..], self.found.last_mut())
            && let (Some(name), None) = (literal(name), literal(value))
        {
            found.labels.push(name);
        }
        // One of a list of gauges, with its value.
        if let [name, help, _] = &items[..]
            && let (Some(name), Some(help)) = (literal(name), literal(help))
        {
            self.found.push(Found::told(name, help, Some("gauge")));
        }
        syn::visit::visit_expr_tuple(self, tuple);
    }

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        if let ReturnType::Type(_, kind) = &function.sig.output {
            let kind = match &**kind {
                Type::Reference(it) => Kind::from(&*it.elem),
                kind => Kind::from(kind),
            };
            self.returns.insert(function.sig.ident.to_string(), kind);
        }
        self.texts.clear();
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.texts.clear();
        syn::visit::visit_impl_item_fn(self, function);
    }
}

impl Registered {
    /// What a variable stands for, or two at once.
    fn remember(&mut self, pattern: &Pat, value: &Expr) {
        match (pattern, value) {
            (Pat::Tuple(names), Expr::Tuple(values)) => {
                for (name, value) in names.elems.iter().zip(&values.elems) {
                    self.remember(name, value);
                }
            }
            (Pat::Ident(name), value) => {
                let name = name.ident.to_string();
                if let Some(text) = literal(value) {
                    self.texts.insert(name, text);
                } else if let Some(kind) = kind_of(value) {
                    self.kinds.insert(name, kind);
                } else if let Expr::Call(call) = value
                    && let Expr::Path(path) = &*call.func
                {
                    // `Family::<Labels, Gauge>::default()`
                    let kind = path.path.segments.iter().rev().nth(1);
                    self.locals
                        .extend(kind.map(|kind| (name, Kind::from(kind))));
                }
            }
            _ => {}
        }
    }
}

/// Names that are registered by means of a part of another file, with its type's labels.
const COUNTED_ELSEWHERE: [(&str, &str); 1] = [("CallCounter", "call_metrics.rs")];

pub(super) fn page() -> Result<String> {
    let mut read = Vec::new();
    for file in source::files()? {
        let mut registered = Registered::default();
        // Types first: they may stand below what uses them.
        let (types, others): (Vec<_>, Vec<_>) = file
            .syntax
            .items
            .iter()
            .partition(|item| matches!(item, Item::Struct(_) | Item::Type(_)));
        types.iter().for_each(|item| registered.visit_item(item));
        others.iter().for_each(|item| registered.visit_item(item));
        read.push((file.path, registered));
    }
    let mut metrics: BTreeMap<&str, Vec<Metric>> = BTreeMap::new();
    for (path, registered) in &read {
        let (program, prefix) = match path.starts_with("agentk") {
            true => ("agentk", AGENTK),
            false => ("kas", ""),
        };
        for found in &registered.found {
            let (kind, labels) = match (found.told, &found.kind) {
                (Some(told), None) => (told, found.labels.clone()),
                (Some(told), Some(kind)) => (told, registered.read(kind).unwrap_or_default().1),
                (None, Some(kind)) => registered
                    .read(kind)
                    .or_else(|| elsewhere(kind, &read))
                    .with_context(|| format!("{}: the type of {}", path.display(), found.name))?,
                (None, None) => anyhow::bail!("{}: {} has no type", path.display(), found.name),
            };
            let ending = if kind == "counter" { "_total" } else { "" };
            metrics.entry(program).or_default().push(Metric {
                name: format!("{prefix}{}{ending}", found.name),
                kind,
                labels,
                help: found.help.clone(),
            });
        }
    }
    let mut page = head(
        "Metrics",
        "What `/metrics` of the port 8151 of kas, and of 8080 of agentk, has. Metrics of which there is nothing to tell yet\n\
         are left out until there is. agentk also has those that are listed under `kas` as `process_*`,\n\
         `config_last_reload_*`, `tls_certificate_*` and `trace_spans_*`. Alerts and a dashboard over them are in the chart:\n\
         [Watch it](../production.md#watch-it), [Troubleshooting](../runbook.md).",
    );
    for program in ["kas", "agentk"] {
        let mut metrics = metrics.remove(program).context("there are metrics")?;
        metrics.sort();
        // Writing to a string does not fail.
        let _ = write!(
            page,
            "\n## {program}\n\n| metric | type | labels | |\n|---|---|---|---|\n"
        );
        for Metric {
            name,
            kind,
            labels,
            help,
        } in metrics
        {
            let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
            let _ = writeln!(
                page,
                "| `{name}` | {kind} | {} | {} |",
                labels.join(", "),
                cell(&help)
            );
        }
    }
    Ok(page)
}

/// What is counted by a part of another file.
fn elsewhere(
    kind: &Kind,
    read: &[(std::path::PathBuf, Registered)],
) -> Option<(&'static str, Vec<String>)> {
    if let Some((module, function)) = kind.name.rsplit_once("::") {
        let file = format!("{module}.rs");
        let (_, there) = read.iter().find(|(path, _)| path.ends_with(&file))?;
        return there.read(there.returns.get(function)?);
    }
    let (_, file) = COUNTED_ELSEWHERE
        .iter()
        .find(|(known, _)| *known == kind.name)?;
    let (_, there) = read.iter().find(|(path, _)| path.ends_with(file))?;
    there.read(there.fields.get("0")?)
}
