//! How what a server tells is printed.

use admin::v1::Coverage;
use clap::ValueEnum;
use runtime::yaml;
use serde::Serialize;

use crate::cli::{CommandError, Output, output::Format};

/// How what a server tells is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum View {
    /// Aligned columns
    #[default]
    Table,
    /// More columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// Names only, one a line
    Name,
}

/// What people read, where an answer is not printed as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    /// A table
    Table,
    /// A table with more columns
    Wide,
    /// Names only, one a line
    Names,
}

impl View {
    /// The nearest of what files are printed in.
    pub(in crate::cli) fn of_file(self) -> Format {
        match self {
            Self::Json | Self::Yaml => Format::Json,
            Self::Table | Self::Wide | Self::Name => Format::Table,
        }
    }
}

impl Output<'_> {
    /// Prints an answer as JSON or YAML, or by `text` for people.
    pub(super) fn told(
        &mut self,
        view: View,
        told: &impl Serialize,
        text: impl FnOnce(&mut Self, Text) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        match view {
            View::Json => self.json(told),
            View::Yaml => self.yaml(told),
            View::Table => text(self, Text::Table),
            View::Wide => text(self, Text::Wide),
            View::Name => text(self, Text::Names),
        }
    }

    /// Prints one name a line.
    pub(super) fn names<'a>(
        &mut self,
        names: impl Iterator<Item = &'a String>,
    ) -> Result<(), CommandError> {
        let lines: Vec<&str> = names.map(String::as_str).collect();
        if lines.is_empty() {
            return Ok(());
        }
        self.result(&lines.join("\n"))
    }

    /// Says what an answer does not cover.
    pub(super) fn covered(&mut self, coverage: Option<&Coverage>) -> Result<(), CommandError> {
        match coverage {
            Some(Coverage {
                complete: false,
                problem,
                ..
            }) => self.hint(&format!("This is not complete: {problem}.")),
            _ => Ok(()),
        }
    }

    fn yaml(&mut self, value: &impl Serialize) -> Result<(), CommandError> {
        let value =
            serde_json::to_value(value).map_err(|error| CommandError::Output(error.into()))?;
        self.result(&yaml::write(&value))
    }
}
