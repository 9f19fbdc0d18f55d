//! The Kubernetes API of the tests.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::{Notify, mpsc},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

pub const BIG: usize = 5 << 20;

pub struct Api {
    pub url: String,
    /// One message for each answer of `/watch` that was dropped unfinished.
    pub cancelled: mpsc::Receiver<()>,
    /// Requests of `/held` and `/held-big` that came, and the end of waiting for each.
    pub held: Arc<Held>,
    _listening: AbortOnDropHandle<()>,
}

#[derive(Default)]
pub struct Held {
    pub count: AtomicUsize,
    pub come: Notify,
    pub release: Notify,
    /// Those that were answered.
    pub answered: AtomicUsize,
}

impl Api {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/prefix", listener.local_addr().unwrap());
        let (tell, cancelled) = mpsc::channel(10);
        let held = Arc::new(Held::default());
        let known = held.clone();
        let listening = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (tell, held) = (tell.clone(), known.clone());
                let service = hyper::service::service_fn(move |request| {
                    answer(request, tell.clone(), held.clone())
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service)
                    .with_upgrades();
                connections.spawn(async move {
                    let _ = connection.await;
                });
            }
        });
        Self {
            url,
            cancelled,
            held,
            _listening: AbortOnDropHandle::new(listening),
        }
    }
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

fn full(bytes: impl Into<Bytes>) -> BoxBody<Bytes, Infallible> {
    Full::new(bytes.into()).boxed()
}

async fn answer(
    request: Request<Incoming>,
    tell: mpsc::Sender<()>,
    held: Arc<Held>,
) -> Result<Answer, hyper::Error> {
    Ok(match request.uri().path() {
        "/prefix/big" => Response::new(full(vec![7; BIG])),
        "/prefix/count" => {
            let length = request.headers().get("content-length").cloned();
            let body = request.into_body().collect().await?.to_bytes();
            Response::new(full(format!("{} {length:?}", body.len())))
        }
        path @ ("/prefix/held" | "/prefix/held-big") => {
            let is_big = path.ends_with("big");
            let body = request.into_body().collect().await?.to_bytes();
            held.count.fetch_add(1, Ordering::Relaxed);
            held.come.notify_one();
            held.release.notified().await;
            held.answered.fetch_add(1, Ordering::Relaxed);
            let mut response = Response::new(match is_big {
                true => full(vec![7; BIG]),
                false => full([b"made ", &body[..]].concat()),
            });
            *response.status_mut() = StatusCode::CREATED;
            response
        }
        "/prefix/watch" => Response::new(Watch { sent: false, tell }.boxed()),
        "/prefix/exec" => {
            let upgrading = hyper::upgrade::on(request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrading.await.unwrap());
                let mut buffer = vec![0; 1000];
                // Echoes up to the half-close, and then says goodbye.
                while let Ok(count @ 1..) = io.read(&mut buffer).await {
                    io.write_all(&buffer[..count]).await.unwrap();
                }
                io.write_all(b" bye").await.unwrap();
            });
            let mut response = Response::new(full(""));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response
                .headers_mut()
                .insert("upgrade", "SPDY/3.1".parse().unwrap());
            response
                .headers_mut()
                .insert("connection", "Upgrade".parse().unwrap());
            response
        }
        _ => {
            let mut lines = vec![format!("{} {}", request.method(), request.uri())];
            for (name, value) in request.headers() {
                lines.push(format!("{name}: {}", value.to_str().unwrap()));
            }
            Response::new(full(lines.join("\n")))
        }
    })
}

/// One event, and then silence.
struct Watch {
    sent: bool,
    tell: mpsc::Sender<()>,
}

impl Body for Watch {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if std::mem::replace(&mut self.sent, true) {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"event\n")))))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.tell.try_send(());
    }
}
