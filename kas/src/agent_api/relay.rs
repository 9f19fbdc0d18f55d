//! Other pods of an agent that this replica has dialled: the bytes of their
//! connections come in calls of the pod that was dialled.

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt};
use proto::receptive::rpc::{Chunk, receptive_server::Receptive};
use runtime::{
    drain::Drain,
    grpc::{carried, outgoing},
    listen::{Accepted, Scheme},
};
use tonic::{Request, Response, Status, Streaming};

use super::{AgentApi, dialled::Dialled};

/// Bytes of a chunk, at most: what agents read from a socket at once, and more.
pub(super) const MAX_CHUNK_BYTES: usize = 1 << 20;

/// The service, for the calls of an agent that is known.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) api: Arc<AgentApi>,
    pub(super) dialled: Option<Arc<Dialled>>,
    pub(super) drain: Drain,
    pub(super) peer: SocketAddr,
}

#[tonic::async_trait]
impl Receptive for Relay {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<Chunk>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let dialled = self.dialled.as_ref().and_then(|it| it.of_another_pod());
        let Some(dialled) = dialled else {
            return Err(Status::failed_precondition(
                "only a pod that kas has dialled can let others use its connection",
            ));
        };
        let (outgoing, chunks) = outgoing();
        let accepted = Accepted {
            io: carried(request.into_inner(), outgoing),
            peer: self.peer,
            scheme: Scheme::Grpc,
        };
        let served = self.api.clone();
        let served = served.serve_dialled(accepted, dialled, self.drain.clone());
        self.drain.spawn(served);
        Ok(Response::new(Box::pin(chunks.map(Ok))))
    }
}
