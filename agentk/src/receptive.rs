//! The service by which kas dials a receptive agent.
//!
//! kas's call carries a connection with the roles reversed: from there on everything is as if the
//! agent had dialled kas. GitLab's kas opens tunnels instead, for the calls of the agent ([`crate::kas_tunnels`]).

use std::{path::PathBuf, pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt};
use http::HeaderMap;
use proto::receptive::rpc::{Chunk, receptive_server::Receptive as Service};
use runtime::{
    grpc,
    io::ByteStream,
    jwt::{CheckingKey, KeyError},
    telemetry::Repeats,
};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    attach_listener::{AttachListener, AttachListenerError, Attachable, tls},
    config::Receptive,
    kas_tunnels::{Check, KasTunnels},
};

/// What the names of the listener's flags begin with.
const FLAGS: &str = "api";
/// Who signs the tokens that kas shows, and for whom.
const ISSUER: &str = "gitlab-kas";
const AUDIENCE: &str = "gitlab-agent";

/// Authenticates kas and hands its connections to the session.
#[derive(Debug, Clone)]
pub(crate) struct ReceptiveService {
    key: Option<Arc<CheckingKey>>,
    incoming: mpsc::Sender<ByteStream>,
}

impl ReceptiveService {
    /// Listens; connections go to the session.
    pub(crate) async fn open(
        config: &Receptive,
        incoming: mpsc::Sender<ByteStream>,
    ) -> Result<AttachListener<Self>, AttachListenerError> {
        let tls = tls(FLAGS, config.tls.clone(), config.client_ca.clone())?;
        let key = config.key.as_ref().map(read).transpose();
        let service = Self {
            key: key
                .map_err(|error| AttachListenerError::Key(FLAGS, error.into()))?
                .map(Arc::new),
            incoming,
        };
        let listener = AttachListener::bind(FLAGS, &config.address, tls, service).await?;
        tracing::info!(local_addr = %listener.address(), "listening for connections from kas");
        Ok(listener)
    }
}

/// Whether the headers of a call are kas's. Without a key the TLS handshake has checked its certificate.
fn check(key: Option<&CheckingKey>, headers: &HeaderMap) -> Result<(), Status> {
    let Some(key) = key else {
        return Ok(());
    };
    let token = grpc::bearer(headers)?;
    key.verify(token, ISSUER, AUDIENCE).map_err(|error| {
        static REJECTED: Repeats = Repeats::new("connection from another than this agent's kas");
        if REJECTED.admit() {
            tracing::warn!(%error, "rejected a connection whose token is not from this agent's kas");
        }
        Status::unauthenticated(format!("the agent refuses kas: {error}"))
    })
}

impl Attachable for ReceptiveService {
    fn tunnels(&self) -> Option<KasTunnels> {
        let key = self.key.clone();
        let check: Check = Arc::new(move |headers| check(key.as_deref(), headers));
        Some(KasTunnels::new(check, self.incoming.clone()))
    }
}

#[tonic::async_trait]
impl Service for ReceptiveService {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<Chunk>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        check(self.key.as_deref(), request.metadata().as_ref())?;
        let permit = self.incoming.try_reserve();
        let permit = permit
            .map_err(|_| Status::resource_exhausted("too many connections from kas are waiting"))?;
        let (outgoing, chunks) = grpc::outgoing();
        permit.send(grpc::carried(request.into_inner(), outgoing));
        Ok(Response::new(Box::pin(chunks.map(Ok))))
    }
}

/// A file without a usable public key.
#[derive(Debug, thiserror::Error)]
enum KeyFileError {
    #[error("cannot read {0}")]
    Read(String, #[source] std::io::Error),
    #[error("{0}")]
    Parse(String, #[source] KeyError),
}

fn read(path: &PathBuf) -> Result<CheckingKey, KeyFileError> {
    let shown = || path.display().to_string();
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| KeyFileError::Read(shown(), error))?;
    CheckingKey::parse(&text).map_err(|error| KeyFileError::Parse(shown(), error))
}
