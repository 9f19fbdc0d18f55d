//! `loadtest backend`: the scripted Kubernetes API over HTTP/1.1, for real agents.

use std::{convert::Infallible, net::SocketAddr, pin::Pin, task};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Either, Limited};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use runtime::signal::Termination;
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
const MAX_ECHO: usize = 16 << 20;

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
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                let (socket, _) = accepted.context("cannot accept a connection")?;
                connections.spawn(serve(socket, script.clone()));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = termination.next() => return Ok(()),
        }
    }
}

async fn serve(socket: TcpStream, script: Script) {
    let _ = socket.set_nodelay(true);
    let service = service_fn(|request| answer(&script, request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(socket), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the backend broke");
    }
}

async fn answer(
    script: &Script,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
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
        Answer::Echo => match Limited::new(request.into_body(), MAX_ECHO).collect().await {
            Ok(body) => Either::Left(Sending::new(body.to_bytes().into())),
            Err(_) => {
                status = StatusCode::PAYLOAD_TOO_LARGE;
                Either::Left(Sending::new(Bytes::new().into()))
            }
        },
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    Ok(response)
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
