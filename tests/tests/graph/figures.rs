//! How long a change takes from the API server to those who watch.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use proto::graph::rpc::Known;
use tests::{kube::Cluster, parts::say, wait::until};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{
    CONFIG_MAPS, SOON, Site, TOGETHER,
    watcher::{begin, config_maps},
};

const OBJECTS: usize = 10_000;
const WATCHERS: usize = 100;
const CHANGES: usize = 3000;
/// 100 a second.
const PACE: Duration = Duration::from_millis(10);

/// When each resource version was seen.
type Seen = Arc<Mutex<HashMap<String, Instant>>>;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn latency_of_changes() -> Result<()> {
    let cluster = Cluster::up().await?;

    let measured = measure(&cluster).await;

    cluster.down().await?;
    measured
}

async fn measure(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let site = Site::start(cluster, folder.path()).await?;
    let created = stream::iter(0..OBJECTS).map(|number| site.create(number));
    let () = created.buffer_unordered(TOGETHER).try_collect().await?;
    let site = Arc::new(site);
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        watchers.push(watch(&site).await?);
    }
    let changes = change(&site).await?;
    ensure!(changes.len() == CHANGES, "only {} changes", changes.len());
    let all = || {
        watchers.iter().all(|(seen, _)| {
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            changes.keys().all(|version| seen.contains_key(version))
        })
    };
    until("all changes", SOON, async || all().then_some(())).await?;
    let (mut sent, mut answered) = (Vec::new(), Vec::new());
    for (seen, _) in &watchers {
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (version, (begin, end)) in &changes {
            sent.push(seen[version].saturating_duration_since(*begin));
            answered.push(seen[version].saturating_duration_since(*end));
        }
    }
    print("from the change's request", sent);
    print("from the change's answer", answered);
    Ok(())
}

fn print(what: &str, mut all: Vec<Duration>) {
    all.sort_unstable();
    let at = |share: usize| all[(all.len() - 1) * share / 1000];
    say(&format!(
        "{what}: p50 {:?}, p90 {:?}, p99 {:?}, max {:?} ({} samples)",
        at(500),
        at(900),
        at(990),
        at(1000),
        all.len()
    ));
}

async fn watch(site: &Site) -> Result<(Seen, AbortOnDropHandle<()>)> {
    let (open, told) = begin(site.api, &site.wide, config_maps(false), Known::default()).await?;
    let mut told = told?;
    while !told.message().await?.context("no snapshot")?.synced {}
    let seen = Seen::default();
    let noting = seen.clone();
    let reading = tokio::spawn(async move {
        let _open = open;
        while let Ok(Some(update)) = told.message().await {
            let now = Instant::now();
            let mut seen = noting.lock().unwrap_or_else(PoisonError::into_inner);
            let versions = update.changed.into_iter().map(|it| it.resource_version);
            seen.extend(versions.map(|version| (version, now)));
        }
    });
    Ok((seen, AbortOnDropHandle::new(reading)))
}

/// When each change was asked for and answered, by its resource version.
async fn change(site: &Arc<Site>) -> Result<HashMap<String, (Instant, Instant)>> {
    let mut tasks = JoinSet::new();
    let mut pace = tokio::time::interval(PACE);
    for number in 0..CHANGES {
        pace.tick().await;
        let site = site.clone();
        let one = format!("{CONFIG_MAPS}/c{}", number * 7 % OBJECTS);
        tasks.spawn(async move {
            let begin = Instant::now();
            let change = format!("{{\"data\": {{\"n\": \"{number}\"}}}}");
            let answer = site.write("PATCH", &one, &change).await?;
            let end = Instant::now();
            let version = answer["metadata"]["resourceVersion"].as_str();
            let version = version.with_context(|| answer.to_string())?.to_owned();
            anyhow::Ok((version, (begin, end)))
        });
    }
    tasks.join_all().await.into_iter().collect()
}
