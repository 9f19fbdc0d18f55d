//! One token in two clusters: requests reach the first one and never the other, whichever replica is asked, and the
//! log, the list and the metrics say what happened.
//!
//! `AGENTK_BIN` puts another agent in the place of ours.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use tests::{
    agentk::{Agentk, Links},
    http::send,
    parts::{Part, skipped},
    replicas::Replicas,
    stub_api::StubApi,
    wait::until,
};

const SOON: Duration = Duration::from_secs(60);
const FIRST: &str = "11111111-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
const OTHER: &str = "22222222-bbbb-4bbb-8bbb-bbbbbbbbbbbb";

/// Replicas, and two clusters.
struct Site {
    replicas: Replicas,
    token: String,
    bearer: String,
    first: StubApi,
    other: StubApi,
    folder: TempDir,
}

impl Site {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let replicas = Replicas::start(2, folder.path()).await?;
        let token = replicas.cli(&["agent", "create", "shared"]).await?;
        let user = replicas.cli(&["user", "create", "ana"]).await?;
        let grant = ["access", "grant", "--agent", "*", "--user", "ana"];
        replicas
            .cli(&[&grant[..], &["--as", "agent"]].concat())
            .await?;
        Ok(Self {
            bearer: format!("pat:2:{user}"),
            first: StubApi::of_cluster(FIRST).await?,
            other: StubApi::of_cluster(OTHER).await?,
            replicas,
            token,
            folder,
        })
    }

    /// An agent in one of the clusters, connected to one of the replicas.
    fn agent(&self, name: &str, cluster: &StubApi, replica: usize) -> Result<Agentk> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder)?;
        let links = Links {
            kas: format!("grpc://127.0.0.1:{}", self.replicas.members[replica].agents),
            ca: None,
            kubeconfig: cluster.kubeconfig(&folder)?,
        };
        Agentk::start(name, &links, &self.token, &folder)
    }

    async fn get(&self, replica: usize, path: &str) -> Result<StatusCode> {
        let port = self.replicas.members[replica].users;
        let url = format!("http://127.0.0.1:{port}/k8s-proxy{path}");
        let request = Request::get(url).header("authorization", format!("Bearer {}", self.bearer));
        Ok(send(request.body(Bytes::new())?).await?.status())
    }

    /// Waits until requests for this path are served by every replica.
    async fn serves(&self, path: &str) -> Result<()> {
        for replica in 0..2 {
            let served = async || {
                self.get(replica, path)
                    .await
                    .ok()?
                    .is_success()
                    .then_some(())
            };
            let served = until(&format!("{path} at replica {replica}"), SOON, served).await;
            served.with_context(|| self.tails())?;
        }
        Ok(())
    }

    /// Many requests at once to all replicas; all are served.
    async fn many(&self, path: &str) -> Result<()> {
        let all = (0..200).map(|number| self.get(number % 2, path));
        for status in futures_util::future::try_join_all(all).await? {
            ensure!(status.is_success(), "{status}\n{}", self.tails());
        }
        Ok(())
    }

    /// How many tunnels a replica has refused.
    async fn refused(&self, replica: usize) -> Result<u64> {
        let port = self.replicas.members[replica].observability;
        let url = format!("http://127.0.0.1:{port}/metrics");
        let metrics = send(Request::get(url).body(Bytes::new())?).await?;
        let text = String::from_utf8(metrics.into_body().to_vec())?;
        let name = "agent_other_cluster_tunnels_refused_total ";
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.context("no such metric")?.trim().parse()?)
    }

    /// Waits until a replica has refused more tunnels than so many.
    async fn refuses(&self, replica: usize, before: u64) -> Result<()> {
        let more = async || (self.refused(replica).await.ok()? > before).then_some(());
        let refused = until("tunnels to be refused", SOON, more).await;
        refused.with_context(|| self.tails())
    }

    async fn cli(&self, args: &[&str]) -> Result<String> {
        let file = self.replicas.configuration(0).display().to_string();
        let args = [args, &["--configuration-file", &file]].concat();
        self.replicas.cli(&args).await
    }

    /// What the list says of the agent.
    async fn listed(&self) -> Result<Value> {
        let list = self.cli(&["agent", "list", "-o", "json"]).await?;
        let list: Vec<Value> = serde_json::from_str(&list)?;
        let shared = list.into_iter().find(|it| it["name"] == "shared");
        shared.context("the agent is listed")
    }

    fn tails(&self) -> String {
        let members = self.replicas.members.iter();
        members.map(|it| it.process.tail()).collect()
    }
}

/// Paths of users' requests that a cluster was asked for.
fn users(cluster: &StubApi) -> Vec<String> {
    let mut asked = cluster.seen().asked();
    asked.retain(|path| path.starts_with("/echo"));
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_never_reach_the_second_of_two_clusters_with_one_token() -> Result<()> {
    let name = "requests_never_reach_the_second_of_two_clusters_with_one_token";
    if skipped(name, &[Part::Redis]) {
        return Ok(());
    }
    let mut site = Site::start().await?;
    let first = site.agent("first", &site.first, 0)?;
    site.serves("/echo/begin").await?;
    let other = site.agent("other", &site.other, 1)?;

    site.refuses(1, 0).await?;
    site.many("/echo/both").await?;

    ensure!(users(&site.other).is_empty(), "{:?}", users(&site.other));
    let listed = async || {
        let listed = site.listed().await.ok()?;
        (listed["cluster"] == FIRST && listed["refused"]["cluster"] == OTHER).then_some(listed)
    };
    let listed = until("the list to tell of both clusters", SOON, listed).await;
    let listed = listed.with_context(|| site.tails())?;
    let reason = listed["refused"]["reason"].as_str().unwrap_or_default();
    ensure!(
        reason.contains("another cluster uses this agent's token"),
        "{listed}"
    );
    let table = site.cli(&["agent", "list"]).await?;
    ensure!(table.contains(FIRST) && table.contains(OTHER), "{table}");
    let replica = site.replicas.members[1].process.output();
    let warned = "refused the tunnels of another cluster that uses this agent's token";
    ensure!(replica.contains(warned), "{replica}");
    let agent = other.process.output();
    let told = format!("is pinned to cluster {FIRST}, and this is cluster {OTHER}");
    ensure!(agent.contains(&told), "{agent}");

    // Without the first, there is none: neither when the replicas begin anew.
    first.process.signal("KILL").await?;
    for replica in 0..2 {
        site.replicas.members[replica]
            .process
            .signal("KILL")
            .await?;
        site.replicas.restart(replica).await?;
    }
    site.refuses(1, 0).await?;
    let asked = (0..2).map(|replica| site.get(replica, "/echo/none"));
    for status in futures_util::future::try_join_all(asked).await? {
        ensure!(!status.is_success(), "{status}");
    }
    ensure!(users(&site.other).is_empty(), "{:?}", users(&site.other));

    // Somebody says that the agent has moved.
    site.cli(&["agent", "pin", "shared", OTHER]).await?;
    site.serves("/echo/moved").await?;
    let before = site.refused(0).await?;
    let _back = site.agent("back", &site.first, 0)?;
    site.refuses(0, before).await?;
    site.many("/echo/after").await?;
    let after = |path: &String| path.contains("after") || path.contains("moved");
    ensure!(
        !users(&site.first).iter().any(after),
        "{:?}",
        users(&site.first)
    );
    Ok(())
}
