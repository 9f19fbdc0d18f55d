//! Pods: described, their logs, and what they serve.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::wait::until;

use crate::site::Site;

pub(crate) async fn describes(site: &Site) -> Result<()> {
    let text = site.kubectl.ok(&["describe", "pod", "box"]).await?;

    for part in ["Name:", "local/busybox:1", "Ready", "Events:"] {
        ensure!(text.contains(part), "no {part} in {text}");
    }
    Ok(())
}

pub(crate) async fn follows_logs(site: &Site) -> Result<()> {
    let first = site.kubectl.ok(&["logs", "box", "--tail=1"]).await?;
    let mut follow =
        site.kubectl
            .start("logs", &["logs", "-f", "box", "--tail=1"], &site.folder)?;

    let three_more = async || (ticks(&follow.output()).len() > 3).then_some(());
    until(
        "three more lines of log",
        Duration::from_secs(60),
        three_more,
    )
    .await?;

    ensure!(first.starts_with("tick"), "{first}");
    ensure!(follow.is_running(), "{}", follow.tail());
    ensure!(
        are_consecutive(&ticks(&follow.output())),
        "{}",
        follow.output()
    );
    Ok(())
}

pub(crate) async fn proxies(site: &Site) -> Result<()> {
    let namespace = format!("/api/v1/namespaces/{}", site.kubectl.namespace());
    let get = async |path: &str| {
        site.kubectl
            .ok(&["get", "--raw", &format!("{namespace}/{path}")])
            .await
    };

    // The pod's route may be a moment behind its readiness.
    let by_pod = async || get("pods/box:8080/proxy/index.html").await.ok();
    let pod = until("the pod's web server", Duration::from_secs(60), by_pod).await?;
    let by_service = async || get("services/box:80/proxy/index.html").await.ok();
    let service = until(
        "the service's endpoints",
        Duration::from_secs(60),
        by_service,
    )
    .await?;

    ensure!(pod == "hello-from-pod\n", "{pod}");
    ensure!(service == "hello-from-pod\n", "{service}");
    Ok(())
}

/// The numbers in whole `tick N` lines.
pub(crate) fn ticks(log: &str) -> Vec<u64> {
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    whole
        .lines()
        .filter_map(|line| line.strip_prefix("tick ")?.parse().ok())
        .collect()
}

pub(crate) fn are_consecutive(ticks: &[u64]) -> bool {
    ticks.windows(2).all(|pair| pair[1] == pair[0] + 1)
}
