//! The reference in `docs/reference` says what the code says.
//!
//! What the programs print is asked of them; what they have no words for is read from their source. `make reference`
//! writes the files anew.

mod agents_file;
mod audit_fields;
mod command_line;
mod configuration;
mod logs;
mod metrics;
mod source;

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Compares a file with what the code makes, or writes it where `UPDATE_REFERENCE` is set.
fn compare(name: &str, made: &str) -> Result<()> {
    let file = root().join("docs/reference").join(name);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        return std::fs::write(&file, made).with_context(|| file.display().to_string());
    }
    let kept = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let differs = kept.lines().zip(made.lines()).position(|(a, b)| a != b);
    let line = differs.unwrap_or_else(|| kept.lines().count().min(made.lines().count()));
    let at = |text: &str| text.lines().nth(line).unwrap_or("(nothing)").to_owned();
    ensure!(
        kept == made,
        "docs/reference/{name} is older than the code: run `make reference` and commit what it writes\n\
         line {}: the file has `{}`, the code makes `{}`",
        line + 1,
        at(&kept),
        at(made)
    );
    Ok(())
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The beginning of each file.
fn head(title: &str, about: &str) -> String {
    format!(
        "<!-- Written by `make reference` from the code; a change here is lost. -->\n\n# {title}\n\n{about}\n"
    )
}

/// A text for a cell of a table.
fn cell(text: &str) -> String {
    let mut shown = String::new();
    for (number, part) in text.split('`').enumerate() {
        if number > 0 {
            shown.push('`');
        }
        let part = part.replace('|', "\\|");
        // What is between back quotes is shown as it is.
        shown += &match number % 2 {
            0 => part.replace('<', "&lt;").replace('*', "\\*"),
            _ => part,
        };
    }
    shown
}

#[tokio::test]
async fn the_command_line_is_as_the_programs_print_it() -> Result<()> {
    for program in ["kas", "agentk", "loadtest"] {
        let made = command_line::page(program).await?;
        compare(&format!("{program}.md"), &made)?;
    }
    Ok(())
}

#[tokio::test]
async fn the_keys_of_kas_yaml_are_those_of_its_sections() -> Result<()> {
    compare("configuration.md", &configuration::page().await?)
}

#[test]
fn the_keys_of_the_agents_file_are_those_of_its_schema() -> Result<()> {
    compare("agents-file.md", &agents_file::page()?)
}

#[test]
fn metrics_are_those_that_are_registered() -> Result<()> {
    compare("metrics.md", &metrics::page()?)
}

#[test]
fn log_lines_are_those_of_the_code() -> Result<()> {
    compare("logs.md", &logs::page()?)
}

#[test]
fn the_audit_trails_document_has_each_field_and_no_other() -> Result<()> {
    audit_fields::check()
}
