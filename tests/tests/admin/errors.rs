//! The last errors of requests for a cluster, at any replica and on its page.

use anyhow::{Context, Result, ensure};
use tests::{
    browser, http as client,
    parts::{Part, skipped},
    wait::until,
};

use super::{LIMIT, Site};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_failed_are_told_with_their_reason_and_without_their_query() -> Result<()> {
    const NAME: &str = "requests_that_failed_are_told_with_their_reason_and_without_their_query";
    if skipped(NAME, &[Part::Redis]) {
        return Ok(());
    }
    let site = Site::start().await?;
    let never = async || {
        let why = site.ask(0, "/v1/agents/first/explain").await.ok()?;
        let refusal = why["refusal"].as_str()?.to_owned();
        refusal.contains("never connected").then_some(())
    };
    until("the agent to be known to be absent", LIMIT, never).await?;
    let none = site.ask(1, "/v1/agents/prod/errors").await?;
    ensure!(none["errors"] == serde_json::json!([]), "{none:#}");

    let url = format!(
        "http://127.0.0.1:{}/k8s-proxy/api/v1/pods?secret=x",
        site.replicas.members[0].users
    );
    let (bearer, stranger) = (site.bearer.replace("pat:2:", "pat:1:"), "pat:1:nobody");
    for _ in 0..3 {
        let refused = client::get(&url, &bearer).await?;
        ensure!(refused.status() == 503, "{refused:?}");
        let refused = client::get(&url, stranger).await?;
        ensure!(refused.status() == 401, "{refused:?}");
    }

    for number in [0, 1] {
        let told = async || {
            let told = site.ask(number, "/v1/agents/first/errors").await.ok()?;
            (told["errors"][0]["left_out"] == 2).then_some(told)
        };
        let told = until("the errors to be told", LIMIT, told).await;
        let told = told.with_context(|| site.tails())?;
        let [error] = &told["errors"].as_array().context("a list")?[..] else {
            anyhow::bail!("{told:#}");
        };
        ensure!(
            error["status"] == 503 && error["verb"] == "GET",
            "{error:#}"
        );
        ensure!(error["path"] == "/k8s-proxy/api/v1/pods", "{error:#}");
        ensure!(error["caller"] == "user:ana", "{error:#}");
        let reason = error["reason"].as_str().unwrap_or_default();
        ensure!(reason.contains("never connected"), "{error:#}");
        if skipped(NAME, &[Part::Chromium]) {
            continue;
        }
        let admin = site.replicas.members[number].admin;
        let page = format!("http://127.0.0.1:{admin}/#/clusters/first");
        let texts = [
            reason,
            "<code>/k8s-proxy/api/v1/pods</code>",
            "and 2 like it",
        ];
        let shown = browser::shows(&page, &texts, site.folder.path()).await;
        shown.with_context(|| site.tails())?;
    }
    Ok(())
}
