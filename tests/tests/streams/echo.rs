//! A connection to a stand-in for the API server that says what it is told.

use anyhow::{Context, Result, ensure};
use tests::{
    parts::{Part, say, skipped},
    payload,
    stub_api::StubApi,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::site::{LIMIT, Site};

const ROUNDS: u64 = 60;
const ROUND_BYTES: usize = 1 << 20;
/// Rounds between two cuts.
const CUT_EACH: u64 = 4;
/// Rounds between two deaths of owners.
const KILL_EACH: u64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgraded_connection_outlives_tunnels_and_owners() -> Result<()> {
    const NAME: &str = "an_upgraded_connection_outlives_tunnels_and_owners";
    if skipped(NAME, &[Part::Redis]) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let stub = StubApi::start().await?;
    let mut site = Site::start(&stub.kubeconfig(folder.path())?, folder.path()).await?;
    let mut socket = upgraded(&site).await?;

    for round in 0..ROUNDS {
        let sent = payload::bytes(round, ROUND_BYTES);
        let echo = echoed(&mut socket, &sent);
        let disturb = async {
            if round % KILL_EACH == KILL_EACH - 1 {
                site.replace_owner(usize::try_from(round / KILL_EACH)?)
                    .await?;
            } else if round % CUT_EACH == 1 {
                site.link.cut();
            }
            anyhow::Ok(())
        };
        let (received, disturbed) = tokio::join!(echo, disturb);
        disturbed?;
        let received = received.with_context(|| site.tails())?;
        ensure!(received == sent, "round {round} came back otherwise");
    }
    socket.shutdown().await?;
    let mut rest = Vec::new();
    let read = tokio::time::timeout(LIMIT, socket.read_to_end(&mut rest));
    read.await.context("the end in time")??;
    let (resumed, broken) = site.counts().await?;

    say(&format!("{ROUNDS} MiB each way, resumed {resumed} times"));
    ensure!(rest.is_empty(), "{} bytes too many", rest.len());
    ensure!(
        resumed >= 5.0 && broken == 0.0,
        "resumed {resumed}, broken {broken}: {}",
        site.breaks()
    );
    site.nothing_is_kept().await?;

    // A client that leaves while nothing carries its connection ends it all the same.
    let mut left = upgraded(&site).await?;
    ensure!(echoed(&mut left, b"here").await? == b"here");
    site.link.cut();
    drop(left);
    site.nothing_is_kept().await?;
    Ok(())
}

async fn upgraded(site: &Site) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(("127.0.0.1", site.replicas.members[0].users)).await?;
    let head = format!(
        "GET /k8s-proxy/api/v1/namespaces/a/pods/b/exec HTTP/1.1\r\nHost: kas\r\n\
         Authorization: Bearer {}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
        site.bearer
    );
    socket.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(socket.read_u8().await?);
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    ensure!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    Ok(socket)
}

async fn echoed(socket: &mut TcpStream, sent: &[u8]) -> Result<Vec<u8>> {
    let (mut read, mut write) = socket.split();
    let mut received = vec![0; sent.len()];
    let both = async {
        tokio::try_join!(write.write_all(sent), read.read_exact(&mut received))?;
        anyhow::Ok(())
    };
    tokio::time::timeout(LIMIT, both)
        .await
        .context("it takes too long")??;
    Ok(received)
}
