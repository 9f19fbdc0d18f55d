//! The page in a browser, and what of it is there for whoever has no token.

use anyhow::{Context, Result, ensure};
use tests::{
    browser,
    chaos::Mode,
    parts::{Part, skipped},
};

use super::{Site, TOKEN, get, kas};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_in_a_browser_what_is_connected() -> Result<()> {
    const NAME: &str = "the_page_shows_in_a_browser_what_is_connected";
    if skipped(NAME, &[Part::Redis, Part::Chromium]) {
        return Ok(());
    }
    let site = Site::start().await?;
    // The replica that does not hold the agent tells of it too.
    let page = format!("http://127.0.0.1:{}/", site.replicas.members[1].admin);
    let shows = async |view: &str, texts: &[&str]| {
        browser::shows(&format!("{page}{view}"), texts, site.folder.path()).await
    };

    let fleet = [
        "1 of 2 clusters connected",
        "<a href=\"#/clusters/2\">prod</a>",
    ];
    shows("", &fleet).await?;
    let cluster = ["Connections: 1 pod", "Who may use it, and as whom"];
    shows("#/clusters/prod", &cluster).await?;
    shows("#/access", &["user ana may use prod as agent: why?"]).await?;
    shows("#/replicas", &["answers this page", "serving", "available"]).await?;

    // Who is connected is known all the same when a replica does not tell what it alone knows.
    site.replicas.members[0].from_peers.set(Mode::BlackHole);
    let without_a_replica = [
        "1 of 2 clusters connected",
        "Not all of this is known: 1 of 2 replicas did not answer",
    ];
    shows("", &without_a_replica).await?;
    site.replicas.members[1].to_redis.set(Mode::BlackHole);
    let alone = [
        "The routing store does not answer: 0 clusters are connected to this replica",
        "knows by itself",
        "not connected to this replica",
    ];
    shows("", &alone).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_loaded_before_a_token_is_given_and_tells_nothing_without_one() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, format!("ana {TOKEN}\n"))?;
    let keys = format!("tokens_file: {}", tokens.display());
    let (kas, port) = kas(&keys, folder.path()).await?;

    let page = get(port, "/").await.with_context(|| kas.process.tail())?;
    ensure!(page.status() == 200, "{page:?}");
    let policy = page.headers().get("content-security-policy");
    let policy = policy.context("a policy")?.to_str()?;
    ensure!(policy.contains("frame-ancestors 'none'"), "{policy}");
    ensure!(!policy.contains("unsafe"), "{policy}");
    ensure!(get(port, "/main.js").await?.status() == 200);
    for path in ["/v1/status", "/v1/agents", "/openapi.json", "/nothing"] {
        ensure!(get(port, path).await?.status() == 401, "{path}");
    }
    Ok(())
}
