//! A connection with HTTP/2 on it, and single calls.

use std::{future::poll_fn, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::QUESTION_TIMEOUT;
use crate::{
    connect::{ConnectError, ConnectOptions, Target, connect},
    grpc::{self, SendRequest},
};

/// How long a ping's answer may take.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// A connection with HTTP/2 on it; dropping it closes it.
pub(super) struct Session {
    pub(super) send: SendRequest,
    pings: Option<h2::PingPong>,
    origin: Uri,
    metadata: HeaderMap,
    driver: AbortOnDropHandle<Result<(), h2::Error>>,
}

/// What is sent of a request's body.
pub(super) enum Body {
    /// None: the request ends with its headers.
    None,
    /// Nothing, and the request does not end.
    Open,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("HTTP/2: {0}")]
    Http2(#[from] h2::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// What a server answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// The gRPC status, if it is gRPC.
    pub(super) grpc: Option<Status>,
}

impl Session {
    /// Connects; nothing is known of the other end then, but that it took the connection.
    pub(super) async fn open(
        target: &Target,
        options: &ConnectOptions,
        metadata: &HeaderMap,
    ) -> Result<Self, SessionError> {
        let connected = connect(target, options).await?;
        let handshake = grpc::client_settings().handshake(connected.io);
        let opened = timeout(QUESTION_TIMEOUT, handshake).await;
        let (send, mut http2) = opened.map_err(|_| SessionError::Timeout(QUESTION_TIMEOUT))??;
        let pings = http2.ping_pong();
        Ok(Self {
            send,
            pings,
            origin: target.origin(),
            metadata: metadata.clone(),
            driver: AbortOnDropHandle::new(tokio::spawn(http2)),
        })
    }

    /// The head of a call.
    pub(super) fn call(&self, path: &'static str, headers: &HeaderMap) -> Request<()> {
        let mut request = self.request(Method::POST, path, headers);
        let known = request.headers_mut();
        known.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        known.insert(header::TE, HeaderValue::from_static("trailers"));
        request
    }

    /// The head of a request for a path, which is sound.
    pub(super) fn request(&self, method: Method, path: &str, headers: &HeaderMap) -> Request<()> {
        let mut parts = self.origin.clone().into_parts();
        if let Ok(path) = path.parse() {
            parts.path_and_query = Some(path);
        }
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        request.headers_mut().extend(self.metadata.clone());
        request.headers_mut().extend(headers.clone());
        request
    }

    /// Makes a request and reads the whole answer.
    pub(super) async fn ask(
        &mut self,
        request: Request<()>,
        body: Body,
        limit: Duration,
    ) -> Result<Answer, SessionError> {
        let asking = async {
            poll_fn(|cx| self.send.poll_ready(cx)).await?;
            let (response, _open) =
                (self.send).send_request(request, matches!(body, Body::None))?;
            let (head, mut recv) = response.await?.into_parts();
            let mut grpc = Status::from_header_map(&head.headers);
            let mut read = 0;
            // Who does not answer with gRPC may never end its answer.
            while grpc.is_none() && read < MAX_ANSWER_BYTES && head.status == StatusCode::OK {
                let Some(data) = recv.data().await else {
                    let trailers = recv.trailers().await?.unwrap_or_default();
                    grpc = Status::from_header_map(&trailers);
                    break;
                };
                let length = data?.len();
                read += length;
                // Fails only when the stream is gone, which the next read says.
                let _ = recv.flow_control().release_capacity(length);
            }
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                grpc,
            })
        };
        match timeout(limit, asking).await {
            Ok(answered) => answered,
            Err(_) => Err(SessionError::Timeout(limit)),
        }
    }

    /// Sends a ping: how long its answer took, or none if there was none in time.
    pub(super) async fn ping(&mut self) -> Option<Duration> {
        let pings = self.pings.as_mut()?;
        let began = Instant::now();
        pings.send_ping(h2::Ping::opaque()).ok()?;
        let answered = timeout(PING_TIMEOUT, poll_fn(|cx| pings.poll_pong(cx))).await;
        answered.ok()?.ok()?;
        Some(began.elapsed())
    }

    /// Waits until the other end closes the connection. Cancel-safe.
    pub(super) async fn ended(&mut self) {
        // How it ends is the same to who waits for it.
        let _ = (&mut self.driver).await;
    }
}
