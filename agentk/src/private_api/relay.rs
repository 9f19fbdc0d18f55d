//! Relays other pods' connections to kas.

use std::{future::ready, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use proto::receptive::rpc::{
    Chunk, receptive_client::ReceptiveClient, receptive_server::Receptive as Service,
};
use runtime::{
    grpc,
    jwt::{self, Secret},
};
use tonic::{Request, Response, Status, Streaming};

use super::{FLAGS, PODS_AUDIENCE, secret};
use crate::{
    attach_listener::{AttachListener, AttachListenerError, Attachable, tls},
    config::PrivateApi,
    session::Uplink,
};

/// How long kas may take to answer for another pod.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);

/// Relays other pods while this one is connected.
#[derive(Debug, Clone)]
pub(crate) struct Relay {
    secret: Arc<Secret>,
    uplink: Uplink,
}

impl Relay {
    /// Listens for other pods, whose bytes go to kas by the uplink.
    pub(crate) async fn open(
        config: &PrivateApi,
        uplink: Uplink,
    ) -> Result<AttachListener<Self>, AttachListenerError> {
        let relay = Self {
            secret: Arc::new(secret(config)?),
            uplink,
        };
        let tls = tls(FLAGS, config.tls.clone(), None)?;
        let listener = AttachListener::bind(FLAGS, &config.address, tls, relay).await?;
        tracing::info!(local_addr = %listener.address(), "listening for other pods of this agent");
        Ok(listener)
    }

    fn check(&self, request: &Request<Streaming<Chunk>>) -> Result<(), Status> {
        let headers = request.metadata().clone().into_headers();
        let token = grpc::bearer(&headers)?;
        jwt::verify(&self.secret, token, PODS_AUDIENCE, Some(PODS_AUDIENCE)).map_err(|error| {
            tracing::warn!(%error, "rejected a connection to the private API whose token is not from a pod of this agent");
            Status::unauthenticated(format!("not another pod of this agent: {error}"))
        })
    }
}

impl Attachable for Relay {}

#[tonic::async_trait]
impl Service for Relay {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<Chunk>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        self.check(&request)?;
        if !self.uplink.accepted() {
            return Err(Status::unavailable("kas has not dialled this pod"));
        }
        let chunks = request.into_inner();
        // Its end, in whatever way, is the end of the connection that is carried.
        let chunks = chunks.take_while(|chunk| ready(chunk.is_ok()));
        let chunks = chunks.filter_map(|chunk| ready(chunk.ok()));
        let attached = tokio::time::timeout(ATTACH_TIMEOUT, async {
            let connection = self.uplink.connection().await;
            let mut kas = ReceptiveClient::new(connection.channel());
            kas.attach(chunks).await
        });
        let attached = attached.await;
        let attached =
            attached.map_err(|_| Status::unavailable("kas did not answer in time"))??;
        Ok(Response::new(Box::pin(attached.into_inner())))
    }
}
