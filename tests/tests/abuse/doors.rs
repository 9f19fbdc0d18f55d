//! The wrong protocol at a port, and the right one at the wrong port.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use tests::{
    certs::Certs,
    http::Socket,
    kas::{Kas, Options},
    ports,
    rig::Rig,
    wait::until,
};

use crate::wire::Wire;

/// A busy machine takes longer than a second; but a handshake has ten, and this is about not waiting for them.
const AT_ONCE: Duration = Duration::from_secs(8);
/// The beginning of a ClientHello.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

/// kas with all its ports.
struct Site {
    rig: Rig,
    gitlab: u16,
    replicas: u16,
}

impl Site {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let certs = Certs::create(&folder.path().join("certs"))?;
        let secret = folder.path().join("secret");
        std::fs::write(&secret, BASE64_STANDARD.encode([7; 32]))?;
        let (gitlab, replicas) = (ports::free(), ports::free());
        let listen = |port| {
            format!(
                "{{listen: {{address: '127.0.0.1:{port}', authentication_secret_file: {}}}}}",
                secret.display()
            )
        };
        let more = format!("api: {}\nprivate_api: {}", listen(gitlab), listen(replicas));
        let options = Options {
            more: &more,
            ..Options::default()
        };
        let kas = Kas::start(options, folder.path()).await?;
        let rig = Rig::around(kas, certs, folder).await?;
        Ok(Self {
            rig,
            gitlab,
            replicas,
        })
    }
}

async fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let wire = Wire::open(port).await?;
    let request = http::Request::get(format!("http://kas{path}"));
    let call = wire.request(request.body(())?).await?;
    let (head, mut body) = tokio::time::timeout(AT_ONCE, call.response)
        .await??
        .into_parts();
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        text.extend_from_slice(&data?);
    }
    Ok((head.status.as_u16(), String::from_utf8(text)?))
}

/// What kubectl asks first, at ports that are not for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_a_user_at_another_port_is_told_where_to_go() -> Result<()> {
    let site = Site::start().await?;
    let agent = site.rig.agent("bystander").await?;
    let kas = &site.rig.kas;

    let right = format!("port {}, by http, under /k8s-proxy/", kas.users);
    for (port, expected, words) in [
        (kas.agents, 415, &*right),
        (site.gitlab, 415, &right),
        (site.replicas, 415, "agent.kubernetes_api.listen"),
        (kas.observability, 404, &right),
    ] {
        let answer = get(port, "/api").await;
        let (status, text) = answer.with_context(|| format!("port {port}"))?;
        ensure!(status == expected, "{port}: {status} {text}");
        ensure!(text.contains(words), "{port}: {text}");
    }

    site.rig.check_serves(&agent).await
}

/// The same over HTTP/1.1, as curl asks.
#[tokio::test(flavor = "multi_thread")]
async fn plain_http_1_at_the_agents_port_is_told_where_to_go() -> Result<()> {
    let rig = Rig::start().await?;
    let mut socket = Socket::open(rig.kas.agents).await?;

    socket
        .write(b"GET /api HTTP/1.1\r\nHost: kas\r\n\r\n")
        .await?;

    let (answer, closed) = socket.read_to_end(AT_ONCE).await;
    ensure!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    let right = format!("port {}", rig.kas.users);
    ensure!(closed && answer.contains(&right), "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_at_a_port_of_tls_is_told_so() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let certs = Certs::create(folder.path())?;
    let options = Options {
        agent_tls: Some(&certs),
        user_tls: Some(&certs),
        ..Options::default()
    };
    let kas = Kas::start(options, folder.path()).await?;

    for port in [kas.agents, kas.users] {
        for request in [
            "GET /api HTTP/1.1\r\nHost: kas\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            let mut socket = Socket::open(port).await?;
            socket.write(request.as_bytes()).await?;
            let (answer, closed) = socket.read_to_end(AT_ONCE).await;
            ensure!(answer.starts_with("HTTP/1.1 400 "), "{port}: {answer}");
            ensure!(closed && answer.contains("https://"), "{port}: {answer}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_at_a_plain_port_is_closed_at_once_and_logged() -> Result<()> {
    let site = Site::start().await?;
    let agent = site.rig.agent("bystander").await?;
    let kas = &site.rig.kas;

    for (port, name) in [
        (kas.agents, "\"agents\""),
        (kas.users, "\"users\""),
        (site.gitlab, "\"GitLab\""),
        (site.replicas, "\"other replicas\""),
        (kas.observability, "\"observability\""),
    ] {
        let mut socket = Socket::open(port).await?;
        socket.write(CLIENT_HELLO).await?;
        let (answer, closed) = socket.read_to_end(AT_ONCE).await;
        ensure!(closed && answer.is_empty(), "{name}: {answer:?}");
        let said = async || {
            let output = kas.process.output();
            let says = |line: &str| line.contains(name) && line.contains("the client speaks TLS");
            output.lines().any(says).then_some(())
        };
        until(&format!("a line about {name}"), AT_ONCE, said).await?;
    }

    site.rig.check_serves(&agent).await
}
