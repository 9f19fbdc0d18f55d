//! Several replicas with agents of ours, and users who ask through all of them and must never fail.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Response;
use tempfile::TempDir;
use tests::{
    agentk::{Agentk, Links},
    http as client,
    redis::Redis,
    replicas::Replicas,
    stub_api::StubApi,
    wait::until,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::wire::Wire;

/// A busy machine takes longer than a second.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// Failures that are kept, to be shown.
const SHOWN: usize = 5;

/// Replicas, and a user who may use every agent.
pub(crate) struct Site {
    pub(crate) replicas: Replicas,
    pub(crate) stub: StubApi,
    user: String,
    folder: TempDir,
}

/// An agent that is connected.
pub(crate) struct SiteAgent {
    pub(crate) id: String,
    /// Ends when this is dropped.
    _agentk: Agentk,
}

impl Site {
    /// Starts so many replicas, a Redis, and what agents take for their cluster.
    pub(crate) async fn start(count: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let replicas = Replicas::start(count, folder.path()).await?;
        let user = replicas.cli(&["user", "create", "tester"]).await?;
        let site = Self {
            replicas,
            stub: StubApi::start().await?,
            user,
            folder,
        };
        site.grant("*", "tester", "agent").await?;
        Ok(site)
    }

    /// Lets a user use agents, as whom.
    pub(crate) async fn grant(&self, agent: &str, user: &str, whom: &str) -> Result<()> {
        let grant = ["access", "grant", "--agent", agent, "--user", user];
        let granted = self
            .replicas
            .cli(&[&grant[..], &["--as", whom]].concat())
            .await;
        granted.map(drop)
    }

    /// Makes an agent; gives its id and its token.
    pub(crate) async fn register(&self, name: &str) -> Result<(String, String)> {
        let token = self.replicas.cli(&["agent", "create", name]).await?;
        let list = self.replicas.cli(&["agent", "list"]).await?;
        let line = list.lines().find(|line| line.contains(name));
        let words = line.into_iter().flat_map(str::split_whitespace);
        let id = words.into_iter().find(|word| word.parse::<i64>().is_ok());
        let id = id.with_context(|| format!("no {name} in {list}"))?;
        Ok((id.to_owned(), token))
    }

    /// Makes an agent, and connects it to a replica's port, or to a proxy of it.
    pub(crate) async fn agent(&self, name: &str, port: u16) -> Result<SiteAgent> {
        let kubeconfig = self.stub.kubeconfig(self.folder.path())?;
        let agent = self.agent_of(name, port, &kubeconfig).await?;
        for replica in 0..self.replicas.members.len() {
            self.answers(replica, &self.bearer(&agent.id)).await?;
        }
        Ok(agent)
    }

    /// The same of the cluster of this kubeconfig, and does not wait.
    pub(crate) async fn agent_of(
        &self,
        name: &str,
        port: u16,
        kubeconfig: &Path,
    ) -> Result<SiteAgent> {
        let (id, token) = self.register(name).await?;
        let links = Links {
            kas: format!("ws://127.0.0.1:{port}/"),
            ca: None,
            kubeconfig: kubeconfig.to_owned(),
        };
        let agentk = Agentk::start(name, &links, &token, self.folder.path())?;
        Ok(SiteAgent {
            id,
            _agentk: agentk,
        })
    }

    /// The bearer token of the site's user for an agent.
    pub(crate) fn bearer(&self, agent: &str) -> String {
        format!("pat:{agent}:{}", self.user)
    }

    /// Asks through a replica.
    pub(crate) async fn get(
        &self,
        replica: usize,
        path: &str,
        bearer: &str,
    ) -> Result<Response<Bytes>> {
        let port = self.replicas.members[replica].users;
        let url = format!("http://127.0.0.1:{port}/k8s-proxy{path}");
        client::get(&url, bearer).await
    }

    /// Waits until a request through a replica is answered well.
    pub(crate) async fn answers(&self, replica: usize, bearer: &str) -> Result<()> {
        let answers = async || {
            let answer = self.get(replica, "/version", bearer).await.ok()?;
            answer.status().is_success().then_some(())
        };
        let answers = until("an answer through a replica", SOON, answers).await;
        answers.with_context(|| self.tails())
    }

    /// Begins to ask for an agent through every replica, without a pause.
    pub(crate) fn crowd(&self, bearer: &str) -> Crowd {
        let all: Vec<_> = (0..self.replicas.members.len()).collect();
        self.crowd_at(&all, bearer)
    }

    /// The same through these only.
    pub(crate) fn crowd_at(&self, replicas: &[usize], bearer: &str) -> Crowd {
        let members = &self.replicas.members;
        let ports = replicas.iter().map(|replica| members[*replica].users);
        Crowd::start(ports.collect(), bearer)
    }

    /// The only Redis there is.
    pub(crate) fn redis(&mut self) -> Result<&mut Redis> {
        self.replicas.store.single()
    }

    /// A metric of a replica, by its line up to the number.
    pub(crate) async fn metric(&self, replica: usize, name: &str) -> Option<u64> {
        let port = self.replicas.members[replica].observability;
        let url = format!("http://127.0.0.1:{port}/metrics");
        let answer = client::get(&url, "").await.ok()?;
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().parse().ok()
    }

    /// The last lines of all replicas.
    pub(crate) fn tails(&self) -> String {
        let members = self.replicas.members.iter();
        members.map(|member| member.process.tail()).collect()
    }

    /// A folder for the test's files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// Users who ask all the time, and want every answer.
pub(crate) struct Crowd {
    users: JoinSet<()>,
    stop: CancellationToken,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    asked: AtomicUsize,
    failed: AtomicUsize,
    shown: Mutex<Vec<String>>,
}

impl Crowd {
    /// Two users at each of these ports.
    fn start(ports: Vec<u16>, bearer: &str) -> Self {
        let (stop, seen) = (CancellationToken::new(), Arc::<Seen>::default());
        let mut users = JoinSet::new();
        for port in ports.iter().chain(&ports) {
            let (port, bearer) = (*port, bearer.to_owned());
            let (stop, seen) = (stop.clone(), seen.clone());
            users.spawn(async move { ask(port, &bearer, &stop, &seen).await });
        }
        Self { users, stop, seen }
    }

    /// Waits until so many more requests were answered.
    pub(crate) async fn goes_on(&self, more: usize) -> Result<()> {
        let wanted = self.seen.asked.load(Ordering::Relaxed) + more;
        let there = async || (self.seen.asked.load(Ordering::Relaxed) >= wanted).then_some(());
        until("a crowd to go on", SOON, there).await
    }

    /// How many have failed so far.
    pub(crate) fn failed(&self) -> usize {
        self.seen.failed.load(Ordering::Relaxed)
    }

    /// Ends; every request must have been answered well.
    pub(crate) async fn end(mut self) -> Result<usize> {
        self.stop.cancel();
        while let Some(ended) = self.users.join_next().await {
            ended?;
        }
        let asked = self.seen.asked.load(Ordering::Relaxed);
        let shown = self
            .seen
            .shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let failed = self.failed();
        ensure!(
            failed == 0,
            "{failed} of {asked} failed, among them {shown:#?}"
        );
        Ok(asked)
    }
}

async fn ask(port: u16, bearer: &str, stop: &CancellationToken, seen: &Seen) {
    let mut wire = None;
    while !stop.is_cancelled() {
        let asked = once(port, bearer, &mut wire).await;
        seen.asked.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = asked {
            wire = None;
            seen.failed.fetch_add(1, Ordering::Relaxed);
            let mut shown = seen.shown.lock().unwrap_or_else(PoisonError::into_inner);
            if shown.len() < SHOWN {
                shown.push(format!("at {port}: {error:#}"));
            }
        }
    }
}

async fn once(port: u16, bearer: &str, wire: &mut Option<Wire>) -> Result<()> {
    if wire.is_none() {
        *wire = Some(Wire::open(port).await?);
    }
    let call = wire.as_ref().context("there is one now")?;
    let call = call.get("/version", bearer).await?;
    let answer = tokio::time::timeout(SOON, call.response).await??;
    let (head, mut body) = answer.into_parts();
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        text.extend_from_slice(&data);
    }
    let text = String::from_utf8_lossy(&text);
    ensure!(head.status.is_success(), "{}: {text}", head.status);
    Ok(())
}
