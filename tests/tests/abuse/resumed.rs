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
use tempfile::TempDir;
use tests::{
    agentk::{Agentk, Links},
    chaos::Chaos,
    counting_api::CountingApi,
    http::{self as client, Socket},
    kas::{Kas, Options},
    rig::Rig,
    wait::until,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{metrics, wire::Wire};

const HANDSHAKE: &[u8] = b"GET /k8s-proxy/-/graph HTTP/1.1\r\nHost: kas\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// A busy machine takes longer than a second.
const SOON: Duration = Duration::from_secs(60);
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

/// An agent behind a load balancer, a user who stays, and one who leaves.
struct Shared {
    kas: Kas,
    api: CountingApi,
    balancer: Chaos,
    stays: String,
    leaves: String,
    _agent: Agentk,
    _folder: TempDir,
}

impl Shared {
    async fn start() -> Result<Self> {
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
        let flags = ["--features=graph"];
        let agent = Agentk::with_flags(&flags, "shared", &links, &token, folder.path())?;
        let id = kas.agent_id("shared").await?;
        let stays = kas.create_user("stays", "*", &["agent"]).await?;
        let leaves = kas.create_user("leaves", "*", &["agent"]).await?;
        let [stays, leaves] = [stays, leaves].map(|token| format!("pat:{id}:{token}"));
        becomes(kas.users, &stays, 200).await?;
        Ok(Self {
            kas,
            api,
            balancer,
            stays,
            leaves,
            _agent: agent,
            _folder: folder,
        })
    }

    /// Takes the tokens of the one who leaves away, and breaks the agent's connections.
    async fn revoke_and_cut(&self) -> Result<()> {
        self.kas.cli(&["user", "revoke", "leaves"]).await?;
        becomes(self.kas.users, &self.leaves, 401).await?;
        self.balancer.cut();
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_somebody_who_was_revoked_is_not_resumed() -> Result<()> {
    let site = Shared::start().await?;
    let kas = &site.kas;
    let bystander = Following::start(kas.users, &site.stays).await?;
    let revoked = Following::start(kas.users, &site.leaves).await?;
    bystander.brings(5).await?;
    revoked.brings(5).await?;

    site.revoke_and_cut().await?;

    let ends = revoked.ends().await;
    ends.with_context(|| kas.process.tail())?;
    bystander.brings(20).await?;
    site.balancer.cut();
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

/// A graph's watch, by the versions that it has told.
struct Told {
    text: Arc<Mutex<String>>,
    over: Arc<AtomicBool>,
    _reading: AbortOnDropHandle<()>,
}

impl Told {
    async fn start(port: u16, credentials: &str) -> Result<Self> {
        let mut socket = Socket::open(port).await?;
        socket.write(HANDSHAKE).await?;
        socket.read_until("\r\n\r\n", SOON).await?;
        let resource = r#"{"version":"v1","resource":"configmaps","namespace":"default"}"#;
        let wanted = format!(r#"{{"credentials":"{credentials}","resource":{resource}}}"#);
        let length = u16::try_from(wanted.len())?.to_be_bytes();
        // Masked with zeros, which changes nothing.
        let frame = [&[0x81, 0xFE], &length[..], &[0; 4], wanted.as_bytes()].concat();
        socket.write(&frame).await?;
        let (text, over) = (
            Arc::<Mutex<String>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let (heard, ended) = (text.clone(), over.clone());
        let reading = tokio::spawn(async move {
            while let Ok(more) = socket.read_until("}", SOON).await {
                let mut text = heard.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&more);
            }
            ended.store(true, Ordering::Relaxed);
        });
        Ok(Self {
            text,
            over,
            _reading: AbortOnDropHandle::new(reading),
        })
    }

    fn text(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.clone()
    }

    fn version(&self) -> u64 {
        let text = self.text();
        let versions = text.split(r#""resourceVersion":""#).skip(1);
        let versions = versions.filter_map(|it| it.split('"').next()?.parse().ok());
        versions.max().unwrap_or_default()
    }

    async fn reaches(&self, version: u64) -> Result<()> {
        let there = async || (self.version() >= version).then_some(());
        let there = until("a version to be told", SOON, there).await;
        there.with_context(|| self.text())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_of_somebody_who_was_revoked_is_not_attached_again() -> Result<()> {
    let site = Shared::start().await?;
    let bystander = Told::start(site.kas.users, &site.stays).await?;
    let revoked = Told::start(site.kas.users, &site.leaves).await?;
    let now = site.api.version();
    bystander.reaches(now + 3).await?;
    revoked.reaches(now + 3).await?;

    site.revoke_and_cut().await?;
    // What comes to be from here on has come by another way.
    let cut = site.api.version();

    bystander.reaches(cut + 10).await?;
    let over = async || revoked.over.load(Ordering::Relaxed).then_some(());
    until("a graph's watch to end", SOON, over).await?;
    let (last, text) = (revoked.version(), revoked.text());
    ensure!(last <= cut, "{last} was told, the way broke at {cut}");
    ensure!(text.contains("Unauthenticated"), "{text}");
    bystander.reaches(site.api.version() + 3).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_request_of_somebody_who_was_revoked_is_not_sent() -> Result<()> {
    let rig = Rig::start().await?;
    let agent = rig.agent("away").await?;
    let leaves = rig.kas.create_user("leaves", "*", &["agent"]).await?;
    let leaves = format!("pat:{}:{leaves}", rig.kas.agent_id("away").await?);
    agent.agentk.process.signal("KILL").await?;
    metrics::is_gone(&rig.kas, "away").await?;
    let post = |bearer: &str, body: &'static str| {
        let request =
            http::Request::post(format!("http://127.0.0.1:{}/k8s-proxy/echo", rig.kas.users));
        let request = request.header("authorization", format!("Bearer {bearer}"));
        tokio::spawn(async move { client::send(request.body(body.into())?).await })
    };
    let bystander = post(&rig.bearer_for(&agent), "bystander");
    let revoked = post(&leaves, "revoked");
    metrics::becomes(&rig.kas, "k8s_api_proxy_requests_held ", 2).await?;

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
