//! Connections of clients: HTTP/1.1 with upgrades, or HTTP/2.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use http::{Method, Response, StatusCode, Version, header};
use hyper::{Request, body::Incoming, rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use runtime::{
    drain::Drain,
    io::ByteStream,
    listen::{AnyListener, AnySocket, Listen, PlainAcceptor, RemoteAddr},
    rarely::Rarely,
    request_filter::{Limits, RequestFilter},
    serve::Server,
    telemetry::Causes,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::time::Instant;

use super::{
    Front, forwarded,
    guard::{Activity, Guarded},
    head_timer::HeadTimer,
    leftover, request_head,
};
use crate::route::UserRequest;

/// How long a connection may be idle between requests, the next head included.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a connection of HTTP/2 is checked for being idle, once it may be.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often a connection of HTTP/1.1 that is not being read is checked for a client that has left.
const PRESENCE_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// How long an idle connection of HTTP/2 may take to close when it was asked to.
const IDLE_CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// What hyper buffers of HTTP/1.1 beyond the longest head.
const READ_AHEAD_BYTES: usize = 8 << 10;
/// How much longer than allowed a head of HTTP/2 may be to get a `Status`: h2 answers a longer one
/// itself, without a `Status`, and ends the connection of one that is four times as long again, or in
/// more frames than this many bytes need, which is what these times four are for: a client may send
/// frames of 16 KiB.
const HEAD_EXCESS_FACTOR: usize = 4;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
const MAX_FRAME_BYTES: u32 = 64 << 10;
const MAX_STREAMS: u32 = 1000;
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PONG_TIMEOUT: Duration = Duration::from_secs(20);
/// When a silent connection is asked whether its client still lives.
const TCP_KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(30))
    .with_interval(Duration::from_secs(10));

/// Has silent connections asked whether their clients still live.
#[derive(Debug)]
struct Probed(AnyListener);

impl Listen for Probed {
    type Socket = AnySocket;

    async fn next(&self) -> AnySocket {
        let socket = self.0.accept().await;
        if let AnySocket::Tcp(socket, _) = &socket {
            // Without probes a dead client is only found out later.
            let _ = SockRef::from(socket).set_tcp_keepalive(&TCP_KEEPALIVE);
        }
        socket
    }
}

/// Starts tasks that a drain waits for.
#[derive(Debug, Clone)]
struct Tasks {
    drain: Drain,
    activity: Activity,
}

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        // Each request of HTTP/2 is a task until its answer was sent.
        let open = self.activity.open();
        self.drain.spawn(async move {
            task.await;
            drop(open);
        });
    }
}

impl Front {
    /// Accepts connections until draining starts; the drain waits for those
    /// that are being served.
    pub(crate) async fn serve(
        self: Arc<Self>,
        listener: AnyListener,
        acceptor: PlainAcceptor,
        drain: Drain,
    ) {
        let leaving = drain.clone();
        let serve = move |(io, remote_addr): (ByteStream, RemoteAddr)| {
            self.serve_connection(io, remote_addr.socket_addr(), leaving)
        };
        let server = Server::new("users", Probed(listener), acceptor);
        server.run(drain, serve).await;
    }

    /// Serves the requests of a connection until either side ends it. When
    /// draining starts, requests in progress are finished and no new ones taken;
    /// when it is near, clients of HTTP/1.1 are asked to come on another
    /// connection, since they might send a request just when this one ends.
    pub(crate) async fn serve_connection(
        self: Arc<Self>,
        io: ByteStream,
        remote_addr: SocketAddr,
        drain: Drain,
    ) {
        let (io, activity, presence) = Guarded::new(io, self.settings.idle);
        let limits = Limits {
            head_bytes: self.settings.max_head,
            lines: request_head::MAX_HEADER_LINES,
            unfinished: self.unfinished_heads.clone(),
            from: remote_addr.ip(),
        };
        let (io, passage) = RequestFilter::of_requests(io, limits);
        let builder = builder(&drain, &activity, self.settings.max_head);
        let service = service_fn(|mut request: Request<Incoming>| {
            activity.request();
            let version = request.version();
            let mut asks = None;
            if version < Version::HTTP_2 {
                passage.complete(request.headers_mut());
                asks = may_switch(&request).then(|| passage.clone());
            }
            let proxies = &self.settings.trusted_proxies;
            let client = forwarded::client(proxies, remote_addr, request.headers());
            let request = UserRequest::new(request, client);
            let (front, drain) = (self.clone(), drain.clone());
            async move {
                let mut response = front.handle(request, &drain).await;
                if let Some(passage) = asks {
                    passage.answered(response.status() == StatusCode::SWITCHING_PROTOCOLS);
                }
                if drain.announced() {
                    take_leave(&mut response, version);
                }
                Ok::<_, Infallible>(response)
            }
        });
        let mut connection =
            pin!(builder.serve_connection_with_upgrades(TokioIo::new(io), service));
        let mut leave = Rarely::new(drain.wait());
        let mut checks = Checks::begin(self.settings.first_request);
        let mut check = Rarely::new(tokio::time::sleep_until(checks.next()));
        let mut leaving = false;
        loop {
            tokio::select! {
                biased;
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%remote_addr, error = %Causes(&*error), "client connection failed");
                    }
                    return;
                }
                () = &mut leave, if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = &mut check => {
                    let now = Instant::now();
                    if checks.first_request_is_due(now) && !activity.has_begun() {
                        return tracing::debug!(%remote_addr, "client sent no request in time; closing connection");
                    }
                    if checks.presence_is_due(now) && presence.is_over() {
                        return tracing::debug!(%remote_addr, "client left before its response");
                    }
                    if checks.idle_is_due(now) {
                        let unused = activity.unused();
                        // HTTP/1.1 has a limit of its own for this.
                        if unused < KEEP_ALIVE_TIMEOUT || !activity.is_http2() {
                            checks.idle = now + KEEP_ALIVE_TIMEOUT.saturating_sub(unused).max(IDLE_CHECK_INTERVAL);
                        } else if leaving {
                            return tracing::debug!(%remote_addr, "idle client connection did not close in time; dropping it");
                        } else {
                            leaving = true;
                            connection.as_mut().graceful_shutdown();
                            checks.idle = now + IDLE_CLOSE_TIMEOUT;
                        }
                    }
                    check.set(tokio::time::sleep_until(checks.next()));
                }
            }
        }
    }
}

/// When a connection is checked again, and for what. One timer serves all.
#[derive(Debug)]
struct Checks {
    first_request: Option<Instant>,
    presence: Instant,
    idle: Instant,
}

impl Checks {
    /// For a connection that begins now.
    fn begin(first_request: Duration) -> Self {
        let now = Instant::now();
        Self {
            first_request: Some(now + first_request),
            presence: now + PRESENCE_CHECK_INTERVAL,
            idle: now + KEEP_ALIVE_TIMEOUT,
        }
    }

    fn next(&self) -> Instant {
        let soonest = self.presence.min(self.idle);
        self.first_request.map_or(soonest, |at| at.min(soonest))
    }

    /// True once.
    fn first_request_is_due(&mut self, now: Instant) -> bool {
        self.first_request.take_if(|at| *at <= now).is_some()
    }

    /// True each [`PRESENCE_CHECK_INTERVAL`].
    fn presence_is_due(&mut self, now: Instant) -> bool {
        let due = self.presence <= now;
        if due {
            self.presence = now + PRESENCE_CHECK_INTERVAL;
        }
        due
    }

    /// True until `idle` is set anew.
    fn idle_is_due(&self, now: Instant) -> bool {
        self.idle <= now
    }
}

/// Whether another protocol may follow.
fn may_switch<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT || request.headers().contains_key(header::UPGRADE)
}

/// HTTP/2 has GOAWAY for it.
fn take_leave<B>(response: &mut Response<B>, version: Version) {
    if version < Version::HTTP_2 && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        leftover::close_behind(response.headers_mut());
    }
}

fn builder(drain: &Drain, activity: &Activity, max_head: usize) -> Builder<Tasks> {
    let mut builder = Builder::new(Tasks {
        drain: drain.clone(),
        activity: activity.clone(),
    });
    builder
        .http1()
        .timer(HeadTimer::default())
        .max_buf_size(max_head + READ_AHEAD_BYTES)
        .header_read_timeout(KEEP_ALIVE_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(max_head * HEAD_EXCESS_FACTOR).unwrap_or(u32::MAX))
        .max_local_error_reset_streams(Some(runtime::grpc::MAX_STREAM_FAULTS))
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PONG_TIMEOUT);
    builder
}
