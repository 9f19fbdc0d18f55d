//! A cluster that is connected and does not answer is degraded, at every replica and wherever operators look.

use anyhow::{Context, Result, ensure};
use tests::{
    http as client,
    parts::{Part, skipped},
    stub_api::StubApi,
};

use super::{Site, holds};

/// Requests that fail; five make a problem.
const FAILING: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_connected_and_does_not_answer_is_degraded() -> Result<()> {
    const NAME: &str = "a_cluster_that_is_connected_and_does_not_answer_is_degraded";
    if skipped(NAME, &[Part::Redis]) {
        return Ok(());
    }
    let mut site = Site::start().await?;
    let member = &site.replicas.members[1];
    let url = format!("http://127.0.0.1:{}/k8s-proxy/version", member.users);
    let metrics = format!("http://127.0.0.1:{}/metrics", member.observability);
    let answer = client::get(&url, &site.bearer).await?;
    ensure!(answer.status().is_success(), "{answer:?}");
    for number in [0, 1] {
        let healthy = async || {
            let told = site.ask(number, "/v1/agents/prod").await?;
            ensure!(told["agent"]["health"] == "healthy", "{told:#}");
            anyhow::Ok(())
        };
        holds(healthy).await.with_context(|| site.tails())?;
    }

    // The API server ends; the agent stays.
    drop(std::mem::replace(&mut site.stub, StubApi::start().await?));
    for _ in 0..FAILING {
        let answer = client::get(&url, &site.bearer).await?;
        let status = answer.status().as_u16();
        ensure!(matches!(status, 502..=504), "{answer:?}");
    }

    let problem =
        "6 of 7 requests at one replica were not answered by its cluster in the last 5 minutes";
    for number in [0, 1] {
        let degraded = async || {
            let list = site.ask(number, "/v1/agents?state=degraded").await?;
            ensure!(list["total"] == 1, "{list:#}");
            let agent = &list["agents"][0];
            ensure!(agent["name"] == "prod" && agent["state"] == "connected");
            ensure!(
                agent["problems"] == serde_json::json!([problem]),
                "{agent:#}"
            );
            let status = site.ask(number, "/v1/status").await?;
            ensure!(status["agents_degraded"] == 1, "{status:#}");
            ensure!(status["degraded"][0]["name"] == "prod", "{status:#}");
            let why = site.ask(number, "/v1/agents/prod/explain").await?;
            ensure!(why["problems"][0] == problem, "{why:#}");
            anyhow::Ok(())
        };
        holds(degraded).await.with_context(|| site.tails())?;
    }
    let list = site.cli(&["agent", "list"]).await?;
    ensure!(list.contains("connected (degraded)"), "{list}");
    for command in [&["agent", "show", "prod"][..], &["explain", "prod"]] {
        let told = site.cli(command).await?;
        ensure!(told.contains(problem), "{told}");
    }

    let told = client::get(&metrics, "").await?;
    let told = String::from_utf8_lossy(told.body()).into_owned();
    let labels = "{agent_id=\"2\",agent_name=\"prod\"}";
    for (name, count) in [("requests", 7), ("requests_failed", 6)] {
        let line = format!("k8s_api_proxy_agent_{name}_total{labels} {count}\n");
        ensure!(told.contains(&line), "{told}");
    }
    let seconds = format!("k8s_api_proxy_agent_request_seconds_total{labels} ");
    ensure!(told.contains(&seconds), "{told}");
    let others =
        "k8s_api_proxy_agent_requests_total{agent_id=\"other\",agent_name=\"all others\"} 0\n";
    ensure!(told.contains(others), "{told}");
    Ok(())
}
