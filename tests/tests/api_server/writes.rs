//! Requests that change something, while all connections of the agent are reset each second and a replica dies: each has
//! its answer, and nothing is done twice.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tests::{
    http as client,
    kube::Cluster,
    parts::{say, skipped},
    programs,
};
use tokio::time::{Instant, interval};

use crate::{MAPS, NEEDS, Site, number};

/// Those who write at the same time.
const WRITERS: usize = 12;

const RECOVERED: &str = "k8s_api_proxy_answers_recovered_total";
const REPLAYED: &str = "k8s_api_proxy_replays_total";

/// What became of the requests.
#[derive(Debug, Default)]
struct Outcomes {
    asked: usize,
    created: usize,
    deleted: usize,
    failures: Vec<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_answered_and_done_once_while_connections_are_reset() -> Result<()> {
    if skipped(
        "writes_are_answered_and_done_once_while_connections_are_reset",
        NEEDS,
    ) {
        return Ok(());
    }
    let site = Site::with_replicas(3, Cluster::api_server("--goaway-chance=0").await?).await?;
    let checked = through_resets(&site, number("API_SERVER_RESET_SECONDS", 15) as u64).await;
    site.end().await?;
    checked
}

async fn through_resets(site: &Site, seconds: u64) -> Result<()> {
    let outcomes = write(site, Duration::from_secs(seconds)).await;
    let (recovered, replayed) = (
        site.counted(RECOVERED).await?,
        site.counted(REPLAYED).await?,
    );
    let admin = site.cluster.admin();
    let listed = admin.ok(&["get", "configmaps", "-o", "name"]).await?;
    let here = listed.lines().filter(|it| it.contains("/write-")).count();
    let Outcomes {
        asked,
        created,
        deleted,
        failures,
    } = outcomes;
    say(&format!(
        "{seconds} resets: {asked} writes, {} failed; {created} answers of 201, {deleted} deleted, {here} objects; \
         {recovered} answers were asked for, {replayed} requests made again",
        failures.len()
    ));
    if programs::other_agentk().is_some() {
        return Ok(());
    }
    ensure!(failures.is_empty(), "{failures:#?}");
    ensure!(here + deleted == created, "something was done twice");
    ensure!(
        recovered + replayed > 0,
        "no write was in flight at a reset"
    );
    Ok(())
}

impl Site {
    /// The sum of a counter over all replicas.
    async fn counted(&self, name: &str) -> Result<u64> {
        let mut sum = 0;
        for member in &self.replicas.members {
            let url = format!("http://127.0.0.1:{}/metrics", member.observability);
            let text = client::get(&url, "").await?;
            let text = String::from_utf8_lossy(text.body()).into_owned();
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            sum += value.context("no such metric")?.trim().parse::<u64>()?;
        }
        Ok(sum)
    }
}

async fn write(site: &Site, length: Duration) -> Outcomes {
    let end = Instant::now() + length;
    let mut writers: FuturesUnordered<_> = (0..WRITERS).map(|_| one_writes(site, end)).collect();
    let mut resets = interval(Duration::from_secs(1));
    let mut all = Outcomes::default();
    loop {
        tokio::select! {
            _ = resets.tick(), if Instant::now() < end => site.way.cut(),
            written = writers.next() => {
                let Some(written) = written else { return all };
                all.asked += written.asked;
                all.created += written.created;
                all.deleted += written.deleted;
                all.failures.extend(written.failures);
            }
        }
    }
}

/// Creates objects, changes each, and deletes every other one.
async fn one_writes(site: &Site, end: Instant) -> Outcomes {
    let mut outcomes = Outcomes::default();
    while Instant::now() < end {
        let keeps = outcomes.created.is_multiple_of(2);
        if let Err(error) = one_object(site, keeps, &mut outcomes).await {
            outcomes.failures.push(format!("{error:#}"));
        }
    }
    outcomes
}

async fn one_object(site: &Site, keeps: bool, outcomes: &mut Outcomes) -> Result<()> {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "write-"}, "data": {"round": "0"},
    });
    let body = Some(("application/json", map));
    outcomes.asked += 1;
    let made = wanted(
        site.ask(Method::POST, MAPS, body).await,
        StatusCode::CREATED,
    )?;
    outcomes.created += 1;
    let made: Value = serde_json::from_slice(&made).context("an answer that is no object")?;
    let name = made["metadata"]["name"].as_str().context("no name")?;
    let path = format!("{MAPS}/{name}");
    let change = Some((
        "application/merge-patch+json",
        json!({"data": {"round": "1"}}),
    ));
    outcomes.asked += 1;
    wanted(site.ask(Method::PATCH, &path, change).await, StatusCode::OK)?;
    if !keeps {
        outcomes.asked += 1;
        wanted(site.ask(Method::DELETE, &path, None).await, StatusCode::OK)?;
        outcomes.deleted += 1;
    }
    Ok(())
}

fn wanted(answer: Result<(StatusCode, Bytes)>, status: StatusCode) -> Result<Bytes> {
    let (answered, body) = answer?;
    ensure!(
        answered == status,
        "{answered}: {}",
        String::from_utf8_lossy(&body)
    );
    Ok(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_answered_when_the_replica_that_holds_the_tunnels_dies() -> Result<()> {
    if skipped(
        "writes_are_answered_when_the_replica_that_holds_the_tunnels_dies",
        NEEDS,
    ) {
        return Ok(());
    }
    let mut site = Site::with_replicas(3, Cluster::api_server("--goaway-chance=0").await?).await?;
    let checked = through_deaths(&mut site).await;
    site.end().await?;
    checked
}

/// Requests come in at the first two replicas; the third one is killed over and over, which often holds a tunnel.
async fn through_deaths(site: &mut Site) -> Result<()> {
    let mut dying = site.replicas.members.pop().context("three replicas")?;
    let (mut all, deaths) = (Outcomes::default(), number("API_SERVER_DEATHS", 4));
    for _ in 0..deaths {
        let length = Duration::from_secs(3);
        let end = Instant::now() + length;
        let writers = (0..WRITERS).map(|_| one_writes(site, end));
        let killing = async {
            tokio::time::sleep(length / 2).await;
            dying.process.signal("KILL").await
        };
        let (written, killed) = tokio::join!(futures_util::future::join_all(writers), killing);
        killed?;
        for written in written {
            all.asked += written.asked;
            all.created += written.created;
            all.deleted += written.deleted;
            all.failures.extend(written.failures);
        }
        site.replicas.members.push(dying);
        site.replicas.restart(2).await?;
        site.way.cut();
        dying = site.replicas.members.pop().context("three replicas")?;
    }
    site.replicas.members.push(dying);
    say(&format!(
        "{deaths} deaths of a replica: {} writes, {} failed",
        all.asked,
        all.failures.len()
    ));
    let listed = site.cluster.admin();
    let listed = listed.ok(&["get", "configmaps", "-o", "name"]).await?;
    let here = listed.lines().filter(|it| it.contains("/write-")).count();
    if programs::other_agentk().is_some() {
        return Ok(());
    }
    ensure!(all.failures.is_empty(), "{:#?}", all.failures);
    ensure!(
        here + all.deleted == all.created,
        "{here} objects, {} deleted, {} created",
        all.deleted,
        all.created
    );
    Ok(())
}
