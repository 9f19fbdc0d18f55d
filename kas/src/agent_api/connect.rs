//! The beginning of a tunnel: `ReverseTunnel.Connect`, up to its descriptor.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Request};
use prost::Message as _;
use proto::{
    agent::reverse_tunnel::{
        info::AgentDescriptor,
        rpc::{ConnectRequest, connect_request::Msg},
    },
    frame::{Deframer, Encoding},
    sequence::{CONNECT_REQUEST, FieldNumber, Sequence},
};
use router::tunnel::{Offer, Stream};
use runtime::grpc::{ReceiveError, SendResponse, status_from};
use tonic::Status;

use super::{
    AgentApi,
    authenticate::Shown,
    version::{self, Abilities},
};
use crate::control_plane::AgentInfo;

/// How long an agent may take to say what its tunnel offers.
const DESCRIPTOR: Duration = Duration::from_secs(10);
/// Methods that one tunnel may offer.
const MAX_METHODS: usize = 256;

/// A call that was refused: where to say so, and what.
pub(super) type Refused = (SendResponse, Status);

/// Checks the agent and reads its descriptor.
pub(super) async fn open(
    api: Arc<AgentApi>,
    request: Request<h2::RecvStream>,
    respond: SendResponse,
    shown: Shown,
) -> Result<(Offer, Stream), Refused> {
    let (head, mut recv) = request.into_parts();
    let read = async {
        let agent = api.authenticator.agent(&head.headers, &shown).await?;
        let mut deframer = deframer(&head.headers)?;
        let descriptor = descriptor(&mut recv, &mut deframer).await?;
        Ok((
            offer(&agent, &descriptor, version::abilities(&head.headers))?,
            deframer,
        ))
    };
    match tokio::time::timeout(DESCRIPTOR, read).await {
        Ok(Ok((offer, deframer))) => Ok((
            offer,
            Stream {
                recv,
                deframer,
                respond,
            },
        )),
        Ok(Err(status)) => Err((respond, status)),
        Err(_) => Err((
            respond,
            Status::deadline_exceeded("the tunnel's descriptor did not come"),
        )),
    }
}

/// A deframer for what these headers announce.
pub(super) fn deframer(headers: &HeaderMap) -> Result<Deframer, Status> {
    Encoding::from_header(headers.get("grpc-encoding"))
        .map(Deframer::new)
        .map_err(|error| Status::unimplemented(error.to_string()))
}

/// The agent that makes a call, and the one message that it sends.
pub(super) async fn asked<M: prost::Message + Default>(
    api: &AgentApi,
    request: Request<h2::RecvStream>,
    shown: &Shown,
) -> Result<(M, Arc<AgentInfo>), Status> {
    let (head, mut recv) = request.into_parts();
    let agent = api.authenticator.agent(&head.headers, shown).await?;
    let mut deframer = deframer(&head.headers)?;
    let message = first_message(&mut recv, &mut deframer).await?;
    let asked = M::decode(message).map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok((asked, agent))
}

/// The first message of a stream.
pub(super) async fn first_message(
    recv: &mut h2::RecvStream,
    deframer: &mut Deframer,
) -> Result<bytes::Bytes, Status> {
    match runtime::grpc::message(recv, deframer).await {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(Status::invalid_argument(
            "the stream ended before its first message",
        )),
        Err(ReceiveError::Stream(error)) => Err(status_from(&error)),
        Err(ReceiveError::Frame(error)) => Err(Status::invalid_argument(error.to_string())),
    }
}

async fn descriptor(
    recv: &mut h2::RecvStream,
    deframer: &mut Deframer,
) -> Result<AgentDescriptor, Status> {
    let message = first_message(recv, deframer).await?;
    let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
    let message = ConnectRequest::decode(message)
        .map_err(|error| invalid(&error))?
        .msg;
    let message = message.ok_or_else(|| invalid(&"no value for the oneof msg"))?;
    Sequence::new(CONNECT_REQUEST)
        .step(message.field_number())
        .map_err(|error| invalid(&error))?;
    let Msg::Descriptor(descriptor) = message else {
        return Err(invalid(&"expected a descriptor"));
    };
    descriptor
        .agent_descriptor
        .ok_or_else(|| invalid(&"the descriptor is empty"))
}

fn offer(
    agent: &AgentInfo,
    descriptor: &AgentDescriptor,
    abilities: Abilities,
) -> Result<Offer, Status> {
    let mut methods = Vec::new();
    for service in &descriptor.services {
        methods.extend(
            service
                .methods
                .iter()
                .map(|m| format!("/{}/{}", service.name, m.name)),
        );
    }
    if methods.len() > MAX_METHODS {
        return Err(Status::invalid_argument(format!(
            "the tunnel offers {} methods, more than the {MAX_METHODS} allowed",
            methods.len()
        )));
    }
    Ok(Offer {
        agent: agent.id,
        methods: methods.into(),
        impersonates: abilities.impersonates,
        upgrades: abilities.upgrades,
    })
}
