//! Calls to other replicas: pooled connections, and the question whether a
//! peer has a tunnel.

mod pool;

use std::{future::poll_fn, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use prost::Message as _;
use proto::{
    agent::kas::{GatewayKasResponse, gateway_kas_response::Msg},
    frame::{Deframer, Encoding},
    sequence::{FieldNumber, Sequence},
};
use runtime::grpc::{ReceiveError, SendStream, status_from};
use tonic::Status;

pub use pool::{Dial, Peers};

use crate::{
    call::{Call, Opening},
    error::Broken,
    id::AgentId,
    search::Need,
};

/// The metadata that names the agent on the private API.
pub const AGENT_ID: &str = "kas-hop-routing-agent-id";

/// The metadata that says that the agent must act on behalf of somebody.
pub const IMPERSONATION: &str = "kas-hop-impersonation";

/// Metadata that prove this replica's identity, made anew for each call.
pub type Credentials = Arc<dyn Fn() -> HeaderMap + Send + Sync>;

/// A peer's answer to the question for a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A tunnel is reserved.
    Ready,
    /// There is none; the peer waits for one.
    None,
}

/// A stream to a peer that is asked for a tunnel. Dropping it gives a reserved
/// tunnel back.
#[derive(Debug)]
pub struct Asked {
    send: SendStream,
    response: Option<h2::client::ResponseFuture>,
    recv: Option<h2::RecvStream>,
    deframer: Deframer,
    sequence: Sequence,
}

impl Peers {
    /// Asks the peer at `url` for a tunnel of the agent.
    ///
    /// # Errors
    /// A status when the peer cannot be reached.
    pub async fn ask(&self, url: &str, agent: AgentId, need: &Need) -> Result<Asked, Status> {
        let connection = self.connection(url).await?;
        let mut connection = connection
            .ready()
            .await
            .map_err(|error| status_from(&error))?;
        let request = question(need, agent, self.credentials());
        let (response, send) = connection
            .send_request(request, false)
            .map_err(|error| status_from(&error))?;
        Ok(Asked {
            send,
            response: Some(response),
            recv: None,
            deframer: Deframer::new(Encoding::Identity),
            sequence: Sequence::new(proto::sequence::GATEWAY_KAS_RESPONSE),
        })
    }
}

impl Asked {
    /// The next answer: [`Answer::None`] may be followed by [`Answer::Ready`].
    /// Cancel-safe.
    ///
    /// # Errors
    /// A status when the peer refused or its connection broke.
    pub async fn answer(&mut self) -> Result<Answer, Status> {
        let message = self.message().await?;
        let Some(message) = decode(message)? else {
            return Err(Status::internal("the peer sent a message without content"));
        };
        self.sequence
            .step(message.field_number())
            .map_err(|error| Status::internal(error.to_string()))?;
        match message {
            Msg::TunnelReady(_) => Ok(Answer::Ready),
            Msg::NoTunnel(_) => Ok(Answer::None),
            Msg::Header(_) | Msg::Message(_) | Msg::Trailer(_) | Msg::Error(_) => {
                Err(Status::internal("the peer answered before the call began"))
            }
        }
    }

    /// Begins the call on the tunnel that the peer has reserved.
    ///
    /// # Errors
    /// [`Broken`] when the stream is gone.
    pub fn start(self, opening: Opening) -> Result<Call, Broken> {
        let Some(recv) = self.recv else {
            return Err(Broken::Peer(Status::internal(
                "the peer has not answered yet",
            )));
        };
        Call::through_peer(self.send, recv, self.deframer, self.sequence, opening)
    }

    async fn message(&mut self) -> Result<bytes::Bytes, Status> {
        if let Some(response) = &mut self.response {
            let response = response.await.map_err(|error| status_from(&error))?;
            self.response = None;
            if let Some(status) = Status::from_header_map(response.headers()) {
                return Err(status);
            }
            self.recv = Some(response.into_body());
        }
        let recv = self.recv.as_mut().expect("set with the response");
        match runtime::grpc::message(recv, &mut self.deframer).await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(ended(recv).await),
            Err(ReceiveError::Stream(error)) => Err(status_from(&error)),
            Err(ReceiveError::Frame(error)) => Err(Status::internal(error.to_string())),
        }
    }
}

async fn ended(recv: &mut h2::RecvStream) -> Status {
    let trailers = match poll_fn(|cx| recv.poll_trailers(cx)).await {
        Ok(trailers) => trailers.unwrap_or_default(),
        Err(error) => return status_from(&error),
    };
    match Status::from_header_map(&trailers) {
        Some(status) if status.code() != tonic::Code::Ok => status,
        Some(_) | None => Status::unavailable("the peer ended the call without a tunnel"),
    }
}

fn decode(message: bytes::Bytes) -> Result<Option<Msg>, Status> {
    GatewayKasResponse::decode(message)
        .map(|response| response.msg)
        .map_err(|error| Status::internal(format!("the peer sent a malformed message: {error}")))
}

fn question(need: &Need, agent: AgentId, credentials: HeaderMap) -> Request<()> {
    let uri = Uri::builder()
        .scheme("http")
        .authority("kas")
        .path_and_query(&*need.method);
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri.build().expect("a method path is a path");
    *request.headers_mut() = credentials;
    let headers = request.headers_mut();
    headers.insert(
        "content-type",
        HeaderValue::from_static("application/grpc+proto"),
    );
    headers.insert("te", HeaderValue::from_static("trailers"));
    headers.insert(AGENT_ID, HeaderValue::from(agent.0));
    if need.impersonation {
        headers.insert(IMPERSONATION, HeaderValue::from_static("required"));
    }
    request
}
