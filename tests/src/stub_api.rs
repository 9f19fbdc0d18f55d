//! A stand-in for a Kubernetes API server that says what it was asked, for tests of the way there.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Result;
use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, JoinMap},
};

use crate::payload;

/// Where callers ask what they may do, to which the answer is yes.
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
/// Bytes of the answer to `/large`.
pub const LARGE_BYTES: usize = 4 << 20;
static LARGE: LazyLock<Bytes> = LazyLock::new(|| vec![b'x'; LARGE_BYTES].into());
/// An event of the watch of pods, which has one after the other without end.
static EVENT: LazyLock<Bytes> = LazyLock::new(|| {
    let object =
        json!({"metadata": {"name": "p", "resourceVersion": "1"}, "note": "x".repeat(60_000)});
    format!("{}\n", json!({"type": "MODIFIED", "object": object})).into()
});

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the stub has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Requests that are being served now, an agent's own among them.
    pub open: AtomicUsize,
    /// Requests for `/hold` that are being served now.
    pub held: AtomicUsize,
    /// Requests whose body broke off.
    pub broken: AtomicUsize,
    /// Watches that are being served now.
    pub watches: AtomicUsize,
    /// Events of watches of pods that were sent, or wait for their connection.
    pub sent: AtomicUsize,
    /// POSTs that were answered with what they said.
    pub posted: AtomicUsize,
    paths: Mutex<Vec<String>>,
    /// The UID of its namespace `kube-system`; without one it has no such namespace.
    cluster: OnceLock<String>,
    /// Lets requests for `/hold` go, which wait for it.
    pub release: CancellationToken,
}

impl Seen {
    /// Paths and queries that were asked for, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.paths().clone()
    }

    fn paths(&self) -> MutexGuard<'_, Vec<String>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running stub; dropping it stops it.
#[derive(Debug)]
pub struct StubApi {
    port: u16,
    seen: Arc<Seen>,
    _serving: AbortOnDropHandle<()>,
}

impl StubApi {
    /// Starts a stub.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let seen = Arc::<Seen>::default();
        let serving = tokio::spawn(serve(listener, seen.clone()));
        Ok(Self {
            port,
            seen,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    /// Starts a stub that is the cluster of this UID.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn of_cluster(uid: &str) -> Result<Self> {
        let stub = Self::start().await?;
        stub.seen.cluster.get_or_init(|| uid.to_owned());
        Ok(stub)
    }

    /// Where it listens, on loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it has seen.
    #[must_use]
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Writes a kubeconfig for it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig(&self, folder: &Path) -> Result<PathBuf> {
        kubeconfig_of(self.port, folder)
    }
}

/// Writes a kubeconfig for a server at this port of loopback, which asks nobody who they are.
///
/// # Errors
/// When the file cannot be written.
pub fn kubeconfig_of(port: u16, folder: &Path) -> Result<PathBuf> {
    let file = folder.join("kubeconfig-stub");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "stub",
        "clusters": [{"name": "stub", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
        "users": [{"name": "stub", "user": {}}],
        "contexts": [{"name": "stub", "context": {"cluster": "stub", "user": "stub"}}],
    });
    std::fs::write(&file, text.to_string())?;
    Ok(file)
}

async fn serve(listener: TcpListener, seen: Arc<Seen>) {
    let mut connections = JoinMap::new();
    while let Ok((socket, peer)) = listener.accept().await {
        connections.spawn(peer, connection(socket, seen.clone()));
    }
}

async fn connection(socket: TcpStream, seen: Arc<Seen>) {
    let service = service_fn(|request| {
        let seen = seen.clone();
        async move { Ok::<_, Infallible>(answer(request, &seen).await) }
    });
    let server = hyper::server::conn::http1::Builder::new();
    // A connection that breaks is what some tests are about.
    server
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades()
        .await
        .ok();
}

async fn answer(request: Request<Incoming>, seen: &Arc<Seen>) -> Response<Body> {
    if let Some(watch) = watch(&request, seen) {
        return watch;
    }
    if request.uri().path().ends_with("/exec") {
        return exec(request, seen);
    }
    answer_whole(request, seen).await.map(BodyExt::boxed_unsync)
}

/// An exec, which says what it is told, without frames.
fn exec(mut request: Request<Incoming>, seen: &Arc<Seen>) -> Response<Body> {
    seen.paths().push(request.uri().to_string());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else {
            return;
        };
        let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
        // A connection that breaks is what some tests are about.
        tokio::io::copy(&mut from, &mut to).await.ok();
    });
    let mut response = Response::new(Full::default().boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let protocol = request.headers().get("upgrade").cloned();
    let headers = response.headers_mut();
    headers.insert("connection", http::HeaderValue::from_static("Upgrade"));
    headers.extend(protocol.map(|it| (http::header::UPGRADE, it)));
    headers.insert("audit-id", http::HeaderValue::from_static("stub-audit-id"));
    response
}

/// Watches of pods, whose events have no end, and of services, which have none.
fn watch(request: &Request<Incoming>, seen: &Arc<Seen>) -> Option<Response<Body>> {
    request
        .uri()
        .query()?
        .contains("watch=true")
        .then_some(())?;
    let event = match request.uri().path().rsplit_once('/')?.1 {
        "pods" => Some(EVENT.clone()),
        "services" => None,
        _ => return None,
    };
    let watching = Watching::new(seen.clone());
    let events = stream::unfold(watching, move |watching| {
        let event = event.clone();
        async {
            match event {
                Some(event) => {
                    watching.0.sent.fetch_add(1, Ordering::Relaxed);
                    Some((Ok(Frame::data(event)), watching))
                }
                None => std::future::pending().await,
            }
        }
    });
    let mut response = Response::new(StreamBody::new(events).boxed_unsync());
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", json);
    Some(response)
}

async fn answer_whole(request: Request<Incoming>, seen: &Seen) -> Response<Full<Bytes>> {
    let _open = Open::new(&seen.open);
    let (head, body) = request.into_parts();
    seen.paths().push(head.uri.to_string());
    let Ok(body) = body.collect().await else {
        seen.broken.fetch_add(1, Ordering::Relaxed);
        return status(
            StatusCode::BAD_REQUEST,
            &json!({"reason": "body broke off"}),
        );
    };
    match head.uri.path() {
        "/version" => status(
            StatusCode::OK,
            &json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0-stub"}),
        ),
        "/api/v1/namespaces/kube-system" if seen.cluster.get().is_some() => status(
            StatusCode::OK,
            &json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": "kube-system", "uid": seen.cluster.get()},
            }),
        ),
        path if path.starts_with("/echo") => {
            if head.method == Method::POST {
                seen.posted.fetch_add(1, Ordering::Relaxed);
            }
            status(StatusCode::OK, &echo(&head, &body.to_bytes()))
        }
        REVIEWS => status(StatusCode::CREATED, &json!({"status": {"allowed": true}})),
        "/large" => Response::new(Full::from(LARGE.clone())),
        "/hold" => {
            let _held = Open::new(&seen.held);
            seen.release.cancelled().await;
            status(StatusCode::OK, &json!({}))
        }
        path => status(
            StatusCode::NOT_FOUND,
            &json!({"kind": "Status", "message": path}),
        ),
    }
}

fn echo(head: &http::request::Parts, body: &Bytes) -> Value {
    let headers: Vec<_> = head
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    json!({
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "query": head.uri.query(),
        "headers": headers,
        "length": body.len(),
        "sha256": payload::sha256(body),
    })
}

fn status(code: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert(
        "content-type",
        http::HeaderValue::from_static("application/json"),
    );
    response
}

/// Counts a request while it lives.
struct Open<'a>(&'a AtomicUsize);

impl<'a> Open<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a watch while it lives.
struct Watching(Arc<Seen>);

impl Watching {
    fn new(seen: Arc<Seen>) -> Self {
        seen.watches.fetch_add(1, Ordering::Relaxed);
        Self(seen)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.watches.fetch_sub(1, Ordering::Relaxed);
    }
}
