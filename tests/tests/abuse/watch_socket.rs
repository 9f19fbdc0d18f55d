//! Thousands of watches on one WebSocket, and a client that does not read what they tell.

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::{Result, ensure};
use tests::{
    http::Socket,
    rig::{Rig, RigAgent},
    wait::until,
};

use crate::memory::{peak_kib, resident_kib};

const SOON: Duration = Duration::from_secs(60);
/// Watches that one WebSocket takes.
const TAKEN: usize = 100;
/// Watches that are asked for besides.
const REFUSED: usize = 2000;
/// How often the same is tried: what is not given back adds up.
const ROUNDS: usize = 4;
/// What watches of one who does not read may take, in KiB: what is on its way on each tunnel, and 16 MiB of events.
const UNREAD_KIB: u64 = 160 << 10;

async fn open(rig: &Rig, credentials: &str) -> Result<Socket> {
    let mut socket = Socket::open(rig.kas.users).await?;
    let handshake = format!(
        "GET /k8s-proxy/watch HTTP/1.1\r\nHost: kas\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Protocol: gitlab-agent-watch-api\r\nAuthorization: Bearer {credentials}\r\n\r\n"
    );
    socket.write(handshake.as_bytes()).await?;
    let head = socket.read_until("\r\n\r\n", SOON).await?;
    ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
    Ok(socket)
}

async fn watch(socket: &mut Socket, number: usize, resource: &str) -> Result<()> {
    let text = format!(
        r#"{{"type":"watch","watch_id":"w{number}","watch_params":{{"version":"v1","resource":"{resource}"}}}}"#
    );
    let length = u16::try_from(text.len())?.to_be_bytes();
    // Masked with zeros, which changes nothing.
    let frame = [&[0x81, 0xFE], &length[..], &[0; 4], text.as_bytes()].concat();
    socket.write(&frame).await
}

/// A watch of its own hears of changes, and requests are served.
async fn check_bystander(rig: &Rig, agent: &RigAgent) -> Result<()> {
    let mut socket = open(rig, &rig.bearer_for(agent)).await?;
    watch(&mut socket, 0, "pods").await?;
    for _ in 0..3 {
        socket.read_until("\"watchEvent\":", SOON).await?;
    }
    rig.check_serves(agent).await
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_watches_on_one_socket_and_unread_events_disturb_nobody() -> Result<()> {
    let rig = Rig::start().await?;
    let agent = rig.agent("shared").await?;
    let token = rig.kas.create_user("greedy", "*", &["agent"]).await?;
    let greedy = format!("pat:{}:{token}", rig.kas.agent_id("shared").await?);
    let watches = || rig.stub.seen().watches.load(Ordering::Relaxed);

    let mut many = open(&rig, &greedy).await?;
    for number in 0..TAKEN {
        watch(&mut many, number, "services").await?;
    }
    let all = until("the watches", SOON, async || {
        (watches() == TAKEN).then_some(())
    });
    all.await?;
    for number in 0..REFUSED {
        watch(&mut many, TAKEN + number, "services").await?;
        many.read_until("(limit: 100)\"}}}", SOON).await?;
    }
    ensure!(watches() == TAKEN, "{} watches", watches());
    check_bystander(&rig, &agent).await?;
    drop(many);
    let none = async || (watches() == 0).then_some(());
    until("the watches to end with their socket", SOON, none).await?;

    let before = resident_kib(&rig.kas.process)?;
    // An allocator keeps some of what it had: what was given back is enough for the next time.
    for _ in 0..ROUNDS {
        let mut unread = open(&rig, &greedy).await?;
        for number in 0..TAKEN {
            watch(&mut unread, number, "pods").await?;
        }
        let begun = async || (watches() > TAKEN / 2).then_some(());
        until("the watches to tell", SOON, begun).await?;
        check_bystander(&rig, &agent).await?;
        drop(unread);
        until("the watches to end with their socket", SOON, none).await?;
    }
    let peak = peak_kib(&rig.kas.process)?;
    ensure!(
        peak < before + UNREAD_KIB,
        "{before} KiB before, {peak} KiB then"
    );
    Ok(())
}
