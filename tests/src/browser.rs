//! A browser without a screen.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::{process::Command, time::Instant};

const LIMIT: Duration = Duration::from_secs(60);
/// Of the browser's own time, what a page may take to ask for all that it shows.
const BUDGET: &str = "--virtual-time-budget=4000";

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

/// Opens a page until it shows these texts, and gives its elements: on a busy machine Chromium ends before a page has
/// loaded its scripts. In the end the page must complain of nothing.
///
/// # Errors
/// When Chromium hangs or fails, when the page complains, or when a text is not there in time: the error has the page.
pub async fn shows(url: &str, texts: &[&str], folder: &Path) -> Result<String> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let looked = look(url, texts, folder).await;
        if looked.is_ok() || Instant::now() >= deadline {
            return looked;
        }
    }
}

async fn look(url: &str, texts: &[&str], folder: &Path) -> Result<String> {
    let seen = open(url, &["--dump-dom", BUDGET], folder).await?;
    ensure!(!seen.log.contains("CONSOLE"), "{}", seen.log);
    for text in texts {
        ensure!(
            seen.printed.contains(text),
            "{url} does not show {text}: {}",
            seen.printed
        );
    }
    Ok(seen.printed)
}
