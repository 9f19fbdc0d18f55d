//! `Receptive.Attach`: a pod that kas has dialled carries the connections of its agent's other pods, the bytes
//! of each in a call.

use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use proto::{
    bounds::Bounds,
    receptive::rpc::{Chunk, receptive_server},
};
use runtime::grpc::{carried, outgoing, with_present_name};
use tonic::{Code, Request, Response, Status, Streaming};

use super::super::service::{Bidirectional, Call, Method, Nested};

struct Attach;

/// A pod carries the connections of others by it.
pub(super) fn attach() -> Method {
    Method::bidirectional(Attach)
}

impl Bidirectional for Attach {
    const PATH: &'static str = "/gitlab.agent.kas_receptive.rpc.Receptive/Attach";
    /// A chunk: what agents read from a socket at once, and more.
    const BOUNDS: Bounds = Bounds::bytes(1 << 20);

    async fn serve(&self, call: Call) {
        let Call {
            identity,
            request,
            respond,
            nested,
            permit,
            ..
        } = call;
        let mut service = receptive_server::ReceptiveServer::new(Receptive { nested })
            .max_decoding_message_size(Self::BOUNDS.bytes);
        let request = with_present_name(request);
        let served = runtime::grpc::serve(&mut service, request, respond);
        tokio::select! {
            served = served => match served {
                Ok(()) => permit.ends(Code::Ok),
                Err(error) => {
                    tracing::debug!(%error, "stream that carries another pod's connection broke");
                }
            },
            () = identity.caller.revoked() => {}
        }
    }
}

struct Receptive {
    nested: Option<Nested>,
}

#[tonic::async_trait]
impl receptive_server::Receptive for Receptive {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<Chunk>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let Some(nested) = &self.nested else {
            return Err(Status::failed_precondition(
                "only a pod that kas has dialled can let others use its connection",
            ));
        };
        let (outgoing, chunks) = outgoing();
        nested(carried(request.into_inner(), outgoing));
        Ok(Response::new(Box::pin(chunks.map(Ok))))
    }
}
