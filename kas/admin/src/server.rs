//! The port: connections, who asks, how much at once, and then gRPC or REST.
//!
//! Nothing of a request is read before it is known who makes it. Answers are made by a few at a time, and each
//! caller has a part of them, so that many who ask are in nobody's way but their own.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderValue, Method, header};
use http_body_util::Limited;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use runtime::{
    drain::Drain,
    io::ByteStream,
    listen::{AnyListener, PlainAcceptor, RemoteAddr},
    serve::{Limit, Server},
    shares::{Limits, Rate, Rates, Share, Shares},
    telemetry::Causes,
};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::ServiceExt as _;

use crate::{
    Admin, Failure,
    authenticate::{Door, Peer},
    config::AdminSection,
    grpc, page, rest,
    tokens::Tokens,
};

/// Connections at once; more wait for others to end.
const MAX_CONNECTIONS: usize = 512;
/// How long a connection may take to its first request of somebody who is known.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection of HTTP/1.1 may be without a request, the next head included.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(60);
/// When a connection is asked to end, so that one that nobody reads does not stay for ever.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(3600);
/// How long it may take to.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a request's head, at most.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Requests on one connection of HTTP/2 at a time.
const MAX_STREAMS: u32 = 64;
/// How often the other end of a connection of HTTP/2 is asked whether it lives.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long it may take to answer.
const PONG_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of a request's body, at most.
const MAX_BODY_BYTES: usize = 64 << 10;
/// Answers that are made at the same time, of all callers.
const WORKERS: usize = 8;
/// How long a request may take until its answer begins, its wait for a turn included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long changes that are being made when the port closes may take to their end.
const CHANGES_FINISH_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests until their answers were sent, by caller.
const IN_PROGRESS: Limits = Limits {
    total: 512,
    each: 384,
    reserved: 64,
};
/// Requests of one caller.
const RATE_PER_CALLER: Rate = Rate {
    per_second: 100.0,
    burst: 400,
};
/// Callers whose rates are remembered.
const MAX_REMEMBERED_CALLERS: usize = 1000;

/// How the port is served.
#[derive(Debug)]
pub struct Settings {
    /// Who may ask, and what.
    pub(crate) door: Door,
}

impl Settings {
    /// Whoever comes with what the section demands, in the roles that it gives.
    ///
    /// # Errors
    /// When the file of tokens cannot be used.
    pub fn new(section: &AdminSection) -> Result<Self, crate::tokens::TokensError> {
        let listen = &section.listen;
        let tokens = listen
            .tokens_file
            .as_deref()
            .map(Tokens::read)
            .transpose()?;
        Ok(Self {
            door: Door {
                tokens,
                certificates: listen.client_ca_certificate_file.is_some(),
                certificate_roles: section.certificate_roles.clone(),
                default_role: section.default_role.into(),
            },
        })
    }
}

/// The port's service.
#[derive(Debug)]
pub struct AdminApi {
    router: Router,
    admin: Arc<Admin>,
}

/// What all requests pass.
#[derive(Debug)]
struct Front {
    door: Door,
    rates: Rates<Arc<str>>,
    in_progress: Shares<Arc<str>>,
    workers: Semaphore,
}

/// The connection that a request came on.
#[derive(Debug, Clone)]
struct Connection {
    peer: Peer,
    /// Whether anybody on it is known.
    known: Arc<AtomicBool>,
}

impl AdminApi {
    /// Answers by `admin` whom these settings let in.
    #[must_use]
    pub fn new(settings: Settings, admin: Arc<Admin>) -> Self {
        let front = Arc::new(Front {
            door: settings.door,
            rates: Rates::new(RATE_PER_CALLER, MAX_REMEMBERED_CALLERS),
            in_progress: Shares::new(IN_PROGRESS),
            workers: Semaphore::new(WORKERS),
        });
        let router = rest::router(admin.clone())
            .merge(page::router())
            .route_service("/kas.admin.v1.Admin/{method}", grpc::service(admin.clone()))
            .layer(middleware::from_fn_with_state(front, pass));
        Self { router, admin }
    }

    /// Accepts connections until `stop`, which ends them too. Changes that have begun are made to their end first, for ten
    /// seconds at most.
    pub async fn serve(
        self,
        listener: AnyListener,
        acceptor: PlainAcceptor,
        stop: CancellationToken,
    ) {
        let server = Server::new("admin", listener, acceptor).limited(Limit::Wait(MAX_CONNECTIONS));
        let (router, stopped) = (self.router, stop.clone());
        let serving = server.run(Drain::new(), move |(io, remote_addr)| {
            let talking = talk(router, io, remote_addr);
            async move {
                stopped.run_until_cancelled(talking).await;
            }
        });
        stop.run_until_cancelled(serving).await;
        let finishing = self.admin.finish_changes();
        if tokio::time::timeout(CHANGES_FINISH_TIMEOUT, finishing)
            .await
            .is_err()
        {
            tracing::warn!("a change of an operator was not made in time; leaving without its end");
        }
    }
}

async fn talk(router: Router, io: ByteStream, remote_addr: RemoteAddr) {
    let connection = Connection {
        peer: Peer {
            remote_addr,
            subject: io.peer_subject().map(Arc::new),
        },
        known: Arc::default(),
    };
    let known = connection.known.clone();
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(connection.clone());
        let router = router.clone();
        async move { router.oneshot(request).await }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(KEEP_ALIVE_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_local_error_reset_streams(Some(runtime::grpc::MAX_STREAM_FAULTS))
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PONG_TIMEOUT);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut next = pin!(tokio::time::sleep(FIRST_REQUEST_TIMEOUT));
    let begun = Instant::now();
    let mut leaving = false;
    loop {
        tokio::select! {
            served = serving.as_mut() => {
                if let Err(error) = served {
                    tracing::debug!(%remote_addr, error = %Causes(&*error), "admin connection failed");
                }
                return;
            }
            () = next.as_mut() => {
                if leaving {
                    return tracing::debug!(%remote_addr, "admin connection did not close in time; dropping it");
                }
                if !known.load(Ordering::Relaxed) {
                    return tracing::debug!(%remote_addr, "no authenticated request in time; closing admin connection");
                }
                if begun.elapsed() >= MAX_CONNECTION_AGE {
                    leaving = true;
                    serving.as_mut().graceful_shutdown();
                    next.as_mut().reset(Instant::now() + CLOSE_TIMEOUT);
                } else {
                    next.as_mut().reset(begun + MAX_CONNECTION_AGE);
                }
            }
        }
    }
}

/// What every request passes: who makes it, how often, and how many at once.
async fn pass(State(front): State<Arc<Front>>, request: Request, next: Next) -> Response {
    let is_grpc = is_grpc(&request);
    let mut response = match front.answer(request, next).await {
        Ok(response) => response,
        Err(failure) if is_grpc => Status::from(failure).into_http::<Body>(),
        Err(failure) => failure.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        if !headers.contains_key(&name) {
            // An answer has room for these few.
            let _ = headers.try_insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

impl Front {
    async fn answer(&self, request: Request, next: Next) -> Result<Response, Failure> {
        let connection = request.extensions().get::<Connection>().cloned();
        let peer = connection.as_ref().map(|it| it.peer.clone());
        let peer = peer.unwrap_or(Peer {
            remote_addr: RemoteAddr::Unix,
            subject: None,
        });
        let is_page = page::has(request.uri().path());
        let caller = if is_page {
            self.door.admit_to_page(&request, &peer)?
        } else {
            self.door.admit(&request, &peer)?
        };
        if let Some(connection) = connection.filter(|_| !is_page) {
            connection.known.store(true, Ordering::Relaxed);
        }
        if !self.rates.take(&caller.name, Instant::now()) {
            let words = format!(
                "too many requests: a caller of the admin API may make {} a second",
                RATE_PER_CALLER.per_second
            );
            return Err(Failure::Busy(words));
        }
        let share = self.in_progress.take(caller.name.clone(), 1);
        let share = share.map_err(|full| {
            Failure::Busy(format!(
                "too many requests of the admin API are in progress: {full}"
            ))
        })?;
        let remote_addr = peer.remote_addr;
        tracing::debug!(%remote_addr, who = &*caller.name, role = %caller.role, method = %request.method(), path = request.uri().path(), "admin request");
        let facts = caller.request.clone();
        let mut request = request.map(|body| Body::new(Limited::new(body, MAX_BODY_BYTES)));
        request.extensions_mut().insert(caller);
        let answer = async {
            // The semaphore is never closed.
            let _turn = self.workers.acquire().await;
            next.run(request).await
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, answer).await;
        let answer = answer.map_err(|_| match facts.give_up() {
            false => Failure::Unfinished(format!(
                "no answer within {ANSWER_TIMEOUT:?}, and what was asked for may have been done or be done yet: look \
                 whether it was before asking again (the audit trail has its end)"
            )),
            true => Failure::Unavailable(format!(
                "no answer within {ANSWER_TIMEOUT:?}: too many ask, or replicas are slow; nothing was changed"
            )),
        })?;
        Ok(answer.map(|body| {
            Body::new(Held {
                body,
                _share: share,
            })
        }))
    }
}

fn is_grpc(request: &Request) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|it| it.to_str().ok()).unwrap_or_default();
    request.method() == Method::POST && kind.starts_with("application/grpc")
}

/// An answer's body, with the request's place until it was sent.
struct Held {
    body: Body,
    _share: Share<Arc<str>>,
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
