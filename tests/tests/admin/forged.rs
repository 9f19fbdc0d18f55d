//! Whoever writes into Redis and does not know the private API's secret makes no agent look connected, refused or seen.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    parts::{Part, skipped},
    wait::until,
};

use super::{LIMIT, Site, holds};

const PREFIX: &str = "gitlab-kas:kas2";
/// A process that was never there.
const PROCESS: &str =
    r#"[{"id":77,"at":"2026-01-01T00:00:00Z","version":"v9.9.9","pod":"planted"}]"#;
/// Something that never happened.
const RECORD: &str =
    r#"{"at":4102444800000,"event":"refused","reason":"planted","replica":"planted"}"#;

/// Redis, for somebody who may write into it.
struct Writer {
    port: String,
}

impl Writer {
    async fn run(&self, args: &[&str]) -> Result<String> {
        let all = [&["-p", &self.port], args].concat();
        let output = tokio::process::Command::new("redis-cli")
            .args(&all)
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        ensure!(output.status.success(), "{all:?}: {said}");
        Ok(said)
    }

    /// Plants entries for agent 1 that say what true ones of agent 2 do, as well as signed copies of the latter.
    async fn plant(&self, holder: &str) -> Result<()> {
        let presence = format!("{PREFIX}:presence:{{{holder}}}");
        let range = ["zrangebylex", &presence, "[a/2/", "(a/20"];
        let genuine = self.run(&range).await?;
        let copied = genuine.replacen("a/2/", "a/1/", 1);
        ensure!(copied.starts_with("a/1/"), "{genuine}");
        let unsigned = format!("a/1/0/{PROCESS}");
        for member in [&copied, &unsigned] {
            self.run(&["zadd", &presence, "0", member]).await?;
        }
        let (of_first, of_second) = (
            format!("{PREFIX}:agent:{{1}}"),
            format!("{PREFIX}:agent:{{2}}"),
        );
        let owner = self.run(&["hget", &of_second, holder]).await?;
        ensure!(owner.contains("grpc://"), "{owner}");
        self.run(&["hset", &of_first, holder, &owner]).await?;
        self.run(&["hset", &of_first, "planted", "grpc://127.0.0.1:1"])
            .await?;
        self.run(&["hset", &of_first, "last_seen", "1700000000"])
            .await?;
        let lists = ["1", "2"].map(|id| format!("{PREFIX}:connections:{{{id}}}"));
        let genuine = self.run(&["lindex", &lists[1], "0"]).await?;
        ensure!(genuine.contains("\"connected\""), "{genuine}");
        self.run(&["lpush", &lists[0], &genuine, RECORD]).await?;
        self.run(&["lpush", &lists[1], RECORD]).await?;
        // A replica that nobody has started, and what it would publish.
        let lease = r#"{"url":"grpc://127.0.0.1:1","state":"serving","version":"1","beat":1}"#;
        let leases = format!("{PREFIX}:replicas");
        self.run(&["hset", &leases, "planted", lease]).await?;
        let presence = format!("{PREFIX}:presence:{{planted}}");
        self.run(&["zadd", &presence, "0", &unsigned]).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_writes_into_the_store_makes_no_agent_look_connected_refused_or_seen() -> Result<()> {
    const NAME: &str = "who_writes_into_the_store_makes_no_agent_look_connected_refused_or_seen";
    if skipped(NAME, &[Part::Redis]) {
        return Ok(());
    }
    let site = Site::start().await?;
    let writer = Writer {
        port: site.replicas.store.port().to_string(),
    };
    let kept = async || {
        let records = site.ask(1, "/v1/agents/prod/records").await.ok()?;
        let list = format!("{PREFIX}:connections:{{2}}");
        let length = writer.run(&["llen", &list]).await.ok()?;
        (length != "0" && records["records"][0]["event"] == "connected").then_some(())
    };
    let kept = until("the connect to be kept", LIMIT, kept).await;
    kept.with_context(|| site.tails())?;
    let shown = site.ask(0, "/v1/agents/prod").await?;
    let holder = shown["agent"]["replicas"][0]
        .as_str()
        .context("a replica")?;

    writer.plant(holder).await?;

    let rejected = async || {
        // Whoever asks makes the replica read.
        site.ask(0, "/v1/agents").await.ok()?;
        site.ask(0, "/v1/agents/first/explain").await.ok()?;
        site.ask(0, "/v1/agents/first/records").await.ok()?;
        let metrics = metrics(&site).await.ok()?;
        let counted = |kind: &str| {
            let name = format!("routing_store_rejected_entries_total{{kind=\"{kind}\"}} ");
            metrics.lines().any(|it| it.starts_with(&name))
        };
        let kinds = ["presence", "owner", "record", "last_seen", "lease"];
        kinds.into_iter().all(counted).then_some(metrics)
    };
    let metrics = until("what is planted to be rejected", LIMIT, rejected).await;
    let metrics = metrics.with_context(|| site.tails())?;
    ensure!(metrics.contains("agent_up{agent_id=\"1\",agent_name=\"first\"} 0"));
    ensure!(metrics.contains("agent_up{agent_id=\"2\",agent_name=\"prod\"} 1"));
    ensure!(metrics.contains("routing_replicas 2"), "{metrics}");
    for number in [0, 1] {
        holds(async || honest(&site, number, holder).await)
            .await
            .with_context(|| site.tails())?;
    }
    let url = format!(
        "http://127.0.0.1:{}/k8s-proxy/version",
        site.replicas.members[1].users
    );
    let answer = tests::http::get(&url, &site.bearer).await?;
    ensure!(answer.status().is_success(), "{answer:?}");
    Ok(())
}

/// What a replica tells of the agent that was never there, and of the one that is.
async fn honest(site: &Site, number: usize, holder: &str) -> Result<()> {
    let list = site.ask(number, "/v1/agents").await?;
    let [first, prod] = &list["agents"].as_array().context("a list")?[..] else {
        anyhow::bail!("{list:#}");
    };
    ensure!(first["state"] == "disconnected", "{first:#}");
    ensure!(first["process_count"] == 0, "{first:#}");
    let absence = &first["absence"];
    ensure!(
        absence.is_null() || absence["state"] == "never connected",
        "{first:#}"
    );
    ensure!(
        prod["state"] == "connected" && prod["health"] == "healthy",
        "{prod:#}"
    );
    ensure!(prod["process_count"] == 1, "{prod:#}");
    ensure!(prod["replicas"] == serde_json::json!([holder]), "{prod:#}");
    let status = site.ask(number, "/v1/status").await?;
    ensure!(
        status["agents_connected"] == 1 && status["replicas"] == 2,
        "{status:#}"
    );
    for agent in ["first", "prod"] {
        let records = site
            .ask(number, &format!("/v1/agents/{agent}/records"))
            .await?;
        let events = records["records"].as_array().context("records")?;
        let planted = events.iter().any(|it| it["reason"] == "planted");
        ensure!(!planted, "{records:#}");
        ensure!(events.is_empty() == (agent == "first"), "{records:#}");
    }
    let why = site.ask(number, "/v1/agents/first/explain").await?;
    ensure!(why["routable"] == false, "{why:#}");
    ensure!(
        why["last_seen_seconds"].is_null() && why["last_refusal"].is_null(),
        "{why:#}"
    );
    ensure!(!asked(&why).any(|it| it == "planted"), "{why:#}");
    let why = site.ask(number, "/v1/agents/prod/explain").await?;
    ensure!(
        why["routable"] == true && why["last_refusal"].is_null(),
        "{why:#}"
    );
    Ok(())
}

/// The replicas that a request would be sent to.
fn asked(why: &Value) -> impl Iterator<Item = &str> {
    let candidates = why["candidates"].as_array().into_iter().flatten();
    candidates.filter_map(|it| it["replica"].as_str())
}

async fn metrics(site: &Site) -> Result<String> {
    let port = site.replicas.members[0].observability;
    let answer = tests::http::get(&format!("http://127.0.0.1:{port}/metrics"), "").await?;
    Ok(String::from_utf8_lossy(answer.body()).into_owned())
}
