//! A browser without a screen.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(60);

/// What Chromium makes of a page.
#[derive(Debug)]
pub struct Seen {
    /// What it printed: with `--dump-dom` the elements of the page.
    pub printed: String,
    /// Its log. What a page complains of has `CONSOLE` in it.
    pub log: String,
}

/// Opens a page with these options, and a profile in `folder`.
///
/// # Errors
/// When Chromium hangs or fails.
pub async fn open(url: &str, options: &[&str], folder: &Path) -> Result<Seen> {
    let mut browser = Command::new("chromium");
    browser
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
        ])
        .args(options)
        .arg(format!(
            "--user-data-dir={}",
            folder.join("browser").display()
        ))
        .arg(url)
        .kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, browser.output()).await;
    let output = output.context("chromium hangs")??;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let seen = Seen {
        printed: said(&output.stdout),
        log: said(&output.stderr),
    };
    ensure!(output.status.success(), "chromium: {}", seen.log);
    Ok(seen)
}
