//! Who was revoked gets nothing more by a resumption.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    agentk::{Agentk, Links},
    chaos::Chaos,
    counting_api::CountingApi,
    http as client,
    kas::{Kas, Options},
    rig::Rig,
    wait::until,
};
use tokio_util::task::AbortOnDropHandle;

use crate::wire::Wire;

/// A busy machine takes longer than a second.
const SOON: Duration = Duration::from_secs(60);
/// Longer than an answer of an agent that is there takes.
const LONG: Duration = Duration::from_millis(500);
const WATCH: &str = "/api/v1/namespaces/default/configmaps?watch=true&resourceVersion=1";

/// A watch, and the events that it has brought.
struct Following {
    events: Arc<Mutex<String>>,
    over: Arc<AtomicBool>,
    _reading: AbortOnDropHandle<()>,
}

impl Following {
    async fn start(port: u16, bearer: &str) -> Result<Self> {
        let wire = Wire::open(port).await?;
        let call = wire.get(WATCH, bearer).await?;
        let answer = tokio::time::timeout(SOON, call.response).await??;
        ensure!(answer.status() == 200, "{answer:?}");
        let (events, over) = (
            Arc::<Mutex<String>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let (heard, ended) = (events.clone(), over.clone());
        let reading = tokio::spawn(async move {
            let (_wire, mut body) = (wire, answer.into_body());
            while let Some(Ok(data)) = body.data().await {
                // A stream that is over needs no window.
                let _ = body.flow_control().release_capacity(data.len());
                let mut events = heard.lock().unwrap_or_else(PoisonError::into_inner);
                events.push_str(&String::from_utf8_lossy(&data));
            }
            ended.store(true, Ordering::Relaxed);
        });
        Ok(Self {
            events,
            over,
            _reading: AbortOnDropHandle::new(reading),
        })
    }

    fn events(&self) -> Vec<Value> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = events.lines().map(serde_json::from_str);
        lines.filter_map(Result::ok).collect()
    }

    fn versions(&self) -> Vec<u64> {
        let version = |event: &Value| {
            let text = event["object"]["metadata"]["resourceVersion"].as_str()?;
            text.parse().ok()
        };
        self.events().iter().filter_map(version).collect()
    }

    async fn brings(&self, more: usize) -> Result<()> {
        let wanted = self.versions().len() + more;
        let there = async || (self.versions().len() >= wanted).then_some(());
        until("events of a watch", SOON, there).await
    }

    async fn ends(&self) -> Result<()> {
        let over = async || self.over.load(Ordering::Relaxed).then_some(());
        until("a watch to end", SOON, over).await
    }
}

/// Waits until the answer to a GET has this status.
async fn becomes(port: u16, bearer: &str, status: u16) -> Result<()> {
    let url = format!("http://127.0.0.1:{port}/k8s-proxy/bytes/1");
    let there = async || {
        let answer = client::get(&url, bearer).await.ok()?;
        (answer.status() == status).then_some(())
    };
    until(&format!("a GET to be answered {status}"), SOON, there).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_somebody_who_was_revoked_is_not_resumed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let kas = Kas::start(Options::default(), folder.path()).await?;
    let api = CountingApi::start(b'a').await?;
    let balancer = Chaos::start(&[kas.agents]).await?;
    let token = kas.create_agent("shared").await?;
    let links = Links {
        kas: format!("ws://127.0.0.1:{}/", balancer.port()),
        ca: None,
        kubeconfig: api.kubeconfig(folder.path())?,
    };
    let _agent = Agentk::start("shared", &links, &token, folder.path())?;
    let id = kas.agent_id("shared").await?;
    let [stays, leaves] = ["stays", "leaves"];
    let stays = kas.create_user(stays, "*", &["agent"]).await?;
    let leaves = kas.create_user(leaves, "*", &["agent"]).await?;
    let [stays, leaves] = [stays, leaves].map(|token| format!("pat:{id}:{token}"));
    becomes(kas.users, &stays, 200).await?;
    let bystander = Following::start(kas.users, &stays).await?;
    let revoked = Following::start(kas.users, &leaves).await?;
    bystander.brings(5).await?;
    revoked.brings(5).await?;

    kas.cli(&["user", "revoke", "leaves"]).await?;
    becomes(kas.users, &leaves, 401).await?;
    balancer.cut();

    let ends = revoked.ends().await;
    ends.with_context(|| kas.process.tail())?;
    bystander.brings(20).await?;
    balancer.cut();
    bystander.brings(20).await?;
    let last = revoked.events().pop().context("no event")?;
    ensure!(
        last["type"] == "ERROR" && last["object"]["code"] == 401,
        "{last}"
    );
    ensure!(!bystander.over.load(Ordering::Relaxed));
    let versions = bystander.versions();
    let each = versions.windows(2).all(|two| two[1] == two[0] + 1);
    ensure!(each, "events are missing or came twice: {versions:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_request_of_somebody_who_was_revoked_is_not_sent() -> Result<()> {
    let rig = Rig::start().await?;
    let agent = rig.agent("away").await?;
    let leaves = rig.kas.create_user("leaves", "*", &["agent"]).await?;
    let leaves = format!("pat:{}:{leaves}", rig.kas.agent_id("away").await?);
    agent.agentk.process.signal("KILL").await?;
    let gone = async || {
        let answer = tokio::time::timeout(LONG, rig.get(&agent, "/version"));
        answer.await.is_err().then_some(())
    };
    until("the agent to be away", SOON, gone).await?;
    let held = "k8s_api_proxy_requests_held ";
    let post = |bearer: &str, body: &'static str| {
        let request =
            http::Request::post(format!("http://127.0.0.1:{}/k8s-proxy/echo", rig.kas.users));
        let request = request.header("authorization", format!("Bearer {bearer}"));
        tokio::spawn(async move { client::send(request.body(body.into())?).await })
    };
    let bystander = post(&rig.bearer_for(&agent), "bystander");
    let revoked = post(&leaves, "revoked");
    let both = async || (metric(&rig.kas, held).await? == 2).then_some(());
    until("both requests to be held", SOON, both).await?;

    rig.kas.cli(&["user", "revoke", "leaves"]).await?;
    let revoked = tokio::time::timeout(SOON, revoked).await;
    let revoked = revoked.with_context(|| rig.kas.process.tail())???;
    let _again = rig.agentk("away", &agent.token)?;

    ensure!(revoked.status() == 401, "{revoked:?}");
    let bystander = tokio::time::timeout(SOON, bystander).await???;
    ensure!(bystander.status() == 200, "{bystander:?}");
    let posted = rig.stub.seen().posted.load(Ordering::Relaxed);
    ensure!(posted == 1, "{posted} requests reached the cluster");
    Ok(())
}

/// A metric of kas, by its line up to the number.
async fn metric(kas: &Kas, name: &str) -> Option<u64> {
    let url = format!("http://127.0.0.1:{}/metrics", kas.observability);
    let answer = client::get(&url, "").await.ok()?;
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok()
}
