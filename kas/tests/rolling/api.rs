//! What the agent takes for its cluster: counts what must not be done twice, and streams lines.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) url: String,
    state: Arc<State>,
    _running: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    posts: AtomicUsize,
    end: CancellationToken,
}

impl Api {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::<State>::default();
        let shared = state.clone();
        let running = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let state = shared.clone();
                let service = service_fn(move |request| answer(request, state.clone()));
                let serving = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
                connections.spawn(async move {
                    let _ = serving.await;
                });
            }
        });
        Self {
            url,
            state,
            _running: AbortOnDropHandle::new(running),
        }
    }

    /// How many POSTs came.
    pub(crate) fn posts(&self) -> usize {
        self.state.posts.load(Ordering::Relaxed)
    }

    /// Lets all streams end.
    pub(crate) fn end_streams(&self) {
        self.state.end.cancel();
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<State>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    Ok(match request.uri().path() {
        "/stream" => Response::new(BodyExt::boxed(lines(state.end.clone()))),
        "/thing" => {
            if request.method() == Method::POST {
                state.posts.fetch_add(1, Ordering::Relaxed);
            }
            let _ = request.into_body().collect().await;
            Response::new(Full::new(Bytes::from_static(b"{}")).boxed())
        }
        _ => Response::new(Full::new(Bytes::from_static(b"{}")).boxed()),
    })
}

/// A line now and then, up to the end.
fn lines(
    end: CancellationToken,
) -> StreamBody<impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>>> {
    let ticks = futures_util::stream::unfold((), async |()| {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((Ok(Frame::data(Bytes::from_static(b"line\n"))), ()))
    });
    StreamBody::new(ticks.take_until(end.cancelled_owned()))
}
