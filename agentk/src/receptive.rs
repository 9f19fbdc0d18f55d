//! Where kas dials an agent that waits for it, and who may come in.
//!
//! What kas's call carries is a connection with the roles reversed: all that
//! follows is as if the agent had dialled kas.

use std::{path::PathBuf, pin::Pin};

use futures_util::{Stream, StreamExt};
use proto::receptive::rpc::{Chunk, receptive_server::Receptive as Service};
use runtime::{grpc, io::ByteStream, jwt::CheckingKey};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    config::Receptive,
    entrance::{Entrance, EntranceError, tls},
};

/// What the names of the listener's flags begin with.
const FLAGS: &str = "api";
/// Who signs the tokens that kas shows, and for whom.
const ISSUER: &str = "gitlab-kas";
const AUDIENCE: &str = "gitlab-agent";

/// Lets kas in.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    key: Option<CheckingKey>,
    arrivals: mpsc::Sender<ByteStream>,
}

impl Door {
    /// Listens; who comes in arrives at the lines.
    pub(crate) async fn open(
        config: &Receptive,
        arrivals: mpsc::Sender<ByteStream>,
    ) -> Result<Entrance<Self>, EntranceError> {
        let tls = tls(FLAGS, config.tls.clone(), config.client_ca.clone())?;
        let key = config.key.as_ref().map(read).transpose();
        let door = Self {
            key: key.map_err(|error| EntranceError::Key(FLAGS, error))?,
            arrivals,
        };
        let entrance = Entrance::bind(FLAGS, &config.address, tls, door).await?;
        tracing::info!(net_address = %entrance.address(), "kas may dial this agent");
        Ok(entrance)
    }

    fn check(&self, request: &Request<Streaming<Chunk>>) -> Result<(), Status> {
        let Some(key) = &self.key else {
            // The TLS handshake has seen kas's certificate.
            return Ok(());
        };
        let headers = request.metadata().clone().into_headers();
        let token = grpc::bearer(&headers)?;
        key.verify(token, ISSUER, AUDIENCE).map_err(|error| {
            tracing::warn!(%error, "somebody dialled this agent and is not its kas");
            Status::unauthenticated(format!("the agent refuses kas: {error}"))
        })
    }
}

#[tonic::async_trait]
impl Service for Door {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<Chunk>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        self.check(&request)?;
        let place = self.arrivals.try_reserve();
        let place =
            place.map_err(|_| Status::resource_exhausted("too many connections of kas wait"))?;
        let (outgoing, chunks) = grpc::outgoing();
        place.send(grpc::carried(request.into_inner(), outgoing));
        Ok(Response::new(Box::pin(chunks.map(Ok))))
    }
}

fn read(path: &PathBuf) -> Result<CheckingKey, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| format!("cannot read {shown}: {error}"))?;
    CheckingKey::parse(&text).map_err(|error| format!("{shown}: {error}"))
}
