//! `kas up`: the one command, and kubectl as it prints.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{
    parts::{Part, skipped},
    redis::Redis,
    up::Up,
};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_works_on_the_demo_cluster() -> Result<()> {
    if skipped("kubectl_works_on_the_demo_cluster", &[Part::Kubectl]) {
        return Ok(());
    }
    let up = Up::start(&[]).await?;
    let kubectl = up.kubectl();

    let namespaces = kubectl.ok(&["get", "ns"]).await?;
    let mut watch = kubectl.start("watch", &["get", "pods", "-w"], up.folder())?;
    let applied = kubectl.apply(DEPLOYMENT).await?;
    watch.wait_for("Running", SOON).await?;
    kubectl
        .ok(&["rollout", "status", "deployment/shop", "--timeout=30s"])
        .await?;
    let pods = kubectl
        .ok(&["get", "pods", "-l", "app=shop", "-o", "name"])
        .await?;
    let pod = pods.lines().next().unwrap_or_default();
    let described = kubectl.ok(&["describe", pod]).await?;
    let logs = kubectl.ok(&["logs", pod]).await?;
    let deleted = kubectl.ok(&["delete", "deployment", "shop"]).await?;

    ensure!(namespaces.contains("default"), "{namespaces}");
    ensure!(applied.contains("created"), "{applied}");
    ensure!(described.contains("shop"), "{described}");
    ensure!(!logs.is_empty(), "no logs");
    ensure!(deleted.contains("deleted"), "{deleted}");
    up.interrupt().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_line_works_as_it_is() -> Result<()> {
    if skipped("the_printed_line_works_as_it_is", &[Part::Kubectl]) {
        return Ok(());
    }
    let up = Up::start(&["--replicas", "1"]).await?;

    let output = up.process.output();
    let line = output
        .lines()
        .find(|line| line.starts_with("ready"))
        .context("no line starts with ready")?;
    let command = line
        .split_once("kubectl ")
        .with_context(|| line.to_owned())?
        .1;
    let args: Vec<_> = command.split_whitespace().collect();
    let namespaces = up.kubectl().ok(&args).await?;

    ensure!(namespaces.contains("kube-system"), "{namespaces}");
    up.interrupt().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_fail_no_request() -> Result<()> {
    if skipped("cut_connections_fail_no_request", &[Part::Kubectl]) {
        return Ok(());
    }
    gets(Up::start(&["--drop-every", "1s"]).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_fail_no_request_with_a_table_in_redis() -> Result<()> {
    let name = "cut_connections_fail_no_request_with_a_table_in_redis";
    if skipped(name, &[Part::Kubectl, Part::Redis]) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let redis = Redis::start(folder.path()).await?;
    let url = format!("redis://127.0.0.1:{}", redis.port());
    gets(Up::start(&["--replicas", "3", "--redis", &url, "--drop-every", "1s"]).await?).await
}

async fn gets(up: Up) -> Result<()> {
    let kubectl = up.kubectl();

    for number in 0..100 {
        let pods = kubectl.ok(&["get", "--raw", "/api/v1/namespaces"]).await;
        let pods = pods.with_context(|| format!("request {number}\n{}", up.process.tail()))?;
        ensure!(pods.contains("kube-system"), "{pods}");
    }

    up.interrupt().await
}

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      containers:
      - {name: shop, image: "example/shop:1"}
"#;
