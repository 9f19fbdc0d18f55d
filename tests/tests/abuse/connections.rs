//! Connections and file descriptors that somebody takes and does not use.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{
    http::{self, Socket},
    kas::Options,
    rig::Rig,
    wait::until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::wire::Wire;

/// A busy machine takes longer than a second.
const SOON: Duration = Duration::from_secs(60);

/// What a probe waits for its answer: less than the ten seconds that a stranger has to say something.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

async fn probe(port: u16, path: &str) -> Result<()> {
    let url = format!("http://127.0.0.1:{port}{path}");
    let answer = tokio::time::timeout(PROBE_TIMEOUT, http::get(&url, "")).await??;
    ensure!(answer.status() == 200, "{answer:?}");
    Ok(())
}

/// 600 connections on which nothing is said, where 400 files may be open.
#[tokio::test(flavor = "multi_thread")]
async fn idle_strangers_take_neither_probes_nor_what_others_have() -> Result<()> {
    let rig = Rig::start_with_options(Options {
        open_files: Some(400),
        ..Options::default()
    })
    .await?;
    let agent = rig.agent("bystander").await?;
    let bearer = rig.bearer_for(&agent);
    let open = Wire::open(rig.kas.users).await?;
    let served = async || {
        let answer = open.get("/version", &bearer).await?.response;
        let answer = tokio::time::timeout(SOON, answer).await??;
        ensure!(answer.status() == 200, "{answer:?}");
        anyhow::Ok(())
    };
    served().await?;

    let mut strangers = Vec::new();
    for _ in 0..300 {
        for port in [rig.kas.agents, rig.kas.users] {
            strangers.push(Socket::open(port).await?);
        }
    }

    for _ in 0..3 {
        for path in ["/liveness", "/readiness", "/metrics"] {
            let answered = probe(rig.kas.observability, path).await;
            answered.with_context(|| rig.kas.process.tail())?;
        }
        served().await?;
    }
    // They have ten seconds to say something; then there is room again.
    let new = async || {
        let asked = tokio::time::timeout(PROBE_TIMEOUT, rig.get(&agent, "/version"));
        asked.await.ok()?.ok().filter(|it| it.status() == 200)
    };
    let new = until("a new connection to be served", SOON, new).await;
    new.with_context(|| rig.kas.process.tail())?;
    drop(strangers);
    rig.check_serves(&agent).await
}

/// Those who take all places of the probes' port, and more.
#[tokio::test(flavor = "multi_thread")]
async fn idle_strangers_at_the_probes_port_keep_no_probe_out() -> Result<()> {
    let rig = Rig::start_with_options(Options {
        open_files: Some(400),
        ..Options::default()
    })
    .await?;
    let agent = rig.agent("bystander").await?;

    let mut strangers = Vec::new();
    for _ in 0..600 {
        let mut stranger = Socket::open(rig.kas.observability).await?;
        stranger.write(b"GET /liveness HTTP/1.1\r\n").await.ok();
        strangers.push(stranger);
    }

    for path in ["/liveness", "/readiness", "/metrics"] {
        probe(rig.kas.observability, path).await?;
    }
    rig.check_serves(&agent).await
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const GOAWAY: u8 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;
/// More than any port takes.
const FAULTS: u32 = 60_000;

/// A request whose sender then says that its window is larger than HTTP/2 knows.
fn overflow(stream: u32) -> Vec<u8> {
    // GET / of http://k, from HPACK's static table; the name is a literal.
    const HEAD: &[u8] = b"\x82\x86\x84\x41\x01k";
    let id = stream.to_be_bytes();
    let headers = [&[0, 0, HEAD.len() as u8, 1, 0x04], &id[..], HEAD].concat();
    let update = [&[0, 0, 4, 8, 0], &id[..], &0x7fff_ffff_u32.to_be_bytes()].concat();
    [headers, update].concat()
}

/// The reason with which a server ends the connection, whatever else it sends before. None if it is gone
/// without one: a connection that is closed while there is more to read is reset, and what was on its way lost.
async fn end(socket: &mut (impl AsyncReadExt + Unpin)) -> Result<Option<u32>> {
    loop {
        let mut head = [0; 9];
        if socket.read_exact(&mut head).await.is_err() {
            return Ok(None);
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        if socket.read_exact(&mut payload).await.is_err() {
            return Ok(None);
        }
        if head[3] == GOAWAY {
            let reason = payload.get(4..8).context("a short GOAWAY")?;
            return Ok(Some(u32::from_be_bytes(reason.try_into()?)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_without_end_end_the_connection() -> Result<()> {
    let rig = Rig::start().await?;
    let agent = rig.agent("bystander").await?;

    for port in [rig.kas.agents, rig.kas.users] {
        let socket = TcpStream::connect(("127.0.0.1", port)).await?;
        let (mut from, mut to) = socket.into_split();
        let sending = async {
            to.write_all(PREFACE).await.ok();
            for number in 0..FAULTS {
                // Refused when the server has had enough.
                if to.write_all(&overflow(2 * number + 1)).await.is_err() {
                    break;
                }
            }
        };
        let both = async { tokio::join!(sending, end(&mut from)).1 };
        let ended = tokio::time::timeout(SOON, both).await;
        let reason = ended.with_context(|| format!("no end on port {port}"))??;
        ensure!(
            reason.is_none_or(|reason| reason == ENHANCE_YOUR_CALM),
            "{reason:?}"
        );
    }

    rig.check_serves(&agent).await
}
