//! A stand-in for an API server that keeps every request byte for byte.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::{AbortOnDropHandle, JoinMap};

use crate::{
    generate::{self, Answer, Framing},
    http1,
};

/// The header that carries a case's number.
pub(crate) const CASE: &str = "x-case";

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Came {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// A running recorder; dropping it stops it.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) port: u16,
    came: Arc<Mutex<HashMap<u64, Vec<Came>>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Recorder {
    pub(crate) async fn start(seed: u64) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let came = Arc::<Mutex<HashMap<u64, Vec<Came>>>>::default();
        let all = came.clone();
        let serving = tokio::spawn(async move {
            let mut connections = JoinMap::new();
            while let Ok((socket, peer)) = listener.accept().await {
                let came = all.clone();
                connections.spawn(peer, async move {
                    // A client that leaves is no failure.
                    connection(socket, seed, &came).await.ok();
                });
            }
        });
        Ok(Self {
            port,
            came,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    /// Takes out what came of a case.
    pub(crate) fn take(&self, case: u64) -> Vec<Came> {
        let mut came = self.came.lock().expect("nobody panics with it");
        came.remove(&case).unwrap_or_default()
    }

    /// Whether nothing came of a case.
    pub(crate) fn came_not(&self, case: u64) -> bool {
        let came = self.came.lock().expect("nobody panics with it");
        !came.contains_key(&case)
    }

    /// Writes a kubeconfig for it.
    pub(crate) fn kubeconfig(&self, folder: &Path) -> Result<PathBuf> {
        let file = folder.join("kubeconfig-recorder");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": format!("http://127.0.0.1:{}", self.port)}}],
            "users": [{"name": "it", "user": {}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        });
        std::fs::write(&file, text.to_string())?;
        Ok(file)
    }
}

async fn connection(
    socket: TcpStream,
    seed: u64,
    all: &Mutex<HashMap<u64, Vec<Came>>>,
) -> Result<()> {
    let mut socket = BufReader::new(socket);
    loop {
        let came = request(&mut socket).await?;
        let is_head = came.method == "HEAD";
        let case = came.headers.iter().find(|(name, _)| name == CASE);
        let case = case.and_then(|(_, number)| number.parse().ok());
        let answer = match case {
            Some(case) => {
                let mut all = all.lock().expect("nobody panics with it");
                all.entry(case).or_default().push(came);
                generate::answer(seed, case)
            }
            None => Answer {
                status: 200,
                headers: vec![("content-type".to_owned(), "application/json".to_owned())],
                body: b"{}".to_vec(),
                framing: Framing::Length,
            },
        };
        socket
            .get_mut()
            .write_all(&on_the_wire(&answer, is_head))
            .await?;
        if answer.framing == Framing::Close && !is_bodyless(&answer, is_head) {
            return Ok(());
        }
    }
}

fn is_bodyless(answer: &Answer, is_head: bool) -> bool {
    is_head || matches!(answer.status, 204 | 304)
}

fn on_the_wire(answer: &Answer, is_head: bool) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {} X\r\n", answer.status).into_bytes();
    for (name, value) in &answer.headers {
        bytes.extend(generate::bytes(&format!("{name}: {value}\r\n")));
    }
    if answer.status == 204 {
        bytes.extend(b"\r\n");
        return bytes;
    }
    bytes.extend(http1::framing(&answer.body, answer.framing).into_bytes());
    if !is_bodyless(answer, is_head) {
        bytes.extend(http1::body(&answer.body, answer.framing));
    }
    bytes
}

async fn request(socket: &mut BufReader<TcpStream>) -> Result<Came> {
    let (first, headers) = http1::head(socket).await?;
    let (method, rest) = first.split_once(' ').context("a request line")?;
    let target = rest.strip_suffix(" HTTP/1.1").context("a version")?;
    let body = http1::read_body(socket, &headers, false).await?;
    Ok(Came {
        method: method.to_owned(),
        target: target.to_owned(),
        headers,
        body,
    })
}
