//! Origins: who says where a page comes from, and to whom that matters.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::{http::Socket, rig::Rig};

use crate::{
    http1::{authorization, send},
    raw_api::{RawApi, ok},
};

const LIMIT: Duration = Duration::from_secs(60);

fn answer(target: &str, _: &[String]) -> Vec<u8> {
    match target.starts_with("/exec") {
        true => {
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
            sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
            sec-websocket-protocol: v4.channel.k8s.io\r\n\r\n"
                .to_vec()
        }
        false => ok("{}"),
    }
}

/// Python's websocket-client sends an `Origin` by itself: that of the host it dials.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_sends_an_origin_by_itself_may_exec() -> Result<()> {
    let rig = Rig::start().await?;
    let bystander = rig.agent("bystander").await?;
    let api = RawApi::start(&rig, "raw", answer).await?;
    let port = rig.kas.users;

    for scheme in ["http", "https"] {
        let mut socket = Socket::open(port).await?;
        let handshake = format!(
            "GET /k8s-proxy/exec?command=sh HTTP/1.1\r\nUpgrade: websocket\r\nHost: 127.0.0.1:{port}\r\n\
             Origin: {scheme}://127.0.0.1:{port}\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\nConnection: Upgrade\r\n\
             sec-websocket-protocol: v4.channel.k8s.io\r\n{}\r\n",
            authorization(&api.bearer)
        );
        socket.write(handshake.as_bytes()).await?;
        let head = socket.read_until("\r\n\r\n", LIMIT).await?;
        ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
        // Whatever looks like a request is none any more.
        socket.write(b"GET /a#b HTTP/1.1\r\n\r\n").await?;
        let echoed = socket.read_until("\r\n\r\n", LIMIT).await?;
        ensure!(echoed == "GET /a#b HTTP/1.1\r\n\r\n", "{echoed}");
    }
    rig.check_serves(&bystander).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_page_may_not_use_what_a_browser_adds() -> Result<()> {
    let rig = Rig::start().await?;
    let bystander = rig.agent("bystander").await?;
    let api = RawApi::start(&rig, "raw", answer).await?;
    let get = async |lines: &str| {
        let lines = format!("origin: https://evil.example.com\r\n{lines}");
        send(rig.kas.users, "GET /k8s-proxy/api HTTP/1.1", &lines, b"").await
    };

    let by_cookie = "cookie: _gitlab_kas=session\r\ngitlab-agent-id: 1\r\nx-csrf-token: x\r\n";
    get(by_cookie).await?.says(403, "Origin")?;
    get("sec-websocket-protocol: websocket-token.kas.gitlab.com.x\r\n")
        .await?
        .says(403, "Origin")?;
    let by_token = get(&authorization(&api.bearer)).await?;
    ensure!(by_token.code == 200, "{by_token:?}");
    for name in [
        "access-control-allow-origin",
        "access-control-allow-credentials",
    ] {
        ensure!(
            by_token.values(name).next().is_none(),
            "{name}: {by_token:?}"
        );
    }
    rig.check_serves(&bystander).await
}
