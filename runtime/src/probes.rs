//! A port for probes and metrics, which answers whatever else happens to the process.
//!
//! Its connections take file descriptors that others leave free, are for one request, and have little time. When
//! all places are taken, the oldest connection gives its place to the new one: clients that only connect keep
//! no probe out.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio_util::sync::CancellationToken;

use crate::{
    drain::Drain,
    io::ByteStream,
    listen::{AnyListener, AnySocket, Listen, PlainAcceptor},
    serve::{Limit, Server},
    telemetry::Causes,
};

/// Connections at once: half of the file descriptors that are kept back.
const MAX_CONNECTIONS: usize = 32;
/// How long a connection's handshakes may take, and again its request with the answer.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// What a request's head may take, in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Requests of one connection of HTTP/2 at a time.
const MAX_STREAMS: u32 = 4;

/// The answer to a probe.
pub type Answer = Response<Full<Bytes>>;

/// Answers requests by their path and headers until `stop`.
pub async fn serve<A>(
    listener: impl Into<AnyListener>,
    acceptor: PlainAcceptor,
    answer: A,
    stop: CancellationToken,
) where
    A: Fn(&str, &HeaderMap) -> Answer + Clone + Send + Sync + 'static,
{
    let acceptor = PlainAcceptor {
        handshake_timeout: STEP_TIMEOUT,
        ..acceptor
    };
    let server = Server::new("observability", Reserved(listener.into()), acceptor)
        .limited(Limit::CloseOldest(MAX_CONNECTIONS));
    let serving = server.run(Drain::new(), move |(io, _)| {
        let talking = talk(io, answer);
        async move {
            // The connection of a client that is too slow is dropped.
            let _ = tokio::time::timeout(STEP_TIMEOUT, talking).await;
        }
    });
    stop.run_until_cancelled(serving).await;
}

/// Takes file descriptors that others leave free.
#[derive(Debug)]
struct Reserved(AnyListener);

impl Listen for Reserved {
    type Socket = AnySocket;

    async fn next(&self) -> AnySocket {
        self.0.accept_reserved().await
    }
}

/// An answer in plain text.
#[must_use]
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, PLAIN);
    answer
}

async fn talk<A>(io: ByteStream, answer: A)
where
    A: Fn(&str, &HeaderMap) -> Answer + Clone + Send + Sync + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.uri().path(), request.headers());
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES as u32);
    if let Err(error) = builder.serve_connection(TokioIo::new(io), service).await {
        tracing::debug!(error = %Causes(&*error), "probe connection failed");
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        task::JoinHandle,
    };

    use super::*;
    use crate::listen::bind;

    const REQUEST: &[u8] = b"GET /liveness HTTP/1.1\r\nHost: a\r\n\r\n";

    async fn start() -> (std::net::SocketAddr, JoinHandle<()>) {
        let listener = bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr();
        let answer = |path: &str, _: &HeaderMap| text(StatusCode::OK, path.to_owned());
        let stop = CancellationToken::new();
        let served = serve(listener, PlainAcceptor::new(None), answer, stop);
        (address, tokio::spawn(served))
    }

    async fn ask(address: std::net::SocketAddr) -> String {
        let mut probe = TcpStream::connect(address).await.unwrap();
        probe.write_all(REQUEST).await.unwrap();
        let mut answer = String::new();
        probe.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_connection_is_for_one_request() {
        let (address, _serving) = start().await;

        let answer = ask(address).await;

        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("/liveness"), "{answer}");
    }

    #[tokio::test]
    async fn a_client_that_only_connects_gives_way_to_a_probe() {
        let (address, _serving) = start().await;
        let mut idle = Vec::new();
        for _ in 0..2 * MAX_CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }

        let answer = ask(address).await;

        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let mut first = idle.swap_remove(0);
        // Closed in order or reset, but closed.
        assert!(matches!(first.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_too_little_is_closed() {
        let (address, _serving) = start().await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(&REQUEST[..10]).await.unwrap();

        assert!(matches!(slow.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    }
}
