//! A stand-in for a Kubernetes API server that counts: who asked twice for what must happen once, and
//! who missed or repeated an event.

use std::{
    collections::HashMap,
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::task::{AbortOnDropHandle, JoinMap};

/// Time between two events of a watch.
const EVERY: Duration = Duration::from_millis(200);
/// Objects in a list.
const LISTED: u64 = 300;
/// Longest time for which an answer is put off.
const SLOWEST: u64 = 60_000;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A running API; dropping it stops it.
#[derive(Debug)]
pub struct CountingApi {
    port: u16,
    state: Arc<State>,
    _serving: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct State {
    letter: u8,
    began: Instant,
    /// How often each POST came, by its path.
    counts: Mutex<HashMap<String, u32>>,
    slow: AtomicUsize,
}

impl CountingApi {
    /// Starts one whose bodies consist of this letter.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(letter: u8) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State {
            letter,
            began: Instant::now(),
            counts: Mutex::default(),
            slow: AtomicUsize::new(0),
        });
        let serving = tokio::spawn(serve(listener, state.clone()));
        Ok(Self {
            port,
            state,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The letter its bodies consist of.
    #[must_use]
    pub fn letter(&self) -> u8 {
        self.state.letter
    }

    /// How often this was posted.
    #[must_use]
    pub fn posted(&self, path: &str) -> u32 {
        self.state.counts().get(path).copied().unwrap_or(0)
    }

    /// How many different things were posted.
    #[must_use]
    pub fn posts(&self) -> usize {
        self.state.counts().len()
    }

    /// Paths that were posted more than once.
    #[must_use]
    pub fn duplicates(&self) -> Vec<String> {
        let counts = self.state.counts();
        let twice = counts.iter().filter(|(_, count)| **count > 1);
        twice
            .map(|(path, count)| format!("{path} ({count})"))
            .collect()
    }

    /// Requests whose answers are being put off.
    #[must_use]
    pub fn slow(&self) -> usize {
        self.state.slow.load(Ordering::Relaxed)
    }

    /// The resource version of now.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.state.version()
    }

    /// When this version comes to be.
    #[must_use]
    pub fn due(&self, version: u64) -> Instant {
        self.state.due(version)
    }

    /// Writes a kubeconfig for it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig(&self, folder: &Path) -> Result<PathBuf> {
        kubeconfig(self.port, folder)
    }
}

/// Writes a kubeconfig for a port of loopback.
///
/// # Errors
/// When the file cannot be written.
pub fn kubeconfig(port: u16, folder: &Path) -> Result<PathBuf> {
    let file = folder.join(format!("kubeconfig-{port}"));
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
        "users": [{"name": "it", "user": {}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    });
    // Somebody may be reading it, from an agent before.
    let new = file.with_extension("new");
    std::fs::write(&new, text.to_string())?;
    std::fs::rename(new, &file)?;
    Ok(file)
}

/// Whether this is a list of [`CountingApi`], and whole.
#[must_use]
pub fn is_whole_list(body: &[u8]) -> bool {
    let Ok(list) = serde_json::from_slice::<serde_json::Value>(body) else {
        return false;
    };
    let items = list["items"].as_array().map(Vec::len);
    items.and_then(|items| u64::try_from(items).ok()) == Some(LISTED)
}

impl State {
    fn counts(&self) -> std::sync::MutexGuard<'_, HashMap<String, u32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Version 1 is there from the beginning: 0 would not be a version for Kubernetes.
    fn version(&self) -> u64 {
        1 + (self.began.elapsed().as_millis() / EVERY.as_millis()) as u64
    }

    fn due(&self, version: u64) -> Instant {
        let steps = u32::try_from(version.saturating_sub(1)).unwrap_or(u32::MAX);
        self.began + EVERY * steps
    }

    fn object(&self, version: u64) -> serde_json::Value {
        json!({
            "kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {
                "name": "counter", "namespace": "default", "uid": "1", "resourceVersion": version.to_string(),
            },
            "data": {"from": char::from(self.letter).to_string()},
        })
    }

    /// The events behind a version, each when it comes to be.
    fn watch(self: Arc<Self>, after: u64) -> Body {
        let events = stream::unfold((self, after + 1), |(state, version)| async move {
            sleep_until(state.due(version)).await;
            let event = json!({"type": "MODIFIED", "object": state.object(version)});
            let line = Bytes::from(format!("{event}\n"));
            Some((Ok(Frame::data(line)), (state, version + 1)))
        });
        StreamBody::new(events.boxed()).boxed_unsync()
    }

    /// Numbers of the versions from now on, each in a line when it comes to be.
    fn log(self: Arc<Self>) -> Body {
        let version = self.version();
        let lines = stream::unfold((self, version), |(state, version)| async move {
            sleep_until(state.due(version)).await;
            let line = Bytes::from(format!("{version}\n"));
            Some((Ok(Frame::data(line)), (state, version + 1)))
        });
        StreamBody::new(lines.boxed()).boxed_unsync()
    }

    fn list(&self) -> Body {
        let version = self.version();
        let items: Vec<_> = (0..LISTED).map(|_| self.object(version)).collect();
        let list = json!({
            "kind": "ConfigMapList", "apiVersion": "v1",
            "metadata": {"resourceVersion": version.to_string()}, "items": items,
        });
        text(&list)
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinMap::new();
    while let Ok((socket, peer)) = listener.accept().await {
        connections.spawn(peer, connection(socket, state.clone()));
    }
}

async fn connection(socket: TcpStream, state: Arc<State>) {
    let service = service_fn(|request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(answer(request, state).await) }
    });
    let server = hyper::server::conn::http1::Builder::new();
    // A connection that breaks is what some tests are about.
    server
        .serve_connection(TokioIo::new(socket), service)
        .await
        .ok();
}

/// `POST /once/NAME`, `GET /bytes/LENGTH`, lists and watches of config maps, which everybody may do, and logs that are
/// followed; `?slow=MILLISECONDS` puts an answer off.
async fn answer(request: Request<Incoming>, state: Arc<State>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if head.method == Method::POST {
        // It counts as soon as it is seen: half a request may have been carried out too.
        *state.counts().entry(path.to_owned()).or_default() += 1;
    }
    if body.collect().await.is_err() {
        let mut response = Response::new(Full::default().boxed_unsync());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    }
    if let Some(slow) = number(&head.uri, "slow") {
        let _slow = Slow::new(&state.slow);
        sleep(Duration::from_millis(slow.min(SLOWEST))).await;
    }
    if path.ends_with("/selfsubjectaccessreviews") {
        return json_of(text(&json!({"status": {"allowed": true}})));
    }
    if path == "/api" {
        return json_of(text(&json!({"kind": "APIVersions", "versions": ["v1"]})));
    }
    if path == "/apis" {
        let groups = json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []});
        return json_of(text(&groups));
    }
    if path == "/api/v1" {
        return json_of(text(&resources()));
    }
    if path.ends_with("/configmaps") {
        let watched = number(&head.uri, "resourceVersion");
        let body = match watched.filter(|_| flag(&head.uri, "watch")) {
            Some(version) => state.watch(version),
            None => state.list(),
        };
        return json_of(body);
    }
    if path.ends_with("/log") && flag(&head.uri, "follow") {
        return Response::new(state.log());
    }
    let length = path.strip_prefix("/bytes/");
    let length = length.and_then(|length| length.parse().ok()).unwrap_or(2);
    Response::new(Full::from(vec![state.letter; length]).boxed_unsync())
}

fn resources() -> serde_json::Value {
    json!({
        "kind": "APIResourceList", "groupVersion": "v1",
        "resources": [{
            "name": "configmaps", "singularName": "configmap", "namespaced": true, "kind": "ConfigMap",
            "verbs": ["list", "watch"],
        }],
    })
}

fn text(value: &serde_json::Value) -> Body {
    Full::from(value.to_string()).boxed_unsync()
}

fn json_of(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn parameter<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    let mut pairs = uri.query()?.split('&').filter_map(|it| it.split_once('='));
    pairs.find_map(|(key, value)| (key == name).then_some(value))
}

fn number(uri: &Uri, name: &str) -> Option<u64> {
    parameter(uri, name)?.parse().ok()
}

fn flag(uri: &Uri, name: &str) -> bool {
    matches!(parameter(uri, name), Some("true" | "1"))
}

/// Counts a request while its answer is put off.
struct Slow<'a>(&'a AtomicUsize);

impl<'a> Slow<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Slow<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
