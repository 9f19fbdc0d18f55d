//! One token in two clusters: requests reach the first one and never the other, whichever replica is asked, and the
//! log, the list and the metrics say what happened.
//!
//! `AGENTK_BIN` puts another agent in the place of ours.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use tests::{
    agentk::{Agentk, Links},
    browser,
    certs::Certs,
    haproxy::{Front, Haproxy},
    http::send,
    nginx::Nginx,
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

/// What is listed of an agent process.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    kubernetes: String,
    connected_since: String,
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

    /// Starts the replicas again, with another time after which silent streams are renewed.
    async fn renew_streams_each(&mut self, interval: &str) -> Result<()> {
        for number in 0..2 {
            let file = self.replicas.configuration(number);
            let mut configuration: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
            configuration["agent"]["listen"]["stream_renewal_interval"] = interval.into();
            std::fs::write(&file, configuration.to_string())?;
            let process = &mut self.replicas.members[number].process;
            process.end_by("TERM", SOON).await?;
            self.replicas.restart(number).await?;
        }
        Ok(())
    }

    /// What the operators' API of a replica answers.
    async fn told(&self, replica: usize, path: &str) -> Result<Value> {
        let port = self.replicas.members[replica].admin;
        let url = format!("http://127.0.0.1:{port}{path}");
        let answer = send(Request::get(url).body(Bytes::new())?).await?;
        ensure!(answer.status().is_success(), "{answer:?}");
        Ok(serde_json::from_slice(answer.body())?)
    }

    /// The processes of the agent, by their pods.
    async fn processes(&self, replica: usize) -> Result<BTreeMap<String, Process>> {
        let told = self.told(replica, "/v1/agents/shared").await?;
        let processes = told["agent"]["processes"].as_array();
        let processes = processes.into_iter().flatten().map(|it| {
            let text = |key: &str| it[key].as_str().unwrap_or_default().to_owned();
            let process = Process {
                kubernetes: text("kubernetes"),
                connected_since: text("connected_since"),
            };
            (text("pod"), process)
        });
        Ok(processes.collect())
    }

    /// Streams for the configuration that have ended, at all replicas.
    async fn renewals(&self) -> Result<u64> {
        let mut all = 0;
        for member in &self.replicas.members {
            let url = format!("http://127.0.0.1:{}/metrics", member.observability);
            let metrics = send(Request::get(url).body(Bytes::new())?).await?;
            let text = String::from_utf8(metrics.into_body().to_vec())?;
            let ended = text.lines().filter(|line| {
                line.starts_with("grpc_server_handled_total{")
                    && line.contains("\"GetConfiguration\"")
            });
            for line in ended {
                let (_, count) = line.rsplit_once(' ').context("a value")?;
                all += count.parse::<u64>()?;
            }
        }
        Ok(all)
    }

    /// An agent in one of the clusters, connected to one of the replicas.
    fn agent(&self, name: &str, cluster: &StubApi, replica: usize) -> Result<Agentk> {
        let port = self.replicas.members[replica].agents;
        self.agent_at(format!("grpc://127.0.0.1:{port}"), None, name, cluster)
    }

    /// The same at any address.
    fn agent_at(
        &self,
        kas: String,
        certs: Option<&Certs>,
        name: &str,
        cluster: &StubApi,
    ) -> Result<Agentk> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder)?;
        let links = Links {
            kas,
            ca: certs.map(|certs| certs.ca.clone()),
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

    /// The page of the cluster says at any replica what it is pinned to, and who was refused and why.
    async fn shown(&self) -> Result<()> {
        let name = "the page of two clusters with one token";
        if skipped(name, &[Part::Chromium]) {
            return Ok(());
        }
        let pinned = format!("<code>{FIRST}</code>");
        let reason = format!("another cluster uses this agent's token; it is pinned to {FIRST}");
        let texts = ["Connections: 1 pod", &pinned, &reason];
        for member in &self.replicas.members {
            let url = format!("http://127.0.0.1:{}/#/clusters/shared", member.admin);
            let shown = browser::shows(&url, &texts, self.folder.path()).await;
            shown.with_context(|| self.tails())?;
        }
        Ok(())
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
    let mut first = site.agent("first", &site.first, 0)?;
    site.serves("/echo/begin").await?;
    let mut other = site.agent("other", &site.other, 1)?;

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
    let named = async || {
        let records = site.told(0, "/v1/agents/shared/records").await.ok()?;
        let records = records["records"].as_array()?.clone();
        records.into_iter().find(|it| {
            let version = it["version"].as_str().unwrap_or_default();
            it["event"] == "refused" && it["instance"] == "default/other" && !version.is_empty()
        })
    };
    let named = until("a record that names the refused process", SOON, named).await;
    named.with_context(|| site.tails())?;
    site.shown().await?;
    let replica = site.replicas.members[1].process.output();
    let warned = "refused the tunnels of another cluster that uses this agent's token";
    ensure!(replica.contains(warned), "{replica}");
    let told = format!("is pinned to cluster {FIRST}, and this is cluster {OTHER}");
    other.process.wait_for(&told, SOON).await?;

    // Without the first, there is none: neither when the replicas begin anew.
    first.process.end_by("KILL", SOON).await?;
    for replica in 0..2 {
        // To its end: else it still has its ports, and is taken for the next run.
        let process = &mut site.replicas.members[replica].process;
        process.end_by("KILL", SOON).await?;
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

/// The streams of an agent behind such a load balancer come to any replica, each on a connection of its own, and are
/// renewed before the load balancer cuts them.
#[tokio::test(flavor = "multi_thread")]
async fn behind_nginx_and_haproxy_renewed_streams_are_no_new_connections_and_nothing_is_forgotten()
-> Result<()> {
    const NAME: &str =
        "behind_nginx_and_haproxy_renewed_streams_are_no_new_connections_and_nothing_is_forgotten";
    if skipped(NAME, &[Part::Redis, Part::Nginx, Part::Haproxy]) {
        return Ok(());
    }
    let mut site = Site::start().await?;
    // Longer than a process that is away without a word is waited for, as 45 s are.
    site.renew_streams_each("12s").await?;
    let certs = Certs::create(&site.folder.path().join("certs"))?;
    let ports: Vec<_> = site.replicas.members.iter().map(|it| it.agents).collect();
    let nginx = Nginx::start(&ports, &certs, site.folder.path()).await?;
    let haproxy = Haproxy::start(Front::Agents, ports[0], &certs, site.folder.path()).await?;
    let mut agents = Vec::new();
    for (name, port) in [("nginx", nginx.port()), ("haproxy", haproxy.port())] {
        let address = format!("grpcs://localhost:{port}");
        agents.push(site.agent_at(address, Some(&certs), name, &site.first)?);
    }
    let known = async || {
        let processes = site.processes(0).await.ok()?;
        let elsewhere = site.processes(1).await.ok()?;
        let known = |it: &Process| it.kubernetes == "v1.33.0-stub";
        let pods = ["default/haproxy", "default/nginx"];
        let all = processes.keys().eq(pods) && processes.values().all(known);
        (all && processes == elsewhere).then_some(processes)
    };
    let known = until("both processes to be known", SOON, known).await;
    let known = known.with_context(|| site.tails())?;
    let before = site.renewals().await?;

    // Four of each agent.
    let renewed = until("streams to be renewed", SOON * 3, async || {
        for replica in 0..2 {
            match site.processes(replica).await {
                Ok(now) if now == known => {}
                other => return Some(Err(anyhow!("{known:#?} became {other:#?}"))),
            }
        }
        let renewals = site.renewals().await;
        let enough = renewals.map(|it| it >= before + 8);
        enough.map(|it| it.then_some(())).transpose()
    });

    renewed.await?.with_context(|| site.tails())?;
    let records = site.told(1, "/v1/agents/shared/records").await?;
    let records = records["records"].as_array().context("records")?;
    for pod in known.keys() {
        let of = |event: &str| {
            let of = records.iter().filter(|it| it["event"] == event);
            of.filter(|it| it["instance"] == pod.as_str()).count()
        };
        // One for each replica.
        ensure!((1..=2).contains(&of("connected")), "{pod}: {records:#?}");
        ensure!(of("disconnected") == 0, "{pod}: {records:#?}");
    }
    ensure!(records.iter().all(|it| it["left_out"] == 0), "{records:#?}");
    for path in ["/version", "/echo"] {
        site.many(path).await?;
    }
    drop(agents);
    Ok(())
}
