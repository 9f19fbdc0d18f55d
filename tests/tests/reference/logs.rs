//! The lines that operators may see in the log: ERROR, WARN and INFO, with their fields.

use std::{collections::BTreeMap, fmt::Write};

use anyhow::Result;
use syn::{
    Expr, Ident, LitStr, Macro, Token,
    ext::IdentExt as _,
    parse::{Parse, ParseStream},
    visit::Visit,
};

use super::{cell, head, source};

const LEVELS: [&str; 3] = ["error", "warn", "info"];

/// What a macro of tracing is given.
#[derive(Default)]
struct Line {
    text: String,
    fields: Vec<String>,
}

impl Parse for Line {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut line = Self::default();
        while !input.is_empty() {
            if input.peek(LitStr) {
                line.text = input.parse::<LitStr>()?.value();
                // What follows are values for the text, of which there are none by the house's rules.
                break;
            }
            line.field(input)?;
            if input.parse::<Option<Token![,]>>()?.is_none() {
                break;
            }
        }
        // Whatever is left says nothing more.
        input.step(|cursor| {
            let mut rest = *cursor;
            while let Some((_, next)) = rest.token_tree() {
                rest = next;
            }
            Ok(((), rest))
        })?;
        Ok(line)
    }
}

impl Line {
    fn field(&mut self, input: ParseStream<'_>) -> syn::Result<()> {
        sigil(input)?;
        let mut name = word(input)?;
        while input.parse::<Option<Token![.]>>()?.is_some() {
            name = format!("{name}.{}", word(input)?);
        }
        // `target:` and `parent:` are no fields.
        if input.parse::<Option<Token![:]>>()?.is_some() {
            input.parse::<Expr>()?;
            return Ok(());
        }
        if input.parse::<Option<Token![=]>>()?.is_some() {
            sigil(input)?;
            input.parse::<Expr>()?;
        }
        self.fields.push(name);
        Ok(())
    }
}

/// Takes the `%` or `?` before a value.
fn sigil(input: ParseStream<'_>) -> syn::Result<()> {
    input.parse::<Option<Token![%]>>()?;
    input.parse::<Option<Token![?]>>()?;
    Ok(())
}

/// Reads any word, those of the language too.
fn word(input: ParseStream<'_>) -> syn::Result<String> {
    Ok(input.call(Ident::parse_any)?.to_string())
}

/// Lines by program, level and text, with their fields.
#[derive(Default)]
struct Lines {
    program: &'static str,
    found: BTreeMap<(&'static str, usize, String), Vec<String>>,
    errors: Vec<String>,
}

impl<'ast> Visit<'ast> for Lines {
    fn visit_macro(&mut self, call: &'ast Macro) {
        let names: Vec<_> = call
            .path
            .segments
            .iter()
            .map(|it| it.ident.to_string())
            .collect();
        let [first, level] = &names[..] else {
            return;
        };
        let Some(level) = LEVELS
            .iter()
            .position(|it| it == level)
            .filter(|_| first == "tracing")
        else {
            return;
        };
        match call.parse_body::<Line>() {
            // A text that is made elsewhere.
            Ok(line) if !line.text.contains(char::is_alphabetic) => {}
            Ok(line) => {
                let fields = self.found.entry((self.program, level, line.text));
                let fields = fields.or_default();
                for field in line.fields {
                    if !fields.contains(&field) {
                        fields.push(field);
                    }
                }
            }
            Err(error) => self.errors.push(error.to_string()),
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if module.ident != "tests" {
            syn::visit::visit_item_mod(self, module);
        }
    }
}

pub(super) fn page() -> Result<String> {
    let mut lines = Lines::default();
    for file in source::files()? {
        lines.program = match file.path.starts_with("agentk") {
            true => "agentk",
            false => "kas",
        };
        lines.visit_file(&file.syntax);
    }
    anyhow::ensure!(lines.errors.is_empty(), "{:#?}", lines.errors);

    let mut page = head(
        "Log lines",
        "Every text that is logged at the levels `error` (look now), `warn` (look tomorrow) and `info` (something has\n\
         changed), with its fields. The text of a line is always the same; what varies is in fields. Each line also has\n\
         those of the request or connection that it belongs to (`request_id`, `agent.id`, `agent.name`, `remote_addr`),\n\
         and `time` or `timestamp`, `level`, and `msg` or `message`, as\n\
         [`observability.logging.format`](../production.md#logs-and-gitlabs-metrics) says. In GitLab's format fields have\n\
         `_` for `.`. Lines of what both programs share are listed under `kas`.",
    );
    let mut before = None;
    for ((program, level, text), fields) in &lines.found {
        if before != Some((program, level)) {
            // Writing to a string does not fail.
            let _ = write!(
                page,
                "\n## {program}: {}\n\n| text | fields |\n|---|---|\n",
                LEVELS[*level]
            );
            before = Some((program, level));
        }
        let fields: Vec<_> = fields.iter().map(|it| format!("`{it}`")).collect();
        let _ = writeln!(page, "| {} | {} |", cell(text), fields.join(", "));
    }
    Ok(page)
}
