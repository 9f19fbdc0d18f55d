//! Connections of HTTP/2 with authenticated calls of gRPC: those of other replicas and of GitLab.

use std::{pin::pin, sync::Arc, time::Duration};

use h2::{Reason, RecvStream};
use http::Request;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tracing::{Instrument, Span};

use crate::{
    backoff::jittered,
    drain::Drain,
    grpc::{
        self, AUTHENTICATION_TIMEOUT, ProbeTimeouts, SendResponse, ServerConnection, raise_window,
        refuse, unauthenticated, unresponsive,
    },
    io::{ByteStream, Heard},
    listen::RemoteAddr,
};

/// How long the HTTP/2 handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that did not become one of HTTP/2.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It broke, or something else is spoken there.
    #[error("the HTTP/2 handshake failed: {0}")]
    Http2(#[from] h2::Error),
    /// Nothing came.
    #[error("the HTTP/2 handshake took longer than {0:?}")]
    Timeout(Duration),
}

/// Begins HTTP/2 on a connection that has not authenticated yet (see [`grpc::unauthenticated`]).
///
/// # Errors
/// [`HandshakeError`]; the connection is gone.
pub async fn handshake(
    mut io: ByteStream,
    settings: h2::server::Builder,
) -> Result<(ServerConnection<ByteStream>, Heard), HandshakeError> {
    let heard = io.heard();
    // Boxed: it is larger than what is left of it in the task that goes on with the connection.
    let handshake = Box::pin(async move { unauthenticated(settings).handshake(io).await });
    let http2 = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .map_err(|_| HandshakeError::Timeout(HANDSHAKE_TIMEOUT))??;
    Ok((http2, heard))
}

/// How a port's connections are treated.
#[derive(Debug, Clone)]
pub struct Options {
    /// HTTP/2's own settings.
    pub settings: h2::server::Builder,
    /// When a silent connection is probed.
    pub liveness: ProbeTimeouts,
    /// Age at which a connection is asked to leave, before jitter; `None` keeps it.
    pub max_age: Option<Duration>,
    /// Calls in progress on one connection, at most.
    pub max_calls: usize,
    /// The same before the first authenticated call.
    pub max_calls_unauthenticated: usize,
}

/// Who makes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A client with a valid token.
    Authenticated,
    /// A client that needs none, such as a probe.
    Anonymous,
}

/// What is called on a port's connections.
pub trait Service: Send + Sync + 'static {
    /// What is remembered of a connection.
    type Session: Send + Sync;

    /// A connection has begun.
    fn connected(&self) -> Self::Session;

    /// The span of a connection's log lines.
    fn span(&self, remote_addr: RemoteAddr) -> Span;

    /// Authenticates a call by its head, before its messages are read. A call that is refused is answered here.
    fn admit(
        &self,
        session: &Self::Session,
        request: &Request<RecvStream>,
        respond: SendResponse,
    ) -> Option<(Caller, SendResponse)>;

    /// Answers a call that was admitted.
    fn call(
        self: Arc<Self>,
        request: Request<RecvStream>,
        respond: SendResponse,
        drain: Drain,
    ) -> impl Future<Output = ()> + Send + 'static;
}

/// Serves a connection to its end. When draining starts, or when it is old, calls in progress are finished and no
/// new ones taken. It is closed when its other end does not answer pings, and when it has no authenticated call in time.
pub async fn serve<S: Service>(
    io: ByteStream,
    remote_addr: RemoteAddr,
    options: Options,
    service: Arc<S>,
    drain: Drain,
) {
    let span = service.span(remote_addr);
    let served = run(io, remote_addr, options, service, drain);
    served.instrument(span).await;
}

async fn run<S: Service>(
    io: ByteStream,
    remote_addr: RemoteAddr,
    options: Options,
    service: Arc<S>,
    drain: Drain,
) {
    let span = Span::current();
    let (mut http2, heard) = match handshake(io, options.settings.clone()).await {
        Ok(begun) => begun,
        Err(error) => return tracing::debug!(%error, "connection did not begin with HTTP/2"),
    };
    let Some(pings) = http2.ping_pong() else {
        return;
    };
    let session = service.connected();
    let calls = TaskTracker::new();
    let mut silence = pin!(unresponsive(pings, heard, options.liveness, || !calls.is_empty()));
    let mut age = pin!(tokio::time::sleep(AUTHENTICATION_TIMEOUT));
    let (mut known, mut ages, mut leaving) = (false, true, false);
    loop {
        tokio::select! {
            accepted = http2.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let admitted = service.admit(&session, &request, respond);
                    let Some((caller, respond)) = admitted else {
                        continue;
                    };
                    if caller == Caller::Authenticated && !known {
                        known = true;
                        raise_window(&mut http2);
                        ages = options.max_age.is_some();
                        let max_age = options.max_age.map_or(Duration::ZERO, jittered);
                        age.as_mut().reset(Instant::now() + max_age);
                    }
                    let limit = if known { options.max_calls } else { options.max_calls_unauthenticated };
                    if calls.len() < limit {
                        let call = service.clone().call(request, respond, drain.clone());
                        calls.spawn(call.instrument(span.clone()));
                    } else {
                        let status = Status::resource_exhausted("too many calls on one connection");
                        // A client that is gone needs no answer.
                        let _ = refuse(respond, &status);
                    }
                }
                Some(Err(error)) => {
                    return tracing::debug!(status = %grpc::status_from(&error), "connection broke");
                }
                None => return,
            },
            () = &mut silence => {
                return tracing::info!(%remote_addr, "HTTP/2 keepalive timed out; closing connection");
            }
            () = &mut age, if ages => {
                ages = false;
                if !known {
                    tracing::debug!("no authenticated call in time; closing connection");
                    // Calls without authentication are not waited for.
                    http2.abrupt_shutdown(Reason::NO_ERROR);
                } else if !leaving {
                    leaving = true;
                    http2.graceful_shutdown();
                }
            }
            () = drain.wait(), if !leaving => {
                leaving = true;
                http2.graceful_shutdown();
            }
        }
    }
}
