//! The report in a browser.

use anyhow::{Context, Result};
use tests::parts::{self, Part};
use tokio::process::Command;

use crate::place::{LIMIT, Place, SMALL, text};

/// What Chromium does with the report; gives what it printed.
async fn browse(place: &Place, what: &str) -> Result<(String, String)> {
    let mut browser = Command::new("chromium");
    browser
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ])
        .args(["--enable-logging=stderr", "--window-size=1400,4000", what])
        .arg(format!(
            "--user-data-dir={}",
            place.0.join("browser").display()
        ))
        .arg(format!(
            "file://{}",
            place.0.join("out/report.html").display()
        ))
        .kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, browser.output()).await;
    let output = output.context("chromium hangs")??;
    anyhow::ensure!(output.status.success(), "chromium: {}", text(&output));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((said(&output.stdout), said(&output.stderr)))
}

#[tokio::test]
async fn the_page_opens_in_a_browser_and_shows_its_plots() -> Result<()> {
    let test = "the_page_opens_in_a_browser_and_shows_its_plots";
    if parts::skipped(test, &[Part::Redis, Part::Chromium]) {
        return Ok(());
    }
    let place = Place::new("page")?;
    let output = place.run(SMALL).await?;
    assert!(output.status.success(), "{}", text(&output));
    let screenshot = place.0.join("page.png");

    let (dom, complaints) = browse(&place, "--dump-dom").await?;
    let shot = format!("--screenshot={}", screenshot.display());
    let (_, more) = browse(&place, &shot).await?;

    for console in [&complaints, &more] {
        assert!(!console.contains("CONSOLE"), "{console}");
    }
    assert!(dom.matches("<svg").count() >= 10, "{dom}");
    assert!(dom.contains("Latency of short requests"), "{dom}");
    // An empty page of this size is a tenth of that.
    assert!(std::fs::metadata(&screenshot)?.len() > 100_000);
    Ok(())
}
