//! Names that would become paths, and watchers and agents who take more than their share.

mod agent;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use tests::{
    http::Socket,
    rig::{Rig, RigAgent},
    wait::until,
};

use crate::memory::{keeps_nothing, peak_kib, resident_kib};
use agent::{GraphAgent, Tells};

const HANDSHAKE: &[u8] = b"GET /k8s-proxy/-/graph HTTP/1.1\r\nHost: kas\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SOON: Duration = Duration::from_secs(60);
/// Streams of one agent that tell without end.
const ENDLESS: [&str; 4] = ["configmaps", "endpoints", "pods", "services"];
/// What objects of one agent, and all that is on its way, may take in all, in KiB.
const OF_ONE_AGENT_KIB: u64 = 420 << 10;
/// How often the same is tried: what is not given back adds up.
const ROUNDS: usize = 4;
/// What each message of a watch has in it.
const SYNCED: &str = "\"synced\":true";
/// Different resources that one caller may watch.
const OF_ONE_CALLER: usize = 250;

/// A frame with a text, masked with zeros, which changes nothing.
fn frame(text: &str) -> Result<Vec<u8>> {
    let length = u16::try_from(text.len())?.to_be_bytes();
    Ok([&[0x81, 0xFE], &length[..], &[0; 4], text.as_bytes()].concat())
}

/// A namespace that goes on as another path is refused before anybody is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_no_way_to_other_resources() -> Result<()> {
    let rig = Rig::start().await?;
    let agent = rig.agent("bystander").await?;
    let credentials = rig.bearer_for(&agent);
    for resource in [
        r#"{"version":"v1","resource":"configmaps","namespace":"kube-system/secrets?x=","whole":true}"#,
        r#"{"version":"v1?x=1","resource":"configmaps"}"#,
        r#"{"version":"v1","resource":"pods/exec"}"#,
    ] {
        let mut socket = watch(&rig, &credentials, resource).await?;
        let refused = "\"code\":\"InvalidArgument\"";
        socket.read_until(refused, SOON).await?;
    }
    rig.check_serves(&agent).await?;
    let asked = rig.stub.seen().asked();
    let reads = |path: &String| path.contains("secrets") || path.contains("configmaps");
    ensure!(!asked.iter().any(reads), "{asked:?}");
    Ok(())
}

/// Begins to watch over a WebSocket.
async fn watch(rig: &Rig, credentials: &str, resource: &str) -> Result<Socket> {
    let mut socket = Socket::open(rig.kas.users).await?;
    socket.write(HANDSHAKE).await?;
    socket.read_until("\r\n\r\n", SOON).await?;
    let wanted = format!(r#"{{"credentials":"{credentials}","resource":{resource}}}"#);
    socket.write(&frame(&wanted)?).await?;
    Ok(socket)
}

/// Watches until it is told this. It is refused as long as no tunnel for it is there: those of the rig's own agent, which
/// are, lead to no objects. So it is where all of these are in use on a busy machine, by questions whether callers may
/// watch, while tunnels for watches are idle.
async fn told(rig: &Rig, credentials: &str, resource: &str, text: &str) -> Result<Socket> {
    let watching = async || {
        let mut socket = watch(rig, credentials, resource).await.ok()?;
        socket.read_until(text, SOON).await.ok()?;
        Some(socket)
    };
    let told = until(&format!("{text} of {resource}"), 3 * SOON, watching).await;
    told.with_context(|| rig.kas.process.tail())
}

/// Hears of some changes that come from now on.
async fn hears(socket: &mut Socket) -> Result<()> {
    for _ in 0..5 {
        socket.read_until(SYNCED, SOON).await?;
    }
    Ok(())
}

/// An agent tells objects without end, and never that these are all.
#[tokio::test(flavor = "multi_thread")]
async fn objects_without_end_take_a_bounded_part_and_end_nobody_elses() -> Result<()> {
    let rig = Rig::start().await?;
    let bystander = rig.agent("bystander").await?;
    let endless = rig.agent("endless").await?;
    let port = rig.kas.agents;
    let _one = GraphAgent::connect(port, &bystander.token, Tells::Changes, 2).await?;
    let own = r#"{"version":"v1","resource":"configmaps"}"#;
    let mut hearing = told(&rig, &rig.bearer_for(&bystander), own, SYNCED).await?;
    hears(&mut hearing).await?;
    let first = resident_kib(&rig.kas.process)?;

    let other = GraphAgent::connect(port, &endless.token, Tells::WithoutEnd, ENDLESS.len()).await?;
    // An allocator keeps some of what it had: what was given back is enough for the next time.
    for _ in 0..ROUNDS {
        tell_without_end(&rig, &endless).await?;
        hears(&mut hearing).await?;
        rig.check_serves(&bystander).await?;
        rig.check_serves(&endless).await?;
    }
    let peak = peak_kib(&rig.kas.process)?;
    ensure!(
        peak < first + OF_ONE_AGENT_KIB,
        "{first} KiB before, {peak} KiB then"
    );

    drop(other);
    hears(&mut hearing).await
}

/// Watches what an agent tells, until kas has heard enough of it.
async fn tell_without_end(rig: &Rig, agent: &RigAgent) -> Result<()> {
    let credentials = rig.bearer_for(agent);
    let refused = "\"code\":\"ResourceExhausted\"";
    let resources = ENDLESS.map(|it| format!(r#"{{"version":"v1","resource":"{it}"}}"#));
    let watches = resources
        .iter()
        .map(|it| told(rig, &credentials, it, refused));
    try_join_all(watches).await.map(drop)
}

/// One caller watches as many different resources as it can.
#[tokio::test(flavor = "multi_thread")]
async fn resources_that_one_watches_leave_room_for_those_of_others() -> Result<()> {
    let rig = Rig::start().await?;
    let agent = rig.agent("shared").await?;
    let token = rig.kas.create_user("greedy", "*", &["agent"]).await?;
    let greedy = format!("pat:{}:{token}", rig.kas.agent_id("shared").await?);
    let tunnels = OF_ONE_CALLER + 10;
    let _told = GraphAgent::connect(rig.kas.agents, &agent.token, Tells::Changes, tunnels).await?;
    let of = |namespace: usize| {
        format!(r#"{{"version":"v1","resource":"configmaps","namespace":"of-{namespace}"}}"#)
    };

    let mut watches = Vec::new();
    for namespace in 0..OF_ONE_CALLER {
        watches.push(told(&rig, &greedy, &of(namespace), SYNCED).await?);
    }
    let mut refused = watch(&rig, &greedy, &of(OF_ONE_CALLER)).await?;
    let words = format!(
        "too many different resources watched: the limit for one is reached ({OF_ONE_CALLER})"
    );
    refused.read_until(&words, SOON).await?;

    // One that is watched already is nobody's new one.
    let mut shared = watch(&rig, &greedy, &of(0)).await?;
    hears(&mut shared).await?;
    let theirs = of(OF_ONE_CALLER);
    let mut bystander = told(&rig, &rig.bearer_for(&agent), &theirs, SYNCED).await?;
    hears(&mut bystander).await?;
    rig.check_serves(&agent).await
}

/// Strangers announce 4 MiB each, and send nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_announced_frame_takes_no_memory() -> Result<()> {
    let rig = Rig::start().await?;
    let agent = rig.agent("bystander").await?;
    let before = resident_kib(&rig.kas.process)?;

    let sockets = announced(&rig, 100).await?;
    rig.check_serves(&agent).await?;
    let peak = peak_kib(&rig.kas.process)?;
    ensure!(
        peak < before + (64 << 10),
        "{before} KiB before, {peak} KiB then"
    );
    drop(sockets);
    keeps_nothing(&rig, &agent, async || announced(&rig, 20).await.map(drop)).await
}

async fn announced(rig: &Rig, count: usize) -> Result<Vec<Socket>> {
    let length = (4_u64 << 20).to_be_bytes();
    let header = [&[0x81, 0xFF], &length[..], &[0; 4]].concat();
    let mut sockets = Vec::new();
    for _ in 0..count {
        let mut socket = Socket::open(rig.kas.users).await?;
        socket.write(HANDSHAKE).await?;
        socket.read_until("\r\n\r\n", SOON).await?;
        socket.write(&header).await?;
        sockets.push(socket);
    }
    Ok(sockets)
}
