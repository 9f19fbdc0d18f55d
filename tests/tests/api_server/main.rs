//! An API server that comes and goes costs no request: a real one ends its HTTP/2 connections at random, as
//! `--goaway-chance` has it, and is started anew under load. kas has two replicas, and the agent is ours or the one
//! that AGENTK_BIN names, for which the figures are told but not judged.

mod constrained;
mod double;
mod resets;
mod trouble;
mod writes;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    agentk::{Agentk, Links},
    chaos::Chaos,
    http as client,
    kube::Cluster,
    parts::{Part, say, skipped},
    programs,
    replicas::Replicas,
    wait::until,
};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

const NEEDS: &[Part] = &[Part::Cluster, Part::Redis];
const SOON: Duration = Duration::from_secs(60);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const NAMESPACE: &str = "/api/v1/namespaces/default";
/// Those who ask at the same time.
const CLIENTS: usize = 20;
/// Requests a second while the API server is started anew.
const RATE: u64 = 100;
/// Of these at the same time.
const MAX_ASKING: usize = 50;

/// An API server, two replicas, an agent, and a user.
struct Site {
    cluster: Cluster,
    replicas: Replicas,
    bearer: String,
    turn: AtomicUsize,
    _agent: Agentk,
    way: Chaos,
    _folder: TempDir,
}

/// How often one kind of request was made, and what came of it.
struct Row {
    kind: &'static str,
    asked: usize,
    good: usize,
    failures: Vec<String>,
}

impl Site {
    async fn around(cluster: Cluster) -> Result<Self> {
        Self::with_replicas(2, cluster).await
    }

    async fn with_replicas(count: usize, cluster: Cluster) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let replicas = Replicas::start(count, folder.path()).await?;
        let ports: Vec<_> = replicas.members.iter().map(|it| it.agents).collect();
        let way = Chaos::start(&ports).await?;
        let token = replicas.cli(&["agent", "create", "site"]).await?;
        let user = replicas.cli(&["user", "create", "ana"]).await?;
        let grant = ["access", "grant", "--agent", "site", "--user", "ana"];
        replicas
            .cli(&[&grant[..], &["--as", "agent"]].concat())
            .await?;
        let links = Links {
            kas: format!("ws://127.0.0.1:{}/", way.port()),
            ca: None,
            kubeconfig: cluster.agent_kubeconfig(),
        };
        let site = Self {
            _agent: Agentk::start("agentk", &links, &token, folder.path())?,
            cluster,
            replicas,
            bearer: format!("pat:2:{user}"),
            turn: AtomicUsize::new(0),
            way,
            _folder: folder,
        };
        let serves = async || {
            let answer = site.ask(Method::GET, NAMESPACE, None).await.ok()?;
            answer.0.is_success().then_some(())
        };
        until("the agent", SOON, serves).await?;
        Ok(site)
    }

    /// Asks one replica after the other.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Value)>,
    ) -> Result<(StatusCode, Bytes)> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let members = &self.replicas.members;
        let users = members[turn % members.len()].users;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://127.0.0.1:{users}/k8s-proxy{path}"))
            .header("authorization", format!("Bearer {}", self.bearer));
        let body = body.map_or_else(Bytes::new, |(kind, body)| {
            request = std::mem::take(&mut request).header("content-type", kind);
            body.to_string().into()
        });
        let answer = client::send(request.body(body)?).await?;
        Ok((answer.status(), answer.into_body()))
    }

    async fn create(&self, name: &str) -> Result<(StatusCode, Bytes)> {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"round": "0"}});
        let body = Some(("application/json", map));
        self.ask(Method::POST, MAPS, body).await
    }

    /// Each client makes its part of `count` requests, one after the other.
    async fn ask_many(
        &self,
        kind: &'static str,
        count: usize,
        ask: impl AsyncFn(usize) -> Result<(StatusCode, Bytes)>,
    ) -> Row {
        let next = AtomicUsize::new(0);
        let one = async |_| {
            let mut failures = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return failures;
                }
                failures.extend(failure(ask(number).await));
            }
        };
        let clients = (0..CLIENTS).map(one);
        let failures = futures_util::future::join_all(clients).await.concat();
        Row {
            kind,
            asked: count,
            good: count - failures.len(),
            failures,
        }
    }

    async fn end(self) -> Result<()> {
        self.cluster.down().await
    }
}

/// Why an answer is none that was asked for.
fn failure(answer: Result<(StatusCode, Bytes)>) -> Option<String> {
    match answer {
        Ok((status, _)) if status.is_success() => None,
        Ok((status, body)) => Some(format!("{status}: {}", String::from_utf8_lossy(&body))),
        Err(error) => Some(format!("{error:#}")),
    }
}

fn number(variable: &str, otherwise: usize) -> usize {
    let value = std::env::var(variable).ok();
    value.and_then(|it| it.parse().ok()).unwrap_or(otherwise)
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_the_api_server_ends_cost_no_request() -> Result<()> {
    if skipped(
        "connections_that_the_api_server_ends_cost_no_request",
        NEEDS,
    ) {
        return Ok(());
    }
    let site = Site::around(Cluster::api_server("--goaway-chance=0.02").await?).await?;
    let checked = through_goaways(&site, number("API_SERVER_REQUESTS", 300)).await;
    site.end().await?;
    checked
}

async fn through_goaways(site: &Site, count: usize) -> Result<()> {
    let path = |number: usize| format!("{MAPS}/map-{number}");
    let posted = site.ask_many("POST", count, async |number| {
        site.create(&format!("map-{number}")).await
    });
    let posted = posted.await;
    let admin = site.cluster.admin();
    let listed = admin.ok(&["get", "configmaps", "-o", "name"]).await?;
    let created = listed.lines().filter(|it| it.contains("/map-")).count();
    let rows = [
        posted,
        site.ask_many("GET", count, async |number| {
            site.ask(Method::GET, &path(number), None).await
        })
        .await,
        site.ask_many("PATCH", count, async |number| {
            let change = json!({"data": {"round": "1"}});
            let body = Some(("application/merge-patch+json", change));
            site.ask(Method::PATCH, &path(number), body).await
        })
        .await,
        site.ask_many("DELETE", count, async |number| {
            site.ask(Method::DELETE, &path(number), None).await
        })
        .await,
    ];

    for row in &rows {
        let (kind, asked, failed) = (row.kind, row.asked, row.failures.len());
        say(&format!("{kind}: {asked} asked, {failed} failed"));
    }
    say(&format!(
        "{created} objects, {} answers of 201",
        rows[0].good
    ));
    if programs::other_agentk().is_some() {
        return Ok(());
    }
    for row in &rows {
        ensure!(row.failures.is_empty(), "{}: {:?}", row.kind, row.failures);
    }
    ensure!(created == rows[0].good, "{created} objects were made");
    Ok(())
}

/// A request, from when to when it was there, and why it failed.
struct Sample {
    started: Instant,
    ended: Instant,
    failure: Option<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_starts_anew_fails_nothing_but_what_finds_it_down() -> Result<()> {
    if skipped(
        "an_api_server_that_starts_anew_fails_nothing_but_what_finds_it_down",
        NEEDS,
    ) {
        return Ok(());
    }
    let site = Site::around(Cluster::api_server("").await?).await?;
    let checked = through_restarts(&site, number("API_SERVER_RESTARTS", 2)).await;
    site.end().await?;
    checked
}

async fn through_restarts(site: &Site, count: usize) -> Result<()> {
    let enough = CancellationToken::new();
    let (samples, downs) = tokio::join!(load(site, &enough), async {
        let downs = restarts(site, count).await;
        enough.cancel();
        downs
    });
    let downs = downs?;

    let found_down = |sample: &Sample| {
        let meets = |down: &(Instant, Instant)| sample.started <= down.1 && sample.ended >= down.0;
        downs.iter().any(meets)
    };
    let failed = |it: &&Sample| it.failure.is_some();
    let outside: Vec<_> = samples
        .iter()
        .filter(failed)
        .filter(|it| !found_down(it))
        .filter_map(|it| it.failure.as_deref())
        .collect();
    say(&format!(
        "{count} restarts: {} requests, {} failed while the API server was down, {} while it was ready",
        samples.len(),
        samples.iter().filter(failed).count() - outside.len(),
        outside.len(),
    ));
    if programs::other_agentk().is_none() {
        ensure!(outside.is_empty(), "{outside:#?}");
    }
    Ok(())
}

/// When it was told to end each time, and when it was ready again.
async fn restarts(site: &Site, count: usize) -> Result<Vec<(Instant, Instant)>> {
    let mut downs = Vec::new();
    for _ in 0..count {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let began = Instant::now();
        site.cluster.stop_api_server().await?;
        site.cluster.start_api_server().await?;
        downs.push((began, Instant::now()));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok(downs)
}

/// Three GETs for each POST.
async fn load(site: &Site, enough: &CancellationToken) -> Vec<Sample> {
    let mut clock = tokio::time::interval(Duration::from_millis(1000 / RATE));
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut asking = futures_util::stream::FuturesUnordered::new();
    let mut samples = Vec::new();
    let mut number = 0;
    loop {
        tokio::select! {
            () = enough.cancelled() => break,
            _ = clock.tick(), if asking.len() < MAX_ASKING => {
                number += 1;
                asking.push(sample(site, number));
            }
            Some(sample) = futures_util::StreamExt::next(&mut asking) => samples.push(sample),
        }
    }
    while let Some(sample) = futures_util::StreamExt::next(&mut asking).await {
        samples.push(sample);
    }
    samples
}

async fn sample(site: &Site, number: usize) -> Sample {
    let started = Instant::now();
    let answer = match number % 4 {
        0 => site.create(&format!("more-{number}")).await,
        _ => site.ask(Method::GET, NAMESPACE, None).await,
    };
    Sample {
        started,
        ended: Instant::now(),
        failure: failure(answer),
    }
}
