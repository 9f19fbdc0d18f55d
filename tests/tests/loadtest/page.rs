//! The report in a browser.

use anyhow::Result;
use tests::{
    browser::{self, Seen},
    parts::{self, Part},
};

use crate::place::{Place, SMALL, text};

/// What Chromium makes of the report.
async fn browse(place: &Place, what: &str) -> Result<Seen> {
    let url = format!("file://{}", place.0.join("out/report.html").display());
    browser::open(&url, &["--window-size=1400,4000", what], &place.0).await
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

    let page = browse(&place, "--dump-dom").await?;
    let shot = format!("--screenshot={}", screenshot.display());
    let shown = browse(&place, &shot).await?;

    for log in [&page.log, &shown.log] {
        assert!(!log.contains("CONSOLE"), "{log}");
    }
    let dom = page.printed;
    assert!(dom.matches("<svg").count() >= 10, "{dom}");
    assert!(dom.contains("Latency of short requests"), "{dom}");
    // An empty page of this size is a tenth of that.
    assert!(std::fs::metadata(&screenshot)?.len() > 100_000);
    Ok(())
}
