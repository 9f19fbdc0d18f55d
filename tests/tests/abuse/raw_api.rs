//! An API server whose answers are bytes that no library would send, and that takes any head.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::json;
use tests::{
    agentk::{Agentk, Links},
    programs,
    rig::Rig,
    wait::until,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::{AbortOnDropHandle, JoinMap};

const CONNECT: Duration = Duration::from_secs(60);

/// Makes an answer from a request's target and the lines of its head. One that switches protocols is
/// followed by what was sent, as it was sent.
pub(crate) type Answer = fn(&str, &[String]) -> Vec<u8>;

/// A running server, and the agent that reaches it.
#[derive(Debug)]
pub(crate) struct RawApi {
    pub(crate) bearer: String,
    _agentk: Agentk,
    _serving: AbortOnDropHandle<()>,
}

impl RawApi {
    /// Starts the server and an agent of this name, and waits until it serves.
    ///
    /// # Errors
    /// When the agent does not connect.
    pub(crate) async fn start(rig: &Rig, name: &str, answer: Answer) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let serving = AbortOnDropHandle::new(tokio::spawn(serve(listener, answer)));
        let token = rig.kas.create_agent(name).await?;
        let links = Links {
            kas: format!("ws://127.0.0.1:{}/", rig.kas.agents),
            ca: None,
            kubeconfig: kubeconfig(rig.folder(), name, port)?,
        };
        // Another agent encodes paths and queries anew, and has limits of its own.
        let program = programs::own_agentk()?;
        let agentk = Agentk::run(program, name, &links, &token, rig.folder())?;
        let bearer = rig.bearer(&rig.kas.agent_id(name).await?);
        let connected = async || {
            let answer = rig.get_as(&bearer, "/version").await.ok()?;
            answer.status().is_success().then_some(())
        };
        let connected = until(&format!("agent {name}"), CONNECT, connected).await;
        connected.with_context(|| agentk.process.tail())?;
        Ok(Self {
            bearer,
            _agentk: agentk,
            _serving: serving,
        })
    }
}

fn kubeconfig(folder: &Path, name: &str, port: u16) -> Result<PathBuf> {
    let file = folder.join(format!("kubeconfig-raw-{name}"));
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
        "users": [{"name": "it", "user": {}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    });
    std::fs::write(&file, text.to_string())?;
    Ok(file)
}

async fn serve(listener: TcpListener, answer: Answer) {
    let mut connections = JoinMap::new();
    while let Ok((socket, peer)) = listener.accept().await {
        connections.spawn(peer, async move {
            // An agent that leaves is no failure.
            connection(BufReader::new(socket), answer).await.ok();
        });
    }
}

async fn connection(mut socket: BufReader<TcpStream>, answer: Answer) -> Result<()> {
    loop {
        let first = line(&mut socket).await?;
        let mut lines = Vec::new();
        loop {
            let line = line(&mut socket).await?;
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let target = first.split(' ').nth(1).context("a request line")?;
        let bytes = match target {
            "/version" => ok("{\"major\":\"1\",\"minor\":\"33\",\"gitVersion\":\"v1.33.0-raw\"}"),
            target => answer(target, &lines),
        };
        socket.get_mut().write_all(&bytes).await?;
        if bytes.starts_with(b"HTTP/1.1 101") {
            let (mut read, mut write) = tokio::io::split(socket);
            tokio::io::copy(&mut read, &mut write).await?;
            return Ok(());
        }
    }
}

async fn line(socket: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    socket.read_line(&mut line).await?;
    let line = line.strip_suffix("\r\n").context("the connection ended")?;
    Ok(line.to_owned())
}

/// An answer with this body.
pub(crate) fn ok(body: &str) -> Vec<u8> {
    let length = body.len();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    format!("{head}content-length: {length}\r\n\r\n{body}").into_bytes()
}
