//! gRPC calls to kas on one HTTP/2 connection, with as little as they need.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, uri::PathAndQuery};
use proto::frame::{Deframer, Encoding, Frame, FrameError};
use runtime::{
    connect::Target,
    grpc::{SendRequest, SendStream},
};

/// A call that did not end well.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The connection takes no more calls.
    #[error("the connection is going away")]
    GoingAway,
    /// kas answered with a status.
    #[error("grpc-status {0}")]
    Status(i32),
    /// An answer that is no gRPC.
    #[error("HTTP status {0}")]
    Http(u16),
    /// The stream broke.
    #[error("{}", stream_error(.0))]
    Stream(#[from] h2::Error),
    /// Bytes that are no messages.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A message that cannot be decoded.
    #[error("undecodable message")]
    Decode(#[from] prost::DecodeError),
    /// Something that the protocol forbids.
    #[error("protocol: {0}")]
    Protocol(&'static str),
}

/// What all requests of one agent begin with.
#[derive(Debug)]
pub(super) struct Head {
    origin: Uri,
    headers: HeaderMap,
}

/// The answer to a call, message by message.
#[derive(Debug)]
pub(super) struct Inbound {
    recv: h2::RecvStream,
    deframer: Deframer,
    /// The status came with the headers.
    ended: bool,
}

impl Head {
    /// That of an agent which tells, as our agentk does, that it is in this cluster, or as GitLab's tells nothing.
    pub(super) fn new(
        target: &Target,
        token: &str,
        user_agent: &HeaderValue,
        cluster: Option<&'static str>,
    ) -> anyhow::Result<Self> {
        let scheme = if target.scheme().is_tls() {
            "https"
        } else {
            "http"
        };
        let origin = Uri::builder()
            .scheme(scheme)
            .authority(target.authority())
            .path_and_query("/")
            .build()?;
        let mut authorization = HeaderValue::try_from(format!("Bearer {token}"))?;
        authorization.set_sensitive(true);
        let headers = [
            (http::header::AUTHORIZATION, authorization),
            (http::header::USER_AGENT, user_agent.clone()),
            (
                http::header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            ),
            (http::header::TE, HeaderValue::from_static("trailers")),
        ];
        let cluster = cluster.map(|uid| {
            let name = HeaderName::from_static("kas-cluster");
            (name, HeaderValue::from_static(uid))
        });
        Ok(Self {
            origin,
            headers: headers.into_iter().chain(cluster).collect(),
        })
    }

    fn request(&self, path: &'static str) -> Request<()> {
        let mut parts = self.origin.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::from_static(path));
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::from_parts(parts).expect("an origin and a path make a URI");
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// Begins a call with its first message, which is the last if `only`.
pub(super) async fn open(
    send: SendRequest,
    head: &Head,
    path: &'static str,
    first: Frame,
    only: bool,
) -> Result<(h2::client::ResponseFuture, SendStream), Failure> {
    let mut send = send.ready().await.map_err(|_| Failure::GoingAway)?;
    let (response, mut stream) = send
        .send_request(head.request(path), false)
        .map_err(|_| Failure::GoingAway)?;
    stream.send_data(first, only)?;
    Ok((response, stream))
}

/// Makes a call with one message each way, of which only the status counts.
pub(super) async fn unary(
    send: SendRequest,
    head: &Head,
    path: &'static str,
    message: Frame,
) -> Result<(), Failure> {
    let (response, _stream) = open(send, head, path, message, true).await?;
    let mut inbound = Inbound::accept(response).await?;
    while inbound.message().await?.is_some() {}
    Ok(())
}

impl Inbound {
    pub(super) async fn accept(response: h2::client::ResponseFuture) -> Result<Self, Failure> {
        let (head, recv) = response.await?.into_parts();
        if !head.status.is_success() {
            return Err(Failure::Http(head.status.as_u16()));
        }
        let ended = status(&head.headers)?;
        let encoding = Encoding::from_header(head.headers.get("grpc-encoding"))?;
        Ok(Self {
            recv,
            deframer: Deframer::new(encoding),
            ended,
        })
    }

    /// The next message; `None` after the last, if the status is OK.
    pub(super) async fn message(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(message) = self.deframer.next_message()? {
                return Ok(Some(message));
            }
            match self.recv.data().await {
                Some(data) => {
                    let data = data?;
                    self.recv.flow_control().release_capacity(data.len())?;
                    self.deframer.push(data);
                }
                None => return self.end().await.map(|()| None),
            }
        }
    }

    async fn end(&mut self) -> Result<(), Failure> {
        self.deframer.finish()?;
        if self.ended {
            return Ok(());
        }
        let trailers = self.recv.trailers().await?.unwrap_or_default();
        match status(&trailers)? {
            true => Ok(()),
            false => Err(Failure::Protocol("the stream ended without a status")),
        }
    }
}

/// Whether there is a status, and it is OK.
fn status(headers: &HeaderMap) -> Result<bool, Failure> {
    let Some(value) = headers.get("grpc-status") else {
        return Ok(false);
    };
    let code = value.to_str().ok().and_then(|code| code.parse().ok());
    match code {
        Some(0) => Ok(true),
        Some(code) => Err(Failure::Status(code)),
        None => Err(Failure::Protocol("a grpc-status that is no number")),
    }
}

fn stream_error(error: &h2::Error) -> String {
    match error.reason() {
        Some(reason) => format!("stream: {reason:?}"),
        None => "stream: connection lost".to_owned(),
    }
}
