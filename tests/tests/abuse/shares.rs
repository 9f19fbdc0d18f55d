//! One tenant takes all that it can get: others have theirs.

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{
    gitlab_rig::{GitLabRig, Times},
    rig::{Rig, RigAgent},
    wait::until,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    metrics::becomes,
    wire::{Call, Wire},
};

/// A busy machine takes longer than a second.
const SOON: Duration = Duration::from_secs(30);
/// What a connection carries at once, at most.
const STREAMS: usize = 900;

/// Another user, who may use every agent.
async fn greedy(rig: &Rig) -> Result<String> {
    rig.kas.create_user("greedy", "*", &["agent"]).await
}

/// An agent that was there and is not now.
async fn absent(rig: &Rig, name: &str) -> Result<String> {
    let agent = rig.agent(name).await?;
    let id = rig.kas.agent_id(name).await?;
    agent.agentk.process.signal("KILL").await?;
    let gone = async || {
        let answer = tokio::time::timeout(Duration::from_millis(500), rig.get(&agent, "/version"));
        answer.await.is_err().then_some(())
    };
    until("the agent to be absent", SOON, gone).await?;
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
    becomes(&rig.kas, "k8s_api_proxy_requests_held ", 150).await?;
    rig.check_serves(&agent).await?;
    ensure!(rig.stub.seen().held.load(Ordering::Relaxed) == 450);
    rig.stub.seen().release.cancel();
    for call in calls {
        let answer = tokio::time::timeout(SOON, call.response).await??;
        ensure!(answer.status() == 200, "{answer:?}");
    }
    drop(wires);
    becomes(&rig.kas, "k8s_api_proxy_requests_in_flight ", 0).await
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

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_gone_gives_its_places_back_at_once() -> Result<()> {
    let rig = Rig::start().await?;
    let bystander = rig.agent("bystander").await?;
    let absent = rig.bearer(&absent(&rig, "absent").await?);
    let present = rig.bearer_for(&bystander);
    becomes(&rig.kas, "k8s_api_proxy_requests_in_flight ", 0).await?;
    let body = "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

    for reset in [false, true] {
        for (method, rest) in [("GET", "\r\n"), ("POST", body)] {
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
