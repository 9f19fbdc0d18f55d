//! A terminal of a test's own, with a program at it.

use std::{num::NonZero, path::Path, time::Duration};

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::{process::Process, wait::until};

/// How long may pass until something is to be seen.
const SOON: Duration = Duration::from_secs(60);

/// A running terminal; dropping it hangs up.
#[derive(Debug)]
pub struct Terminal {
    process: Process,
    size: [NonZero<u16>; 2],
}

impl Terminal {
    /// Starts a shell's script at a terminal of this size.
    ///
    /// # Errors
    /// When `script`, which makes terminals, cannot be started.
    pub fn start(script: &str, size: [u16; 2], folder: &Path) -> Result<Self> {
        let [rows, columns] = size.map(|it| NonZero::new(it).unwrap_or(NonZero::<u16>::MIN));
        let script = format!("stty rows {rows} columns {columns}; {script}");
        let mut command = Command::new("script");
        command.args(["-qefc", &script, "/dev/null"]);
        command
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh");
        let name = format!("terminal-{rows}-{columns}");
        Ok(Self {
            process: Process::spawn(&name, &mut command, folder)?,
            size: [rows, columns],
        })
    }

    /// What it shows now.
    #[must_use]
    pub fn screen(&self) -> vt100::Parser {
        let [rows, columns] = self.size;
        let mut parser = vt100::Parser::new(rows, columns, 0);
        parser.process(self.process.bytes().as_slice());
        parser
    }

    /// Its lines.
    #[must_use]
    pub fn text(&self) -> String {
        self.screen().screen().contents()
    }

    /// Waits until a text is to be seen.
    ///
    /// # Errors
    /// When it does not come; the error says what is there.
    pub async fn shows(&self, text: &str) -> Result<String> {
        self.shows_all(&[text]).await
    }

    /// Waits until these texts are to be seen together: a program's screen may be read while it is being written.
    ///
    /// # Errors
    /// When they do not come; the error says what is there.
    pub async fn shows_all(&self, texts: &[&str]) -> Result<String> {
        let what = format!("{texts:?} on the terminal");
        let all = |seen: &str| texts.iter().all(|text| seen.contains(text));
        self.shows_what(&what, |seen| all(seen).then(|| seen.to_owned()))
            .await
    }

    /// Waits until something is found in what is to be seen.
    ///
    /// # Errors
    /// When it does not come; the error says what is there.
    pub async fn shows_what<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> Result<T> {
        let seen = until(what, SOON, async || find(&self.text())).await;
        seen.with_context(|| self.text())
    }

    /// Presses keys.
    ///
    /// # Errors
    /// When nobody reads them any more.
    pub async fn press(&mut self, keys: &str) -> Result<()> {
        self.process.write(keys).await
    }
}
