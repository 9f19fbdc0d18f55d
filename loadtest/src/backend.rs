//! `loadtest backend`: the scripted Kubernetes API over HTTP/1.1, for real agents.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Mutex, PoisonError},
    task,
};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Either, Limited};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use runtime::{signal::Termination, websocket::handshake::accept_key};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Interval, interval},
};

use crate::{
    body::Body,
    http_body::Sending,
    limits, output,
    script::{self, Answer, Script},
};

/// Connections served at the same time.
const MAX_CONNECTIONS: usize = 4096;
/// Longest request body that is kept for an echo.
const MAX_ECHO_BYTES: usize = 16 << 20;

/// An HTTP server with scripted answers.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where to listen; port 0 lets the system choose.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Length of the default answer's body.
    #[arg(long, default_value_t = 4096)]
    response_bytes: usize,
}

type AnswerBody = Either<Sending, Watching>;

/// Serves until SIGTERM; says where as `ready: http://address`.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    limits::make_room(MAX_CONNECTIONS)?;
    let mut termination = Termination::listen()?;
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("cannot listen on {}", options.listen))?;
    let script = Script::new(options.response_bytes);
    output::line(&format!("ready: http://{}", listener.local_addr()?));
    tokio::select! {
        result = serve(listener, script) => result,
        _ = termination.next() => Ok(()),
    }
}

/// Serves whoever comes.
///
/// # Errors
/// When nobody can come any more.
pub(crate) async fn serve(listener: TcpListener, script: Script) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                let (socket, _) = accepted.context("cannot accept a connection")?;
                connections.spawn(serve_one(socket, script.clone()));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// The upgrade of a connection, if one was asked for.
type Switch = Mutex<Option<OnUpgrade>>;

async fn serve_one(socket: TcpStream, script: Script) {
    let _ = socket.set_nodelay(true);
    let switch = Switch::default();
    let service = service_fn(|request| answer(&script, request, &switch));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "scripted backend: connection failed");
    }
    let switch = switch.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(switch) = switch
        && let Ok(upgraded) = switch.await
    {
        // A client that breaks off needs no answer.
        let _ = script::echo(TokioIo::new(upgraded)).await;
    }
}

async fn answer(
    script: &Script,
    mut request: Request<Incoming>,
    switch: &Switch,
) -> Result<Response<AnswerBody>, Infallible> {
    let (delay, _) = script::delay(request.uri().path());
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let answer = script.answer(request.uri().path());
    let content_type = HeaderValue::from_static(answer.content_type());
    let mut status = StatusCode::OK;
    let body = match answer {
        Answer::Json(body) => Either::Left(Sending::new(body.into())),
        Answer::Bytes(length) => Either::Left(Sending::new(Body::pattern(length))),
        Answer::Watch { events, every } => Either::Right(Watching {
            number: 0,
            events,
            ticks: interval(every.max(std::time::Duration::from_millis(1))),
        }),
        Answer::Echo => match Limited::new(request.into_body(), MAX_ECHO_BYTES)
            .collect()
            .await
        {
            Ok(body) => Either::Left(Sending::new(body.to_bytes().into())),
            Err(_) => {
                status = StatusCode::PAYLOAD_TOO_LARGE;
                Either::Left(Sending::new(Bytes::new().into()))
            }
        },
        Answer::Exec => {
            let (response, upgrade) = exec(&mut request);
            *switch.lock().unwrap_or_else(PoisonError::into_inner) = upgrade;
            return Ok(response);
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}

/// Writes a kubeconfig for agents whose Kubernetes API is the backend at this URL.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn kubeconfig(folder: &Path, server: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join("kubeconfig");
    let content = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "loadtest",
        "clusters": [{ "name": "loadtest", "cluster": { "server": server } }],
        "users": [{ "name": "loadtest", "user": {} }],
        "contexts": [{ "name": "loadtest", "context": { "cluster": "loadtest", "user": "loadtest" } }],
    });
    std::fs::write(&path, content.to_string())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn exec(request: &mut Request<Incoming>) -> (Response<AnswerBody>, Option<OnUpgrade>) {
    let mut response = Response::new(Either::Left(Sending::new(Bytes::new().into())));
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
    let key = key.and_then(|key| key.to_str().ok()).map(accept_key);
    let Some(accept) = key.and_then(|key| HeaderValue::try_from(key).ok()) else {
        *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return (response, None);
    };
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    (response, Some(hyper::upgrade::on(request)))
}

/// The events of a watch as they come.
#[derive(Debug)]
struct Watching {
    number: u64,
    events: u64,
    ticks: Interval,
}

impl hyper::body::Body for Watching {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.events != 0 && self.number >= self.events {
            return task::Poll::Ready(None);
        }
        task::ready!(self.ticks.poll_tick(cx));
        let event = script::event(self.number);
        self.number += 1;
        task::Poll::Ready(Some(Ok(Frame::data(event))))
    }
}
