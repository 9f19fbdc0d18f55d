//! A stand-in for a Kubernetes API server that counts: who asked twice for what must happen once.

use std::{
    collections::HashMap,
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::{AbortOnDropHandle, JoinMap};

/// How often each POST came, by its path.
type Counts = Arc<Mutex<HashMap<String, u32>>>;

/// A running API; dropping it stops it.
#[derive(Debug)]
pub struct CountingApi {
    port: u16,
    counts: Counts,
    _serving: AbortOnDropHandle<()>,
}

impl CountingApi {
    /// Starts one.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let counts = Counts::default();
        let serving = tokio::spawn(serve(listener, counts.clone()));
        Ok(Self {
            port,
            counts,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    /// How often this was posted.
    #[must_use]
    pub fn posted(&self, path: &str) -> u32 {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(path).copied().unwrap_or(0)
    }

    /// Paths that were posted more than once.
    #[must_use]
    pub fn duplicates(&self) -> Vec<String> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let twice = counts.iter().filter(|(_, count)| **count > 1);
        twice
            .map(|(path, count)| format!("{path} ({count})"))
            .collect()
    }

    /// Writes a kubeconfig for it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig(&self, folder: &Path) -> Result<PathBuf> {
        let file = folder.join("kubeconfig-counting");
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

async fn serve(listener: TcpListener, counts: Counts) {
    let mut connections = JoinMap::new();
    while let Ok((socket, peer)) = listener.accept().await {
        connections.spawn(peer, connection(socket, counts.clone()));
    }
}

async fn connection(socket: TcpStream, counts: Counts) {
    let service = service_fn(|request| {
        let counts = counts.clone();
        async move { Ok::<_, Infallible>(answer(request, &counts).await) }
    });
    let server = hyper::server::conn::http1::Builder::new();
    // A connection that breaks is what some tests are about.
    server
        .serve_connection(TokioIo::new(socket), service)
        .await
        .ok();
}

async fn answer(request: Request<Incoming>, counts: &Counts) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    if head.method == Method::POST {
        // It counts as soon as it is seen: half a request may have been carried out too.
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(path.clone()).or_default() += 1;
    }
    if body.collect().await.is_err() {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    }
    let length = path
        .strip_prefix("/json/")
        .and_then(|length| length.parse().ok());
    Response::new(Full::from(vec![b'x'; length.unwrap_or(2)]))
}
