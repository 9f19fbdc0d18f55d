//! One tenant takes all that it can get: others have theirs.

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, stream::FuturesUnordered};
use h2::RecvStream;
use http::Response;
use tempfile::TempDir;
use tests::{
    agentk::{Agentk, Links},
    gitlab_rig::{GitLabRig, Times},
    http as client,
    parts::{Part, skipped},
    replicas::Replicas,
    rig::{Rig, RigAgent},
    stub_api::{LARGE_BYTES, StubApi},
    wait::until,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    memory::{peak_kib, resident_kib},
    metrics::{becomes, is_gone, metric, metric_at},
    wire::{Call, Wire},
};

/// A busy machine takes longer than a second.
const SOON: Duration = Duration::from_secs(60);
/// What a connection carries at once, at most.
const STREAMS: usize = 900;
/// Answers that were cut because nobody read them.
const CUT: &str = "unread_answers_cut_total ";
/// Both windows of an agent's connections, and as much again for all that comes with them, in KiB.
const WINDOWS_KIB: u64 = 256 << 10;
/// How often the same is tried: what is not given back adds up.
const ROUNDS: usize = 3;
/// More of a body than is read while a request waits for its agent.
const LONG_BYTES: usize = 100 << 10;
/// Answers that use up the windows of an agent's connections.
const UNREAD: usize = 140;
/// Of these, so many are surely cut.
const MOST: usize = 100;

/// Another user, who may use every agent.
async fn greedy(rig: &Rig) -> Result<String> {
    rig.kas.create_user("greedy", "*", &["agent"]).await
}

/// An agent that was there and is not now.
async fn absent(rig: &Rig, name: &str) -> Result<String> {
    let agent = rig.agent(name).await?;
    let id = rig.kas.agent_id(name).await?;
    agent.agentk.process.signal("KILL").await?;
    is_gone(&rig.kas, name).await?;
    Ok(id)
}

/// So many GETs of one caller, on as many connections as it takes.
async fn many(port: u16, count: usize, path: &str, bearer: &str) -> Result<(Vec<Wire>, Vec<Call>)> {
    let (mut wires, mut calls) = (Vec::new(), Vec::new());
    while calls.len() < count {
        let wire = Wire::open(port).await?;
        for _ in 0..STREAMS.min(count - calls.len()) {
            calls.push(wire.get(path, bearer).await?);
        }
        wires.push(wire);
    }
    Ok((wires, calls))
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_absent_agents_leave_room_for_those_of_others() -> Result<()> {
    let rig = Rig::start().await?;
    let bystander = rig.agent("bystander").await?;
    let token = greedy(&rig).await?;
    let absent = [absent(&rig, "one").await?, absent(&rig, "two").await?];

    let mut held = Vec::new();
    for id in &absent {
        let bearer = format!("pat:{id}:{token}");
        held.push(many(rig.kas.users, 700, "/version", &bearer).await?);
    }

    becomes(&rig.kas, "k8s_api_proxy_requests_held ", 1000).await?;
    let over = "k8s_api_proxy_requests_over_limit_total{limit=\"HeldOfCaller\"} ";
    becomes(&rig.kas, over, 400).await?;
    rig.check_serves(&bystander).await?;
    drop(held);
    becomes(&rig.kas, "k8s_api_proxy_requests_held ", 0).await?;
    becomes(&rig.kas, "k8s_api_proxy_requests_in_flight ", 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_users_slow_requests_leave_tunnels_of_their_agent_to_others() -> Result<()> {
    let rig = Rig::start().await?;
    let agent = rig.agent("shared").await?;
    let token = greedy(&rig).await?;
    let bearer = format!("pat:{}:{token}", rig.kas.agent_id("shared").await?);

    let (wires, calls) = many(rig.kas.users, 600, "/hold", &bearer).await?;

    opens(&rig, &agent, 450).await?;
    rig.check_serves(&agent).await?;
    ensure!(rig.stub.seen().held.load(Ordering::Relaxed) == 450);
    let mut calls: FuturesUnordered<_> = calls.into_iter().map(|call| call.response).collect();
    for _ in 0..150 {
        let answer = tokio::time::timeout(SOON, calls.next()).await?;
        is_over_its_share(answer.context("too few are answered")??).await?;
    }
    rig.check_serves(&agent).await?;
    rig.stub.seen().release.cancel();
    while let Some(answer) = tokio::time::timeout(SOON, calls.next()).await? {
        let answer = answer?;
        ensure!(answer.status() == 200, "{answer:?}");
    }
    drop(wires);
    becomes(&rig.kas, "k8s_api_proxy_requests_in_flight ", 0).await
}

/// The answer to a caller who uses all tunnels of an agent that it may use.
async fn is_over_its_share(answer: Response<RecvStream>) -> Result<()> {
    ensure!(answer.status() == 429, "{answer:?}");
    let mut body = answer.into_body();
    let text = body.data().await.context("no words")??;
    let text = String::from_utf8_lossy(&text);
    ensure!(text.contains("all 450 tunnels"), "{text}");
    Ok(())
}

async fn opens(rig: &Rig, agent: &RigAgent, wanted: usize) -> Result<()> {
    let open = &rig.stub.seen().held;
    let there = async || (open.load(Ordering::Relaxed) == wanted).then_some(());
    let there = until(&format!("{wanted} open requests"), SOON, there).await;
    there.with_context(|| {
        let tail = agent.agentk.process.tail();
        format!("{} are open\n{tail}", open.load(Ordering::Relaxed))
    })
}

/// Windows of an agent's connections are used up by answers that nobody reads.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_leave_room_for_those_of_others() -> Result<()> {
    let rig = Rig::start().await?;
    let agent = rig.agent("shared").await?;
    let token = greedy(&rig).await?;
    let bearer = format!("pat:{}:{token}", rig.kas.agent_id("shared").await?);
    large(&rig, &agent).await?;
    let first = resident_kib(&rig.kas.process)?;
    // An allocator keeps some of what it had: what was given back is enough for the next time.
    for _ in 0..ROUNDS {
        leave_unread(&rig, &agent, &bearer).await?;
    }
    let peak = peak_kib(&rig.kas.process)?;
    ensure!(
        peak < first + WINDOWS_KIB,
        "{first} KiB before, {peak} KiB then"
    );
    Ok(())
}

/// A bystander's answer that is as large.
async fn large(rig: &Rig, agent: &RigAgent) -> Result<()> {
    let answer = tokio::time::timeout(SOON, rig.get(agent, "/large")).await;
    let answer = answer.context("an answer takes too long")??;
    ensure!(answer.body().len() == LARGE_BYTES, "{:?}", answer.status());
    Ok(())
}

/// Asks for more than the windows of the agent's connections hold, and reads nothing until most of it was cut.
async fn leave_unread(rig: &Rig, agent: &RigAgent, bearer: &str) -> Result<()> {
    let already = metric(&rig.kas, CUT).await.unwrap_or(0);
    let wire = Wire::open_narrow(rig.kas.users).await?;
    let mut calls = Vec::new();
    for _ in 0..UNREAD {
        calls.push(wire.get("/large", bearer).await?);
    }
    while metric(&rig.kas, CUT).await < Some(already + MOST as u64) {
        large(rig, agent)
            .await
            .with_context(|| rig.kas.process.tail())?;
    }
    rig.check_serves(agent).await?;

    let (mut cut, mut whole) = (0, 0);
    // Together, as they share one window.
    let mut reading: FuturesUnordered<_> = calls.into_iter().map(read).collect();
    while let Some(read) = tokio::time::timeout(SOON, reading.next()).await? {
        match read {
            Ok(length) => whole += usize::from(length == LARGE_BYTES),
            Err(_) => cut += 1,
        }
    }
    ensure!(cut + whole == UNREAD, "{cut} were cut, {whole} are whole");
    ensure!(cut >= MOST, "{whole} were left alone");
    becomes(&rig.kas, CUT, already + u64::try_from(cut)?).await?;
    becomes(&rig.kas, "k8s_api_proxy_requests_in_flight ", 0).await
}

/// The same attacks at a replica that does not hold the agent's tunnels: its owner counts, and says the same.
#[tokio::test(flavor = "multi_thread")]
async fn shares_of_an_agent_hold_through_a_replica_that_is_not_its_owner() -> Result<()> {
    if skipped(
        "shares_of_an_agent_hold_through_a_replica_that_is_not_its_owner",
        &[Part::Redis],
    ) {
        return Ok(());
    }
    let pair = Pair::start().await?;
    let other = pair.replicas.members[1].users;
    let wire = Wire::open_narrow(other).await?;
    let mut unread = Vec::new();
    for _ in 0..UNREAD {
        unread.push(wire.get("/large", &pair.greedy).await?);
    }
    // The one that asks holds what came to it, the owner what did not.
    let counted = async || -> Option<u64> {
        let [owner, other] = &pair.replicas.members[..] else {
            return None;
        };
        let owner = metric_at(owner.observability, CUT).await?;
        Some(owner + metric_at(other.observability, CUT).await?)
    };
    while counted().await < Some(MOST as u64) {
        pair.check_serves().await?;
    }
    drop((unread, wire));

    let (_wires, calls) = many(other, 600, "/hold", &pair.greedy).await?;
    let mut calls: FuturesUnordered<_> = calls.into_iter().map(|call| call.response).collect();
    for _ in 0..150 {
        let answer = tokio::time::timeout(SOON, calls.next()).await?;
        is_over_its_share(answer.context("too few are answered")??).await?;
    }
    ensure!(pair.stub.seen().held.load(Ordering::Relaxed) == 450);
    pair.check_serves().await?;
    pair.stub.seen().release.cancel();
    while let Some(answer) = tokio::time::timeout(SOON, calls.next()).await? {
        let answer = answer?;
        ensure!(answer.status() == 200, "{answer:?}");
    }
    pair.check_serves().await
}

/// Two replicas, of which the first holds an agent's tunnels.
struct Pair {
    replicas: Replicas,
    stub: StubApi,
    greedy: String,
    bystander: String,
    agentk: Agentk,
    _folder: TempDir,
}

impl Pair {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (path, stub) = (folder.path(), StubApi::start().await?);
        let replicas = Replicas::start(2, path).await?;
        let token = replicas.cli(&["agent", "create", "shared"]).await?;
        let list = replicas.cli(&["agent", "list", "-o", "json"]).await?;
        let list: Vec<serde_json::Value> = serde_json::from_str(&list)?;
        let agent = list.iter().find(|agent| agent["name"] == "shared");
        let id = &agent.context("no agent")?["id"];
        let mut users = Vec::new();
        for name in ["greedy", "bystander"] {
            let token = replicas.cli(&["user", "create", name]).await?;
            let grant = [
                "access", "grant", "--agent", "*", "--user", name, "--as", "agent",
            ];
            replicas.cli(&grant).await?;
            users.push(format!("pat:{id}:{token}"));
        }
        let links = Links {
            kas: format!("ws://127.0.0.1:{}/", replicas.members[0].agents),
            ca: None,
            kubeconfig: stub.kubeconfig(path)?,
        };
        let pair = Self {
            agentk: Agentk::start("shared", &links, &token, path)?,
            replicas,
            stub,
            greedy: users.remove(0),
            bystander: users.remove(0),
            _folder: folder,
        };
        let serves = async || pair.check_serves().await.ok();
        let serves = until("the agent", SOON, serves).await;
        serves.with_context(|| pair.agentk.process.tail())?;
        Ok(pair)
    }

    /// Checks that a bystander is served by both.
    async fn check_serves(&self) -> Result<()> {
        for member in &self.replicas.members {
            let url = format!("http://127.0.0.1:{}/k8s-proxy/version", member.users);
            let answer = tokio::time::timeout(SOON, client::get(&url, &self.bystander)).await;
            let answer = answer.context("an answer takes too long")??;
            let tail = || member.process.tail();
            ensure!(answer.status() == 200, "{answer:?}\n{}", tail());
        }
        Ok(())
    }
}

/// Reads an answer to its end, and gives its length.
async fn read(call: Call) -> Result<usize> {
    let mut body = call.response.await?.into_body();
    let mut read = 0;
    while let Some(data) = body.data().await {
        let length = data?.len();
        body.flow_control().release_capacity(length)?;
        read += length;
    }
    Ok(read)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_gone_gives_its_places_back_at_once() -> Result<()> {
    let rig = Rig::start().await?;
    let bystander = rig.agent("bystander").await?;
    let absent = rig.bearer(&absent(&rig, "absent").await?);
    let present = rig.bearer_for(&bystander);
    becomes(&rig.kas, "k8s_api_proxy_requests_in_flight ", 0).await?;
    let body = "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    // Behind these kas does not read on, and does not see the end of what is sent.
    let pipelined = "\r\nGET /k8s-proxy/version HTTP/1.1\r\nhost: kas\r\n\r\n";
    let long = format!(
        "content-length: {LONG_BYTES}\r\n\r\n{}",
        "x".repeat(LONG_BYTES)
    );

    for reset in [false, true] {
        for (method, rest) in [
            ("GET", "\r\n"),
            ("POST", body),
            ("GET", pipelined),
            ("POST", &long),
        ] {
            let head = |path, bearer| {
                format!(
                    "{method} /k8s-proxy{path} HTTP/1.1\r\nhost: kas\r\nauthorization: Bearer {bearer}\r\n{rest}"
                )
            };
            let socket = ask(rig.kas.users, &head("/version", &absent)).await?;
            becomes(&rig.kas, "k8s_api_proxy_requests_held ", 1).await?;
            leave(socket, reset)?;
            becomes(&rig.kas, "k8s_api_proxy_requests_held ", 0).await?;
            becomes(&rig.kas, "k8s_api_proxy_requests_in_flight ", 0).await?;

            let socket = ask(rig.kas.users, &head("/hold", &present)).await?;
            opens(&rig, &bystander, 1).await?;
            leave(socket, reset)?;
            opens(&rig, &bystander, 0).await?;
            becomes(&rig.kas, "k8s_api_proxy_requests_in_flight ", 0).await?;
        }
    }
    rig.check_serves(&bystander).await
}

async fn ask(port: u16, request: &str) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
    socket.write_all(request.as_bytes()).await?;
    Ok(socket)
}

/// Closes a connection in order, or breaks it.
fn leave(socket: TcpStream, reset: bool) -> Result<()> {
    if reset {
        socket.set_zero_linger()?;
    }
    drop(socket);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_tokens_leave_calls_to_gitlab_to_jobs() -> Result<()> {
    let times = Times {
        good: 1,
        refused: 1,
        agents_grace: 600,
        callers_grace: 0,
    };
    let rig = GitLabRig::start(times).await?;
    let _agent = rig
        .connected("production", "agent-5-a", "ci:5:job-100")
        .await?;

    let wire = Wire::open(rig.users).await?;
    let mut calls = Vec::new();
    for number in 0..800 {
        let bearer = format!("ci:5:made-up-{number}");
        calls.push(wire.get("/version", &bearer).await?);
    }
    for _ in 0..3 {
        let known = rig.get("ci:5:job-100", "/version").await?;
        ensure!(known.status() == 200, "{known:?}");
    }
    let elsewhere = Wire::open_from("127.0.0.2", rig.users).await?;
    let new = elsewhere.get("/version", "ci:5:job-101").await?;
    let new = tokio::time::timeout(SOON, new.response).await??;
    ensure!(new.status() == 200, "{new:?}\n{}", rig.kas.tail());

    let mut refused = 0;
    for call in calls {
        let answer = tokio::time::timeout(SOON, call.response).await??;
        ensure!(matches!(answer.status().as_u16(), 401 | 429), "{answer:?}");
        refused += usize::from(answer.status() == 429);
    }
    ensure!(refused > 400, "{refused} of 800 were refused by address");
    Ok(())
}
